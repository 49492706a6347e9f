"""Contents that are damaged in the store: every damage is found and reported by the hash of the content, and nothing handed out."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from tests.fixtures.stores import DATABASES, fresh_tenant, opened

from llmspell.errors import CorruptStore
from llmspell.spell import Tenant

MEBIBYTE = 1_048_576
FLIPS = 60
RANDOM = random.Random(7)
# One value as it is, one value that is compressed, and chunks.
CONTENTS = {
    "plain": b"as it is",
    "compressed": b"again and again " * 5_000,
    "chunks": RANDOM.randbytes(3 * MEBIBYTE + 17),
}
Harm = Callable[[str, tuple[Any, ...]], None]


@pytest.fixture(params=DATABASES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def harm(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Harm:
    """Run a statement on the store behind its back: as `:n` for a file, as `$n` for a server."""

    def on_server(statement: str, values: tuple[Any, ...]) -> None:
        url = request.getfixturevalue("postgres_shared_database").superuser_url
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            changed = connection.execute(statement.replace("artifact", "llmspell.artifact", 1).encode(), values)
            assert changed.rowcount == 1

    def in_file(statement: str, values: tuple[Any, ...]) -> None:
        with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
            connection.execute(statement.replace("$", "?"), values)
            assert connection.changes() == 1

    return in_file if backend == "sqlite" else on_server


async def require_refused(tenant: Tenant, id: str, content: bytes) -> None:
    """Require that no way of reading gives anything wrong, and that each says which content is damaged."""
    content_hash = id.rpartition(":")[2]
    with pytest.raises(CorruptStore) as caught:
        await tenant.artifacts.read(id)
    assert caught.value.fields["content_hash"] == content_hash
    into = io.BytesIO()
    with pytest.raises(CorruptStore):
        await tenant.artifacts.download(id, into)
    assert content.startswith(into.getvalue())
    assert len(into.getvalue()) < len(content)
    assert not await tenant.artifacts.verify(id)


def flipped(data: bytes, choose: random.Random) -> bytes:
    bit = choose.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


async def stored(tenant: Tenant, content: bytes) -> str:
    session = await tenant.sessions.create()
    return (await tenant.artifacts.put(session.id, "n", content)).id


@pytest.mark.parametrize("name", ["plain", "compressed"])
async def test_a_flipped_bit_in_one_value_is_found_wherever_it_is(
    backend: str, name: str, request: pytest.FixtureRequest, tmp_path: Path, harm: Harm
) -> None:
    content, choose = CONTENTS[name], random.Random(name)
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        id = await stored(tenant, content)
        data = await stored_value(backend, request, tmp_path, tenant.id)
        assert (len(data) < len(content)) == (name == "compressed")

        harmless = 0
        for _ in range(FLIPS):
            harm("UPDATE artifact_content SET data = $1 WHERE tenant_id = $2", (flipped(data, choose), tenant.id))
            # A frame has bits that say nothing of its content.
            if name == "compressed" and await tenant.artifacts.verify(id):
                assert await tenant.artifacts.read(id) == content
                harmless += 1
            else:
                await require_refused(tenant, id, content)
        assert harmless < FLIPS / 2

        harm("UPDATE artifact_content SET data = $1 WHERE tenant_id = $2", (data, tenant.id))
        assert await tenant.artifacts.verify(id)


async def stored_value(backend: str, request: pytest.FixtureRequest, folder: Path, tenant: str) -> bytes:
    if backend == "sqlite":
        with closing(apsw.Connection(str(folder / "store.db"))) as connection:
            return bytes(connection.execute("SELECT data FROM artifact_content WHERE tenant_id = ?", (tenant,)).get)
    url = request.getfixturevalue("postgres_shared_database").superuser_url
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT data FROM llmspell.artifact_content WHERE tenant_id = %s", (tenant,)
        ).fetchone()
        assert row is not None
        return bytes(row[0])


async def test_a_flipped_bit_in_any_chunk_is_found_before_that_chunk_is_handed_out(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, harm: Harm
) -> None:
    content, choose = CONTENTS["chunks"], random.Random(1)
    chunks = [content[start : start + MEBIBYTE] for start in range(0, len(content), MEBIBYTE)]
    change = "UPDATE artifact_chunks SET data = $1 WHERE tenant_id = $2 AND chunk_no = $3"
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        id = await stored(tenant, content)

        for _ in range(3):
            for number, chunk in enumerate(chunks):
                harm(change, (flipped(chunk, choose), tenant.id, number))
                await require_refused(tenant, id, content)
                harm(change, (chunk, tenant.id, number))
        assert await tenant.artifacts.read(id) == content


HARMS = {
    "a chunk is missing": "DELETE FROM artifact_chunks WHERE tenant_id = $1 AND chunk_no = 1",
    "the last chunk is missing": "DELETE FROM artifact_chunks WHERE tenant_id = $1 AND chunk_no = 3",
    "a chunk stands at another's place": "UPDATE artifact_chunks SET chunk_no = 9 WHERE tenant_id = $1 AND chunk_no = 3",
    "a chunk has no checksum": "UPDATE artifact_chunks SET checksum = '' WHERE tenant_id = $1 AND chunk_no = 0",
    "the size is another": "UPDATE artifact_content SET size_bytes = size_bytes + 1 WHERE tenant_id = $1",
    "the size before was another": "UPDATE artifact_content SET original_size_bytes = 5 WHERE tenant_id = $1",
}


@pytest.mark.parametrize("what", HARMS)
async def test_chunks_that_do_not_make_the_content_are_found(
    backend: str, what: str, request: pytest.FixtureRequest, tmp_path: Path, harm: Harm
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        id = await stored(tenant, CONTENTS["chunks"])

        harm(HARMS[what].replace("''", "x''") if backend == "sqlite" else HARMS[what], (tenant.id,))

        await require_refused(tenant, id, CONTENTS["chunks"])


async def test_what_claims_to_be_compressed_and_is_not_is_found(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, harm: Harm
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        for name in ("plain", "compressed"):
            id = await stored(tenant, CONTENTS[name])
            content_hash = id.rpartition(":")[2]
            turn = "NOT is_compressed" if backend == "postgres" else "1 - is_compressed"

            harm(
                f"UPDATE artifact_content SET is_compressed = {turn} WHERE tenant_id = $1 AND content_hash = $2",
                (tenant.id, content_hash),
            )

            await require_refused(tenant, id, CONTENTS[name])


async def test_an_artifact_whose_row_leads_to_another_content_is_refused(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, harm: Harm
) -> None:
    """The other content is whole, and has its own hash; but its hash is not the one that the id asks for."""
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        id, another = await stored(tenant, CONTENTS["plain"]), await stored(tenant, CONTENTS["compressed"])

        harm(
            "UPDATE artifacts SET content_hash = $1 WHERE tenant_id = $2 AND content_hash = $3",
            (another.rpartition(":")[2], tenant.id, id.rpartition(":")[2]),
        )

        await require_refused(tenant, id, CONTENTS["plain"])
        assert await tenant.artifacts.read(another) == CONTENTS["compressed"]


async def test_a_damaged_content_can_be_deleted_and_stored_anew(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, harm: Harm
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        id = await stored(tenant, CONTENTS["chunks"])
        harm(HARMS["a chunk is missing"], (tenant.id,))

        assert await tenant.artifacts.delete(id)
        again = await stored(tenant, CONTENTS["chunks"])

        assert await tenant.artifacts.verify(again)
