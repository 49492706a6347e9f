"""Learned procedures on a database: one statement for each call."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from llmspell.clock import parse_instant
from llmspell.codec import require_limit
from llmspell.storage.contracts import procedures_checks as checks
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.procedures import LEARNED_FROM, PREDICTIONS_MAX, Pattern, Prediction
from llmspell.storage.relational.database import Row, Unit
from llmspell.storage.relational.kv import after_prefix
from llmspell.storage.relational.runtime import Runtime


class RelationalProcedures:
    """`Procedures` by the queries of `procedures.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.procedures
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def record(self, scope: str, key: str, value: str, *, count: int = 1) -> Pattern:
        scope, key, value = checks.require_pattern(scope, key, value)
        return await self._record(scope, key, value, checks.require_count(count))

    async def record_transition(self, scope: str, key: str, from_value: str | None, to_value: str) -> Pattern:
        value = checks.transition(from_value, to_value)
        return await self._record(checks.require_scope(scope), checks.require_pattern_key(key), value, 1)

    async def _record(self, scope: str, key: str, value: str, count: int) -> Pattern:
        row = await self._unit.row(
            self._queries.record,
            pattern_id=self._dialect.id(self._runtime.ids.new()),
            scope=scope,
            key=key,
            value=value,
            count=count,
            now=self._dialect.instant(self._runtime.clock.now()),
        )
        assert row is not None  # noqa: S101 - an upsert returns its row
        return self._pattern(row)

    async def get(self, scope: str, key: str, value: str) -> Pattern | None:
        scope, key, value = checks.require_pattern(scope, key, value)
        row = await self._unit.row(self._queries.get, scope=scope, key=key, value=value)
        return None if row is None else self._pattern(row)

    async def frequency(self, scope: str, key: str, value: str) -> int:
        scope, key, value = checks.require_pattern(scope, key, value)
        return int(await self._unit.value(self._queries.frequency, scope=scope, key=key, value=value) or 0)

    async def learned(
        self,
        *,
        scope: str | None = None,
        key: str | None = None,
        min_frequency: int = LEARNED_FROM,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Pattern]:
        scope, key = checks.require_place(scope, key)
        checks.require_frequency(min_frequency)
        require_limit(limit)
        query = ["procedures.learned", scope, key, min_frequency]
        after = await self._cursors.read(cursor, query=query)
        begin = checks.unpacked_place(after["place"]) if after else (scope or "", key or "", "")
        rows = await self._unit.rows(
            self._queries.learned if checks.is_learned(min_frequency) else self._queries.seen,
            **dict(zip(("scope", "key", "value"), begin, strict=True)),
            **checks.place_bounds(scope, key),
            min_frequency=min_frequency,
            limit=limit + 1,
        )
        patterns = [self._pattern(row) for row in rows]
        return await self._cursors.page(patterns, limit=limit, query=query, position=_position)

    async def predict(self, scope: str, key: str, *, limit: int = 10) -> list[Prediction]:
        rows = await self._predicted(scope, key, "", checks.BEYOND_VALUES, limit)
        return [_prediction(value, frequency, total) for value, frequency, total in rows]

    async def predict_next(self, scope: str, key: str, from_value: str | None, *, limit: int = 10) -> list[Prediction]:
        first = checks.transitions_from(from_value)
        rows = await self._predicted(scope, key, first, after_prefix(first) or checks.BEYOND_VALUES, limit)
        ends = ((checks.transition_end(value), frequency, total) for value, frequency, total in rows)
        return [_prediction(end, frequency, total) for end, frequency, total in ends if end is not None]

    async def _predicted(self, scope: str, key: str, first: str, beyond: str, limit: int) -> list[Row]:
        return await self._unit.rows(
            self._queries.predict,
            scope=checks.require_scope(scope),
            key=checks.require_pattern_key(key),
            first=first,
            beyond=beyond,
            limit=require_limit(limit, maximum=PREDICTIONS_MAX),
        )

    async def delete(self, scope: str, key: str, value: str) -> bool:
        scope, key, value = checks.require_pattern(scope, key, value)
        return await self._unit.execute(self._queries.delete, scope=scope, key=key, value=value) > 0

    async def forget(self, scope: str, key: str | None = None, *, limit: int = 1_000) -> int:
        scope, place = checks.require_scope(scope), None if key is None else checks.require_pattern_key(key)
        return await self._unit.execute(
            self._queries.forget,
            scope=scope,
            key=place or "",
            **checks.place_bounds(scope, place),
            limit=require_limit(limit),
        )

    async def prune(self, *, before: datetime, below_frequency: int = LEARNED_FROM, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        below = checks.require_frequency(below_frequency, field="below_frequency")
        return await self._unit.execute(
            self._queries.prune if below <= LEARNED_FROM else self._queries.prune_learned,
            before=self._dialect.instant(instant),
            below=below,
            limit=require_limit(limit),
        )

    def _pattern(self, row: Row) -> Pattern:
        id, scope, key, value, frequency, first_seen, last_seen = row
        return Pattern(
            id=self._dialect.to_id(id),
            scope=scope,
            key=key,
            value=value,
            frequency=frequency,
            first_seen=self._dialect.to_instant(first_seen),
            last_seen=self._dialect.to_instant(last_seen),
        )


def _prediction(value: str, frequency: Any, total: Any) -> Prediction:
    return Prediction(value=value, frequency=int(frequency), share=int(frequency) / int(total))


def _position(pattern: Pattern) -> dict[str, str]:
    return {"place": checks.packed_place(pattern.scope, pattern.key, pattern.value)}
