"""The worker, on a queue in memory: how handlers end, and what is noted of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    InvalidInput,
    InvalidSetting,
    JobImpossible,
    JobStopped,
    LlmspellError,
    OutcomeUnknown,
    TenantInactive,
    TenantUnknown,
    Unavailable,
)
from llmspell.ops.worker import INACTIVE_DELAY_S, JobContext, Worker, WorkerOptions
from llmspell.storage.contracts.jobs import Job, Jobs, LeasedJob
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.tenant import TenantId

LIMIT_S = 20
ACME = TenantId("acme")
KIND = "send"
QUICK = WorkerOptions(lease_s=0.03, poll_s=0.005, grace_s=LIMIT_S)
"""Heartbeats every 10 ms of the machine's time; leases expire by the clock of the test, which stands."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def backend(clock: ManualClock) -> AsyncIterator[InMemoryBackend]:
    opened = InMemoryBackend(clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def jobs(backend: InMemoryBackend) -> Jobs:
    return backend.storages(ACME).jobs


def worker_of(backend: InMemoryBackend, handler: Any, *, options: WorkerOptions = QUICK, **more: Any) -> Worker:
    return Worker(backend.job_queue, {KIND: handler}, name="w", options=options, clock=backend._clock, **more)


async def ended(worker: Worker, **how: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        await worker.run(**how)


async def found(jobs: Jobs, job: Job) -> Job:
    now = await jobs.get(job.id)
    assert now is not None
    return now


async def nothing(context: JobContext) -> None:
    del context


async def test_a_handler_gets_its_job_and_its_result_is_kept(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND, {"to": "ada"})

    async def handler(context: JobContext) -> dict[str, Any]:
        assert (context.tenant, context.kind, context.attempt, context.token) == (ACME, KIND, 1, 1)
        return {"sent": context.payload["to"]}

    await ended(worker_of(backend, handler), until_idle=True)

    done = await found(jobs, job)
    assert (done.state, done.result, done.worker) == ("succeeded", {"sent": "ada"}, "w")


async def test_a_crash_is_an_attempt_and_the_wait_is_exact(
    backend: InMemoryBackend, jobs: Jobs, clock: ManualClock
) -> None:
    job = await jobs.enqueue(KIND, max_attempts=3)

    async def handler(context: JobContext) -> NoReturn:
        raise ValueError(f"attempt {context.attempt}: password=hunter2")

    waits = []
    for _ in range(3):
        await ended(worker_of(backend, handler, random=lambda: 0.5), until_idle=True)
        failed = await found(jobs, job)
        waits.append((failed.run_at - clock.now()).total_seconds())
        clock.set(failed.run_at)

    assert waits[:2] == [0.75, 1.5]
    dead = await found(jobs, job)
    assert (dead.state, dead.attempt, dead.error_class) == ("dead", 3, "ValueError")
    assert dead.error is not None
    assert dead.error.startswith("attempt 3")
    assert "hunter2" not in dead.error


@pytest.mark.parametrize("result", [{"at": object()}, [1], "text", {"big": "x" * 70_000}, {"nan": float("nan")}])
async def test_a_malformed_result_is_an_attempt(backend: InMemoryBackend, jobs: Jobs, result: Any) -> None:
    job = await jobs.enqueue(KIND, {"raw": "kept"}, max_attempts=1)

    async def handler(context: JobContext) -> Any:
        return result

    await ended(worker_of(backend, handler), until_idle=True)

    dead = await found(jobs, job)
    assert (dead.state, dead.error_class, dead.payload) == ("dead", "MalformedResult", {"raw": "kept"})


async def test_what_no_repetition_mends_is_dead_at_once(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND)

    async def handler(context: JobContext) -> NoReturn:
        raise JobImpossible("There is no such address.")

    await ended(worker_of(backend, handler), until_idle=True)

    dead = await found(jobs, job)
    assert (dead.state, dead.attempt, dead.error_class) == ("dead", 1, "JobImpossible")


async def test_an_attempt_has_a_time_limit(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND, max_attempts=1)

    async def handler(context: JobContext) -> None:
        await asyncio.Event().wait()

    options = WorkerOptions(time_limit_s=0.01, poll_s=0.005)
    await ended(worker_of(backend, handler, options=options), until_idle=True)

    dead = await found(jobs, job)
    assert (dead.state, dead.error_class) == ("dead", "TimeLimit")


async def test_a_timeout_of_the_handlers_own_is_not_called_the_time_limit(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND, max_attempts=1)

    async def handler(context: JobContext) -> NoReturn:
        raise TimeoutError

    await ended(worker_of(backend, handler), until_idle=True)

    assert (await found(jobs, job)).error_class == "RuntimeError"


async def test_heartbeats_take_the_progress_along_while_the_handler_runs(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND)
    seen: list[float | None] = []

    async def handler(context: JobContext) -> None:
        context.report(1, 4, "halfway to half")
        while (await found(jobs, job)).progress is None:
            await asyncio.sleep(0)
        seen.append((await found(jobs, job)).progress)
        context.report(4, 4)

    await ended(worker_of(backend, handler), until_idle=True)

    assert seen == [0.25]
    assert (await found(jobs, job)).progress == 1


async def test_a_report_that_cannot_be_noted_is_the_handlers_error(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND, max_attempts=1)

    async def handler(context: JobContext) -> None:
        context.report(-1)

    await ended(worker_of(backend, handler), until_idle=True)

    assert (await found(jobs, job)).error_class == "InvalidLimit"


async def test_a_cancelled_job_is_asked_to_stop(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND)

    async def handler(context: JobContext) -> None:
        await jobs.cancel(job.id)
        while True:
            context.require_going_on()
            await asyncio.sleep(0)

    await ended(worker_of(backend, handler), until_idle=True)

    assert (await found(jobs, job)).state == "cancelled"


async def test_a_worker_that_lost_its_lease_stops_the_handler_and_says_nothing(
    backend: InMemoryBackend, jobs: Jobs, clock: ManualClock
) -> None:
    job = await jobs.enqueue(KIND)
    taken: list[LeasedJob] = []
    stopped = asyncio.Event()

    async def handler(context: JobContext) -> None:
        clock.advance(seconds=1)
        taken.extend(await backend.job_queue.lease(worker="other", kinds=[KIND]))
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    worker = worker_of(backend, handler)
    await ended(worker, max_jobs=1)

    assert stopped.is_set()
    assert worker.tally.lost == 1
    assert (await found(jobs, job)) == taken[0].job


async def test_a_result_that_comes_after_the_lease_was_taken_over_is_not_kept(
    backend: InMemoryBackend, jobs: Jobs, clock: ManualClock
) -> None:
    job = await jobs.enqueue(KIND)

    async def handler(context: JobContext) -> dict[str, Any]:
        clock.advance(seconds=1)
        await backend.job_queue.lease(worker="other", kinds=[KIND])
        return {"by": "the stale one"}

    worker = worker_of(backend, handler)
    await ended(worker, max_jobs=1)

    assert worker.tally.lost == 1
    assert (await found(jobs, job)).result is None


async def test_a_suspended_tenants_job_waits_and_loses_no_attempt(
    backend: InMemoryBackend, jobs: Jobs, clock: ManualClock
) -> None:
    job = await jobs.enqueue(KIND)

    async def handler(context: JobContext) -> NoReturn:
        raise TenantInactive(tenant=context.tenant, status="suspended")

    await ended(worker_of(backend, handler), until_idle=True)

    waiting = await found(jobs, job)
    assert (waiting.state, waiting.attempt) == ("queued", 0)
    assert (waiting.run_at - clock.now()).total_seconds() == INACTIVE_DELAY_S


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TenantInactive(tenant=ACME, status="deleted"), "dead"),
        (TenantUnknown(tenant=ACME), "dead"),
        (TenantInactive(tenant=TenantId("globex"), status="suspended"), "queued"),
        (TenantUnknown(tenant=TenantId("globex")), "queued"),
        (TenantInactive("Somebody's own words."), "queued"),
    ],
)
async def test_a_tenant_that_is_gone_ends_its_job_and_another_tenant_fails_an_attempt(
    backend: InMemoryBackend, jobs: Jobs, error: Exception, state: str
) -> None:
    job = await jobs.enqueue(KIND, max_attempts=2)

    async def handler(context: JobContext) -> NoReturn:
        raise error

    await ended(worker_of(backend, handler), until_idle=True)

    failed = await found(jobs, job)
    assert (failed.state, failed.attempt, failed.error_class) == (state, 1, type(error).__name__)


