"""The knowledge graph on a database.

Rule 1: a change reads what is believed under the tenant's clock row, so changes of one tenant are serial.
Rule 2: which versions end and which begin is decided in `graph_plan`; this module fetches and writes.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from llmspell.clock import parse_instant, require_period
from llmspell.codec import encode_json, require_limit
from llmspell.errors import NotFound
from llmspell.ids import parse_id
from llmspell.storage.contracts import graph_checks as checks
from llmspell.storage.contracts.graph import (
    DEFAULT_ENTITY_TYPE,
    Cardinality,
    Entity,
    Fact,
    FactCorrection,
    NewFact,
)
from llmspell.storage.relational import graph_plan
from llmspell.storage.relational.database import Executor, Statement, Unit
from llmspell.storage.relational.graph_reads import EARLIEST, GraphReads
from llmspell.storage.relational.runtime import Runtime

T = TypeVar("T")


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph knows of the parts of an assertion."""

    cardinality: Cardinality | None
    ends: dict[str, tuple[UUID, bool]]
    """The entities that bear the names, with whether they are believed."""
    fact: UUID | None
    """The id that the fact had before."""


class RelationalGraph(GraphReads):
    """`Graph` by the queries of `graph.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        super().__init__(unit, runtime)
        self._recorded: datetime | None = None  # the instant of the open transaction, once it has recorded something
        self._undone = 0  # how many blocks of it had been undone by then

    async def _change(self, work: Callable[[Executor, datetime], Awaitable[T]]) -> T:
        """Run a change at the recorded instant: the transaction's own, or the tenant's next.

        The instant is looked up and kept by the unit of work itself. A transaction runs one unit at a time, whatever tasks
        or threads ask, so its concurrent changes share one instant; and a unit that fails, or is given up before it ran,
        keeps nothing, as its savepoint keeps nothing of the clock. A block that is undone may take the clock back, so the
        transaction puts its instant there again: otherwise the next transaction would be given the same one.
        """

        async def at_instant(executor: Executor) -> T:
            recorded, undone = self._recorded, self._unit.undone_blocks
            if recorded is None:
                recorded = await self._next_instant(executor)
            elif undone != self._undone:
                await executor.execute(self._queries.hold_clock, recorded=self._dialect.instant(recorded))
            result = await work(executor, recorded)
            if self._unit.in_transaction:
                self._recorded, self._undone = recorded, undone
            return result

        return await self._unit.write(at_instant)

    async def _next_instant(self, executor: Executor) -> datetime:
        now = self._dialect.instant(self._runtime.clock.now())
        return self._dialect.to_instant(await executor.value(self._queries.advance_clock, now=now))

    async def declare(self, predicate: str, cardinality: Cardinality) -> None:
        checks.require_predicate(predicate)
        checks.require_cardinality(cardinality)

        async def work(executor: Executor, recorded: datetime) -> None:
            await self._declare(executor, predicate, cardinality, await self._declared(executor, predicate))

        await self._change(work)

    async def _declared(self, executor: Executor, predicate: str) -> Cardinality | None:
        declared: Cardinality | None = await executor.value(self._queries.predicate, predicate=predicate)
        return declared

    async def _declare(
        self, executor: Executor, predicate: str, wanted: Cardinality, declared: Cardinality | None
    ) -> None:
        """Declare a predicate of which it is known how it is declared."""
        if declared == wanted:
            return
        if declared is not None:
            raise checks.declared_otherwise(predicate, declared)
        forever = self._dialect.open_end(None)
        overlapping = self._queries.overlapping
        if wanted == "one" and await executor.value(overlapping, predicate=predicate, forever=forever):
            raise checks.beliefs_overlap(predicate)
        now = self._dialect.instant(self._runtime.clock.now())
        await executor.execute(self._queries.declare, predicate=predicate, cardinality=wanted, now=now)

    async def predicates(self) -> dict[str, Cardinality]:
        return dict(await self._unit.rows(self._queries.predicates))

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
        begins, ends = checks.require_dates(valid_from, valid_to)
        checks.require_provenance(source, actor)
        now = self._runtime.clock.now()

        async def work(executor: Executor, recorded: datetime) -> Entity:
            id = (await self._ids_of(executor, [name])).get(name)
            believed = [] if id is None else await self._believed_entity(executor, id)
            start = begins or (now if believed else EARLIEST)
            require_period(start, ends, fields=("valid_from", "valid_to"))
            latest = believed[-1] if believed else None
            before = next((version for version in believed if graph_plan.holds(version, start)), latest)
            entity = Entity(
                id=id or self._runtime.ids.new(),
                name=name,
                type=type or (before.type if before else DEFAULT_ENTITY_TYPE),
                properties=given if given is not None else (before.properties if before else {}),
                valid_from=start,
                valid_to=ends,
                recorded_from=recorded,
                recorded_to=None,
                source=source,
                actor=actor,
            )
            said = graph_plan.already(
                believed,
                start,
                ends,
                lambda old: (old.type, encode_json(old.properties)) == (entity.type, encode_json(entity.properties)),
            )
            if said is not None:
                return said
            plan = graph_plan.cut(believed, start, ends)
            await executor.batch([*self._replace(plan, recorded), self._rows.record(entity)])
            return entity

        return await self._change(work)

    def _replace(
        self, plan: graph_plan.Plan[Fact] | graph_plan.Plan[Entity], recorded: datetime
    ) -> builtins.list[Statement]:
        """Return the statements of a plan. Closing comes first: what is kept may have the key of what was taken back."""
        statements = [self._rows.close(version, recorded) for version in plan.closed]
        for version, start, end in plan.kept:
            kept = msgspec.structs.replace(version, valid_from=start, valid_to=end, recorded_from=recorded)
            statements.append(self._rows.record(kept))
        return statements

    async def delete_entity(self, entity: str | UUID, *, actor: str | None = None) -> bool:
        checks.require_entity(entity)
        checks.require_provenance(None, actor)
        forever = self._dialect.open_end(None)

        async def work(executor: Executor, recorded: datetime) -> bool:
            id = await self._id_of(executor, entity)
            believed = [] if id is None else await self._believed_entity(executor, id)
            if id is None or not believed:
                return False
            rows = await executor.rows(self._queries.believed_about, id=self._dialect.id(id), forever=forever)
            facts = [self._rows.fact(row) for row in rows]
            versions: list[Entity | Fact] = [*believed, *facts]
            await executor.batch([self._rows.close(version, recorded) for version in versions])
            return True

        return await self._change(work)

    async def assert_fact(self, fact: NewFact, *, cardinality: Cardinality | None = None) -> Fact:
        fact = checks.require_fact(fact)
        if cardinality is not None:
            checks.require_cardinality(cardinality)
        start = fact.valid_from or self._runtime.clock.now()
        require_period(start, fact.valid_to, fields=("valid_from", "valid_to"))

        async def work(executor: Executor, recorded: datetime) -> Fact:
            known = await self._known(executor, fact)
            if cardinality is not None:
                await self._declare(executor, fact.predicate, cardinality, known.cardinality)
            held = cardinality or known.cardinality or "many"
            created = self._missing(known.ends, fact, recorded)
            ids = {**known.ends, **{entity.name: (entity.id, True) for entity in created}}
            subject, object = ids[fact.subject][0], ids[fact.object][0]
            believed = await self._believed(executor, subject, fact.predicate)
            end = graph_plan.end_of_assertion(believed, start, fact.valid_to, held)
            new = Fact(
                id=known.fact or self._runtime.ids.new(),
                subject_id=subject,
                subject=fact.subject,
                predicate=fact.predicate,
                object_id=object,
                object=fact.object,
                properties=fact.properties,
                confidence=fact.confidence,
                valid_from=start,
                valid_to=end,
                recorded_from=recorded,
                recorded_to=None,
                source=fact.source,
                actor=fact.actor,
            )
            said = graph_plan.already(believed, start, end, lambda old: _content(old) == _content(new))
            if said is not None:
                return said  # what is believed of entities needs no entity to be created
            plan = graph_plan.cut(graph_plan.rivals(believed, new, held), start, end)
            recording = [self._rows.record(entity) for entity in created]
            await executor.batch([*self._replace(plan, recorded), *recording, self._rows.record(new)])
            return new

        return await self._change(work)

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
        checks.require_pattern(subject, predicate, object)
        start, end = checks.require_dates(valid_from, valid_to)
        checks.require_provenance(None, actor)

        async def work(executor: Executor, recorded: datetime) -> int:
            id = await self._id_of(executor, subject)
            believed = [] if id is None else await self._believed(executor, id, predicate)
            matching = [fact for fact in believed if object is None or fact.object == object]
            plan = graph_plan.cut(matching, start, end)
            if plan.closed:
                await executor.batch(self._replace(plan, recorded))
            return len({fact.id for fact in plan.closed})

        return await self._change(work)

    async def correct(self, fact_id: UUID, correction: FactCorrection) -> Fact:
        identity = parse_id(fact_id, field="fact_id")
        changes = checks.require_correction(correction)

        async def work(executor: Executor, recorded: datetime) -> Fact:
            forever = self._dialect.open_end(None)
            rows = await executor.rows(self._queries.believed_fact, id=self._dialect.id(identity), forever=forever)
            if not rows:
                raise NotFound("The fact is not believed now.", fact_id=identity)
            pieces = [self._rows.fact(row) for row in rows]
            old = graph_plan.spoken_of(pieces, changes.get("valid_from"), changes.get("valid_to"))
            new = msgspec.structs.replace(
                old, **changes, recorded_from=recorded, source=correction.source, actor=correction.actor
            )
            require_period(new.valid_from, new.valid_to, fields=("valid_from", "valid_to"))
            recording: builtins.list[Statement] = []
            if new.object != old.object:
                id = (await self._ids_of(executor, [new.object])).get(new.object)
                if id is None or not await self._believed_entity(executor, id):
                    entity = self._new_entity(new.object, None, id, recorded, correction)
                    recording, id = [self._rows.record(entity)], entity.id
                new = msgspec.structs.replace(new, object_id=id)
            held = await self._declared(executor, new.predicate) or "many"
            believed = await self._believed(executor, new.subject_id, new.predicate)
            others = [fact for fact in believed if (fact.id, fact.valid_from) != (old.id, old.valid_from)]
            rivals = graph_plan.rivals(others, new, held)
            plan = graph_plan.cut(rivals, new.valid_from, new.valid_to)
            recording.append(self._rows.record(new))
            await executor.batch([self._rows.close(old, recorded), *self._replace(plan, recorded), *recording])
            return new

        return await self._change(work)

    async def delete_before(self, instant: datetime, *, limit: int = 1_000) -> int:
        require_limit(limit)
        before = self._dialect.instant(parse_instant(instant, field="instant"))

        async def work(executor: Executor) -> int:
            facts = await executor.execute(self._queries.prune_facts, before=before, limit=limit)
            left = limit - facts
            return facts + (
                await executor.execute(self._queries.prune_entities, before=before, limit=left) if left else 0
            )

        return await self._unit.write(work)

    async def _believed_entity(self, executor: Executor, id: UUID) -> builtins.list[Entity]:
        forever = self._dialect.open_end(None)
        rows = await executor.rows(self._queries.believed_entity, id=self._dialect.id(id), forever=forever)
        return [self._rows.entity(row) for row in rows]

    async def _known(self, executor: Executor, fact: NewFact) -> Known:
        """Return what is known of the parts of an assertion."""
        row = await executor.row(
            self._queries.asserting,
            subject=fact.subject,
            predicate=fact.predicate,
            object=fact.object,
            forever=self._dialect.open_end(None),
        )
        cardinality, subject, subject_believed, object, object_believed, known = row or (None,) * 6
        to_id = self._dialect.to_id
        return Known(
            cardinality=cardinality,
            ends={
                name: (to_id(id), bool(believed))
                for name, id, believed in (
                    (fact.subject, subject, subject_believed),
                    (fact.object, object, object_believed),
                )
                if id is not None
            },
            fact=None if known is None else to_id(known),
        )

    def _missing(
        self, known: Mapping[str, tuple[UUID, bool]], fact: NewFact, recorded: datetime
    ) -> builtins.list[Entity]:
        """Return the entities that an assertion creates: the ends that are not believed in."""
        types = {fact.object: fact.object_type, fact.subject: fact.subject_type}
        missing = []
        for name, type in types.items():
            id, believed = known.get(name, (None, False))
            if not believed:
                missing.append(self._new_entity(name, type, id, recorded, fact))
        return missing

    def _new_entity(
        self, name: str, type: str | None, id: UUID | None, recorded: datetime, origin: NewFact | FactCorrection
    ) -> Entity:
        return Entity(
            id=id or self._runtime.ids.new(),
            name=name,
            type=type or DEFAULT_ENTITY_TYPE,
            properties={},
            valid_from=EARLIEST,
            valid_to=None,
            recorded_from=recorded,
            recorded_to=None,
            source=origin.source,
            actor=origin.actor,
        )

    async def _believed(self, executor: Executor, subject: UUID, predicate: str) -> builtins.list[Fact]:
        rows = await executor.rows(
            self._queries.believed,
            subject=self._dialect.id(subject),
            predicate=predicate,
            forever=self._dialect.open_end(None),
        )
        return [self._rows.fact(row) for row in rows]


def _content(fact: Fact) -> tuple[Any, ...]:
    """What must be equal for an assertion to say nothing new."""
    return fact.object, encode_json(fact.properties), fact.confidence, fact.source
