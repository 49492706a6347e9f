"""Identifiers: UUID version 7 (RFC 9562, section 5.7), typed so that two kinds cannot be swapped.

Rule: within one process the ids of one `IdSource` strictly increase, whatever the clock does.
"""

from __future__ import annotations

import secrets
import threading
from typing import NewType
from uuid import UUID, SafeUUID

from llmspell.clock import Clock, SystemClock, to_microseconds
from llmspell.errors import InvalidKey

MemoryId = NewType("MemoryId", UUID)
VectorId = NewType("VectorId", UUID)
EntityId = NewType("EntityId", UUID)
RelationshipId = NewType("RelationshipId", UUID)

LOWEST_ID, HIGHEST_ID = UUID(int=0), UUID(int=2**128 - 1)
"""Where pages by time and id begin: no id sorts before the one, or after the other."""

ID_BYTES = 16
_bare, _set = object.__new__, object.__setattr__  # a UUID refuses to be changed, also while it is made
_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_COUNTER_BITS = 12
_COUNTER_MAX = (1 << _COUNTER_BITS) - 1


class IdSource:
    """Makes UUIDv7s: 48 bits of milliseconds, a 12-bit counter (RFC 9562, method 1), 62 random bits."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tick = 0

    def new(self) -> UUID:
        """Return an id greater than every id this source made before."""
        return self.new_many(1)[0]

    def new_many(self, count: int) -> list[UUID]:
        """Return `count` ids in their order, each greater than every id this source made before."""
        now = (to_microseconds(self._clock.now()) // 1_000) << _COUNTER_BITS
        with self._lock:
            first = max(now, self._tick + 1)
            self._tick = first + count - 1 if count else self._tick
        random = secrets.token_bytes(8 * count)
        return [
            UUID(int=_stamp(tick) | int.from_bytes(random[8 * at : 8 * at + 8], "big") >> 2)
            for at, tick in enumerate(range(first, first + count))
        ]


def id_of(raw: bytes) -> UUID:
    """Return the id that 16 bytes are, in a third of the time that `UUID(bytes=raw)` takes to tell its arguments apart.

    Raises:
        ValueError: it has another length.
        TypeError: it is no bytes.
    """
    if len(raw) != ID_BYTES:
        raise ValueError("an id has 16 bytes")
    made = _bare(UUID)
    _set(made, "int", int.from_bytes(raw, "big"))
    _set(made, "is_safe", SafeUUID.unknown)
    return made


def _stamp(tick: int) -> int:
    """Return an id of a tick whose random bits are all 0."""
    return (tick >> _COUNTER_BITS) << 80 | _VERSION_7 | (tick & _COUNTER_MAX) << 64 | _VARIANT


def parse_id(value: UUID | str, *, field: str = "id") -> UUID:
    """Return `value` as a UUID.

    Raises:
        InvalidKey: it is not one.
    """
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError) as exc:
        raise InvalidKey(field, "must be a UUID", given=value) from exc
