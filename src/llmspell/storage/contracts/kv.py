"""The key-value store: binary values under text keys, one namespace per tenant (STO-01…12, MIG-08).

Not here: `run_migrations` of STO-12, which belongs to the operator (`spell.admin`).

Rule 1: keys are ordered by their bytes in UTF-8 on every backend.
Rule 2: an expired key is absent for every reader, by the injected clock, before it is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from llmspell.storage.contracts.capabilities import BackendType, Characteristics

VALUE_MAX_BYTES = 16 * 1024 * 1024
BATCH_MAX = 10_000


class KV(Protocol):
    """A tenant's keys. Keys: 1 to 1,024 bytes of text. Values: up to 16 MiB of bytes."""

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None when the key is absent or expired."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store the value, replacing any; with `ttl_s` the key expires that many seconds from now."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete the key and say whether it was there (an expired key was not)."""
        ...

    async def exists(self, key: str) -> bool:
        """Say whether `get` would return a value."""
        ...

    async def list_keys(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> list[str]:
        """Return the keys that start with `prefix`, in byte order; with `limit`, at most so many beyond `after`."""
        ...

    async def get_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that exist; at most 10,000 keys."""
        ...

    async def set_batch(self, items: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        """Store all items or none; at most 10,000."""
        ...

    async def delete_batch(self, keys: Sequence[str]) -> int:
        """Delete the keys, all in one transaction, and return how many were there; at most 10,000."""
        ...

    async def clear(self) -> int:
        """Delete every key of this tenant, and return how many readers would have seen."""
        ...

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        """Delete at most `limit` keys whose time has passed, and return how many; call again while it returns `limit`."""
        ...

    def backend_type(self) -> BackendType:
        """Which backend this is (STO-10)."""
        ...

    def characteristics(self) -> Characteristics:
        """What this backend is good for (STO-11)."""
        ...
