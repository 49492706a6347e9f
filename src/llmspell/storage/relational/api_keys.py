"""Sealed provider keys on a database."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from llmspell.clock import parse_instant
from llmspell.codec import require_limit
from llmspell.errors import AlreadyExists, NotFound
from llmspell.ids import parse_id
from llmspell.storage.contracts.api_keys import (
    SWEEP_MAX,
    USES_MAX,
    ApiKeyInfo,
    ApiKeyStats,
    NewApiKey,
    ResealedApiKey,
    SealedApiKey,
)
from llmspell.storage.contracts.api_keys_checks import as_of, position, require_new, require_resealed, require_service
from llmspell.storage.contracts.audit import NewAuditEntry
from llmspell.storage.contracts.checks import require_actor
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.audit import record
from llmspell.storage.relational.database import Executor, Row, Unit
from llmspell.storage.relational.runtime import Runtime


class RelationalApiKeys:
    """`ApiKeys` by the queries of `api_keys.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._queries = runtime.catalog.api_keys
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def set(self, new: NewApiKey, *, actor: str | None = None) -> ApiKeyInfo:
        return await self._put(new, actor=actor, rotating=False)

    async def rotate(self, new: NewApiKey, *, actor: str | None = None) -> ApiKeyInfo:
        return await self._put(new, actor=actor, rotating=True)

    async def get(self, service: str) -> ApiKeyInfo | None:
        row = await self._unit.row(self._queries.active, service=require_service(service))
        return None if row is None else self._info(row, self._runtime.clock.now())

    async def list(
        self, *, service: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[ApiKeyInfo]:
        require_limit(limit)
        query = {"api_keys": None if service is None else require_service(service)}
        after = await self._cursors.read(cursor, query=query)
        rows = await self._unit.rows(
            self._queries.page,
            service=service,
            at=None if after is None else self._instant(datetime.fromisoformat(after["at"])),
            id=None if after is None else after["id"],
            limit=limit + 1,
        )
        now = self._runtime.clock.now()
        infos = [self._info(row, now) for row in rows]
        return await self._cursors.page(infos, limit=limit, query=query, position=position)

    async def find_sealed(self, service: str) -> SealedApiKey | None:
        row = await self._unit.row(self._queries.find_sealed, service=require_service(service), now=self._now())
        return None if row is None else self._sealed(row)

    async def note_use(self, key_id: UUID | str, *, uses: int = 1) -> bool:
        id = str(parse_id(key_id, field="key_id"))
        require_limit(uses, field="uses", maximum=USES_MAX)
        return await self._unit.execute(self._queries.note_use, key_id=id, uses=uses, now=self._now()) > 0

    async def deactivate(self, service: str, *, actor: str | None = None) -> ApiKeyInfo:
        entry = _entry("deactivate", require_service(service), require_actor(actor))

        async def work(executor: Executor) -> ApiKeyInfo:
            await record(executor, self._runtime, entry)
            now = self._runtime.clock.now()
            row = await executor.row(self._queries.retire, service=service, now=self._instant(now))
            if row is None:
                raise NotFound("The service has no active key.", service=service)
            return self._info(row, now)

        return await self._unit.write(work)

    async def delete(self, service: str, *, actor: str | None = None) -> int:
        entry = _entry("delete", require_service(service), require_actor(actor))

        async def work(executor: Executor) -> int:
            await record(executor, self._runtime, entry)
            deleted = await executor.execute(self._queries.delete, service=service)
            if not deleted:
                raise NotFound("The service has no key.", service=service)
            return deleted

        return await self._unit.write(work)

    async def expire(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        return await self._unit.execute(self._queries.expire, now=self._now(), limit=limit)

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit, maximum=SWEEP_MAX)
        return await self._unit.execute(self._queries.prune, before=self._instant(instant), limit=limit)

    async def stats(self) -> ApiKeyStats:
        row = await self._unit.row(self._queries.stats, now=self._now())
        assert row is not None  # noqa: S101 - an aggregate has one row
        total, active, expired, rotated, services, usage, last_used_at = row
        return ApiKeyStats(
            total_keys=total,
            active_keys=active,
            expired_keys=expired,
            rotated_keys=rotated,
            services=services,
            total_usage=usage,
            last_used_at=self._runtime.dialect.to_instant(last_used_at),
        )

    async def list_sealed(self, *, after: UUID | str | None = None, limit: int = 100) -> builtins.list[SealedApiKey]:
        require_limit(limit)
        beyond = "" if after is None else str(parse_id(after, field="after"))
        return [
            self._sealed(row) for row in await self._unit.rows(self._queries.list_sealed, after=beyond, limit=limit)
        ]

    async def reseal(self, items: Sequence[ResealedApiKey], *, actor: str | None = None) -> int:
        resealed = require_resealed(items)
        entry = _entry("reseal", "*", require_actor(actor), keys=len(resealed))
        rows = [{"key_id": str(item.key_id), "expected": item.expected, "sealed": item.sealed} for item in resealed]

        async def work(executor: Executor) -> int:
            await record(executor, self._runtime, entry)
            return sum(await executor.batch([(self._queries.reseal, rows)]))

        return await self._unit.write(work) if rows else 0

    async def _put(self, new: NewApiKey, *, actor: str | None, rotating: bool) -> ApiKeyInfo:
        checked = require_new(new)
        verb = "rotate" if rotating else "set"
        entry = _entry(verb, checked.service, require_actor(actor), key_id=str(checked.key_id))

        async def work(executor: Executor) -> ApiKeyInfo:
            await record(executor, self._runtime, entry)
            now = self._runtime.clock.now()
            row = await executor.row(self._queries.retire, service=checked.service, now=self._instant(now))
            if rotating and row is None:
                raise NotFound("The service has no active key to rotate.", service=checked.service)
            old = None if row is None else self._info(row, now)
            kept = old.metadata if rotating and old is not None else {}
            made = await executor.row(
                self._queries.insert,
                key_id=str(checked.key_id),
                service=checked.service,
                sealed=checked.sealed,
                metadata=self._runtime.dialect.json(kept if checked.metadata is None else checked.metadata),
                now=self._instant(now),
                expires_at=self._instant(checked.expires_at),
                rotated_from=None if old is None else str(old.key_id),
            )
            if made is None:
                raise AlreadyExists("There is an API key of that id.", key_id=str(checked.key_id))
            return self._info(made, now)

        return await self._unit.write(work)

    def _now(self) -> Any:
        return self._instant(self._runtime.clock.now())

    def _instant(self, value: datetime | None) -> Any:
        return None if value is None else self._runtime.dialect.instant(value)

    def _info(self, row: Row, now: datetime) -> ApiKeyInfo:
        dialect = self._runtime.dialect
        key_id, service, active, metadata, created_at, expires_at, last_used_at, usage, rotated_from, ended_at = row
        info = ApiKeyInfo(
            key_id=UUID(key_id),
            service=service,
            status="active" if active else "inactive",
            metadata=dialect.to_json(metadata),
            created_at=dialect.to_instant(created_at),
            expires_at=dialect.to_instant(expires_at),
            last_used_at=dialect.to_instant(last_used_at),
            usage_count=usage,
            rotated_from=None if rotated_from is None else UUID(rotated_from),
            deactivated_at=dialect.to_instant(ended_at),
        )
        return as_of(info, now)

    def _sealed(self, row: Row) -> SealedApiKey:
        key_id, service, sealed, last_used_at = row
        return SealedApiKey(
            key_id=UUID(key_id),
            service=service,
            sealed=bytes(sealed),
            last_used_at=self._runtime.dialect.to_instant(last_used_at),
        )


def _entry(verb: str, service: str, actor: str, **details: str | int) -> NewAuditEntry:
    return NewAuditEntry(
        operation=f"api_keys.{verb}", principal=actor, resource=f"api_keys/{service}", details={**details}
    )
