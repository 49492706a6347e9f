"""Checks of what `Graph` takes, before anything is written; every backend calls the same ones.

Rule 1: a check is pure, raises an error of our tree that names the field, and returns nothing but checked values.
Rule 2: what only a backend can find out (a conflict of declarations) is raised there, after all checks, in these words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from msgspec import UNSET
from msgspec.structs import replace

from llmspell.clock import optional_instant, parse_instant, require_period
from llmspell.codec import NAME_MAX_BYTES, require_key, require_metadata, require_size, require_text
from llmspell.errors import Conflict, InvalidInput, InvalidLimit
from llmspell.storage.contracts.graph import Cardinality, Direction, FactCorrection, NewFact

PREDICATE_MAX_BYTES = 255
"""Types of entities (TGR-01) and of relationships (TGR-07)."""
NAMES_MAX = 200


def require_name(value: object, *, field: str) -> str:
    """Return the name of an entity: a key of at most 500 bytes (TGR-01).

    Raises:
        InvalidKey: anything else.
    """
    return require_key(value, field=field, max_bytes=NAME_MAX_BYTES)


def require_entity(value: str | UUID, *, field: str = "entity") -> str | UUID:
    """Return what names an entity: its id, or its name.

    Raises:
        InvalidKey: anything else.
    """
    return value if isinstance(value, UUID) else require_name(value, field=field)


def require_names(names: Sequence[str]) -> set[str]:
    """Return case-folded names to look for; texts that no entity can have are simply not found.

    Raises:
        InvalidLimit: more than 200.
        InvalidText: not text.
    """
    require_size(names, field="names", maximum=NAMES_MAX)
    return {require_text(name, field="names").casefold() for name in names}


def require_predicate(value: object) -> str:
    """Return a predicate: a key of at most 255 bytes (TGR-07).

    Raises:
        InvalidKey: anything else.
    """
    return require_key(value, field="predicate", max_bytes=PREDICATE_MAX_BYTES)


def require_type(value: object, *, field: str) -> str | None:
    """Return the type of an entity: None, or a key of at most 255 bytes (TGR-01).

    Raises:
        InvalidKey: anything else.
    """
    return None if value is None else require_key(value, field=field, max_bytes=PREDICATE_MAX_BYTES)


def require_cardinality(value: Cardinality) -> Cardinality:
    """Return a cardinality: "one" or "many".

    Raises:
        InvalidInput: anything else.
    """
    if not isinstance(value, str) or value not in get_args(Cardinality):
        raise InvalidInput("cardinality", "must be one of one, many", given=value)
    return value


def declared_otherwise(predicate: str, declared: Cardinality) -> Conflict:
    """Return the error of a declaration that contradicts an earlier one."""
    return Conflict(
        "The predicate is declared with another cardinality.",
        predicate=predicate,
        declared=declared,
        hint="A cardinality is declared once: use the declared one, or another predicate.",
    )


def beliefs_overlap(predicate: str) -> Conflict:
    """Return the error of declaring "one" over beliefs that overlap."""
    return Conflict(
        "The predicate cannot hold one value at a time: some beliefs of one subject overlap.",
        predicate=predicate,
        hint="Retract or correct them first.",
    )


def require_direction(value: Direction) -> Direction:
    """Return a direction: "out", "in" or "both".

    Raises:
        InvalidInput: anything else.
    """
    if not isinstance(value, str) or value not in get_args(Direction):
        raise InvalidInput("direction", "must be one of out, in, both", given=value)
    return value


def require_properties(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties: what metadata may be.

    Raises:
        InvalidMetadata: anything else.
    """
    return require_metadata(value, field="properties")


def require_dates(start: datetime | None, end: datetime | None) -> tuple[datetime | None, datetime | None]:
    """Return a period of valid time, in UTC.

    Raises:
        InvalidTime: naive, unreadable, empty or reversed.
    """
    begins, ends = optional_instant(start, field="valid_from"), optional_instant(end, field="valid_to")
    require_period(begins, ends, fields=("valid_from", "valid_to"))
    return begins, ends


def require_provenance(source: str | None, actor: str | None) -> None:
    """Check where something comes from, and who says so.

    Raises:
        InvalidKey: anything else.
    """
    require_note(source, field="source")
    require_note(actor, field="actor")


def require_note(value: object, *, field: str) -> str | None:
    """Return a source or an actor: None, or a key of at most 500 bytes.

    Raises:
        InvalidKey: anything else.
    """
    return None if value is None else require_key(value, field=field, max_bytes=NAME_MAX_BYTES)


def require_confidence(value: object) -> float | None:
    """Return a confidence: None, or a number from 0 to 1.

    Raises:
        InvalidLimit: anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidLimit("confidence", "must be a number from 0 to 1", given=value)
    return float(value)


def require_fact(fact: NewFact) -> NewFact:
    """Return a new fact with its instants in UTC.

    Raises:
        InvalidKey: subject, predicate, object, types, source or actor.
        InvalidTime, InvalidMetadata, InvalidLimit: period, properties, confidence.
    """
    require_name(fact.subject, field="subject")
    require_predicate(fact.predicate)
    require_name(fact.object, field="object")
    require_type(fact.subject_type, field="subject_type")
    require_type(fact.object_type, field="object_type")
    start, end = require_dates(fact.valid_from, fact.valid_to)
    require_provenance(fact.source, fact.actor)
    return replace(
        fact,
        valid_from=start,
        valid_to=end,
        properties=require_properties(fact.properties),
        confidence=require_confidence(fact.confidence),
    )


def require_correction(correction: FactCorrection) -> dict[str, Any]:
    """Return the fields that a correction replaces, checked as `require_fact` does.

    Raises:
        InvalidKey, InvalidTime, InvalidMetadata, InvalidLimit: as `require_fact`.
    """
    changes: dict[str, Any] = {}
    if correction.object is not UNSET:
        changes["object"] = require_name(correction.object, field="object")
    if correction.valid_from is not UNSET:
        changes["valid_from"] = parse_instant(correction.valid_from, field="valid_from")
    if correction.valid_to is not UNSET:
        changes["valid_to"] = optional_instant(correction.valid_to, field="valid_to")
    if correction.properties is not UNSET:
        changes["properties"] = require_properties(correction.properties)
    if correction.confidence is not UNSET:
        changes["confidence"] = require_confidence(correction.confidence)
    require_period(changes.get("valid_from"), changes.get("valid_to"), fields=("valid_from", "valid_to"))
    require_provenance(correction.source, correction.actor)
    return changes


def require_pattern(subject: str | None, predicate: str | None, object: str | None) -> None:
    """Check which facts are asked for: at least one part is needed.

    Raises:
        InvalidInput: none of them.
        InvalidKey: one that nothing can have.
    """
    if subject is None and predicate is None and object is None:
        raise InvalidInput("subject", "or `predicate` or `object` must be given")
    if subject is not None:
        require_name(subject, field="subject")
    if predicate is not None:
        require_predicate(predicate)
    if object is not None:
        require_name(object, field="object")
