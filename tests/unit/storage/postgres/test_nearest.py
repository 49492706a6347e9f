"""Nearest neighbours by pgvector, as `llmspell_app`, compared with an exact answer computed here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from llmspell.codec import pack_vector, unpack_vector
from llmspell.errors import InvalidLimit, NotFound
from llmspell.observe import counting_queries
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryQuery, NewMemory
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import nearest
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres
from llmspell.storage.relational.vectors import free_space
from llmspell.tenant import TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

AT = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
async def backend(postgres_shared_database: PostgresDatabase) -> AsyncIterator[PostgresBackend]:
    found = await open_postgres(postgres_shared_database.app_url, pool_size=3)
    yield found
    await found.close()


async def fresh_tenant(backend: PostgresBackend) -> TenantId:
    tenant = TenantId(f"t-{uuid4()}")
    await backend.tenants.create(tenant)
    return tenant


def some_vectors(count: int, dimension: int, *, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


SMALL = nearest.EXACT_BELOW


@pytest.fixture(autouse=True)
def _through_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spaces of these tests are small: without this none of them would be searched through the index."""
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)


def exact(vectors: Any, query: Any, ids: list[UUID], limit: int) -> list[UUID]:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scores = np.round(unit @ (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))), 6)
    return [id for _, id in sorted(zip((-scores).tolist(), ids, strict=True))[:limit]]


@pytest.mark.parametrize("dimension", [384, 768, 1536, 3072])
async def test_a_vector_comes_back_bit_for_bit(backend: PostgresBackend, dimension: int) -> None:
    storage = backend.storages(await fresh_tenant(backend)).vectors
    packed = pack_vector(some_vectors(1, dimension)[0])
    (id,) = await storage.insert([VectorEntry(embedding=unpack_vector(packed))])
    record = await storage.get(id)
    assert record is not None
    assert record.embedding.tobytes() == packed


@pytest.mark.parametrize("dimension", [384, 3072])
@pytest.mark.parametrize("promoted", [False, True])
async def test_free_vectors_are_found_as_by_hand(backend: PostgresBackend, dimension: int, promoted: bool) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(120, dimension)
    ids = await storage.insert([VectorEntry(embedding=row) for row in data[:90]])
    if promoted:
        assert await backend.promote(tenant, free_space(dimension), dimension=dimension) == 90
    ids += await storage.insert([VectorEntry(embedding=row) for row in data[90:]])
    query = some_vectors(1, dimension, seed=2)[0]
    hits = await storage.search(query, limit=15)
    assert [hit.id for hit in hits] == exact(data, query, ids, 15)


async def test_ties_at_the_cut_go_by_id(backend: PostgresBackend) -> None:
    storage = backend.storages(await fresh_tenant(backend)).vectors
    same = some_vectors(1, 384)[0]
    ids = await storage.insert([VectorEntry(embedding=same, id=uuid4()) for _ in range(40)])
    assert [hit.id for hit in await storage.search(same, limit=7)] == sorted(ids)[:7]


async def test_a_promoted_space_among_larger_tenants_still_gives_all_matching_rows(backend: PostgresBackend) -> None:
    big, small = await fresh_tenant(backend), await fresh_tenant(backend)
    center = some_vectors(1, 384)[0]
    near = center + some_vectors(1_500, 384, seed=3) * 0.01
    await backend.storages(big).vectors.insert([VectorEntry(embedding=row) for row in near])
    far = -center + some_vectors(12, 384, seed=4)
    ids = await backend.storages(small).vectors.insert([VectorEntry(embedding=row) for row in far])
    for tenant in (big, small):
        await backend.promote(tenant, free_space(384), dimension=384)
    hits = await backend.storages(small).vectors.search(center, limit=10)
    assert [hit.id for hit in hits] == exact(far, center, ids, 10)


async def test_an_index_that_was_dropped_is_not_missed_and_can_be_built_again(
    postgres_database: PostgresDatabase,
) -> None:
    data = some_vectors(80, 384, seed=8)
    where = "indexname = 'idx_vector_384_hnsw'"
    backend = await open_postgres(postgres_database.app_url, pool_size=2)
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    ids = await storage.insert([VectorEntry(embedding=row) for row in data])
    await backend.promote(tenant, free_space(384), dimension=384)
    answers = [[hit.id for hit in await storage.search(data[3], limit=20)]]
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        found = owner.execute(f"SELECT indexdef FROM pg_indexes WHERE {where}".encode()).fetchall()
        for statement in ("DROP INDEX llmspell.idx_vector_384_hnsw", found[0][0]):
            owner.execute(statement.encode())
            answers.append([hit.id for hit in await storage.search(data[3], limit=20)])
    await backend.close()

    assert answers == [exact(data, data[3], ids, 20)] * 3


@pytest.mark.parametrize("size", [1e-9, 1e5])
async def test_half_precision_loses_no_vector_however_long_it_is(backend: PostgresBackend, size: float) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(30, 3072) * np.float32(size)
    ids = await storage.insert([VectorEntry(embedding=row) for row in data])
    assert await backend.promote(tenant, free_space(3072), dimension=3072) == 30
    hits = await storage.search(data[7] * np.float32(0.5), limit=30)
    assert [hit.id for hit in hits] == exact(data, data[7], ids, 30)


