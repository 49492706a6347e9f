"""Access keys in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock, parse_instant
from llmspell.codec import require_limit
from llmspell.errors import AlreadyExists, NotFound, TenantInactive
from llmspell.ids import IdSource
from llmspell.storage.contracts.access_keys import (
    NOTED_EVERY_S,
    SWEEP_MAX,
    AccessKey,
    AccessKeyStatus,
    Credential,
    KeyHash,
    NewAccessKey,
    Successor,
)
from llmspell.storage.contracts.access_keys_checks import (
    EXPIRED_REASON,
    as_of,
    made_of,
    position,
    require_hashed,
    require_key_id,
    require_new,
    require_overlap,
    require_pepper_id,
    require_reason,
    require_status,
    require_successor,
    succession,
)
from llmspell.storage.contracts.audit import NewAuditEntry
from llmspell.storage.contracts.checks import require_actor
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.audit import record
from llmspell.storage.inmemory.store import Row, State, Unit


class StoredAccessKey(NamedTuple):
    """A key with its hash. Its status is asked with a clock."""

    key: AccessKey
    key_hash: bytes


class InMemoryAccessKeys:
    """`AccessKeys` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, *, cursors: Cursors, pepper: bytes) -> None:
        """`pepper` is the store's: as short-lived as the hashes that are keyed with it."""
        self._pepper = pepper
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

    async def pepper(self) -> bytes:
        return self._pepper

    async def add(self, new: NewAccessKey, *, actor: str | None = None) -> AccessKey:
        checked = require_new(new)
        entry = _entry("issue", checked.key_id, require_actor(actor), scopes=checked.scopes)
        now = self._clock.now()

        def work(state: State) -> AccessKey:
            record(state, self._clock, self._ids, entry)
            return as_of(_insert(state, made_of(checked, now), checked.hashed), now)

        return await self._unit.write(work)

    async def find(self, key_id: UUID | str) -> Credential | None:
        id = require_key_id(key_id)
        now = self._clock.now()
        try:
            found = await self._unit.read(lambda state: state.access_keys.get(id))
        except TenantInactive:
            return None
        return None if found is None else Credential(key=as_of(found.key, now), key_hash=found.key_hash)

    async def get(self, key_id: UUID | str) -> AccessKey | None:
        id = require_key_id(key_id)
        now = self._clock.now()
        found = await self._unit.read(lambda state: state.access_keys.get(id))
        return None if found is None else as_of(found.key, now)

    async def list(
        self, *, status: AccessKeyStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AccessKey]:
        require_limit(limit)
        query = {"access_keys": require_status(status)}
        after = await self._cursors.read(cursor, query=query)
        now = self._clock.now()
        rows = await self._unit.read(lambda state: state.access_keys.rows())
        found = [key for key in (as_of(one.key, now) for one in rows) if status in (None, key.status)]
        found.sort(key=lambda key: (key.created_at, key.key_id), reverse=True)
        if after is not None:
            last = (datetime.fromisoformat(after["at"]), UUID(after["id"]))
            found = [key for key in found if (key.created_at, key.key_id) < last]
        return await self._cursors.page(found[: limit + 1], limit=limit, query=query, position=position)

    async def note_use(self, key_id: UUID | str) -> bool:
        id = require_key_id(key_id)
        now = self._clock.now()
        stale = now - timedelta(seconds=NOTED_EVERY_S)

        def work(state: State) -> bool:
            found = state.access_keys.get(id)
            if found is None or (found.key.last_used_at is not None and found.key.last_used_at > stale):
                return False
            state.access_keys.put(id, found._replace(key=replace(found.key, last_used_at=now)))
            return True

        return await self._unit.write(work)

    async def rehash(self, key_id: UUID | str, hashed: KeyHash, *, expected_pepper: str) -> bool:
        id = require_key_id(key_id)
        require_hashed(hashed)
        require_pepper_id(expected_pepper)

        def work(state: State) -> bool:
            found = state.access_keys.get(id)
            if found is None or found.key.pepper != expected_pepper:
                return False
            rekeyed = StoredAccessKey(replace(found.key, pepper=hashed.pepper), hashed.key_hash)
            state.access_keys.put(id, rekeyed)
            return True

        return await self._unit.write(work)

    async def revoke(self, key_id: UUID | str, *, reason: str | None = None, actor: str | None = None) -> AccessKey:
        id = require_key_id(key_id)
        said = require_reason(reason)
        entry = _entry("revoke", id, require_actor(actor), reason=said)
        now = self._clock.now()

        def work(state: State) -> AccessKey:
            record(state, self._clock, self._ids, entry)
            found = state.access_keys.get(id)
            if found is None:
                raise NotFound("There is no access key of that id.", key_id=str(id))
            key = found.key
            if key.revoked_at is None:
                key = replace(key, revoked_at=now, revoked_reason=said)
                state.access_keys.put(id, found._replace(key=key))
            return as_of(key, now)

        return await self._unit.write(work)

    async def rotate(
        self, key_id: UUID | str, successor: Successor, *, overlap_s: float = 0, actor: str | None = None
    ) -> AccessKey:
        id = require_key_id(key_id)
        checked = require_successor(successor)
        overlap = require_overlap(overlap_s)
        entry = _entry("rotate", id, require_actor(actor), rotated_to=str(checked.key_id), overlap_s=overlap)
        now = self._clock.now()

        def work(state: State) -> AccessKey:
            record(state, self._clock, self._ids, entry)
            found = state.access_keys.get(id)
            old = None if found is None else found.key
            retired, made = succession(old, checked, overlap_s=overlap, now=now)
            assert found is not None  # noqa: S101 - `succession` refused that
            _insert(state, made, checked.hashed)
            state.access_keys.put(id, found._replace(key=retired))
            return as_of(made, now)

        return await self._unit.write(work)

    async def expire(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._clock.now()

        def work(state: State) -> int:
            due = [one for one in state.access_keys.rows() if as_of(one.key, now).status == "expired"]
            due.sort(key=lambda one: (one.key.expires_at, one.key.key_id))
            for one in due[:limit]:
                key = replace(one.key, revoked_at=now, revoked_reason=EXPIRED_REASON)
                state.access_keys.put(key.key_id, one._replace(key=key))
            return len(due[:limit])

        return await self._unit.write(work)

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit, maximum=SWEEP_MAX)

        def work(state: State) -> int:
            ended = _revoked_before(state.access_keys.rows(), instant)[:limit]
            for id in ended:
                state.access_keys.remove(id)
            return len(ended)

        return await self._unit.write(work)


