"""The embedded backend, put together: one file behind the contracts.

Not here: which URL means this backend (`storage.open`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from llmspell.clock import Clock, SystemClock
from llmspell.errors import InvalidSetting, InvalidUrl, Unavailable, Unsupported
from llmspell.ids import IdSource
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
from llmspell.storage.contracts.event_log_checks import one_table
from llmspell.storage.contracts.health import HealthCheck
from llmspell.storage.contracts.holdings import Holdings, StoreSize
from llmspell.storage.contracts.transfer import OnConflict, TransferSource, TransferTarget
from llmspell.storage.contracts.vector_index import IndexChoice
from llmspell.storage.relational import catalog
from llmspell.storage.relational.backend import storages
from llmspell.storage.relational.cursor_key import CursorKey
from llmspell.storage.relational.holdings import holdings
from llmspell.storage.relational.job_queue import RelationalJobQueue
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.tenants import RelationalTenants
from llmspell.storage.sqlite import health, migrator, pragmas, transfer
from llmspell.storage.sqlite.capabilities import CAPABILITIES, CHARACTERISTICS
from llmspell.storage.sqlite.database import Database, FileUnit, transaction
from llmspell.storage.sqlite.dialect import SqliteDialect, SqliteFilters
from llmspell.storage.sqlite.index_options import VECTOR_CACHE_BYTES, IndexOptions
from llmspell.storage.sqlite.nearest import InProcessNeighbours
from llmspell.storage.text.analyser import Analyser
from llmspell.tenant import DEFAULT_TENANT, TenantId, tenant_id

READERS: Final = 4
BUSY_TIMEOUT_S: Final = 30.0
BALANCED_CHOICE: Final = IndexChoice()


@lru_cache(maxsize=1)
def queries() -> catalog.Catalog:
    """Return this dialect's queries, read once per process."""
    return catalog.load(migrator.PACKAGE)


class SqliteBackend:
    """`Backend` on one file."""

    type: BackendType = CHARACTERISTICS.backend
    capabilities: frozenset[Capability] = CAPABILITIES
    auto_create_tenants: bool = True

    def __init__(
        self, database: Database, runtime: Runtime, *, busy_timeout_s: float, index_folder: Path | None = None
    ) -> None:
        self._database = database
        self._index_folder = index_folder
        self._runtime = runtime
        self._busy_timeout_s = busy_timeout_s
        self.tenants = RelationalTenants(self.unit, self.operator_unit, runtime)
        self.job_queue = RelationalJobQueue(self.unit, self.operator_unit, runtime)

    def unit(self, tenant: TenantId) -> FileUnit:
        """Return the unit of work of a tenant."""
        return FileUnit(self._database, tenant_id(tenant))

    def operator_unit(self, tenant: TenantId) -> FileUnit:
        """Return the operator's unit of work; `:tenant_id` is the tenant that it works on, or `NO_TENANT`."""
        return FileUnit(self._database, tenant)

    def storages(self, tenant: TenantId) -> Storages:
        return storages(self.unit(tenant), self._runtime)

    def transaction(
        self, tenant: TenantId, *, timeout_s: float = TRANSACTION_TIMEOUT_S
    ) -> AbstractAsyncContextManager[OpenTransaction]:
        return self._transaction(tenant_id(tenant), require_timeout(timeout_s))

    @contextlib.asynccontextmanager
    async def _transaction(self, tenant: TenantId, timeout_s: float) -> AsyncIterator[OpenTransaction]:
        async with transaction(self._database, tenant, timeout_s) as unit:
            yield opened(storages(unit, self._runtime), unit.savepoint)

    async def migration_status(self) -> MigrationStatus:
        return await asyncio.to_thread(migrator.status, self._database.path, busy_timeout_s=self._busy_timeout_s)

    async def migrate(self) -> MigrationStatus:
        return await asyncio.to_thread(
            migrator.migrate, self._database.path, busy_timeout_s=self._busy_timeout_s, clock=self._runtime.clock
        )

    async def check(self) -> None:
        await self.unit(DEFAULT_TENANT).value(self._runtime.catalog.store.meta, name="store_id")

    def health_checks(self) -> Sequence[HealthCheck]:
        return health.checks(
            self._database.path, synchronous=self._database.synchronous, busy_timeout_s=self._busy_timeout_s
        )

    async def holdings(self, tenant: TenantId) -> Holdings:
        return await holdings(self.unit(tenant), self._runtime.catalog)

    async def size(self) -> StoreSize:
        return StoreSize(
            parts=await asyncio.to_thread(health.sizes, self._database.path, index_folder=self._index_folder)
        )

    async def cursor_key(self) -> bytes:
        return await self._runtime.cursor_key()

    def pool_status(self) -> PoolStatus:
        return self._database.pool_status()

    async def promote(self, tenant: TenantId, space_id: str, *, dimension: int, limit: int | None = None) -> int:
        raise Unsupported(
            "This backend builds its index by itself; no vectors are moved into it by hand.",
            hint="Run: llmspell index build, to have it now.",
            capability=Capability.ANN_PROMOTION.value,
        )

    async def promotable(
        self, *, threshold: int, after: tuple[TenantId, str] | None = None, limit: int = 1_000
    ) -> list[Promotable]:
        raise Unsupported(
            "This backend builds its index by itself; no vectors are moved into it by hand.",
            hint="Run: llmspell index build, to have it now.",
            capability=Capability.ANN_PROMOTION.value,
        )

    async def event_partitions(self) -> list[EventPartition]:
        raise one_table()

    async def ensure_event_partitions(self) -> list[str]:
        raise one_table()

    async def archive_event_partitions(self, before: datetime, *, dry_run: bool = False) -> list[str]:
        raise one_table()

    async def is_same_store(self, other: object) -> bool:
        if not isinstance(other, SqliteBackend):
            return False
        return await asyncio.to_thread(os.path.samefile, self._database.path, other._database.path)

    @contextlib.asynccontextmanager
    async def transfer_source(self, tenant: TenantId | None) -> AsyncIterator[TransferSource]:
        status = await self.migration_status()
        async with transfer.source(self._database, self._runtime, status, tenant) as opened_source:
            yield opened_source

    def transfer_target(
        self, tenant: TenantId | None, *, on_conflict: OnConflict
    ) -> AbstractAsyncContextManager[TransferTarget]:
        return transfer.target(self._database, self._runtime, tenant, on_conflict)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._runtime.nearest.close()
        self._database.close()


