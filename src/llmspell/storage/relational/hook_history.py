"""The history of hooks on a database.

Rule: a list that was not asked for contexts does not read them either.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from llmspell.clock import MICROSECOND, from_microseconds, parse_instant, to_microseconds
from llmspell.codec import require_limit
from llmspell.errors import AlreadyExists
from llmspell.ids import parse_id
from llmspell.storage.contracts import hook_history_checks as checks
from llmspell.storage.contracts.hook_history import (
    PRIORITY_MAX,
    PRUNE_MAX,
    HookExecution,
    HookStatistics,
    NewHookExecution,
    RetentionPolicy,
)
from llmspell.storage.contracts.hook_history_checks import Selection, Stored
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.catalog import NO_FILTER
from llmspell.storage.relational.database import Executor, Row, Unit
from llmspell.storage.relational.runtime import Runtime

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
EVERY_PRIORITY = PRIORITY_MAX + 1
"""No priority is as high: the column has 32 bits, the comparison 64."""


class RelationalHookHistory:
    """`HookHistory` by the queries of `hook_history.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.hook_history
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def record(self, execution: NewHookExecution) -> HookExecution:
        new = checks.require_execution(execution, clock=self._runtime.clock, ids=self._runtime.ids)
        try:
            await self._unit.execute(self._queries.insert, **self._parameters(new))
        except AlreadyExists as exc:
            raise checks.taken(new.record.id) from exc
        return new.record

    async def record_many(self, executions: Sequence[NewHookExecution]) -> int:
        new = checks.require_executions(executions, clock=self._runtime.clock, ids=self._runtime.ids)
        if not new:
            return 0
        # In the order of ids: two batches with the same ids then wait for each other's end, and not for each other.
        rows = [self._parameters(one) for one in sorted(new, key=lambda one: one.record.id)]
        try:
            (recorded,) = await self._unit.batch([(self._queries.insert, rows)])
        except AlreadyExists as exc:
            found = await self._unit.value(self._queries.taken, ids=self._dialect.array([one.record.id for one in new]))
            if found is None:  # it came, and has gone again or cannot be seen from this transaction
                raise AlreadyExists("One of the executions is there already.", hint=checks.UNCHANGED) from exc
            raise checks.taken(self._dialect.to_id(found)) from exc
        return recorded

    async def get(self, id: UUID | str) -> HookExecution | None:
        row = await self._unit.row(self._queries.get, id=self._dialect.id(parse_id(id)))
        return None if row is None else self._execution(row)

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
        conditions, parameters = self._chosen(wanted)
        if position is not None:
            conditions.append("(h.timestamp, h.execution_id) < (:at, :id)")
            at = self._dialect.instant(from_microseconds(position["at"]))
            # `until` comes down to the position: an index is entered by one bound.
            parameters |= {"at": at, "id": self._dialect.id(UUID(position["id"])), "until": at}
        query = self._queries.list_with_context if include_context else self._queries.list
        rows = await self._unit.rows(query.filtered(_all_of(conditions)), limit=limit + 1, **parameters)
        found = [self._execution(row) for row in rows]
        return await self._cursors.page(found, limit=limit, query=asked, position=_place)

    async def delete(self, id: UUID | str) -> bool:
        return await self._unit.execute(self._queries.delete, id=self._dialect.id(parse_id(id))) == 1

    async def statistics(
        self,
        *,
        hook_id: str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
    ) -> HookStatistics:
        conditions, parameters = self._chosen(checks.require_selection(hook_id=hook_id, since=since, until=until))
        chosen = _all_of(conditions)

        async def work(executor: Executor) -> tuple[Row, Sequence[Row]]:
            row = await executor.row(self._queries.statistics.filtered(chosen), **parameters)
            assert row is not None  # noqa: S101 - sums always have a row
            return row, await executor.rows(self._queries.results.filtered(chosen), **parameters)

        # It may look at every execution of the tenant, so it stays off the caller's thread.
        row, results = await self._unit.read(work, heavy=True)
        count, modified, sensitive, total, context, stored, p50, p95, p99, longest, first, last = row
        return HookStatistics(
            executions=count,
            modified=modified,
            sensitive=sensitive,
            results={result: int(times) for result, times in results},
            total_ms=int(total),
            average_ms=int(total) / count if count else None,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=longest,
            context_bytes=int(context),
            stored_bytes=int(stored),
            first_at=None if first is None else self._dialect.to_instant(first),
            last_at=None if last is None else self._dialect.to_instant(last),
        )

    async def prune(
        self, *, before: datetime | date | str, below_priority: int | None = None, limit: int = 1_000
    ) -> int:
        instant = self._dialect.instant(parse_instant(before, field="before"))
        below = EVERY_PRIORITY
        if below_priority is not None:
            below = checks.require_priority(below_priority, field="below_priority")
        require_limit(limit, maximum=PRUNE_MAX)
        return await self._unit.execute(self._queries.prune, before=instant, below_priority=below, limit=limit)

    async def apply_retention(self, policy: RetentionPolicy | None = None, *, limit: int = 1_000) -> int:
        chosen = checks.require_policy(policy)
        require_limit(limit, maximum=PRUNE_MAX)
        ordinary = checks.aged_before(self._runtime.clock.now(), chosen.max_age_days)
        important = checks.aged_before(ordinary, chosen.priority_extra_days)
        return await self._unit.execute(
            self._queries.retain,
            ordinary=self._dialect.instant(ordinary),
            important=self._dialect.instant(important),
            threshold=chosen.priority_threshold,
            keep=chosen.executions_min,
            limit=limit,
        )

    def _chosen(self, wanted: Selection) -> tuple[builtins.list[str], dict[str, Any]]:
        """Return the conditions of a selection and all of its parameters. The range of the queries is closed."""
        last = LATEST if wanted.until is None else wanted.until - MICROSECOND
        conditions = []
        parameters: dict[str, Any] = {
            "since": self._dialect.instant(wanted.since or EARLIEST),
            "until": self._dialect.instant(last),
        }
        for name in ("hook_id", "hook_type"):
            if (value := getattr(wanted, name)) is not None:
                conditions.append(self._runtime.filters.selective(f"h.{name} = :{name}"))
                parameters[name] = value
        if wanted.correlation_id is not None:
            conditions.append(self._runtime.filters.selective("h.correlation_id = :correlation_id"))
            parameters["correlation_id"] = self._dialect.id(wanted.correlation_id)
        return conditions, parameters

    def _parameters(self, new: Stored) -> dict[str, Any]:
        record = new.record
        return {
            "id": self._dialect.id(record.id),
            "hook_id": record.hook_id,
            "hook_type": record.hook_type,
            "correlation_id": self._dialect.id(record.correlation_id),
            "context": new.context,
            "result_data": self._dialect.json({"type": record.result, "data": record.result_data}),
            "at": self._dialect.instant(record.at),
            "duration_ms": record.duration_ms,
            "triggering_component": record.triggering_component,
            "component_id": record.component_id or "",
            "modified_operation": record.modified_operation,
            "tags": self._dialect.array(record.tags),
            "retention_priority": record.retention_priority,
            "context_size": record.context_size_bytes,
            "contains_sensitive_data": record.contains_sensitive_data,
            "metadata": self._dialect.json(record.metadata),
            "now": self._dialect.instant(record.created_at),
        }

    def _execution(self, row: Row) -> HookExecution:
        """Return the execution of a row; a context stands last, where it was read."""
        id, hook_id, hook_type, correlation_id, at, duration_ms, triggering, component, size = row[:9]
        result, modified, tags, priority, sensitive, metadata, created_at = row[9:16]
        decided: Mapping[str, Any] = self._dialect.to_json(result)
        return HookExecution(
            id=self._dialect.to_id(id),
            hook_id=hook_id,
            hook_type=hook_type,
            correlation_id=self._dialect.to_id(correlation_id),
            at=self._dialect.to_instant(at),
            duration_ms=duration_ms,
            triggering_component=triggering,
            component_id=component or None,
            context=checks.unpack_context(bytes(row[16]), size=size) if len(row) > 16 else None,
            context_size_bytes=size,
            result=decided["type"],
            result_data=decided["data"],
            modified_operation=bool(modified),
            tags=self._dialect.to_json(tags),
            retention_priority=priority,
            contains_sensitive_data=bool(sensitive),
            metadata=self._dialect.to_json(metadata),
            created_at=self._dialect.to_instant(created_at),
        )


def _all_of(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) if conditions else NO_FILTER


def _place(execution: HookExecution) -> dict[str, Any]:
    return {"at": to_microseconds(execution.at), "id": str(execution.id)}
