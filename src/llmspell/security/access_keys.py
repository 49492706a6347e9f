"""Access keys: credentials to us. Made here and shown once, kept as keyed hashes, and turned into principals (D1).

    lsk_<tenant>_<key id>_<secret and checksum>         each part in lower-case base32

The first two parts are public: they say in which tenant's rows to look, so that the look-up runs for exactly that tenant. The
secret has 256 random bits. The checksum covers the whole, so that a typing error, and a scanner of leaked secrets, needs no store.

Not here: how hashes are kept (`storage.contracts.access_keys`); how a request brings its key.

Rule 1: a hash is HMAC-SHA-256 over the whole key, under a pepper: of the active master key where there is one, else of the store.
The store's pepper lies in the database, so it protects nothing from somebody who reads that; 256 random bits do.
Rule 2: every refusal is the same None after the same work: one look-up, one hash, one comparison in constant time. What is left
of a difference (a row that is decoded, or not) is hidden by answering at a tick. Only a text that cannot be a key at all is refused
before that, which anybody can tell without us.
Rule 3: a key is in a `HeldSecret`, once, in what `issue` and `rotate` return.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import NamedTuple, NoReturn
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.errors import InvalidTenant, LlmspellError
from llmspell.ids import IdSource
from llmspell.observe import logger
from llmspell.security.api_keys import end_of_life
from llmspell.security.keyring import Keyring
from llmspell.security.secrets import HeldSecret
from llmspell.settings import Secret
from llmspell.storage.contracts.access_keys import (
    HASH_BYTES,
    KEY_PREFIX,
    NOTED_EVERY_S,
    AccessKey,
    AccessKeys,
    AccessKeyStatus,
    Credential,
    KeyHash,
    NewAccessKey,
    Successor,
)
from llmspell.storage.contracts.access_keys_checks import require_scope, require_scopes
from llmspell.storage.contracts.pages import Page
from llmspell.tenant import TenantId, tenant_id

SECRET_BYTES = 32
KEY_MAX_CHARACTERS = 512
"""The longest key, of a tenant's id of 128 bytes, has 297."""
STORE_PEPPER = "store"
REFUSAL_TICK_S = 0.002
"""A refusal is answered a multiple of this after it was asked: differences of microseconds end here."""
REFUSALS_AT_ONCE = 8
"""Refusals that wait for their tick at a time: with more than 4,000 a second the rest waits in line."""
NOTES_MAX = 256
"""Notes of last uses that are under way at a time; beyond, a note is left to the next request."""
_PURPOSE = "access keys"
_CHECKSUM_BYTES = 4
_NO_HASH = bytes(HASH_BYTES)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a request is made for."""

    tenant: TenantId
    subject: str
    """The principal that the key was issued for."""
    key_id: UUID
    name: str
    scopes: list[str]
    expires_at: datetime | None

    def allows(self, scope: str) -> bool:
        """Say whether the scopes allow `scope` ("read", "memories:search"). What nothing allows is refused.

        `admin` allows everything, `write` also `read`. `read` and `write` allow the same of every concern (`memories:read`), and
        `memories:admin` and `memories:write` relate to `memories:…` alike. Any other verb needs its own scope, or an admin's.

        Raises:
            InvalidKey: it is no scope.
        """
        require_scope(scope)
        concern, _, verb = scope.rpartition(":")
        enough = {scope, "admin", f"{concern}:admin"}
        if verb in ("read", "write"):
            enough |= {"write", f"{concern}:write"}
        if verb == "read":
            enough |= {"read"}
        return not enough.isdisjoint(self.scopes)


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key. `key` is nowhere else: when it is lost, issue another."""

    key: Secret
    info: AccessKey

    def __reduce__(self) -> NoReturn:
        raise TypeError("an issued key cannot be pickled: it would be readable")


class Presented(NamedTuple):
    """A key as somebody presents it, taken apart."""

    tenant: TenantId
    key_id: UUID
    text: str


