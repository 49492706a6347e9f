"""The jobs that come with llmspell: what each does, and which of them a worker enqueues by itself.

Not here: when jobs run, and what happens when one fails (`ops.worker`).

To add one: write its handler and name it in `handlers`; if it recurs, give it a line in `TIMETABLE`. What has a time to live joins
`expire` by a line in `EXPIRIES`.

Rule 1: every handler may be repeated at any point: it goes on from what it finds in the store.
Rule 2: every handler works in bounded steps, and asks between two of them whether it shall stop.
Rule 3: a recurring job has an id made of its kind and its period, so of all workers one enqueues it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid5

from llmspell.clock import Clock, to_microseconds
from llmspell.errors import (
    AlreadyExists,
    JobError,
    JobImpossible,
    JobStopped,
    LlmspellError,
    QuotaExceeded,
    TenantError,
    TenantUnknown,
)
from llmspell.observe import logger
from llmspell.ops.worker import Handler, JobContext
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.contracts.jobs import EMBED_KIND, Jobs
from llmspell.tenant import STORE_TENANT, TenantId

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.spell import Spell, Tenant

EXPIRE_KIND: Final = "expire"
EMBED_SWEEP_KIND: Final = "memories.embed_sweep"
PROMOTE_KIND: Final = "vectors.promote"
PROMOTE_SWEEP_KIND: Final = "vectors.promote_sweep"
PARTITIONS_KIND: Final = "event_log.partitions"
BACKUP_KIND: Final = "backup"

PAGE: Final = 1_000
STEP: Final = 1_000
"""Rows that one step of an expiry deletes, and memories that one step embeds."""
STEPS_MAX: Final = 100
"""Steps that one job takes for one tenant and one concern; the next period goes on."""
PROMOTE_STEP: Final = 2_500
"""Vectors that move into the approximate index between two looks at whether to stop."""
PAGES_MAX: Final = 1_000_000
MICROSECONDS: Final = 1_000_000
PERIODS: Final = UUID("6d1d3c1e-8f0b-5a86-9d4e-0a2f6f3f7b11")
"""The name space of the ids of recurring jobs."""

Expiry = Callable[["Tenant", int], Awaitable[int]]
"""Deletes at most so many rows of a tenant whose time has passed, and returns how many."""


async def _expired_keys(tenant: Tenant, limit: int) -> int:
    return await tenant.kv.delete_expired(limit=limit)


async def _expired_memories(tenant: Tenant, limit: int) -> int:
    return await tenant.memory.delete_expired(limit=limit)


async def _expired_sessions(tenant: Tenant, limit: int) -> int:
    await tenant.sessions.expire(limit=limit)
    return await tenant.sessions.delete_expired(limit=limit)


async def _old_hook_executions(tenant: Tenant, limit: int) -> int:
    return await tenant.hook_history.apply_retention(limit=limit)


async def _forgotten_idempotency_keys(tenant: Tenant, limit: int) -> int:
    return await tenant._storages.idempotency.expire(limit=limit)


async def _expired_provider_keys(tenant: Tenant, limit: int) -> int:
    return await tenant.api_keys.expire(limit=limit)


async def _expired_access_keys(tenant: Tenant, limit: int) -> int:
    return await tenant.access_keys.expire(limit=limit)


EXPIRIES: dict[str, Expiry] = {
    "kv": _expired_keys,
    "memories": _expired_memories,
    "sessions": _expired_sessions,
    "hook_history": _old_hook_executions,
    "idempotency": _forgotten_idempotency_keys,
    "api_keys": _expired_provider_keys,
    "access_keys": _expired_access_keys,
}
"""What has a time to live, by concern."""


class Recurring(NamedTuple):
    """A job that a worker enqueues once in each period."""

    kind: str
    interval_s: Callable[[Settings], float]
    available: Callable[[Backend], bool]
    """Whether the store has what it takes care of."""
    for_tenants: bool
    """Whether it is of use for a single tenant, to a worker that serves named ones."""


def _promotes(backend: Backend) -> bool:
    return Capability.ANN_PROMOTION in backend.capabilities


def _partitions(backend: Backend) -> bool:
    return Capability.EVENT_PARTITIONS in backend.capabilities


def _lasts(backend: Backend) -> bool:
    return Capability.PERSISTENT in backend.capabilities


def _backup_interval_s(settings: Settings) -> float:
    return settings.backup.interval_s if settings.backup.enabled else 0.0


TIMETABLE: tuple[Recurring, ...] = (
    Recurring(EXPIRE_KIND, lambda settings: settings.jobs.expire_interval_s, lambda _: True, for_tenants=True),
    Recurring(EMBED_SWEEP_KIND, lambda settings: settings.jobs.embed_interval_s, lambda _: True, for_tenants=False),
    Recurring(PROMOTE_SWEEP_KIND, lambda settings: settings.jobs.promote_interval_s, _promotes, for_tenants=False),
    Recurring(PARTITIONS_KIND, lambda settings: settings.jobs.partitions_interval_s, _partitions, for_tenants=False),
    Recurring(BACKUP_KIND, _backup_interval_s, _lasts, for_tenants=False),
)


class Timetable:
    """Enqueues the recurring jobs: call it before looking for work."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        tenants: tuple[TenantId, ...] | None,
        *,
        builtin: bool = True,
    ) -> None:
        """`tenants`: those that the worker serves; None for all of them, where the jobs are the store's own. Without `builtin`
        nothing recurs.
        """
        self._clock = clock
        self._settings = settings
        useful = [one for one in TIMETABLE if one.available(backend) and (tenants is None or one.for_tenants)]
        self._due = useful if builtin else []
        self._unseen = list(tenants or ())
        self._backend = backend
        self._tenants = (STORE_TENANT,) if tenants is None else tenants
        self._periods: dict[str, int] = {}

    async def __call__(self) -> None:
        """Enqueue what has come due since the last call; the first time, look whether the tenants are there.

        Raises:
            TenantUnknown: one that the worker shall serve is not registered, where no write would create it.
        """
        while self._unseen:
            await self._require_served(self._unseen.pop())
        now = to_microseconds(self._clock.now())
        for one in self._due:
            interval_s = one.interval_s(self._settings)
            if not interval_s:
                continue
            period = now // round(interval_s * MICROSECONDS)
            if self._periods.get(one.kind) != period:
                for tenant in self._tenants:
                    await self._enqueue(tenant, one.kind, f"{tenant}/{one.kind}/{interval_s:g}/{period}")
                self._periods[one.kind] = period

    async def _require_served(self, tenant: TenantId) -> None:
        record = await self._backend.tenants.get(tenant)
        if record is None and not self._backend.auto_create_tenants:
            raise TenantUnknown(tenant=tenant)
        if record is None or record.status != "active":
            logger.warning(
                "the tenant %r has no jobs to serve now: it is %s", tenant, record.status if record else "unknown"
            )

    async def _enqueue(self, tenant: TenantId, kind: str, period: str) -> None:
        if tenant == STORE_TENANT:
            jobs = self._backend.job_queue.store
        else:
            record = await self._backend.tenants.get(tenant)
            if record is None or record.status != "active":
                return  # nobody's name, or not to be served now
            jobs = self._backend.storages(tenant).jobs
        try:
            # With a key as well: while the job of a period before has not ended, there is no second one.
            await jobs.enqueue(kind, id=uuid5(PERIODS, period), dedupe_key="recurring")
        except AlreadyExists:
            return  # another worker was first


