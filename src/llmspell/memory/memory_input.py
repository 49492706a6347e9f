"""What a caller gives to `Memory`: items to keep, and filters, as they are before anything is kept or asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec

from llmspell.codec import require_key
from llmspell.errors import InvalidInput
from llmspell.storage.contracts.memories import MemoryKind

Instant = datetime | date | str


class MemoryInput(msgspec.Struct, frozen=True, kw_only=True):
    """One memory for `add_many`; the fields mean what the arguments of `add` mean."""

    text: str
    session: str | None = None
    role: str | None = None
    kind: MemoryKind = "conversation"
    at: Instant | None = None
    metadata: Mapping[str, Any] = {}
    id: UUID | str | None = None
    ttl_s: float | None = None


def within(session: str | None, filters: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a filter for one session as well; without a session, the filter as it came."""
    if session is None:
        return filters
    only: dict[str, Any] = {"session": require_key(session, field="session")}
    return only if filters is None else {"$and": [only, filters]} if filters else only


def as_input(item: MemoryInput | Mapping[str, Any], position: int) -> MemoryInput:
    """Return one item of `add_many`; a mapping has the fields of `MemoryInput`.

    Raises:
        InvalidInput: it is no mapping, has other fields, or no text.
    """
    if isinstance(item, MemoryInput):
        return item
    if not isinstance(item, Mapping):
        raise InvalidInput(f"items[{position}]", "must be an object", given=item)
    unknown = set(item) - set(MemoryInput.__struct_fields__)
    if unknown or "text" not in item:
        problem = f"has unknown fields: {', '.join(sorted(map(str, unknown)))}" if unknown else "needs `text`"
        raise InvalidInput(f"items[{position}]", problem, hint=f"Known: {', '.join(MemoryInput.__struct_fields__)}.")
    return MemoryInput(**item)


def jsonable(value: Any) -> Any:
    """A filter as JSON, for binding a cursor to it; what is no JSON (instants, sets) by its text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
