"""Random programs of vectors that move into the approximate index, beside the model in plain Python.

Two tenants insert, delete, change metadata, promote some or all, and search with scopes and filters. Every answer has as many hits
as the model's; an exact one has its hits and scores, one through the index no others than true ones.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell

from llmspell.clock import ManualClock
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.postgres import nearest
from llmspell.storage.postgres.backend import open_postgres
from llmspell.storage.relational.vectors import free_space
from llmspell.tenant import TenantId

pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

TENANTS = (TenantId("one"), TenantId("two"))
SCOPES = ("a", "b", "c")
EFFORTS = (CONFIGURED, CONFIGURED, Effort(exact=True), Effort(recall=0.95), Effort(recall=1.0), Effort(ef_search=200))
RECALL = 0.98
"""Over a whole program: the index is approximate, and holds a few hundred vectors of both tenants."""
TOLERANCE = 2e-6


class Program:
    """Both stores, and what was inserted into them."""

    def __init__(self, chance: random.Random, model: Any, server: Any, dimension: int) -> None:
        self.chance = chance
        self.model = model
        self.server = server
        self.dimension = dimension
        self.ids: dict[TenantId, list[UUID]] = {tenant: [] for tenant in TENANTS}
        self.found = self.wanted = self.promoted = self.searches = 0

    def vector(self) -> Any:
        centre = np.random.default_rng(self.chance.randrange(12)).standard_normal(self.dimension)
        noise = np.random.default_rng(self.chance.randrange(2**32)).standard_normal(self.dimension)
        return (centre + 0.4 * noise).astype(np.float32)

    async def step(self) -> None:
        tenant = self.chance.choice(TENANTS)
        both = self.model.storages(tenant).vectors, self.server.storages(tenant).vectors
        kind = self.chance.choices(
            ["insert", "delete", "scope", "change", "promote", "search"], weights=[6, 3, 0.2, 2, 2, 10]
        )[0]
        own = self.ids[tenant]
        if kind == "insert":
            entries = [self.entry() for _ in range(self.chance.randint(1, 12))]
            own += [entry.id for entry in entries if entry.id is not None]
            for one in both:
                await one.insert(entries)
        elif kind == "delete" and own:
            gone = self.chance.sample(own, k=min(len(own), self.chance.randint(1, 4)))
            counts = [await one.delete(gone) for one in both]
            assert counts[0] == counts[1]
        elif kind == "scope":
            scope = self.chance.choice(SCOPES)
            assert len({await one.delete_scope(scope) for one in both}) == 1
        elif kind == "change" and own:
            id, metadata = self.chance.choice(own), {"n": self.chance.randrange(10)}
            assert len({await one.update_metadata(id, metadata) for one in both}) == 1
        elif kind == "promote":
            limit = self.chance.choice([None, self.chance.randint(1, 30)])
            space = free_space(self.dimension)
            self.promoted += await self.server.promote(tenant, space, dimension=self.dimension, limit=limit)
        elif kind == "search":
            await self.search(*both)

    def entry(self) -> VectorEntry:
        id = UUID(int=self.chance.getrandbits(128))
        metadata = {"n": self.chance.randrange(10)}
        return VectorEntry(id=id, embedding=self.vector(), scope=self.chance.choice(SCOPES), metadata=metadata)

    async def search(self, model: Any, server: Any) -> None:
        asked = {
            "limit": self.chance.choice([1, 3, 10, 40, 300]),
            "scope": self.chance.choice([None, None, *SCOPES]),
            "filters": self.chance.choice([None, None, {"metadata.n": {"$lt": self.chance.randrange(10)}}]),
        }
        question, effort = self.vector(), self.chance.choice(EFFORTS)
        expected = await model.search(question, **asked)
        hits = await server.search(question, effort=effort, **asked)
        everything = await model.search(question, **{**asked, "limit": 1_000})
        true = {hit.id: hit.score for hit in everything}
        where = f"seed {SEED}, search {self.searches}: {asked}, {effort}"

        assert len(hits) == len(expected), where
        assert all(abs(hit.score - true[hit.id]) <= TOLERANCE for hit in hits), where
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True), where
        if effort.exact or effort.recall == 1.0:
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=TOLERANCE), where
        self.found += len({hit.id for hit in hits} & {hit.id for hit in expected})
        self.wanted += len(expected)
        self.searches += 1


@pytest.mark.parametrize("dimension", [384, 3072])
async def test_whatever_part_of_the_vectors_is_in_the_index_searches_find_what_the_model_finds(
    postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, dimension: int
) -> None:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)
    monkeypatch.setattr(nearest, "SCOPE_EXACT_BELOW", 8)
    chance = random.Random(f"{SEED} {dimension}")
    clock = ManualClock()
    model = InMemoryBackend(clock=clock)
    server = await open_postgres(postgres_database.app_url, pool_size=2, clock=clock)
    for tenant in TENANTS:
        await model.tenants.create(tenant)
        await server.tenants.create(tenant)
    program = Program(chance, model, server, dimension)
    for _ in range(size(ci=200 if dimension == 384 else 80, soak=5_000)):
        await program.step()
    await server.close()
    await model.close()
    tell(searches=program.searches, promoted=program.promoted)

    assert program.promoted > 0
    assert program.found >= RECALL * program.wanted, f"seed {SEED}: {program.found} of {program.wanted}"