def handlers(spell: Spell, backend: Backend, clock: Clock) -> dict[str, Handler]:
    """Return the handlers of the built-in jobs that this store can do."""
    chores = Chores(spell, backend, clock)
    found: dict[str, Handler] = {
        EMBED_KIND: chores.embed,
        EMBED_SWEEP_KIND: chores.sweep_embeddings,
        EXPIRE_KIND: chores.expire,
    }
    if _promotes(backend):
        found |= {PROMOTE_KIND: chores.promote, PROMOTE_SWEEP_KIND: chores.sweep_promotions}
    if _partitions(backend):
        found[PARTITIONS_KIND] = chores.make_partitions
    if _lasts(backend):
        found[BACKUP_KIND] = chores.back_up
    return found


class Chores:
    """The built-in handlers, bound to a store."""

    def __init__(self, spell: Spell, backend: Backend, clock: Clock) -> None:
        self._spell = spell
        self._clock = clock
        self._backend = backend
        self._queue = backend.job_queue

    async def embed(self, context: JobContext) -> dict[str, Any]:
        """Embed a tenant's memories that wait for it."""
        memory, done = self._spell.tenant(context.tenant).memory, 0
        for _ in range(PAGES_MAX):
            context.require_going_on()
            try:
                count = await memory.embed_pending(limit=STEP, progress=partial(_report_beyond, context, done))
            except QuotaExceeded as error:
                # No failure of the job: the memories wait, and the next look for such finds them when there is room again.
                return {"embedded": done, "stopped_by": str(error.fields["quota"])}
            done += count
            context.report(done)
            if count < STEP:
                break
        return {"embedded": done}

    async def sweep_embeddings(self, context: JobContext) -> dict[str, Any]:
        """Enqueue the job that embeds, for tenants whose memories wait and have none: theirs died or was cancelled."""
        found = 0
        async for tenant in self._pages(context, self._queue.tenants_with_pending):
            await self._queue.of(tenant).enqueue(EMBED_KIND, dedupe_key="sweep")
            found += 1
        return {"tenants": found}

    async def expire(self, context: JobContext) -> dict[str, Any]:
        """Delete what has expired: of one tenant, or of all active ones, and of the store's own jobs."""
        deleted: dict[str, int] = {}
        failed: LlmspellError | None = None
        tenants = 0
        async for tenant in self._tenants_of(context):
            tenants += 1
            context.report(tenants, None, "tenants")
            try:
                await self._expire(context, tenant, deleted)
            except JobError:
                raise
            except TenantError:
                continue  # suspended or deleted meanwhile
            except LlmspellError as error:
                # One tenant's trouble must not keep another's rows: the others first, then this job is tried again.
                logger.warning("what has expired was not deleted for a tenant: %s", error)
                failed = error
        if context.tenant == STORE_TENANT:
            deleted["jobs"] = deleted.get("jobs", 0) + await self._prune(context, self._queue.store)
        if failed is not None:
            raise failed
        return {"tenants": tenants, "deleted": deleted}

    async def _expire(self, context: JobContext, name: TenantId, deleted: dict[str, int]) -> None:
        tenant = self._spell.tenant(name)
        for concern, expiry in EXPIRIES.items():
            for _ in range(STEPS_MAX):
                context.require_going_on()
                count = await expiry(tenant, STEP)
                deleted[concern] = deleted.get(concern, 0) + count
                if count < STEP:
                    break
        deleted["jobs"] = deleted.get("jobs", 0) + await self._prune(context, tenant.jobs)

    async def _prune(self, context: JobContext, jobs: Jobs) -> int:
        settings, now, total = self._spell.settings.jobs, self._clock.now(), 0
        for dead, keep_s in ((False, settings.keep_finished_s), (True, settings.keep_dead_s)):
            for _ in range(STEPS_MAX):
                context.require_going_on()
                count = await jobs.prune(now - timedelta(seconds=keep_s), dead=dead, limit=STEP)
                total += count
                if count < STEP:
                    break
        return total

    async def promote(self, context: JobContext) -> dict[str, Any]:
        """Move one space of a tenant into the approximate index."""
        space_id, dimension = _space(context.payload)
        moved = 0
        for _ in range(PAGES_MAX):
            context.require_going_on()
            count = await self._backend.promote(context.tenant, space_id, dimension=dimension, limit=PROMOTE_STEP)
            moved += count
            context.report(moved)
            if count < PROMOTE_STEP:
                break
        return {"moved": moved}

    async def sweep_promotions(self, context: JobContext) -> dict[str, Any]:
        """Enqueue a promotion for every space that has outgrown exact search."""
        threshold, found, after = self._spell.settings.jobs.promote_threshold, 0, None
        for _ in range(PAGES_MAX):
            context.require_going_on()
            page = await self._backend.promotable(threshold=threshold, after=after, limit=PAGE)
            for space in page:
                payload = {"space_id": space.space_id, "dimension": space.dimension}
                await self._queue.of(space.tenant).enqueue(PROMOTE_KIND, payload, dedupe_key=space.space_id)
            found += len(page)
            context.report(found)
            if len(page) < PAGE:
                break
            after = (page[-1].tenant, page[-1].space_id)
        return {"spaces": found}

    async def make_partitions(self, context: JobContext) -> dict[str, Any]:
        """Make the partitions of the event log ahead."""
        del context
        lines = await self._backend.ensure_event_partitions()
        return {"made": [line for line in lines if line.startswith("CREATED")]}

    async def back_up(self, context: JobContext) -> dict[str, Any]:
        """Back up the whole store, verify the backup, and delete those that need not be kept. A repetition takes another one.

        It runs on a thread. When this is cancelled, the thread ends at its next step, and what it has put does not count.
        """
        if context.tenant != STORE_TENANT:
            raise JobImpossible("A backup holds all tenants, so it is no job of one.", tenant=context.tenant)
        from llmspell.ops.backup import Backups

        abandoned = threading.Event()

        def going_on() -> None:
            context.require_going_on()
            if abandoned.is_set():
                raise JobStopped("The backup was given up.")

        backups = Backups(
            self._spell.settings,
            clock=self._clock,
            progress=lambda step, done, total: context.report(done, total or None, step),
            going_on=going_on,
        )
        try:
            record = await asyncio.to_thread(backups.create)
            pruned = await asyncio.to_thread(backups.prune)
        finally:
            abandoned.set()
        return {"backup": record.id, "state": record.state, "bytes": record.stored_bytes, "pruned": len(pruned.deleted)}

    def _tenants_of(self, context: JobContext) -> AsyncIterator[TenantId]:
        if context.tenant == STORE_TENANT:
            return self._pages(context, self._queue.tenants)
        return _only(context.tenant)

    async def _pages(
        self, context: JobContext, page_of: Callable[..., Awaitable[list[TenantId]]]
    ) -> AsyncIterator[TenantId]:
        after: TenantId | None = None
        for _ in range(PAGES_MAX):
            context.require_going_on()
            page = await page_of(after=after, limit=PAGE)
            for tenant in page:
                yield tenant
            if len(page) < PAGE:
                return
            after = page[-1]


async def _only(tenant: TenantId) -> AsyncIterator[TenantId]:
    yield tenant


def _report_beyond(context: JobContext, before: int, step: int) -> None:
    context.report(before + step)


def _space(payload: Mapping[str, Any]) -> tuple[str, int]:
    space_id, dimension = payload.get("space_id"), payload.get("dimension")
    if not isinstance(space_id, str) or not isinstance(dimension, int):
        raise JobImpossible("The job does not say which space to move.", payload=dict(payload))
    return space_id, dimension
