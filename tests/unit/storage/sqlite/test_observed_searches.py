"""What an observer is told while a store in a file is searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.fixtures.seeds import usual

from llmspell.observe import observing_searches
from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

ROWS = 1_000


class Heard:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.searches: list[tuple[str, int]] = []
        self.indexes: list[tuple[str, str, int, int]] = []

    def search(self, path: str, seconds: float, candidates: int) -> None:
        assert seconds > 0
        self.searches.append((path, candidates))

    def index(self, tenant: str, space_id: str, file_bytes: int, memory_bytes: int) -> None:
        self.indexes.append((tenant, space_id, file_bytes, memory_bytes))


def drawn(count: int) -> list[list[float]]:
    return np.random.default_rng(usual(21)).standard_normal((count, 384)).tolist()  # type: ignore[no-any-return]


async def test_each_search_is_told_once_and_only_while_somebody_listens(backend: SqliteBackend) -> None:
    vectors, heard = backend.storages(TenantId("a")).vectors, Heard()
    first, *rows = drawn(50)
    await vectors.insert([VectorEntry(embedding=row) for row in rows])

    await vectors.search(first)
    with observing_searches(heard):
        await vectors.search(first, limit=5)
        await vectors.search(first, limit=5, effort=Effort(exact=True))
    await vectors.search(first)

    assert [path for path, _ in heard.searches] == ["exact", "exact"]
    assert all(5 <= candidates <= 49 for _, candidates in heard.searches)


async def test_a_search_inside_of_a_transaction_that_wrote_is_told_too(backend: SqliteBackend) -> None:
    heard = Heard()
    first, *rows = drawn(5)

    with observing_searches(heard):
        async with backend.transaction(TenantId("a")) as tx:
            await tx.vectors.insert([VectorEntry(embedding=row) for row in rows])
            await tx.vectors.search(first)

    assert [path for path, _ in heard.searches] == ["exact"]


async def test_a_space_that_leaves_memory_takes_nothing_any_more(path: Path) -> None:
    backend = await open_sqlite(path, vector_cache_bytes=1024 * 1024)
    heard, rows = Heard(), drawn(ROWS)
    with observing_searches(heard):
        for tenant in ("a", "b"):
            vectors = backend.storages(TenantId(tenant)).vectors
            await vectors.insert([VectorEntry(embedding=row) for row in rows])
            await vectors.search(rows[0])
    await backend.close()

    assert heard.indexes == [("a", "free-384", 0, 0)]
