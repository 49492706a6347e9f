"""The PostgreSQL backend, put together: one database behind the contracts.

Not here: which URL means this backend (`storage.open`).

Rule: the driver is imported when a store is opened, not before; without it the error names the extra.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from msgspec import structs

from llmspell.clock import Clock, SystemClock
from llmspell.errors import InvalidSetting
from llmspell.ids import IdSource
from llmspell.observe import logger
from llmspell.storage.contracts.backend import (
    TRANSACTION_TIMEOUT_S,
    MigrationStatus,
    OpenTransaction,
    PoolStatus,
    Promotable,
    Storages,
    opened,
    require_timeout,
)
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.event_log import EventPartition
from llmspell.storage.contracts.health import HealthCheck
from llmspell.storage.contracts.holdings import Holdings, StoreSize
from llmspell.storage.contracts.transfer import OnConflict, TransferSource, TransferTarget
from llmspell.storage.postgres import migrate as migrator
from llmspell.storage.postgres import partitions
from llmspell.storage.postgres.capabilities import CAPABILITIES, CHARACTERISTICS
from llmspell.storage.postgres.errors import require_driver
from llmspell.storage.postgres.schema_status import read_status
from llmspell.storage.postgres.statements import bind_texts, fixed
from llmspell.storage.relational import catalog
from llmspell.storage.relational.backend import storages
from llmspell.storage.relational.cursor_key import CursorKey
from llmspell.storage.relational.holdings import holdings
from llmspell.storage.relational.job_queue import RelationalJobQueue
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.tenants import RelationalTenants
from llmspell.storage.text.analyser import Analyser
from llmspell.tenant import DEFAULT_TENANT, NO_TENANT, TenantId, tenant_id

if TYPE_CHECKING:
    from llmspell.settings import Secret
    from llmspell.storage.postgres.database import Connector, Database, DirectUnit

Pooler: TypeAlias = Literal["none", "transaction"]
POOL_SIZE = 20  # BKE-14, as the four limits below
OPERATOR_POOL_SIZE = 4
POOL_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 600.0
MAX_LIFETIME_S = 1_800.0
STATEMENT_CACHE_SIZE = 100
_CHECK = fixed("driver.check", "SELECT 1")
_SIGNING = fixed("driver.signing", "SELECT llmspell.tenant_signing()")


@lru_cache(maxsize=1)
def queries() -> catalog.Catalog:
    """Return this dialect's queries, read once per process."""
    return catalog.load(migrator.PACKAGE)


