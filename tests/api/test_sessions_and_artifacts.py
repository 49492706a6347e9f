"""Sessions, their artifacts and their memories, as users have them: with and without await, in one transaction, past the gate."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import Store

from llmspell import Settings, Spell, Tenant, connect_blocking
from llmspell.blocking import BlockingTenant
from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidLimit, NotFound, TenantInactive
from llmspell.spell import Transaction
from llmspell.storage.contracts.artifacts import ArtifactRecord

CONTENT = random.Random(3).randbytes(3 * 1_048_576 + 5)
THREADS = 8
ROUNDS = 12


@pytest.fixture
def acme(spell: Spell) -> Tenant:
    return spell.tenant("acme")


@pytest.fixture
def blocking_acme(tmp_path: Path) -> Iterator[BlockingTenant]:
    url = f"sqlite:///{tmp_path / 'blocking.db'}"
    with connect_blocking(url, settings=Settings(), embedder="hashing") as spell:
        yield spell.tenant("acme")


async def test_a_session_its_artifact_and_a_key_are_one_transaction(acme: Tenant) -> None:
    async with acme.transaction() as tx:
        session = await tx.sessions.create(data={"user": "ada"})
        put = await tx.artifacts.put(session.id, "report", b"text")
        await tx.kv.set("latest", put.id.encode())
        await tx.memory.add("Ada asked for a report.", session=str(session.id))
        assert [piece async for piece in tx.artifacts.stream(put.id)] == [b"text"]

    assert (await acme.kv.get("latest") or b"").decode() == put.id
    assert await acme.artifacts.read(put.id) == b"text"
    assert [one.content async for one in acme.memory.iterate(session=str(session.id))] == ["Ada asked for a report."]


async def test_memories_of_a_session_are_listed_paged_and_streamed(acme: Tenant, clock: ManualClock) -> None:
    """SAA-03: list_memories, list_memories_paginated(limit, offset) and iter_memories."""
    ada, bob = [str((await acme.sessions.create()).id) for _ in range(2)]
    for number in range(7):
        await acme.memory.add(f"ada {number}", session=ada)
        await acme.memory.add(f"bob {number}", session=bob)
        clock.advance(seconds=1)
    newest_first = [f"ada {number}" for number in reversed(range(7))]

    listed = (await acme.memory.list(session=ada)).items
    page, total = await acme.memory.list_paginated(session=ada, limit=3, offset=2)
    beyond = await acme.memory.list_paginated(session=ada, limit=3, offset=7)

    assert [one.content for one in listed] == newest_first
    assert ([one.content for one in page], total) == (newest_first[2:5], 7)
    assert beyond == ([], 7)
    for page_size in (1, 3, 7, 100):
        assert [one.content async for one in acme.memory.iterate(session=ada, page_size=page_size)] == newest_first
    oldest_first = acme.memory.iterate(session=ada, descending=False, page_size=2)
    assert [one.content async for one in oldest_first] == newest_first[::-1]
    both = await acme.memory.list_paginated(filters={"session": {"$in": [ada, bob]}}, limit=1)
    assert both[1] == 14


async def test_a_stream_of_memories_checks_its_arguments(acme: Tenant) -> None:
    with pytest.raises(InvalidLimit):
        await anext(acme.memory.iterate(page_size=0))


async def test_a_stream_does_not_pass_the_gate_of_a_tenant_that_is_shut_off(
    store: Store, spell: Spell, acme: Tenant, clock: ManualClock
) -> None:
    session = await acme.sessions.create()
    put = await acme.artifacts.put(session.id, "n", b"text")
    store.set_status(spell, "acme", "suspended")
    clock.advance(seconds=2)

    with pytest.raises(TenantInactive):
        await anext(acme.artifacts.stream(put.id))
    with pytest.raises(TenantInactive):
        await acme.artifacts.read(put.id)
    with pytest.raises(TenantInactive):
        await acme.sessions.get(session.id)


async def test_a_file_that_eight_put_at_once_under_keys_is_whole_in_each(acme: Tenant) -> None:
    """On a server they conflict, and are tried again: each reads its file again."""
    session = (await acme.sessions.create()).id
    content = CONTENT[:200_001]

    def put(number: int, file: io.BytesIO) -> Awaitable[ArtifactRecord]:
        return acme.once(f"k{number}").artifacts.put(session, "n", file)

    done = await asyncio.gather(*(put(number, io.BytesIO(content)) for number in range(THREADS)))
    again = await asyncio.gather(*(put(number, io.BytesIO(content)) for number in range(THREADS)))

    assert {one.content_hash for one in done} == {done[0].content_hash}
    assert [one.size_bytes for one in done] == [len(content)] * THREADS
    assert again == done
    assert (await acme.artifacts.stats()).artifacts == THREADS
    assert await acme.artifacts.read(done[0].id) == content


async def test_a_file_that_eight_put_at_once_by_run_is_whole_in_each(acme: Tenant) -> None:
    session = (await acme.sessions.create()).id
    content = CONTENT[:200_001]

    async def put(file: io.BytesIO) -> ArtifactRecord:
        return await acme.run(lambda tx: tx.artifacts.put(session, "n", file), attempts=100)

    done = await asyncio.gather(*(put(io.BytesIO(content)) for _ in range(THREADS)))

    assert [one.size_bytes for one in done] == [len(content)] * THREADS
    assert sorted(one.sequence for one in done) == list(range(THREADS))


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_put_that_is_tried_again_reads_its_file_again(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keyed: bool
) -> None:
    session = (await acme.sessions.create()).id
    (tmp_path / "in").write_bytes(b"header" + CONTENT)
    tries = []
    put_once = Transaction._once

    async def work(tx: Transaction) -> ArtifactRecord:
        put = await tx.artifacts.put(session, "n", file)
        tries.append(put)
        if len(tries) < 3:
            raise Conflict("another one was first")
        return put

    async def conflicting(tx: Transaction, *given: Any) -> Any:
        tries.append(await put_once(tx, *given))
        if len(tries) < 3:
            raise Conflict("another one was first")
        return tries[-1]

    with (tmp_path / "in").open("rb") as file:
        file.seek(6)
        if keyed:
            monkeypatch.setattr(Transaction, "_once", conflicting)
            put = await acme.once("k").artifacts.put(session, "n", file)
        else:
            put = await acme.run(work)
        assert file.tell() == 6

    assert [one.size_bytes for one in tries] == [len(CONTENT)] * 3
    assert await acme.artifacts.read(put.id) == CONTENT
    assert (await acme.artifacts.stats()).artifacts == 1


def test_without_await_a_file_goes_in_and_comes_out(blocking_acme: BlockingTenant, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    session = blocking_acme.sessions.create(data={"user": "ada"})
    with (tmp_path / "in").open("rb") as file:
        put = blocking_acme.artifacts.put(session.id, "in", file)
    with (tmp_path / "out").open("wb") as file:
        assert blocking_acme.artifacts.download(put.id, into=file) == len(CONTENT)

    assert (tmp_path / "out").read_bytes() == CONTENT
    assert b"".join(blocking_acme.artifacts.stream(put.id)) == CONTENT == blocking_acme.artifacts.read(put.id)


def test_without_await_a_stream_may_be_left_and_raises_what_it_must(blocking_acme: BlockingTenant) -> None:
    session = blocking_acme.sessions.create()
    put = blocking_acme.artifacts.put(session.id, "n", CONTENT)

    for piece in blocking_acme.artifacts.stream(put.id):
        assert CONTENT.startswith(piece)
        break
    assert blocking_acme.artifacts.delete(put.id)

    with pytest.raises(NotFound):
        next(blocking_acme.artifacts.stream(put.id))
    with blocking_acme.transaction() as tx:
        inside = tx.artifacts.put(session.id, "n", b"inside")
        assert list(tx.artifacts.stream(inside.id)) == [b"inside"]
    assert [one.name for one in blocking_acme.artifacts.list().items] == ["n"]


def test_without_await_memories_of_a_session_are_streamed(blocking_acme: BlockingTenant) -> None:
    for number in range(5):
        blocking_acme.memory.add(f"said {number}", session="s")

    assert len({one.id for one in blocking_acme.memory.iterate(session="s", page_size=2)}) == 5


def test_eight_threads_that_put_and_delete_one_content_end_exact(blocking_acme: BlockingTenant) -> None:
    first, second = (blocking_acme.sessions.create().id for _ in range(2))
    content = CONTENT[: 1_048_576 + 3]

    def work(number: int) -> list[str]:
        kept = []
        for turn in range(ROUNDS):
            put = blocking_acme.artifacts.put(first if turn % 2 else second, f"{number}", io.BytesIO(content))
            if turn % 3:
                assert blocking_acme.artifacts.delete(put.id)
            else:
                kept.append(put.id)
        return kept

    with ThreadPoolExecutor(THREADS) as threads:
        kept = [id for ids in threads.map(work, range(THREADS)) for id in ids]

    stats = blocking_acme.artifacts.stats()
    assert (stats.artifacts, stats.contents, stats.stored_bytes) == (len(kept), 1, len(content))
    assert all(blocking_acme.artifacts.verify(id) for id in kept)
    for session in (first, second):
        assert blocking_acme.sessions.delete(session)
    assert blocking_acme.artifacts.stats().contents == blocking_acme.artifacts.collect_garbage() == 0
