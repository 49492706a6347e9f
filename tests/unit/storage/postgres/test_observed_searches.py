"""What an observer is told while a server is searched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from tests.unit.storage.postgres.test_nearest import fresh_tenant, some_vectors

from llmspell.codec import pack_vector
from llmspell.observe import observing_searches
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryQuery, NewMemory
from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import nearest
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres
from llmspell.storage.relational.vectors import free_space

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

ROWS, LIMIT = 60, 5
AT = datetime(2026, 5, 1, tzinfo=UTC)


class Heard:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.searches: list[tuple[str, int]] = []

    def search(self, path: str, seconds: float, candidates: int) -> None:
        assert seconds > 0
        self.searches.append((path, candidates))

    def index(self, tenant: str, space_id: str, file_bytes: int, memory_bytes: int) -> None:
        raise AssertionError("a server keeps its indexes itself")


@pytest.fixture
async def backend(
    postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresBackend]:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)  # small spaces are searched through the index as well
    found = await open_postgres(postgres_database.app_url, pool_size=2)
    yield found
    await found.close()


async def test_each_search_is_told_once_with_its_way_and_only_while_somebody_listens(backend: PostgresBackend) -> None:
    tenant, heard = await fresh_tenant(backend), Heard()
    vectors = backend.storages(tenant).vectors
    rows = some_vectors(ROWS, 384)
    await vectors.insert([VectorEntry(embedding=row, scope="few" if n < 3 else "many") for n, row in enumerate(rows)])

    await vectors.search(rows[0], limit=LIMIT)
    with observing_searches(heard):
        await vectors.search(rows[0], limit=LIMIT)
        await backend.promote(tenant, free_space(384), dimension=384)
        await vectors.search(rows[0], limit=LIMIT)
        await vectors.search(rows[0], limit=LIMIT, effort=Effort(exact=True))
        await vectors.search(rows[0], limit=LIMIT, scope="few")
    await vectors.search(rows[0], limit=LIMIT)

    assert heard.searches == [("exact", LIMIT), ("ann", LIMIT * nearest.OVERSAMPLE), ("exact", LIMIT), ("exact", 3)]


async def test_a_search_of_memories_is_told_too(backend: PostgresBackend) -> None:
    tenant, heard = await fresh_tenant(backend), Heard()
    memories = backend.storages(tenant).memories
    await memories.ensure_space(EmbeddingSpace(space_id="s", model="m", dimension=384))
    rows = some_vectors(ROWS, 384)
    items = [NewMemory(id=uuid4(), content=f"{n}", at=AT, embeddings=(pack_vector(row),)) for n, row in enumerate(rows)]
    await memories.add(items, space_id="s")
    query = MemoryQuery(embedding=pack_vector(rows[0]), space_id="s", candidates=LIMIT)

    with observing_searches(heard):
        await memories.search(query)
        await backend.promote(tenant, "s", dimension=384)
        await memories.search(query)

    assert heard.searches == [("exact", LIMIT), ("ann", LIMIT * nearest.OVERSAMPLE_WINDOWS)]
