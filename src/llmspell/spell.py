"""The handles that bind it all: `Spell` (a store), `Tenant` (everything one tenant has), `Transaction` (the same, atomic).

    async with llmspell.connect("sqlite:///agent.db") as spell:
        acme = spell.tenant("acme")
        await acme.memory.add("Ada moved to Zurich in May.")

Rule 1: the tenant is a handle: it cannot be forgotten in a call, and nothing ambient can change it.
Rule 2: a handle does not serve a tenant that is unknown, suspended or deleted (`gate`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmspell.admin import Admin, TenantRegistry
from llmspell.clock import Clock, SystemClock
from llmspell.errors import InvalidLimit
from llmspell.gate import Gate, guarded
from llmspell.ids import IdSource
from llmspell.memory.context import Context, ContextAssembler
from llmspell.memory.embedding import Embedding
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.vectors import VectorCollection
from llmspell.providers.configured import open_configured
from llmspell.providers.embedder import Embedder, open_embedder
from llmspell.settings import Settings, load_settings
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.jobs import Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.pages import Cursors
from llmspell.storage.open import open_backend
from llmspell.tenant import DEFAULT_TENANT, TenantId, tenant_id

if TYPE_CHECKING:
    from llmspell.ops.worker import Handler, Worker

HANDLES_MAX = 4_096
"""Handles of tenants that are kept, least recently used first out: each remembers that its tenant is active."""
TRANSACTION_TIMEOUT_MAX_S = 3_600.0


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

    def worker(
        self,
        handlers: Mapping[str, Handler] | None = None,
        *,
        builtin: bool = True,
        tenants: Sequence[str] | None = None,
        name: str | None = None,
        concurrency: int | None = None,
    ) -> Worker:
        """Return a worker: `await worker.run(until_idle=True)`, or `async with spell.worker(…)` to have one beside other work.

        Args:
            handlers: what runs jobs of your own kinds; `async def handler(context) -> dict | None`, which must bear being
                repeated. One for a kind of llmspell's own replaces it.
            builtin: also run llmspell's own jobs: embed, expire, promote.
            tenants: serve these alone. Serving all of them needs the operator's role where the database isolates tenants.
            name: as it is shown beside the jobs that it runs (default: host and process).
            concurrency: jobs at once (default: the settings').

        Raises:
            InvalidInput: there is nothing to run.
        """
        from llmspell import chores
        from llmspell.ops.worker import Worker, WorkerOptions

        settings = self.settings.jobs
        named = None if tenants is None else tuple(tenant_id(tenant) for tenant in tenants)
        own = chores.handlers(self, self._backend, self._clock) if builtin else {}
        return Worker(
            self._backend.job_queue,
            {**own, **(handlers or {})},
            name=name,
            clock=self._clock,
            before_looking=chores.Timetable(self._backend, settings, self._clock, named) if builtin else None,
            options=WorkerOptions(
                concurrency=settings.concurrency if concurrency is None else concurrency,
                lease_s=settings.lease_s,
                poll_s=settings.poll_s,
                time_limit_s=settings.time_limit_s,
                grace_s=settings.grace_s,
                tenants=named,
            ),
        )

    def _gate(self, tenant: TenantId) -> Gate:
        automatic = self.settings.tenancy.auto_create_tenants
        allowed = self._backend.auto_create_tenants if automatic is None else automatic
        return Gate(self._backend.tenants, tenant, auto_create=allowed, clock=self._clock)

    def _memory(self, storages: Storages, tenant: TenantId, embedding: Embedding, *, in_transaction: bool) -> Memory:
        return Memory(
            storages.memories,
            embedding=embedding,
            clock=self._clock,
            ids=self._ids,
            cursors=Cursors(tenant, self._backend.cursor_key),
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
        self.jobs: Jobs = storages.jobs
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
        self.jobs: Jobs = storages.jobs
        self.vectors = VectorCollection(storages.vectors)
        self.graph = KnowledgeGraph(storages.graph)
        self.memory = memory
