"""Sessions in memory.

Rule: a record never carries its number of artifacts; they are counted when somebody looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from llmspell.clock import Clock, from_microseconds, to_microseconds
from llmspell.codec import require_limit
from llmspell.errors import NotFound, VersionConflict
from llmspell.ids import IdSource, parse_id
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
from llmspell.storage.inmemory.store import Row, State, Unit


class InMemorySessions:
    """`Sessions` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

    async def create(
        self, *, id: UUID | str | None = None, data: Mapping[str, Any] | None = None, ttl_s: float | None = None
    ) -> SessionRecord:
        now = self._clock.now()
        record = SessionRecord(
            id=self._ids.new() if id is None else parse_id(id),
            data=checks.require_data(data),
            status="active",
            created_at=now,
            updated_at=now,
            last_accessed_at=now,
            expires_at=None if ttl_s is None else now + timedelta(seconds=require_ttl(ttl_s)),
            artifact_count=0,
            version=1,
        )

        def work(state: State) -> SessionRecord:
            if record.id in state.sessions:
                raise checks.taken(record.id)
            state.sessions.put(record.id, record)
            return _shown(state, record, now)

        return await self._unit.write(work)

    async def get(self, id: UUID | str) -> SessionRecord | None:
        wanted, now = parse_id(id), self._clock.now()

        def look(state: State) -> tuple[SessionRecord | None, bool]:
            record = live_session(state, wanted, now)
            if record is None:
                return None, False
            # A transaction notes nothing: its reads would then be writes, and would conflict.
            return _shown(state, record, now), state.transaction is None and _is_due(record, now)

        found, due = await self._unit.read(look)
        if found is None or not due:
            return found

        def note(state: State) -> bool:
            record = state.sessions.get(wanted)
            if record is None or not _is_due(record, now):
                return False
            state.sessions.put(wanted, replace(record, last_accessed_at=now))
            return True

        return replace(found, last_accessed_at=now) if await self._unit.write(note) else found

    async def update(
        self,
        id: UUID | str,
        *,
        data: Mapping[str, Any] | msgspec.UnsetType = UNSET,
        status: SessionStatus | msgspec.UnsetType = UNSET,
        ttl_s: float | msgspec.UnsetType | None = UNSET,
        expected_version: int | None = None,
    ) -> SessionRecord:
        wanted, now = parse_id(id), self._clock.now()
        change = checks.require_change(data=data, status=status, ttl_s=ttl_s, now=now)
        expected = checks.require_expected(expected_version)
        given = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}

        def work(state: State) -> SessionRecord:
            record = live_session(state, wanted, now)
            if record is None:
                raise NotFound("There is no such session.", id=wanted)
            if expected is not None and record.version != expected:
                raise VersionConflict(id=wanted, expected=expected, current=record.version)
            changed = replace(record, **given, updated_at=now, last_accessed_at=now, version=record.version + 1)
            state.sessions.put(wanted, changed)
            return _shown(state, changed, now)

        return await self._unit.write(work)

    async def delete(self, id: UUID | str) -> bool:
        wanted, now = parse_id(id), self._clock.now()

        def work(state: State) -> bool:
            was_live = live_session(state, wanted, now) is not None
            _remove(state, {wanted})
            return was_live

        return await self._unit.write(work)

    async def list(
        self, *, status: SessionStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[SessionRecord]:
        chosen = None if status is None else checks.require_status(status)
        require_limit(limit, maximum=LIST_MAX)
        query = ["sessions", chosen]
        position = await self._cursors.read(cursor, query=query)
        now = self._clock.now()

        def work(state: State) -> list[SessionRecord]:
            records = sorted(_chosen(state, chosen, now), key=_place, reverse=True)
            if position is not None:
                edge = (from_microseconds(position["at"]), UUID(position["id"]))
                records = [record for record in records if _place(record) < edge]
            counts = Counter(artifact.session for artifact in state.artifacts.rows())
            return [_shown_with(record, counts[record.id], now) for record in records[: limit + 1]]

        records = await self._unit.read(work)
        return await self._cursors.page(records, limit=limit, query=query, position=_position)

    async def count(self, *, status: SessionStatus | None = None) -> int:
        chosen = None if status is None else checks.require_status(status)
        now = self._clock.now()
        return await self._unit.read(lambda state: len(_chosen(state, chosen, now)))

    async def expire(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._clock.now()

        def work(state: State) -> int:
            due = [record for record in _ended(state, now) if record.status != "expired"][:limit]
            for record in due:
                state.sessions.put(
                    record.id, replace(record, status="expired", updated_at=now, version=record.version + 1)
                )
            return len(due)

        return await self._unit.write(work)

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._clock.now()

        def work(state: State) -> int:
            gone = {record.id for record in _ended(state, now)[:limit]}
            _remove(state, gone)
            return len(gone)

        return await self._unit.write(work)


def live_session(state: State, id: UUID, now: datetime) -> SessionRecord | None:
    """Return a session that has not expired."""
    record = state.sessions.get(id)
    return record if record is not None and _is_live(record, now) else None


def _is_live(record: SessionRecord, now: datetime) -> bool:
    return record.status != "expired" and (record.expires_at is None or record.expires_at > now)


def _is_due(record: SessionRecord, now: datetime) -> bool:
    return now - record.last_accessed_at >= timedelta(seconds=ACCESS_NOTED_EVERY_S)


def _ended(state: State, now: datetime) -> list[SessionRecord]:
    """Return the sessions whose time has passed, the oldest first."""
    records = [one for one in state.sessions.rows() if one.expires_at is not None and one.expires_at <= now]
    return sorted(records, key=lambda one: (one.expires_at or now, one.id))


def _chosen(state: State, status: SessionStatus | None, now: datetime) -> list[SessionRecord]:
    if status == "expired":
        return _ended(state, now)
    return [one for one in state.sessions.rows() if _is_live(one, now) and status in (None, one.status)]


def _remove(state: State, sessions: set[UUID]) -> None:
    """Remove sessions with their artifacts, and contents that nothing refers to any more."""
    for artifact in state.artifacts.rows():
        if artifact.session in sessions:
            state.artifacts.remove(artifact.id)
    for id in sessions:
        state.sessions.remove(id)
        state.artifact_numbers.remove(id)
    drop_unreferenced(state)


def drop_unreferenced(state: State) -> None:
    """Remove contents that no artifact refers to."""
    wanted = {artifact.content_hash for artifact in state.artifacts.rows()}
    unwanted = [content_hash for content_hash, _ in state.contents.items() if content_hash not in wanted]
    for content_hash in unwanted:
        state.contents.remove(content_hash)


def _shown(state: State, record: SessionRecord, now: datetime) -> SessionRecord:
    """Return a copy that the caller may keep, with the artifacts counted and the status that it has by now."""
    return _shown_with(record, sum(artifact.session == record.id for artifact in state.artifacts.rows()), now)


def _shown_with(record: SessionRecord, count: int, now: datetime) -> SessionRecord:
    ended = record.expires_at is not None and record.expires_at <= now
    status: SessionStatus = "expired" if ended else record.status
    return replace(record, data=deepcopy(record.data), artifact_count=count, status=status)


def _place(record: SessionRecord) -> tuple[datetime, UUID]:
    return record.created_at, record.id


def _position(record: SessionRecord) -> dict[str, Any]:
    return {"at": to_microseconds(record.created_at), "id": str(record.id)}


COLUMNS = {"session_id": "id", "session_data": "data"} | {
    name: name for name in ("status", "created_at", "last_accessed_at", "expires_at", "updated_at", "version")
}
"""Columns of `sessions` with the fields of their records."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `sessions`, with their artifacts counted."""
    counts = Counter(artifact.session for artifact in state.artifacts.rows())
    for record in state.sessions.rows():
        counted = {
            "artifact_count": counts[record.id],
            "artifact_sequence": state.artifact_numbers.get(record.id) or 0,
        }
        yield {column: getattr(record, field) for column, field in COLUMNS.items()} | counted


def load(state: State, row: Row) -> None:
    """Keep a row of `sessions`; its artifacts are counted when somebody looks."""
    record = SessionRecord(artifact_count=0, **{field: row[column] for column, field in COLUMNS.items()})
    state.sessions.put(record.id, record)
    if row["artifact_sequence"]:
        state.artifact_numbers.put(record.id, row["artifact_sequence"])
