"""The operator's side of a store: `spell.tenants` and `spell.admin`."""

from __future__ import annotations

from datetime import date, datetime

from llmspell.clock import parse_instant
from llmspell.storage.contracts.backend import Backend, MigrationStatus, PoolStatus
from llmspell.storage.contracts.event_log import EventPartition
from llmspell.storage.contracts.tenants import TenantRecord, Tenants
from llmspell.tenant import tenant_id


class TenantRegistry:
    """Which tenants exist: `spell.tenants`."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def create(self, id: str, *, name: str | None = None, exist_ok: bool = False) -> TenantRecord:
        """Register a tenant.

        Raises:
            InvalidTenant: the id is refused.
            AlreadyExists: it is registered, and `exist_ok` is False.
        """
        return await self._tenants.create(tenant_id(id), name=name, exist_ok=exist_ok)

    async def get(self, id: str) -> TenantRecord | None:
        """Return a tenant, or None."""
        return await self._tenants.get(tenant_id(id))


class Admin:
    """The operator's side of a store: `spell.admin`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def run_migrations(self) -> MigrationStatus:
        """Apply pending migrations (STO-12)."""
        return await self._backend.migrate()

    async def migration_status(self) -> MigrationStatus:
        """Compare the store with this release."""
        return await self._backend.migration_status()

    async def migration_version(self) -> int:
        """Return the number of the last applied migration (AMB-001)."""
        return (await self._backend.migration_status()).version

    async def check(self) -> None:
        """Answer a trivial query, or raise `Unavailable`."""
        await self._backend.check()

    def pool_status(self) -> PoolStatus:
        """Report connections (BKE-15)."""
        return self._backend.pool_status()

    async def promote(self, tenant: str, space_id: str, *, dimension: int) -> int:
        """Move a tenant's embedding space into the approximate index, and return how many vectors moved.

        Raises:
            Unsupported: this backend searches every space exactly.
        """
        return await self._backend.promote(tenant_id(tenant), space_id, dimension=dimension)

    async def event_partitions(self) -> list[EventPartition]:
        """Return the months that events are kept in, the earliest first, and last what keeps all others.

        Raises:
            Unsupported: this backend keeps events in one table.
        """
        return await self._backend.event_partitions()

    async def ensure_event_partitions(self) -> list[str]:
        """Make the current month and the next three, where they are missing; one line for each (EVT-03).

        Opening a store does it too; a store that stays open for long needs it daily.

        Raises:
            Unsupported: this backend keeps events in one table.
        """
        return await self._backend.ensure_event_partitions()

    async def archive_event_partitions(self, before: datetime | date | str, *, dry_run: bool = False) -> list[str]:
        """Take the months that ended by `before` out of the log into an archive, one line for each (EVT-14, EVT-15).

        Nothing is deleted: an administrator dumps the archived tables, and drops them.

        Raises:
            Unsupported: this backend keeps events in one table.
            InvalidSetting: the store was opened without the operator's role.
        """
        return await self._backend.archive_event_partitions(parse_instant(before, field="before"), dry_run=dry_run)
