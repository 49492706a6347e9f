"""What `procedures` accepts, and how a transition is written down; every backend calls the same functions."""

from __future__ import annotations

import base64
from typing import Any

from llmspell.codec import decode_json, encode_json, require_key, require_limit
from llmspell.errors import InvalidKey
from llmspell.storage.contracts.procedures import (
    COUNT_MAX,
    FREQUENCY_MAX,
    LEARNED_FROM,
    PATTERN_KEY_MAX_BYTES,
    PATTERN_VALUE_MAX_BYTES,
    SCOPE_MAX_BYTES,
)

HIGHEST = "\U0010ffff"
"""The character that sorts behind all others."""
BEYOND_SCOPES = HIGHEST * (SCOPE_MAX_BYTES // 4 + 1)
BEYOND_VALUES = HIGHEST * (PATTERN_VALUE_MAX_BYTES // 4 + 1)
"""Longer than any scope or value may be, of the highest character: nothing sorts behind them."""
FOLLOWING = "\x01"
"""Appended to a text it gives the next one in the order of bytes: NUL, the only lower end, is no text."""


def require_scope(scope: object) -> str:
    """Return a scope: text of 1 to 500 bytes."""
    return require_key(scope, field="scope", max_bytes=SCOPE_MAX_BYTES)


def require_pattern_key(key: object) -> str:
    """Return the key of a pattern: text of 1 to 500 bytes."""
    return require_key(key, max_bytes=PATTERN_KEY_MAX_BYTES)


def require_pattern(scope: object, key: object, value: object) -> tuple[str, str, str]:
    """Return scope, key and value of a pattern."""
    checked = require_key(value, field="value", max_bytes=PATTERN_VALUE_MAX_BYTES)
    return require_scope(scope), require_pattern_key(key), checked


def require_place(scope: object, key: object) -> tuple[str | None, str | None]:
    """Return a scope and a key that narrow a list down; both may be None.

    Raises:
        InvalidKey: a key without a scope, whose patterns no index finds.
    """
    if scope is None and key is not None:
        raise InvalidKey("key", "needs a `scope`", given=key)
    return (
        None if scope is None else require_scope(scope),
        None if key is None else require_pattern_key(key),
    )


def require_count(count: object) -> int:
    """Return how many occurrences are counted at once: 1 to 1,000,000."""
    return require_limit(count, field="count", maximum=COUNT_MAX)


def require_frequency(frequency: object, *, field: str = "min_frequency") -> int:
    """Return a frequency to compare with."""
    return require_limit(frequency, field=field, maximum=FREQUENCY_MAX)


def transition(from_value: object, to_value: object) -> str:
    """Return the value under which a transition is counted.

    Raises:
        InvalidKey: an end is no text, or both together are longer than a value may be.
    """
    before = None if from_value is None else require_key(from_value, field="from_value")
    value = encode_json([before, require_key(to_value, field="to_value")])
    size = len(value.encode())
    if size > PATTERN_VALUE_MAX_BYTES:
        problem = f"must be, with `from_value` and as JSON, at most {PATTERN_VALUE_MAX_BYTES:,} bytes"
        raise InvalidKey("to_value", problem, given=size)
    return value


def transitions_from(from_value: object) -> str:
    """Return what the values of all transitions from one value begin with, and no other transition's."""
    before = None if from_value is None else require_key(from_value, field="from_value")
    return encode_json([before]).removesuffix("]") + ',"'


def transition_end(value: str) -> str | None:
    """Return where a transition leads; None when the value was recorded as something else that only begins like one."""
    try:
        pair: Any = decode_json(value)
    except ValueError:
        return None
    return pair[1] if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], str) else None


def place_bounds(scope: str | None, key: str | None) -> dict[str, str]:
    """Return the half-open range of (scope, key) that a list walks through, as parameters of its query."""
    if scope is None:
        return {"beyond_scope": BEYOND_SCOPES, "beyond_key": ""}
    if key is None:
        return {"beyond_scope": scope + FOLLOWING, "beyond_key": ""}
    return {"beyond_scope": scope, "beyond_key": key + FOLLOWING}


def packed_place(scope: str, key: str, value: str) -> str:
    """Return the place of a pattern for a cursor: as JSON text it could be six times as long as it is."""
    return base64.b64encode(f"{scope}\0{key}\0{value}".encode()).decode()


def unpacked_place(packed: str) -> tuple[str, str, str]:
    """Return what `packed_place` packed; NUL parts them, since no text holds it."""
    scope, key, value = base64.b64decode(packed).decode().split("\0")
    return scope, key, value


def is_learned(min_frequency: int) -> bool:
    """Say whether all patterns of at least this frequency count as learned."""
    return min_frequency >= LEARNED_FROM
