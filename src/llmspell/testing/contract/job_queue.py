"""What `JobQueue` promises to workers and operators. Every test has a kind of its own, so it meets no other test's jobs."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidInput, InvalidKey, InvalidLimit, InvalidMetadata, LeaseLost
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.jobs import (
    BACKOFF_CAP_S,
    ERROR_MAX_CHARACTERS,
    LEASE_EXPIRED,
    LeasedJob,
    retry_delay_s,
)
from llmspell.storage.contracts.memories import NewMemory
from llmspell.tenant import TenantId
from llmspell.testing.contract import memory, new_tenant, refused

WORKERS = 8
JOBS_EACH = 25
ROUNDS_MAX = 1_000


def new_kind() -> str:
    """Return a kind that no other test knows."""
    return f"kind-{uuid4().hex}"


class JobQueueContract:
    """Subclass it in a test module; see the package."""

    async def test_a_lease_says_whose_job_it_is_and_until_when(self, backend: Backend, clock: ManualClock) -> None:
        tenant, kind = await new_tenant(backend), new_kind()
        job = await backend.storages(tenant).jobs.enqueue(kind, {"n": 1})

        (lease,) = await backend.job_queue.lease(worker="w", kinds=[kind], limit=10, lease_s=30)

        assert (lease.tenant, lease.token, lease.job.id, lease.job.payload) == (tenant, 1, job.id, {"n": 1})
        assert (lease.job.state, lease.job.attempt, lease.job.worker) == ("running", 1, "w")
        assert lease.job.leased_until == clock.now() + timedelta(seconds=30)
        assert await backend.storages(tenant).jobs.get(job.id) == lease.job

    async def test_a_leased_job_is_nobody_elses(self, backend: Backend) -> None:
        tenant, kind = await new_tenant(backend), new_kind()
        await backend.storages(tenant).jobs.enqueue(kind)

        assert len(await backend.job_queue.lease(worker="a", kinds=[kind])) == 1
        assert await backend.job_queue.lease(worker="b", kinds=[kind]) == []

    async def test_the_order_is_priority_then_time_then_id(self, backend: Backend, clock: ManualClock) -> None:
        tenant, kind = await new_tenant(backend), new_kind()
        jobs, now = backend.storages(tenant).jobs, clock.now()
        early = await jobs.enqueue(kind, run_at=now - timedelta(seconds=9))
        late = await jobs.enqueue(kind)
        urgent = await jobs.enqueue(kind, priority=1)
        unimportant = await jobs.enqueue(kind, priority=-1, run_at=now - timedelta(days=9))
        later = await jobs.enqueue(kind)

        order = [(await backend.job_queue.lease(worker="w", kinds=[kind]))[0].job.id for _ in range(5)]

        assert order == [urgent.id, early.id, late.id, later.id, unimportant.id]

    async def test_a_job_is_not_run_before_its_time(self, backend: Backend, clock: ManualClock) -> None:
        tenant, kind = await new_tenant(backend), new_kind()
        await backend.storages(tenant).jobs.enqueue(kind, run_at=clock.now() + timedelta(seconds=10))

        clock.advance(seconds=9.999999)
        assert await backend.job_queue.lease(worker="w", kinds=[kind]) == []
        clock.advance(seconds=0.000001)
        assert len(await backend.job_queue.lease(worker="w", kinds=[kind])) == 1

    async def test_a_job_that_was_due_stays_so_when_the_clock_goes_back(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """A machine whose clock is corrected does not stop working; what was never due waits for its time."""
        tenant, kind = await new_tenant(backend), new_kind()
        jobs = backend.storages(tenant).jobs
        due = await jobs.enqueue(kind)
        seen = await jobs.enqueue(kind, run_at=clock.now() + timedelta(seconds=5))
        unseen = await jobs.enqueue(kind, run_at=clock.now() + timedelta(seconds=60))
        clock.advance(seconds=10)
        (first,) = await backend.job_queue.lease(worker="w", kinds=[kind], lease_s=3_600)
        clock.advance(seconds=50)
        clock.advance(seconds=-3_600)

        (second,) = await backend.job_queue.lease(worker="w", kinds=[kind], lease_s=7_200)

        assert [first.job.id, second.job.id] == [due.id, seen.id]
        assert await backend.job_queue.lease(worker="w", kinds=[kind]) == []
        clock.advance(seconds=3_600)
        (third,) = await backend.job_queue.lease(worker="w", kinds=[kind])
        assert third.job.id == unseen.id

    async def test_only_the_kinds_that_were_asked_for_are_leased(self, backend: Backend) -> None:
        tenant, kind, other = await new_tenant(backend), new_kind(), new_kind()
        jobs = backend.storages(tenant).jobs
        await jobs.enqueue(other)
        wanted = await jobs.enqueue(kind)

        leases = await backend.job_queue.lease(worker="w", kinds=[kind, new_kind()], limit=9)

        assert [lease.job.id for lease in leases] == [wanted.id]

    async def test_without_kinds_all_of_a_named_tenant_are_leased(self, backend: Backend) -> None:
        tenant, stranger = await new_tenant(backend), await new_tenant(backend)
        made = [await backend.storages(tenant).jobs.enqueue(new_kind()) for _ in range(3)]
        await backend.storages(stranger).jobs.enqueue(new_kind())

        leases = await backend.job_queue.lease(worker="w", limit=9, tenants=[tenant])

        assert {lease.job.id for lease in leases} == {job.id for job in made}
        assert {lease.tenant for lease in leases} == {tenant}

    async def test_tenants_to_serve_are_a_list(self, backend: Backend) -> None:
        for given in (3, "tenant"):
            async with refused(InvalidInput, "tenants"):
                await backend.job_queue.lease(worker="w", tenants=given)  # type: ignore[arg-type]

    async def test_without_kinds_a_job_whose_time_has_come_or_whose_worker_is_gone_is_leased_at_once(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, later, silent = await new_tenant(backend), new_kind(), new_kind()
        jobs = backend.storages(tenant).jobs
        await jobs.enqueue(silent)
        await backend.job_queue.lease(worker="a", lease_s=60, tenants=[tenant])
        await jobs.enqueue(later, run_at=clock.now() + timedelta(seconds=60))
        clock.advance(seconds=61)

        leases = await backend.job_queue.lease(worker="b", limit=5, tenants=[tenant])

        assert {lease.job.kind for lease in leases} == {later, silent}

    async def test_a_tenant_with_many_jobs_does_not_keep_others_waiting(self, backend: Backend) -> None:
        kind = new_kind()
        tenants = [await new_tenant(backend) for _ in range(3)]
        for tenant, count in zip(tenants, (60, 2, 2), strict=True):
            for _ in range(count):
                await backend.storages(tenant).jobs.enqueue(kind, priority=count)

        order = [(await backend.job_queue.lease(worker="w", kinds=[kind]))[0].tenant for _ in range(6)]
        assert Counter(order) == dict.fromkeys(tenants, 2)

        rest = await backend.job_queue.lease(worker="w", kinds=[kind], limit=100)
        assert [lease.tenant for lease in rest] == [tenants[0]] * 58

    async def test_one_call_takes_from_every_tenant_before_it_takes_twice(self, backend: Backend) -> None:
        kind = new_kind()
        tenants = [await new_tenant(backend) for _ in range(3)]
        for tenant, count in zip(tenants, (60, 1, 1), strict=True):
            for _ in range(count):
                await backend.storages(tenant).jobs.enqueue(kind)

        leases = await backend.job_queue.lease(worker="w", kinds=[kind], limit=5)

        assert Counter(lease.tenant for lease in leases) == {tenants[0]: 3, tenants[1]: 1, tenants[2]: 1}

    @pytest.mark.parametrize("named", [False, True])
    @pytest.mark.parametrize("limits", [(1, 1, 1, 1), (3, 3, 3), (2, 3, 3), (5, 5, 5), (7, 4, 1)])
    async def test_tenants_take_turns_from_one_call_to_the_next(
        self, backend: Backend, named: bool, limits: tuple[int, ...]
    ) -> None:
        kind = new_kind()
        tenants = sorted([await new_tenant(backend) for _ in range(3)])
        for tenant in tenants:
            for _ in range(sum(limits)):
                await backend.storages(tenant).jobs.enqueue(kind)
        order: list[TenantId] = []

        for limit in limits:
            leases = await backend.job_queue.lease(
                worker="w", kinds=[kind], limit=limit, tenants=tenants if named else None
            )
            assert len(leases) == limit
            order += [lease.tenant for lease in leases]

        first = tenants.index(order[0])
        assert order == [tenants[(first + turn) % 3] for turn in range(sum(limits))]

    @pytest.mark.parametrize("named", [False, True])
    async def test_what_some_tenants_do_not_have_is_taken_from_the_others(self, backend: Backend, named: bool) -> None:
        kind = new_kind()
        tenants = sorted([await new_tenant(backend) for _ in range(5)])
        for tenant, count in zip(tenants, (0, 9, 1, 3, 0), strict=True):
            for _ in range(count):
                await backend.storages(tenant).jobs.enqueue(kind)

        leases = await backend.job_queue.lease(worker="w", kinds=[kind], limit=10, tenants=tenants if named else None)

        assert Counter(lease.tenant for lease in leases) == {tenants[1]: 6, tenants[2]: 1, tenants[3]: 3}

    async def test_whoever_serves_named_tenants_leaves_those_between_them_alone(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        kind = new_kind()
        first, between, last = tenants = sorted([await new_tenant(backend) for _ in range(3)])
        for tenant in tenants:
            for _ in range(3):
                await backend.storages(tenant).jobs.enqueue(kind)
        held = await backend.job_queue.lease(worker="gone", kinds=[kind], tenants=[between], lease_s=1)
        clock.advance(seconds=2)

        leases = [
            lease
            for _ in range(3)
            for lease in await backend.job_queue.lease(worker="w", kinds=[kind], limit=2, tenants=[last, first])
        ]

        assert Counter(lease.tenant for lease in leases) == {first: 3, last: 3}
        assert await backend.job_queue.lease(worker="w", kinds=[kind], tenants=[]) == []
        assert await backend.storages(between).jobs.get(held[0].job.id) == held[0].job, "not even taken back"

    async def test_the_tenant_that_sorts_last_is_served_too(self, backend: Backend) -> None:
        kind, tenant = new_kind(), TenantId("\U0010ffff" * 24 + uuid4().hex)
        await backend.tenants.create(tenant)
        await backend.storages(tenant).jobs.enqueue(kind)

        (lease,) = await backend.job_queue.lease(worker="w", kinds=[kind])

        assert lease.tenant == tenant

    async def test_a_completed_job_has_its_result_and_is_over(self, backend: Backend, clock: ManualClock) -> None:
        tenant, lease = await one_lease(backend)
        clock.advance(seconds=1)

        ended = await backend.job_queue.complete(lease, {"sent": 3, "at": 1e22})

        assert (ended.state, ended.result, ended.finished_at) == ("succeeded", {"sent": 3, "at": 1e22}, clock.now())
        assert (ended.leased_until, ended.error) == (None, None)
        assert await backend.storages(tenant).jobs.get(ended.id) == ended
        with pytest.raises(LeaseLost):
            await backend.job_queue.complete(lease)

    async def test_a_failed_job_runs_again_after_its_delay(self, backend: Backend, clock: ManualClock) -> None:
        _, lease = await one_lease(backend)

        failed = await backend.job_queue.fail(lease, "no", error_class="ValueError", delay_s=8)

        assert (failed.state, failed.attempt, failed.error_class, failed.error) == ("queued", 1, "ValueError", "no")
        assert failed.run_at == clock.now() + timedelta(seconds=8)
        kinds = [lease.job.kind]
        clock.advance(seconds=7.999999)
        assert await backend.job_queue.lease(worker="w", kinds=kinds) == []
        clock.advance(seconds=0.000001)
        (again,) = await backend.job_queue.lease(worker="w", kinds=kinds)
        assert (again.job.attempt, again.token, again.job.error) == (2, 2, "no")

    async def test_without_a_delay_the_wait_doubles_with_jitter(self, backend: Backend, clock: ManualClock) -> None:
        _, lease = await one_lease(backend, max_attempts=4)
        for attempt in (1, 2, 3):
            failed = await backend.job_queue.fail(lease, "no")
            waits = (failed.run_at - clock.now()).total_seconds()
            assert retry_delay_s(attempt, jitter=1) <= waits <= retry_delay_s(attempt, jitter=0)
            clock.advance(seconds=2.0**attempt)
            (lease,) = await backend.job_queue.lease(worker="w", kinds=[lease.job.kind])

    async def test_a_job_without_attempts_left_is_dead_and_can_be_put_back(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, lease = await one_lease(backend, max_attempts=2)
        await backend.job_queue.fail(lease, "first", delay_s=0)
        (lease,) = await backend.job_queue.lease(worker="w", kinds=[lease.job.kind])

        dead = await backend.job_queue.fail(lease, "second", delay_s=0)

        assert (dead.state, dead.error, dead.finished_at) == ("dead", "second", clock.now())
        assert await backend.job_queue.lease(worker="w", kinds=[lease.job.kind]) == []
        jobs = backend.storages(tenant).jobs
        assert await jobs.prune(clock.now() + timedelta(days=1)) == 0, "the dead stay to be seen"
        back = await jobs.retry(dead.id)
        assert (back.state, back.attempt, back.error) == ("queued", 0, "second")
        (lease,) = await backend.job_queue.lease(worker="w", kinds=[lease.job.kind])
        assert lease.token == 3

    async def test_what_cannot_be_mended_is_dead_at_once(self, backend: Backend) -> None:
        tenant, lease = await one_lease(backend)

        dead = await backend.job_queue.fail(lease, "bad address", retryable=False)

        assert (dead.state, dead.attempt) == ("dead", 1)
        assert await backend.storages(tenant).jobs.prune("2100-01-01", dead=True) == 1

    async def test_secrets_and_strange_characters_of_an_error_are_not_kept(self, backend: Backend) -> None:
        _, lease = await one_lease(backend)

        failed = await backend.job_queue.fail(lease, "password=hunter2 \0 \ud800 " + "x" * 5_000)

        assert failed.error is not None
        assert "hunter2" not in failed.error
        assert len(failed.error) <= ERROR_MAX_CHARACTERS

    async def test_a_job_whose_worker_is_gone_is_taken_over(self, backend: Backend, clock: ManualClock) -> None:
        _, lost = await one_lease(backend, lease_s=60)
        kinds = [lost.job.kind]

        clock.advance(seconds=59.999999)
        assert await backend.job_queue.lease(worker="b", kinds=kinds) == []
        clock.advance(seconds=0.000001)
        (lease,) = await backend.job_queue.lease(worker="b", kinds=kinds)

        assert lease.job.id == lost.job.id
        assert (lease.job.attempt, lease.job.worker, lease.job.error_class) == (2, "b", LEASE_EXPIRED)
        assert lease.token > lost.token

    async def test_a_stale_worker_changes_nothing_and_is_told(self, backend: Backend, clock: ManualClock) -> None:
        tenant, stale = await one_lease(backend)
        clock.advance(seconds=61)
        (lease,) = await backend.job_queue.lease(worker="b", kinds=[stale.job.kind])
        queue = backend.job_queue

        for call in (
            lambda: queue.heartbeat(stale, done=1, total=2),
            lambda: queue.complete(stale, {"by": "a"}),
            lambda: queue.fail(stale, "no"),
            lambda: queue.release(stale),
        ):
            with pytest.raises(LeaseLost):
                await call()

        assert await backend.storages(tenant).jobs.get(lease.job.id) == lease.job
        assert (await queue.complete(lease, {"by": "b"})).result == {"by": "b"}

    async def test_a_late_worker_whose_job_nobody_took_may_still_finish(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        _, lease = await one_lease(backend)
        clock.advance(seconds=3_600)

        assert (await backend.job_queue.complete(lease)).state == "succeeded"

    async def test_a_job_that_kills_its_workers_ends_dead(self, backend: Backend, clock: ManualClock) -> None:
        tenant, lease = await one_lease(backend, max_attempts=2)
        clock.advance(seconds=61)
        assert len(await backend.job_queue.lease(worker="b", kinds=[lease.job.kind])) == 1
        clock.advance(seconds=61)

        assert await backend.job_queue.lease(worker="c", kinds=[lease.job.kind]) == []

        dead = await backend.storages(tenant).jobs.get(lease.job.id)
        assert dead is not None
        assert (dead.state, dead.error_class, dead.worker, dead.finished_at) == (
            *("dead", LEASE_EXPIRED, None),
            clock.now(),
        )

    async def test_a_heartbeat_extends_the_lease_and_notes_the_progress(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, lease = await one_lease(backend)
        clock.advance(seconds=50)

        assert await backend.job_queue.heartbeat(lease, lease_s=60, done=1, total=4, message="sending")
        assert await backend.job_queue.heartbeat(lease, lease_s=60)

        clock.advance(seconds=50)
        assert await backend.job_queue.lease(worker="b", kinds=[lease.job.kind]) == []
        job = await backend.storages(tenant).jobs.get(lease.job.id)
        assert job is not None
        assert (job.done, job.total, job.progress, job.message) == (1, 4, 0.25, "sending")

    async def test_a_running_job_is_asked_to_stop_by_its_heartbeat(self, backend: Backend, clock: ManualClock) -> None:
        tenant, lease = await one_lease(backend)
        jobs = backend.storages(tenant).jobs

        assert await jobs.cancel(lease.job.id)
        running = await jobs.get(lease.job.id)
        assert running is not None
        assert (running.state, running.cancel_requested) == ("running", True)
        assert not await backend.job_queue.heartbeat(lease)

        ended = await backend.job_queue.release(lease)
        assert (ended.state, ended.finished_at) == ("cancelled", clock.now())

    @pytest.mark.parametrize("way", ["fail", "expire"])
    async def test_a_job_that_was_asked_to_stop_does_not_run_again(
        self, backend: Backend, clock: ManualClock, way: str
    ) -> None:
        tenant, lease = await one_lease(backend)
        jobs = backend.storages(tenant).jobs
        await jobs.cancel(lease.job.id)

        if way == "fail":
            await backend.job_queue.fail(lease, "stopped", delay_s=0)
        clock.advance(seconds=61)

        assert await backend.job_queue.lease(worker="b", kinds=[lease.job.kind]) == []
        assert (await jobs.counts())["cancelled"] == 1

    async def test_a_job_that_is_given_back_has_lost_no_attempt(self, backend: Backend, clock: ManualClock) -> None:
        _, lease = await one_lease(backend)

        back = await backend.job_queue.release(lease, delay_s=5)

        assert (back.state, back.attempt, back.run_at) == ("queued", 0, clock.now() + timedelta(seconds=5))
        assert (back.worker, back.leased_until) == (None, None)
        clock.advance(seconds=5)
        (again,) = await backend.job_queue.lease(worker="b", kinds=[lease.job.kind])
        assert (again.job.attempt, again.token) == (1, 2)

    async def test_many_workers_run_every_job_exactly_once(self, backend: Backend) -> None:
        kind = new_kind()
        tenants = [await new_tenant(backend) for _ in range(3)]
        made = []
        for number in range(WORKERS * JOBS_EACH):
            jobs = backend.storages(tenants[number % len(tenants)]).jobs
            made.append((await jobs.enqueue(kind, {"n": number}, priority=number % 3)).id)
        ran: list[Any] = []

        async def work(name: str) -> None:
            for _ in range(ROUNDS_MAX):
                leases = await backend.job_queue.lease(worker=name, kinds=[kind], limit=3)
                for lease in leases:
                    ran.append(lease.job.id)
                    await backend.job_queue.complete(lease)
                if not leases and len(ran) == len(made):
                    return
                await asyncio.sleep(0)

        await asyncio.gather(*(work(f"w{number}") for number in range(WORKERS)))

        assert sorted(ran) == sorted(made)

    async def test_the_queue_is_counted_by_kind(self, backend: Backend, clock: ManualClock) -> None:
        tenant, kind, start = await new_tenant(backend), new_kind(), clock.now()
        jobs, queue = backend.storages(tenant).jobs, backend.job_queue
        for number in range(4):
            await jobs.enqueue(kind, max_attempts=1, priority=-number)
        stuck, dying = await queue.lease(worker="w", kinds=[kind], limit=2, lease_s=10)
        await queue.fail(dying, "no")
        await jobs.enqueue(kind, run_at=start + timedelta(days=1))
        clock.advance(seconds=10)
        await jobs.enqueue(kind)

        (found,) = [one for one in (await queue.stats()).kinds if one.kind == kind]

        assert (found.waiting, found.scheduled, found.running, found.stuck, found.dead) == (3, 1, 1, 1, 1)
        assert found.oldest_due_at == start
        await queue.complete(stuck)

    async def test_the_stores_own_jobs_belong_to_no_tenant(self, backend: Backend) -> None:
        kind, queue = new_kind(), backend.job_queue
        job = await queue.store.enqueue(kind, {"n": 1})

        (lease,) = await queue.lease(worker="w", kinds=[kind])

        assert lease.job.id == job.id
        assert await queue.store.get(job.id) == lease.job
        assert lease.tenant not in await queue.tenants()
        assert (await queue.complete(lease)).state == "succeeded"

    async def test_an_operator_sees_a_tenants_jobs(self, backend: Backend) -> None:
        tenant, kind = await new_tenant(backend), new_kind()
        job = await backend.storages(tenant).jobs.enqueue(kind)

        assert await backend.job_queue.of(tenant).get(job.id) == job

    async def test_tenants_with_memories_that_nobody_embeds_are_found(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, content = await new_tenant(backend), await new_tenant(backend)
        await backend.storages(content).memories.add([memory(clock, "has a job")])
        new: NewMemory = memory(clock, "has lost its job")
        await backend.storages(tenant).memories.add([new])
        before = TenantId(tenant[:-1])
        assert tenant not in await backend.job_queue.tenants_with_pending(after=before)

        for job in (await backend.storages(tenant).jobs.list()).items:
            await backend.storages(tenant).jobs.cancel(job.id)

        found = await backend.job_queue.tenants_with_pending(after=before, limit=1)
        assert found == [tenant]
        assert content not in await backend.job_queue.tenants_with_pending()

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"worker": ""}, InvalidKey),
            ({"kinds": []}, InvalidLimit),
            ({"kinds": "send"}, InvalidInput),
            ({"kinds": [f"kind.{n}" for n in range(101)]}, InvalidLimit),
            ({"limit": 0}, InvalidLimit),
            ({"limit": 101}, InvalidLimit),
            ({"lease_s": 0}, InvalidLimit),
            ({"lease_s": float("nan")}, InvalidLimit),
            ({"lease_s": True}, InvalidLimit),
        ],
    )
    async def test_a_lease_without_sense_is_refused(
        self, backend: Backend, arguments: dict[str, Any], error: type[InvalidInput]
    ) -> None:
        with pytest.raises(error):
            await backend.job_queue.lease(**{"worker": "w", "kinds": [new_kind()], **arguments})

    async def test_a_result_that_no_store_keeps_is_refused_and_the_lease_stays(self, backend: Backend) -> None:
        _, lease = await one_lease(backend)

        with pytest.raises(InvalidMetadata):
            await backend.job_queue.complete(lease, {"at": object()})
        with pytest.raises(InvalidMetadata):
            await backend.job_queue.complete(lease, [1])  # type: ignore[arg-type]

        assert (await backend.job_queue.complete(lease, {})).result == {}

    def test_the_wait_doubles_up_to_an_hour(self) -> None:
        assert [retry_delay_s(attempt, jitter=0) for attempt in (1, 2, 3, 100)] == [1, 2, 4, BACKOFF_CAP_S]
        assert retry_delay_s(3, jitter=1) == 2


async def one_lease(backend: Backend, *, max_attempts: int = 5, lease_s: float = 60) -> tuple[TenantId, LeasedJob]:
    """Make a job and lease it."""
    tenant, kind = await new_tenant(backend), new_kind()
    await backend.storages(tenant).jobs.enqueue(kind, max_attempts=max_attempts)
    (lease,) = await backend.job_queue.lease(worker="a", kinds=[kind], lease_s=lease_s)
    return tenant, lease
