"""No connection is held while an embedder works: a slow provider must not take the store away from everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from tests.fixtures.stores import DATABASES, fresh_tenant, opened

from llmspell.providers.hashing import HashingEmbedder
from llmspell.spell import Tenant

CONNECTIONS = 2
WORKERS = 4 * CONNECTIONS
REQUESTS = 32
LIMIT_S = 20


class HeldEmbedder(HashingEmbedder):
    """Answers only when it is told to, and says when so many callers wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.waiting = 0
        self.all_wait = asyncio.Event()
        self.released = asyncio.Event()

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        if self.held:
            self.waiting += 1
            if self.waiting == WORKERS:
                self.all_wait.set()
            await self.released.wait()
        return await super().embed(texts)


async def update(tenant: Tenant, id: UUID) -> object:
    return await tenant.memory.update(id, text="Ada moved to Bern.")


CALLS: dict[str, Callable[[Tenant, UUID], Awaitable[object]]] = {
    "add": lambda tenant, _: tenant.memory.add("Ada moved to Zurich."),
    "add_many": lambda tenant, _: tenant.memory.add_many([{"text": "one"}, {"text": "two"}]),
    "search": lambda tenant, _: tenant.memory.search("Where is Ada?"),
    "context": lambda tenant, _: tenant.context("Where is Ada?"),
    "update": update,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backend", [*DATABASES, "pgbouncer"])
async def test_keys_are_served_while_four_times_as_many_callers_as_connections_wait_for_the_embedder(
    backend: str, call: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    embedder = HeldEmbedder()
    async with opened(backend, request, tmp_path, connections=CONNECTIONS, embedder=embedder) as spell:
        tenant = await fresh_tenant(spell)
        memories = [await tenant.memory.add(f"Ada lives in Basel, {number}.") for number in range(WORKERS)]
        embedder.held = True
        workers = [asyncio.create_task(_run(CALLS[call], tenant, memory.id)) for memory in memories]
        async with asyncio.timeout(LIMIT_S):
            await embedder.all_wait.wait()

            await asyncio.gather(*(tenant.kv.set(f"k{number}", b"v") for number in range(REQUESTS)))
            values = await asyncio.gather(*(tenant.kv.get(f"k{number}") for number in range(REQUESTS)))

            assert values == [b"v"] * REQUESTS
            assert not any(worker.done() for worker in workers)
            embedder.released.set()
            await asyncio.gather(*workers)


async def _run(call: Callable[[Tenant, UUID], Awaitable[object]], tenant: Tenant, id: UUID) -> None:
    await call(tenant, id)
