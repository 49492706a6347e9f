"""Checks of values that several storages take; each backend calls the same ones, so they refuse the same things."""

from __future__ import annotations

import math

from llmspell.codec import require_key
from llmspell.errors import InvalidInput, InvalidLimit
from llmspell.storage.contracts.audit import PRINCIPAL_MAX_BYTES
from llmspell.storage.contracts.kv import VALUE_MAX_BYTES

TTL_MAX_S = 100 * 365 * 86_400.0
SYSTEM_ACTOR = "system"
"""Who acted, in the audit log, when the caller names nobody."""


def require_actor(value: object) -> str:
    """Return who acts, for the audit log; None is the system.

    Raises:
        InvalidKey: empty, or longer than 500 bytes.
    """
    return SYSTEM_ACTOR if value is None else require_key(value, field="actor", max_bytes=PRINCIPAL_MAX_BYTES)


def require_value(value: object, *, field: str = "value") -> bytes:
    """Return a key's value as bytes.

    Raises:
        InvalidInput: not bytes, or more than 16 MiB.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidInput(field, "must be bytes", given=value, hint="Encode text with `.encode()`.")
    if len(value) > VALUE_MAX_BYTES:
        raise InvalidInput(field, f"must be at most {VALUE_MAX_BYTES:,} bytes", given=len(value))
    return bytes(value)


def require_ttl(value: object, *, field: str = "ttl_s") -> float:
    """Return a time to live in seconds: positive, finite, at most 100 years.

    Raises:
        InvalidLimit: anything else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not 0 < value <= TTL_MAX_S
    ):
        raise InvalidLimit(field, "must be a positive number of seconds, at most 100 years", given=value)
    return float(value)


def require_score(value: object, *, field: str = "min_score") -> float | None:
    """Return a similarity threshold: None, or a number from -1 to 1.

    Raises:
        InvalidLimit: anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1 <= value <= 1:
        raise InvalidLimit(field, "must be a number from -1 to 1", given=value)
    return float(value)
