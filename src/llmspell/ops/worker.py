"""The worker: leases jobs, runs the handler of their kind, keeps their leases alive, and notes how they end.

    worker = Worker(queue, {"mail.send": send}, clock=clock)
    await worker.run(until_idle=True)

    async def send(context: JobContext) -> dict[str, int]:
        for number, address in enumerate(context.payload["to"]):
            context.report(number, len(context.payload["to"]), f"to {address}")
            ...
        return {"sent": number + 1}

Not here: what the built-in jobs do (`chores`), how a queue leases (`storage.contracts.jobs`).

Rule 1: a handler runs at least once. What it has done may be done again, so it must bear being repeated.
Rule 2: a worker that lost a lease stops the handler and says nothing more of the job: somebody else has it.
Rule 3: nothing ends the worker but `stop` and a queue that is out of reach for longer than `UNREACHABLE_MAX_S`: an error of a
handler ends an attempt, whatever it is.
Rule 4: after `stop` nothing new begins; handlers get `grace_s` to end, and what has not ended then is given back.
Rule 5: a handler that does not end when it is cancelled holds up neither the worker nor its end. Its job is not given back, for
it is still being done: the lease passes, and that was an attempt.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import SystemRandom
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec

from llmspell.clock import Clock, SystemClock
from llmspell.codec import require_limit
from llmspell.errors import (
    InvalidInput,
    InvalidMetadata,
    JobImpossible,
    JobStopped,
    LeaseLost,
    LlmspellError,
    TenantError,
    TenantUnknown,
    Unavailable,
)
from llmspell.observe import logger
from llmspell.storage.contracts.jobs import (
    LEASE_S,
    LEASES_MAX,
    RESULT_MAX_BYTES,
    JobQueue,
    LeasedJob,
    retry_delay_s,
)
from llmspell.storage.contracts.jobs_checks import error_text, require_object, require_progress, require_worker
from llmspell.tenant import TenantId

CONCURRENCY: Final = 4
POLL_S: Final = 1.0
TIME_LIMIT_S: Final = 3_600.0
GRACE_S: Final = 20.0
HEARTBEATS_PER_LEASE: Final = 3
INACTIVE_DELAY_S: Final = 600.0
"""How long a job waits whose tenant is suspended; that costs it no attempt."""
GONE: Final = ("deleted", "unknown")
"""What a tenant is that never comes back."""
UNREACHABLE_MAX_S: Final = 300.0
ABANDON_S: Final = 5.0
"""How long a handler that was cancelled may take to end; one that does not is left alone, and its job to its lease."""
REPORT_S: Final = 5.0
"""How long an end of a job is tried again to be noted while the queue is out of reach, before its lease is left to expire."""
ROUNDS_MAX: Final = 1_000_000_000


class JobContext:
    """What a handler knows of its job."""

    def __init__(self, lease: LeasedJob) -> None:
        self._lease = lease
        self._progress: tuple[int, int | None, str | None] | None = None
        self._stopping = asyncio.Event()

    @property
    def tenant(self) -> TenantId:
        """The id of the tenant whose job it is."""
        return self._lease.tenant

    @property
    def id(self) -> UUID:
        """The id of the job: the same at every attempt, so what the handler does may be keyed by it."""
        return self._lease.job.id

    @property
    def kind(self) -> str:
        """What is to be done."""
        return self._lease.job.kind

    @property
    def payload(self) -> dict[str, Any]:
        """What was enqueued."""
        return self._lease.job.payload

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._lease.job.attempt

    @property
    def token(self) -> int:
        """Rises with each lease of the job: a system beyond the store can refuse a lower one than it has seen."""
        return self._lease.token

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop, or the worker was: end soon, keeping what is done."""
        return self._stopping.is_set()

    def report(self, done: int, total: int | None = None, message: str | None = None) -> None:
        """Say how far it is; the next heartbeat takes it along.

        Raises:
            InvalidInput: it cannot be noted.
        """
        require_progress(done, total, message)
        self._progress = (done, total, message)

    def require_going_on(self) -> None:
        """Raise when the handler should end: call it between two steps of the work."""
        if self.stopping:
            raise JobStopped

    def ask_to_stop(self) -> None:
        """Let `stopping` be true."""
        self._stopping.set()

    def taken_report(self) -> dict[str, Any]:
        """Return the last report, as a heartbeat says it."""
        if self._progress is None:
            return {}
        done, total, message = self._progress
        return {"done": done, "total": total, "message": message}


