"""The queue of all tenants in memory: every lease looks at every job of every tenant.

Rule: what one tenant's jobs become is decided in one write of that tenant's store; no two stores are ever held at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from random import SystemRandom
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock
from llmspell.codec import require_limit
from llmspell.errors import LeaseLost
from llmspell.ids import IdSource
from llmspell.storage.contracts import jobs_checks as checks
from llmspell.storage.contracts.jobs import (
    EMBED_KIND,
    EXPIRED_ERROR,
    LEASE_EXPIRED,
    LEASE_S,
    LEASES_MAX,
    RESULT_MAX_BYTES,
    Job,
    Jobs,
    KindStats,
    LeasedJob,
    QueueStats,
    retry_delay_s,
)
from llmspell.storage.contracts.pages import Cursors
from llmspell.storage.inmemory.jobs import InMemoryJobs, StoredJob, copied
from llmspell.storage.inmemory.store import AutocommitUnit, State, TenantStore
from llmspell.storage.inmemory.tenants import InMemoryTenants
from llmspell.tenant import STORE_TENANT, TenantId

UNLEASED: dict[str, Any] = {"worker": None, "leased_until": None}


class InMemoryJobQueue:
    """`JobQueue` over the stores of all tenants."""

    def __init__(
        self,
        tenants: InMemoryTenants,
        clock: Clock,
        ids: IdSource,
        *,
        cursor_key: Callable[[], Awaitable[bytes]],
        require_open: Callable[[], None],
    ) -> None:
        self._tenants = tenants
        self._clock = clock
        self._ids = ids
        self._cursor_key = cursor_key
        self._require_open = require_open
        self._random = SystemRandom().random
        self._after = ""

    @property
    def store(self) -> Jobs:
        return self.of(STORE_TENANT)

    def of(self, tenant: TenantId) -> Jobs:
        cursors = Cursors(tenant, self._cursor_key)
        return InMemoryJobs(self._unit(tenant), self._clock, self._ids, cursors)

    def _unit(self, tenant: TenantId) -> AutocommitUnit:
        def opened(*, writing: bool) -> TenantStore:
            del writing
            self._require_open()
            return self._tenants.working(tenant)

        return AutocommitUnit(opened)

    async def lease(
        self,
        *,
        worker: str,
        kinds: Sequence[str] | None = None,
        limit: int = 1,
        lease_s: float = LEASE_S,
        tenants: Sequence[TenantId] | None = None,
    ) -> list[LeasedJob]:
        wanted = checks.require_kinds(kinds)
        checks.require_worker(worker)
        require_limit(limit, maximum=LEASES_MAX)
        now = self._clock.now()
        until = now + timedelta(seconds=checks.require_lease_s(lease_s))
        named = checks.require_tenants(tenants)
        served = self._tenants.all_with_stores() if named is None else named
        known = set(self._tenants.all_with_stores())
        turned = [*(one for one in served if one > self._after), *(one for one in served if one <= self._after)]
        ready: list[tuple[int, int, TenantId, UUID]] = []
        for place, tenant in enumerate(turned):
            if tenant in known:
                due = await self._unit(tenant).write(lambda state: _ready(state, wanted, now))
                ready += [(nth, place, tenant, id) for nth, id in enumerate(due)]
        found: list[LeasedJob] = []
        lease_id = self._ids.new()
        for _, _, tenant, id in sorted(ready):
            if len(found) == limit:
                break
            leased = await self._take(tenant, id, lease_id, worker=worker, now=now, until=until)
            if leased is not None:
                found.append(leased)
        if found:
            self._after = found[-1].tenant
        return found

    async def _take(
        self, tenant: TenantId, id: UUID, lease_id: UUID, *, worker: str, now: datetime, until: datetime
    ) -> LeasedJob | None:
        def work(state: State) -> LeasedJob | None:
            stored = state.jobs.get(id)
            if stored is None or stored.job.state != "queued" or not stored.ready:
                return None  # another worker was first
            job = replace(
                stored.job,
                state="running",
                attempt=stored.job.attempt + 1,
                worker=worker,
                leased_until=until,
                done=None,
                total=None,
                message=None,
                updated_at=now,
            )
            token = stored.token + 1
            state.jobs.put(id, StoredJob(job=job, token=token, lease_id=lease_id))
            return LeasedJob(tenant=tenant, lease_id=lease_id, token=token, job=copied(job))

        return await self._unit(tenant).write(work)

    async def heartbeat(
        self,
        lease: LeasedJob,
        *,
        lease_s: float = LEASE_S,
        done: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> bool:
        checks.require_lease(lease)
        until = self._clock.now() + timedelta(seconds=checks.require_lease_s(lease_s))
        checks.require_progress(done, total, message)

        def beat(job: Job) -> Job:
            if done is not None:
                job = replace(job, done=done, total=total)
            return replace(job, leased_until=until, message=job.message if message is None else message)

        return not (await self._change(lease, beat, held=True)).cancel_requested

    async def complete(self, lease: LeasedJob, result: Mapping[str, Any] | None = None) -> Job:
        checked = checks.require_object(result, field="result", max_bytes=RESULT_MAX_BYTES)
        now = self._clock.now()

        def ended(job: Job) -> Job:
            return replace(
                job,
                state="succeeded",
                result=checked,
                error_class=None,
                error=None,
                cancel_requested=False,
                finished_at=now,
                leased_until=None,
            )

        return await self._change(lease, ended)

    async def fail(
        self,
        lease: LeasedJob,
        error: str,
        *,
        error_class: str | None = None,
        retryable: bool = True,
        delay_s: float | None = None,
    ) -> Job:
        checks.require_lease(lease)
        wait = retry_delay_s(lease.job.attempt, jitter=self._random()) if delay_s is None else delay_s
        now = self._clock.now()
        again_at = now + timedelta(seconds=checks.require_delay(wait))
        kind, text = checks.error_class(error_class), checks.error_text(error)

        def ended(job: Job) -> Job:
            failed = replace(job, error_class=kind, error=text, **UNLEASED)
            if not job.cancel_requested and (not retryable or job.attempt >= job.max_attempts):
                return replace(failed, state="dead", finished_at=now)
            return _back(failed, again_at, now)

        return await self._change(lease, ended, ready=again_at <= now)

    async def release(self, lease: LeasedJob, *, delay_s: float = 0.0) -> Job:
        now = self._clock.now()
        later = now + timedelta(seconds=checks.require_delay(delay_s))

        def given_back(job: Job) -> Job:
            run_at = later if later > now else job.run_at
            return _back(replace(job, attempt=job.attempt - 1, **UNLEASED), run_at, now)

        return await self._change(lease, given_back, ready=later <= now)

    async def _change(
        self, lease: LeasedJob, change: Callable[[Job], Job], *, held: bool = False, ready: bool = False
    ) -> Job:
        """Change a job in its lease; `held`: it stays in it, `ready`: it may run again at once."""
        checks.require_lease(lease)
        now = self._clock.now()

        def work(state: State) -> Job:
            stored = state.jobs.get(lease.job.id)
            if stored is None or stored.job.state != "running" or stored.lease_id != lease.lease_id:
                raise LeaseLost(id=lease.job.id, kind=lease.job.kind, token=lease.token)
            job = replace(change(stored.job), updated_at=now)
            state.jobs.put(job.id, replace(stored, job=job, lease_id=lease.lease_id if held else None, ready=ready))
            return copied(job)

        return await self._unit(lease.tenant).write(work)

    async def stats(self) -> QueueStats:
        now = self._clock.now()
        jobs: list[Job] = []
        for tenant in self._tenants.all_with_stores():
            jobs += [stored.job for stored in await self._unit(tenant).read(lambda state: state.jobs.rows())]
        kinds = sorted({job.kind for job in jobs if job.state in ("queued", "running", "dead")})
        return QueueStats(at=now, kinds=[_kind(kind, [job for job in jobs if job.kind == kind], now) for kind in kinds])

    async def tenants(self, *, after: str | None = None, limit: int = 1_000) -> list[TenantId]:
        require_limit(limit)
        return [one for one in self._tenants.active() if one > (after or "")][:limit]

    async def tenants_with_pending(self, *, after: str | None = None, limit: int = 1_000) -> list[TenantId]:
        require_limit(limit)
        beyond = [one for one in self._tenants.active() if one > (after or "")]
        found = [one for one in beyond if await self._unit(one).read(_neglected)]
        return found[:limit]


def _ready(state: State, kinds: Sequence[str] | None, now: datetime) -> list[UUID]:
    """Take expired leases back, note which jobs are due, and return those that may run, the most urgent first."""
    for stored in state.jobs.rows():
        job = stored.job
        if job.state == "running" and job.leased_until is not None and job.leased_until <= now:
            late = replace(job, error_class=LEASE_EXPIRED, error=EXPIRED_ERROR, updated_at=now, **UNLEASED)
            if job.cancel_requested or job.attempt < job.max_attempts:
                late = _back(late, job.run_at, now)
            else:
                late = replace(late, state="dead", finished_at=now)
            state.jobs.put(job.id, replace(stored, job=late, lease_id=None, ready=True))
        elif job.state == "queued" and not stored.ready and job.run_at <= now:
            state.jobs.put(job.id, replace(stored, ready=True))
    due = [stored.job for stored in state.jobs.rows() if stored.job.state == "queued" and stored.ready]
    due.sort(key=lambda job: (-job.priority, job.run_at, job.id))
    return [job.id for job in due if kinds is None or job.kind in kinds]


def _back(job: Job, run_at: datetime, now: datetime) -> Job:
    """Return a job that goes back into the queue, or is cancelled when that was asked for."""
    if job.cancel_requested:
        return replace(job, state="cancelled", finished_at=now)
    return replace(job, state="queued", run_at=run_at)


def _neglected(state: State) -> bool:
    pending = any(stored.record.embedding_state == "pending" for stored in state.memories.rows())
    live = any(stored.job.kind == EMBED_KIND and stored.job.finished_at is None for stored in state.jobs.rows())
    return pending and not live


def _kind(kind: str, jobs: Sequence[Job], now: datetime) -> KindStats:
    due = [job for job in jobs if job.state == "queued" and job.run_at <= now]
    running = [job for job in jobs if job.state == "running"]
    return KindStats(
        kind=kind,
        waiting=len(due),
        scheduled=sum(job.state == "queued" and job.run_at > now for job in jobs),
        running=len(running),
        stuck=sum(job.leased_until is not None and job.leased_until <= now for job in running),
        dead=sum(job.state == "dead" for job in jobs),
        oldest_due_at=min((job.run_at for job in due), default=None),
    )
