"""Checks of what `Sessions` takes, before anything is written; every backend calls the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from llmspell.codec import decode_json, encode_json, require_json, require_limit
from llmspell.errors import AlreadyExists, InvalidInput, InvalidMetadata
from llmspell.storage.contracts.checks import require_ttl
from llmspell.storage.contracts.sessions import DATA_MAX_BYTES, SESSION_STATUSES, SessionStatus

VERSION_MAX = 2**31 - 1


class Change(Struct, frozen=True, kw_only=True):
    """A checked update: what is UNSET stays as it is."""

    data: dict[str, Any] | UnsetType
    status: SessionStatus | UnsetType
    expires_at: datetime | UnsetType | None


def require_data(value: object) -> dict[str, Any]:
    """Return the data of a session as a plain dict: a JSON object of at most 1 MiB.

    Raises:
        InvalidMetadata: anything else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidMetadata("data", "must be an object", given=value)
    require_json(value, field="data")
    encoded = encode_json(value)
    size = len(encoded.encode())
    if size > DATA_MAX_BYTES:
        raise InvalidMetadata(
            "data",
            f"must be at most {DATA_MAX_BYTES:,} bytes as JSON",
            given=size,
            hint="Keep what is large as an artifact of the session.",
        )
    plain: dict[str, Any] = decode_json(encoded)
    return plain


def taken(id: UUID) -> AlreadyExists:
    """Return the error of a session whose id is taken, maybe by one that has expired."""
    return AlreadyExists(
        "There is a session with this id already.",
        id=id,
        hint="Use another id: one that has expired keeps its own until it is deleted, and cannot be updated either.",
    )


def require_status(value: object) -> SessionStatus:
    """Return a status.

    Raises:
        InvalidInput: not one of active, archived, expired.
    """
    for status in SESSION_STATUSES:
        if value == status:
            return status
    raise InvalidInput(
        "status",
        f"must be one of {', '.join(SESSION_STATUSES)}",
        given=value,
        hint="Finer ones belong into `data`.",
    )


def require_expected(value: object) -> int | None:
    """Return an expected version.

    Raises:
        InvalidLimit: not a whole number from 1.
    """
    return None if value is None else require_limit(value, field="expected_version", maximum=VERSION_MAX)


def require_change(*, data: object, status: object, ttl_s: object, now: datetime) -> Change:
    """Return a checked update.

    Raises:
        InvalidInput: names the argument; "expired" with a `ttl_s` contradicts itself.
    """
    checked = UNSET if status is UNSET else require_status(status)
    ends: datetime | UnsetType | None = UNSET
    if ttl_s is not UNSET:
        ends = None if ttl_s is None else now + timedelta(seconds=require_ttl(ttl_s))
    if checked == "expired":
        if ttl_s is not UNSET:
            raise InvalidInput("ttl_s", 'must not be given with the status "expired", which ends the session now')
        ends = now
    if data is None:  # of a new session it means nothing; here it would erase
        raise InvalidMetadata("data", "must be an object", given=data)
    return Change(data=UNSET if data is UNSET else require_data(data), status=checked, expires_at=ends)