class PostgresBackend:
    """`Backend` on one database."""

    type: BackendType = CHARACTERISTICS.backend
    capabilities: frozenset[Capability] = CAPABILITIES
    auto_create_tenants: bool = False

    def __init__(
        self, database: Database, runtime: Runtime, *, admin_url: str | None, operator: Database | None = None
    ) -> None:
        """`admin_url`: the role that owns the schema; without it `migrate` is refused. `operator`: the same database as the
        role that works on all tenants; without it what only the operator may do is refused.
        """
        self._database = database
        self._operator = operator
        self._runtime = runtime
        self._admin_url = admin_url
        self.tenants = RelationalTenants(self.unit, self.operator_unit, runtime)

        self.job_queue = RelationalJobQueue(self.unit, self.operator_unit, runtime, has_operator=operator is not None)

    def unit(self, tenant: TenantId) -> DirectUnit:
        """Return the unit of work of a tenant."""
        return self._database.unit(tenant_id(tenant))

    def operator_unit(self, tenant: TenantId) -> DirectUnit:
        """Return the operator's unit of work; `:tenant_id` is the tenant that it works on, or `NO_TENANT`.

        Raises:
            InvalidSetting: this store was opened without the operator's URL.
        """
        if self._operator is None:
            raise InvalidSetting(
                "Only the operator's role may do this, and the store was opened without it.",
                setting="storage.postgres.operator_url",
                hint="Set DATABASE_OPERATOR_URL to the URL of llmspell_operator.",
            )
        return self._operator.unit(tenant)

    def storages(self, tenant: TenantId) -> Storages:
        return storages(self.unit(tenant), self._runtime)

    def transaction(
        self, tenant: TenantId, *, timeout_s: float = TRANSACTION_TIMEOUT_S
    ) -> AbstractAsyncContextManager[OpenTransaction]:
        return self._transaction(tenant_id(tenant), require_timeout(timeout_s))

    @asynccontextmanager
    async def _transaction(self, tenant: TenantId, timeout_s: float) -> AsyncIterator[OpenTransaction]:
        async with self._database.transaction(tenant, timeout_s=timeout_s) as unit:
            yield opened(storages(unit, self._runtime), unit.savepoint)

    async def migration_status(self) -> MigrationStatus:
        async with self._database.pool.link() as link:
            return await read_status(link)

    async def migrate(self) -> MigrationStatus:
        if self._admin_url is None:
            found = await self.migration_status()
            migrator.require_current(found)
            return found
        return await asyncio.to_thread(migrator.migrate, self._admin_url)

    async def check(self) -> None:
        async with self._database.pool.link() as link:
            await link.exchange((bind_texts(_CHECK),), commits=False, name=_CHECK.label)

    def health_checks(self) -> Sequence[HealthCheck]:
        from llmspell.storage.postgres.health import ServerChecks

        return ServerChecks(self._database.pool, missing_months=self._missing_months, owner=self._owner()).all()

    async def _missing_months(self) -> int:
        return int(await self._database.unit(NO_TENANT).value(self._runtime.catalog.event_log.missing_partitions))

    def _owner(self) -> Connector | None:
        """What connects as the role that owns the schema, to look at the server."""
        if self._admin_url is None:
            return None
        from llmspell.storage.postgres.address import read_url
        from llmspell.storage.postgres.database import Connector
        from llmspell.storage.postgres.roles import require_working

        return Connector(read_url(self._admin_url), statement_cache_size=0, require=require_working, needs_key=False)

    async def holdings(self, tenant: TenantId) -> Holdings:
        return await holdings(self.unit(tenant), self._runtime.catalog)

    async def size(self) -> StoreSize:
        from llmspell.storage.postgres.vitals import read_sizes

        async with self._database.pool.link() as link:
            return StoreSize(parts=await read_sizes(link))

    async def cursor_key(self) -> bytes:
        return await self._runtime.cursor_key()

    def pool_status(self) -> PoolStatus:
        return self._database.pool.status()

    async def promote(self, tenant: TenantId, space_id: str, *, dimension: int, limit: int | None = None) -> int:
        from llmspell.storage.postgres.nearest import promote

        unit = self.unit(tenant)
        return await promote(
            unit, self._runtime.catalog, space_id=space_id, dimension=dimension, clock=self._runtime.clock, limit=limit
        )

    async def event_partitions(self) -> list[EventPartition]:
        return await partitions.listed(self._database.unit(NO_TENANT), self._runtime.catalog)

    async def ensure_event_partitions(self) -> list[str]:
        return await partitions.ensure(self._database.unit(NO_TENANT), self._runtime.catalog)

    async def archive_event_partitions(self, before: datetime, *, dry_run: bool = False) -> list[str]:
        operator = self.operator_unit(NO_TENANT)
        return await partitions.archive(operator, self._runtime.catalog, before=before, dry_run=dry_run)

    async def promotable(
        self, *, threshold: int, after: tuple[TenantId, str] | None = None, limit: int = 1_000
    ) -> list[Promotable]:
        from llmspell.storage.postgres.nearest import promotable

        unit = self.operator_unit(NO_TENANT)
        return await promotable(unit, self._runtime.catalog, threshold=threshold, after=after, limit=limit)

    async def is_same_store(self, other: object) -> bool:
        from llmspell.storage.postgres import transfer

        if not isinstance(other, PostgresBackend):
            return False
        return other is self or await transfer.same_database(self._database, other._database, self._runtime.catalog)

    @asynccontextmanager
    async def transfer_source(self, tenant: TenantId | None) -> AsyncIterator[TransferSource]:
        from llmspell.storage.postgres import transfer

        status = await self.migration_status()
        async with transfer.source(self._serving(tenant), self._runtime, status, tenant) as opened_source:
            yield opened_source

    @asynccontextmanager
    async def transfer_target(
        self, tenant: TenantId | None, *, on_conflict: OnConflict
    ) -> AsyncIterator[TransferTarget]:
        from llmspell.storage.postgres import transfer

        async with transfer.target(self._serving(tenant), self._runtime, tenant, on_conflict) as opened_target:
            yield opened_target

    def _serving(self, tenant: TenantId | None) -> Database:
        """Return the role that may work on a tenant, or on all."""
        if tenant is not None:
            tenant_id(tenant)
            return self._database
        self.operator_unit(NO_TENANT)  # raises without the operator's role
        return cast("Database", self._operator)

    async def close(self) -> None:
        self._database.pool.close()
        if self._operator is not None:
            self._operator.pool.close()


