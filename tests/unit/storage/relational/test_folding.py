"""The statistics of words: folded now and then, into the same sum, and never at the cost of a write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from llmspell.errors import DiskFull, LlmspellError, Unavailable
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.memories import MemoryChange, NewMemory
from llmspell.storage.relational import postings
from llmspell.storage.relational.memories import RelationalMemories
from llmspell.storage.sqlite.backend import open_sqlite
from llmspell.tenant import TenantId

AT = datetime(2026, 5, 1, tzinfo=UTC)
NEVER = 2**200


@pytest.fixture(params=["sqlite", "postgres"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "sqlite":
        opened: Any = await open_sqlite(tmp_path / "store.db")
    else:
        pytest.importorskip("psycopg")
        from llmspell.storage.postgres.backend import open_postgres

        opened = await open_postgres(request.getfixturevalue("postgres_shared_database").app_url, pool_size=4)
    yield opened
    await opened.close()


@pytest.fixture
async def memories(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> RelationalMemories:
    monkeypatch.setattr(postings, "FOLD_EVERY", NEVER)
    tenant = TenantId(f"t-{uuid4()}")
    await backend.tenants.create(tenant)
    found = backend.storages(tenant).memories
    assert isinstance(found, RelationalMemories)
    return found


def new(text: str, **fields: Any) -> NewMemory:
    return NewMemory(id=uuid4(), content=text, at=AT, **fields)


async def deltas(memories: RelationalMemories) -> tuple[int, int, int]:
    """How many rows of statistics there are, and the sums of their texts and terms."""
    query = memories._postings._queries.deltas
    async with asyncio.timeout(30):

        async def work(executor: Any) -> Any:
            return await executor.rows(query, collection="memories", limit=10_000)

        rows = await memories._unit.write(work)
    return len(rows), sum(row[1] for row in rows), sum(row[2] for row in rows)


async def test_a_fold_leaves_one_row_with_the_same_sums(
    memories: RelationalMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await memories.add([new(f"lighthouse number {number}")])
    before = await deltas(memories)
    monkeypatch.setattr(postings, "FOLD_EVERY", 1)

    await memories._postings.fold_sometimes(memories._unit)

    assert before[0] == 5
    assert await deltas(memories) == (1, *before[1:])


async def test_every_kind_of_write_folds(memories: RelationalMemories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "FOLD_EVERY", 1)
    counts = {}
    (first,) = await memories.add([new("a lighthouse")])
    await memories.update(first.id, MemoryChange(content="a zeppelin"))
    counts["update"] = (await deltas(memories))[:2]
    await memories.delete(first.id)
    counts["delete"] = (await deltas(memories))[:2]
    await memories.restore(first.id)
    counts["restore"] = (await deltas(memories))[:2]
    await memories.forget(first.id)
    counts["forget"] = (await deltas(memories))[:2]
    await memories.add([new("old")])
    await memories.delete_before(AT + timedelta(days=1))
    counts["delete_before"] = (await deltas(memories))[:2]

    assert counts == {
        **dict.fromkeys(("update", "restore"), (1, 1)),
        **dict.fromkeys(("delete", "forget", "delete_before"), (1, 0)),
    }


async def test_folds_at_the_same_time_keep_the_sums(
    memories: RelationalMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postings, "FOLD_EVERY", 1)

    await asyncio.gather(*(memories.add([new(f"lighthouse {number} of many")]) for number in range(24)))

    await memories._postings.fold_sometimes(memories._unit)
    rows, documents, terms = await deltas(memories)
    lengths = [sum(memories._postings.counts(memories._text(one))[0].values()) for one in await memories.list()]
    assert (rows, documents, terms) == (1, 24, sum(lengths))


@pytest.mark.parametrize("error", [Unavailable("gone"), DiskFull("full")], ids=["unavailable", "full"])
async def test_a_fold_that_fails_does_not_make_the_write_look_failed(
    memories: RelationalMemories, monkeypatch: pytest.MonkeyPatch, error: LlmspellError
) -> None:
    monkeypatch.setattr(postings, "FOLD_EVERY", 1)

    async def fails(executor: object) -> None:
        raise error

    monkeypatch.setattr(memories._postings, "_fold", fails)

    (added,) = await memories.add([new("a lighthouse")])

    assert await memories.delete(added.id)


async def test_nothing_is_folded_inside_a_transaction(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "FOLD_EVERY", 1)
    tenant = TenantId(f"t-{uuid4()}")
    await backend.tenants.create(tenant)

    async with backend.transaction(tenant) as inside:
        for number in range(3):
            await inside.memories.add([new(f"number {number}")])

    outside = backend.storages(tenant).memories
    assert isinstance(outside, RelationalMemories)
    assert (await deltas(outside))[0] == 3


async def test_a_filter_is_read_off_the_callers_thread_and_everything_else_is_not(
    memories: RelationalMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy: list[bool] = []
    unit = memories._unit

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(unit, name)

        async def read(self, work: Any, *, heavy: bool = False) -> Any:
            seen.append(heavy)
            return await unit.read(work, heavy=heavy)

    seen = heavy
    monkeypatch.setattr(memories, "_unit", Watched())
    await memories.add([new("a", metadata={"n": 1})])

    assert await memories.count() == len(await memories.list()) == 1
    assert heavy == []
    assert await memories.count(filters={"metadata.n": 1}) == 1
    assert len(await memories.list(filters={"metadata.n": 1})) == 1
    assert heavy == [True, True]
