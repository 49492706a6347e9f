"""The event log in memory: every question looks at every event.

Rule: a record's payload is encoded JSON here, so that nobody outside can change what is kept.
"""

from __future__ import annotations

import builtins
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from llmspell.clock import Clock, from_microseconds, optional_instant, parse_instant, to_microseconds
from llmspell.codec import decode_json, encode_json, require_flag, require_limit
from llmspell.ids import IdSource, parse_id
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
from llmspell.storage.inmemory.store import Row, State, Unit

COUNTER = "event_log"


class StoredEvent(Checked, frozen=True, kw_only=True):
    """An event with its number."""

    sequence: int


class InMemoryEventLog:
    """`EventLog` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

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
        event = checks.require_event(new, clock=self._clock, ids=self._ids)
        return _record(await self._unit.write(lambda state: _put(state, event)))

    async def append_many(self, events: Sequence[NewEvent]) -> int:
        checked = checks.require_events(events, clock=self._clock, ids=self._ids)

        def work(state: State) -> int:
            there = [_place(event) for event in checked if _place(event) in state.events]
            if there:
                raise checks.taken(min(there))
            for event in checked:
                _put(state, event)
            return len(checked)

        return await self._unit.write(work) if checked else 0

    async def get(self, id: UUID | str, *, at: datetime | date | str | None = None) -> EventRecord | None:
        identity, instant = parse_id(id), optional_instant(at, field="at")
        events = await self._unit.read(lambda state: state.events.rows())
        found = [one for one in events if one.id == identity and instant in (None, one.at)]
        return _record(max(found, key=_place)) if found else None

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
        events = sorted(await self._chosen(wanted), key=_place, reverse=descending)
        if position is not None:
            edge = (from_microseconds(position["at"]), UUID(position["id"]))
            events = [one for one in events if (_place(one) < edge if descending else _place(one) > edge)]
        records = [_record(one) for one in events[: limit + 1]]
        return await self._cursors.page(
            records, limit=limit, query=asked, position=lambda one: {"at": to_microseconds(one.at), "id": str(one.id)}
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
        checks.require_sequence(after_sequence)
        require_limit(limit)
        beyond = [one for one in await self._chosen(wanted) if one.sequence > after_sequence]
        return [_record(one) for one in sorted(beyond, key=lambda one: one.sequence)[:limit]]

    async def count(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
    ) -> int:
        wanted = checks.require_selection(since=since, until=until, type=type, correlation_id=correlation_id)
        return len(await self._chosen(wanted))

    async def stats(
        self, *, since: datetime | date | str | None = None, until: datetime | date | str | None = None
    ) -> EventStats:
        wanted = checks.require_selection(since=since, until=until)
        events, last = await self._unit.read(lambda state: (state.events.rows(), state.counters.get(COUNTER)))
        instants: defaultdict[str, builtins.list[datetime]] = defaultdict(builtins.list)
        for one in events:
            if _is_wanted(one, wanted):
                instants[one.type].append(one.at)
        every = [at for ats in instants.values() for at in ats]
        return EventStats(
            events=len(every),
            first_at=min(every, default=None),
            last_at=max(every, default=None),
            last_sequence=last or 0,
            types=[
                EventTypeStats(type=type, events=len(ats), first_at=min(ats), last_at=max(ats))
                for type, ats in sorted(instants.items())
            ],
        )

    async def prune(self, before: datetime | date | str, *, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit, maximum=PRUNE_MAX)

        def work(state: State) -> int:
            old = sorted(_place(one) for one in state.events.rows() if one.at < instant)[:limit]
            for place in old:
                state.events.remove(place)
            return len(old)

        return await self._unit.write(work)

    async def _chosen(self, wanted: Selection) -> builtins.list[StoredEvent]:
        events = await self._unit.read(lambda state: state.events.rows())
        return [one for one in events if _is_wanted(one, wanted)]


def _place(event: Checked) -> tuple[datetime, UUID]:
    return event.at, event.id


def _put(state: State, event: Checked) -> StoredEvent:
    if _place(event) in state.events:
        raise checks.taken(_place(event))
    stored = StoredEvent(
        id=event.id,
        type=event.type,
        correlation_id=event.correlation_id,
        at=event.at,
        language=event.language,
        payload=event.payload,
        sequence=state.next_number(COUNTER),
    )
    state.events.put(_place(event), stored)
    ever = state.counters.carried(COUNTER)
    ends = {
        "first_at": min(ever.get("first_at") or event.at, event.at),
        "last_at": max(ever.get("last_at") or event.at, event.at),
    }
    state.counters.carry(COUNTER, ends)
    return stored


def _is_wanted(event: Checked, wanted: Selection) -> bool:
    return (
        (wanted.since is None or event.at >= wanted.since)
        and (wanted.until is None or event.at < wanted.until)
        and (wanted.type is None or wanted.type.matches(event.type))
        and wanted.correlation_id in (None, event.correlation_id)
    )


def _record(event: StoredEvent) -> EventRecord:
    return EventRecord(
        id=event.id,
        type=event.type,
        correlation_id=event.correlation_id,
        at=event.at,
        sequence=event.sequence,
        language=event.language,
        payload=decode_json(event.payload),
    )


COLUMNS = {
    "event_id": "id",
    "event_type": "type",
    "correlation_id": "correlation_id",
    "timestamp": "at",
    "sequence": "sequence",
    "language": "language",
}
"""Columns of `event_log` with the fields of their records."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `event_log`."""
    for event in state.events.rows():
        columns = {column: getattr(event, field) for column, field in COLUMNS.items()}
        yield columns | {"payload": decode_json(event.payload)}


def load(state: State, row: Row) -> None:
    """Keep a row of `event_log`."""
    fields = {field: row[column] for column, field in COLUMNS.items()}
    event = StoredEvent(payload=encode_json(row["payload"]), **fields)
    state.events.put(_place(event), event)


def sequence_rows(state: State) -> Iterator[Row]:
    """Yield the row of `event_sequences`: the last number, and between which instants there ever were events."""
    value = state.counters.get(COUNTER)
    if value is not None:
        yield {"value": value, **state.counters.carried(COUNTER)}


def load_sequence(state: State, row: Row) -> None:
    """Keep the row of `event_sequences`."""
    state.counters.put(COUNTER, row["value"])
    state.counters.carry(COUNTER, {name: row[name] for name in ("first_at", "last_at")})
