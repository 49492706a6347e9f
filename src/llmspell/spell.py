"""The handles that bind it all: `Spell` (a store), `Tenant` (everything one tenant has), `Transaction` (the same, atomic).

    async with llmspell.connect("sqlite:///agent.db") as spell:
        acme = spell.tenant("acme")
        await acme.memory.add("Ada moved to Zurich in May.")

Rule 1: the tenant is a handle: it cannot be forgotten in a call, and nothing ambient can change it.
Rule 2: a handle does not serve a tenant that is unknown, suspended or deleted (`gate`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from llmspell.admin import Admin, NewTenants, TenantRegistry
from llmspell.clock import Clock, SystemClock
from llmspell.errors import InvalidInput, InvalidLimit, LlmspellError
from llmspell.gate import Gate, OpenHere, guarded
from llmspell.ids import IdSource
from llmspell.memory.context import Context, ContextAssembler
from llmspell.memory.embedding import Embedding
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.state import Atomically, ScopedState, Sealer
from llmspell.memory.vectors import VectorCollection
from llmspell.once import Keyed, awaited, keyed_work, verbs_of
from llmspell.providers.configured import open_configured
from llmspell.providers.embedder import Embedder, open_embedder
from llmspell.read_stream import ReadStream
from llmspell.retries import Tries, repeated
from llmspell.security.access_keys import HashedAccessKeys, Principal
from llmspell.security.api_keys import SealedApiKeys
from llmspell.security.bound import StoreSecrets
from llmspell.settings import Secret, Settings, load_settings
from llmspell.storage.contracts.agent_state import AgentStates
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.backend import Backend, OpenTransaction, Storages
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.event_log import EventLog
from llmspell.storage.contracts.hook_history import HookHistory
from llmspell.storage.contracts.idempotency import require_idempotency_key
from llmspell.storage.contracts.jobs import Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.pages import Cursors
from llmspell.storage.contracts.procedures import Procedures
from llmspell.storage.contracts.sessions import Sessions
from llmspell.storage.contracts.tenants import QuotaName, TenantUsage
from llmspell.storage.contracts.tenants_checks import require_amount, require_quota_name, require_room
from llmspell.storage.contracts.workflow_state import WorkflowStates
from llmspell.storage.open import open_backend
from llmspell.tenant import DEFAULT_TENANT, TenantId, tenant_id

if TYPE_CHECKING:
    from llmspell.ops.worker import Handler, Worker

HANDLES_MAX = 4_096
"""Handles of tenants that are kept, least recently used first out: each remembers that its tenant is active."""
TRANSACTION_TIMEOUT_MAX_S = 3_600.0
TransactionOutcome: TypeAlias = Literal["open", "committed", "rolled_back", "unknown"]
T = TypeVar("T")
S = TypeVar("S", bound=Storages)


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
        self._new_tenants = NewTenants.of(settings)
        self.tenants = TenantRegistry(backend.tenants, defaults=self._new_tenants, changed=self._changed)
        self._secrets = StoreSecrets(settings.security, clock, ids)
        self._sealer: Sealer | None = self._secrets.sealer(required=settings.state.encrypt)
        self._authenticator = self._secrets.authenticator(lambda tenant: backend.storages(tenant).access_keys)
        self.admin = Admin(backend, settings, clock)
        noted = settings.security.audit_enabled and settings.security.audit_reads
        self._reads = ReadStream(backend, clock) if noted else None

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

    async def authenticate(self, key: str | Secret) -> Principal | None:
        """Return whom an access key stands for, in its tenant; None for every key that is not accepted, for whatever reason.

        Unknown, foreign, expired and revoked keys, and those of a suspended tenant, take the same work and give the same answer.
        """
        return await self._authenticator.authenticate(key)

    async def close(self) -> None:
        """Finish pending work and release everything. Closing twice is allowed."""
        async with AsyncExitStack() as closing:  # backwards, and each whatever became of those before
            closing.push_async_callback(self._backend.close)
            closing.push_async_callback(self._embedding.aclose)
            if self._reads is not None:
                closing.push_async_callback(self._reads.close)
            closing.push_async_callback(self._authenticator.settle)

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
                repeated; a plain function runs on a thread. `spell.tenant(context.tenant)` is whose job it is. One for a kind of
                llmspell's own replaces it.
            builtin: also run llmspell's own jobs: embed, expire, promote, back up.
            tenants: serve these alone. Serving all of them needs the operator's role where the database isolates tenants.
            name: as it is shown beside the jobs that it runs (default: host and process).
            concurrency: jobs at once (default: the settings').

        Raises:
            InvalidInput: there is nothing to run, or a handler is no function.
            TenantUnknown (when it runs): one of `tenants` is not registered, where no write would create it.
        """
        from llmspell import chores
        from llmspell.ops.worker import Worker, WorkerOptions

        settings = self.settings.jobs
        if isinstance(tenants, str):
            raise InvalidInput("tenants", "must be a list of ids", given=tenants, hint="Put brackets around it.")
        named = None if tenants is None else tuple(tenant_id(tenant) for tenant in tenants)
        if handlers is not None and not isinstance(handlers, Mapping):
            raise InvalidInput("handlers", "must be kinds of jobs, each with its function", given=handlers)
        own = chores.handlers(self, self._backend, self._clock) if builtin else {}
        return Worker(
            self._backend.job_queue,
            {**own, **(handlers or {})},
            name=name,
            clock=self._clock,
            before_looking=chores.Timetable(self._backend, self.settings, self._clock, named, builtin=builtin),
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
        return Gate(
            self._backend.tenants,
            tenant,
            auto_create=allowed,
            clock=self._clock,
            quotas=self._new_tenants.quotas,
            alone=Capability.CONCURRENT_WRITERS not in self._backend.capabilities,
        )

    def _watched(self, storages: S, tenant: TenantId) -> S:
        """Note reads in the audit log, where the settings ask for that."""
        return storages if self._reads is None else self._reads.watched(storages, tenant)

    def _changed(self, tenant: TenantId) -> None:
        """Let a change of a tenant take effect at once on its handle; a handle elsewhere asks within a second."""
        if tenant in self._handles:
            self._handles[tenant]._gate.forget()

    def _memory(
        self,
        storages: Storages,
        tenant: TenantId,
        embedding: Embedding,
        *,
        ahead: Mapping[str, tuple[bytes, ...]] | None = None,
    ) -> Memory:
        """`ahead`: inside of a transaction, what was embedded before it."""
        return Memory(
            storages.memories,
            embedding=embedding,
            clock=self._clock,
            ids=self._ids,
            cursors=Cursors(tenant, self._backend.cursor_key),
            in_transaction=ahead is not None,
            ahead=ahead,
        )

    def _state(self, storages: Storages, tenant: TenantId, *, atomically: Atomically | None = None) -> ScopedState:
        """`atomically` is None inside of a transaction."""
        seals = self.settings.state.encrypt
        return ScopedState(storages.kv, tenant, atomically=atomically, sealer=self._sealer, seals=seals)


class Concerns:
    """What one tenant has, by concern: on its handle, inside of a transaction, and under an idempotency key."""

    kv: KV
    jobs: Jobs
    sessions: Sessions
    artifacts: Artifacts
    audit: Audit
    state: ScopedState
    procedures: Procedures
    agent_state: AgentStates
    workflow_state: WorkflowStates
    vectors: VectorCollection
    graph: KnowledgeGraph
    event_log: EventLog
    hook_history: HookHistory
    memory: Memory

    def _bind(self, storages: Storages, memory: Memory, state: ScopedState) -> None:
        self.kv = storages.kv
        self.jobs = storages.jobs
        self.sessions = storages.sessions
        self.artifacts = storages.artifacts
        self.audit = storages.audit
        self.state = state
        self.procedures = storages.procedures
        self.agent_state = storages.agent_state
        self.workflow_state = storages.workflow_state
        self.vectors = VectorCollection(storages.vectors)
        self.graph = KnowledgeGraph(storages.graph)
        self.event_log = storages.event_log
        self.hook_history = storages.hook_history
        self.memory = memory


class Keys:
    """The keys of a tenant. They are no `Concerns`: a call of theirs is not recorded to be repeated, for it has a secret in it."""

    api_keys: SealedApiKeys
    access_keys: HashedAccessKeys

    def _bind_keys(self, storages: Storages, secrets: StoreSecrets, tenant: TenantId) -> None:
        self.api_keys = secrets.api_keys(storages.api_keys, tenant)
        self.access_keys = secrets.access_keys(storages.access_keys, tenant)


class Tenant(Concerns, Keys):
    """Everything one tenant has: its concerns, `context(…)`, `transaction()`, `run(…)` and `once(…)`."""

    def __init__(self, spell: Spell, backend: Backend, id: TenantId) -> None:
        self.id = id
        self._spell = spell
        self._backend = backend
        self._gate = spell._gate(id)
        self._storages = storages = guarded(spell._watched(backend.storages(id), id), self._gate)
        self._embedding = spell._embedding.for_tenant(id, self._gate)
        state = spell._state(storages, id, atomically=self._on_state)
        self._bind(storages, spell._memory(storages, id, self._embedding), state)
        self._bind_keys(storages, spell._secrets, id)
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

    async def usage(self) -> TenantUsage:
        """Return what the tenant uses of its quotas, and what it may use."""
        return await self._gate.usage()

    async def check_quota(self, op: QuotaName, amount: int = 1) -> TenantUsage:
        """Return the use of all quotas when so much more of `op` would be accepted now (TEN-01). It reserves nothing.

        Every write counts what it adds in its own transaction, and is refused there; ask before work whose result could not be
        kept.

        Raises:
            InvalidInput: `op` is not "documents", "storage_bytes", "vectors" or "embeddings", or `amount` is no whole number.
            QuotaExceeded: it would not be accepted.
        """
        quota = require_quota_name(op)
        require_amount(amount, field="amount")
        usage = await self._gate.usage()
        require_room(usage, quota, amount)
        return usage

    async def record_usage(self, op: Literal["embeddings"], amount: int = 1) -> None:
        """Count texts that you have embedded elsewhere, before you keep their vectors (TEN-01), where embeddings are limited.

        Everything else counts itself, in the transaction that writes it.

        Raises:
            InvalidInput: `op` is not "embeddings", or `amount` is no whole number.
            QuotaExceeded: they would be more than the tenant may have embedded today; nothing was counted.
        """
        if op != "embeddings":
            raise InvalidInput("op", 'must be "embeddings"', given=op, hint="All else is counted where it is written.")
        await self._gate.record_embeddings(require_amount(amount, field="amount"))

    def transaction(self, *, timeout_s: float | None = None) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction: everything written through it is kept together when the block ends, or nothing is.

        It ends after `timeout_s` (default: the settings', 30 s) whatever happens. Nothing is embedded inside: memories take a
        ready vector, or their embedding is pending until `memory.embed_pending()`.

        Raises:
            Conflict: another transaction was first; retry the block, or hand it to `run`.
            TransactionTimeout: it outlived its limit and was rolled back.
            OutcomeUnknown: the answer to the commit was lost.
        """
        return self._transaction(self._limit(timeout_s), None)

    async def run(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        attempts: int | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> T:
        """Run `work(tx)` in a transaction, again from the beginning while another one was first, and return what it returns.

        `work` may run several times, so it does nothing but use `tx` and compute. There are at most `attempts` tries (default:
        the settings', 100), with a random pause of up to 0.5 s before each but the first; none begins later than 30 s after
        the first one failed. The call thus ends within twice `timeout_s` and 30 s, 90 s by default, and what it waits for
        connections.

        With an `idempotency_key` it has its effect at most once, whoever calls with that key: the result is recorded with it for
        a day and returned to every later call, as the type that `work` is annotated to return (plain data without an
        annotation); a commit whose answer was lost is then found out by asking again.

        Raises:
            Conflict: another transaction was first, at the last try too.
            IdempotencyConflict: the key was used for another call.
            TransactionTimeout: a try outlived its limit and was rolled back.
            OutcomeUnknown: the answer to the commit was lost, and there is no key that would make a repetition safe.
        """
        tries, keyed = self._plan(work, attempts, idempotency_key)
        work, limit = awaited(work), self._limit(timeout_s)

        async def once() -> T:
            async with self._transaction(limit, None) as tx:
                return await work(tx) if keyed is None else await tx._once(keyed, work, tries)

        return await repeated(once, tries)

    def _plan(
        self, work: Callable[..., Any], attempts: int | None, idempotency_key: str | None
    ) -> tuple[Tries, Keyed | None]:
        """Return the tries that there may be, and the call under its key."""
        if not callable(work):
            raise InvalidInput("work", "must be a function of one argument, the transaction", given=work)
        chosen = self._spell.settings.transaction
        keyed = None
        if idempotency_key is not None:
            keyed = keyed_work(work, idempotency_key, ttl_s=chosen.idempotency_ttl_s)
        return self._tries(attempts, keyed=keyed is not None), keyed

    def _tries(self, attempts: int | None, *, keyed: bool) -> Tries:
        chosen = self._spell.settings.transaction.attempts if attempts is None else attempts
        return Tries(chosen, keyed=keyed, monotonic=self._spell._clock.monotonic)

    def once(self, idempotency_key: str) -> Once:
        """Return the tenant's verbs with the promise that the call has its effect at most once.

        A call that is sent again under its key, also by another process, does nothing and returns the result of the first, for a
        day. Give every call a key of its own; one that is sent with other arguments is refused.

        Each call is repeated as by `run`, with the limits of the settings: it ends within 90 s by default.

        Raises:
            InvalidKey: the key is not a text of 1 to 255 bytes.
        """
        return Once(self, require_idempotency_key(idempotency_key))

    async def _run_keyed(
        self, keyed: Keyed, work: Callable[[Transaction], Awaitable[T]], *, arguments: Mapping[str, Any]
    ) -> T:
        """Run a keyed call. Memories are embedded before the transaction begins, unless the answer is there already."""
        ahead: Mapping[str, tuple[bytes, ...]] = {}
        concern, _, verb = keyed.operation.partition(".")
        if concern == "memory":
            answer = await keyed.find(self._storages.idempotency)
            if answer is not None:
                return cast("T", answer.result)
            ahead = await self.memory._ahead_of(verb, arguments)
        limit, tries = self._limit(None), self._tries(None, keyed=True)

        async def once() -> T:
            async with self._transaction(limit, ahead) as tx:
                return await tx._once(keyed, work, tries)

        return await repeated(once, tries)

    async def _on_state(self, work: Callable[[ScopedState], Awaitable[T]]) -> T:
        """Run a change of scoped state in a transaction of its own."""
        return await self.run(lambda tx: work(tx.state))

    def _limit(self, timeout_s: float | None) -> float:
        limit = self._spell.settings.transaction.timeout_s if timeout_s is None else timeout_s
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit <= TRANSACTION_TIMEOUT_MAX_S:
            raise InvalidLimit("timeout_s", "must be a number of seconds above 0, at most 3,600", given=limit)
        return limit

    @asynccontextmanager
    async def _transaction(
        self, timeout_s: float, ahead: Mapping[str, tuple[bytes, ...]] | None
    ) -> AsyncIterator[Transaction]:
        await self._gate.enter(writes=True)
        tx: Transaction | None = None
        try:
            async with self._backend.transaction(self.id, timeout_s=timeout_s) as opened:
                storages = self._spell._watched(opened, self.id)
                memory = self._spell._memory(storages, self.id, self._embedding, ahead=ahead or {})
                tx = Transaction(storages, memory, self._spell._state(storages, self.id))
                tx._bind_keys(storages, self._spell._secrets, self.id)
                with OpenHere(self._gate):
                    yield tx
                tx._outcome = "unknown"  # from here on the commit may be under way
        except BaseException as error:
            if tx is not None:
                tx._end(error)
            raise
        tx._outcome = "committed"


class Transaction(Concerns, Keys):
    """One atomic unit of a tenant: the same concerns as on `Tenant`."""

    def __init__(self, storages: OpenTransaction, memory: Memory, state: ScopedState) -> None:
        self._storages = storages
        self._outcome: TransactionOutcome = "open"
        self._bind(storages, memory, state)

    @property
    def outcome(self) -> TransactionOutcome:
        """What became of it: "open" inside of its block, then "committed", "rolled_back", or "unknown".

        It is unknown when the commit was under way and its answer was lost or not waited for: by a broken connection, a
        cancellation, or a time limit around the block. The transaction then happened completely or not at all.
        """
        return self._outcome

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Open a block of which nothing stays when an exception leaves it, while the transaction goes on. Blocks nest.

        Raises:
            TransactionError: a block was left while one that began inside of it was open; the transaction is rolled back.
        """
        return self._storages.savepoint()

    async def _once(self, keyed: Keyed, work: Callable[[Transaction], Awaitable[T]], tries: Tries) -> T:
        keys = self._storages.idempotency
        answer = await keyed.claim(keys)
        if answer is not None:
            return cast("T", answer.result)
        tries.key_was_free()
        return cast("T", await keyed.record(keys, await work(self)))

    def _end(self, error: BaseException) -> None:
        """Note how it ended. What the block raised rolled it back; of the commit an error of ours knows, and nothing else does."""
        if self._outcome == "open":
            self._outcome = "rolled_back"
        elif isinstance(error, LlmspellError):
            self._outcome = "unknown" if error.outcome == "unknown" else "rolled_back"
        else:
            error.add_note("The commit was under way: the transaction happened completely or not at all.")


class Once(Concerns):
    """A tenant's verbs under one idempotency key: `tenant.once(key)`."""

    def __init__(self, tenant: Tenant, key: str) -> None:
        ttl_s = tenant._spell.settings.transaction.idempotency_ttl_s
        for name, verbs in verbs_of(Concerns, key, ttl_s=ttl_s, run=tenant._run_keyed).items():
            setattr(self, name, verbs)
