"""Versions of the graph in memory: their periods, what is believed of them, and how a belief ends.

Not here: the contract (`graph`), walks (`graph_walks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from llmspell.codec import encode_json
from llmspell.storage.contracts import graph_checks as checks
from llmspell.storage.contracts.graph import Cardinality, Entity, Fact
from llmspell.storage.inmemory.store import Row, State, Table

Version = TypeVar("Version", Entity, Fact)


class Moment(msgspec.Struct, frozen=True):
    """A point on both axes: what was true at `as_of`, as known at `known_at` (None: now)."""

    as_of: datetime
    known_at: datetime | None

    def believed(self, version: Entity | Fact) -> bool:
        """Say whether a version was believed."""
        return believed_at(version, self.known_at)

    def sees(self, version: Entity | Fact) -> bool:
        """Say whether a version was believed, and true."""
        return self.believed(version) and covers(version, self.as_of)


def believed_at(version: Entity | Fact, known_at: datetime | None) -> bool:
    """Say whether a version was believed at an instant (None: now)."""
    if known_at is None:
        return version.recorded_to is None
    return version.recorded_from <= known_at and (version.recorded_to is None or known_at < version.recorded_to)


def covers(version: Entity | Fact, instant: datetime) -> bool:
    """Say whether the valid period of a version contains an instant."""
    return version.valid_from <= instant and (version.valid_to is None or instant < version.valid_to)


def contains(version: Entity | Fact, other: Entity | Fact) -> bool:
    """Say whether the valid period of a version contains the whole of another's."""
    if version.valid_from > other.valid_from:
        return False
    return version.valid_to is None or (other.valid_to is not None and other.valid_to <= version.valid_to)


def overlaps(version: Entity | Fact, start: datetime | None, end: datetime | None) -> bool:
    """Say whether the valid period of a version meets another one (None: unbounded)."""
    begins_before_end = end is None or version.valid_from < end
    ends_after_start = start is None or version.valid_to is None or version.valid_to > start
    return begins_before_end and ends_after_start


def recording(version: Entity | Fact) -> tuple[datetime, datetime]:
    """Return what orders the versions of one entity or fact: when they were recorded, then when they were true."""
    return version.recorded_from, version.valid_from


def same_entity(left: Entity, right: Entity) -> bool:
    """Say whether two versions of an entity have the same content."""
    return left.type == right.type and encode_json(left.properties) == encode_json(right.properties)


def same_fact(left: Fact, right: Fact) -> bool:
    """Say whether two versions of facts say the same."""
    same_ends = left.subject == right.subject and left.object == right.object
    same_content = encode_json(left.properties) == encode_json(right.properties) and left.confidence == right.confidence
    return same_ends and same_content and left.source == right.source


def is_entity(version: Entity, entity: str | UUID) -> bool:
    """Say whether a version is of the entity of that id or name."""
    return entity in (version.id, version.name)


def entity_id(state: State, name: str) -> UUID | None:
    """Return the id that a name has, or had."""
    return next((one.id for one in state.entities.rows() if one.name == name), None)


def believed_facts(state: State, subject: str, predicate: str) -> list[Fact]:
    """Return what is believed of a subject and a predicate."""
    return [
        one
        for one in state.facts.rows()
        if one.subject == subject and one.predicate == predicate and one.recorded_to is None
    ]


def fact_id(state: State, subject: UUID, predicate: str, object: UUID) -> UUID | None:
    """Return the id that a fact had before, unless a correction has made it another fact."""
    moved = {one.id for one in state.facts.rows() if one.recorded_to is None and one.object_id != object}
    same = [
        one
        for one in state.facts.rows()
        if (one.subject_id, one.predicate, one.object_id) == (subject, predicate, object) and one.id not in moved
    ]
    latest = max((one.recorded_from for one in same), default=None)
    return min((one.id for one in same if one.recorded_from == latest), default=None)


def rivals_of(state: State, new: Fact) -> Callable[[Fact], bool]:
    """Return what chooses the facts that give way to a new one: all of its subject and predicate, or the same one."""
    alone = holds_one(state, new.predicate)

    def gives_way(one: Fact) -> bool:
        return (one.subject, one.predicate) == (new.subject, new.predicate) and (alone or one.object == new.object)

    return gives_way


def holds_one(state: State, predicate: str) -> bool:
    """Say whether a predicate holds one value at a time."""
    return state.predicates.get(predicate) == "one"


