"""The bi-temporal graph in memory: a list of versions per tenant, and every answer a filter over all of them.

Not here: speed. This is the meaning of the contract, written so that it can be read.

A version is believed from `recorded_from` to `recorded_to`, and says what was true from `valid_from` to `valid_to`. Ending
a belief fills in `recorded_to`; nothing else about a version ever changes, and only `delete_before` removes any.

Rule: a version that would end at the very instant at which it was recorded is taken back: nobody ever believed it.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from llmspell.clock import Clock, optional_instant, parse_instant, require_period
from llmspell.codec import encode_json, require_limit, require_text
from llmspell.errors import Conflict, NotFound
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts import graph_checks as checks
from llmspell.storage.contracts.graph import (
    DEFAULT_ENTITY_TYPE,
    DEPTH_MAX,
    NEIGHBOURS_MAX,
    PATHS_MAX,
    Cardinality,
    Direction,
    Entity,
    Fact,
    FactCorrection,
    GraphStats,
    NewFact,
    Path,
    Reached,
)
from llmspell.storage.inmemory.graph_walks import chains, reach
from llmspell.storage.inmemory.store import State, Table, Unit

EARLIEST = datetime.min.replace(tzinfo=UTC)
"""Where the period of something begins of which nobody knows when it began."""
PRUNE_MAX = 1_000

Version = TypeVar("Version", Entity, Fact)


class Moment(msgspec.Struct, frozen=True):
    """A point on both axes: what was true at `as_of`, as known at `known_at` (None: now)."""

    as_of: datetime
    known_at: datetime | None

    def believed(self, version: Entity | Fact) -> bool:
        """Say whether a version was believed."""
        return _believed(version, self.known_at)

    def sees(self, version: Entity | Fact) -> bool:
        """Say whether a version was believed, and true."""
        return self.believed(version) and _covers(version, self.as_of)


class InMemoryGraph:
    """`Graph` over two lists of versions."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids

    async def declare(self, predicate: str, cardinality: Cardinality) -> None:
        checks.require_predicate(predicate)
        checks.require_cardinality(cardinality)
        await self._unit.write(lambda state: _declare(state, predicate, cardinality))

    async def predicates(self) -> dict[str, Cardinality]:
        declared = await self._unit.read(lambda state: state.predicates.items())
        return dict(sorted(declared))

    async def upsert_entity(
        self,
        name: str,
        *,
        type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        source: str | None = None,
        actor: str | None = None,
    ) -> Entity:
        checks.require_name(name, field="name")
        checks.require_type(type, field="type")
        given = None if properties is None else checks.require_properties(properties)
        start, end = checks.require_dates(valid_from, valid_to)
        checks.require_provenance(source, actor)

        def work(state: State) -> Entity:
            now = state.recorded_instant(self._clock)
            believed = [one for one in state.entities.rows() if one.name == name and one.recorded_to is None]
            begins = start or (self._clock.now() if believed else EARLIEST)
            require_period(begins, end, fields=("valid_from", "valid_to"))
            before = next((one for one in believed if _covers(one, begins)), believed[-1] if believed else None)
            new = Entity(
                id=_entity_id(state, name) or self._ids.new(),
                name=name,
                type=type or (before.type if before else DEFAULT_ENTITY_TYPE),
                properties=given if given is not None else before.properties if before else {},
                valid_from=begins,
                valid_to=end,
                recorded_from=now,
                recorded_to=None,
                source=source,
                actor=actor,
            )
            known = next((one for one in believed if _contains(one, new) and _same_entity(one, new)), None)
            if known is not None:
                return known
            _withdraw(state, state.entities, lambda one: one.name == name, begins, end, now)
            _record(state, state.entities, new)
            return new

        return _copy(await self._unit.write(work))

    async def get_entity(
        self, entity: str | UUID, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> Entity | None:
        checks.require_entity(entity)
        at, known = _axes(as_of, known_at)

        def work(state: State) -> Entity | None:
            moment = self._moment(at, known)
            seen = (one for one in state.entities.rows() if _is_entity(one, entity) and moment.sees(one))
            return next(seen, None)

        found = await self._unit.read(work)
        return None if found is None else _copy(found)

    async def list_entities(
        self,
        *,
        type: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Entity]:
        checks.require_type(type, field="type")
        if after is not None:
            require_text(after, field="after")
        at, known = _axes(as_of, known_at)
        require_limit(limit)

        def work(state: State) -> builtins.list[Entity]:
            moment = self._moment(at, known)
            return [
                one
                for one in state.entities.rows()
                if moment.sees(one) and (type is None or one.type == type) and (after is None or one.name > after)
            ]

        found = await self._unit.read(work)
        return [_copy(one) for one in sorted(found, key=lambda one: one.name)[:limit]]

    async def delete_entity(self, entity: str | UUID, *, actor: str | None = None) -> bool:
        checks.require_entity(entity)
        checks.require_provenance(None, actor)

        def work(state: State) -> bool:
            believed = [one for one in state.entities.rows() if _is_entity(one, entity) and one.recorded_to is None]
            if not believed:
                return False
            now, id = state.recorded_instant(self._clock), believed[0].id
            _withdraw(state, state.entities, lambda one: one.id == id, None, None, now)
            _withdraw(state, state.facts, lambda one: id in (one.subject_id, one.object_id), None, None, now)
            return True

        return await self._unit.write(work)

    async def assert_fact(self, fact: NewFact, *, cardinality: Cardinality | None = None) -> Fact:
        checked = checks.require_fact(fact)
        if cardinality is not None:
            checks.require_cardinality(cardinality)

        def work(state: State) -> Fact:
            if cardinality is not None:
                _declare(state, checked.predicate, cardinality)
            now = state.recorded_instant(self._clock)
            begins = checked.valid_from or self._clock.now()
            require_period(begins, checked.valid_to, fields=("valid_from", "valid_to"))
            believed = _believed_facts(state, checked.subject, checked.predicate)
            rivals = [one for one in believed if _one(state, checked.predicate) or one.object == checked.object]
            ends = checked.valid_to
            if ends is None and _one(state, checked.predicate):
                ends = min((one.valid_from for one in believed if one.valid_from > begins), default=None)
            new = self._new_fact(state, checked, begins, ends, now)
            known = next((one for one in rivals if _contains(one, new) and _same_fact(one, new)), None)
            if known is not None:
                return known
            giving_way = {one.id for one in rivals}
            _withdraw(state, state.facts, lambda one: one.id in giving_way, begins, ends, now)
            _record(state, state.facts, new)
            return new

        return _copy(await self._unit.write(work))

    def _new_fact(self, state: State, fact: NewFact, begins: datetime, ends: datetime | None, now: datetime) -> Fact:
        subject = self._ensure_entity(state, fact.subject, fact.subject_type, fact, now)
        object = self._ensure_entity(state, fact.object, fact.object_type, fact, now)
        known = _fact_id(state, subject, fact.predicate, object)
        return Fact(
            id=known or self._ids.new(),
            subject_id=subject,
            subject=fact.subject,
            predicate=fact.predicate,
            object_id=object,
            object=fact.object,
            properties=fact.properties,
            confidence=fact.confidence,
            valid_from=begins,
            valid_to=ends,
            recorded_from=now,
            recorded_to=None,
            source=fact.source,
            actor=fact.actor,
        )

    def _ensure_entity(
        self, state: State, name: str, type: str | None, origin: NewFact | FactCorrection, now: datetime
    ) -> UUID:
        """Return the id of the entity of that name; one that is not believed is created, as from the earliest instant."""
        for one in state.entities.rows():
            if one.name == name and one.recorded_to is None:
                return one.id
        created = Entity(
            id=_entity_id(state, name) or self._ids.new(),
            name=name,
            type=type or DEFAULT_ENTITY_TYPE,
            properties={},
            valid_from=EARLIEST,
            valid_to=None,
            recorded_from=now,
            recorded_to=None,
            source=origin.source,
            actor=origin.actor,
        )
        _record(state, state.entities, created)
        return created.id

    async def retract(
        self,
        subject: str,
        predicate: str,
        object: str | None = None,
        *,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        actor: str | None = None,
    ) -> int:
        checks.require_name(subject, field="subject")
        checks.require_predicate(predicate)
        if object is not None:
            checks.require_name(object, field="object")
        start, end = checks.require_dates(valid_from, valid_to)
        checks.require_provenance(None, actor)

        def work(state: State) -> int:
            now = state.recorded_instant(self._clock)
            believed = _believed_facts(state, subject, predicate)
            chosen = {one.id for one in believed if object is None or one.object == object}
            return len(_withdraw(state, state.facts, lambda one: one.id in chosen, start, end, now))

        return await self._unit.write(work)

    async def correct(self, fact_id: UUID, correction: FactCorrection) -> Fact:
        wanted = parse_id(fact_id, field="fact_id")
        changes = checks.require_correction(correction)

        def work(state: State) -> Fact:
            believed = [one for one in state.facts.rows() if one.id == wanted and one.recorded_to is None]
            if not believed:
                raise NotFound("The fact is not believed now.", fact_id=wanted)
            now = state.recorded_instant(self._clock)
            before = max(believed, key=lambda one: one.valid_from)
            new = replace(before, **changes, recorded_from=now, source=correction.source, actor=correction.actor)
            require_period(new.valid_from, new.valid_to, fields=("valid_from", "valid_to"))
            new = replace(new, object_id=self._ensure_entity(state, new.object, None, correction, now))
            _withdraw(state, state.facts, lambda one: one.id == wanted, None, None, now)
            others = _believed_facts(state, new.subject, new.predicate)
            giving_way = {one.id for one in others if _one(state, new.predicate) or one.object == new.object}
            _withdraw(state, state.facts, lambda one: one.id in giving_way, new.valid_from, new.valid_to, now)
            _record(state, state.facts, new)
            return new

        return _copy(await self._unit.write(work))

    async def facts(
        self,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        any_time: bool = False,
        limit: int = 100,
    ) -> list[Fact]:
        checks.require_pattern(subject, predicate, object)
        at, known = _axes(as_of, known_at)
        require_limit(limit)

        def work(state: State) -> builtins.list[Fact]:
            moment = self._moment(at, known)
            return [
                one
                for one in state.facts.rows()
                if (moment.believed(one) if any_time else moment.sees(one))
                and (subject is None or one.subject == subject)
                and (predicate is None or one.predicate == predicate)
                and (object is None or one.object == object)
            ]

        found = sorted(await self._unit.read(work), key=lambda one: (one.valid_from, one.id))
        return [_copy(one) for one in found[:limit]]

    async def neighbours(
        self,
        entity: str | UUID,
        *,
        predicate: str | None = None,
        direction: Direction = "both",
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 100,
    ) -> list[Fact]:
        checks.require_entity(entity)
        checks.require_direction(direction)
        require_limit(limit, maximum=NEIGHBOURS_MAX)
        facts, _ = await self._visible(predicate, as_of, known_at)
        touching = [
            one
            for one in facts
            if (direction != "in" and entity in (one.subject, one.subject_id))
            or (direction != "out" and entity in (one.object, one.object_id))
        ]
        return touching[:limit]

    async def traverse(
        self,
        start: str | UUID,
        *,
        predicate: str | None = None,
        max_depth: int = 2,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 100,
    ) -> list[Reached]:
        checks.require_entity(start, field="start")
        require_limit(max_depth, field="max_depth", maximum=DEPTH_MAX)
        require_limit(limit, maximum=NEIGHBOURS_MAX)
        facts, entities = await self._visible(predicate, as_of, known_at)
        origin = next((one.id for one in entities if _is_entity(one, start)), None)
        return [] if origin is None else reach(origin, facts, max_depth)[:limit]

    async def paths(
        self,
        start: str | UUID,
        end: str | UUID,
        *,
        max_depth: int = 4,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 10,
    ) -> list[Path]:
        checks.require_entity(start, field="start")
        checks.require_entity(end, field="end")
        require_limit(max_depth, field="max_depth", maximum=DEPTH_MAX)
        require_limit(limit, maximum=PATHS_MAX)
        facts, entities = await self._visible(None, as_of, known_at)
        origin = next((one for one in entities if _is_entity(one, start)), None)
        goal = next((one for one in entities if _is_entity(one, end)), None)
        return [] if origin is None or goal is None else chains(origin, goal, facts, max_depth)[:limit]

    async def mentioned(self, names: Sequence[str], *, limit: int = 20) -> list[Entity]:
        wanted = checks.require_names(names)
        require_limit(limit)

        def work(state: State) -> builtins.list[Entity]:
            moment = self._moment(None, None)
            return [one for one in state.entities.rows() if one.name.casefold() in wanted and moment.sees(one)]

        found = sorted(await self._unit.read(work), key=lambda one: one.name)
        return [_copy(one) for one in found[:limit]]

    async def history(self, fact_id: UUID) -> list[Fact]:
        wanted = parse_id(fact_id, field="fact_id")
        versions = await self._unit.read(lambda state: [one for one in state.facts.rows() if one.id == wanted])
        return [_copy(one) for one in sorted(versions, key=_recording)]

    async def entity_history(self, entity: str | UUID) -> list[Entity]:
        checks.require_entity(entity)
        versions = await self._unit.read(
            lambda state: [one for one in state.entities.rows() if _is_entity(one, entity)]
        )
        return [_copy(one) for one in sorted(versions, key=_recording)]

    async def stats(self) -> GraphStats:
        moment = self._moment(None, None)
        entities, facts = await self._unit.read(lambda state: (state.entities.rows(), state.facts.rows()))
        return GraphStats(
            entities=sum(map(moment.sees, entities)),
            facts=sum(map(moment.sees, facts)),
            entity_versions=len(entities),
            fact_versions=len(facts),
        )

    async def delete_before(self, instant: datetime, *, limit: int = 1_000) -> int:
        before = parse_instant(instant, field="instant")
        require_limit(limit, maximum=PRUNE_MAX)

        def work(state: State) -> int:
            facts = _ended(state.facts, before)
            # The last version of an entity stays, so that its name keeps its id.
            last = {
                one.id: number for number, one in sorted(state.entities.items(), key=lambda item: _recording(item[1]))
            }
            entities = [number for number in _ended(state.entities, before) if number not in last.values()]
            for number in facts[:limit]:
                state.facts.remove(number)
            for number in entities[: limit - len(facts[:limit])]:
                state.entities.remove(number)
            return min(limit, len(facts) + len(entities))

        return await self._unit.write(work)

    def _moment(self, as_of: datetime | None, known_at: datetime | None) -> Moment:
        return Moment(as_of or self._clock.now(), known_at)

    async def _visible(
        self, predicate: str | None, as_of: datetime | None, known_at: datetime | None
    ) -> tuple[builtins.list[Fact], builtins.list[Entity]]:
        """Return the facts that can be seen, in the order of `neighbours`, and every version of every entity."""
        if predicate is not None:
            checks.require_predicate(predicate)
        at, known = _axes(as_of, known_at)

        def work(state: State) -> tuple[builtins.list[Fact], builtins.list[Entity]]:
            moment = self._moment(at, known)
            facts = [one for one in state.facts.rows() if moment.sees(one) and predicate in (None, one.predicate)]
            return facts, state.entities.rows()

        facts, entities = await self._unit.read(work)
        facts = [_copy(one) for one in facts]
        return sorted(facts, key=lambda one: (one.predicate, one.valid_from, one.id)), entities


def _axes(as_of: datetime | None, known_at: datetime | None) -> tuple[datetime | None, datetime | None]:
    return optional_instant(as_of, field="as_of"), optional_instant(known_at, field="known_at")


def _believed(version: Entity | Fact, known_at: datetime | None) -> bool:
    if known_at is None:
        return version.recorded_to is None
    return version.recorded_from <= known_at and (version.recorded_to is None or known_at < version.recorded_to)


def _covers(version: Entity | Fact, instant: datetime) -> bool:
    return version.valid_from <= instant and (version.valid_to is None or instant < version.valid_to)


def _contains(version: Entity | Fact, other: Entity | Fact) -> bool:
    """Say whether the valid period of a version contains the whole of another's."""
    if version.valid_from > other.valid_from:
        return False
    return version.valid_to is None or (other.valid_to is not None and other.valid_to <= version.valid_to)


def _overlaps(version: Entity | Fact, start: datetime | None, end: datetime | None) -> bool:
    begins_before_end = end is None or version.valid_from < end
    ends_after_start = start is None or version.valid_to is None or version.valid_to > start
    return begins_before_end and ends_after_start


def _recording(version: Entity | Fact) -> tuple[datetime, datetime]:
    return version.recorded_from, version.valid_from


def _same_entity(left: Entity, right: Entity) -> bool:
    return left.type == right.type and encode_json(left.properties) == encode_json(right.properties)


def _same_fact(left: Fact, right: Fact) -> bool:
    same_ends = left.subject == right.subject and left.object == right.object
    same_content = encode_json(left.properties) == encode_json(right.properties) and left.confidence == right.confidence
    return same_ends and same_content and left.source == right.source


def _is_entity(version: Entity, entity: str | UUID) -> bool:
    return entity in (version.id, version.name)


def _entity_id(state: State, name: str) -> UUID | None:
    """Return the id that a name has, or had."""
    return next((one.id for one in state.entities.rows() if one.name == name), None)


def _believed_facts(state: State, subject: str, predicate: str) -> list[Fact]:
    return [
        one
        for one in state.facts.rows()
        if one.subject == subject and one.predicate == predicate and one.recorded_to is None
    ]


def _fact_id(state: State, subject: UUID, predicate: str, object: UUID) -> UUID | None:
    """Return the id that a fact had before, unless a correction has made it another fact."""
    moved = {one.id for one in state.facts.rows() if one.recorded_to is None and one.object_id != object}
    same = [
        one
        for one in state.facts.rows()
        if (one.subject_id, one.predicate, one.object_id) == (subject, predicate, object) and one.id not in moved
    ]
    return max(same, key=lambda one: one.recorded_from).id if same else None


def _one(state: State, predicate: str) -> bool:
    """Say whether a predicate holds one value at a time."""
    return state.predicates.get(predicate) == "one"


def _declare(state: State, predicate: str, cardinality: Cardinality) -> None:
    declared = state.predicates.get(predicate)
    if declared == cardinality:
        return
    if declared is not None:
        raise Conflict("The predicate is declared otherwise.", predicate=predicate, cardinality=declared)
    believed = [one for one in state.facts.rows() if one.predicate == predicate and one.recorded_to is None]
    if cardinality == "one" and any(
        left is not right and left.subject == right.subject and _overlaps(left, right.valid_from, right.valid_to)
        for left in believed
        for right in believed
    ):
        raise Conflict(
            "Several beliefs overlap, so the predicate cannot hold one value at a time.",
            predicate=predicate,
            hint="Retract or correct them first.",
        )
    state.predicates.put(predicate, cardinality)


def _record(state: State, table: Table[int, Version], version: Version) -> None:
    table.put(state.next_number("version"), version)


def _ended(table: Table[int, Version], before: datetime) -> list[int]:
    """Return the versions whose belief ended before an instant, the longest ended first."""
    ended = [(one.recorded_to, number) for number, one in table.items() if one.recorded_to is not None]
    return [number for instant, number in sorted(ended) if instant < before]


def _withdraw(
    state: State,
    table: Table[int, Version],
    chosen: Callable[[Version], bool],
    start: datetime | None,
    end: datetime | None,
    now: datetime,
) -> set[UUID]:
    """Stop believing versions during a period (None: unbounded), keep what lies outside of it, and return whose they were."""
    touched: set[UUID] = set()
    for number, version in table.items():
        if version.recorded_to is not None or not chosen(version) or not _overlaps(version, start, end):
            continue
        touched.add(version.id)
        if version.recorded_from == now:
            table.remove(number)
        else:
            table.put(number, replace(version, recorded_to=now))
        if start is not None and version.valid_from < start:
            _record(state, table, replace(version, valid_to=start, recorded_from=now))
        if end is not None and (version.valid_to is None or version.valid_to > end):
            _record(state, table, replace(version, valid_from=end, recorded_from=now))
    return touched


def _copy(version: Version) -> Version:
    """Return a version as callers see it: they may change what they got."""
    return replace(version, properties=deepcopy(version.properties))
