"""Keys of model providers, kept for a tenant: sealed before the store sees them, opened when they are used.

Not here: the cipher (`keyring`), how sealed bytes are kept (`storage.contracts.api_keys`).

Rule 1: sealed bytes are bound to tenant, table and key id: a row that is copied elsewhere does not open there.
Rule 2: only `reveal`, `find` and `get_secret` hand out a key; everything else tells about it.
Rule 3: uses are counted in this process and written at most once a minute for each key, with the instant of the last one: so
`reveal` is one read, and the counts of the last minute of a process that ends are not kept.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import Clock, optional_instant
from llmspell.codec import require_flag, require_limit
from llmspell.errors import InvalidInput, InvalidTime, MasterKeyMissing, SealBroken
from llmspell.ids import IdSource, parse_id
from llmspell.security.keyring import Keyring
from llmspell.security.secrets import HeldSecret, SecretRef, SecretStore, get_api_key, require_ref, require_secret
from llmspell.settings import Secret
from llmspell.storage.contracts.api_keys import (
    ApiKeyInfo,
    ApiKeys,
    ApiKeyStats,
    NewApiKey,
    ResealedApiKey,
    SealedApiKey,
)
from llmspell.storage.contracts.api_keys_checks import require_service
from llmspell.storage.contracts.checks import require_ttl
from llmspell.storage.contracts.pages import Page
from llmspell.tenant import TenantId

TABLE = "api_keys"
COUNTED_EVERY = timedelta(seconds=60)
COUNTED_MAX = 4_096
"""Keys whose uses are counted in the process at a time; beyond, each use is written at once."""
RESEAL_PAGE = 100


class ResealReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far sealing anew has come."""

    examined: int
    resealed: int
    """Those that now (in a dry run: would) lie under the active master key."""
    broken: list[UUID]
    """Those that do not open: their master key is not configured, or they were altered. They stay as they are."""
    next_after: UUID | None
    """Where to go on; None when all have been examined."""


