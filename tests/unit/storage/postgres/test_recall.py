"""How much of the exact answer is found under row-level security, with two dozen other tenants in the table and in the index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell

from llmspell.observe import counting_queries
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import vector_indexes
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres
from llmspell.storage.relational.vectors import free_space
from llmspell.tenant import TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

DIMENSION, LIMIT, QUESTIONS = 384, 10, 40
OTHERS, OTHERS_ROWS, FEW = 24, 50, 50
LARGE = size(ci=10_000, soak=20_000)
RECALL = 0.99
Matrix = np.ndarray[Any, np.dtype[np.float32]]


class Filled(msgspec.Struct):
    """A store, the vectors of its large and of its smallest tenant, and where each is."""

    backend: PostgresBackend
    vectors: dict[str, Matrix]
    places: dict[str, dict[Any, int]]

    async def recall(self, tenant: str, questions: Matrix, *, share: int | None = None, **asked: Any) -> float:
        """The share of the exact answers that is found; `share`: rows whose number is below it, of 100."""
        storage, rows = self.backend.storages(TenantId(tenant)).vectors, self.vectors[tenant]
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        allowed = np.arange(len(rows)) % 100 < (100 if share is None else share)
        filters = None if share is None else {"metadata.n": {"$lt": share}}
        found = 0.0
        for question in questions:
            scores = np.where(allowed, units @ (question / np.linalg.norm(question)), -2.0)
            least = np.sort(scores)[-LIMIT] - 2e-6
            hits = await storage.search(question, limit=LIMIT, filters=filters, **asked)
            assert len({hit.id for hit in hits}) == len(hits) == LIMIT
            found += sum(scores[self.places[tenant][hit.id]] >= least for hit in hits)
        return found / (LIMIT * len(questions))


def drawn(chance: np.random.Generator, rows: int, centres: Matrix) -> Matrix:
    near = centres[chance.integers(len(centres), size=rows)]
    return (near + 0.6 * chance.standard_normal((rows, DIMENSION))).astype(np.float32)


@pytest.fixture
async def filled(postgres_database: PostgresDatabase) -> AsyncIterator[tuple[Filled, Matrix]]:
    chance = np.random.default_rng(SEED)
    centres = chance.standard_normal((40, DIMENSION)).astype(np.float32)
    backend = await open_postgres(postgres_database.app_url, pool_size=2)
    found = Filled(backend, {}, {})
    sizes = {"large": LARGE, "few": FEW, **{f"other-{number}": OTHERS_ROWS for number in range(OTHERS)}}
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute("DROP INDEX llmspell.idx_vector_384_hnsw")  # built once, over all, it takes a tenth of the time
        for name, rows in sizes.items():
            await backend.tenants.create(TenantId(name))
            data, ids = drawn(chance, rows, centres), []
            for start in range(0, rows, 1_000):
                entries = [
                    VectorEntry(embedding=row, metadata={"n": (start + number) % 100})
                    for number, row in enumerate(data[start : start + 1_000])
                ]
                ids += await backend.storages(TenantId(name)).vectors.insert(entries)
            # Most of the large tenant is in the index, and some of it not yet.
            limit = rows - rows // 50 if name == "large" else None
            await backend.promote(TenantId(name), free_space(DIMENSION), dimension=DIMENSION, limit=limit)
            found.vectors[name], found.places[name] = data, {id: place for place, id in enumerate(ids)}
        vector_indexes.rebuild(postgres_database.admin_url, dimension=DIMENSION, memory="128MB")
        owner.execute("ANALYZE llmspell.vector_embeddings_384")
    yield found, drawn(chance, QUESTIONS, centres)
    await backend.close()


async def test_nearly_all_of_the_exact_answer_is_found_among_other_tenants_and_behind_filters(
    filled: tuple[Filled, Matrix],
) -> None:
    store, questions = filled
    with counting_queries() as counts:
        unfiltered = await store.recall("large", questions, effort=Effort(recall=0.99))
        tenth = await store.recall("large", questions, share=10)
        hundredth = await store.recall("large", questions, share=1)
    assert counts.queries["nearest.free_union_384"] > QUESTIONS
    assert counts.queries["nearest.free_share_384"] == 2 * QUESTIONS
    with counting_queries() as counts:
        few = await store.recall("few", questions, effort=CONFIGURED)
    assert "nearest.free_union_384" not in counts.queries
    exact = await store.recall("large", questions, effort=Effort(exact=True))
    tell(rows=LARGE, recall_unfiltered=round(unfiltered * 1e3), recall_tenth=round(tenth * 1e3))

    assert unfiltered >= RECALL, f"seed {SEED}"
    assert tenth >= RECALL, f"seed {SEED}"
    assert hundredth >= RECALL, f"seed {SEED}"
    assert (few, exact) == (1.0, 1.0), f"seed {SEED}"
