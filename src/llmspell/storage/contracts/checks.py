"""Checks of values that several storages take; each backend calls the same ones, so they refuse the same things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmspell.codec import decode_json, encode_json, require_json, require_key, require_limit, require_size
from llmspell.errors import InvalidInput, InvalidLimit, InvalidMetadata
from llmspell.storage.contracts.audit import PRINCIPAL_MAX_BYTES
from llmspell.storage.contracts.kv import BATCH_MAX, VALUE_MAX_BYTES

TTL_MIN_S = 1e-6
"""The precision of instants: what lives shorter would have ended when it begins."""
TTL_MAX_S = 100 * 365 * 86_400.0
DATA_MAX_BYTES = 4 * 1024 * 1024
DATA_MAX_DEPTH = 64
EXPECTED_VERSION_MAX = 2_147_483_647
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


def require_items(items: object) -> dict[str, bytes]:
    """Return keys with their values, in the order given; at most 10,000.

    Raises:
        InvalidInput: no mapping, or a value that is none; `InvalidKey`: a key; `InvalidLimit`: too many.
    """
    if not isinstance(items, Mapping):
        raise InvalidInput("items", "must be a mapping of keys to values", given=type(items).__name__)
    require_size(items, field="items", maximum=BATCH_MAX)
    return {require_key(key): require_value(value) for key, value in items.items()}


def require_ttl(value: object, *, field: str = "ttl_s") -> float:
    """Return a time to live in seconds: positive, finite, at most 100 years. Less than a microsecond counts as one.

    Raises:
        InvalidLimit: anything else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value <= TTL_MAX_S  # comparing, unlike converting, bears a whole number of any length
    ):
        raise InvalidLimit(field, "must be a positive number of seconds, at most 100 years", given=value)
    return max(float(value), TTL_MIN_S)


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


def require_data(value: object, *, field: str = "data") -> tuple[dict[str, Any], str]:
    """Return the data of a state as it will be read back, and its canonical JSON: an object, 4 MiB encoded, 64 levels deep.

    Raises:
        InvalidMetadata: anything else.
    """
    if not isinstance(value, Mapping):
        raise InvalidMetadata(field, "must be an object", given=value)
    encoded = encode_data(value, field=field)
    data: dict[str, Any] = decode_json(encoded)
    return data, encoded


def encode_data(value: object, *, field: str = "data", max_bytes: int = DATA_MAX_BYTES) -> str:
    """Return the canonical JSON of a value that is kept whole: any JSON, 4 MiB encoded, 64 levels deep.

    Raises:
        InvalidMetadata: anything else.
    """
    if _deeper_than(value, DATA_MAX_DEPTH):
        raise InvalidMetadata(field, f"must be nested at most {DATA_MAX_DEPTH} deep")
    require_json(value, field=field, depth=DATA_MAX_DEPTH + 1)
    encoded = encode_json(value)
    size = len(encoded.encode())
    if size > max_bytes:
        raise InvalidMetadata(field, f"must be at most {max_bytes:,} bytes as JSON", given=size)
    return encoded


def _deeper_than(value: object, levels: int) -> bool:
    if isinstance(value, Mapping):
        return levels == 0 or any(_deeper_than(inner, levels - 1) for inner in value.values())
    if isinstance(value, (list, tuple)):
        return levels == 0 or any(_deeper_than(inner, levels - 1) for inner in value)
    return False


def require_expected(version: object, *, minimum: int = 1) -> int | None:
    """Return the version that a record is expected to have, or None.

    Raises:
        InvalidLimit: anything else.
    """
    if version is None:
        return None
    return require_limit(version, field="expected_version", maximum=EXPECTED_VERSION_MAX, minimum=minimum)
