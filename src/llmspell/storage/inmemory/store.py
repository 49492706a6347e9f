"""The state of a tenant: tables of immutable records, layers over them, and the one writer at a time.

Not here: what a record means (the storages), which tenants there are (`tenants`).

Rule 1: records are never changed, only replaced; so whoever holds one, or a list of them, holds a snapshot.
Rule 2: a writer works in a layer of its own above the committed state. Committing merges the layer, rolling back drops
it, and a savepoint is a layer above a layer; so readers outside see what is committed and nothing else.
Rule 3: a tenant's state refers to no other tenant's: tenants cannot meet, whatever a storage does wrong.
Rule 4: no thread ever waits for the writer's lock while holding the mutex, and no event loop waits for either.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

from llmspell.clock import MICROSECOND, Clock
from llmspell.errors import TransactionClosed, TransactionError, TransactionTimeout, Unavailable
from llmspell.storage.contracts.backend import Savepoints
from llmspell.storage.contracts.tenants import NO_LIMITS
from llmspell.storage.inmemory import usage
from llmspell.tenant import NO_TENANT, TenantId

if TYPE_CHECKING:
    from llmspell.storage.contracts.artifacts import ArtifactRecord
    from llmspell.storage.contracts.audit import AuditEntry, AuditHead
    from llmspell.storage.contracts.graph import Cardinality, Entity, Fact
    from llmspell.storage.contracts.hook_history_checks import Stored as StoredExecution
    from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryVersion
    from llmspell.storage.contracts.procedures import Pattern
    from llmspell.storage.contracts.sessions import SessionRecord
    from llmspell.storage.inmemory.access_keys import StoredAccessKey
    from llmspell.storage.inmemory.agent_state import StoredAgentState
    from llmspell.storage.inmemory.api_keys import StoredApiKey
    from llmspell.storage.inmemory.artifacts import StoredContent
    from llmspell.storage.inmemory.event_log import StoredEvent
    from llmspell.storage.inmemory.idempotency import UsedKey
    from llmspell.storage.inmemory.jobs import StoredJob
    from llmspell.storage.inmemory.kv import Item
    from llmspell.storage.inmemory.memory_rows import StoredMemory
    from llmspell.storage.inmemory.vectors import StoredVector
    from llmspell.storage.inmemory.workflow_state import StoredWorkflow

K = TypeVar("K")
V = TypeVar("V")
Carried: TypeAlias = "Mapping[str, Any]"
Row: TypeAlias = "dict[str, Any]"
"""One row of a table as databases keep it, by the names of its columns, without the tenant: what a transfer moves."""
T = TypeVar("T")

WRITER_WAIT_MAX_S = 60.0
"""How long a write waits for the writer before it; a transaction's own time limit is shorter by default."""

_DELETED: Any = object()


class Table(Generic[K, V]):
    """A dictionary that may lie above another one: what it does not hold itself is read from below."""

    __slots__ = ("_below", "_carried", "_rows")

    def __init__(self, below: Table[K, V] | None = None) -> None:
        self._rows: dict[K, V] = {}
        self._carried: dict[K, Carried] = {}
        self._below = below

    def get(self, key: K) -> V | None:
        """Return the record, or None."""
        table: Table[K, V] | None = self
        while table is not None:
            if key in table._rows:
                row = table._rows[key]
                return None if row is _DELETED else row
            table = table._below
        return None

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def put(self, key: K, row: V) -> None:
        """Store a record in this layer."""
        self._rows[key] = row

    def remove(self, key: K) -> None:
        """Delete a record in this layer, with what came with it."""
        if self._below is None:
            self._rows.pop(key, None)
            self._carried.pop(key, None)
        else:
            self._rows[key] = _DELETED
            self._carried[key] = {}  # a record that takes its place has not come with it

    def carry(self, key: K, columns: Carried) -> None:
        """Keep columns that the row of a record has and the record has no place for, until it is deleted."""
        if columns:
            self._carried[key] = columns

    def carried(self, key: K) -> Carried:
        """Return what goes along with a record."""
        table: Table[K, V] | None = self
        while table is not None:
            if key in table._carried:
                return table._carried[key]
            table = table._below
        return {}

    def items(self) -> list[tuple[K, V]]:
        """Return all records with their keys: a snapshot, in order of insertion."""
        if self._below is None:
            return list(self._rows.items())
        merged = dict(self._below.items())
        for key, row in self._rows.items():
            if row is _DELETED:
                merged.pop(key, None)
            else:
                merged[key] = row
        return list(merged.items())

    def rows(self) -> list[V]:
        """Return all records: a snapshot, in order of insertion."""
        return [row for _, row in self.items()]

    def changes(self) -> list[tuple[V | None, V | None]]:
        """Return what this layer changes: each record as it is below, and as it is here; None where there is none."""
        below = self._below
        return [
            (None if below is None else below.get(key), None if row is _DELETED else row)
            for key, row in self._rows.items()
        ]

    def copy(self) -> Table[K, V]:
        """Return a table of its own with all records as they are now."""
        made: Table[K, V] = Table()
        made._rows = dict(self.items())
        made._carried = {key: columns for key in made._rows if (columns := self.carried(key))}
        return made

    def merge(self) -> None:
        """Put the changes of this layer into the table below it."""
        below = self._below
        if below is not None:
            for key, row in self._rows.items():
                if row is _DELETED:
                    below.remove(key)
                else:
                    below.put(key, row)
            for key, columns in self._carried.items():
                if below._below is None and not columns:
                    below._carried.pop(key, None)
                else:
                    below._carried[key] = columns


