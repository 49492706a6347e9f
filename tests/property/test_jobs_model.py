"""Random programs over the queue: every store says what the one in memory says, after every step.

Ids differ between stores, so jobs go by the number that is their payload. Each program has kinds of its own, so that it can
ask for the jobs of all tenants and meets no other program's.
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
from llmspell.storage.contracts.jobs import Job, Jobs, LeasedJob
from llmspell.tenant import TenantId

KINDS = ("send", "fetch")
KEYS = (None, None, "a", "b")
LEASE_S = 10
TENANTS = 3
Step = tuple[Any, ...]
Said = list[Any]

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("enqueue"),
            st.integers(0, TENANTS - 1),
            st.sampled_from(KINDS),
            st.sampled_from(KEYS),
            st.integers(-1, 1),
            st.integers(-10, 10),
            st.integers(1, 3),
        ),
        st.tuples(
            st.just("lease"),
            st.integers(1, 5),
            st.sampled_from((("send",), ("send", "fetch"))),
            st.one_of(st.none(), st.sets(st.integers(0, TENANTS - 1), min_size=1)),
        ),
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

    def __init__(self, backend: Backend, tenants: list[TenantId], name: str, clock: ManualClock) -> None:
        self.queue = backend.job_queue
        self.jobs = [backend.storages(tenant).jobs for tenant in tenants]
        self.tenants = tenants
        self.name = name
        self.clock = clock
        self.made: list[tuple[Jobs, Job]] = []
        self.leases: list[LeasedJob] = []

    async def take(self, step: Step) -> Said:
        """Take one step and say what came of it, in words that all stores share."""
        name, *rest = step
        try:
            return await getattr(self, name)(*rest)  # type: ignore[no-any-return]
        except (AlreadyExists, LeaseLost, NotFound, Conflict) as error:
            return [type(error).__name__]

    async def enqueue(
        self, tenant: int, kind: str, key: str | None, priority: int, seconds: int, attempts: int
    ) -> Said:
        run_at = self.clock.now() + timedelta(seconds=seconds)
        payload = {"n": len(self.made)}
        job = await self.jobs[tenant].enqueue(
            kind + self.name, payload, run_at=run_at, priority=priority, max_attempts=attempts, dedupe_key=key
        )
        if job.payload == payload:
            self.made.append((self.jobs[tenant], job))
        return shown(job)

    async def lease(self, limit: int, kinds: tuple[str, ...], served: set[int] | None) -> Said:
        found = await self.queue.lease(
            worker="w",
            kinds=[kind + self.name for kind in kinds],
            limit=limit,
            lease_s=LEASE_S,
            tenants=None if served is None else [self.tenants[number] for number in served],
        )
        self.leases += found
        return [[lease.tenant, *shown(lease.job), lease.token] for lease in found]

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
        jobs, job = self.known(which)
        return [await jobs.cancel(job.id)]

    async def retry(self, which: int) -> Said:
        jobs, job = self.known(which)
        return shown(await jobs.retry(job.id))

    def known(self, which: int) -> tuple[Jobs, Job]:
        """One of the jobs there were, and where it is."""
        if not self.made:
            raise NotFound
        return self.made[which % len(self.made)]

    async def prune(self, seconds: int, dead: bool, limit: int) -> Said:
        before = self.clock.now() - timedelta(seconds=seconds)
        return [await jobs.prune(before, dead=dead, limit=limit) for jobs in self.jobs]

    async def everything(self) -> Said:
        """All that can be read."""
        read: Said = []
        for jobs in self.jobs:
            listed = (await jobs.list(limit=1_000)).items
            read.append([sorted((shown(job) for job in listed), key=str), await jobs.counts()])
        return read


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
    run = uuid4().hex
    tenants = [TenantId(f"tenant-{run}-{number}") for number in range(TENANTS)]
    programs = {}
    for name, backend in stores.items():
        for tenant in tenants:
            await backend.tenants.create(tenant)
        programs[name] = Program(backend, tenants, run, clock)
    for step in program:
        if step[0] == "advance":
            clock.advance(seconds=step[1])
            continue
        said = {name: [await one.take(step), await one.everything()] for name, one in programs.items()}
        for name, answer in said.items():
            assert answer == said["memory"], (step, name)
