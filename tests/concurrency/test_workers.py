"""Eight workers, hundreds of jobs each: every job runs exactly once, and no memory is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, fresh_tenants, opened

from llmspell.clock import ManualClock
from llmspell.errors import ProviderUnavailable
from llmspell.ops.worker import JobContext
from llmspell.providers.hashing import HashingEmbedder
from llmspell.storage.contracts.jobs import EMBED_KIND
from llmspell.storage.contracts.memories import NewMemory
from llmspell.storage.relational.jobs import WaitingJobs

WORKERS = 8
JOBS_EACH = 200
TENANTS = 5
ADDERS = 8
MEMORIES_EACH = 25
LIMIT_S = 300


@pytest.mark.parametrize("backend", [name for name in STORES if name != "memory"])
async def test_eight_workers_run_every_job_exactly_once(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=WORKERS, clock=ManualClock()) as spell:
        tenants = await fresh_tenants(spell, TENANTS)
        kind, ran = f"count-{tenants[0].id}", Counter[int]()

        async def count(context: JobContext) -> dict[str, Any]:
            ran[context.payload["n"]] += 1
            await asyncio.sleep(0)
            return {}

        total = WORKERS * JOBS_EACH
        for start in range(0, total, 100):
            await asyncio.gather(
                *(tenants[n % TENANTS].jobs.enqueue(kind, {"n": n}, priority=n % 3) for n in range(start, start + 100))
            )
        workers = [
            spell.worker({kind: count}, builtin=False, name=f"w{number}", concurrency=4) for number in range(WORKERS)
        ]
        async with asyncio.timeout(LIMIT_S):
            tallies = await asyncio.gather(*(worker.run(until_idle=True) for worker in workers))

        assert ran == dict.fromkeys(range(total), 1)
        assert sum(tally.succeeded for tally in tallies) == total
        assert sum(tally.failed + tally.lost + tally.given_back for tally in tallies) == 0


@pytest.mark.parametrize("backend", STORES)
async def test_memories_added_while_workers_embed_are_never_left_without_a_job(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every memory is kept pending, alone or in a transaction, while workers take and end the jobs that embed them."""
    async with opened(backend, request, tmp_path, connections=WORKERS, clock=ManualClock()) as spell:
        acme = await fresh_tenant(spell)
        embed = HashingEmbedder.embed
        adding = True

        async def fail_while_adding(self: HashingEmbedder, texts: Any, *more: Any, **others: Any) -> Any:
            if asyncio.current_task() in adders:
                raise ProviderUnavailable("The endpoint is down.")
            return await embed(self, texts, *more, **others)

        async def add(name: int) -> None:
            for number in range(MEMORIES_EACH):
                if number % 2:
                    await acme.memory.add(f"note {name} {number}")
                else:
                    async with acme.transaction() as tx:
                        await tx.memory.add(f"note {name} {number} in a transaction")

        async def work() -> None:
            while adding:
                await spell.worker(tenants=[acme.id]).run(until_idle=True)
                await asyncio.sleep(0)  # a store in memory never lets others run by itself

        adders: set[asyncio.Task[None] | None] = set()
        monkeypatch.setattr(HashingEmbedder, "embed", fail_while_adding)
        async with asyncio.timeout(LIMIT_S):
            adders = {asyncio.create_task(add(name)) for name in range(ADDERS)}
            workers = [asyncio.create_task(work()) for _ in range(3)]
            await asyncio.gather(*(task for task in adders if task is not None))
            adding = False
            await asyncio.gather(*workers)
            await spell.worker(tenants=[acme.id]).run(until_idle=True)

        assert await acme.memory.count() == ADDERS * MEMORIES_EACH
        states = Counter(one.embedding_state for one in (await acme.memory.list(limit=1_000)).items)
        assert states == {"ready": ADDERS * MEMORIES_EACH}


async def test_a_job_that_somebody_counts_on_is_not_begun_before_what_it_shall_find_is_committed(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Else the job could look, find nothing and end, and then a memory is committed that no job waits for."""
    async with opened("postgres", request, tmp_path, clock=ManualClock()) as spell:
        acme = await fresh_tenant(spell)
        backend: Any = spell._backend
        await backend.storages(acme.id).memories.add([NewMemory(id=uuid4(), content="first", at=spell._clock.now())])
        unit = backend.unit(acme.id)
        waiting = WaitingJobs(unit, backend._runtime, EMBED_KIND)
        seen: list[int] = []

        async def leased() -> int:
            return len(await backend.job_queue.lease(worker="w", kinds=[EMBED_KIND], tenants=[acme.id]))

        async def work(executor: Any) -> None:
            await executor.batch([waiting.ensure()])
            seen.append(await leased())

        await unit.write(work)

        assert seen == [0]
        assert (await acme.jobs.counts())["queued"] == 1
        assert await leased() == 1
