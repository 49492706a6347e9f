"""What an import meets in a store that is not empty, and what it leaves there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import SEED
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, contents, file_store, server_store

import llmspell
from llmspell.errors import AlreadyExists, InvalidVector, QuotaExceeded
from llmspell.spell import Spell, Tenant
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.tenants import QuotaLimits
from llmspell.storage.contracts.transfer import OnConflict
from llmspell.storage.contracts.transfer_tables import BY_NAME, TABLES
from llmspell.storage.transfer import reader
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.verifier import verify

DATABASES = ("file", "server")
MERGED = {"tenants", "embedding_spaces", "tenant_clocks", "event_sequences", "artifact_content", "predicates"}


@asynccontextmanager
async def target_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Backend]:
    if kind == "file":
        async with file_store(folder / "target.db") as store:
            yield store
    else:
        database: PostgresDatabase = request.getfixturevalue("postgres_database")
        async with server_store(database) as store:
            yield store


async def made(folder: Path, seed: int = SEED) -> Path:
    path = folder / f"made-{seed}.json"
    async with file_store(folder / f"origin-{seed}.db") as origin:
        await Drawn(seed, ["acme"], each=2, vectors=3, artifact_bytes=1_500_000).load(origin)
        await export(origin, Output(path), clock=CLOCK)
    return path


@pytest.mark.parametrize("kind", DATABASES)
async def test_a_second_import_is_refused_or_skipped_or_replaces_and_always_ends_with_the_same(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given = await made(tmp_path)
    async with target_store(kind, request, tmp_path) as store:
        first = await import_(Input(given), store)
        with pytest.raises(AlreadyExists) as caught:
            await import_(Input(given), store)
        assert caught.value.fields["table"] == "sessions"
        assert caught.value.fields["record"] == 1
        assert isinstance(caught.value.fields["byte"], int)
        assert (await verify(store, Input(given))).equal

        skipped = await import_(Input(given), store, on_conflict="skip")
        assert (await verify(store, Input(given))).equal
        assert sum(table.inserted for table in skipped.tables.values()) == 0
        assert sum(table.skipped for table in skipped.tables.values()) == first.total

        replaced = await import_(Input(given), store, on_conflict="replace")
        assert (await verify(store, Input(given))).equal
        assert replaced.tables["kv_store"].replaced == replaced.tables["kv_store"].read == 2
        assert replaced.tables["sessions"].replaced == 2
        assert replaced.tables["audit_log"].replaced == 0


@pytest.mark.parametrize("on_conflict", ["error", "skip", "replace"])
@pytest.mark.parametrize("kind", DATABASES)
async def test_a_dry_run_finds_what_an_import_would_and_keeps_nothing(
    kind: str, on_conflict: OnConflict, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given = await made(tmp_path)
    async with target_store(kind, request, tmp_path) as store:
        dry = await import_(Input(given), store, on_conflict=on_conflict, dry_run=True)
        assert await contents(store) == {}
        wet = await import_(Input(given), store, on_conflict=on_conflict)

    assert dry.dry_run
    assert not wet.dry_run
    assert {name: table.inserted for name, table in dry.tables.items()} == {
        name: table.inserted for name, table in wet.tables.items()
    }


@pytest.mark.parametrize("kind", DATABASES)
async def test_other_tenants_and_other_records_are_untouched(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    one, other = await made(tmp_path), await made(tmp_path, SEED + 1)
    async with target_store(kind, request, tmp_path) as store:
        await Drawn(SEED + 2, ["globex"], each=2, vectors=2, artifact_bytes=100).load(store)
        async with file_store(tmp_path / "globex.db") as copy:
            await Drawn(SEED + 2, ["globex"], each=2, vectors=2, artifact_bytes=100).load(copy)
            await import_(Input(one), store)
            before = await contents(store, "acme")
            # Another history of the same tenant: other things, which come beside those that are there.
            with pytest.raises(AlreadyExists, match="event_log"):
                await import_(Input(other), store)
            await import_(Input(other), store, on_conflict="skip")
            after = await contents(store, "acme")
            assert (await verify(store, copy, tenant=llmspell.tenant.TenantId("globex"))).equal
    for table in TABLES:
        if table.name not in MERGED and not table.name.startswith(("audit", "event")):
            assert after[table.name] > before[table.name], table.name
    assert after["audit_log"] == before["audit_log"]


@asynccontextmanager
async def spoken(folder: Path, name: str) -> AsyncIterator[tuple[Spell, Tenant]]:
    async with llmspell.connect(
        f"sqlite:///{folder / name}.db", settings=llmspell.Settings(), embedder="hashing"
    ) as spell:
        yield spell, spell.tenant("acme")


async def test_a_replaced_memory_is_found_by_its_new_words_only_and_has_one_history(tmp_path: Path) -> None:
    async with spoken(tmp_path, "a") as (spell, acme), spoken(tmp_path, "b") as (copy, there):
        memory = await acme.memory.add("Ada keeps a hedgehog.")
        await export(spell._backend, Output(tmp_path / "old.json"), clock=CLOCK)
        await import_(Input(tmp_path / "old.json"), copy._backend)
        await acme.memory.update(memory.id, text="Ada keeps a tortoise.")
        await export(spell._backend, Output(tmp_path / "new.json"), clock=CLOCK)

        await import_(Input(tmp_path / "new.json"), copy._backend, on_conflict="replace")

        assert [hit.memory.content for hit in await there.memory.search("tortoise", limit=5)] == [
            "Ada keeps a tortoise."
        ]
        assert (await there.memory.get(memory.id)).version == 2  # type: ignore[union-attr]
        assert len(await there.memory.history(memory.id)) == 2
        assert (await verify(spell._backend, copy._backend)).equal


@pytest.mark.parametrize("rows_of_a_batch", [1, 500])
async def test_a_memory_that_ended_in_the_file_ends_in_the_target_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_batch: int
) -> None:
    """With batches of one row its versions come in several."""
    monkeypatch.setattr(reader, "BATCH_ROWS", rows_of_a_batch)
    async with spoken(tmp_path, "a") as (spell, acme), spoken(tmp_path, "b") as (copy, there):
        memory = await acme.memory.add("Ada keeps a hedgehog.")
        await export(spell._backend, Output(tmp_path / "old.json"), clock=CLOCK)
        await import_(Input(tmp_path / "old.json"), copy._backend)
        await acme.memory.delete(memory.id)
        await export(spell._backend, Output(tmp_path / "new.json"), clock=CLOCK)

        await import_(Input(tmp_path / "new.json"), copy._backend, on_conflict="replace")

        assert await there.memory.get(memory.id) is None
        assert await there.memory.search("hedgehog", limit=5) == []
        assert (await verify(spell._backend, copy._backend)).equal


async def test_a_space_of_another_dimension_is_refused_by_both_numbers(tmp_path: Path) -> None:
    given = await made(tmp_path)
    async with file_store(tmp_path / "target.db") as store:
        table = BY_NAME["embedding_spaces"]
        async with store.transfer_target(None, on_conflict="error") as target:
            await target.write(table, [table.record("acme", "model-384", "m", 768, "active", CLOCK.now(), CLOCK.now())])
            await target.finish()
            await target.commit()

        with pytest.raises(InvalidVector, match=r"768.*384"):
            await import_(Input(given), store)


@pytest.mark.parametrize("kind", DATABASES)
async def test_quotas_of_the_target_hold_and_those_of_the_file_begin_with_its_rows(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given = await made(tmp_path)
    async with target_store(kind, request, tmp_path) as store:
        await store.tenants.create("acme", quotas=QuotaLimits(max_vectors=1))
        with pytest.raises(QuotaExceeded) as caught:
            await import_(Input(given), store)
        assert caught.value.fields["table"] == "vector_embeddings.384"
        assert set(await contents(store)) == {"tenants", "audit_heads", "audit_log"}

        await store.tenants.update("acme", quotas=QuotaLimits(max_vectors=100))
        with pytest.raises(AlreadyExists, match="two chains cannot be united"):
            await import_(Input(given), store)
        report = await import_(Input(given), store, on_conflict="skip")
        assert any("registered before" in note for note in report.notes)
        assert (await store.tenants.usage("acme")).vectors.used == 12
