"""The in-memory backend: every contract, nothing that survives the process.

Not here: approximate search, several processes, isolation by a database; their capabilities are not declared.

Rule: one transaction of a tenant is open at a time; others wait for it, in order. Transactions of two tenants never wait
for each other.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial

from llmspell.clock import Clock, SystemClock
from llmspell.errors import Unavailable, Unsupported
from llmspell.ids import IdSource
from llmspell.storage.contracts.access_keys import PEPPER_BYTES
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
from llmspell.storage.contracts.health import Finding, HealthCheck
from llmspell.storage.contracts.holdings import Holdings, StoreSize
from llmspell.storage.contracts.pages import Cursors
from llmspell.storage.contracts.transfer import OnConflict, TransferSource, TransferTarget
from llmspell.storage.inmemory.access_keys import InMemoryAccessKeys
from llmspell.storage.inmemory.agent_state import InMemoryAgentStates
from llmspell.storage.inmemory.api_keys import InMemoryApiKeys
from llmspell.storage.inmemory.artifacts import InMemoryArtifacts
from llmspell.storage.inmemory.audit import InMemoryAudit
from llmspell.storage.inmemory.capabilities import CAPABILITIES, CHARACTERISTICS
from llmspell.storage.inmemory.event_log import InMemoryEventLog
from llmspell.storage.inmemory.graph import InMemoryGraph
from llmspell.storage.inmemory.holdings import holdings
from llmspell.storage.inmemory.hook_history import InMemoryHookHistory
from llmspell.storage.inmemory.idempotency import InMemoryIdempotency
from llmspell.storage.inmemory.job_queue import InMemoryJobQueue
from llmspell.storage.inmemory.jobs import InMemoryJobs
from llmspell.storage.inmemory.kv import InMemoryKV
from llmspell.storage.inmemory.memories import InMemoryMemories
from llmspell.storage.inmemory.procedures import InMemoryProcedures
from llmspell.storage.inmemory.sessions import InMemorySessions
from llmspell.storage.inmemory.store import AutocommitUnit, TenantStore, TransactionUnit, Unit, WriterLock
from llmspell.storage.inmemory.tenants import InMemoryTenants
from llmspell.storage.inmemory.transfer import source, target
from llmspell.storage.inmemory.vectors import InMemoryVectors
from llmspell.storage.inmemory.workflow_state import InMemoryWorkflowStates
from llmspell.storage.text.analyser import Analyser
from llmspell.tenant import TenantId, tenant_id

CURSOR_KEY_BYTES = 32


class InMemoryBackend:
    """`Backend` in plain Python."""

    type: BackendType = CHARACTERISTICS.backend
    capabilities: frozenset[Capability] = CAPABILITIES

    def __init__(self, *, clock: Clock | None = None, ids: IdSource | None = None, language: str = "english") -> None:
        """`language` is that of the analyser of texts; clock and ids are the system's unless given."""
        self._clock = clock or SystemClock()
        self._ids = ids or IdSource(self._clock)
        self._analyser = Analyser(language)
        self._cursor_key = secrets.token_bytes(CURSOR_KEY_BYTES)
        self._access_pepper = secrets.token_bytes(PEPPER_BYTES)
        self._closed = False
        self._importing = WriterLock()
        self.tenants = InMemoryTenants(self._clock, self._ids, self.cursor_key)
        self.auto_create_tenants = True
        self.job_queue = InMemoryJobQueue(
            self.tenants, self._clock, self._ids, cursor_key=self.cursor_key, require_open=self._require_open
        )

    def storages(self, tenant: TenantId) -> Storages:
        tenant = tenant_id(tenant)
        return self._bind(tenant, AutocommitUnit(partial(self._store, tenant)))

    def transaction(
        self, tenant: TenantId, *, timeout_s: float = TRANSACTION_TIMEOUT_S
    ) -> AbstractAsyncContextManager[OpenTransaction]:
        return self._transaction(tenant_id(tenant), require_timeout(timeout_s))

    @asynccontextmanager
    async def _transaction(self, tenant: TenantId, timeout_s: float) -> AsyncIterator[OpenTransaction]:
        store = self._store(tenant, writing=True)
        await store.writer.acquire()
        try:
            unit = TransactionUnit(store, self._clock, timeout_s=timeout_s, waiting=self._ids.new())
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    yield opened(self._bind(tenant, unit), unit.savepoint)
                unit.commit()
            except TimeoutError as exc:
                if limit.expired():
                    raise unit.timed_out() from exc
                raise
            finally:
                unit.end()
        finally:
            store.writer.release()

    def _store(self, tenant: TenantId, *, writing: bool = False) -> TenantStore:
        self._require_open()
        return self.tenants.store(tenant, writing=writing, auto_create=self.auto_create_tenants)

    def _bind(self, tenant: TenantId, unit: Unit) -> Storages:
        cursors = Cursors(tenant, self.cursor_key)
        return Storages(
            kv=InMemoryKV(unit, self._clock, self._ids),
            vectors=InMemoryVectors(unit, self._clock, self._ids),
            memories=InMemoryMemories(unit, self._clock, self._analyser, self._ids),
            graph=InMemoryGraph(unit, self._clock, self._ids),
            audit=InMemoryAudit(unit, self._clock, self._ids, cursors),
            api_keys=InMemoryApiKeys(unit, self._clock, self._ids, cursors),
            access_keys=InMemoryAccessKeys(unit, self._clock, self._ids, cursors=cursors, pepper=self._access_pepper),
            procedures=InMemoryProcedures(unit, self._clock, self._ids, cursors),
            agent_state=InMemoryAgentStates(unit, self._clock, self._ids, cursors),
            workflow_state=InMemoryWorkflowStates(unit, self._clock, cursors),
            event_log=InMemoryEventLog(unit, self._clock, self._ids, cursors),
            hook_history=InMemoryHookHistory(unit, self._clock, self._ids, cursors),
            idempotency=InMemoryIdempotency(unit, self._clock),
            sessions=InMemorySessions(unit, self._clock, self._ids, cursors),
            artifacts=InMemoryArtifacts(unit, self._clock, cursors),
            jobs=InMemoryJobs(unit, self._clock, self._ids, cursors),
        )

    async def migration_status(self) -> MigrationStatus:
        """There is no schema: version 0, nothing applied, nothing pending."""
        return MigrationStatus(version=0, applied=(), pending=())

    async def migrate(self) -> MigrationStatus:
        return await self.migration_status()

    async def check(self) -> None:
        self._require_open()

    def health_checks(self) -> Sequence[HealthCheck]:
        return (HealthCheck("vector_storage", self._vectors),)

    async def _vectors(self) -> Finding:
        """HLT-03."""
        if any(holdings(store.committed).spaces for store in self.tenants.stores()):
            return Finding()
        return Finding(status="degraded", reason="No vectors indexed")

    async def holdings(self, tenant: TenantId) -> Holdings:
        return holdings(self._store(tenant_id(tenant)).committed)

    async def size(self) -> StoreSize:
        """Nothing is on a disk."""
        return StoreSize(parts={})

    async def cursor_key(self) -> bytes:
        """Return the key; it is as short-lived as what its cursors point into."""
        return self._cursor_key

    def pool_status(self) -> PoolStatus:
        """There are no connections."""
        return PoolStatus(size=0, available=0, waiting=0)

    async def promote(self, tenant: TenantId, space_id: str, *, dimension: int, limit: int | None = None) -> int:
        raise Unsupported(
            "This backend searches every space exactly.",
            capability=Capability.ANN_PROMOTION.value,
            space_id=space_id,
        )

    async def event_partitions(self) -> list[EventPartition]:
        raise one_table()

    async def ensure_event_partitions(self) -> list[str]:
        raise one_table()

    async def archive_event_partitions(self, before: datetime, *, dry_run: bool = False) -> list[str]:
        raise one_table()

    async def promotable(
        self, *, threshold: int, after: tuple[TenantId, str] | None = None, limit: int = 1_000
    ) -> list[Promotable]:
        raise Unsupported("This backend searches every space exactly.", capability=Capability.ANN_PROMOTION.value)

    async def is_same_store(self, other: object) -> bool:
        return other is self

    def transfer_source(self, tenant: TenantId | None) -> AbstractAsyncContextManager[TransferSource]:
        self._require_open()
        return source(self.tenants, tenant)

    def transfer_target(
        self, tenant: TenantId | None, *, on_conflict: OnConflict
    ) -> AbstractAsyncContextManager[TransferTarget]:
        self._require_open()
        return target(self.tenants, tenant, on_conflict=on_conflict, analyser=self._analyser, alone=self._importing)

    async def close(self) -> None:
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("The store is closed.", hint="Open it again.")
