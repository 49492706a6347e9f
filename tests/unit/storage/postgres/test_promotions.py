"""Vectors on their way into the approximate index: wherever it stops and whoever else writes, each is found once, or is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from tests.unit.storage.postgres.test_nearest import exact, fresh_tenant, some_vectors

from llmspell.clock import ManualClock
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import nearest
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres, queries
from llmspell.storage.relational.vectors import free_space
from llmspell.tenant import TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

SPACE = free_space(384)


@pytest.fixture
async def backend(
    postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresBackend]:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)
    monkeypatch.setattr(nearest, "PROMOTE_BATCH", 7)
    found = await open_postgres(postgres_database.app_url, pool_size=6)
    yield found
    await found.close()


class Stopped(Exception):
    pass


class Stopping:
    """A unit of work that fails when so many calls have been made: before the call, or after it has committed."""

    def __init__(self, unit: Any, calls: int, *, after: bool) -> None:
        self._unit, self._left, self._after = unit, calls, after

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._unit, name)

        async def counted(*arguments: Any, **parameters: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise Stopped
            result = await call(*arguments, **parameters)
            if self._left < 0:
                raise Stopped
            return result

        return counted


def counts(database: PostgresDatabase, tenant: TenantId) -> tuple[int, int, int]:
    """Vectors inside and outside of the index, and what is noted of those inside."""
    with psycopg.connect(database.superuser_url) as superuser:
        row = superuser.execute(
            "SELECT count(*) FILTER (WHERE v.ann), count(*) FILTER (WHERE NOT v.ann),"
            " (SELECT s.ann_vectors FROM llmspell.embedding_spaces s WHERE s.tenant_id = %(tenant)s)"
            " FROM llmspell.vector_embeddings_384 v WHERE v.tenant_id = %(tenant)s",
            {"tenant": tenant},
        ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("after", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("calls", [1, 2, 4, 6, 7])
async def test_a_promotion_that_stops_anywhere_loses_and_doubles_nothing_and_goes_on(
    backend: PostgresBackend, postgres_database: PostgresDatabase, calls: int, after: bool
) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(30, 384)
    ids = await storage.insert([VectorEntry(embedding=row) for row in data])
    expected = exact(data, data[4], ids, 30)

    with pytest.raises(Stopped):
        await nearest.promote(
            Stopping(backend.unit(tenant), calls, after=after),
            queries(),
            space_id=SPACE,
            dimension=384,
            clock=ManualClock(),
        )
    inside, outside, noted = counts(postgres_database, tenant)
    assert (inside + outside, noted or 0) == (30, inside)
    assert [hit.id for hit in await storage.search(data[4], limit=30)] == expected
    assert await backend.promote(tenant, SPACE, dimension=384) == outside
    assert counts(postgres_database, tenant) == (30, 0, 30)
    assert [hit.id for hit in await storage.search(data[4], limit=30)] == expected


async def test_a_vector_that_was_deleted_or_replaced_is_gone_from_both_halves_at_once(backend: PostgresBackend) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(40, 384)
    ids = await storage.insert([VectorEntry(embedding=row, metadata={"n": 0}) for row in data[:20]])
    await backend.promote(tenant, SPACE, dimension=384)
    ids += await storage.insert([VectorEntry(embedding=row, metadata={"n": 0}) for row in data[20:]])

    for gone in (3, 23):
        await storage.delete([ids[gone]])
        assert ids[gone] not in [hit.id for hit in await storage.search(data[gone], limit=40)]
        await storage.insert([VectorEntry(id=ids[gone], embedding=-data[gone], metadata={"n": 1})])
        hits = await storage.search(data[gone], limit=40)
        assert (len(hits), hits[-1].id, hits[-1].metadata) == (40, ids[gone], {"n": 1})
    for changed in (5, 25):
        await storage.update_metadata(ids[changed], {"n": 2})
    found = await storage.search(data[5], limit=40, filters={"metadata.n": 2})
    assert {hit.id for hit in found} == {ids[5], ids[25]}


async def test_promotions_deletes_inserts_and_searches_at_once_lose_and_double_nothing(
    backend: PostgresBackend, postgres_database: PostgresDatabase
) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(260, 384)
    ids = await storage.insert([VectorEntry(embedding=row) for row in data[:200]])
    kept, gone = ids[:100], ids[100:]
    seen: list[list[UUID]] = []

    async def delete() -> None:
        for start in range(0, 100, 10):
            assert await storage.delete(gone[start : start + 10]) == 10

    async def insert() -> None:
        for row in data[200:]:
            ids.extend(await storage.insert([VectorEntry(embedding=row)]))

    async def search() -> None:
        for number in range(30):
            seen.append([hit.id for hit in await storage.search(data[number], limit=300)])

    moved = await asyncio.gather(
        *(backend.promote(tenant, SPACE, dimension=384) for _ in range(3)), delete(), insert(), search()
    )
    for found in seen:
        assert len(found) == len(set(found))
        assert set(kept) <= set(found)
    await backend.promote(tenant, SPACE, dimension=384)
    left = [*range(100), *range(200, 260)]
    now = [ids[number] for number in left]
    assert sum(count for count in moved if count) >= 100
    assert counts(postgres_database, tenant) == (160, 0, 160)
    assert [hit.id for hit in await storage.search(data[9], limit=300)] == exact(data[left], data[9], now, 300)
