"""The knowledge graph as a user has it: facts in three words, asked as of one time and as known at another.

Not here: how beliefs are kept (`storage`), which facts enter a context (`context`).
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import optional_instant, parse_instant
from llmspell.ids import parse_id
from llmspell.storage.contracts.graph import (
    Cardinality,
    Direction,
    Entity,
    Fact,
    FactCorrection,
    Graph,
    GraphStats,
    NewFact,
    Path,
    Reached,
)

Instant = datetime | date | str
Unset = msgspec.UnsetType


class KnowledgeGraph:
    """A tenant's knowledge graph: `tenant.graph`.

    Instants are aware datetimes, dates, or ISO text ("2026-05-01" is 00:00 UTC). `as_of` asks what was true at an instant,
    `known_at` what this store knew at one; both default to now.
    """

    def __init__(self, storage: Graph) -> None:
        self._storage = storage

    async def assert_fact(
        self,
        subject: str,
        predicate: str,
        object: str,
        *,
        valid_from: Instant | None = None,
        valid_to: Instant | None = None,
        subject_type: str | None = None,
        object_type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        confidence: float | None = None,
        cardinality: Cardinality | None = None,
        source: str | None = None,
        actor: str | None = None,
    ) -> Fact:
        """Record that something is true from `valid_from` (default: now) until `valid_to` (default: open).

        With a predicate of cardinality "one" (say so here once, or by `declare`), a subject has one value at a time: the new
        fact ends the old one where it begins, and a fact that arrives late ends where the next known one begins.

        Raises:
            InvalidInput: names the argument.
            Conflict: the predicate is declared with another cardinality, or a concurrent transaction was first.
        """
        fact = NewFact(
            subject=subject,
            predicate=predicate,
            object=object,
            valid_from=optional_instant(valid_from, field="valid_from"),
            valid_to=optional_instant(valid_to, field="valid_to"),
            subject_type=subject_type,
            object_type=object_type,
            properties=dict(properties or {}),
            confidence=confidence,
            source=source,
            actor=actor,
        )
        return await self._storage.assert_fact(fact, cardinality=cardinality)

    async def retract(
        self,
        subject: str,
        predicate: str,
        object: str | None = None,
        *,
        valid_from: Instant | None = None,
        valid_to: Instant | None = None,
        actor: str | None = None,
    ) -> int:
        """Stop believing facts, wholly or during a period, and return how many were touched.

        With `valid_from` alone a fact ends at that instant; without a period it was never true. What was believed before
        stays visible to `known_at`.
        """
        return await self._storage.retract(
            subject,
            predicate,
            object,
            valid_from=optional_instant(valid_from, field="valid_from"),
            valid_to=optional_instant(valid_to, field="valid_to"),
            actor=actor,
        )

    async def correct(
        self,
        fact_id: UUID | str,
        *,
        object: str | Unset = msgspec.UNSET,
        valid_from: Instant | Unset = msgspec.UNSET,
        valid_to: Instant | Unset | None = msgspec.UNSET,
        properties: Mapping[str, Any] | Unset = msgspec.UNSET,
        confidence: float | Unset | None = msgspec.UNSET,
        source: str | None = None,
        actor: str | None = None,
    ) -> Fact:
        """Say what was really so. What was believed before stays visible to `known_at`.

        Of a fact in several pieces (part of it was retracted) it speaks of the latest piece that meets the dates given, or
        of the latest of all. During the corrected period other pieces give way; outside of it they stay believed.

        Raises:
            NotFound: the fact is not believed now.
            InvalidTime: the corrected period is reversed.
        """
        correction = FactCorrection(
            object=object,
            valid_from=valid_from if isinstance(valid_from, Unset) else parse_instant(valid_from, field="valid_from"),
            valid_to=valid_to if isinstance(valid_to, Unset) else optional_instant(valid_to, field="valid_to"),
            properties=properties if isinstance(properties, Unset) else dict(properties),
            confidence=confidence,
            source=source,
            actor=actor,
        )
        return await self._storage.correct(parse_id(fact_id, field="fact_id"), correction)

    async def declare(self, predicate: str, cardinality: Cardinality) -> None:
        """Declare whether a subject has one value of a predicate at a time, or many.

        Raises:
            Conflict: it is declared otherwise, or "one" is asked for while several beliefs overlap.
        """
        await self._storage.declare(predicate, cardinality)

    async def predicates(self) -> dict[str, Cardinality]:
        """Return the declared predicates."""
        return await self._storage.predicates()

    async def facts(
        self,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        any_time: bool = False,
        limit: int = 100,
    ) -> builtins.list[Fact]:
        """Return facts by any of their parts; `any_time=True` gives those of every time."""
        return await self._storage.facts(
            subject=subject,
            predicate=predicate,
            object=object,
            as_of=optional_instant(as_of, field="as_of"),
            known_at=optional_instant(known_at, field="known_at"),
            any_time=any_time,
            limit=limit,
        )

    async def neighbours(
        self,
        entity: str | UUID,
        *,
        predicate: str | None = None,
        direction: Direction = "both",
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 100,
    ) -> builtins.list[Fact]:
        """Return the facts that touch an entity (a name or an id); empty when it is unknown."""
        return await self._storage.neighbours(
            entity,
            predicate=predicate,
            direction=direction,
            as_of=optional_instant(as_of, field="as_of"),
            known_at=optional_instant(known_at, field="known_at"),
            limit=limit,
        )

    async def traverse(
        self,
        start: str | UUID,
        *,
        predicate: str | None = None,
        max_depth: int = 2,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 100,
    ) -> builtins.list[Reached]:
        """Return the entities within `max_depth` steps (1 to 6), nearest first."""
        return await self._storage.traverse(
            start,
            predicate=predicate,
            max_depth=max_depth,
            as_of=optional_instant(as_of, field="as_of"),
            known_at=optional_instant(known_at, field="known_at"),
            limit=limit,
        )

    async def paths(
        self,
        start: str | UUID,
        end: str | UUID,
        *,
        max_depth: int = 4,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 10,
    ) -> builtins.list[Path]:
        """Return chains of facts between two entities, shortest first."""
        return await self._storage.paths(
            start,
            end,
            max_depth=max_depth,
            as_of=optional_instant(as_of, field="as_of"),
            known_at=optional_instant(known_at, field="known_at"),
            limit=limit,
        )

    async def history(self, fact_id: UUID | str) -> builtins.list[Fact]:
        """Return every version of a fact, in the order of recording."""
        return await self._storage.history(parse_id(fact_id, field="fact_id"))

    async def entity_history(self, entity: str | UUID) -> builtins.list[Entity]:
        """Return every version of an entity, in the order of recording."""
        return await self._storage.entity_history(entity)

    async def upsert_entity(
        self,
        name: str,
        *,
        type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        valid_from: Instant | None = None,
        valid_to: Instant | None = None,
        source: str | None = None,
        actor: str | None = None,
    ) -> Entity:
        """Create an entity, or record what is true of it for a period (default: from now on)."""
        return await self._storage.upsert_entity(
            name,
            type=type,
            properties=properties,
            valid_from=optional_instant(valid_from, field="valid_from"),
            valid_to=optional_instant(valid_to, field="valid_to"),
            source=source,
            actor=actor,
        )

    async def get_entity(
        self, entity: str | UUID, *, as_of: Instant | None = None, known_at: Instant | None = None
    ) -> Entity | None:
        """Return an entity as it was at `as_of`, as known at `known_at`, or None."""
        return await self._storage.get_entity(
            entity, as_of=optional_instant(as_of, field="as_of"), known_at=optional_instant(known_at, field="known_at")
        )

    async def list_entities(
        self,
        *,
        type: str | None = None,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> builtins.list[Entity]:
        """Return entities by name, beyond the name `after`."""
        return await self._storage.list_entities(
            type=type,
            as_of=optional_instant(as_of, field="as_of"),
            known_at=optional_instant(known_at, field="known_at"),
            after=after,
            limit=limit,
        )

    async def delete_entity(self, entity: str | UUID, *, actor: str | None = None) -> bool:
        """Stop believing in an entity and every fact about it; say whether it was believed. Its history stays."""
        return await self._storage.delete_entity(entity, actor=actor)

    async def mentioned(
        self,
        names: Sequence[str],
        *,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 20,
    ) -> builtins.list[Entity]:
        """Return entities that bear one of these names, whatever their case."""
        return await self._storage.mentioned(
            names,
            as_of=optional_instant(as_of, field="as_of"),
            known_at=optional_instant(known_at, field="known_at"),
            limit=limit,
        )

    async def stats(self) -> GraphStats:
        """Count entities, facts and versions."""
        return await self._storage.stats()

    async def delete_before(self, instant: Instant, *, limit: int = 1_000) -> int:
        """Prune versions whose belief ended before an instant; `known_at` answers from before it are lost.

        The last version of an entity stays, so that a name keeps its id.
        """
        return await self._storage.delete_before(parse_instant(instant, field="instant"), limit=limit)