def declare(state: State, predicate: str, cardinality: Cardinality, now: datetime) -> None:
    """Declare a predicate, once; `now` is the recorded instant.

    Raises:
        Conflict: as `Graph.declare`.
    """
    declared = state.predicates.get(predicate)
    if declared == cardinality:
        return
    if declared is not None:
        raise checks.declared_otherwise(predicate, declared)
    believed = [one for one in state.facts.rows() if one.predicate == predicate and one.recorded_to is None]
    if cardinality == "one" and any(
        left is not right and left.subject == right.subject and overlaps(left, right.valid_from, right.valid_to)
        for left in believed
        for right in believed
    ):
        raise checks.beliefs_overlap(predicate)
    state.predicates.put(predicate, cardinality)
    state.predicates.carry(predicate, {"created_at": now})


def record(state: State, table: Table[int, Version], version: Version) -> None:
    """Append a version."""
    table.put(state.next_number("version"), version)


def ended(table: Table[int, Version], before: datetime) -> list[int]:
    """Return the versions whose belief ended before an instant: by that end, then by id and in order of recording."""
    ended = [
        (version.recorded_to, version.id, recording(version), number)
        for number, version in table.items()
        if version.recorded_to is not None and version.recorded_to < before
    ]
    return [number for _, _, _, number in sorted(ended)]


def withdraw(
    state: State,
    table: Table[int, Version],
    chosen: Callable[[Version], bool],
    now: datetime,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> set[UUID]:
    """Stop believing versions during a period (None: unbounded), keep what lies outside of it, and return whose they were."""
    touched: set[UUID] = set()
    for number, version in table.items():
        if version.recorded_to is not None or not chosen(version) or not overlaps(version, start, end):
            continue
        touched.add(version.id)
        if version.recorded_from == now:
            table.remove(number)
        else:
            table.put(number, replace(version, recorded_to=now))
        if start is not None and version.valid_from < start:
            record(state, table, replace(version, valid_to=start, recorded_from=now))
        if end is not None and (version.valid_to is None or version.valid_to > end):
            record(state, table, replace(version, valid_from=end, recorded_from=now))
    return touched


def copy_of(version: Version) -> Version:
    """Return a version as callers see it: they may change what they got."""
    return replace(version, properties=deepcopy(version.properties))


PERIODS = {
    "valid_time_start": "valid_from",
    "valid_time_end": "valid_to",
    "transaction_time_start": "recorded_from",
    "transaction_time_end": "recorded_to",
    "properties": "properties",
    "source": "source",
    "actor": "actor",
}
ENTITY_COLUMNS = {"entity_id": "id", "entity_type": "type", "name": "name", **PERIODS}
FACT_COLUMNS = {
    "relationship_id": "id",
    "from_entity": "subject_id",
    "to_entity": "object_id",
    "relationship_type": "predicate",
    "confidence": "confidence",
    **PERIODS,
}


def entity_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `entities`; an open end is None."""
    for one in state.entities.rows():
        made = {"created_at": one.recorded_from, "name_folded": one.name.casefold()}
        yield made | _columns(one, ENTITY_COLUMNS)


def load_entity(state: State, row: Row) -> None:
    """Keep a row of `entities`."""
    number = state.next_number("version")
    state.entities.put(number, Entity(**{field: row[column] for column, field in ENTITY_COLUMNS.items()}))


def fact_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `relationships`; an open end is None."""
    for one in state.facts.rows():
        yield {"created_at": one.recorded_from} | _columns(one, FACT_COLUMNS)


def load_fact(state: State, row: Row, names: Mapping[UUID, str]) -> None:
    """Keep a row of `relationships`, whose ends are called as `names` has them."""
    number = state.next_number("version")
    fields = {field: row[column] for column, field in FACT_COLUMNS.items()}
    fact = Fact(subject=names[fields["subject_id"]], object=names[fields["object_id"]], **fields)
    state.facts.put(number, fact)


def predicate_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `predicates`."""
    for predicate, cardinality in state.predicates.items():
        yield {"predicate": predicate, "cardinality": cardinality, **state.predicates.carried(predicate)}


def load_predicate(state: State, row: Row) -> None:
    """Keep a row of `predicates`."""
    state.predicates.put(row["predicate"], row["cardinality"])
    state.predicates.carry(row["predicate"], {"created_at": row["created_at"]})


def clock_rows(state: State) -> Iterator[Row]:
    """Yield the row of `tenant_clocks`."""
    last = state.last_recorded()
    if last is not None:
        yield {"last_recorded": last}


def load_clock(state: State, row: Row) -> None:
    """Keep the row of `tenant_clocks`."""
    state.moments.put("recorded", row["last_recorded"])


def _columns(version: Entity | Fact, columns: Mapping[str, str]) -> Row:
    return {column: getattr(version, field) for column, field in columns.items()}
