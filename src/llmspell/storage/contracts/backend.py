"""A backend: the storages of all concerns, bound to a tenant, alone or inside one transaction.

Rule: the tenant is bound when the storages are handed out; no method takes one, and no state is shared between tenants.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

import msgspec

from llmspell.errors import InvalidLimit, TransactionError
from llmspell.storage.contracts.access_keys import AccessKeys
from llmspell.storage.contracts.agent_state import AgentStates
from llmspell.storage.contracts.api_keys import ApiKeys
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.event_log import EventLog, EventPartition
from llmspell.storage.contracts.graph import Graph
from llmspell.storage.contracts.health import HealthCheck
from llmspell.storage.contracts.holdings import Holdings, StoreSize
from llmspell.storage.contracts.hook_history import HookHistory
from llmspell.storage.contracts.idempotency import Idempotency
from llmspell.storage.contracts.jobs import JobQueue, Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.memories import Memories
from llmspell.storage.contracts.procedures import Procedures
from llmspell.storage.contracts.sessions import Sessions
from llmspell.storage.contracts.tenants import Tenants
from llmspell.storage.contracts.transfer import OnConflict, TransferSource, TransferTarget
from llmspell.storage.contracts.vectors import Vectors
from llmspell.storage.contracts.workflow_state import WorkflowStates
from llmspell.tenant import TenantId

TRANSACTION_TIMEOUT_S = 30.0


def require_timeout(timeout_s: object) -> float:
    """Return the time limit of a transaction in seconds.

    Raises:
        InvalidLimit: it is no positive, finite number.
    """
    if (
        isinstance(timeout_s, bool)
        or not isinstance(timeout_s, (int, float))
        or not 0 < timeout_s <= sys.float_info.max
    ):
        raise InvalidLimit("timeout_s", "must be a positive number of seconds", given=timeout_s)
    return float(timeout_s)


class Storages(msgspec.Struct, frozen=True, kw_only=True):
    """The storages of one tenant."""

    kv: KV
    vectors: Vectors
    memories: Memories
    graph: Graph
    audit: Audit
    api_keys: ApiKeys
    access_keys: AccessKeys
    procedures: Procedures
    agent_state: AgentStates
    workflow_state: WorkflowStates
    event_log: EventLog
    hook_history: HookHistory
    idempotency: Idempotency
    sessions: Sessions
    artifacts: Artifacts
    jobs: Jobs


class OpenTransaction(Storages, frozen=True, kw_only=True):
    """The storages of one tenant inside a transaction."""

    savepoint: Callable[[], AbstractAsyncContextManager[None]]
    """Open a block of which nothing stays when an exception leaves it; the transaction goes on.

    Blocks nest, and end in the reverse order of their beginnings. What other tasks write through the same transaction while
    a block is open belongs to the block.

    Raises:
        TransactionError: a block was left while one that began inside of it was still open; the transaction must end.
        TransactionClosed, TransactionTimeout.
    """


def opened(storages: Storages, savepoint: Callable[[], AbstractAsyncContextManager[None]]) -> OpenTransaction:
    """Return the storages of a transaction with its way to savepoints."""
    bound = {name: getattr(storages, name) for name in storages.__struct_fields__}
    return OpenTransaction(**bound, savepoint=savepoint)


class Savepoints:
    """Which savepoint blocks of a transaction are open, innermost last."""

    def __init__(self) -> None:
        self._open: list[object] = []
        self.undone = 0
        """How many blocks were left by an exception so far."""

    def enter(self) -> object:
        """Note that a block begins, and return its mark."""
        mark = object()
        self._open.append(mark)
        return mark

    def leave(self, mark: object, *, undone: bool = False) -> None:
        """Note that a block ends; `undone`: nothing of it stays.

        Raises:
            TransactionError: it is not the innermost.
        """
        if not self._open or self._open[-1] is not mark:
            raise TransactionError(
                "A savepoint ended before one that began inside of it; nothing of the transaction can be kept.",
                hint="Let the tasks that share a transaction take turns at savepoints.",
            )
        self._open.pop()
        self.undone += undone

    def require_none(self) -> None:
        """Refuse to commit while a block is open: whether it would keep what it wrote is not decided yet.

        Raises:
            TransactionError: a block is open.
        """
        if self._open:
            raise TransactionError("The transaction ended while a savepoint of it was open; nothing was written.")


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


class Promotable(msgspec.Struct, frozen=True, kw_only=True):
    """A space that has outgrown exact search."""

    tenant: TenantId
    space_id: str
    dimension: int


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

    @property
    def job_queue(self) -> JobQueue:
        """The queue of all tenants' jobs, for workers and operators."""
        ...

    def storages(self, tenant: TenantId) -> Storages:
        """Return storages in which every call is a unit of work of its own."""
        ...

    def transaction(
        self, tenant: TenantId, *, timeout_s: float = TRANSACTION_TIMEOUT_S
    ) -> AbstractAsyncContextManager[OpenTransaction]:
        """Open a transaction: all writes through the yielded storages commit together when the block ends normally.

        A call that fails undoes itself and nothing else, and so does a `savepoint()` block. A raised exception rolls back.

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

    def health_checks(self) -> Sequence[HealthCheck]:
        """Return what this backend checks beyond what every store has in common; `vector_storage` is always among them."""
        ...

    async def holdings(self, tenant: TenantId) -> Holdings:
        """Count what a tenant has, as it sees itself; nothing where it is not known."""
        ...

    async def size(self) -> StoreSize:
        """Return how much room the store takes on disks, by part."""
        ...

    async def cursor_key(self) -> bytes:
        """Return the store's 32-byte key that signs page cursors."""
        ...

    def pool_status(self) -> PoolStatus:
        """Report connections."""
        ...

    async def promote(self, tenant: TenantId, space_id: str, *, dimension: int, limit: int | None = None) -> int:
        """Move a tenant's space into the approximate index, and return how many vectors moved (at most `limit`, if given).

        Raises:
            Unsupported: this backend searches exactly, or builds its index by itself (`Capability.ANN_PROMOTION`).
        """
        ...

    async def event_partitions(self) -> list[EventPartition]:
        """Return the months that events are kept in, the earliest first, and last what keeps all others.

        Raises:
            Unsupported: this backend keeps events in one table (`Capability.EVENT_PARTITIONS`).
        """
        ...

    async def ensure_event_partitions(self) -> list[str]:
        """Make the current month and the next three, where they are missing; one line for each, CREATED or SKIPPED.

        Events of such a month that came before it was made move into it.

        Raises:
            Unsupported: as above.
        """
        ...

    async def archive_event_partitions(self, before: datetime, *, dry_run: bool = False) -> list[str]:
        """Take the months that ended by `before` out of the log into an archive, one line for each; nothing is deleted.

        Raises:
            Unsupported: as above.
            InvalidSetting: this store was opened without the operator's role.
        """
        ...

    async def promotable(
        self, *, threshold: int, after: tuple[TenantId, str] | None = None, limit: int = 1_000
    ) -> list[Promotable]:
        """Return spaces of all tenants with more than `threshold` vectors outside of the approximate index.

        In the order of (tenant, space), beyond `after`. It is the operator's.

        Raises:
            Unsupported: as `promote` says.
        """
        ...

    async def is_same_store(self, other: Backend) -> bool:
        """Say whether another opened store is this very one, however it was named: the same file, the same database of a server.

        A copy is another store.

        Raises:
            Unavailable, StorageError: one of both cannot be asked.
        """
        ...

    def transfer_source(self, tenant: TenantId | None) -> AbstractAsyncContextManager[TransferSource]:
        """Open a snapshot of all rows of a tenant, or with None of all tenants, to be read by a transfer.

        Raises:
            InvalidSetting: all tenants were asked for, and this store was opened without the operator's role.
        """
        ...

    def transfer_target(
        self, tenant: TenantId | None, *, on_conflict: OnConflict
    ) -> AbstractAsyncContextManager[TransferTarget]:
        """Open a transaction that takes rows of a tenant, or with None of all tenants, from a transfer.

        Raises:
            InvalidSetting: as above.
        """
        ...

    async def close(self) -> None:
        """Finish pending work and release everything; closing twice is allowed."""
        ...