def _revoked_before(rows: Sequence[StoredAccessKey], instant: datetime) -> list[UUID]:
    ended = [(key.revoked_at, key.key_id) for key, _ in rows if key.revoked_at is not None and key.revoked_at < instant]
    return [id for _, id in sorted(ended)]


def _entry(
    verb: str, key_id: UUID, actor: str, *, reason: str | None = None, **details: list[str] | str | float
) -> NewAuditEntry:
    return NewAuditEntry(
        operation=f"access_keys.{verb}",
        principal=actor,
        resource=f"access_keys/{key_id}",
        reason=reason,
        details={**details},
    )


def _insert(state: State, key: AccessKey, hashed: KeyHash) -> AccessKey:
    if key.key_id in state.access_keys:
        raise AlreadyExists("There is an access key of that id.", key_id=str(key.key_id))
    state.access_keys.put(key.key_id, StoredAccessKey(key, hashed.key_hash))
    return key


COLUMNS = (
    *("key_id", "name", "principal", "scopes", "pepper", "created_at", "expires_at", "last_used_at"),
    *("revoked_at", "revoked_reason", "rotated_from", "rotated_to"),
)


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `access_keys`."""
    for stored in state.access_keys.rows():
        yield {name: getattr(stored.key, name) for name in COLUMNS} | {"key_hash": stored.key_hash}


def load(state: State, row: Row) -> None:
    """Keep a row of `access_keys`."""
    key = AccessKey(status="active", **{name: row[name] for name in COLUMNS})
    state.access_keys.put(key.key_id, StoredAccessKey(key, row["key_hash"]))
