"""Sessions on a database.

Rule 1: expiry is decided by the injected clock, handed to each query as `:now`.
Rule 2: whoever changes a session or its artifacts holds the session first, then contents in the order of their hashes: so two of
them wait for each other's end, and never for each other.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from llmspell.clock import from_microseconds, to_microseconds
from llmspell.codec import require_limit
from llmspell.errors import Conflict, LlmspellError, NotFound, VersionConflict
from llmspell.ids import HIGHEST_ID, parse_id
from llmspell.observe import logger
from llmspell.storage.contracts import sessions_checks as checks
from llmspell.storage.contracts.checks import require_ttl
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.sessions import (
    ACCESS_NOTED_EVERY_S,
    LIST_MAX,
    SWEEP_MAX,
    SessionRecord,
    SessionStatus,
)
from llmspell.storage.relational.database import Executor, Row, Statement, Unit
from llmspell.storage.relational.runtime import Runtime

ALL = 2**62
"""No limit, where a query takes one."""


class RelationalSessions:
    """`Sessions` by the queries of `sessions.sql`, and those of `artifacts.sql` that delete."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.sessions
        self._artifacts = runtime.catalog.artifacts
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def create(
        self, *, id: UUID | str | None = None, data: Mapping[str, Any] | None = None, ttl_s: float | None = None
    ) -> SessionRecord:
        now = self._runtime.clock.now()
        record = SessionRecord(
            id=self._runtime.ids.new() if id is None else parse_id(id),
            data=checks.require_data(data),
            status="active",
            created_at=now,
            updated_at=now,
            last_accessed_at=now,
            expires_at=None if ttl_s is None else now + timedelta(seconds=require_ttl(ttl_s)),
            artifact_count=0,
            version=1,
        )
        inserted = await self._unit.execute(
            self._queries.insert,
            id=self._dialect.id(record.id),
            data=self._dialect.json(record.data),
            expires_at=None if record.expires_at is None else self._dialect.instant(record.expires_at),
            now=self._dialect.instant(now),
        )
        if not inserted:
            raise checks.taken(record.id)
        return record

    async def get(self, id: UUID | str) -> SessionRecord | None:
        wanted, now = parse_id(id), self._runtime.clock.now()
        row = await self._unit.row(self._queries.get, id=self._dialect.id(wanted), now=self._dialect.instant(now))
        if row is None:
            return None
        record = self._record(row, now)
        if self._unit.in_transaction or now - record.last_accessed_at < timedelta(seconds=ACCESS_NOTED_EVERY_S):
            return record
        return replace(record, last_accessed_at=now) if await self._touched(wanted, now) else record

    async def _touched(self, id: UUID, now: datetime) -> bool:
        due = now - timedelta(seconds=ACCESS_NOTED_EVERY_S)
        try:
            changed = await self._unit.execute(
                self._queries.touch,
                id=self._dialect.id(id),
                now=self._dialect.instant(now),
                due=self._dialect.instant(due),
            )
        except LlmspellError as error:
            # A read succeeds also where nothing can be written: on a replica, or when the disk is full.
            logger.warning("a look at a session was not noted: %s", error)
            return False
        return changed == 1

    async def update(
        self,
        id: UUID | str,
        *,
        data: Mapping[str, Any] | msgspec.UnsetType = UNSET,
        status: SessionStatus | msgspec.UnsetType = UNSET,
        ttl_s: float | msgspec.UnsetType | None = UNSET,
        expected_version: int | None = None,
    ) -> SessionRecord:
        wanted, now = parse_id(id), self._runtime.clock.now()
        change = checks.require_change(data=data, status=status, ttl_s=ttl_s, now=now)
        expected = checks.require_expected(expected_version)
        ends = change.expires_at
        row = await self._unit.row(
            self._queries.update,
            id=self._dialect.id(wanted),
            data=None if change.data is UNSET else self._dialect.json(change.data),
            status=None if change.status is UNSET else change.status,
            moves_end=ends is not UNSET,
            expires_at=self._dialect.instant(ends) if isinstance(ends, datetime) else None,
            expected_version=expected,
            now=self._dialect.instant(now),
        )
        if row is None:
            raise await self._not_updated(wanted, expected, now)
        return self._record(row, now)

    async def _not_updated(self, id: UUID, expected: int | None, now: datetime) -> LlmspellError:
        row = await self._unit.row(self._queries.get, id=self._dialect.id(id), now=self._dialect.instant(now))
        if row is None:
            return NotFound("There is no such session.", id=id)
        if expected is None:
            return Conflict("The session changed at the same time.", id=id)
        return VersionConflict(id=id, expected=expected, current=self._record(row, now).version)

    async def delete(self, id: UUID | str) -> bool:
        wanted = parse_id(id)
        rows = await self._unit.rows_after(
            [(self._queries.lock, {"id": self._dialect.id(wanted)}), *self._emptied([wanted])],
            self._queries.delete,
            id=self._dialect.id(wanted),
            now=self._dialect.instant(self._runtime.clock.now()),
        )
        return bool(rows and rows[0][0])

    def _emptied(self, ids: Sequence[UUID]) -> builtins.list[Statement]:
        """Return the statements that delete the artifacts of sessions which are held, and the contents that nobody else has."""
        sessions = {"ids": self._dialect.array(list(ids))}
        return [
            (self._artifacts.lock_contents, sessions),
            (self._artifacts.delete_of_sessions, sessions),
            (self._artifacts.drop_unreferenced, {"limit": ALL}),
        ]

    async def list(
        self, *, status: SessionStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[SessionRecord]:
        chosen = None if status is None else checks.require_status(status)
        require_limit(limit, maximum=LIST_MAX)
        query = ["sessions", chosen]
        position = await self._cursors.read(cursor, query=query)
        now = self._runtime.clock.now()
        parameters: dict[str, Any] = {
            "at": self._dialect.open_end(None if position is None else from_microseconds(position["at"])),
            "id": self._dialect.id(HIGHEST_ID if position is None else UUID(position["id"])),
            "now": self._dialect.instant(now),
            "limit": limit + 1,
        }
        if chosen is None:
            rows = await self._unit.rows(self._queries.page, **parameters)
        elif chosen == "expired":
            rows = await self._unit.rows(self._queries.page_expired, **parameters)
        else:
            rows = await self._unit.rows(self._queries.page_by_status, status=chosen, **parameters)
        records = [self._record(row, now) for row in rows]
        return await self._cursors.page(records, limit=limit, query=query, position=_position)

    async def count(self, *, status: SessionStatus | None = None) -> int:
        chosen = None if status is None else checks.require_status(status)
        now = self._dialect.instant(self._runtime.clock.now())
        if chosen is None:
            return int(await self._unit.value(self._queries.count, now=now))
        if chosen == "expired":
            return int(await self._unit.value(self._queries.count_expired, now=now))
        return int(await self._unit.value(self._queries.count_by_status, status=chosen, now=now))

    async def expire(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._dialect.instant(self._runtime.clock.now())
        return await self._unit.execute(self._queries.expire, now=now, limit=limit)

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._dialect.instant(self._runtime.clock.now())

        async def work(executor: Executor) -> int:
            rows = await executor.rows(self._queries.lock_expired, now=now, limit=limit)
            ids = [self._dialect.to_id(row[0]) for row in rows]
            if ids:
                deletion = (self._queries.delete_batch, {"ids": self._dialect.array(ids)})
                await executor.batch([*self._emptied(ids), deletion])
            return len(ids)

        return await self._unit.write(work)

    def _record(self, row: Row, now: datetime) -> SessionRecord:
        id, data, status, created, updated, accessed, expires, artifacts, version = row
        ends = None if expires is None else self._dialect.to_instant(expires)
        return SessionRecord(
            id=self._dialect.to_id(id),
            data=self._dialect.to_json(data),
            status="expired" if ends is not None and ends <= now else status,
            created_at=self._dialect.to_instant(created),
            updated_at=self._dialect.to_instant(updated),
            last_accessed_at=self._dialect.to_instant(accessed),
            expires_at=ends,
            artifact_count=artifacts,
            version=version,
        )


def _position(record: SessionRecord) -> dict[str, Any]:
    return {"at": to_microseconds(record.created_at), "id": str(record.id)}
