"""The rules of arguments of `access_keys`, and what its backends decide alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import msgspec

from llmspell.clock import optional_instant
from llmspell.codec import NAME_MAX_BYTES, require_key, require_text
from llmspell.errors import AlreadyExists, InvalidInput, InvalidKey, InvalidLimit, NotFound
from llmspell.storage.contracts.access_keys import (
    HASH_BYTES,
    KEY_PREFIX,
    OVERLAP_MAX_S,
    PEPPER_ID_MAX_BYTES,
    REASON_MAX_BYTES,
    SCOPE_MAX_BYTES,
    SCOPES_MAX,
    AccessKey,
    AccessKeyStatus,
    KeyHash,
    NewAccessKey,
    Successor,
)

EXPIRED_REASON = "expired"
_SCOPE = re.compile(r"[a-z][a-z0-9_]*(?::[a-z][a-z0-9_]*)?")


def require_key_id(value: object) -> UUID:
    """Return the id of a key. What was given in its place is never shown: it may be a whole key.

    Raises:
        InvalidKey: it is no UUID.
    """
    if isinstance(value, UUID):
        return value
    text = value if isinstance(value, str) else ""
    try:
        return UUID(text)
    except ValueError:
        pass
    # Outside: the exception in flight holds the text.
    if text.startswith(f"{KEY_PREFIX}_"):
        hint = "`info.key_id` of what `issue` returned is its id, and a list of keys shows it."
        raise InvalidKey("key_id", "must be the id of an access key; this is a whole key", hint=hint)
    raise InvalidKey("key_id", "must be a UUID")


def require_scope(value: object, *, field: str = "scope") -> str:
    """Return a scope: `read`, `write`, `admin`, or `concern:verb`.

    Raises:
        InvalidKey: anything else.
    """
    text = require_key(value, field=field, max_bytes=SCOPE_MAX_BYTES)
    if _SCOPE.fullmatch(text) is None or (":" not in text and text not in ("read", "write", "admin")):
        raise InvalidKey(field, "must be read, write, admin, or concern:verb in a-z, 0-9 and _", given=value)
    return text


def require_scopes(values: Iterable[object]) -> list[str]:
    """Return scopes, sorted, each once.

    Raises:
        InvalidKey: a scope, none at all, or a single text in place of a list; `InvalidLimit`: more than 50.
    """
    if isinstance(values, str):
        raise InvalidKey("scopes", "must be a list of scopes", given=values, hint="Put brackets around it.")
    scopes = sorted({require_scope(value, field="scopes") for value in values})
    if not scopes:
        raise InvalidKey("scopes", "must name at least one scope")
    if len(scopes) > SCOPES_MAX:
        raise InvalidLimit("scopes", f"must be at most {SCOPES_MAX}", given=len(scopes))
    return scopes


def require_status(value: object) -> str | None:
    """Return a status to look for, if one is said.

    Raises:
        InvalidInput: there is no such status.
    """
    if value is not None and value not in get_args(AccessKeyStatus):
        raise InvalidInput("status", f"must be one of {', '.join(get_args(AccessKeyStatus))}", given=value)
    return value  # type: ignore[return-value]


def require_hashed(hashed: KeyHash) -> KeyHash:
    """Return a hash and the name of its pepper.

    Raises:
        InvalidInput: the hash does not have 32 bytes; `InvalidKey`: the name.
    """
    if not isinstance(hashed.key_hash, bytes) or len(hashed.key_hash) != HASH_BYTES:
        raise InvalidInput("key_hash", f"must be {HASH_BYTES} bytes")
    require_key(hashed.pepper, field="pepper", max_bytes=PEPPER_ID_MAX_BYTES)
    return hashed


def require_pepper_id(value: object) -> str:
    """Return the name of the pepper that a hash is expected to be keyed with.

    Raises:
        InvalidKey: no text of 1 to 32 bytes.
    """
    return require_key(value, field="expected_pepper", max_bytes=PEPPER_ID_MAX_BYTES)


def require_new(new: NewAccessKey) -> NewAccessKey:
    """Return a new key with its values checked.

    Raises:
        InvalidInput: names the field.
    """
    return NewAccessKey(
        key_id=require_key_id(new.key_id),
        name=require_key(new.name, field="name", max_bytes=NAME_MAX_BYTES),
        principal=require_key(new.principal, field="principal", max_bytes=NAME_MAX_BYTES),
        scopes=require_scopes(new.scopes),
        hashed=require_hashed(new.hashed),
        expires_at=optional_instant(new.expires_at, field="expires_at"),
    )


def require_successor(new: Successor) -> Successor:
    """Return a successor with its values checked.

    Raises:
        InvalidInput: names the field.
    """
    return Successor(
        key_id=require_key_id(new.key_id),
        hashed=require_hashed(new.hashed),
        expires_at=optional_instant(new.expires_at, field="expires_at"),
    )


def require_overlap(value: object) -> float:
    """Return for how long a key and its successor are both accepted: 0 seconds to 30 days.

    Raises:
        InvalidLimit: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= OVERLAP_MAX_S:
        raise InvalidLimit("overlap_s", f"must be a number of seconds from 0 to {OVERLAP_MAX_S:,.0f}", given=value)
    return float(value)


