"""The handles that bind it all: `Spell` (a store), `Tenant` (everything one tenant has), `Transaction` (the same, atomic).

    async with llmspell.connect("sqlite:///agent.db") as spell:
        acme = spell.tenant("acme")
        await acme.memory.add("Ada moved to Zurich in May.")

Rule 1: the tenant is a handle: it cannot be forgotten in a call, and nothing ambient can change it.
Rule 2: a handle does not serve a tenant that is unknown, suspended or deleted; what it learned of that is at most a second old.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date, datetime
from types import TracebackType
from typing import Any, TypeVar, cast

from llmspell.clock import Clock, SystemClock
from llmspell.errors import InvalidLimit, TenantInactive, TenantUnknown
from llmspell.ids import IdSource
from llmspell.memory.context import Context, ContextAssembler
from llmspell.memory.embedding import Embedding
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.vectors import VectorCollection
from llmspell.providers.configured import open_configured
from llmspell.providers.embedder import Embedder, open_embedder
from llmspell.settings import Settings, load_settings
from llmspell.storage.contracts.backend import Backend, MigrationStatus, PoolStatus, Storages
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.tenants import TenantRecord, Tenants
from llmspell.storage.open import open_backend
from llmspell.tenant import DEFAULT_TENANT, TenantId, tenant_id

GATE_TTL_S = 1.0
"""How old the knowledge that a tenant is active may be: a suspension takes effect within it."""
HANDLES_MAX = 4_096
"""Handles of tenants that are kept, least recently used first out: each remembers that its tenant is active."""
TRANSACTION_TIMEOUT_MAX_S = 3_600.0
_READS = frozenset({
    "get", "exists", "list_keys", "get_batch", "search", "stats", "list", "list_paginated", "count", "history", "adjacent",
    "pending", "unprocessed_sessions", "predicates", "get_entity", "list_entities", "facts", "neighbours", "traverse", "paths",
    "mentioned", "entity_history",
})  # fmt: skip
"""Storage methods that do not bring a tenant into being."""
T = TypeVar("T")


def connect(
    url: str | None = None,
    *,
    settings: Settings | None = None,
    embedder: Embedder | str | None = None,
    clock: Clock | None = None,
) -> Connecting:
    """Open a store: `async with connect(url) as spell`, or `spell = await connect(url)` and `await spell.close()`.

    Args:
        url: memory://, sqlite:///path or postgresql://…; without one, the store of the settings.
        settings: without them, `load_settings()` reads the files and variables of this machine.
        embedder: an `Embedder`, or a spec such as "local", "openai:text-embedding-3-small" or "hashing"; without one, the
            embedder of the settings. It is opened when it is first needed.
        clock: the system's, unless given.

    Raises (when entered):
        InvalidUrl: the URL cannot be read.
        ConfigError, StorageError: the store cannot be opened.
    """
    return Connecting(url, settings, embedder, clock)


class Connecting:
    """A store about to be opened."""

    def __init__(
        self, url: str | None, settings: Settings | None, embedder: Embedder | str | None, clock: Clock | None
    ) -> None:
        self._arguments = (url, settings, embedder, clock)
        self._spell: Spell | None = None

    async def _open(self) -> Spell:
        url, settings, embedder, given_clock = self._arguments
        chosen = load_settings() if settings is None else settings
        clock = given_clock or SystemClock()
        ids = IdSource(clock)
        backend = await open_backend(url or chosen.storage.url, settings=chosen, clock=clock, ids=ids)
        return Spell(backend, settings=chosen, embedding=_embedding(embedder, chosen, clock), clock=clock, ids=ids)

    def __await__(self) -> Generator[Any, None, Spell]:
        return self._open().__await__()

    async def __aenter__(self) -> Spell:
        self._spell = await self._open()
        return self._spell

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spell is not None:
            await self._spell.close()


def _embedding(embedder: Embedder | str | None, settings: Settings, clock: Clock) -> Embedding:
    if embedder is None:
        return Embedding(lambda: open_configured(settings.embedding, clock=clock))
    if isinstance(embedder, str):
        return Embedding(lambda: _required(open_embedder(embedder), embedder))
    return Embedding(lambda: embedder)


def _required(embedder: Embedder | None, spec: str) -> Embedder:
    if embedder is None:
        from llmspell.errors import InvalidSetting

        raise InvalidSetting("Searching by meaning needs an embedder.", embedder=spec)
    return embedder


class Spell:
    """An open store. Made by `connect`; safe to share between tasks."""

    def __init__(
        self, backend: Backend, *, settings: Settings, embedding: Embedding, clock: Clock, ids: IdSource
    ) -> None:
        self._backend = backend
        self._embedding = embedding
        self._clock = clock
        self._ids = ids
        self._cursor_key: bytes | None = None
        self._handles: OrderedDict[TenantId, Tenant] = OrderedDict()
        self.settings = settings
        self.tenants = TenantRegistry(backend.tenants)
        self.admin = Admin(backend)

    @property
    def backend(self) -> BackendType:
        """Which backend this is."""
        return self._backend.type

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do."""
        return self._backend.capabilities

    def tenant(self, id: str = DEFAULT_TENANT) -> Tenant:
        """Return the handle of a tenant; without an id, of the tenant "default".

        Raises:
            InvalidTenant: the id is empty, longer than 128 bytes, or has control characters.
        """
        checked = tenant_id(id)
        handle = self._handles.pop(checked, None) or Tenant(self, self._backend, checked)
        self._handles[checked] = handle
        while len(self._handles) > HANDLES_MAX:
            self._handles.popitem(last=False)
        return handle

    async def close(self) -> None:
        """Finish pending work and release everything. Closing twice is allowed."""
        await self._embedding.aclose()
        await self._backend.close()

    async def _key_of_cursors(self) -> bytes:
        if self._cursor_key is None:
            self._cursor_key = await self._backend.cursor_key()
        return self._cursor_key

    def _gate(self, tenant: TenantId) -> Gate:
        automatic = self.settings.tenancy.auto_create_tenants
        allowed = self._backend.auto_create_tenants if automatic is None else automatic
        return Gate(self._backend.tenants, tenant, auto_create=allowed, clock=self._clock)

    def _memory(self, storages: Storages, tenant: TenantId, embedding: Embedding, *, in_transaction: bool) -> Memory:
        return Memory(
            storages.memories,
            tenant=tenant,
            embedding=embedding,
            clock=self._clock,
            ids=self._ids,
            cursor_key=self._key_of_cursors,
            in_transaction=in_transaction,
        )


