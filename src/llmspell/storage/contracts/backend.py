"""A backend: the storages of all concerns, bound to a tenant, alone or inside one transaction.

Rule: the tenant is bound when the storages are handed out; no method takes one, and no state is shared between tenants.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from llmspell.storage.contracts.agent_state import AgentStates
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.graph import Graph
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.memories import Memories
from llmspell.storage.contracts.procedures import Procedures
from llmspell.storage.contracts.tenants import Tenants
from llmspell.storage.contracts.vectors import Vectors
from llmspell.storage.contracts.workflow_state import WorkflowStates
from llmspell.tenant import TenantId

TRANSACTION_TIMEOUT_S = 30.0


class Storages(msgspec.Struct, frozen=True, kw_only=True):
    """The storages of one tenant."""

    kv: KV
    vectors: Vectors
    memories: Memories
    graph: Graph
    procedures: Procedures
    agent_state: AgentStates
    workflow_state: WorkflowStates


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Which migrations a store has and lacks, by name, in order."""

    version: int
    applied: tuple[str, ...]
    pending: tuple[str, ...]


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many connections there are, are idle, and how many callers wait (BKE-15)."""

    size: int
    available: int
    waiting: int


class Backend(Protocol):
    """One opened store."""

    type: BackendType
    capabilities: frozenset[Capability]
    auto_create_tenants: bool
    """Whether a tenant that does not exist is created by its first write; settings may override it."""

    @property
    def tenants(self) -> Tenants:
        """The registry of tenants."""
        ...

    def storages(self, tenant: TenantId) -> Storages:
        """Return storages in which every call is a unit of work of its own."""
        ...

    def transaction(
        self, tenant: TenantId, *, timeout_s: float = TRANSACTION_TIMEOUT_S
    ) -> AbstractAsyncContextManager[Storages]:
        """Open a transaction: all writes through the yielded storages commit together when the block ends normally.

        Nested use of the storages' own multi-statement writes become savepoints. A raised exception rolls back.

        Raises:
            TransactionTimeout: it outlived `timeout_s`; it was rolled back.
            Conflict: another transaction was first.
            OutcomeUnknown: the commit was sent, and its answer was lost.
            TransactionClosed: a storage was used after the block ended.
        """
        ...

    async def migration_status(self) -> MigrationStatus:
        """Compare the store with the migrations of this release."""
        ...

    async def migrate(self) -> MigrationStatus:
        """Apply pending migrations, each in a transaction of its own, under a lock.

        Raises:
            MigrationModified, MigrationFailed, SchemaTooNew.
        """
        ...

    async def check(self) -> None:
        """Answer a trivial query, or raise `Unavailable`."""
        ...

    async def cursor_key(self) -> bytes:
        """Return the store's 32-byte key that signs page cursors."""
        ...

    def pool_status(self) -> PoolStatus:
        """Report connections."""
        ...

    async def promote(self, tenant: TenantId, space_id: str, *, dimension: int) -> int:
        """Move a tenant's space into the approximate index, and return how many vectors moved.

        Raises:
            Unsupported: this backend searches every space exactly (`Capability.ANN_PROMOTION`).
        """
        ...

    async def close(self) -> None:
        """Finish pending work and release everything; closing twice is allowed."""
        ...
