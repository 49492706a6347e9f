"""The operator's side of a store: `spell.tenants` and `spell.admin`."""

from __future__ import annotations

from uuid import UUID

from llmspell.ops.queue_health import QueueHealth, judge
from llmspell.storage.contracts.backend import Backend, MigrationStatus, PoolStatus
from llmspell.storage.contracts.jobs import Job, Jobs, JobState, QueueStats
from llmspell.storage.contracts.pages import Page
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


class JobAdmin:
    """The queue of all tenants: `spell.admin.jobs`. `tenant` None stands for the store's own jobs.

    Where the database isolates tenants, all of this needs the operator's role.
    """

    def __init__(self, backend: Backend) -> None:
        self._queue = backend.job_queue

    async def stats(self) -> QueueStats:
        """Count what waits, runs, is stuck and is dead, by kind."""
        return await self._queue.stats()

    async def health(self) -> QueueHealth:
        """Judge the queue: ok, degraded, or red when jobs are stuck or not served, with the reasons."""
        return judge(await self._queue.stats())

    async def list(
        self,
        tenant: str | None = None,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        """Return a page of a tenant's jobs, the latest first."""
        return await self._of(tenant).list(state=state, kind=kind, cursor=cursor, limit=limit)

    async def get(self, id: UUID | str, *, tenant: str | None = None) -> Job | None:
        """Return a job, or None."""
        return await self._of(tenant).get(id)

    async def cancel(self, id: UUID | str, *, tenant: str | None = None) -> bool:
        """Cancel a queued job, or ask a running one to stop; say whether there was either."""
        return await self._of(tenant).cancel(id)

    async def retry(self, id: UUID | str, *, tenant: str | None = None) -> Job:
        """Put a dead or cancelled job back into the queue."""
        return await self._of(tenant).retry(id)

    def _of(self, tenant: str | None) -> Jobs:
        return self._queue.store if tenant is None else self._queue.of(tenant_id(tenant))


class Admin:
    """The operator's side of a store: `spell.admin`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.jobs = JobAdmin(backend)

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