async def test_new_vectors_never_stand_in_for_nearer_ones_that_the_index_did_not_give(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small a scan ends among the crowd; in earnest it takes thousands of vectors of other tenants.
    monkeypatch.setattr(nearest, "SCAN_TUPLES_MIN", 1)
    monkeypatch.setattr(nearest, "EF_SEARCH", 1)
    crowd, tenant = await fresh_tenant(backend), await fresh_tenant(backend)
    center = some_vectors(1, 384, seed=11)[0]
    near = center + some_vectors(800, 384, seed=3) * 0.01
    await backend.storages(crowd).vectors.insert([VectorEntry(embedding=row) for row in near])
    await backend.promote(crowd, free_space(384), dimension=384)
    storage = backend.storages(tenant).vectors
    good, poor = center + some_vectors(5, 384, seed=5) * 0.3, -center + some_vectors(30, 384, seed=6)
    ids = await storage.insert([VectorEntry(embedding=row) for row in good])
    await backend.promote(tenant, free_space(384), dimension=384)
    ids += await storage.insert([VectorEntry(embedding=row) for row in poor])
    with counting_queries() as counts:
        hits = await storage.search(center, limit=3)
    assert counts.round_trips["nearest.free_exact_384"] == 1, "the scan was not starved: the scene is too small"
    assert [hit.id for hit in hits] == exact(np.concatenate([good, poor]), center, ids, 3)


async def test_a_space_that_the_index_gave_whole_is_not_searched_twice(backend: PostgresBackend) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(10, 1536)
    await storage.insert([VectorEntry(embedding=row) for row in data])
    await backend.promote(tenant, free_space(1536), dimension=1536)
    await storage.search(data[0], limit=5)
    with counting_queries() as counts:
        await storage.search(data[0], limit=50)
    assert "nearest.free_exact_1536" not in counts.round_trips


async def test_scope_and_filters_hold_also_in_the_index(backend: PostgresBackend) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(60, 384)
    entries = [
        VectorEntry(embedding=row, scope="a" if n % 2 else "b", metadata={"n": n, "tag": ["x"] if n % 3 else []})
        for n, row in enumerate(data)
    ]
    ids = await storage.insert(entries)
    await backend.promote(tenant, free_space(384), dimension=384)
    filters = {"metadata.n": {"$gte": 20}, "metadata.tag": {"$contains": "x"}}
    hits = await storage.search(data[0], limit=50, scope="a", filters=filters)
    assert {hit.id for hit in hits} == {ids[n] for n in range(60) if n % 2 and n % 3 and n >= 20}


@pytest.mark.parametrize("searched", ["outside", "as a small space", "by the index"])
async def test_a_memory_counts_by_its_best_window(
    backend: PostgresBackend, searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if searched == "as a small space":
        monkeypatch.setattr(nearest, "EXACT_BELOW", SMALL)
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).memories
    await storage.ensure_space(EmbeddingSpace(space_id="s", model="m", dimension=384))
    data = some_vectors(60, 384)
    items = [
        NewMemory(
            id=uuid4(), content=f"text {n}", at=AT, embeddings=(pack_vector(data[2 * n]), pack_vector(data[2 * n + 1]))
        )
        for n in range(30)
    ]
    await storage.add(items, space_id="s")
    if searched != "outside":
        assert await backend.promote(tenant, "s", dimension=384) == 60
    query = some_vectors(1, 384, seed=9)[0]
    rankings = await storage.search(MemoryQuery(embedding=pack_vector(query), space_id="s", candidates=10))
    owners = [items[n // 2].id for n in range(60)]
    best = list(dict.fromkeys(exact(data, query, owners, 60)))[:10]
    found = [scored.id for scored in rankings.dense]
    if searched != "by the index":
        assert found == best
    # The index is approximate, and shared with whatever other tests put into it: a few of the best may be missed.
    assert len(found) == len(set(found)) == 10
    assert len(set(found) & set(best)) >= 6
    assert [owner for owner in best if owner in found] == [owner for owner in found if owner in best]


async def test_promoting_again_moves_only_what_is_new(backend: PostgresBackend) -> None:
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(8, 384)
    await storage.insert([VectorEntry(embedding=row) for row in data[:5]])
    assert await backend.promote(tenant, free_space(384), dimension=384) == 5
    await storage.insert([VectorEntry(embedding=row) for row in data[5:]])
    assert await backend.promote(tenant, free_space(384), dimension=384) == 3


async def test_an_unknown_space_or_a_wrong_dimension_is_not_promoted(backend: PostgresBackend) -> None:
    tenant = await fresh_tenant(backend)
    with pytest.raises(NotFound):
        await backend.promote(tenant, "nothing", dimension=384)
    with pytest.raises(InvalidLimit):
        await backend.promote(tenant, free_space(384), dimension=100)


async def test_a_search_takes_one_round_trip(backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    # Past the vectors that other tests have left in the index.
    monkeypatch.setattr(nearest, "SCAN_TUPLES_MIN", 100_000)
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(20, 384)
    await storage.insert([VectorEntry(embedding=row) for row in data])
    with counting_queries() as counts:
        await storage.search(data[0], limit=5)
    assert dict(counts.round_trips) == {"nearest.free_384": 1}
    await backend.promote(tenant, free_space(384), dimension=384)
    await storage.search(data[0], limit=5)  # learns that the space is in the index
    with counting_queries() as counts:
        await storage.search(data[0], limit=5)
    assert dict(counts.round_trips) == {"nearest.free_union_384": 1}
    monkeypatch.setattr(nearest, "EXACT_BELOW", SMALL)
    with counting_queries() as counts:
        await storage.search(data[0], limit=5)
        await storage.search(data[0], limit=5, include_embedding=True)
    assert dict(counts.round_trips) == {"nearest.free_exact_384": 2, "vectors.hydrate_384": 1, "driver.commit": 1}
