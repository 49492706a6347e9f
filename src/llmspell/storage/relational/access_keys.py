"""Access keys on a database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from llmspell.clock import parse_instant
from llmspell.codec import require_limit
from llmspell.errors import AlreadyExists, CorruptStore, NotFound
from llmspell.storage.contracts.access_keys import (
    NOTED_EVERY_S,
    PEPPER_BYTES,
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
from llmspell.storage.relational.audit import record
from llmspell.storage.relational.database import Executor, Row, Unit
from llmspell.storage.relational.runtime import Runtime


class RelationalAccessKeys:
    """`AccessKeys` by the queries of `access_keys.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._queries = runtime.catalog.access_keys
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def pepper(self) -> bytes:
        found = await self._unit.value(self._runtime.catalog.store.meta, name="access_pepper")
        if not isinstance(found, bytes) or len(found) != PEPPER_BYTES:
            raise CorruptStore("The store has lost the pepper of its access keys.")
        return found

    async def add(self, new: NewAccessKey, *, actor: str | None = None) -> AccessKey:
        checked = require_new(new)
        entry = _entry("issue", checked.key_id, require_actor(actor), scopes=checked.scopes)

        async def work(executor: Executor) -> AccessKey:
            await record(executor, self._runtime, entry)
            now = self._runtime.clock.now()
            return as_of(await self._insert(executor, made_of(checked, now), checked.hashed), now)

        return await self._unit.write(work)

    async def find(self, key_id: UUID | str) -> Credential | None:
        row = await self._unit.row(self._queries.find, key_id=self._id(key_id))
        if row is None:
            return None
        return Credential(key=self._key(row[:-1], self._runtime.clock.now()), key_hash=bytes(row[-1]))

    async def get(self, key_id: UUID | str) -> AccessKey | None:
        row = await self._unit.row(self._queries.get, key_id=self._id(key_id))
        return None if row is None else self._key(row, self._runtime.clock.now())

    async def list(
        self, *, status: AccessKeyStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AccessKey]:
        require_limit(limit)
        query = {"access_keys": require_status(status)}
        after = await self._cursors.read(cursor, query=query)
        now = self._runtime.clock.now()
        rows = await self._unit.rows(
            self._queries.page,
            status=status,
            now=self._instant(now),
            at=None if after is None else self._instant(datetime.fromisoformat(after["at"])),
            id=None if after is None else self._id(after["id"]),
            limit=limit + 1,
        )
        keys = [self._key(row, now) for row in rows]
        return await self._cursors.page(keys, limit=limit, query=query, position=position)

    async def note_use(self, key_id: UUID | str) -> bool:
        now = self._runtime.clock.now()
        stale = now - timedelta(seconds=NOTED_EVERY_S)
        changed = await self._unit.execute(
            self._queries.note_use, key_id=self._id(key_id), now=self._instant(now), stale=self._instant(stale)
        )
        return changed > 0

    async def rehash(self, key_id: UUID | str, hashed: KeyHash, *, expected_pepper: str) -> bool:
        id = self._id(key_id)
        require_hashed(hashed)
        require_pepper_id(expected_pepper)
        changed = await self._unit.execute(
            self._queries.rehash,
            key_id=id,
            key_hash=hashed.key_hash,
            pepper=hashed.pepper,
            expected=expected_pepper,
        )
        return changed > 0

    async def revoke(self, key_id: UUID | str, *, reason: str | None = None, actor: str | None = None) -> AccessKey:
        id = require_key_id(key_id)
        said = require_reason(reason)
        entry = _entry("revoke", id, require_actor(actor), reason=said)

        async def work(executor: Executor) -> AccessKey:
            await record(executor, self._runtime, entry)
            now = self._runtime.clock.now()
            await executor.execute(self._queries.revoke, key_id=self._id(id), now=self._instant(now), reason=said)
            row = await executor.row(self._queries.get, key_id=self._id(id))
            if row is None:
                raise NotFound("There is no access key of that id.", key_id=str(id))
            return self._key(row, now)

        return await self._unit.write(work)

    async def rotate(
        self, key_id: UUID | str, successor: Successor, *, overlap_s: float = 0, actor: str | None = None
    ) -> AccessKey:
        id = require_key_id(key_id)
        checked = require_successor(successor)
        overlap = require_overlap(overlap_s)
        entry = _entry("rotate", id, require_actor(actor), rotated_to=str(checked.key_id), overlap_s=overlap)

        async def work(executor: Executor) -> AccessKey:
            await record(executor, self._runtime, entry)
            now = self._runtime.clock.now()
            row = await executor.row(self._queries.locked, key_id=self._id(id))
            old = None if row is None else self._key(row, now)
            retired, made = succession(old, checked, overlap_s=overlap, now=now)
            await self._insert(executor, made, checked.hashed)
            await executor.execute(
                self._queries.supersede,
                key_id=self._id(id),
                rotated_to=self._id(made.key_id),
                expires_at=self._instant(retired.expires_at),
            )
            return as_of(made, now)

        return await self._unit.write(work)

    async def expire(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._instant(self._runtime.clock.now())
        return await self._unit.execute(self._queries.expire, now=now, reason=EXPIRED_REASON, limit=limit)

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit, maximum=SWEEP_MAX)
        return await self._unit.execute(self._queries.prune, before=self._instant(instant), limit=limit)

    async def _insert(self, executor: Executor, key: AccessKey, hashed: KeyHash) -> AccessKey:
        made = await executor.execute(
            self._queries.insert,
            key_id=self._id(key.key_id),
            name=key.name,
            principal=key.principal,
            scopes=self._runtime.dialect.json(key.scopes),
            key_hash=hashed.key_hash,
            pepper=hashed.pepper,
            now=self._instant(key.created_at),
            expires_at=self._instant(key.expires_at),
            rotated_from=None if key.rotated_from is None else self._id(key.rotated_from),
        )
        if not made:
            raise AlreadyExists("There is an access key of that id.", key_id=str(key.key_id))
        return key

    def _id(self, key_id: UUID | str) -> Any:
        return self._runtime.dialect.id(require_key_id(key_id))

    def _instant(self, value: datetime | None) -> Any:
        return None if value is None else self._runtime.dialect.instant(value)

    def _key(self, row: Row, now: datetime) -> AccessKey:
        dialect = self._runtime.dialect
        key_id, name, principal, scopes, created, expires, used, revoked, reason, rotated_from, rotated_to, pepper = row
        key = AccessKey(
            key_id=dialect.to_id(key_id),
            name=name,
            principal=principal,
            scopes=dialect.to_json(scopes),
            status="active",
            created_at=dialect.to_instant(created),
            expires_at=dialect.to_instant(expires),
            last_used_at=dialect.to_instant(used),
            revoked_at=dialect.to_instant(revoked),
            revoked_reason=reason,
            rotated_from=None if rotated_from is None else dialect.to_id(rotated_from),
            rotated_to=None if rotated_to is None else dialect.to_id(rotated_to),
            pepper=pepper,
        )
        return as_of(key, now)


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