@dataclass(slots=True)
class State:
    """Everything that one tenant has, or one layer of changes to it."""

    kv: Table[str, Item] = field(default_factory=Table)
    vectors: Table[UUID, StoredVector] = field(default_factory=Table)
    spaces: Table[str, EmbeddingSpace] = field(default_factory=Table)
    memories: Table[UUID, StoredMemory] = field(default_factory=Table)
    memory_versions: Table[UUID, tuple[MemoryVersion, ...]] = field(default_factory=Table)
    predicates: Table[str, Cardinality] = field(default_factory=Table)
    entities: Table[int, Entity] = field(default_factory=Table)
    facts: Table[int, Fact] = field(default_factory=Table)
    api_keys: Table[UUID, StoredApiKey] = field(default_factory=Table)
    access_keys: Table[UUID, StoredAccessKey] = field(default_factory=Table)
    patterns: Table[tuple[str, str, str], Pattern] = field(default_factory=Table)
    agents: Table[str, StoredAgentState] = field(default_factory=Table)
    workflows: Table[str, StoredWorkflow] = field(default_factory=Table)
    events: Table[tuple[datetime, UUID], StoredEvent] = field(default_factory=Table)
    hook_executions: Table[UUID, StoredExecution] = field(default_factory=Table)
    idempotency: Table[str, UsedKey] = field(default_factory=Table)
    sessions: Table[UUID, SessionRecord] = field(default_factory=Table)
    artifact_numbers: Table[UUID, int] = field(default_factory=Table)
    artifacts: Table[str, ArtifactRecord] = field(default_factory=Table)
    contents: Table[str, StoredContent] = field(default_factory=Table)
    jobs: Table[UUID, StoredJob] = field(default_factory=Table)
    counters: Table[str, int] = field(default_factory=Table)
    moments: Table[str, datetime] = field(default_factory=Table)
    audit: Table[int, AuditEntry] = field(default_factory=Table)
    audit_heads: Table[str, AuditHead] = field(default_factory=Table)
    otherwise: Table[tuple[str, tuple[Any, ...]], Mapping[str, tuple[object, object]]] = field(default_factory=Table)
    """Of rows that came from another store: columns that would be told otherwise, as they would be told, and as they came."""
    transaction: Transaction | None = None
    tenant: TenantId = NO_TENANT

    def layer(self, transaction: Transaction | None = None) -> State:
        """Return an empty layer above this state."""
        tables = {name: Table(getattr(self, name)) for name in TABLES}
        return State(**tables, transaction=transaction or self.transaction, tenant=self.tenant)

    def copy(self) -> State:
        """Return a state of its own with everything as it is now."""
        return State(**{name: getattr(self, name).copy() for name in TABLES}, tenant=self.tenant)

    def merge(self) -> None:
        """Put the changes of this layer into the state below it."""
        for name in TABLES:
            getattr(self, name).merge()

    def recorded_instant(self, clock: Clock) -> datetime:
        """Return the recorded instant of the transaction that this layer belongs to: greatest(now, last + 1 µs)."""
        assert self.transaction is not None  # noqa: S101 - writes run in layers, and layers belong to a transaction
        if self.transaction.recorded is None:
            last = self.last_recorded()
            now = clock.now()
            self.transaction.recorded = now if last is None else max(now, last + MICROSECOND)
        self.moments.put("recorded", self.transaction.recorded)
        return self.transaction.recorded

    def last_recorded(self) -> datetime | None:
        """Return the latest recorded instant of this tenant."""
        return self.moments.get("recorded")

    def next_number(self, name: str) -> int:
        """Count up: the position of a version in an append-only table."""
        number = (self.counters.get(name) or 0) + 1
        self.counters.put(name, number)
        return number


TABLES = tuple(one.name for one in fields(State) if one.name not in ("transaction", "tenant"))


@dataclass(slots=True)
class Transaction:
    """What all layers of one transaction share. `recorded` is the instant that all of its graph rows carry.

    `waiting`, of one that has several calls: the id of the job that it keeps itself, for what others have waiting may be gone
    before it ends.
    """

    recorded: datetime | None = None
    waiting: UUID | None = None


@dataclass(slots=True, eq=False)
class _Waiting:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    granted: bool = False


