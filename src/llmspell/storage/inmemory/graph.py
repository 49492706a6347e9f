"""The bi-temporal graph in memory: a list of versions per tenant, and every answer a filter over all of them.

Not here: speed. This is the meaning of the contract, written so that it can be read.

A version is believed from `recorded_from` to `recorded_to`, and says what was true from `valid_from` to `valid_to`. Ending
a belief fills in `recorded_to`; nothing else about a version ever changes, and only `delete_before` removes any.

Rule: a version that would end at the very instant at which it was recorded is taken back: nobody ever believed it.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock, optional_instant, parse_instant, require_period
from llmspell.codec import require_limit
from llmspell.errors import NotFound
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
from llmspell.storage.inmemory import graph_versions as versions
from llmspell.storage.inmemory.graph_walks import chains, reach
from llmspell.storage.inmemory.store import State, Unit

EARLIEST = datetime.min.replace(tzinfo=UTC)
"""Where the period of something begins of which nobody knows when it began."""
PRUNE_MAX = 1_000


class InMemoryGraph:
    """`Graph` over two lists of versions."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids

    async def declare(self, predicate: str, cardinality: Cardinality) -> None:
        checks.require_predicate(predicate)
        checks.require_cardinality(cardinality)

        def work(state: State) -> None:
            now = state.recorded_instant(self._clock)  # a change of the graph, like any other
            versions.declare(state, predicate, cardinality, now)

        await self._unit.write(work)

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
            believed.sort(key=lambda one: one.valid_from)
            begins = start or (self._clock.now() if believed else EARLIEST)
            require_period(begins, end, fields=("valid_from", "valid_to"))
            before = next((one for one in believed if versions.covers(one, begins)), believed[-1] if believed else None)
            new = Entity(
                id=versions.entity_id(state, name) or self._ids.new(),
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
            known = next(
                (one for one in believed if versions.contains(one, new) and versions.same_entity(one, new)), None
            )
            if known is not None:
                return known
            versions.withdraw(state, state.entities, lambda one: one.name == name, now, start=begins, end=end)
            versions.record(state, state.entities, new)
            return new

        return versions.copy_of(await self._unit.write(work))

    async def get_entity(
        self, entity: str | UUID, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> Entity | None:
        checks.require_entity(entity)
        at, known = _axes(as_of, known_at)

        def work(state: State) -> Entity | None:
            moment = self._moment(at, known)
            seen = (one for one in state.entities.rows() if versions.is_entity(one, entity) and moment.sees(one))
            return next(seen, None)

        found = await self._unit.read(work)
        return None if found is None else versions.copy_of(found)

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
            checks.require_name(after, field="after")
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
        return [versions.copy_of(one) for one in sorted(found, key=lambda one: one.name)[:limit]]

    async def delete_entity(self, entity: str | UUID, *, actor: str | None = None) -> bool:
        checks.require_entity(entity)
        checks.require_provenance(None, actor)

        def work(state: State) -> bool:
            now = state.recorded_instant(self._clock)
            believed = [
                one for one in state.entities.rows() if versions.is_entity(one, entity) and one.recorded_to is None
            ]
            if not believed:
                return False
            id = believed[0].id
            versions.withdraw(state, state.entities, lambda one: one.id == id, now)
            versions.withdraw(state, state.facts, lambda one: id in (one.subject_id, one.object_id), now)
            return True

        return await self._unit.write(work)

    async def assert_fact(self, fact: NewFact, *, cardinality: Cardinality | None = None) -> Fact:
        checked = checks.require_fact(fact)
        if cardinality is not None:
            checks.require_cardinality(cardinality)

        begins = checked.valid_from or self._clock.now()
        require_period(begins, checked.valid_to, fields=("valid_from", "valid_to"))

        def work(state: State) -> Fact:
            now = state.recorded_instant(self._clock)
            if cardinality is not None:
                versions.declare(state, checked.predicate, cardinality, now)
            believed = versions.believed_facts(state, checked.subject, checked.predicate)
            ends = checked.valid_to
            if ends is None and versions.holds_one(state, checked.predicate):
                ends = min((one.valid_from for one in believed if one.valid_from > begins), default=None)
            new = self._new_fact(state, checked, begins, ends, now)
            known = next(
                (one for one in believed if versions.contains(one, new) and versions.same_fact(one, new)), None
            )
            if known is not None:
                return known
            versions.withdraw(state, state.facts, versions.rivals_of(state, new), now, start=begins, end=ends)
            versions.record(state, state.facts, new)
            return new

        return versions.copy_of(await self._unit.write(work))

    def _new_fact(self, state: State, fact: NewFact, begins: datetime, ends: datetime | None, now: datetime) -> Fact:
        subject = self._ensure_entity(state, fact.subject, fact.subject_type, fact, now)
        object = self._ensure_entity(state, fact.object, fact.object_type, fact, now)
        known = versions.fact_id(state, subject, fact.predicate, object)
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
            id=versions.entity_id(state, name) or self._ids.new(),
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
        versions.record(state, state.entities, created)
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

        def chosen(one: Fact) -> bool:
            return (one.subject, one.predicate) == (subject, predicate) and object in (None, one.object)

        def work(state: State) -> int:
            now = state.recorded_instant(self._clock)
            return len(versions.withdraw(state, state.facts, chosen, now, start=start, end=end))

        return await self._unit.write(work)

    async def correct(self, fact_id: UUID, correction: FactCorrection) -> Fact:
        wanted = parse_id(fact_id, field="fact_id")
        changes = checks.require_correction(correction)

        def work(state: State) -> Fact:
            believed = [one for one in state.facts.rows() if one.id == wanted and one.recorded_to is None]
            if not believed:
                raise NotFound("The fact is not believed now.", fact_id=wanted)
            now = state.recorded_instant(self._clock)
            named = [
                one for one in believed if versions.overlaps(one, changes.get("valid_from"), changes.get("valid_to"))
            ]
            before = max(named or believed, key=lambda one: one.valid_from)
            new = replace(before, **changes, recorded_from=now, source=correction.source, actor=correction.actor)
            require_period(new.valid_from, new.valid_to, fields=("valid_from", "valid_to"))
            new = replace(new, object_id=self._ensure_entity(state, new.object, None, correction, now))
            rivals = versions.rivals_of(state, new)

            def spoken_of(one: Fact) -> bool:
                return one.id == wanted and one.valid_from == before.valid_from

            def giving_way(one: Fact) -> bool:
                return one.id == wanted or rivals(one)

            versions.withdraw(state, state.facts, spoken_of, now)
            versions.withdraw(state, state.facts, giving_way, now, start=new.valid_from, end=new.valid_to)
            versions.record(state, state.facts, new)
            return new

        return versions.copy_of(await self._unit.write(work))

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
        return [versions.copy_of(one) for one in found[:limit]]

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
        origin = next((one.id for one in entities if versions.is_entity(one, start)), None)
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
        origin = next((one for one in entities if versions.is_entity(one, start)), None)
        goal = next((one for one in entities if versions.is_entity(one, end)), None)
        return [] if origin is None or goal is None else chains(origin, goal, facts, max_depth)[:limit]

    async def mentioned(
        self,
        names: Sequence[str],
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 20,
    ) -> list[Entity]:
        wanted = checks.require_names(names)
        at, known = _axes(as_of, known_at)
        require_limit(limit)

        def work(state: State) -> builtins.list[Entity]:
            moment = self._moment(at, known)
            return [one for one in state.entities.rows() if one.name.casefold() in wanted and moment.sees(one)]

        found = sorted(await self._unit.read(work), key=lambda one: one.name)
        return [versions.copy_of(one) for one in found[:limit]]

    async def history(self, fact_id: UUID) -> list[Fact]:
        wanted = parse_id(fact_id, field="fact_id")
        found = await self._unit.read(lambda state: [one for one in state.facts.rows() if one.id == wanted])
        return [versions.copy_of(one) for one in sorted(found, key=versions.recording)]

    async def entity_history(self, entity: str | UUID) -> list[Entity]:
        checks.require_entity(entity)
        found = await self._unit.read(
            lambda state: [one for one in state.entities.rows() if versions.is_entity(one, entity)]
        )
        return [versions.copy_of(one) for one in sorted(found, key=versions.recording)]

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
            facts = versions.ended(state.facts, before)
            by_recording = sorted(state.entities.items(), key=lambda item: versions.recording(item[1]))
            last = {one.id: number for number, one in by_recording}.values()  # it stays, so that the name keeps its id
            entities = [number for number in versions.ended(state.entities, before) if number not in set(last)]
            for number in facts[:limit]:
                state.facts.remove(number)
            for number in entities[: limit - len(facts[:limit])]:
                state.entities.remove(number)
            return min(limit, len(facts) + len(entities))

        return await self._unit.write(work)

    def _moment(self, as_of: datetime | None, known_at: datetime | None) -> versions.Moment:
        return versions.Moment(as_of or self._clock.now(), known_at)

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
        facts = [versions.copy_of(one) for one in facts]
        return sorted(facts, key=lambda one: (one.predicate, one.valid_from, one.id)), entities


def _axes(as_of: datetime | None, known_at: datetime | None) -> tuple[datetime | None, datetime | None]:
    return optional_instant(as_of, field="as_of"), optional_instant(known_at, field="known_at")
