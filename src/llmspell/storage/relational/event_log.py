"""The event log on a database.

Not here: the months it is kept in; making and archiving them is the operator's.

Rule 1: numbers are taken in the statement that inserts, from a row that stays locked until the commit.
Rule 2: a page narrows the time range to its position: a comparison of (instant, id) alone would prune no month, and in a
    file would walk over everything before the page.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from llmspell.clock import MICROSECOND, from_microseconds, optional_instant, parse_instant, to_microseconds
from llmspell.codec import decode_json, require_flag, require_limit
from llmspell.errors import AlreadyExists, Conflict
from llmspell.ids import parse_id
from llmspell.storage.contracts import event_log_checks as checks
from llmspell.storage.contracts.event_log import (
    PRUNE_MAX,
    EventRecord,
    EventStats,
    EventTypeStats,
    Language,
    NewEvent,
)
from llmspell.storage.contracts.event_log_checks import Checked, Selection
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.catalog import NO_FILTER, Query
from llmspell.storage.relational.database import Executor, Row, T, Unit
from llmspell.storage.relational.kv import after_prefix
from llmspell.storage.relational.runtime import Runtime

LATEST = datetime.max.replace(tzinfo=from_microseconds(0).tzinfo)

APPEND_ATTEMPTS = 3


class RelationalEventLog:
    """`EventLog` by the queries of `event_log.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.event_log
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def append(
        self,
        event_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        correlation_id: UUID | str | None = None,
        at: datetime | date | str | None = None,
        language: Language = "python",
        id: UUID | str | None = None,
    ) -> EventRecord:
        new = NewEvent(type=event_type, payload=payload, correlation_id=correlation_id, at=at, language=language, id=id)
        event = checks.require_event(new, clock=self._runtime.clock, ids=self._runtime.ids)
        events = self._json([event])
        try:
            sequence = await _again(lambda: self._unit.value(self._queries.append, events=events))
        except AlreadyExists as exc:
            raise checks.taken((event.at, event.id)) from exc
        return EventRecord(
            id=event.id,
            type=event.type,
            correlation_id=event.correlation_id,
            at=event.at,
            sequence=int(sequence),
            language=event.language,
            payload=decode_json(event.payload),
        )

    async def append_many(self, events: Sequence[NewEvent]) -> int:
        checked = checks.require_events(events, clock=self._runtime.clock, ids=self._runtime.ids)
        if not checked:
            return 0
        batch = self._json(checked)
        try:
            return await _again(lambda: self._unit.execute(self._queries.append_many, events=batch))
        except AlreadyExists as exc:
            row = await self._unit.row(self._queries.taken, events=batch)
            if row is None:  # it came, and has gone again or cannot be seen from this transaction
                raise AlreadyExists("One of the events is there already.", hint=checks.UNCHANGED) from exc
            raise checks.taken((self._dialect.to_instant(row[0]), self._dialect.to_id(row[1]))) from exc

    async def get(self, id: UUID | str, *, at: datetime | date | str | None = None) -> EventRecord | None:
        identity, instant = parse_id(id), optional_instant(at, field="at")
        if instant is None:
            row = await self._unit.row(self._queries.get, id=self._dialect.id(identity))
        else:
            row = await self._unit.row(
                self._queries.get_at, id=self._dialect.id(identity), at=self._dialect.instant(instant)
            )
        return None if row is None else self._record(row)

    async def list(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
        descending: bool = True,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[EventRecord]:
        wanted = checks.require_selection(since=since, until=until, type=type, correlation_id=correlation_id)
        require_limit(limit)
        require_flag(descending, field="descending")
        asked = ["event_log", *wanted.named(), descending]
        position = await self._cursors.read(cursor, query=asked)
        conditions, parameters = self._chosen(wanted)
        if position is not None:
            conditions.append(f"(l.timestamp, l.event_id) {'<' if descending else '>'} (:at, :id)")
            parameters |= self._beyond(position, descending=descending)
        query = self._queries.list_desc if descending else self._queries.list_asc
        sparse = wanted.type is not None and wanted.type.is_beginning
        rows = await self._rows(query.filtered(_all_of(conditions)), sparse=sparse, limit=limit + 1, **parameters)
        return await self._cursors.page(
            builtins.list(map(self._record, rows)), limit=limit, query=asked, position=_place
        )

    async def tail(
        self,
        *,
        after_sequence: int = 0,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
        limit: int = 100,
    ) -> builtins.list[EventRecord]:
        wanted = checks.require_selection(type=type, correlation_id=correlation_id)
        conditions, parameters = self._chosen(wanted, by_number=True)
        parameters |= {"after_sequence": checks.require_sequence(after_sequence)}
        query = self._queries.tail.filtered(_all_of(conditions))
        sparse = wanted.type is not None
        rows = await self._rows(query, sparse=sparse, limit=require_limit(limit), **parameters)
        return [self._record(row) for row in rows]

    async def _rows(self, query: Query, *, sparse: bool, **parameters: Any) -> Sequence[Row]:
        """Run a query. `sparse`: it may pass by many events before it has found enough, so it stays off the caller's thread."""
        if not sparse:
            return await self._unit.rows(query, **parameters)

        async def work(executor: Executor) -> Sequence[Row]:
            return await executor.rows(query, **parameters)

        return await self._unit.read(work, heavy=True)

    async def count(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
    ) -> int:
        wanted = checks.require_selection(since=since, until=until, type=type, correlation_id=correlation_id)
        conditions, parameters = self._chosen(wanted)
        query = self._queries.count.filtered(_all_of(conditions))

        async def work(executor: Executor) -> int:
            return int(await executor.value(query, **parameters))

        # It may look at every event of the tenant, so it stays off the caller's thread.
        return await self._unit.read(work, heavy=True)

    async def stats(
        self, *, since: datetime | date | str | None = None, until: datetime | date | str | None = None
    ) -> EventStats:
        _, parameters = self._chosen(checks.require_selection(since=since, until=until))

        async def work(executor: Executor) -> tuple[Sequence[Row], Any]:
            rows = await executor.rows(self._queries.stats, **parameters)
            return rows, await executor.value(self._queries.last_sequence)

        rows, last = await self._unit.read(work, heavy=True)
        types = [
            EventTypeStats(
                type=type,
                events=int(events),
                first_at=self._dialect.to_instant(first),
                last_at=self._dialect.to_instant(latest),
            )
            for type, events, first, latest in rows
        ]
        return EventStats(
            events=sum(one.events for one in types),
            first_at=min((one.first_at for one in types), default=None),
            last_at=max((one.last_at for one in types), default=None),
            last_sequence=int(last or 0),
            types=types,
        )

    async def prune(self, before: datetime | date | str, *, limit: int = 1_000) -> int:
        instant = self._dialect.instant(parse_instant(before, field="before"))
        require_limit(limit, maximum=PRUNE_MAX)
        return await self._unit.execute(self._queries.prune, before=instant, limit=limit)

    def _chosen(self, wanted: Selection, *, by_number: bool = False) -> tuple[builtins.list[str], dict[str, Any]]:
        """Return the conditions of a selection and all of its parameters."""
        conditions = []
        parameters: dict[str, Any] = {
            "since": None if wanted.since is None else self._dialect.instant(wanted.since),
            "until": None if wanted.until is None else self._dialect.instant(wanted.until),
        }
        if wanted.correlation_id is not None:
            conditions.append(self._runtime.filters.selective("l.correlation_id = :correlation_id"))
            parameters["correlation_id"] = self._dialect.id(wanted.correlation_id)
        if wanted.type is not None and wanted.type.is_beginning:
            conditions.append("l.event_type >= :first AND l.event_type < :beyond")
            parameters |= {"first": wanted.type.text, "beyond": after_prefix(wanted.type.text)}
        elif wanted.type is not None:
            # By number a type is looked for as events come; its index would give all of them, from the first on.
            of_type = "l.event_type = :type"
            conditions.append(of_type if by_number else self._runtime.filters.selective(of_type))
            parameters["type"] = wanted.type.text
        return conditions, parameters

    def _beyond(self, position: Mapping[str, Any], *, descending: bool) -> dict[str, Any]:
        """Return the parameters of a page beyond a position, and the range that it leaves."""
        at = from_microseconds(position["at"])
        edge = {"since": self._dialect.instant(at)}
        if descending:
            edge = {"until": self._dialect.instant(at + MICROSECOND)} if at < LATEST else {}
        return {"at": self._dialect.instant(at), "id": self._dialect.id(UUID(position["id"])), **edge}

    def _json(self, events: Iterable[Checked]) -> str:
        """Return events as the list of lists that both dialects take apart. Payloads are JSON already; no other member
        holds anything that JSON would escape."""
        return f"[{','.join(map(self._element, events))}]"

    def _element(self, event: Checked) -> str:
        raw = self._dialect.instant(event.at)
        at = f'"{raw.isoformat()}"' if isinstance(raw, datetime) else raw
        return f'["{event.id.hex}","{event.type}","{event.correlation_id.hex}",{at},"{event.language}",{event.payload}]'

    def _record(self, row: Row) -> EventRecord:
        id, type, correlation_id, at, sequence, language, payload = row
        return EventRecord(
            id=self._dialect.to_id(id),
            type=type,
            correlation_id=self._dialect.to_id(correlation_id),
            at=self._dialect.to_instant(at),
            sequence=sequence,
            language=language,
            payload=self._dialect.to_json(payload),
        )


async def _again(append: Callable[[], Awaitable[T]]) -> T:
    """Append, and again when that met a month that was being made: nothing of a failed attempt is kept."""
    for _ in range(APPEND_ATTEMPTS - 1):
        try:
            return await append()
        except AlreadyExists:
            raise
        except Conflict:
            continue
    return await append()


def _all_of(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) if conditions else NO_FILTER


def _place(record: EventRecord) -> dict[str, Any]:
    return {"at": to_microseconds(record.at), "id": str(record.id)}