def _runtime(database: Database, clock: Clock, ids: IdSource, language: str) -> Runtime:
    from llmspell.storage.postgres.dialect import PostgresDialect, PostgresFilters
    from llmspell.storage.postgres.nearest import PgvectorNeighbours

    dialect, filters = PostgresDialect(), PostgresFilters()
    return Runtime(
        characteristics=CHARACTERISTICS,
        catalog=queries(),
        dialect=dialect,
        filters=filters,
        nearest=PgvectorNeighbours(queries(), dialect, filters, clock),
        clock=clock,
        ids=ids,
        analyser=Analyser(language),
        cursor_key=CursorKey(database.unit(DEFAULT_TENANT), queries().store.meta),
    )


async def _make_ready(backend: PostgresBackend, database: Database, *, signs: bool) -> None:
    migrator.require_current(await backend.migration_status())
    # Now: a page inside of a transaction must not wait for a second connection.
    await backend.cursor_key()
    if signs:
        await _warn_unless_signing(database)


async def _warn_unless_signing(database: Database) -> None:
    async with database.pool.link() as link:
        found = await link.exchange((bind_texts(_SIGNING),), commits=False, name=_SIGNING.label)
        if not link.rows(found[-1])[0][0]:
            logger.warning(
                "A tenant key is configured, but this database demands no signatures, so the key protects nothing."
                " Run: llmspell database signing enable"
            )


async def open_postgres(
    url: str,
    *,
    admin_url: str | None = None,
    operator_url: str | None = None,
    tenant_key: Secret | None = None,
    pool_size: int = POOL_SIZE,
    pool_timeout_s: float = POOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    max_lifetime_s: float = MAX_LIFETIME_S,
    statement_cache_size: int = STATEMENT_CACHE_SIZE,
    pooler: Pooler = "none",
    clock: Clock | None = None,
    ids: IdSource | None = None,
    language: str = "english",
    auto_migrate: bool = False,
    enforce_tenant_isolation: bool = True,
) -> PostgresBackend:
    """Open a store as the role that serves tenants, and check that it is fit for that.

    Args:
        url: the serving role, `llmspell_app` (DATABASE_URL).
        admin_url: the role that owns the schema (DATABASE_ADMIN_URL); only migrations use it.
        operator_url: the role that works on all tenants (DATABASE_OPERATOR_URL); it gets a small pool of its own.
        tenant_key: signs the tenant of each statement, where the database demands that.
        pooler: "transaction" when a pooler hands a connection to others after each transaction; nothing is prepared then.
        auto_migrate: apply pending migrations first, when `admin_url` is given.
        enforce_tenant_isolation: False admits a role that bypasses row-level security; only the double predicate is left then.

    Raises:
        MissingExtra: psycopg is not installed.
        InvalidUrl, InvalidSetting.
        Unavailable: the server cannot be reached within 10 seconds.
        StorageError: it refuses the role, or is older than PostgreSQL 15.
        MissingExtension, UnsafeRole, SchemaOutdated, SchemaTooNew, MigrationModified, TenantKeyMissing, SignatureRefused.
    """
    require_driver()
    from llmspell.storage.postgres.address import read_url
    from llmspell.storage.postgres.database import Connector, Database
    from llmspell.storage.postgres.link import bind_tenant
    from llmspell.storage.postgres.pool import PoolSettings
    from llmspell.storage.postgres.roles import require_operator, require_suitable, require_working
    from llmspell.storage.postgres.tenant_key import Signer, read_tenant_key

    settings = PoolSettings(
        size=pool_size, timeout_s=pool_timeout_s, idle_timeout_s=idle_timeout_s, max_lifetime_s=max_lifetime_s
    )
    cached = 0 if pooler == "transaction" else statement_cache_size
    suits = require_suitable if enforce_tenant_isolation else require_working
    signer = Signer(read_tenant_key(tenant_key)) if tenant_key is not None else None
    connect = Connector(read_url(url), statement_cache_size=cached, require=suits, signer=signer)
    clock = clock or SystemClock()
    database = Database(connect, settings, clock=clock, binder=signer or bind_tenant)
    runtime = _runtime(database, clock, ids or IdSource(clock), language)
    if auto_migrate and admin_url is not None:
        await asyncio.to_thread(migrator.migrate, admin_url)
    operator = None
    if operator_url is not None:  # who works on all tenants signs none
        works_on_all = Connector(read_url(operator_url), statement_cache_size=cached, require=require_operator)
        operator = Database(
            works_on_all, structs.replace(settings, size=min(pool_size, OPERATOR_POOL_SIZE)), clock=clock
        )
    backend = PostgresBackend(database, runtime, admin_url=admin_url, operator=operator)
    try:
        await _make_ready(backend, database, signs=signer is not None)
        await partitions.ensure_at_start(database.unit(NO_TENANT), runtime.catalog)
    except BaseException:
        await backend.close()
        raise
    return backend