async def test_a_handler_that_stops_unasked_has_failed_an_attempt(backend: InMemoryBackend, jobs: Jobs) -> None:
    """Given back without a count it would run again at once, for ever."""
    job = await jobs.enqueue(KIND)
    runs = 0

    async def handler(context: JobContext) -> NoReturn:
        nonlocal runs
        runs += 1
        raise JobStopped

    await ended(worker_of(backend, handler), until_idle=True, max_jobs=10)

    failed = await found(jobs, job)
    assert (runs, failed.state, failed.attempt, failed.error_class) == (1, "queued", 1, "JobStopped")


async def test_what_is_logged_of_an_error_has_no_secret(
    backend: InMemoryBackend, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    await jobs.enqueue(KIND)

    async def handler(context: JobContext) -> NoReturn:
        raise ValueError("refused: Authorization: Bearer sk-abcdefghijklmnopqrstuvwx, password=hunter2")

    with caplog.at_level("DEBUG"):
        await ended(worker_of(backend, handler), until_idle=True)

    assert "ValueError: refused" in caplog.text
    assert "sk-abc" not in caplog.text
    assert "hunter2" not in caplog.text


class Stubborn:
    """A handler that does not let itself be cancelled, until the test is over."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, context: JobContext) -> None:
        self.begun.set()
        while not self.over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.over.wait()
        self.ended.set()


@pytest.fixture
async def stubborn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stubborn]:
    monkeypatch.setattr("llmspell.ops.worker.ABANDON_S", 0.01)
    handler = Stubborn()
    yield handler
    handler.over.set()
    await handler.ended.wait()


async def test_a_handler_that_does_not_let_itself_be_cancelled_holds_up_no_end(
    backend: InMemoryBackend, jobs: Jobs, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job is not given back, for it is still being done."""
    job = await jobs.enqueue(KIND)
    worker = worker_of(backend, stubborn, options=WorkerOptions(grace_s=0.01, poll_s=0.005))

    async with asyncio.timeout(LIMIT_S):
        async with worker:
            await stubborn.begun.wait()

    assert (await found(jobs, job)).state == "running"
    assert worker.tally.lost == 1
    assert "goes on although it was cancelled" in caplog.text


async def test_a_handler_that_goes_on_beyond_its_time_is_left_to_its_lease(
    backend: InMemoryBackend, jobs: Jobs, stubborn: Stubborn, clock: ManualClock
) -> None:
    job = await jobs.enqueue(KIND)
    options = WorkerOptions(lease_s=0.03, time_limit_s=0.01, grace_s=0.02, poll_s=0.005)

    worker = worker_of(backend, stubborn, options=options)
    await ended(worker, max_jobs=1)

    assert worker.tally.lost == 1
    assert (await found(jobs, job)).state == "running"
    clock.advance(seconds=1)
    (lease,) = await backend.job_queue.lease(worker="other", kinds=[KIND])
    assert (lease.job.id, lease.job.attempt) == (job.id, 2)


async def test_no_more_run_at_once_than_allowed(backend: InMemoryBackend, jobs: Jobs) -> None:
    for _ in range(12):
        await jobs.enqueue(KIND)
    running, most = 0, 0

    async def handler(context: JobContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    worker = worker_of(backend, handler, options=WorkerOptions(concurrency=3, poll_s=0.005))
    await ended(worker, until_idle=True)

    assert most == 3
    assert worker.tally.succeeded == 12


async def test_a_worker_ends_after_so_many_jobs(backend: InMemoryBackend, jobs: Jobs) -> None:
    for _ in range(5):
        await jobs.enqueue(KIND)

    worker = worker_of(backend, nothing)
    await ended(worker, max_jobs=3)

    assert worker.tally.total == 3
    assert (await jobs.counts())["queued"] == 2


async def test_a_stopped_worker_lets_its_jobs_end_and_begins_none(backend: InMemoryBackend, jobs: Jobs) -> None:
    first = await jobs.enqueue(KIND)
    begun = asyncio.Event()

    async def handler(context: JobContext) -> dict[str, bool]:
        begun.set()
        while not context.stopping:
            await asyncio.sleep(0)
        return {"stopping": True}

    async with asyncio.timeout(LIMIT_S):
        async with worker_of(backend, handler, options=WorkerOptions(concurrency=1, poll_s=0.005)):
            await begun.wait()
            await jobs.enqueue(KIND)

    assert (await found(jobs, first)).result == {"stopping": True}
    assert (await jobs.counts())["queued"] == 1


async def test_a_job_that_does_not_end_in_time_is_given_back(backend: InMemoryBackend, jobs: Jobs) -> None:
    job = await jobs.enqueue(KIND)
    begun = asyncio.Event()

    async def handler(context: JobContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    worker = worker_of(backend, handler, options=WorkerOptions(grace_s=0.01, poll_s=0.005))
    async with asyncio.timeout(LIMIT_S):
        async with worker:
            await begun.wait()

    back = await found(jobs, job)
    assert (back.state, back.attempt) == ("queued", 0)
    assert worker.tally.given_back == 1


@pytest.mark.parametrize("error", [Unavailable, OutcomeUnknown])
async def test_a_queue_that_does_not_answer_is_tried_again(
    backend: InMemoryBackend, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, error: type[LlmspellError]
) -> None:
    job = await jobs.enqueue(KIND)
    lease, complete = backend.job_queue.lease, backend.job_queue.complete
    failures = {"lease": 2, "complete": 2}

    async def failing(name: str) -> None:
        if failures[name]:
            failures[name] -= 1
            raise error("The server is being restarted.")

    async def sometimes_lease(**how: Any) -> list[LeasedJob]:
        await failing("lease")
        return await lease(**how)

    async def sometimes_complete(leased: LeasedJob, result: Mapping[str, Any] | None = None) -> Job:
        await failing("complete")
        return await complete(leased, result)

    monkeypatch.setattr(backend.job_queue, "lease", sometimes_lease)
    monkeypatch.setattr(backend.job_queue, "complete", sometimes_complete)
    await ended(worker_of(backend, nothing), until_idle=True)

    assert (await found(jobs, job)).state == "succeeded"
    assert failures == {"lease": 0, "complete": 0}


async def test_a_queue_that_stays_out_of_reach_ends_the_worker(
    backend: InMemoryBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**how: Any) -> NoReturn:
        clock.advance(seconds=100)
        raise Unavailable("The server is gone.")

    monkeypatch.setattr(backend.job_queue, "lease", fail)

    with pytest.raises(Unavailable, match="too long"):
        await ended(worker_of(backend, nothing))


async def test_what_the_configuration_forbids_ends_the_worker_at_once(
    backend: InMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**how: Any) -> NoReturn:
        raise InvalidSetting("Only the operator's role may do this.")

    monkeypatch.setattr(backend.job_queue, "lease", fail)

    with pytest.raises(InvalidSetting):
        await ended(worker_of(backend, nothing))


async def test_a_worker_without_handlers_is_refused(backend: InMemoryBackend) -> None:
    with pytest.raises(InvalidInput):
        Worker(backend.job_queue, {})
