"""The operator's side of a store: `spell.tenants` and `spell.admin`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from os import PathLike
from typing import Self
from uuid import UUID

import msgspec

from llmspell.clock import Clock, parse_instant
from llmspell.ops.health import TIMEOUT_S, HealthChecker, HealthReport, checks_of
from llmspell.ops.moving import Compression, compare, export_file, import_file, part_of, side, transfer_store
from llmspell.ops.other_store import other_store
from llmspell.ops.queue_health import QueueHealth, judge
from llmspell.ops.validation import ComponentProof, prove, require_components
from llmspell.settings import Settings
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.backend import Backend, MigrationStatus, PoolStatus
from llmspell.storage.contracts.event_log import EventPartition
from llmspell.storage.contracts.health import HealthCheck
from llmspell.storage.contracts.holdings import Holdings, StoreSize
from llmspell.storage.contracts.jobs import Job, Jobs, JobState, QueueStats
from llmspell.storage.contracts.pages import Page
from llmspell.storage.contracts.tenants import (
    IsolationLevel,
    QuotaLimits,
    TenantRecord,
    Tenants,
    TenantStatus,
    TenantUsage,
)
from llmspell.storage.contracts.transfer import OnConflict, OnProgress
from llmspell.storage.transfer.reports import Report, Verification
from llmspell.tenant import TenantId, tenant_id


class NewTenants(msgspec.Struct, frozen=True, kw_only=True):
    """What a new tenant gets unless told otherwise."""

    quotas: QuotaLimits
    isolation_level: IsolationLevel

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings grant (TEN-12)."""
        chosen = settings.multi_tenant
        quotas = QuotaLimits(
            max_documents=chosen.default_quota_documents,
            max_storage_mb=chosen.default_quota_storage_mb,
            max_vectors=chosen.default_quota_vectors,
            max_api_calls_per_minute=None,
            max_api_calls_per_day=chosen.default_quota_api_calls,
            max_embeddings_per_day=chosen.default_quota_embeddings_per_day,
        )
        return cls(quotas=quotas, isolation_level=chosen.isolation_level)