class HashedAccessKeys:
    """A tenant's access keys: `tenant.access_keys`."""

    def __init__(self, storage: AccessKeys, *, tenant: TenantId, peppers: Peppers, clock: Clock, ids: IdSource) -> None:
        self._storage = storage
        self._tenant = tenant
        self._peppers = peppers
        self._clock = clock
        self._ids = ids

    async def issue(
        self,
        *,
        name: str,
        scopes: Iterable[str],
        principal: str | None = None,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        actor: str | None = None,
    ) -> IssuedKey:
        """Make a key, keep its hash, and return it: this is the only time that it is seen.

        `scopes`: `read`, `write`, `admin`, or `concern:verb`. `principal` is whom requests with it are made for (the name).

        Raises:
            InvalidInput: names the argument.
        """
        ends = end_of_life(self._clock, ttl_s=ttl_s, expires_at=expires_at)
        id, hashed, key = await self._made()
        new = NewAccessKey(
            key_id=id,
            name=name,
            principal=name if principal is None else principal,
            scopes=require_scopes(scopes),
            hashed=hashed,
            expires_at=ends,
        )
        return IssuedKey(key=key, info=await self._storage.add(new, actor=actor))

    async def rotate(
        self,
        key_id: UUID | str,
        *,
        overlap_s: float = 0,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        actor: str | None = None,
    ) -> IssuedKey:
        """Make the successor of a key, with its name, principal and scopes; the key itself is accepted for `overlap_s` more.

        Where no end is given, the successor lives as long as the key was meant to.

        Raises:
            NotFound: there is no such key, or it is revoked or expired.
            AlreadyExists: it has a successor.
            InvalidInput: names the argument.
        """
        ends = end_of_life(self._clock, ttl_s=ttl_s, expires_at=expires_at)
        id, hashed, key = await self._made()
        successor = Successor(key_id=id, hashed=hashed, expires_at=ends)
        info = await self._storage.rotate(key_id, successor, overlap_s=overlap_s, actor=actor)
        return IssuedKey(key=key, info=info)

    async def revoke(self, key_id: UUID | str, *, reason: str | None = None, actor: str | None = None) -> AccessKey:
        """Refuse a key from now on. One that was revoked before stays as it is.

        Raises:
            NotFound: there is no such key.
        """
        return await self._storage.revoke(key_id, reason=reason, actor=actor)

    async def get(self, key_id: UUID | str) -> AccessKey | None:
        """Return what is known of a key, or None."""
        return await self._storage.get(key_id)

    async def list(
        self, *, status: AccessKeyStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AccessKey]:
        """Return what is known of keys, newest first; of one status or of all."""
        return await self._storage.list(status=status, cursor=cursor, limit=limit)

    async def expire(self, *, limit: int = 1_000) -> int:
        """Revoke at most `limit` keys that have expired, for the reason "expired", and return how many."""
        return await self._storage.expire(limit=limit)

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        """Delete at most `limit` keys that were revoked before an instant, and return how many."""
        return await self._storage.prune(before=before, limit=limit)

    async def _made(self) -> tuple[UUID, KeyHash, HeldSecret]:
        key_id = self._ids.new()
        text = _key_text(self._tenant, key_id, secrets.token_bytes(SECRET_BYTES))
        return key_id, await self._peppers.hashed(text, self._storage), HeldSecret(text)


class Peppers:
    """What hashes are keyed with: the master keys' peppers, and the store's own, which is read once."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._store: bytes | None = None

    @property
    def current(self) -> str:
        """The id of the pepper that new hashes are keyed with."""
        return self._keyring.active or STORE_PEPPER

    async def hashed(self, text: str, storage: AccessKeys) -> KeyHash:
        """Hash a key under the current pepper."""
        return KeyHash(key_hash=await self.digest(text, self.current, storage), pepper=self.current)

    async def digest(self, text: str, pepper: str, storage: AccessKeys) -> bytes:
        """Hash a key under a pepper; under one that is not configured any more, the hash is nobody's."""
        if self._store is None:
            self._store = await storage.pepper()
        key = self._store if pepper == STORE_PEPPER else self._keyring.derive(_PURPOSE, key_id=pepper)
        return hmac.digest(secrets.token_bytes(HASH_BYTES) if key is None else key, text.encode(), "sha256")


