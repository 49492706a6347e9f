"""Random programs over the queue: every store says what the one in memory says, after every step.

Ids differ between stores, so jobs go by the number that is their payload.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, Conflict, LeaseLost, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.jobs import Job, LeasedJob
from llmspell.tenant import TenantId

KINDS = ("send", "fetch")
KEYS = (None, None, "a", "b")
LEASE_S = 10
Step = tuple[Any, ...]
Said = list[Any]

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("enqueue"),
            st.sampled_from(KINDS),
            st.sampled_from(KEYS),
            st.integers(-1, 1),
            st.integers(-10, 10),
            st.integers(1, 3),
        ),
        st.tuples(st.just("lease"), st.integers(1, 3), st.sampled_from((("send",), ("send", "fetch")))),
        st.tuples(st.just("complete"), st.integers(0, 9)),
        st.tuples(st.just("fail"), st.integers(0, 9), st.booleans(), st.integers(0, 12)),
        st.tuples(st.just("release"), st.integers(0, 9), st.integers(0, 12)),
        st.tuples(st.just("heartbeat"), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 4))),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("retry"), st.integers(0, 9)),
        st.tuples(st.just("prune"), st.integers(0, 30), st.booleans(), st.integers(1, 3)),
        st.tuples(st.just("advance"), st.integers(1, 15)),
    ),
    min_size=15,
    max_size=40,
)


class Program:
    """Runs steps on one store, and remembers its jobs by number."""

    def __init__(self, backend: Backend, tenant: TenantId, clock: ManualClock) -> None:
        self.queue = backend.job_queue
        self.jobs = backend.storages(tenant).jobs
        self.tenant = tenant
        self.clock = clock
        self.made: list[Job] = []
        self.leases: list[LeasedJob] = []

    async def take(self, step: Step) -> Said:
        """Take one step and say what came of it, in words that all stores share."""
        name, *rest = step
        try:
            return await getattr(self, name)(*rest)  # type: ignore[no-any-return]
        except (AlreadyExists, LeaseLost, NotFound, Conflict) as error:
            return [type(error).__name__]

    async def enqueue(self, kind: str, key: str | None, priority: int, seconds: int, attempts: int) -> Said:
        run_at = self.clock.now() + timedelta(seconds=seconds)
        payload = {"n": len(self.made)}
        job = await self.jobs.enqueue(
            kind, payload, run_at=run_at, priority=priority, max_attempts=attempts, dedupe_key=key
        )
        if job.payload == payload:
            self.made.append(job)
        return shown(job)

    async def lease(self, limit: int, kinds: tuple[str, ...]) -> Said:
        found = await self.queue.lease(worker="w", kinds=kinds, limit=limit, lease_s=LEASE_S, tenants=[self.tenant])
        found.sort(key=lambda lease: lease.job.payload["n"])
        self.leases += found
        return [[*shown(lease.job), lease.token] for lease in found]

    async def complete(self, which: int) -> Said:
        return shown(await self.queue.complete(self.held(which), {"which": which}))

    async def fail(self, which: int, retryable: bool, delay_s: int) -> Said:
        return shown(await self.queue.fail(self.held(which), "no", retryable=retryable, delay_s=delay_s))

    async def release(self, which: int, delay_s: int) -> Said:
        return shown(await self.queue.release(self.held(which), delay_s=delay_s))

    async def heartbeat(self, which: int, done: int | None) -> Said:
        total = None if done is None else 4
        return [await self.queue.heartbeat(self.held(which), lease_s=LEASE_S, done=done, total=total)]

    def held(self, which: int) -> LeasedJob:
        """One of the leases there were: the latest is number 0."""
        if not self.leases:
            raise NotFound
        return self.leases[-1 - which % len(self.leases)]

    async def cancel(self, which: int) -> Said:
        return [await self.jobs.cancel(self.known(which).id)]

    async def retry(self, which: int) -> Said:
        return shown(await self.jobs.retry(self.known(which).id))

    def known(self, which: int) -> Job:
        """One of the jobs there were."""
        if not self.made:
            raise NotFound
        return self.made[which % len(self.made)]

    async def prune(self, seconds: int, dead: bool, limit: int) -> Said:
        return [await self.jobs.prune(self.clock.now() - timedelta(seconds=seconds), dead=dead, limit=limit)]

    async def everything(self) -> Said:
        """All that can be read."""
        listed = (await self.jobs.list(limit=1_000)).items
        return [sorted((shown(job) for job in listed), key=str), await self.jobs.counts()]


def shown(job: Job) -> Said:
    """A job without its id."""
    return [getattr(job, name) for name in Job.__struct_fields__ if name != "id"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=steps)
def test_every_store_answers_a_random_program_as_the_one_in_memory(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, program: list[Step]
) -> None:
    if "memory" not in stores or len(stores) < 2:
        pytest.skip("there is nothing to compare")
    loop.run(compare(stores, clock, program))


async def compare(stores: dict[str, Backend], clock: ManualClock, program: list[Step]) -> None:
    tenant = TenantId(f"tenant-{uuid4().hex}")
    programs = {}
    for name, backend in stores.items():
        await backend.tenants.create(tenant)
        programs[name] = Program(backend, tenant, clock)
    for step in program:
        if step[0] == "advance":
            clock.advance(seconds=step[1])
            continue
        said = {name: [await one.take(step), await one.everything()] for name, one in programs.items()}
        for name, answer in said.items():
            assert answer == said["memory"], (step, name)