class Uses:
    """Counts uses between two writes; one for an open store."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted: dict[tuple[TenantId, UUID], int] = {}

    def add(self, tenant: TenantId, found: SealedApiKey) -> int:
        """Count a use; return how many are to be written now, 0 for none."""
        key = (tenant, found.key_id)
        count = self._counted.pop(key, 0) + 1
        last = found.last_used_at
        if last is None or self._clock.now() - last >= COUNTED_EVERY or len(self._counted) >= COUNTED_MAX:
            return count
        self._counted[key] = count
        return 0


class SealedApiKeys:
    """A tenant's provider keys: `tenant.api_keys`."""

    def __init__(
        self,
        storage: ApiKeys,
        *,
        tenant: TenantId,
        keyring: Keyring,
        clock: Clock,
        ids: IdSource,
        uses: Uses,
        stores: Sequence[SecretStore] = (),
    ) -> None:
        """`stores` are asked by `find` before the tenant's own keys."""
        self._storage = storage
        self._tenant = tenant
        self._keyring = keyring
        self._clock = clock
        self._ids = ids
        self._uses = uses
        self._stores = stores

    async def set(
        self,
        service: str,
        key: str | Secret,
        *,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        metadata: dict[str, Any] | None = None,
        actor: str | None = None,
    ) -> ApiKeyInfo:
        """Keep a provider's key as the active one of `service`; one that was active is retired, and kept until it is pruned.

        Raises:
            MasterKeyMissing: no master key is configured, so nothing may be kept.
            MissingExtra: the extra `encryption` is not installed.
            InvalidInput: names the argument, and never shows the key.
        """
        return await self._storage.set(self._new(service, key, ttl_s, expires_at, metadata), actor=actor)

    async def rotate(
        self,
        service: str,
        new_key: str | Secret,
        *,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        metadata: dict[str, Any] | None = None,
        actor: str | None = None,
    ) -> ApiKeyInfo:
        """Replace the active key of `service`. Without `metadata`, those of the key before it go on.

        Raises:
            NotFound: there is no active key.
            MasterKeyMissing, MissingExtra, InvalidInput: as `set`.
        """
        return await self._storage.rotate(self._new(service, new_key, ttl_s, expires_at, metadata), actor=actor)

    async def reveal(self, service: str) -> Secret | None:
        """Return the active key of `service`, unless it has expired, and count the use.

        Raises:
            SealBroken: it does not open: another master key, another row, or altered bytes.
        """
        found = await self._storage.find_sealed(service)
        if found is None:
            return None
        plaintext = self._keyring.open(found.sealed, bound_to=self._bound_to(found.key_id))
        uses = self._uses.add(self._tenant, found)
        if uses:
            await self._storage.note_use(found.key_id, uses=uses)
        return HeldSecret(plaintext.decode())

    async def find(self, provider: str) -> Secret | None:
        """Return a provider's key from wherever it is: `<PROVIDER>_API_KEY`, mounted secrets, this tenant's keys (SCR-01)."""
        return await get_api_key(provider, stores=[*self._stores, self])

    async def get_secret(self, ref: SecretRef) -> Secret | None:
        """Return what `llmspell/<provider>/api_key` refers to, as a `SecretStore` does; None for any other reference.

        Raises:
            InvalidInput: it is no reference.
        """
        require_ref(ref)
        parts = ref.path.split("/")
        if len(parts) != 3 or (parts[0], parts[2]) != ("llmspell", "api_key"):
            return None
        return await self.reveal(parts[1])

    async def get(self, service: str) -> ApiKeyInfo | None:
        """Return what is known of the active key of `service`, or None."""
        return await self._storage.get(service)

    async def list(
        self, *, service: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[ApiKeyInfo]:
        """Return what is known of keys, newest first, retired ones too; of one service or of all."""
        return await self._storage.list(service=service, cursor=cursor, limit=limit)

    async def deactivate(self, service: str, *, actor: str | None = None) -> ApiKeyInfo:
        """Retire the active key of `service` without another.

        Raises:
            NotFound: there is no active key.
        """
        return await self._storage.deactivate(service, actor=actor)

    async def delete(self, service: str, *, actor: str | None = None) -> int:
        """Delete every key of `service`, retired ones too, and return how many.

        Raises:
            NotFound: there is none.
        """
        return await self._storage.delete(service, actor=actor)

    async def expire(self, *, limit: int = 1_000) -> int:
        """Deactivate at most `limit` keys that have expired, and return how many (SCR-06)."""
        return await self._storage.expire(limit=limit)

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        """Delete at most `limit` keys that were deactivated before an instant, and return how many."""
        return await self._storage.prune(before=before, limit=limit)

    async def stats(self) -> ApiKeyStats:
        """Count keys and their uses."""
        return await self._storage.stats()

    async def reseal_all(
        self, *, after: UUID | str | None = None, limit: int = 1_000, dry_run: bool = False, actor: str | None = None
    ) -> ResealReport:
        """Seal keys that lie under an older master key anew under the active one.

        It examines at most `limit` keys beyond `after`: call it again with `next_after` until that is None. Stopped in between, it
        can begin anew: what is done is left alone. A `dry_run` opens everything and writes nothing.

        Raises:
            MasterKeyMissing: there is no active master key.
        """
        require_limit(limit)
        require_flag(dry_run, field="dry_run")
        if self._keyring.active is None:
            raise MasterKeyMissing
        examined, resealed, broken = 0, 0, builtins.list[UUID]()
        position = None if after is None else parse_id(after, field="after")
        while examined < limit:
            page = await self._storage.list_sealed(after=position, limit=min(RESEAL_PAGE, limit - examined))
            if not page:
                return ResealReport(examined=examined, resealed=resealed, broken=broken, next_after=None)
            items = [item for item in (self._resealed(one, broken) for one in page) if item is not None]
            resealed += len(items) if dry_run else await self._storage.reseal(items, actor=actor)
            examined += len(page)
            position = page[-1].key_id
        return ResealReport(examined=examined, resealed=resealed, broken=broken, next_after=position)

    def _resealed(self, one: SealedApiKey, broken: builtins.list[UUID]) -> ResealedApiKey | None:
        try:
            sealed = self._keyring.reseal(one.sealed, bound_to=self._bound_to(one.key_id))
        except SealBroken:
            broken.append(one.key_id)
            return None
        return None if sealed is None else ResealedApiKey(key_id=one.key_id, expected=one.sealed, sealed=sealed)

    def _new(
        self,
        service: str,
        key: str | Secret,
        ttl_s: float | None,
        expires_at: datetime | date | str | None,
        metadata: dict[str, Any] | None,
    ) -> NewApiKey:
        require_service(service)
        text = require_secret(key, field="key")
        key_id = self._ids.new()
        return NewApiKey(
            key_id=key_id,
            service=service,
            sealed=self._keyring.seal(text.encode(), bound_to=self._bound_to(key_id)),
            expires_at=end_of_life(self._clock, ttl_s=ttl_s, expires_at=expires_at),
            metadata=metadata,
        )

    def _bound_to(self, key_id: UUID) -> tuple[str, str, str]:
        return self._tenant, TABLE, str(key_id)


def end_of_life(clock: Clock, *, ttl_s: float | None, expires_at: datetime | date | str | None) -> datetime | None:
    """Return when something ends, which may be said in one of two ways: after now, for what is made is to be of use.

    Raises:
        InvalidInput: it is said in both; `InvalidLimit`, `InvalidTime`: of a value.
    """
    if ttl_s is None:
        ends = optional_instant(expires_at, field="expires_at")
        if ends is not None and ends <= clock.now():
            raise InvalidTime("expires_at", "must be in the future", given=ends.isoformat())
        return ends
    if expires_at is not None:
        raise InvalidInput("ttl_s", "must not be given together with `expires_at`", given=ttl_s)
    return clock.now() + timedelta(seconds=require_ttl(ttl_s))
