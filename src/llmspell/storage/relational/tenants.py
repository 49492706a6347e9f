"""The registry of tenants on a database. Each call runs as the tenant that it names."""

from __future__ import annotations

from collections.abc import Callable

from llmspell.codec import NAME_MAX_BYTES, require_key
from llmspell.errors import AlreadyExists, StorageError
from llmspell.storage.contracts.tenants import TenantRecord
from llmspell.storage.relational.database import Row, Unit
from llmspell.storage.relational.runtime import Runtime
from llmspell.tenant import TenantId


class RelationalTenants:
    """`Tenants` by the queries of `tenants.sql`."""

    def __init__(self, unit_of: Callable[[TenantId], Unit], runtime: Runtime) -> None:
        self._unit_of = unit_of
        self._runtime = runtime
        self._queries = runtime.catalog.tenants

    async def create(self, tenant: TenantId, *, name: str | None = None, exist_ok: bool = False) -> TenantRecord:
        shown = tenant if name is None else require_key(name, field="name", max_bytes=NAME_MAX_BYTES)
        now = self._runtime.dialect.instant(self._runtime.clock.now())
        created = await self._unit_of(tenant).execute(self._queries.create, name=shown, now=now)
        if not created and not exist_ok:
            raise AlreadyExists("The tenant exists already.", tenant=tenant, hint="Pass exist_ok=True to accept that.")
        record = await self.get(tenant)
        if record is None:
            raise StorageError("The tenant was registered but cannot be read back.", tenant=tenant)
        return record

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        row = await self._unit_of(tenant).row(self._queries.get)
        return None if row is None else self._record(row)

    def _record(self, row: Row) -> TenantRecord:
        tenant, name, status, created_at = row
        return TenantRecord(
            tenant_id=tenant, name=name, status=status, created_at=self._runtime.dialect.to_instant(created_at)
        )
