"""Credentials to us: who may call, until when, and for what. A store holds a keyed hash of a key and never the key.

Not here: the form of a key, its hash, and how a presented one becomes a principal (`security.access_keys`).

Rule 1: an access key is accepted while it is neither revoked nor expired, by the injected clock, and its tenant is active.
Rule 2: nothing about a key is edited: it is revoked, or replaced by a successor, once.
Rule 3: issuing, revoking and rotating add an entry to the tenant's audit log in the same transaction; the entry is written first,
so two of them wait for each other at the head of the chain.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

AccessKeyStatus: TypeAlias = Literal["active", "expired", "revoked"]

KEY_PREFIX = "lsk"
"""What a whole key begins with, as it is presented."""
HASH_BYTES = 32
PEPPER_BYTES = 32
PEPPER_ID_MAX_BYTES = 32
SCOPES_MAX = 50
SCOPE_MAX_BYTES = 100
REASON_MAX_BYTES = 1_000
OVERLAP_MAX_S = 30 * 86_400.0
SWEEP_MAX = 10_000
NOTED_EVERY_S = 60
"""How old the instant of the last use may be before it is noted anew."""


class KeyHash(msgspec.Struct, frozen=True, kw_only=True):
    """The keyed hash of a key, and what it is keyed with."""

    key_hash: bytes
    pepper: str
    """The id of a master key, or "store" for the store's own pepper."""


class NewAccessKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key about to be kept."""

    key_id: UUID
    name: str
    principal: str
    scopes: list[str]
    hashed: KeyHash
    expires_at: datetime | None = None


class Successor(msgspec.Struct, frozen=True, kw_only=True):
    """What is new about the successor of a key; the rest is its predecessor's."""

    key_id: UUID
    hashed: KeyHash
    expires_at: datetime | None = None
    """None: it lives as long as the predecessor was meant to."""


class AccessKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key."""

    key_id: UUID
    name: str
    principal: str
    """Whom requests with this key are made for."""
    scopes: list[str]
    status: AccessKeyStatus
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """At most a minute old while the key is used."""
    revoked_at: datetime | None
    revoked_reason: str | None
    rotated_from: UUID | None
    rotated_to: UUID | None
    pepper: str
    """What its hash is keyed with: the id of a master key, or "store"."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A key, and the hash to compare with."""

    key: AccessKey
    key_hash: bytes


class AccessKeys(Protocol):
    """A tenant's access keys. `actor` is who the audit log names."""

    async def pepper(self) -> bytes:
        """Return the store's own 32 bytes, with which hashes are keyed where no master key is configured."""
        ...

    async def add(self, new: NewAccessKey, *, actor: str | None = None) -> AccessKey:
        """Keep a new key.

        Raises:
            AlreadyExists: there is a key of this id.
        """
        ...

    async def find(self, key_id: UUID | str) -> Credential | None:
        """Return a key with its hash, whatever its status; None when there is none, or its tenant is not active."""
        ...

    async def get(self, key_id: UUID | str) -> AccessKey | None:
        """Return a key, or None."""
        ...

    async def list(
        self, *, status: AccessKeyStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AccessKey]:
        """Return keys, newest first; of one status or of all."""
        ...

    async def note_use(self, key_id: UUID | str) -> bool:
        """Say that a key was used now, unless that was said within the last minute. Return whether anything was written."""
        ...

    async def rehash(self, key_id: UUID | str, hashed: KeyHash, *, expected_pepper: str) -> bool:
        """Replace the hash by one keyed otherwise, if it is still keyed with `expected_pepper`; return whether it was."""
        ...

    async def revoke(self, key_id: UUID | str, *, reason: str | None = None, actor: str | None = None) -> AccessKey:
        """Refuse a key from now on. One that was revoked before stays as it is.

        Raises:
            NotFound: there is no such key.
        """
        ...

    async def rotate(
        self, key_id: UUID | str, successor: Successor, *, overlap_s: float = 0, actor: str | None = None
    ) -> AccessKey:
        """Keep the successor of a key, and let the key expire in `overlap_s`, or earlier where it would have; return the successor.

        The successor has the name, the principal and the scopes of its predecessor.

        Raises:
            NotFound: there is no such key, or it is revoked or expired.
            AlreadyExists: it has a successor already, or the id of this one is taken.
        """
        ...

    async def expire(self, *, limit: int = 1_000) -> int:
        """Revoke at most `limit` keys that have expired, for the reason "expired", and return how many."""
        ...

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        """Delete at most `limit` keys that were revoked before an instant, and return how many."""
        ...