class TenantRegistry:
    """Which tenants exist, and who of them is served: `spell.tenants`.

    `create`, `get` and `usage` are for the application; the rest is the operator's work, and needs the operator's role on a
    server. Every change is recorded in the tenant's audit log, in the same transaction. `actor` is who the log names.
    """

    def __init__(self, tenants: Tenants, *, defaults: NewTenants, changed: Callable[[TenantId], None]) -> None:
        self._tenants = tenants
        self.defaults = defaults
        self._changed = changed

    async def create(
        self,
        id: str,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        isolation_level: IsolationLevel | None = None,
        exist_ok: bool = False,
        actor: str | None = None,
    ) -> TenantRecord:
        """Register a tenant, with the settings' quotas unless it gets its own.

        Raises:
            InvalidTenant: the id is refused.
            AlreadyExists: it is registered, and `exist_ok` is False. The id of a deleted tenant stays taken.
            TenantInactive: `exist_ok` is True, and the tenant was deleted.
        """
        return await self._tenants.create(
            tenant_id(id),
            name=name,
            quotas=self.defaults.quotas if quotas is None else quotas,
            isolation_level=self.defaults.isolation_level if isolation_level is None else isolation_level,
            exist_ok=exist_ok,
            actor=actor,
        )

    async def get(self, id: str) -> TenantRecord | None:
        """Return a tenant, or None."""
        return await self._tenants.get(tenant_id(id))

    async def usage(self, id: str) -> TenantUsage:
        """Return what a tenant uses of its quotas, and what it may use.

        Raises:
            NotFound: it is not registered.
        """
        return await self._tenants.usage(tenant_id(id))

    async def list(
        self, *, status: TenantStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[TenantRecord]:
        """Return tenants by id, in byte order, in pages; all, or those of a status."""
        return await self._tenants.list(status=status, cursor=cursor, limit=limit)

    async def update(
        self,
        id: str,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        """Change the name or the quotas of a tenant; what is None stays.

        Raises:
            NotFound: it is not registered.
            VersionConflict: `expected_version` is not its version.
            TenantInactive: it was deleted.
        """
        return await self._tenants.update(
            tenant_id(id), name=name, quotas=quotas, expected_version=expected_version, actor=actor
        )

    async def suspend(
        self, id: str, *, reason: str | None = None, expected_version: int | None = None, actor: str | None = None
    ) -> TenantRecord:
        """Refuse every call of a tenant from now on (elsewhere within a second); its data stays as it is.

        Raises:
            NotFound, VersionConflict.
            TenantInactive: it was deleted.
        """
        return await self._set_status(id, "suspended", reason, expected_version, actor)

    async def resume(
        self, id: str, *, reason: str | None = None, expected_version: int | None = None, actor: str | None = None
    ) -> TenantRecord:
        """Serve a suspended tenant again.

        Raises:
            NotFound, VersionConflict.
            TenantInactive: it was deleted.
        """
        return await self._set_status(id, "active", reason, expected_version, actor)

    async def delete(
        self, id: str, *, reason: str | None = None, expected_version: int | None = None, actor: str | None = None
    ) -> TenantRecord:
        """Mark a tenant as deleted: every call is refused for good, and its id stays taken. Its data is not erased by that.

        Raises:
            NotFound, VersionConflict.
        """
        return await self._set_status(id, "deleted", reason, expected_version, actor)

    def audit(self, id: str) -> Audit:
        """Return the audit log of a tenant for the operator: also of one that is suspended or deleted.

        Raises:
            InvalidSetting: the store was opened without the operator's role.
        """
        return self._tenants.audit(tenant_id(id))

    async def _set_status(
        self, id: str, status: TenantStatus, reason: str | None, expected_version: int | None, actor: str | None
    ) -> TenantRecord:
        tenant = tenant_id(id)
        try:
            return await self._tenants.set_status(
                tenant, status, reason=reason, expected_version=expected_version, actor=actor
            )
        finally:
            self._changed(tenant)


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

    def __init__(self, backend: Backend, settings: Settings, clock: Clock) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
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

    async def health(self, *, timeout_s: float = TIMEOUT_S, more: Sequence[HealthCheck] = ()) -> HealthReport:
        """Look at everything that this store can say of its health, each check with a time limit (HLT-01…03).

        `more` are checks of your own, which the report then holds behind those of the store.

        Raises:
            InvalidLimit: `timeout_s` is not from above 0 to an hour.
        """
        checks = [*checks_of(self._backend, self._settings, self._clock), *more]
        return await HealthChecker(checks, clock=self._clock, timeout_s=timeout_s).check_all()

    async def holdings(self, tenant: str) -> Holdings:
        """Count what a tenant has: rows by concern, vectors by space. Of one that is not known, nothing."""
        return await self._backend.holdings(tenant_id(tenant))

    async def size(self) -> StoreSize:
        """Return how many bytes the store takes on disks, by part."""
        return await self._backend.size()

    async def validate(self, *components: str) -> list[ComponentProof]:
        """Prove components of the store, all of them unless some are named, by writing, reading and deleting (CLI-05, AMB-130).

        Each is one transaction of a tenant that nobody has, and is rolled back: nothing stays. A component that fails is a
        result, not an error.

        Raises:
            InvalidInput: there is no such component.
        """
        chosen = require_components(components)
        return [await prove(self._backend, component, clock=self._clock) for component in chosen]

    async def export(
        self,
        file: str | PathLike[str],
        *,
        tenant: str | None = None,
        only: Sequence[str] = (),
        limit: int | None = None,
        compress: Compression | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Write everything into a file, from one snapshot, and return what it holds (EXP-01…06).

        Others go on reading and writing meanwhile. The file appears when it is complete, for its owner alone; one that was there
        is replaced. Memory stays bounded, whatever the size. Provider keys (`api_keys`) are not exported.

        Args:
            file: its path; "-" is the standard output.
            tenant: None exports all tenants, which needs the operator's role where the database isolates them.
            only: names of tables or types (`sessions`, `knowledge_graph`, `vector_embeddings.384`); none: all.
            limit: so many things of each table at most, with what belongs to them.
            compress: "gz", "zst" or "none"; None goes by the suffix of the file.
            progress: called with a `Progress` after each batch.

        Raises:
            InvalidInput, InvalidTenant, InvalidLimit: an argument is refused.
            InvalidSetting: all tenants were asked for, and the store was opened without the operator's role.
            TenantUnknown: the store has no such tenant; there is no file then.
            StorageError: the store cannot be read, or the file not be written; there is no file then.
        """
        part = part_of(tenant, only, limit)
        return await export_file(self._backend, file, part, clock=self._clock, compress=compress, progress=progress)

    async def import_(
        self,
        file: str | PathLike[str],
        *,
        tenant: str | None = None,
        on_conflict: OnConflict = "error",
        dry_run: bool = False,
        only: Sequence[str] = (),
        limit: int | None = None,
        compress: Compression | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Take what a file holds into this store, in one transaction, and return what became of it (EXP-04, EXP-07).

        All of it comes in, or nothing: a broken file, a refused record, a killed process or a full disk leave the store as it was.
        The digests of the file are checked before the transaction ends.

        Args:
            file: its path; "-" is the standard input.
            tenant: take the rows of this tenant alone; None takes what the file holds.
            on_conflict: what becomes of things that are there: "error" refuses the file, "skip" keeps them, "replace" takes
                those of the file.
            dry_run: do all of it, and undo it at the end.
            only, limit, compress, progress: as for `export`.

        Raises:
            InvalidInput, InvalidTenant, InvalidLimit: an argument is refused.
            TenantUnknown: the file holds nothing of `tenant`.
            AlreadyExists: something is there, and conflicts are errors.
            StorageError: the file is damaged, or made by a newer release; the error names table, record and byte.
            OutcomeUnknown: the answer to the commit was lost; all of it came in, or nothing.
        """
        part = part_of(tenant, only, limit)
        return await import_file(
            self._backend,
            file,
            part,
            on_conflict=on_conflict,
            dry_run=dry_run,
            compress=compress,
            progress=progress,
        )

    async def transfer_to(
        self,
        url: str,
        *,
        operator_url: str | None = None,
        tenant: str | None = None,
        on_conflict: OnConflict = "error",
        dry_run: bool = False,
        only: Sequence[str] = (),
        limit: int | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Take everything into the store of another URL, without a file; the promises are those of `export` and `import_`.

        `operator_url` is that of the other store, where all tenants are moved into a server; for the configured server, that of
        the settings is used.

        Raises:
            InvalidInput: the other store is this one.
            InvalidUrl, ConfigError: the other store cannot be opened; otherwise as `export` and `import_`.
        """
        part = part_of(tenant, only, limit)
        async with other_store(url, settings=self._settings, clock=self._clock, operator_url=operator_url) as target:
            return await transfer_store(
                self._backend,
                target,
                part,
                clock=self._clock,
                on_conflict=on_conflict,
                dry_run=dry_run,
                progress=progress,
            )

    async def verify(
        self,
        other: str | PathLike[str],
        *,
        operator_url: str | None = None,
        tenant: str | None = None,
        differences: int = 10,
        progress: OnProgress | None = None,
    ) -> Verification:
        """Compare this store with another one (a URL) or a file, by count and digest of each table and tenant.

        A difference is a result, not an error; of rows that differ, the first `differences` are named (0 to 1,000).

        Raises:
            InvalidUrl, ConfigError, StorageError: the other side cannot be opened or read.
        """
        scope = part_of(tenant, (), None).tenant
        opened = side(other, settings=self._settings, clock=self._clock, operator_url=operator_url)
        async with opened as second:
            return await compare(self._backend, second, tenant=scope, differences=differences, progress=progress)

    def pool_status(self) -> PoolStatus:
        """Report connections (BKE-15)."""
        return self._backend.pool_status()

    async def promote(self, tenant: str, space_id: str, *, dimension: int) -> int:
        """Move a tenant's embedding space into the approximate index, and return how many vectors moved.

        Raises:
            Unsupported: this backend searches exactly, or builds its index by itself (`tenant.vectors.build_index`).
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
