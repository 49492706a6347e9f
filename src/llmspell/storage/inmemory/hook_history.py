"""The history of hooks in memory: every question looks at every execution.

Rule: contexts are kept packed, as on the databases, and unpacked for whoever reads them.
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import date, datetime
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock, from_microseconds, parse_instant, to_microseconds
from llmspell.codec import require_limit
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts import hook_history_checks as checks
from llmspell.storage.contracts.hook_history import (
    PRUNE_MAX,
    HookExecution,
    HookStatistics,
    NewHookExecution,
    RetentionPolicy,
)
from llmspell.storage.contracts.hook_history_checks import Selection, Stored
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.store import Row, State, Unit


class InMemoryHookHistory:
    """`HookHistory` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

    async def record(self, execution: NewHookExecution) -> HookExecution:
        new = checks.require_execution(execution, clock=self._clock, ids=self._ids)
        await self._unit.write(lambda state: _put(state, new))
        return _shown(new, include_context=True)

    async def record_many(self, executions: Sequence[NewHookExecution]) -> int:
        new = checks.require_executions(executions, clock=self._clock, ids=self._ids)

        def work(state: State) -> int:
            for one in sorted(new, key=lambda one: one.record.id):
                _put(state, one)
            return len(new)

        return await self._unit.write(work) if new else 0

    async def get(self, id: UUID | str) -> HookExecution | None:
        identity = parse_id(id)
        stored = await self._unit.read(lambda state: state.hook_executions.get(identity))
        return None if stored is None else _shown(stored, include_context=True)

    async def list(
        self,
        *,
        hook_id: str | None = None,
        hook_type: str | None = None,
        correlation_id: UUID | str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        include_context: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[HookExecution]:
        wanted = checks.require_selection(
            hook_id=hook_id, hook_type=hook_type, correlation_id=correlation_id, since=since, until=until
        )
        checks.require_page(limit, include_context=include_context)
        asked = ["hook_history", *wanted.named()]
        position = await self._cursors.read(cursor, query=asked)
        found = sorted(await self._chosen(wanted), key=_place, reverse=True)
        if position is not None:
            edge = (from_microseconds(position["at"]), UUID(position["id"]))
            found = [one for one in found if _place(one) < edge]
        shown = [_shown(one, include_context=include_context) for one in found[: limit + 1]]
        return await self._cursors.page(
            shown, limit=limit, query=asked, position=lambda one: {"at": to_microseconds(one.at), "id": str(one.id)}
        )

    async def delete(self, id: UUID | str) -> bool:
        identity = parse_id(id)

        def work(state: State) -> bool:
            there = identity in state.hook_executions
            state.hook_executions.remove(identity)
            return there

        return await self._unit.write(work)

    async def statistics(
        self,
        *,
        hook_id: str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
    ) -> HookStatistics:
        found = await self._chosen(checks.require_selection(hook_id=hook_id, since=since, until=until))
        records = [one.record for one in found]
        durations = sorted(one.duration_ms for one in records)
        total = sum(durations)
        return HookStatistics(
            executions=len(records),
            modified=sum(one.modified_operation for one in records),
            sensitive=sum(one.contains_sensitive_data for one in records),
            results=dict(sorted(Counter(one.result for one in records).items())),
            total_ms=total,
            average_ms=total / len(records) if records else None,
            p50_ms=_percentile(durations, 50),
            p95_ms=_percentile(durations, 95),
            p99_ms=_percentile(durations, 99),
            max_ms=max(durations, default=None),
            context_bytes=sum(one.context_size_bytes for one in records),
            stored_bytes=sum(len(one.context) for one in found),
            first_at=min((one.at for one in records), default=None),
            last_at=max((one.at for one in records), default=None),
        )

    async def prune(
        self, *, before: datetime | date | str, below_priority: int | None = None, limit: int = 1_000
    ) -> int:
        instant = parse_instant(before, field="before")
        if below_priority is not None:
            checks.require_priority(below_priority, field="below_priority")
        require_limit(limit, maximum=PRUNE_MAX)

        def work(state: State) -> int:
            stored = sorted(state.hook_executions.rows(), key=_place)
            old = [
                one.record.id
                for one in stored
                if one.record.at < instant
                and (below_priority is None or one.record.retention_priority < below_priority)
            ]
            return _remove(state, old[:limit])

        return await self._unit.write(work)

    async def apply_retention(self, policy: RetentionPolicy | None = None, *, limit: int = 1_000) -> int:
        chosen = checks.require_policy(policy)
        require_limit(limit, maximum=PRUNE_MAX)
        now = self._clock.now()

        def work(state: State) -> int:
            stored = sorted(state.hook_executions.rows(), key=_place)
            candidates = [one.record for one in stored[: max(0, len(stored) - chosen.executions_min)]]
            gone = [one.id for one in candidates if chosen.kept_until(one.at, one.retention_priority) < now]
            return _remove(state, gone[:limit])

        return await self._unit.write(work)

    async def _chosen(self, wanted: Selection) -> builtins.list[Stored]:
        stored = await self._unit.read(lambda state: state.hook_executions.rows())
        return [one for one in stored if _is_wanted(one.record, wanted)]


def _place(stored: Stored) -> tuple[datetime, UUID]:
    return stored.record.at, stored.record.id


def _put(state: State, new: Stored) -> None:
    if new.record.id in state.hook_executions:
        raise checks.taken(new.record.id)
    # Records of callers share nothing with what is kept.
    state.hook_executions.put(new.record.id, replace(new, record=deepcopy(_shown(new, include_context=False))))


def _remove(state: State, ids: Sequence[UUID]) -> int:
    for id in ids:
        state.hook_executions.remove(id)
    return len(ids)


def _is_wanted(one: HookExecution, wanted: Selection) -> bool:
    return (
        wanted.hook_id in (None, one.hook_id)
        and wanted.hook_type in (None, one.hook_type)
        and wanted.correlation_id in (None, one.correlation_id)
        and (wanted.since is None or one.at >= wanted.since)
        and (wanted.until is None or one.at < wanted.until)
    )


def _shown(stored: Stored, *, include_context: bool) -> HookExecution:
    """Return an execution as callers see it: copies, so that they may change what they got."""
    record = stored.record
    return replace(
        record,
        context=checks.unpack_context(stored.context, size=record.context_size_bytes) if include_context else None,
        result_data=deepcopy(record.result_data),
        tags=record.tags[:],
        metadata=deepcopy(record.metadata),
    )


def _percentile(durations: Sequence[int], percent: int) -> int | None:
    """Nearest-rank: the first value that so many of a hundred do not exceed."""
    return next((value for place, value in enumerate(durations, 1) if place * 100 >= len(durations) * percent), None)


COLUMNS = {
    "execution_id": "id",
    "timestamp": "at",
    "context_size": "context_size_bytes",
} | {
    name: name
    for name in (
        *(
            "hook_id",
            "hook_type",
            "correlation_id",
            "duration_ms",
            "triggering_component",
            "modified_operation",
            "tags",
        ),
        *("retention_priority", "contains_sensitive_data", "metadata", "created_at"),
    )
}
"""Columns of `hook_history` with the fields of their records, where they hold the same."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `hook_history`."""
    for stored in state.hook_executions.rows():
        record = stored.record
        yield {column: getattr(record, field) for column, field in COLUMNS.items()} | {
            "hook_context": stored.context,
            "result_data": {"type": record.result, "data": record.result_data},
            "component_id": record.component_id or "",
        }


def load(state: State, row: Row) -> None:
    """Keep a row of `hook_history`."""
    decided = row["result_data"]
    record = HookExecution(
        **{field: row[column] for column, field in COLUMNS.items()},
        component_id=row["component_id"] or None,
        context=None,
        result=decided.get("type", "continue"),
        result_data=decided.get("data", {}),
    )
    state.hook_executions.put(record.id, Stored(record=record, context=row["hook_context"]))
