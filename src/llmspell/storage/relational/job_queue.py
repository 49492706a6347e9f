"""The queue of all tenants on a database: leases, heartbeats, and how jobs end.

Rule 1: a lease is one exchange of four statements: expired leases go back, jobs whose time has come become ready, jobs are taken,
and what was taken is read by the lease's own id. Were it read in an exchange of its own, and that one failed, the call would say
that nothing happened while jobs are taken. Which kinds wait is asked before, with the first two, which are due in any case.
Rule 2: whatever a worker says of a job names the lease; a statement that finds the job in other hands changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from random import SystemRandom
from typing import Any
from uuid import UUID

from llmspell.codec import require_limit
from llmspell.errors import LeaseLost, LlmspellError
from llmspell.observe import logger
from llmspell.storage.contracts import jobs_checks as checks
from llmspell.storage.contracts.jobs import (
    EMBED_KIND,
    EXPIRED_ERROR,
    KINDS_MAX,
    LEASE_EXPIRED,
    LEASE_S,
    LEASES_MAX,
    RECLAIM_MAX,
    RESULT_MAX_BYTES,
    Job,
    Jobs,
    KindStats,
    LeasedJob,
    QueueStats,
    in_turn,
    retry_delay_s,
)
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Row, Statement, Unit
from llmspell.storage.relational.jobs import RelationalJobs, to_job
from llmspell.storage.relational.runtime import Runtime
from llmspell.tenant import NO_TENANT, STORE_TENANT, TENANT_MAX_BYTES, TenantId

CONTENTION = 64
"""Jobs of a tenant that may be in other workers' hands at this very moment, and are stepped over."""
HIGHEST_TENANT = TenantId("\U0010ffff" * (TENANT_MAX_BYTES // 4))
"""No id that a tenant can have sorts after it."""


class RelationalJobQueue:
    """`JobQueue` by the queries of `jobs.sql`."""

    def __init__(
        self,
        unit_of: Callable[[TenantId], Unit],
        operator_unit: Callable[[TenantId], Unit],
        runtime: Runtime,
        *,
        has_operator: bool = True,
        random: Callable[[], float] | None = None,
    ) -> None:
        """`has_operator`: whether `operator_unit` works at all; without it named tenants are served by their own right."""
        self._operator_unit = operator_unit
        self._unit_of = unit_of
        self._has_operator = has_operator
        self._named_unit = operator_unit if has_operator else unit_of
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.jobs
        self._random = random or SystemRandom().random
        self._after = ""  # the tenant that was served last: the next one begins the next turn

    @property
    def store(self) -> Jobs:
        return self.of(STORE_TENANT)

    def of(self, tenant: TenantId) -> Jobs:
        return RelationalJobs(self._operator_unit(tenant), self._runtime)

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
        lasts = timedelta(seconds=checks.require_lease_s(lease_s))
        named = checks.require_tenants(tenants)
        after = self._after
        take = partial(self._take, kinds=wanted, worker=worker, lasts=lasts)
        if named is None:
            found = await take(self._operator_unit(NO_TENANT), after=after, high=HIGHEST_TENANT, limit=limit)
        else:
            if self._has_operator:
                unit = self._operator_unit(NO_TENANT)
                found = await take(unit, after=after, tenants=named, limit=limit) if named else []
            else:
                turned = [*(one for one in named if one > after), *(one for one in named if one <= after)]
                found = await self._take_by_turns(turned, take, limit)
        found = in_turn(found, after)
        if found:
            self._after = found[-1].tenant
        return found

    async def _take_by_turns(
        self, turned: Sequence[TenantId], take: Callable[..., Awaitable[list[LeasedJob]]], limit: int
    ) -> list[LeasedJob]:
        """Ask tenants, each by its own right: all for the same number, then those that had it for what is left.

        What fails after some gave theirs is logged: an error would leave those jobs taken, and in nobody's hands. One that stays
        is raised by the first look that has found nothing before it.
        """
        found: list[LeasedJob] = []
        while turned and len(found) < limit:
            each = max(1, (limit - len(found)) // len(turned))
            generous = []
            for one in turned:
                if len(found) == limit:
                    break
                try:
                    taken = await take(self._unit_of(one), tenants=[one], limit=each)
                except LlmspellError as error:
                    if not found:
                        raise
                    logger.warning("the jobs of the other tenants have to wait for the next look: %s", error)
                    return found
                found += taken
                if len(taken) == each:
                    generous.append(one)
            turned = generous
        return found

    async def _take(
        self,
        unit: Unit,
        *,
        kinds: Sequence[str] | None,
        worker: str,
        limit: int,
        lasts: timedelta,
        after: str = "",
        high: str = "",
        tenants: Sequence[TenantId] = (),
    ) -> list[LeasedJob]:
        within = {"high": high, "tenants": self._dialect.array(list(tenants))}
        now = self._runtime.clock.now()
        at, until = self._dialect.instant(now), self._dialect.instant(now + lasts)
        lease_id = self._runtime.ids.new()
        mine = {"lease_id": self._dialect.id(lease_id), "until": until}
        due = {"now": at, "most": RECLAIM_MAX, **within}
        upkeep: list[Statement] = [
            (self._queries.reclaim, {**due, "error_class": LEASE_EXPIRED, "error": EXPIRED_ERROR}),
            (self._queries.wake, due),
        ]
        if kinds is None:  # which kinds wait is known when those that were due are among them
            rows = await unit.rows_after(upkeep, self._queries.waiting_kinds, most=KINDS_MAX, **within)
            upkeep, kinds = [], [row[0] for row in rows]
        taking = {
            "kinds": self._dialect.array(list(kinds)),
            "wanted": limit,
            "reach": limit + CONTENTION,
            "worker": worker,
            "now": at,
            "after": after,
            **mine,
            **within,
        }
        rows = await unit.rows_after([*upkeep, (self._queries.lease, taking)], self._queries.leased, **mine)
        return [self._leased(row, lease_id) for row in rows]

    def _leased(self, row: Row, lease_id: UUID) -> LeasedJob:
        *job, tenant, token = row
        return LeasedJob(tenant=tenant, lease_id=lease_id, token=token, job=to_job(tuple(job), self._dialect))

    async def heartbeat(
        self,
        lease: LeasedJob,
        *,
        lease_s: float = LEASE_S,
        done: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> bool:
        unit, named = self._held(lease)
        lasts = timedelta(seconds=checks.require_lease_s(lease_s))
        checks.require_progress(done, total, message)
        now = self._runtime.clock.now()
        stop = await unit.value(
            self._queries.heartbeat,
            now=self._dialect.instant(now),
            until=self._dialect.instant(now + lasts),
            done=done,
            total=total,
            message=message,
            **named,
        )
        if stop is None:
            raise lost(lease)
        return not stop

    async def complete(self, lease: LeasedJob, result: Mapping[str, Any] | None = None) -> Job:
        checked = checks.require_object(result, field="result", max_bytes=RESULT_MAX_BYTES)
        kept = None if checked is None else self._dialect.json(checked)
        return await self._end(lease, self._queries.complete, result=kept)

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
        return await self._end(
            lease,
            self._queries.fail,
            error=checks.error_text(error),
            error_class=checks.error_class(error_class),
            retryable=bool(retryable),
            run_at=self._later(wait),
        )

    async def release(self, lease: LeasedJob, *, delay_s: float = 0.0) -> Job:
        return await self._end(lease, self._queries.release, run_at=self._later(delay_s))

    def _later(self, delay_s: float) -> datetime | Any:
        return self._dialect.instant(self._runtime.clock.now() + timedelta(seconds=checks.require_delay(delay_s)))

    async def _end(self, lease: LeasedJob, query: Query, **parameters: Any) -> Job:
        unit, named = self._held(lease)
        row = await unit.row(query, now=self._dialect.instant(self._runtime.clock.now()), **parameters, **named)
        if row is None:
            raise lost(lease)
        return to_job(row, self._dialect)

    def _held(self, lease: LeasedJob) -> tuple[Unit, dict[str, Any]]:
        checks.require_lease(lease)
        named = {"id": self._dialect.id(lease.job.id), "lease_id": self._dialect.id(lease.lease_id)}
        return self._named_unit(lease.tenant), named

    async def stats(self) -> QueueStats:
        now = self._runtime.clock.now()
        rows = await self._operator_unit(NO_TENANT).rows(self._queries.stats, now=self._dialect.instant(now))
        return QueueStats(at=now, kinds=[self._kind(row) for row in rows])

    def _kind(self, row: Row) -> KindStats:
        kind, waiting, scheduled, running, stuck, dead, oldest = row
        return KindStats(
            kind=kind,
            waiting=int(waiting),
            scheduled=int(scheduled),
            running=int(running),
            stuck=int(stuck),
            dead=int(dead),
            oldest_due_at=None if oldest is None else self._dialect.to_instant(oldest),
        )

    async def tenants(self, *, after: str | None = None, limit: int = 1_000) -> list[TenantId]:
        rows = await self._operator_unit(NO_TENANT).rows(
            self._queries.tenants, after=after or "", limit=require_limit(limit)
        )
        return [TenantId(row[0]) for row in rows]

    async def tenants_with_pending(self, *, after: str | None = None, limit: int = 1_000) -> list[TenantId]:
        rows = await self._operator_unit(NO_TENANT).rows(
            self._queries.tenants_with_pending, after=after or "", kind=EMBED_KIND, limit=require_limit(limit)
        )
        return [TenantId(row[0]) for row in rows]


def lost(lease: LeasedJob) -> LeaseLost:
    """Return the error that says so."""
    return LeaseLost(id=lease.job.id, kind=lease.job.kind, token=lease.token)