async def open_sqlite(
    path: str | Path,
    *,
    synchronous: pragmas.Synchronous = "FULL",
    readers: int = READERS,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    language: str = "english",
    auto_migrate: bool = True,
    create_folder: bool = False,
    vector_index: IndexChoice = BALANCED_CHOICE,
    memory_index: IndexChoice = BALANCED_CHOICE,
    vector_path: str | None = None,
    indexes: bool = True,
    vector_cache_bytes: int = VECTOR_CACHE_BYTES,
    index_threads: int | None = None,
    vector_mmap: bool = False,
) -> SqliteBackend:
    """Open a file, creating it when it is missing; `create_folder` also creates the folders above it.

    Args:
        synchronous: FULL keeps every acknowledged write through a power cut; NORMAL may lose the latest.
        readers: connections that read beside the one that writes, and threads for long reads.
        busy_timeout_s: how long a write waits for another process.
        auto_migrate: apply pending migrations; otherwise a file that needs some is refused on use.
        vector_index, memory_index: parameters of the indexes over free vectors, and over embeddings of memories.
        vector_path: the folder of index files; None: beside the file, named like it with `.vectors` behind.
        indexes: whether indexes are built at all; every search is exact otherwise.
        vector_cache_bytes: memory that vectors and indexes take in this process.
        index_threads: threads that build indexes; None: half of the cores, at least one.
        vector_mmap: map index files, instead of reading them into memory.

    Raises:
        InvalidUrl: `path` names no file.
        NotADatabase: the file is something else; nothing was changed.
        SchemaTooNew, MigrationModified, MigrationFailed: its schema does not fit this release.
        Unavailable, StorageError: it cannot be opened or written.
    """
    if readers < 1:
        raise InvalidSetting("storage.sqlite.readers must be at least 1.", given=readers)
    if index_threads is not None and index_threads < 1:
        raise InvalidSetting("storage.sqlite.index_threads must be at least 1.", given=index_threads)
    clock = clock or SystemClock()
    database = await asyncio.to_thread(
        _open_file,
        path,
        create_folder=create_folder,
        auto_migrate=auto_migrate,
        synchronous=synchronous,
        readers=readers,
        busy_timeout_s=busy_timeout_s,
        clock=clock,
    )
    options = IndexOptions(
        path=database.path,
        vector_index=vector_index,
        memory_index=memory_index,
        vector_path=vector_path,
        indexes=indexes,
        vector_cache_bytes=vector_cache_bytes,
        index_threads=index_threads or default_index_threads(),
        vector_mmap=vector_mmap,
    )
    runtime = _runtime(database, options, clock=clock, ids=ids or IdSource(clock), language=language)
    return SqliteBackend(database, runtime, busy_timeout_s=busy_timeout_s, index_folder=options.folder)


def _runtime(database: Database, options: IndexOptions, *, clock: Clock, ids: IdSource, language: str) -> Runtime:
    dialect, filters = SqliteDialect(), SqliteFilters()
    return Runtime(
        characteristics=CHARACTERISTICS,
        catalog=queries(),
        dialect=dialect,
        filters=filters,
        nearest=InProcessNeighbours(queries(), dialect, filters, clock, database=database, options=options),
        clock=clock,
        ids=ids,
        analyser=Analyser(language),
        cursor_key=CursorKey(FileUnit(database, DEFAULT_TENANT), queries().store.meta),
    )


def _open_file(
    path: str | Path,
    *,
    create_folder: bool,
    auto_migrate: bool,
    synchronous: pragmas.Synchronous,
    readers: int,
    busy_timeout_s: float,
    clock: Clock,
) -> Database:
    """Open the file with a schema that fits, or leave nothing open."""
    file = _file(path)
    if create_folder:
        _create_folder(file)
    database = Database(str(file), synchronous=synchronous, readers=readers, busy_timeout_s=busy_timeout_s, clock=clock)
    try:
        if auto_migrate:
            migrator.migrate(database.path, busy_timeout_s=busy_timeout_s, clock=clock)
        else:
            migrator.status(database.path, busy_timeout_s=busy_timeout_s)
    except BaseException:
        database.close()
        raise
    return database


def default_index_threads() -> int:
    """Return half of the cores, at least one: searches and writes go on while an index is built."""
    return max(1, (os.cpu_count() or 1) // 2)


def _file(path: str | Path) -> Path:
    text = str(path)
    if not text or text == "." or text.startswith(":") or "\0" in text:
        raise InvalidUrl("The path names no file.", path=text)
    # Absolute from here on: readers opened later must find the same file after a change of directory.
    return Path(text).expanduser().absolute()


def _create_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Unavailable(
            "The folder of the file cannot be created.", folder=str(file.parent), reason=exc.strerror
        ) from exc
