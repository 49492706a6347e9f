"""Durable jobs: work that must happen, enqueued together with the data that it is for, and leased to workers.

    queued ──lease──▶ running ──complete──▶ succeeded
      ▲                  │ fail, lease expired
      ├──── attempts left┤
      └───── retry ── dead ◀── none left          cancelled ◀── cancel

Not here: the worker that runs handlers (`ops.worker`), what the built-in jobs do (`chores`).

Rule 1: a job runs at least once; it has an effect once when its handler can be repeated. A worker whose lease has passed to
another one changes nothing any more (`LeaseLost`); `token` rises with each lease, for systems beyond the store.
Rule 2: every lease counts as an attempt, also one that nobody ended; after `max_attempts` a job is dead, and stays to be seen.
Rule 3: tenants take turns, from one lease to the next: each gives one job before any gives a second. Within a tenant the order is
priority (the higher first), `run_at`, id; so no tenant gets before another one by calling its jobs urgent, or by having many.
Rule 4: whether a lease has passed is decided by the injected clock, at the next lease; a job is never freed by time alone. So is
whether the time of a job has come; one that was found due stays so when the clock goes back.
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Literal, Protocol, TypeAlias, get_args
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page
from llmspell.tenant import TenantId

JobState: TypeAlias = Literal["queued", "running", "succeeded", "dead", "cancelled"]
JOB_STATES: tuple[JobState, ...] = get_args(JobState)
FINISHED: tuple[JobState, ...] = ("succeeded", "dead", "cancelled")

MAX_ATTEMPTS = 5
LEASE_S = 60.0
KIND_MAX_BYTES = 128
DEDUPE_KEY_MAX_BYTES = 512
PAYLOAD_MAX_BYTES = 65_536
RESULT_MAX_BYTES = 65_536
WORKER_MAX_BYTES = 255
MESSAGE_MAX_CHARACTERS = 500
ERROR_MAX_CHARACTERS = 2_000
ERROR_CLASS_MAX_BYTES = 255
PRIORITY_MAX = 1_000_000
ATTEMPTS_LIMIT_MAX = 100
LEASE_MAX_S = 86_400.0
DELAY_MAX_S = 366 * 86_400.0
LEASES_MAX = 100
"""Jobs that one call leases at most."""
KINDS_MAX = 100
SERVED_MAX = 10_000
"""Tenants that one call of `lease` names at most."""
RECLAIM_MAX = 1_000
"""Expired leases, and jobs whose time has come, that one call of `lease` takes care of before it looks for work."""
BACKOFF_FIRST_S = 1.0
BACKOFF_CAP_S = 3_600.0
EMBED_KIND = "memories.embed"
"""The kind of the job that waits wherever memories wait for an embedding."""
LEASE_EXPIRED = "LeaseExpired"
"""The class of error of an attempt that nobody ended."""
EXPIRED_ERROR = "The worker gave no sign of life until its lease had passed."


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `attempt` counts leases since it was enqueued or retried; `error` is that of the last attempt that failed.

    `worker` and `leased_until` say who runs it, and until when that is believed without a sign of life. A handler reports
    `done` of `total`, and a `message`.
    """

    id: UUID
    kind: str
    payload: dict[str, Any]
    state: JobState
    priority: int
    dedupe_key: str | None
    attempt: int
    max_attempts: int
    run_at: datetime
    worker: str | None
    leased_until: datetime | None
    cancel_requested: bool
    done: int | None
    total: int | None
    message: str | None
    error_class: str | None
    error: str | None
    result: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def progress(self) -> float | None:
        """How far it is, 0 to 1; None when its handler has not said."""
        if self.done is None or not self.total:
            return None
        return min(1.0, self.done / self.total)


class LeasedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the hands of a worker: what `heartbeat`, `complete`, `fail` and `release` need."""

    tenant: TenantId
    lease_id: UUID
    token: int
    job: Job


class KindStats(msgspec.Struct, frozen=True, kw_only=True):
    """The queue of one kind, over all tenants. `oldest_due_at` is the `run_at` of the job that has waited longest."""

    kind: str
    waiting: int
    scheduled: int
    running: int
    stuck: int
    dead: int
    oldest_due_at: datetime | None


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """The queue at an instant, by kind. `stuck`: running by a lease that has passed."""

    at: datetime
    kinds: list[KindStats]


class Jobs(Protocol):
    """A tenant's jobs: `tenant.jobs`, and `tx.jobs` inside a transaction, with the data that they are for."""

    async def enqueue(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        run_at: datetime | str | None = None,
        priority: int = 0,
        max_attempts: int = MAX_ATTEMPTS,
        dedupe_key: str | None = None,
        id: UUID | str | None = None,
    ) -> Job:
        """Keep a job to be run by a worker that knows its kind; with `dedupe_key`, return the live one that has it already.

        `run_at`: not before this instant (default: now). `priority`: the higher comes first among this tenant's jobs.

        Raises:
            AlreadyExists: the id is taken.
        """
        ...

    async def get(self, id: UUID | str) -> Job | None:
        """Return a job, or None."""
        ...

    async def list(
        self,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        """Return a page of jobs, the latest first."""
        ...

    async def cancel(self, id: UUID | str) -> bool:
        """Cancel a queued job, or ask a running one to stop; say whether there was either."""
        ...

    async def retry(self, id: UUID | str) -> Job:
        """Put a dead or cancelled job back into the queue, with all its attempts before it.

        Raises:
            NotFound: no such job.
            IllegalTransition: it is neither dead nor cancelled.
            AlreadyExists: another live job has its `dedupe_key`.
        """
        ...

    async def counts(self) -> dict[str, int]:
        """Count the jobs of each state."""
        ...

    async def prune(self, before: datetime | str, *, dead: bool = False, limit: int = 1_000) -> int:
        """Delete at most `limit` jobs that succeeded or were cancelled before an instant (or that died: `dead`).

        Return how many; call again while it returns `limit`.
        """
        ...


class JobQueue(Protocol):
    """The queue of all tenants, as workers and operators use it: `backend.job_queue`.

    Where the database isolates tenants, everything here but work for named tenants needs the operator's role.
    """

    @property
    def store(self) -> Jobs:
        """The jobs of the store as a whole, which belong to no tenant."""
        ...

    def of(self, tenant: TenantId) -> Jobs:
        """Return a tenant's jobs by the operator's right: also those of a suspended one."""
        ...

    async def lease(
        self,
        *,
        worker: str,
        kinds: Sequence[str] | None = None,
        limit: int = 1,
        lease_s: float = LEASE_S,
        tenants: Sequence[TenantId] | None = None,
    ) -> builtins.list[LeasedJob]:
        """Take at most `limit` jobs that may run now, of `kinds` (default: any), for `lease_s` seconds.

        Jobs whose lease has passed go back first; one without attempts left is dead. `tenants`: serve these alone, which
        works without the operator's role.
        """
        ...

    async def heartbeat(
        self,
        lease: LeasedJob,
        *,
        lease_s: float = LEASE_S,
        done: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> bool:
        """Stay in charge for `lease_s` more seconds and note the progress; False: the job was asked to stop.

        Raises:
            LeaseLost: the lease is no longer this worker's.
        """
        ...

    async def complete(self, lease: LeasedJob, result: Mapping[str, Any] | None = None) -> Job:
        """Note that a job succeeded.

        Raises:
            LeaseLost: the lease is no longer this worker's; nothing was noted.
        """
        ...

    async def fail(
        self,
        lease: LeasedJob,
        error: str,
        *,
        error_class: str | None = None,
        retryable: bool = True,
        delay_s: float | None = None,
    ) -> Job:
        """Note that an attempt failed: the job runs again after a while, or is dead; one that was asked to stop is cancelled.

        `delay_s` (default: `retry_delay_s`) is how long it waits. Secrets in `error` are masked.

        Raises:
            LeaseLost: the lease is no longer this worker's; nothing was noted.
        """
        ...

    async def release(self, lease: LeasedJob, *, delay_s: float = 0.0) -> Job:
        """Give a job back as it was, without counting the attempt; one that was asked to stop is cancelled.

        Raises:
            LeaseLost: the lease is no longer this worker's; nothing was noted.
        """
        ...

    async def stats(self) -> QueueStats:
        """Count what waits, runs, is stuck and is dead, over all tenants."""
        ...

    async def tenants(self, *, after: str | None = None, limit: int = 1_000) -> builtins.list[TenantId]:
        """Return active tenants beyond `after`, in byte order: for a job that goes through all of them."""
        ...

    async def tenants_with_pending(self, *, after: str | None = None, limit: int = 1_000) -> builtins.list[TenantId]:
        """Return tenants beyond `after` that have memories without embedding and no live job that would embed them."""
        ...


def in_turn(leases: Sequence[LeasedJob], after: str) -> list[LeasedJob]:
    """Return leases, which are in order within each tenant, as the tenants take turns: those beyond `after` begin.

    The tenant of the last one is the `after` of the next turn.
    """
    given: Counter[TenantId] = Counter()
    placed: list[tuple[int, bool, TenantId, LeasedJob]] = []
    for lease in leases:
        given[lease.tenant] += 1
        placed.append((given[lease.tenant], lease.tenant <= after, lease.tenant, lease))
    return [lease for *_, lease in sorted(placed, key=itemgetter(0, 1, 2))]


def retry_delay_s(attempt: int, *, jitter: float) -> float:
    """Return how long a job waits after its `attempt`th failure: 1 s, doubled each time, an hour at most.

    `jitter` (0 to 1) takes up to half of it away, so that jobs that failed together do not come back together.
    """
    whole = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** (min(attempt, ATTEMPTS_LIMIT_MAX) - 1))
    return whole * (1.0 - jitter / 2.0)