class WriterLock:
    """A fair lock for tasks of several event loops and threads. First come, first served; nobody blocks a loop."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[_Waiting] = deque()

    async def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            Unavailable: it was not free within `WRITER_WAIT_MAX_S`.
        """
        with self._mutex:
            if not self._held:
                self._held = True
                return
            loop = asyncio.get_running_loop()
            waiting = _Waiting(loop, loop.create_future())
            self._waiting.append(waiting)
        try:
            async with asyncio.timeout(WRITER_WAIT_MAX_S):
                await waiting.future
        except (asyncio.CancelledError, TimeoutError) as exc:
            self._withdraw(waiting)
            if isinstance(exc, TimeoutError):
                raise Unavailable(
                    "Another transaction of this tenant has not ended.",
                    waited_s=WRITER_WAIT_MAX_S,
                    hint="Inside a transaction, write through its own storages.",
                ) from exc
            raise

    def release(self) -> None:
        """Hand the lock to whoever has waited longest, or free it."""
        with self._mutex:
            while self._waiting:
                waiting = self._waiting.popleft()
                try:
                    waiting.loop.call_soon_threadsafe(_wake, waiting.future)
                except RuntimeError:  # its event loop is closed, so nobody waits there any more
                    continue
                waiting.granted = True
                return
            self._held = False

    def _withdraw(self, waiting: _Waiting) -> None:
        with self._mutex:
            granted = waiting.granted
            if not granted:
                self._waiting.remove(waiting)
        if granted:  # it was handed over at the very moment at which the wait was given up
            self.release()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class TenantStore:
    """One tenant's committed state, the mutex that guards it, and the lock of its one writer, who alone may change the limits."""

    __slots__ = ("committed", "limits", "mutex", "writer")

    def __init__(self, tenant: TenantId) -> None:
        self.committed = State(tenant=tenant)
        self.limits = NO_LIMITS
        self.mutex = threading.Lock()
        self.writer = WriterLock()


class Unit(Protocol):
    """Where a storage reads and writes. `work` is plain code: nothing is awaited between its first and its last line."""

    async def read(self, work: Callable[[State], T]) -> T:
        """Run `work` over the state that the caller may see."""
        ...

    async def write(self, work: Callable[[State], T]) -> T:
        """Run `work` in a layer: all of its changes take effect when this returns, or none."""
        ...


class AutocommitUnit:
    """Every call is a transaction of its own."""

    def __init__(self, open_store: Callable[..., TenantStore]) -> None:
        self._open_store = open_store

    async def read(self, work: Callable[[State], T]) -> T:
        store = self._open_store(writing=False)
        with store.mutex:
            return work(store.committed)

    async def write(self, work: Callable[[State], T]) -> T:
        store = self._open_store(writing=True)
        await store.writer.acquire()
        try:
            layer = store.committed.layer(Transaction())
            result = work(layer)
            usage.count(layer, store.limits)
            with store.mutex:
                layer.merge()
            return result
        finally:
            store.writer.release()


class TransactionUnit:
    """The calls of one transaction. The writer's lock is held by whoever made this."""

    def __init__(self, store: TenantStore, clock: Clock, *, timeout_s: float, waiting: UUID) -> None:
        self._store = store
        self._clock = clock
        self._timeout_s = timeout_s
        self._deadline = clock.monotonic() + timeout_s
        self._transaction = Transaction(waiting=waiting)
        self._layer = store.committed.layer(self._transaction)
        self._mutex = threading.Lock()
        self._savepoints = Savepoints()
        self._open = True

    async def read(self, work: Callable[[State], T]) -> T:
        with self._mutex:
            self._require_open()
            return work(self._layer)

    async def write(self, work: Callable[[State], T]) -> T:
        with self._mutex:
            self._require_open()
            savepoint = self._layer.layer()
            recorded = self._transaction.recorded
            try:
                result = work(savepoint)
                usage.count(savepoint, self._store.limits)
            except BaseException:
                self._transaction.recorded = recorded
                raise
            savepoint.merge()
            return result

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Work in a layer above the transaction's for the length of a block."""
        with self._mutex:
            self._require_open()
            mark = self._savepoints.enter()
            outer, self._layer = self._layer, self._layer.layer()
        try:
            yield
        except BaseException:
            self._end_block(mark, outer, keep=False)
            raise
        self._end_block(mark, outer, keep=True)

    def _end_block(self, mark: object, outer: State, *, keep: bool) -> None:
        with self._mutex:
            try:
                self._savepoints.leave(mark)
            except TransactionError:
                self._open = False
                raise
            if keep:
                self._require_open()
                self._layer.merge()
            self._layer = outer

    def commit(self) -> None:
        """Make the changes visible to everybody.

        Raises:
            TransactionTimeout: the time limit has passed; nothing was changed.
        """
        with self._mutex:
            self._require_open()
            self._savepoints.require_none()
            self._open = False
            with self._store.mutex:
                self._layer.merge()

    def end(self) -> None:
        """Refuse every further use; what was not committed is dropped."""
        with self._mutex:
            self._open = False

    def timed_out(self) -> TransactionTimeout:
        """Return the error that says so."""
        return TransactionTimeout(timeout_s=self._timeout_s)

    def _require_open(self) -> None:
        if not self._open:
            raise TransactionClosed
        if self._clock.monotonic() > self._deadline:
            raise self.timed_out()
