"""Checks of what `EventLog` takes, before anything is written; every backend calls the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, get_args
from uuid import UUID

import msgspec

from llmspell.clock import Clock, optional_instant, parse_instant, require_period
from llmspell.codec import encode_json, require_json, require_key, require_limit, require_size
from llmspell.errors import AlreadyExists, InvalidInput, InvalidKey, InvalidLimit, InvalidMetadata, Unsupported
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.contracts.event_log import (
    BATCH_MAX,
    BATCH_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    SEQUENCE_MAX,
    TYPE_MAX_BYTES,
    Language,
    NewEvent,
)

LANGUAGES = get_args(Language)
UNCHANGED = "Events are never changed: append it under another id, or under none."
_SEGMENT = r"[A-Za-z0-9_-]+"
_TYPE = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})+")
_BEGINNING = re.compile(r"[A-Za-z0-9_.-]*\*")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """An event that every backend can keep. `payload` is canonical JSON."""

    id: UUID
    type: str
    correlation_id: UUID
    at: datetime
    language: Language
    payload: str


class TypePattern(NamedTuple):
    """Which types are meant: one, or all that begin so."""

    text: str
    is_beginning: bool

    def matches(self, type: str) -> bool:
        """Say whether a type is meant."""
        return type.startswith(self.text) if self.is_beginning else type == self.text


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are asked for."""

    since: datetime | None
    until: datetime | None
    type: TypePattern | None
    correlation_id: UUID | None

    def named(self) -> list[Any]:
        """Return what a cursor is bound to."""
        instants = [None if one is None else one.isoformat() for one in (self.since, self.until)]
        type = None if self.type is None else list(self.type)
        return [*instants, type, None if self.correlation_id is None else str(self.correlation_id)]


def require_type(value: object, *, field: str) -> str:
    """Return an event type: two or more names of ASCII letters, digits, `_` and `-`, with dots between them (EVT-07).

    Raises:
        InvalidKey: anything else.
    """
    type = require_key(value, field=field, max_bytes=TYPE_MAX_BYTES)
    if _TYPE.fullmatch(type) is None:
        raise InvalidKey(
            field,
            "must be two or more names of A-Z, a-z, 0-9, _ and -, with dots between them, such as agent.state_changed",
            given=value,
        )
    return type


def require_pattern(value: object, *, field: str = "type") -> TypePattern | None:
    """Return a pattern of types (C7): a type, or the beginning of types with a star after it; `*` and None are all types.

    Raises:
        InvalidKey: anything else.
    """
    if value is None or value == "*":
        return None
    pattern = require_key(value, field=field, max_bytes=TYPE_MAX_BYTES + 1)
    if _BEGINNING.fullmatch(pattern):
        return TypePattern(pattern[:-1], is_beginning=True)
    if _TYPE.fullmatch(pattern) is None or len(pattern) > TYPE_MAX_BYTES:
        raise InvalidKey(
            field, "must be an event type, or the beginning of one with a star after it (agent.*)", given=value
        )
    return TypePattern(pattern, is_beginning=False)


def require_selection(
    *,
    since: datetime | date | str | None = None,
    until: datetime | date | str | None = None,
    type: str | None = None,
    correlation_id: UUID | str | None = None,
) -> Selection:
    """Return which events are asked for.

    Raises:
        InvalidTime: an instant that is none, or a reversed range.
        InvalidKey: the type or the correlation.
    """
    start, end = optional_instant(since, field="since"), optional_instant(until, field="until")
    require_period(start, end, fields=("since", "until"))
    correlation = None if correlation_id is None else parse_id(correlation_id, field="correlation_id")
    return Selection(since=start, until=end, type=require_pattern(type), correlation_id=correlation)


def require_sequence(value: object) -> int:
    """Return the number of an event, or 0 for the beginning.

    Raises:
        InvalidLimit: anything else.
    """
    return require_limit(value, field="after_sequence", minimum=0, maximum=SEQUENCE_MAX)


def require_event(event: NewEvent, *, clock: Clock, ids: IdSource, where: str = "") -> Checked:
    """Return an event with everything filled in. `where` stands before the names of fields, such as `events[3].`.

    Raises:
        InvalidInput: names the field.
    """
    type = require_type(event.type, field=f"{where or 'event_'}type")
    if event.language not in LANGUAGES:
        raise InvalidInput(f"{where}language", f"must be one of {', '.join(LANGUAGES)}", given=event.language)
    id = ids.new() if event.id is None else parse_id(event.id, field=f"{where}id")
    correlation = event.correlation_id
    return Checked(
        id=id,
        type=type,
        correlation_id=id if correlation is None else parse_id(correlation, field=f"{where}correlation_id"),
        at=clock.now() if event.at is None else parse_instant(event.at, field=f"{where}at"),
        language=event.language,
        payload=_payload(event.payload, field=f"{where}payload"),
    )


def require_events(events: Sequence[NewEvent], *, clock: Clock, ids: IdSource) -> list[Checked]:
    """Return the events of a batch, in order.

    Raises:
        InvalidInput: names the position and the field.
        InvalidLimit: too many, or too large together.
        AlreadyExists: two are the same.
    """
    require_size(events, field="events", maximum=BATCH_MAX)
    checked = list(_each(events, clock, ids))
    if len({(one.at, one.id) for one in checked}) < len(checked):
        raise AlreadyExists("Two events of the batch have the same id and instant.", hint=UNCHANGED)
    return checked


def taken(place: tuple[datetime, UUID]) -> AlreadyExists:
    """Return the error of an event that is there already."""
    at, id = place
    return AlreadyExists("There is an event of this id at this instant.", id=str(id), at=at.isoformat(), hint=UNCHANGED)


def one_table() -> Unsupported:
    """Return the error of a backend that keeps all events in one table."""
    return Unsupported(
        "This backend keeps all events in one table; there are no months to make or to archive.",
        capability=Capability.EVENT_PARTITIONS.value,
        hint="Delete old events with `tenant.event_log.prune(before)`.",
    )


def _each(events: Sequence[NewEvent], clock: Clock, ids: IdSource) -> Iterator[Checked]:
    size = 0
    for position, event in enumerate(events):
        if not isinstance(event, NewEvent):
            raise InvalidInput(f"events[{position}]", "must be a NewEvent", given=event)
        checked = require_event(event, clock=clock, ids=ids, where=f"events[{position}].")
        size += len(checked.payload) if checked.payload.isascii() else len(checked.payload.encode())
        if size > BATCH_MAX_BYTES:
            raise InvalidLimit("events", f"must have at most {BATCH_MAX_BYTES:,} bytes of payload together", given=size)
        yield checked


def _payload(value: Mapping[str, Any] | None, *, field: str) -> str:
    if value is None:
        return "{}"
    if not isinstance(value, Mapping):
        raise InvalidMetadata(field, "must be an object", given=value)
    require_json(value, field=field)
    encoded = encode_json(value)
    size = len(encoded) if encoded.isascii() else len(encoded.encode())
    if size > PAYLOAD_MAX_BYTES:
        raise InvalidMetadata(field, f"must be at most {PAYLOAD_MAX_BYTES:,} bytes as JSON", given=size)
    return encoded