class Authenticator:
    """Turns presented keys into principals, for all tenants of a store."""

    def __init__(self, storage_of: Callable[[TenantId], AccessKeys], peppers: Peppers, clock: Clock) -> None:
        """`storage_of` gives a tenant's storage as it is: no gate, for its answer would tell tenants apart."""
        self._storage_of = storage_of
        self._peppers = peppers
        self._clock = clock
        # Threads sleep to the microsecond. An event loop's timers round up to a millisecond, which would keep a difference.
        self._waiting = ThreadPoolExecutor(REFUSALS_AT_ONCE, thread_name_prefix="llmspell-refusal")
        self._notes: dict[tuple[TenantId, UUID], asyncio.Task[None]] = {}

    async def authenticate(self, presented: str | Secret) -> Principal | None:
        """Return whom a presented key stands for, or None."""
        started = self._clock.monotonic()
        read = read_key(presented.reveal() if isinstance(presented, Secret) else presented)
        if read is None:
            return None
        principal = await self._checked(read)
        if principal is None:
            rest = (started - self._clock.monotonic()) % REFUSAL_TICK_S
            await asyncio.get_running_loop().run_in_executor(self._waiting, time.sleep, rest)
        return principal

    async def _checked(self, read: Presented) -> Principal | None:
        storage = self._storage_of(read.tenant)
        found = await storage.find(read.key_id)
        pepper = self._peppers.current if found is None else found.key.pepper
        digest = await self._peppers.digest(read.text, pepper, storage)
        same = hmac.compare_digest(digest, _NO_HASH if found is None else found.key_hash)
        if found is None or not same or found.key.status != "active":
            return None
        self._note(found, read, storage)
        key = found.key
        return Principal(
            tenant=read.tenant,
            subject=key.principal,
            key_id=key.key_id,
            name=key.name,
            scopes=key.scopes,
            expires_at=key.expires_at,
        )

    async def settle(self) -> None:
        """Wait for the notes of last uses that are under way."""
        await asyncio.gather(*self._notes.values())

    def _note(self, found: Credential, read: Presented, storage: AccessKeys) -> None:
        """Begin to note the use where that is due. The request does not wait for it."""
        used = found.key.last_used_at
        due = used is None or self._clock.now() - used >= timedelta(seconds=NOTED_EVERY_S)
        stale = found.key.pepper != self._peppers.current
        key = (read.tenant, read.key_id)
        if not (due or stale) or key in self._notes or len(self._notes) >= NOTES_MAX:
            return
        task = asyncio.create_task(self._noted(read, storage, pepper=found.key.pepper if stale else None))
        self._notes[key] = task
        task.add_done_callback(lambda _: self._notes.pop(key, None))

    async def _noted(self, read: Presented, storage: AccessKeys, *, pepper: str | None) -> None:
        try:
            await storage.note_use(read.key_id)
            if pepper is not None:  # keyed with an older pepper, and here is the key: the one chance to key it anew
                hashed = await self._peppers.hashed(read.text, storage)
                await storage.rehash(read.key_id, hashed, expected_pepper=pepper)
        except LlmspellError as error:
            logger.warning("the use of an access key was not noted", extra={"fields": {"problem": str(error)}})


def public_part(tenant: TenantId, key_id: UUID) -> str:
    """Return the beginning of a key, which may be shown: it tells which key it is."""
    return f"{KEY_PREFIX}_{_base32(tenant.encode())}_{_base32(key_id.bytes)}"


def read_key(text: object) -> Presented | None:
    """Take a presented key apart; None for what cannot be a key."""
    if not isinstance(text, str) or len(text) > KEY_MAX_CHARACTERS or text.count("_") != 3:
        return None
    _, tenant, key_id, secret = text.split("_")
    try:
        owner = tenant_id(_from_base32(tenant).decode())
        id, raw = _from_base32(key_id), _from_base32(secret)
    except (ValueError, InvalidTenant):
        return None
    # Only the one way in which we write it is a key: otherwise a key would have several spellings, and a hash for each.
    if len(id) != 16 or text != _key_text(owner, UUID(bytes=id), raw[:SECRET_BYTES]):
        return None
    return Presented(owner, UUID(bytes=id), text)


def _key_text(tenant: TenantId, key_id: UUID, secret: bytes) -> str:
    head = public_part(tenant, key_id)
    checksum = zlib.crc32(head.encode() + secret).to_bytes(_CHECKSUM_BYTES, "big")
    return f"{head}_{_base32(secret + checksum)}"


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def _from_base32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