def require_reason(value: object) -> str | None:
    """Return why a key is revoked, if that is said.

    Raises:
        InvalidText: not text, empty, or longer than 1,000 bytes.
    """
    return None if value is None else require_text(value, field="reason", max_bytes=REASON_MAX_BYTES, empty=False)


def as_of(key: AccessKey, now: datetime) -> AccessKey:
    """Return a key with its status at an instant."""
    if key.revoked_at is not None:
        status = "revoked"
    else:
        status = "expired" if key.expires_at is not None and key.expires_at <= now else "active"
    # Always a new record: whether a key has expired must not show in how long it takes to say so.
    return msgspec.structs.replace(key, status=status)


def succession(
    old: AccessKey | None, new: Successor, *, overlap_s: float, now: datetime
) -> tuple[AccessKey, AccessKey]:
    """Decide a rotation: the predecessor as it will be, and its successor.

    Raises:
        NotFound: there is no predecessor, or it is not accepted any more.
        AlreadyExists: it has a successor.
    """
    if old is None or as_of(old, now).status != "active":
        raise NotFound("There is no active access key of that id.", hint="Issue a new one.")
    if old.rotated_to is not None:
        raise AlreadyExists(
            "The access key has a successor already.", successor=str(old.rotated_to), hint="Rotate the successor."
        )
    ends = now + timedelta(seconds=overlap_s)
    lives = None if old.expires_at is None else _after(now, old.expires_at - old.created_at)
    retired = msgspec.structs.replace(
        old, rotated_to=new.key_id, expires_at=ends if old.expires_at is None else min(ends, old.expires_at)
    )
    made = made_of(
        NewAccessKey(
            key_id=new.key_id,
            name=old.name,
            principal=old.principal,
            scopes=old.scopes,
            hashed=new.hashed,
            expires_at=new.expires_at or lives,
        ),
        now,
        rotated_from=old.key_id,
    )
    return retired, made


def _after(now: datetime, lifetime: timedelta) -> datetime:
    """Return when a lifetime that begins now ends, within the calendar."""
    return now + min(lifetime, datetime.max.replace(tzinfo=UTC) - now)


def made_of(new: NewAccessKey, now: datetime, *, rotated_from: UUID | None = None) -> AccessKey:
    """Return the record of a new key."""
    return AccessKey(
        key_id=new.key_id,
        name=new.name,
        principal=new.principal,
        scopes=new.scopes,
        status="active",
        created_at=now,
        expires_at=new.expires_at,
        last_used_at=None,
        revoked_at=None,
        revoked_reason=None,
        rotated_from=rotated_from,
        rotated_to=None,
        pepper=new.hashed.pepper,
    )


def position(key: AccessKey) -> dict[str, Any]:
    """Return where a page ends."""
    return {"at": key.created_at.isoformat(), "id": str(key.key_id)}
