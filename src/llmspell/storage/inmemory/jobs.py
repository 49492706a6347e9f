"""Jobs in memory: a tenant's own.

Not here: leasing (`job_queue`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from llmspell.clock import Clock, from_microseconds, parse_instant, to_microseconds
from llmspell.codec import require_flag, require_limit
from llmspell.errors import AlreadyExists, NotFound
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts import jobs_checks as checks
from llmspell.storage.contracts.jobs import EMBED_KIND, JOB_STATES, MAX_ATTEMPTS, Job, JobState
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.store import Row, State, Unit


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and the lease that it was last in."""

    job: Job
    token: int = 0
    lease_id: UUID | None = None
    ready: bool = True
    """Whether its time has come, as whoever kept it or a lease since has found."""


class InMemoryJobs:
    """`Jobs` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

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
        new = checks.require_new(
            kind,
            payload,
            run_at=run_at,
            priority=priority,
            max_attempts=max_attempts,
            dedupe_key=dedupe_key,
            id=id,
        )
        now = self._clock.now()

        def work(state: State) -> Job:
            live = live_with(state, new.kind, new.dedupe_key)
            if live is not None:
                return copied(live)
            identity = new.id or self._ids.new()
            if identity in state.jobs:
                raise AlreadyExists("A job has this id already.", id=identity)
            job = new_job(new, identity, now)
            state.jobs.put(identity, StoredJob(job=job, ready=job.run_at <= now))
            return copied(job)

        return await self._unit.write(work)

    async def get(self, id: UUID | str) -> Job | None:
        wanted = parse_id(id)
        stored = await self._unit.read(lambda state: state.jobs.get(wanted))
        return None if stored is None else copied(stored.job)

    async def list(
        self,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        checks.require_state(state)
        wanted = None if kind is None else checks.require_kind(kind)
        require_limit(limit)
        asked = ["jobs", state, wanted]
        position = await self._cursors.read(cursor, query=asked)
        jobs = [stored.job for stored in await self._unit.read(lambda state: state.jobs.rows())]
        jobs = [job for job in jobs if state in (None, job.state) and wanted in (None, job.kind)]
        if position is not None:
            edge = (from_microseconds(position["at"]), UUID(position["id"]))
            jobs = [job for job in jobs if (job.created_at, job.id) < edge]
        jobs.sort(key=lambda job: (job.created_at, job.id), reverse=True)
        page = [copied(job) for job in jobs[: limit + 1]]
        return await self._cursors.page(page, limit=limit, query=asked, position=_position)

    async def cancel(self, id: UUID | str) -> bool:
        wanted = parse_id(id)
        now = self._clock.now()

        def work(state: State) -> bool:
            stored = state.jobs.get(wanted)
            if stored is None or stored.job.state not in ("queued", "running"):
                return False
            changed = replace(stored.job, cancel_requested=True, updated_at=now)
            if stored.job.state == "queued":
                changed = replace(changed, state="cancelled", finished_at=now)
            state.jobs.put(wanted, replace(stored, job=changed))
            return True

        return await self._unit.write(work)

    async def retry(self, id: UUID | str) -> Job:
        wanted = parse_id(id)
        now = self._clock.now()

        def work(state: State) -> Job:
            stored = state.jobs.get(wanted)
            if stored is None:
                raise NotFound("There is no such job.", id=wanted)
            if stored.job.state not in ("dead", "cancelled"):
                raise checks.cannot_be_put_back(stored.job)
            if live_with(state, stored.job.kind, stored.job.dedupe_key) is not None:
                raise AlreadyExists("Another live job has the key of this one.", id=wanted)
            job = replace(
                stored.job,
                state="queued",
                attempt=0,
                cancel_requested=False,
                run_at=now,
                finished_at=None,
                updated_at=now,
                done=None,
                total=None,
                message=None,
            )
            state.jobs.put(wanted, replace(stored, job=job, ready=True))
            return copied(job)

        return await self._unit.write(work)

    async def counts(self) -> dict[str, int]:
        states = [stored.job.state for stored in await self._unit.read(lambda state: state.jobs.rows())]
        return {state: states.count(state) for state in JOB_STATES}

    async def prune(self, before: datetime | str, *, dead: bool = False, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit)
        states = ("dead",) if require_flag(dead, field="dead") else ("succeeded", "cancelled")

        def work(state: State) -> int:
            ended = [
                (job.finished_at, job.id)
                for job in (stored.job for stored in state.jobs.rows())
                if job.state in states and job.finished_at is not None and job.finished_at < instant
            ]
            gone = sorted(ended)[:limit]
            for _, id in gone:
                state.jobs.remove(id)
            return len(gone)

        return await self._unit.write(work)


def new_job(new: checks.NewJob, id: UUID, now: datetime) -> Job:
    """Return a job that was just enqueued."""
    return Job(
        id=id,
        kind=new.kind,
        payload=new.payload,
        state="queued",
        priority=new.priority,
        dedupe_key=new.dedupe_key,
        attempt=0,
        max_attempts=new.max_attempts,
        run_at=new.run_at or now,
        worker=None,
        leased_until=None,
        cancel_requested=False,
        done=None,
        total=None,
        message=None,
        error_class=None,
        error=None,
        result=None,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )


def ensure_waiting(state: State, id: UUID, *, kind: str = EMBED_KIND, now: datetime) -> None:
    """Keep a job of a kind, unless one waits already that will come later than this transaction: in a longer one, its own."""
    own = None if state.transaction is None else state.transaction.waiting
    if own is not None:
        id, waits = own, own in state.jobs
    else:
        waits = any(stored.job.kind == kind and stored.job.state == "queued" for stored in state.jobs.rows())
    if not waits:
        new = checks.require_new(kind, None, run_at=None, priority=0, max_attempts=MAX_ATTEMPTS, dedupe_key=None, id=id)
        state.jobs.put(id, StoredJob(job=new_job(new, id, now)))


def live_with(state: State, kind: str, dedupe_key: str | None) -> Job | None:
    """Return the live job that has a key."""
    if dedupe_key is None:
        return None
    live = (stored.job for stored in state.jobs.rows() if stored.job.state in ("queued", "running"))
    return next((job for job in live if (job.kind, job.dedupe_key) == (kind, dedupe_key)), None)


def copied(job: Job) -> Job:
    """Return a job whose payload and result are the caller's own."""
    return replace(job, payload=deepcopy(job.payload), result=deepcopy(job.result))


def _position(job: Job) -> dict[str, Any]:
    return {"at": to_microseconds(job.created_at), "id": str(job.id)}


COLUMNS = (
    *("kind", "payload", "state", "priority", "dedupe_key", "attempt", "max_attempts", "run_at", "leased_until"),
    *("worker", "cancel_requested", "done", "total", "message", "error_class", "error", "result"),
    *("created_at", "updated_at", "finished_at"),
)
"""Columns of `jobs` that their records have under the same names."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `jobs`; only one that waits can be ready, as databases have it."""
    for stored in state.jobs.rows():
        own = {
            "job_id": stored.job.id,
            "ready": stored.ready and stored.job.state == "queued",
            "token": stored.token,
            "lease_id": stored.lease_id,
        }
        yield own | {name: getattr(stored.job, name) for name in COLUMNS}


def load(state: State, row: Row) -> None:
    """Keep a row of `jobs`."""
    job = Job(id=row["job_id"], **{name: row[name] for name in COLUMNS})
    stored = StoredJob(job=job, token=row["token"], lease_id=row["lease_id"], ready=row["ready"])
    state.jobs.put(job.id, stored)
