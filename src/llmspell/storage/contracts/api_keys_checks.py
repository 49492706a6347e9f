"""The rules of arguments of `api_keys`, the same on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from llmspell.clock import optional_instant
from llmspell.codec import require_key, require_metadata, require_size
from llmspell.errors import InvalidInput
from llmspell.ids import parse_id
from llmspell.storage.contracts.api_keys import (
    RESEAL_MAX,
    SEALED_MAX_BYTES,
    SERVICE_MAX_BYTES,
    ApiKeyInfo,
    NewApiKey,
    ResealedApiKey,
)


def require_service(value: object) -> str:
    """Return the name of a service: 1 to 128 bytes.

    Raises:
        InvalidKey: anything else.
    """
    return require_key(value, field="service", max_bytes=SERVICE_MAX_BYTES)


def require_sealed(value: object, *, field: str) -> bytes:
    """Return sealed bytes.

    Raises:
        InvalidInput: not bytes, none, or too many.
    """
    if not isinstance(value, bytes) or not 0 < len(value) <= SEALED_MAX_BYTES:
        given = len(value) if isinstance(value, bytes) else type(value).__name__
        raise InvalidInput(field, f"must be 1 to {SEALED_MAX_BYTES:,} bytes", given=given)
    return value


def require_new(new: NewApiKey) -> NewApiKey:
    """Return a new key with its values checked.

    Raises:
        InvalidInput: names the field.
    """
    return NewApiKey(
        key_id=parse_id(new.key_id, field="key_id"),
        service=require_service(new.service),
        sealed=require_sealed(new.sealed, field="sealed"),
        expires_at=optional_instant(new.expires_at, field="expires_at"),
        metadata=None if new.metadata is None else require_metadata(new.metadata),
    )


def require_resealed(items: Sequence[ResealedApiKey]) -> list[ResealedApiKey]:
    """Return the replacements in the order of their ids, in which every writer locks rows.

    Raises:
        InvalidInput: names the field; `InvalidLimit`: more than 1,000.
    """
    require_size(items, field="items", maximum=RESEAL_MAX)
    checked = [
        ResealedApiKey(
            key_id=parse_id(item.key_id, field="key_id"),
            expected=require_sealed(item.expected, field="expected"),
            sealed=require_sealed(item.sealed, field="sealed"),
        )
        for item in items
    ]
    return sorted(checked, key=lambda item: item.key_id)


def as_of(info: ApiKeyInfo, now: datetime) -> ApiKeyInfo:
    """Return what is known of a key at an instant: an active one may have expired meanwhile."""
    expired = info.status == "active" and info.expires_at is not None and info.expires_at <= now
    return msgspec.structs.replace(info, status="expired") if expired else info


def position(info: ApiKeyInfo) -> dict[str, Any]:
    """Return where a page ends."""
    return {"at": info.created_at.isoformat(), "id": str(info.key_id)}