class Tenant:
    """Everything one tenant has: `memory`, `graph`, `vectors`, `kv`, `context(…)`, `transaction()`."""

    def __init__(self, spell: Spell, backend: Backend, id: TenantId) -> None:
        self.id = id
        self._spell = spell
        self._backend = backend
        self._gate = spell._gate(id)
        storages = guarded(backend.storages(id), self._gate)
        self.kv: KV = storages.kv
        self.vectors = VectorCollection(storages.vectors)
        self.graph = KnowledgeGraph(storages.graph)
        self._embedding = spell._embedding.for_tenant(id)
        self.memory = spell._memory(storages, id, self._embedding, in_transaction=False)
        self._context = ContextAssembler(self.memory, storages.memories, storages.graph, self._embedding)

    async def context(
        self,
        query: str,
        *,
        max_tokens: int | None = None,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        as_of: datetime | date | str | None = None,
        known_at: datetime | date | str | None = None,
    ) -> Context:
        """Assemble what an agent should read before it answers `query`, within `max_tokens` (default: the settings').

        Facts about the entities that the question names (as of `as_of`, as known at `known_at`), then memories in the order of
        time. Every item says why it is there, and every rejected one why it is not. `session` and `filters` restrict memories.

        Raises:
            InvalidInput: names the argument.
        """
        budget = self._spell.settings.context.max_tokens if max_tokens is None else max_tokens
        return await self._context.assemble(
            query, max_tokens=budget, session=session, filters=filters, as_of=as_of, known_at=known_at
        )

    def transaction(self, *, timeout_s: float | None = None) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction: everything written through it is kept together when the block ends, or nothing is.

        It ends after `timeout_s` (default: the settings', 30 s) whatever happens. Nothing is embedded inside: memories take a
        ready vector, or their embedding is pending until `memory.embed_pending()`.

        Raises:
            Conflict: another transaction was first; retry the block.
            TransactionTimeout: it outlived its limit and was rolled back.
            OutcomeUnknown: the answer to the commit was lost.
        """
        limit = self._spell.settings.transaction.timeout_s if timeout_s is None else timeout_s
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit <= TRANSACTION_TIMEOUT_MAX_S:
            raise InvalidLimit("timeout_s", "must be a number of seconds above 0, at most 3,600", given=limit)
        return self._transaction(limit)

    @asynccontextmanager
    async def _transaction(self, timeout_s: float) -> AsyncIterator[Transaction]:
        await self._gate.enter(writes=True)
        async with self._backend.transaction(self.id, timeout_s=timeout_s) as storages:
            memory = self._spell._memory(storages, self.id, self._embedding, in_transaction=True)
            yield Transaction(storages, memory)


class Transaction:
    """One atomic unit of a tenant: the same concerns as on `Tenant`."""

    def __init__(self, storages: Storages, memory: Memory) -> None:
        self.kv: KV = storages.kv
        self.vectors = VectorCollection(storages.vectors)
        self.graph = KnowledgeGraph(storages.graph)
        self.memory = memory


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


class Gate:
    """Lets the calls of one tenant through while it is active."""

    def __init__(self, tenants: Tenants, tenant: TenantId, *, auto_create: bool, clock: Clock) -> None:
        self._tenants = tenants
        self._tenant = tenant
        self._auto_create = auto_create
        self._clock = clock
        self._open_until = float("-inf")

    async def enter(self, *, writes: bool) -> None:
        """Pass, or refuse; a write creates the tenant where that is allowed.

        Raises:
            TenantUnknown: it is not registered.
            TenantInactive: it is suspended or deleted.
        """
        if self._clock.monotonic() < self._open_until:
            return
        record = await self._tenants.get(self._tenant)
        if record is None and not self._auto_create:
            raise TenantUnknown(tenant=self._tenant)
        if record is None and not writes:
            return
        if record is None:
            record = await self._tenants.create(self._tenant, exist_ok=True)
        if record.status != "active":
            raise TenantInactive(tenant=self._tenant, status=record.status)
        self._open_until = self._clock.monotonic() + GATE_TTL_S


class _Guarded:
    """A storage whose every call passes the gate first."""

    def __init__(self, storage: object, gate: Gate) -> None:
        self._storage = storage
        self._enter = gate.enter

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if not inspect.iscoroutinefunction(method):
            return method
        guarded_method = _through(self._enter, method, writes=name not in _READS)
        setattr(self, name, guarded_method)  # the next look-up finds it without coming here
        return guarded_method


def _through(
    enter: Callable[..., Awaitable[None]], method: Callable[..., Awaitable[T]], *, writes: bool
) -> Callable[..., Awaitable[T]]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> T:
        await enter(writes=writes)
        return await method(*args, **kwargs)

    return call


def guarded(storages: Storages, gate: Gate) -> Storages:
    """Return storages whose calls pass the gate."""
    return Storages(
        **{name: cast("Any", _Guarded(getattr(storages, name), gate)) for name in storages.__struct_fields__}
    )