Handler: TypeAlias = "Callable[[JobContext], Awaitable[Mapping[str, Any] | None] | Mapping[str, Any] | None]"
"""What runs a kind of job. A plain function runs on a thread of its own, which nothing can stop: it has to look at `stopping`."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works. `time_limit_s` is that of one attempt; `tenants` None serves all of them, as the operator."""

    concurrency: int = CONCURRENCY
    lease_s: float = LEASE_S
    poll_s: float = POLL_S
    time_limit_s: float = TIME_LIMIT_S
    grace_s: float = GRACE_S
    tenants: tuple[TenantId, ...] | None = None


class Tally(msgspec.Struct, kw_only=True):
    """What a worker has done so far, by how jobs ended."""

    succeeded: int = 0
    failed: int = 0
    given_back: int = 0
    lost: int = 0

    @property
    def total(self) -> int:
        """How many jobs it has had."""
        return self.succeeded + self.failed + self.given_back + self.lost


class Worker:
    """Runs jobs until it is stopped, or until there are none."""

    def __init__(
        self,
        queue: JobQueue,
        handlers: Mapping[str, Handler],
        *,
        name: str | None = None,
        options: WorkerOptions | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
        before_looking: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`before_looking` is called each time before the worker looks for jobs: it enqueues what is due."""
        if not isinstance(handlers, Mapping) or not handlers:
            raise InvalidInput("handlers", "must name at least one kind of job, each with its function", given=handlers)
        for kind, handler in handlers.items():
            if not callable(handler):
                problem = "must be a function of one argument, the context of the job"
                raise InvalidInput(f"handlers[{kind!r}]", problem, given=handler)
        self.name = require_worker(name or f"{socket.gethostname()}-{os.getpid()}")
        self.tally = Tally()
        self._queue = queue
        self._handlers = dict(handlers)
        self._options = options or WorkerOptions()
        require_limit(self._options.concurrency, field="concurrency", maximum=LEASES_MAX)
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom().random
        self._before_looking = before_looking
        self._running: dict[asyncio.Task[None], JobContext] = {}
        self._abandoned: set[asyncio.Task[dict[str, Any] | None]] = set()
        self._stop = asyncio.Event()
        self._unreachable_since: float | None = None
        self._beside: asyncio.Task[Tally] | None = None

    async def __aenter__(self) -> Worker:
        """Work beside whatever the block does."""
        self._beside = asyncio.create_task(self.run(), name=f"worker {self.name}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop; an error that ended the worker is raised here."""
        self.stop()
        if self._beside is not None:
            await self._beside

    def stop(self) -> None:
        """Begin nothing new and end: safe in a signal handler."""
        self._stop.set()
        for context in self._running.values():
            context.ask_to_stop()

    async def run(self, *, until_idle: bool = False, max_jobs: int | None = None) -> Tally:
        """Work until `stop`, or until no job may run now (`until_idle`), or `max_jobs` have begun; return what was done.

        Raises:
            InvalidSetting: serving all tenants needs the operator's role, and the store was opened without it.
            Unavailable: the queue was out of reach for longer than `UNREACHABLE_MAX_S`.
        """
        begun = 0
        try:
            for _ in range(ROUNDS_MAX):
                if self._stop.is_set():
                    break
                left = self._options.concurrency - len(self._running)
                if max_jobs is not None:
                    left = min(left, max_jobs - begun)
                leases = await self._look(left) if left else []
                if self._stop.is_set():
                    await asyncio.gather(*(self._note_released(lease) for lease in leases))
                    break
                for lease in leases:
                    self._begin(lease)
                begun += len(leases)
                exhausted = max_jobs is not None and begun >= max_jobs
                if not self._running and (exhausted or (until_idle and not leases and self._unreachable_since is None)):
                    break
                if len(leases) < left or not left:
                    await self._wait(None if exhausted or not left else self._options.poll_s)
        finally:
            await self._wind_up()
        return self.tally

    async def _look(self, limit: int) -> list[LeasedJob]:
        """Lease jobs; a queue out of reach is tried again at the next look."""
        try:
            if self._before_looking is not None:
                await self._before_looking()
            leases = await self._queue.lease(
                worker=self.name,
                kinds=sorted(self._handlers),
                limit=min(limit, LEASES_MAX),
                lease_s=self._options.lease_s,
                tenants=self._options.tenants,
            )
        except LlmspellError as error:
            if not _may_pass(error):
                raise
            since = self._clock.monotonic() if self._unreachable_since is None else self._unreachable_since
            self._unreachable_since = since
            if self._clock.monotonic() - since > UNREACHABLE_MAX_S:
                raise Unavailable("The queue has been out of reach for too long.", after_s=UNREACHABLE_MAX_S) from error
            logger.warning("looking for jobs failed, which will be tried again: %s", error_text(error))
            return []
        self._unreachable_since = None
        return leases

    def _begin(self, lease: LeasedJob) -> None:
        context = JobContext(lease)
        task = asyncio.create_task(self._work(lease, context), name=f"{lease.job.kind} {lease.job.id}")
        self._running[task] = context
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and task.exception() is not None:
            logger.error("a job was left to its lease: %s", error_text(task.exception()))

    async def _wait(self, limit_s: float | None) -> None:
        """Wait until a job ends, the worker is stopped, or it is time to look again."""
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            waited = {*self._running, stopped}
            await asyncio.wait(waited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()

    async def _wind_up(self) -> None:
        """Let what runs end, or stop it and give it back."""
        for context in self._running.values():
            context.ask_to_stop()
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._options.grace_s)
        left = set(self._running)
        for task in left:
            task.cancel()
        if left:
            _, unended = await asyncio.wait(left, timeout=ABANDON_S + 2 * REPORT_S)
            for task in unended:
                logger.error("%s could not be ended, and is left to its lease", task.get_name())

    # --- one job ------------------------------------------------------------------------------------------------------

    async def _work(self, lease: LeasedJob, context: JobContext) -> None:
        handling = asyncio.create_task(self._handle(context))
        keeping = asyncio.create_task(self._keep_alive(lease, context))
        try:
            await asyncio.wait({handling, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():  # the lease is gone, or soon will be: whoever has it then does the work
                await self._cancelled(handling, lease)
                self.tally.lost += 1
                return
            keeping.cancel()
            await asyncio.wait({keeping})
            await self._note(lease, context, handling)
        except asyncio.CancelledError:
            if await self._cancelled(handling, lease):
                await self._note_released(lease)
            else:
                self.tally.lost += 1
            raise
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _cancelled(self, handling: asyncio.Task[dict[str, Any] | None], lease: LeasedJob) -> bool:
        """Cancel a handler and say whether it has ended."""
        handling.cancel()
        ended, _ = await asyncio.wait({handling}, timeout=ABANDON_S)
        if not ended:
            logger.error(
                "the handler of %s goes on although it was cancelled, and is left alone; job %s is left to its lease",
                lease.job.kind,
                lease.job.id,
            )
            self._abandoned.add(handling)
        handling.add_done_callback(self._forget)
        return bool(ended)

    def _forget(self, handling: asyncio.Task[dict[str, Any] | None]) -> None:
        self._abandoned.discard(handling)
        if not handling.cancelled():
            handling.exception()  # nobody waits for it any more: it counts as seen

    async def _handle(self, context: JobContext) -> dict[str, Any] | None:
        async with asyncio.timeout(self._options.time_limit_s) as limit:
            try:
                result = await _called(self._handlers[context.kind], context)
            except TimeoutError:
                if limit.expired():
                    raise
                raise RuntimeError("The handler waited in vain for something of its own.") from None
        return require_object(result, field="result", max_bytes=RESULT_MAX_BYTES)

    async def _keep_alive(self, lease: LeasedJob, context: JobContext) -> None:
        """Extend the lease until it is lost, or the handler must have ended: one that goes on has not heard of its time limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.time_limit_s + self._options.grace_s):
                await self._heartbeats(lease, context)

    async def _heartbeats(self, lease: LeasedJob, context: JobContext) -> None:
        """Extend the lease until it is lost. While the queue is out of reach, go on until the lease must have passed."""
        alive_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(self._options.lease_s / HEARTBEATS_PER_LEASE)
            try:
                asked_at = self._clock.monotonic()
                report = context.taken_report()
                if not await self._queue.heartbeat(lease, lease_s=self._options.lease_s, **report):
                    context.ask_to_stop()
                alive_at = asked_at
            except LeaseLost:
                return
            except LlmspellError as error:
                logger.warning("a heartbeat of %s failed: %s", lease.job.kind, error_text(error))
                if self._clock.monotonic() - alive_at >= self._options.lease_s:
                    return

    async def _note(self, lease: LeasedJob, context: JobContext, handling: asyncio.Task[dict[str, Any] | None]) -> None:
        """Note how a handler ended."""
        error = (
            handling.exception() if not handling.cancelled() else asyncio.CancelledError("The handler was cancelled.")
        )
        try:
            if error is None:
                await self._tried(lambda: self._last_words(lease, context, handling.result()))
                self.tally.succeeded += 1
            elif isinstance(error, JobStopped) and context.stopping:
                await self._note_released(lease)
            elif _status(error, lease.tenant) == "suspended":
                await self._note_released(lease, delay_s=INACTIVE_DELAY_S)
            else:
                await self._note_failed(lease, error)
                self.tally.failed += 1
        except LeaseLost:
            self.tally.lost += 1

    async def _last_words(self, lease: LeasedJob, context: JobContext, result: dict[str, Any] | None) -> object:
        report = context.taken_report()
        if report:
            await self._queue.heartbeat(lease, lease_s=self._options.lease_s, **report)
        return await self._queue.complete(lease, result)

    async def _note_failed(self, lease: LeasedJob, error: BaseException) -> None:
        if isinstance(error, TimeoutError):
            kind, text = "TimeLimit", f"The attempt took longer than {self._options.time_limit_s:g} s."
        elif isinstance(error, JobStopped):
            kind, text = "JobStopped", "The handler stopped although nobody had asked it to."
        else:
            kind, text = type(error).__name__, str(error) or type(error).__name__
        if isinstance(error, InvalidMetadata) and error.field.partition(".")[0].partition("[")[0] == "result":
            kind = "MalformedResult"
        text = error_text(text)
        retryable = not isinstance(error, JobImpossible) and _status(error, lease.tenant) not in GONE
        logger.warning("%s failed at attempt %d: %s: %s", lease.job.kind, lease.job.attempt, kind, text)
        delay_s = retry_delay_s(lease.job.attempt, jitter=self._random())
        await self._tried(lambda: self._queue.fail(lease, text, error_class=kind, retryable=retryable, delay_s=delay_s))

    async def _note_released(self, lease: LeasedJob, *, delay_s: float = 0.0) -> None:
        try:
            await self._tried(lambda: self._queue.release(lease, delay_s=delay_s))
            self.tally.given_back += 1
        except LeaseLost:
            self.tally.lost += 1

    async def _tried(self, call: Callable[[], Awaitable[object]]) -> None:
        """Note an end; again while the queue is out of reach, as long as that makes sense."""
        deadline = self._clock.monotonic() + REPORT_S
        pause_s = POLL_S / 10
        while True:
            try:
                await call()
                return
            except LlmspellError as error:
                if not _may_pass(error) or self._clock.monotonic() >= deadline:
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2


def _may_pass(error: LlmspellError) -> bool:
    """Say whether to ask the queue again. Also after a lost answer: jobs that were taken unheard come back when their lease
    passes, and an end that was noted unheard makes its repetition a `LeaseLost`."""
    return error.retryable or error.outcome == "unknown"


def _status(error: BaseException | None, tenant: TenantId) -> str | None:
    """Return what an error says of the tenant whose job it is: suspended, deleted or unknown; None when it says nothing."""
    if not isinstance(error, TenantError) or error.fields.get("tenant") != tenant:
        return None
    return "unknown" if isinstance(error, TenantUnknown) else str(error.fields.get("status"))


async def _called(handler: Handler, context: JobContext) -> Mapping[str, Any] | None:
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        made = handler(context)
    else:
        made = await asyncio.to_thread(handler, context)
    return await made if inspect.isawaitable(made) else made
