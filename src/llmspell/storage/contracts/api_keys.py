"""Secrets of model providers, kept sealed: one active key per service, its rotations, its use (SCR-05, SCR-06, AMB-083).

Not here: the cipher and the master keys (`security.keyring`), what users call (`security.api_keys`): a store sees sealed bytes.

Rule 1: a service has at most one active key. A new one retires it and says so in `rotated_from`.
Rule 2: an expired key is never handed out, by the injected clock, before anything deactivates it.
Rule 3: setting, rotating, deactivating, deleting and resealing add an entry to the tenant's audit log in the same transaction;
the entry is written first, so two of them wait for each other at the head of the chain.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

ApiKeyStatus: TypeAlias = Literal["active", "expired", "inactive"]

SERVICE_MAX_BYTES = 128  # C16
API_KEY_MAX_BYTES = 16_384  # C16
SEALED_MAX_BYTES = API_KEY_MAX_BYTES + 1_024
RESEAL_MAX = 1_000
SWEEP_MAX = 10_000
USES_MAX = 1_000_000_000


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key about to be kept. `sealed` is bound to its id by whoever sealed it, so the id comes with it."""

    key_id: UUID
    service: str
    sealed: bytes
    expires_at: datetime | None = None
    metadata: dict[str, Any] | None = None
    """None: empty; for a rotation, that of the key before it."""


class ApiKeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What may be known of a key. The key itself is not in it."""

    key_id: UUID
    service: str
    status: ApiKeyStatus
    metadata: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    usage_count: int
    rotated_from: UUID | None
    """The key that this one replaced."""
    deactivated_at: datetime | None


class SealedApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept."""

    key_id: UUID
    service: str
    sealed: bytes
    last_used_at: datetime | None


class ResealedApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """The same secret under another master key. It replaces `expected`, and nothing else."""

    key_id: UUID
    expected: bytes
    sealed: bytes


class ApiKeyStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over all keys of a tenant."""

    total_keys: int
    active_keys: int
    """Those that `find_sealed` hands out."""
    expired_keys: int
    """Those past their time, deactivated or not."""
    rotated_keys: int
    """Those that replaced another."""
    services: int
    total_usage: int
    last_used_at: datetime | None


class ApiKeys(Protocol):
    """A tenant's sealed provider keys. `actor` is who the audit log names."""

    async def set(self, new: NewApiKey, *, actor: str | None = None) -> ApiKeyInfo:
        """Keep a key as the active one of its service; the one that was active is retired.

        Raises:
            AlreadyExists: there is a key of this id.
        """
        ...

    async def rotate(self, new: NewApiKey, *, actor: str | None = None) -> ApiKeyInfo:
        """As `set`, and there must be an active key: its metadata go on where `new` has none.

        Raises:
            NotFound: the service has no active key.
            AlreadyExists: there is a key of this id.
        """
        ...

    async def get(self, service: str) -> ApiKeyInfo | None:
        """Return the active key of a service (it may have expired), or None."""
        ...

    async def list(
        self, *, service: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[ApiKeyInfo]:
        """Return keys, newest first, retired ones too; of one service or of all."""
        ...

    async def find_sealed(self, service: str) -> SealedApiKey | None:
        """Return the active key of a service as it is kept, unless it has expired."""
        ...

    async def note_use(self, key_id: UUID | str, *, uses: int = 1) -> bool:
        """Add to the count of uses, and say that the last one was now. False when there is no such key."""
        ...

    async def deactivate(self, service: str, *, actor: str | None = None) -> ApiKeyInfo:
        """Retire the active key of a service without another.

        Raises:
            NotFound: the service has no active key.
        """
        ...

    async def delete(self, service: str, *, actor: str | None = None) -> int:
        """Delete every key of a service, retired ones too, and return how many.

        Raises:
            NotFound: the service has none.
        """
        ...

    async def expire(self, *, limit: int = 1_000) -> int:
        """Deactivate at most `limit` keys that have expired, and return how many (SCR-06)."""
        ...

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        """Delete at most `limit` keys that were deactivated before an instant, and return how many."""
        ...

    async def stats(self) -> ApiKeyStats:
        """Count."""
        ...

    async def list_sealed(self, *, after: UUID | str | None = None, limit: int = 100) -> builtins.list[SealedApiKey]:
        """Return keys as they are kept, retired ones too, in the order of their ids, beyond `after`: for sealing them anew."""
        ...

    async def reseal(self, items: Sequence[ResealedApiKey], *, actor: str | None = None) -> int:
        """Replace sealed bytes that are still the expected ones, and return how many; at most 1,000."""
        ...
