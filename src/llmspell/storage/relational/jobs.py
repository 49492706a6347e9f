"""Jobs on a database: a tenant's own, by the queries of `jobs.sql`.

Not here: leasing (`job_queue`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from llmspell.clock import from_microseconds, parse_instant, to_microseconds
from llmspell.codec import require_flag, require_limit
from llmspell.errors import AlreadyExists, Conflict, NotFound
from llmspell.ids import HIGHEST_ID, parse_id
from llmspell.storage.contracts import jobs_checks as checks
from llmspell.storage.contracts.jobs import JOB_STATES, MAX_ATTEMPTS, Job, JobState
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.database import Dialect, Row, Statement, Unit
from llmspell.storage.relational.runtime import Runtime

LATEST = datetime.max.replace(tzinfo=UTC)
ENQUEUE_ATTEMPTS = 8
"""How often a key is looked for again whose job ended between two looks."""


class RelationalJobs:
    """`Jobs` on a database."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.jobs
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

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
        now = self._runtime.clock.now()
        due = new.run_at or now
        parameters = {
            "id": self._dialect.id(new.id or self._runtime.ids.new()),
            "kind": new.kind,
            "payload": self._dialect.json(new.payload),
            "ready": due <= now,
            "priority": new.priority,
            "dedupe_key": new.dedupe_key,
            "max_attempts": new.max_attempts,
            "run_at": self._dialect.instant(due),
            "now": self._dialect.instant(now),
        }
        for _ in range(ENQUEUE_ATTEMPTS):
            try:
                row = await self._unit.row(self._queries.enqueue, **parameters)
            except AlreadyExists as exc:
                raise AlreadyExists("A job has this id already.", id=new.id) from exc
            if row is None:
                row = await self._unit.row(self._queries.live, kind=new.kind, dedupe_key=new.dedupe_key)
            if row is not None:
                return to_job(row, self._dialect)
        raise Conflict("The jobs of this key ended as fast as they were looked for.", kind=kind, dedupe_key=dedupe_key)

    async def get(self, id: UUID | str) -> Job | None:
        row = await self._unit.row(self._queries.get, id=self._dialect.id(parse_id(id)))
        return None if row is None else to_job(row, self._dialect)

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
        instant, last = (LATEST, HIGHEST_ID) if position is None else _position(position)
        before = {"instant": self._dialect.instant(instant), "id": self._dialect.id(last), "kind": wanted}
        if state is None:
            rows = await self._unit.rows(self._queries.page, limit=limit + 1, **before)
        else:
            rows = await self._unit.rows(self._queries.page_of_state, state=state, limit=limit + 1, **before)
        jobs = [to_job(row, self._dialect) for row in rows]
        return await self._cursors.page(jobs, limit=limit, query=asked, position=position_of)

    async def cancel(self, id: UUID | str) -> bool:
        return bool(await self._unit.execute(self._queries.cancel, id=self._dialect.id(parse_id(id)), now=self._now()))

    async def retry(self, id: UUID | str) -> Job:
        wanted = parse_id(id)
        try:
            row = await self._unit.row(self._queries.retry, id=self._dialect.id(wanted), now=self._now())
        except AlreadyExists as exc:
            raise AlreadyExists(
                "Another live job has the key of this one.", id=wanted, hint="Let that one do the work."
            ) from exc
        if row is not None:
            return to_job(row, self._dialect)
        found = await self.get(wanted)
        if found is None:
            raise NotFound("There is no such job.", id=wanted)
        raise checks.cannot_be_put_back(found)

    async def counts(self) -> dict[str, int]:
        found = {row[0]: int(row[1]) for row in await self._unit.rows(self._queries.counts)}
        return {state: found.get(state, 0) for state in JOB_STATES}

    async def prune(self, before: datetime | str, *, dead: bool = False, limit: int = 1_000) -> int:
        instant = self._dialect.instant(parse_instant(before, field="before"))
        states = self._dialect.array(["dead"] if require_flag(dead, field="dead") else ["succeeded", "cancelled"])
        return await self._unit.execute(self._queries.prune, before=instant, states=states, limit=require_limit(limit))

    def _now(self) -> Any:
        return self._dialect.instant(self._runtime.clock.now())


class WaitingJobs:
    """Keeps one job of a kind waiting, in the very unit of work that makes something for it to do."""

    def __init__(self, unit: Unit, runtime: Runtime, kind: str) -> None:
        self._runtime = runtime
        self._kind = kind
        # In a transaction one id for all of it: the first statement keeps the job, the others find it, whatever savepoints
        # were undone between. What others have waiting may be gone before this transaction ends, so it does not count.
        self._alone = unit.in_transaction
        self._id = runtime.ids.new() if self._alone else None

    def ensure(self) -> Statement:
        """Return the statement that keeps the job, unless one waits that will come later than this unit of work."""
        dialect, clock = self._runtime.dialect, self._runtime.clock
        return (
            self._runtime.catalog.jobs.ensure,
            {
                "id": dialect.id(self._id or self._runtime.ids.new()),
                "kind": self._kind,
                "alone": self._alone,
                "now": dialect.instant(clock.now()),
            },
        )


def to_job(row: Row, dialect: Dialect) -> Job:
    """Return the record of a row of the fragment `job`."""
    return Job(
        id=dialect.to_id(row[0]),
        kind=row[1],
        payload=dialect.to_json(row[2]),
        state=row[3],
        priority=row[4],
        dedupe_key=row[5],
        attempt=row[6],
        max_attempts=row[7],
        run_at=dialect.to_instant(row[8]),
        worker=row[9],
        leased_until=None if row[10] is None else dialect.to_instant(row[10]),
        cancel_requested=bool(row[11]),
        done=row[12],
        total=row[13],
        message=row[14],
        error_class=row[15],
        error=row[16],
        result=None if row[17] is None else dialect.to_json(row[17]),
        created_at=dialect.to_instant(row[18]),
        updated_at=dialect.to_instant(row[19]),
        finished_at=None if row[20] is None else dialect.to_instant(row[20]),
    )


def position_of(job: Job) -> dict[str, Any]:
    """Return what a cursor says of the last job of a page."""
    return {"at": to_microseconds(job.created_at), "id": str(job.id)}


def _position(position: Mapping[str, Any]) -> tuple[datetime, UUID]:
    return from_microseconds(position["at"]), UUID(position["id"])
