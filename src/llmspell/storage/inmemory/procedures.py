"""Learned procedures in memory: a dictionary by (scope, key, value)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TypeAlias

from msgspec.structs import replace

from llmspell.clock import Clock, parse_instant
from llmspell.codec import require_limit
from llmspell.ids import IdSource
from llmspell.storage.contracts import procedures_checks as checks
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.procedures import (
    FREQUENCY_MAX,
    LEARNED_FROM,
    PREDICTIONS_MAX,
    Pattern,
    Prediction,
)
from llmspell.storage.inmemory.store import Row, State, Unit

Place: TypeAlias = "tuple[str, str, str]"


class InMemoryProcedures:
    """`Procedures` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

    async def record(self, scope: str, key: str, value: str, *, count: int = 1) -> Pattern:
        place = checks.require_pattern(scope, key, value)
        return await self._record(place, checks.require_count(count))

    async def record_transition(self, scope: str, key: str, from_value: str | None, to_value: str) -> Pattern:
        value = checks.transition(from_value, to_value)
        return await self._record((checks.require_scope(scope), checks.require_pattern_key(key), value), 1)

    async def _record(self, place: Place, count: int) -> Pattern:
        now, id = self._clock.now(), self._ids.new()

        def work(state: State) -> Pattern:
            old = state.patterns.get(place)
            if old is None:
                scope, key, value = place
                new = Pattern(id=id, scope=scope, key=key, value=value, frequency=count, first_seen=now, last_seen=now)
            else:
                frequency = min(old.frequency + count, FREQUENCY_MAX)
                new = replace(old, frequency=frequency, last_seen=max(old.last_seen, now))
            state.patterns.put(place, new)
            return new

        return await self._unit.write(work)

    async def get(self, scope: str, key: str, value: str) -> Pattern | None:
        place = checks.require_pattern(scope, key, value)
        return await self._unit.read(lambda state: state.patterns.get(place))

    async def frequency(self, scope: str, key: str, value: str) -> int:
        found = await self.get(scope, key, value)
        return 0 if found is None else found.frequency

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
        begin = checks.unpacked_place(after["place"]) if after else None
        everything = await self._unit.read(lambda state: state.patterns.rows())
        found = [
            pattern
            for pattern in sorted(everything, key=_place)
            if pattern.frequency >= min_frequency
            and scope in (None, pattern.scope)
            and key in (None, pattern.key)
            and (begin is None or _place(pattern) > begin)
        ]
        return await self._cursors.page(found[: limit + 1], limit=limit, query=query, position=_position)

    async def predict(self, scope: str, key: str, *, limit: int = 10) -> list[Prediction]:
        rows = await self._predicted(scope, key, "", limit)
        return [Prediction(value=value, frequency=count, share=share) for value, count, share in rows]

    async def predict_next(self, scope: str, key: str, from_value: str | None, *, limit: int = 10) -> list[Prediction]:
        rows = await self._predicted(scope, key, checks.transitions_from(from_value), limit)
        ends = ((checks.transition_end(value), count, share) for value, count, share in rows)
        return [Prediction(value=end, frequency=count, share=share) for end, count, share in ends if end is not None]

    async def _predicted(self, scope: str, key: str, first: str, limit: int) -> list[tuple[str, int, float]]:
        place = checks.require_scope(scope), checks.require_pattern_key(key)
        require_limit(limit, maximum=PREDICTIONS_MAX)
        everything = await self._unit.read(lambda state: state.patterns.rows())
        patterns = [one for one in everything if (one.scope, one.key) == place and one.value.startswith(first)]
        total = sum(pattern.frequency for pattern in patterns)
        best = sorted(patterns, key=lambda pattern: (-pattern.frequency, pattern.value))[:limit]
        return [(pattern.value, pattern.frequency, pattern.frequency / total) for pattern in best]

    async def delete(self, scope: str, key: str, value: str) -> bool:
        place = checks.require_pattern(scope, key, value)
        return await self._unit.write(lambda state: _remove(state, [place])) == 1

    async def forget(self, scope: str, key: str | None = None, *, limit: int = 1_000) -> int:
        checks.require_place(checks.require_scope(scope), key)
        require_limit(limit)

        def work(state: State) -> int:
            places = sorted(
                place for place, _ in state.patterns.items() if place[0] == scope and key in (None, place[1])
            )
            return _remove(state, places[:limit])

        return await self._unit.write(work)

    async def prune(self, *, before: datetime, below_frequency: int = LEARNED_FROM, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        checks.require_frequency(below_frequency, field="below_frequency")
        require_limit(limit)

        def work(state: State) -> int:
            old = [one for one in state.patterns.rows() if one.last_seen < instant and one.frequency < below_frequency]
            old.sort(key=lambda pattern: (pattern.last_seen, pattern.id))
            return _remove(state, [_place(pattern) for pattern in old[:limit]])

        return await self._unit.write(work)


def _place(pattern: Pattern) -> Place:
    return pattern.scope, pattern.key, pattern.value


def _position(pattern: Pattern) -> dict[str, str]:
    return {"place": checks.packed_place(pattern.scope, pattern.key, pattern.value)}


def _remove(state: State, places: list[Place]) -> int:
    there = [place for place in places if place in state.patterns]
    for place in there:
        state.patterns.remove(place)
    return len(there)


COLUMNS = ("scope", "key", "value", "frequency", "first_seen", "last_seen")


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `procedural_patterns`."""
    for pattern in state.patterns.rows():
        noted = {"created_at": pattern.first_seen, "updated_at": pattern.last_seen}
        yield noted | {name: getattr(pattern, name) for name in COLUMNS} | {"pattern_id": pattern.id}


def load(state: State, row: Row) -> None:
    """Keep a row of `procedural_patterns`."""
    pattern = Pattern(id=row["pattern_id"], **{name: row[name] for name in COLUMNS})
    state.patterns.put(_place(pattern), pattern)
