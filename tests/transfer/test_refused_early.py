"""What cannot be meant is refused before anything is read or made: tenants that are not there, a store into itself, other files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.transfer.stores import CLOCK, file_store, server_store

from llmspell.errors import InvalidInput, LlmspellError, TenantUnknown, TransferError
from llmspell.ops.moving import Part, require_two_files, transfer_store
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.verifier import verify
from llmspell.tenant import tenant_id

ACME, NOBODY = tenant_id("acme"), tenant_id("nobody")
HEADER = '{"version": "1.0", "exported_at": "2026-01-01T00:00:00Z", "source_backend": "memory", "schema_version": 35, "data": {}}'


async def test_a_tenant_that_is_not_there_is_neither_exported_nor_moved_nor_compared(tmp_path: Path) -> None:
    made, none = tmp_path / "acme.json", tmp_path / "none.json"
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        await origin.tenants.create(ACME)
        await export(origin, Output(made), clock=CLOCK, tenant=ACME)
        for attempt in (
            export(origin, Output(none), clock=CLOCK, tenant=NOBODY),
            export(origin, Output(none), clock=CLOCK, tenant=NOBODY, only=["kv_store"], limit=1),
            transfer(origin, target, clock=CLOCK, tenant=NOBODY),
            import_(Input(made), target, tenant=NOBODY),
            verify(origin, target, tenant=NOBODY),
            verify(origin, Input(made), tenant=NOBODY),
        ):
            with pytest.raises(TenantUnknown) as refused:
                await attempt
            assert refused.value.fields["tenant"] == NOBODY
            assert refused.value.hint != refused.value.default_hint, "nobody is to be made because of a wrong name"
        assert (await target.tenants.list()).items == []
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["acme.json"]


async def refused(one: Backend, other: Backend) -> str:
    with pytest.raises(InvalidInput) as caught:
        await transfer_store(one, other, Part(), clock=CLOCK, on_conflict="replace")
    return caught.value.field


async def test_a_file_is_not_moved_into_itself_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with file_store(tmp_path / "a.db") as store, file_store(tmp_path / "copy.db") as copy:
        (tmp_path / "link.db").symlink_to("a.db")
        os.link("a.db", "hard.db")
        for name in ("a.db", f"../{tmp_path.name}/a.db", "link.db"):
            async with file_store(Path(name)) as again:
                assert await refused(store, again) == "target"
        for name in ("a.db", "%61.db", "link.db", "hard.db", f"/{tmp_path}/a.db"):
            with pytest.raises(InvalidInput):
                require_two_files(f"sqlite:///{tmp_path}/a.db", f"sqlite:///{name}")
        require_two_files("sqlite:///a.db", "sqlite:///copy.db")
        require_two_files("sqlite:///a.db", "sqlite:///new.db")
        memory = InMemoryBackend(clock=CLOCK)
        assert await refused(memory, memory) == "target"
        assert not await store.is_same_store(copy)
        assert not await store.is_same_store(memory)
        assert not await memory.is_same_store(store)


async def test_a_database_is_not_moved_into_itself_by_any_name_or_role(
    postgres_database: PostgresDatabase, postgres_shared_database: PostgresDatabase
) -> None:
    async with server_store(postgres_database) as store, server_store(postgres_database, operator=False) as again:
        assert await refused(store, again) == "target"
        assert await refused(store, store) == "target"
        assert await refused(again, store) == "target", "nothing of the first attempt stays behind"
        async with server_store(postgres_shared_database) as other:
            assert not await store.is_same_store(other)
            assert not await other.is_same_store(store)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n" * 100, "is empty"),
        (HEADER.encode("utf-16"), "not in UTF-8 but in UTF-16"),
        (HEADER.encode("utf-16-le"), "not in UTF-8 but in UTF-16"),
        (HEADER.encode("utf-32-be"), "not in UTF-8 but in UTF-16 or UTF-32"),
        (b"LSBK\x01\x01\x01\x00" + bytes(40), "a backup of llmspell"),
        (b"PGDMP\x01\x10", "a dump of pg_dump"),
        (b"PK\x03\x04", "a zip archive"),
    ],
    ids=["empty", "blank", "utf-16", "utf-16-le", "utf-32-be", "backup", "dump", "zip"],
)
async def test_a_file_of_another_kind_is_called_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_bytes(content)

    with pytest.raises(TransferError, match=said) as caught:
        await import_(Input(path), InMemoryBackend(clock=CLOCK))

    assert caught.value.fields["byte"] == 0
    assert caught.value.hint


async def test_a_byte_order_mark_of_utf_8_is_passed_and_a_store_is_no_export(tmp_path: Path) -> None:
    from llmspell.ops.moving import import_file

    path = tmp_path / "marked.json"
    path.write_text(HEADER, "utf-8-sig")
    memory = InMemoryBackend(clock=CLOCK)

    assert (await import_(Input(path), memory)).total == 0
    path.write_text(HEADER.replace("{}}", "{]"), "utf-8-sig")
    with pytest.raises(TransferError) as caught:
        await import_(Input(path), memory)
    assert caught.value.fields["byte"] == len(HEADER.encode()) + 3 - 2, "the mark is counted"
    async with file_store(tmp_path / "a.db"):
        with pytest.raises(LlmspellError, match="this is a store"):
            await import_file(memory, tmp_path / "a.db", Part())
