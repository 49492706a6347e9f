"""The registry of tenants on a database. Each call runs for the tenant that it names; changes run as the operator."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from llmspell.codec import require_limit
from llmspell.errors import Conflict, CorruptStore, NotFound
from llmspell.storage.contracts import tenants_checks as checks
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.tenants import (
    IsolationLevel,
    QuotaLimits,
    QuotaUse,
    TenantRecord,
    TenantStatus,
    TenantUsage,
)
from llmspell.storage.relational.audit import RelationalAudit
from llmspell.storage.relational.audit import record as record_audit
from llmspell.storage.relational.database import Executor, Row, Unit
from llmspell.storage.relational.runtime import Runtime
from llmspell.tenant import NO_TENANT, TenantId, tenant_id


class RelationalTenants:
    """`Tenants` by the queries of `tenants.sql`."""

    def __init__(
        self, unit_of: Callable[[TenantId], Unit], operator_unit_of: Callable[[TenantId], Unit], runtime: Runtime
    ) -> None:
        """`operator_unit_of` raises where the store was opened without the operator's role."""
        self._unit_of = unit_of
        self._operator_unit_of = operator_unit_of
        self._runtime = runtime
        self._queries = runtime.catalog.tenants
        self._cursors = Cursors(NO_TENANT, runtime.cursor_key)

    async def create(
        self,
        tenant: TenantId,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        isolation_level: IsolationLevel = "strict",
        exist_ok: bool = False,
        actor: str | None = None,
    ) -> TenantRecord:
        now = self._runtime.clock.now()
        new = checks.new_tenant(tenant, name=name, quotas=quotas, isolation_level=isolation_level, actor=actor, now=now)

        async def work(executor: Executor) -> TenantRecord:
            created = await executor.execute(
                self._queries.create,
                name=new.record.name,
                quotas=self._runtime.dialect.json(msgspec.to_builtins(new.record.quotas)),
                isolation_level=new.record.isolation_level,
                now=self._runtime.dialect.instant(now),
            )
            if created:
                await record_audit(executor, self._runtime, new.entry)
                return new.record
            row = await executor.row(self._queries.get)
            if row is None:  # under a snapshot that is older than the other registration
                raise Conflict("The tenant was registered at the same time.", tenant=new.record.tenant_id)
            return checks.registered(self._record(row), exist_ok=exist_ok)

        return await self._unit_of(new.record.tenant_id).write(work)

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        row = await self._unit_of(tenant).row(self._queries.get)
        return None if row is None else self._record(row)

    async def list(
        self, *, status: TenantStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[TenantRecord]:
        require_limit(limit)
        query = ["tenants", None if status is None else checks.require_status(status)]
        position = await self._cursors.read(cursor, query=query)
        rows = await self._operator_unit_of(NO_TENANT).rows(
            self._queries.list, behind="" if position is None else position["id"], status=status, limit=limit + 1
        )
        found = [self._record(row) for row in rows]
        return await self._cursors.page(
            found, limit=limit, query=query, position=lambda record: {"id": record.tenant_id}
        )

    async def update(
        self,
        tenant: TenantId,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        wish = checks.require_update(name=name, quotas=quotas, expected_version=expected_version, actor=actor)
        return await self._change(tenant, wish)

    async def set_status(
        self,
        tenant: TenantId,
        status: TenantStatus,
        *,
        reason: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        wish = checks.require_status_update(status, reason=reason, expected_version=expected_version, actor=actor)
        return await self._change(tenant, wish)

    async def usage(self, tenant: TenantId) -> TenantUsage:
        id = tenant_id(tenant)
        row = await self._unit_of(id).row(self._queries.usage, day=checks.day_of(self._runtime.clock.now()))
        if row is None:
            raise NotFound(checks.NOT_REGISTERED, tenant=id)
        used, limits = row[:4], row[4:]
        uses = [QuotaUse(used=number, limit=limit) for number, limit in zip(used, limits, strict=True)]
        return TenantUsage(documents=uses[0], storage_bytes=uses[1], vectors=uses[2], embeddings=uses[3])

    async def take_embeddings(self, tenant: TenantId, count: int) -> None:
        id, asked = tenant_id(tenant), checks.require_amount(count)
        day = checks.day_of(self._runtime.clock.now())

        async def work(executor: Executor) -> object:
            return await executor.value(self._queries.take_embeddings, asked=asked, day=day)

        # A unit of work: where others wait for the counter, its isolation level is ours, and not the server's default.
        if await self._unit_of(id).write(work) is None:
            raise NotFound(checks.NOT_REGISTERED, tenant=id)

    def audit(self, tenant: TenantId) -> Audit:
        return RelationalAudit(self._operator_unit_of(tenant_id(tenant)), self._runtime)

    async def _change(self, tenant: TenantId, wish: checks.Update | checks.StatusUpdate) -> TenantRecord:
        id = tenant_id(tenant)
        now = self._runtime.clock.now()

        async def work(executor: Executor) -> TenantRecord:
            row = await executor.row(self._queries.lock)
            change = wish.of(id, None if row is None else self._record(row), now)
            if isinstance(change, TenantRecord):
                return change
            changed = change.record
            await executor.execute(
                self._queries.change,
                name=changed.name,
                status=changed.status,
                status_reason=changed.status_reason,
                quotas=self._runtime.dialect.json(msgspec.to_builtins(changed.quotas)),
                version=changed.version,
                now=self._runtime.dialect.instant(now),
            )
            await record_audit(executor, self._runtime, change.entry)
            return changed

        return await self._operator_unit_of(id).write(work)

    def _record(self, row: Row) -> TenantRecord:
        tenant, name, status, created_at, updated_at, quotas, isolation_level, version, reason = row
        try:
            granted = self._runtime.dialect.to_json(quotas)
            limits = msgspec.convert({**dict.fromkeys(QuotaLimits.__struct_fields__), **granted}, QuotaLimits)
        except msgspec.ValidationError as exc:
            raise CorruptStore("The quotas of a tenant cannot be read.", tenant=tenant, reason=str(exc)) from exc
        return TenantRecord(
            tenant_id=tenant,
            name=name,
            status=status,
            created_at=self._runtime.dialect.to_instant(created_at),
            updated_at=self._runtime.dialect.to_instant(updated_at),
            quotas=limits,
            isolation_level=isolation_level,
            version=version,
            status_reason=reason,
        )
