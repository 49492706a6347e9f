"""The bi-temporal knowledge graph: entities and relationships that know two times (TGR-01…13).

Valid time is when something was true in the world, recorded time when this store knew it. Both periods are half-open;
an open end is None. "Now" on both axes is the default of every read.

Rule 1: nothing recorded is rewritten: a correction closes the old version on the recorded axis and adds new ones.
Rule 2: all rows of one transaction carry one recorded instant, greatest(now, last + 1 µs) under a lock on the tenant, so
    that a `known_at` answer never changes later.
Rule 3: for a predicate of cardinality "one", the beliefs of one subject never overlap in valid time: a new fact takes its
    period from those it overlaps. Without `valid_to` it ends where the next known fact begins.
Rule 4: an undeclared predicate has cardinality "many"; asserting the same (subject, predicate, object) again replaces
    what is believed of it during the new period only.
Rule 5: entities are named; a name means one entity in a tenant, compared by code points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

Cardinality: TypeAlias = Literal["one", "many"]
Direction: TypeAlias = Literal["out", "in", "both"]
DEFAULT_ENTITY_TYPE = "entity"
NEIGHBOURS_MAX = 1_000
DEPTH_MAX = 6
PATHS_MAX = 100
VISITED_MAX = 10_000
"""The most entities one path search looks at, whatever the shape of the graph."""


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an entity."""

    id: UUID
    name: str
    type: str
    properties: dict[str, Any]
    valid_from: datetime
    valid_to: datetime | None
    recorded_from: datetime
    recorded_to: datetime | None
    source: str | None
    actor: str | None


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a relationship, with the names of both ends. `id` is shared by all versions of one fact."""

    id: UUID
    subject_id: UUID
    subject: str
    predicate: str
    object_id: UUID
    object: str
    properties: dict[str, Any]
    confidence: float | None
    valid_from: datetime
    valid_to: datetime | None
    recorded_from: datetime
    recorded_to: datetime | None
    source: str | None
    actor: str | None


class NewFact(msgspec.Struct, frozen=True, kw_only=True):
    """A checked fact to assert. `valid_from` None means now, by the clock."""

    subject: str
    predicate: str
    object: str
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    subject_type: str | None = None
    """The type of the subject when this assertion creates it; an entity that exists keeps its type."""
    object_type: str | None = None
    properties: dict[str, Any] = {}
    confidence: float | None = None
    source: str | None = None
    actor: str | None = None


class FactCorrection(msgspec.Struct, frozen=True, kw_only=True):
    """What a correction says was really so; UNSET keeps what was believed."""

    object: str | msgspec.UnsetType = msgspec.UNSET
    valid_from: datetime | msgspec.UnsetType = msgspec.UNSET
    valid_to: datetime | msgspec.UnsetType | None = msgspec.UNSET
    properties: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    confidence: float | msgspec.UnsetType | None = msgspec.UNSET
    source: str | None = None
    actor: str | None = None


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of facts from one entity to another; each fact is walked in either direction."""

    entities: tuple[str, ...]
    facts: tuple[Fact, ...]


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """An entity that a traversal reached, at which depth, and by which chain of facts."""

    entity_id: UUID
    name: str
    depth: int
    facts: tuple[Fact, ...]


class GraphStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts: entities and facts believed now, and all versions ever recorded."""

    entities: int
    facts: int
    entity_versions: int
    fact_versions: int


class Graph(Protocol):
    """A tenant's knowledge graph. `as_of` selects valid time, `known_at` recorded time; None means now on that axis."""

    async def declare(self, predicate: str, cardinality: Cardinality) -> None:
        """Declare a predicate's cardinality, once.

        Raises:
            Conflict: it is declared otherwise, or "one" is asked for while several beliefs overlap.
        """
        ...

    async def predicates(self) -> dict[str, Cardinality]:
        """Return the declared predicates."""
        ...

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
        """Create the entity of that name, or record a new version of it for the period (default: from now on).

        What was believed of it outside the period stays. Equal content appends nothing. On creation `valid_from` None
        means that the entity holds from the earliest instant (it is not known when it began).
        """
        ...

    async def get_entity(
        self, entity: str | UUID, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> Entity | None:
        """Return the version of an entity that was true at `as_of`, as known at `known_at`, or None."""
        ...

    async def list_entities(
        self,
        *,
        type: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Entity]:
        """Return entities in byte order of their names, beyond the name `after`."""
        ...

    async def delete_entity(self, entity: str | UUID, *, actor: str | None = None) -> bool:
        """Withdraw an entity and every fact about it from now on the recorded axis; say whether it was believed."""
        ...

    async def assert_fact(self, fact: NewFact, *, cardinality: Cardinality | None = None) -> Fact:
        """Record a fact and return its version; entities that do not exist are created.

        `cardinality` declares the predicate when it is not declared. The same fact with the same content and a period
        that is already believed appends nothing and returns what is believed.

        Raises:
            InvalidTime: a reversed period; it is refused before anything is declared.
            Conflict: the predicate is declared with another cardinality, or a concurrent transaction was first.
        """
        ...

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
        """Withdraw belief in matching facts during a period (default: all of it), and return how many facts it touched.

        What was believed outside the period stays: retracting from an instant on is how a fact ends.
        """
        ...

    async def correct(self, fact_id: UUID, correction: FactCorrection) -> Fact:
        """Replace what is believed of one piece of a fact, keeping what was believed before for `known_at`.

        A retraction can leave a fact in several pieces of valid time. The correction speaks of the latest piece that meets
        the period from `valid_from` to `valid_to` (one that is not given is unbounded), or of the latest of all when none
        meets it; a date that is given replaces that of the piece. During the corrected period all else gives way: the
        other pieces of the fact, what is believed of the same (subject, predicate, object), and, for cardinality "one",
        every other fact of the subject. Outside of it other pieces and facts stay believed.

        Raises:
            NotFound: the fact is not believed now.
            InvalidTime: the corrected period is reversed.
        """
        ...

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
        """Return facts; `any_time=True` ignores valid time. Order: valid_from, then id.

        At least one of `subject`, `predicate` and `object` is needed.
        """
        ...

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
        """Return the facts that touch an entity; empty when it is unknown. Order: predicate, valid_from, id."""
        ...

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
        """Return the entities within `max_depth` (1 to 6) steps, nearest first, each once by a shortest chain (C2)."""
        ...

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
        """Return chains of facts between two entities, shortest first, without repeating an entity; up to 100."""
        ...

    async def mentioned(
        self,
        names: Sequence[str],
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 20,
    ) -> list[Entity]:
        """Return entities whose name equals one of `names` when both are case-folded, by name; at most 200 names.

        They are those that were true at `as_of`, as known at `known_at`: one that was deleted since is found too.
        """
        ...

    async def history(self, fact_id: UUID) -> list[Fact]:
        """Return every version of a fact, in order of recording, then of valid time."""
        ...

    async def entity_history(self, entity: str | UUID) -> list[Entity]:
        """Return every version of an entity, in order of recording, then of valid time."""
        ...

    async def stats(self) -> GraphStats:
        """Count entities, facts and versions."""
        ...

    async def delete_before(self, instant: datetime, *, limit: int = 1_000) -> int:
        """Prune at most `limit` versions whose belief ended before `instant`; `known_at` answers before it are lost.

        Facts go first, then entities, each by the end of belief. The last version of an entity (by recorded, then by valid
        time) stays even when it is believed no longer, so that a name keeps its id.
        """
        ...
