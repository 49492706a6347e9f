"""The synchronous twin: the same handles and verbs, for code that does not run in an event loop.

    with llmspell.connect_blocking("memory://") as spell:
        acme = spell.tenant("acme")
        acme.memory.add("Ada moved to Zurich in May.")

One thread with one event loop, the portal, works for each open store; every other thread hands it calls and waits.

Not here: what the verbs do. The methods of a twin are made from the async class that it names; `blocking.pyi`, which
`scripts/generate_blocking_stub.py` writes, tells type checkers what they are.

Rule 1: the async objects are touched by the portal alone, so a twin may be shared between threads.
Rule 2: a call ends after its work has: an interrupt cancels the work, waits for it to stop, and then goes on its way. What had
reached the store by then may be kept, whole.
Rule 3: a transaction is entered, used and left in one task, as time limits and cancellation of asyncio require.
Rule 4: what would wait for itself is refused: a blocking call from the portal (an embedder, a `progress` callback).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, TypeVar, cast, get_type_hints

from llmspell.admin import Admin, JobAdmin, TenantRegistry
from llmspell.clock import Clock
from llmspell.errors import InvalidInput, LlmspellError
from llmspell.gate import OpenHere
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.state import ScopedState
from llmspell.memory.vectors import VectorCollection
from llmspell.once import Keyed
from llmspell.ops.worker import Handler, Worker
from llmspell.portal import Portal, Runner, Unit, nothing
from llmspell.providers.embedder import Embedder
from llmspell.retries import Tries
from llmspell.security.access_keys import HashedAccessKeys
from llmspell.security.api_keys import SealedApiKeys
from llmspell.settings import Settings
from llmspell.spell import Concerns, Keys, Once, Spell, Tenant, Transaction, connect
from llmspell.storage.contracts.agent_state import AgentStates
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.event_log import EventLog
from llmspell.storage.contracts.hook_history import HookHistory
from llmspell.storage.contracts.jobs import Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.procedures import Procedures
from llmspell.storage.contracts.sessions import Sessions
from llmspell.storage.contracts.workflow_state import WorkflowStates
from llmspell.tenant import DEFAULT_TENANT

T = TypeVar("T")


def connect_blocking(
    url: str | None = None,
    *,
    settings: Settings | None = None,
    embedder: Embedder | str | None = None,
    clock: Clock | None = None,
) -> BlockingSpell:
    """Open a store: `with connect_blocking(url) as spell`, or `spell = connect_blocking(url)` and `spell.close()`.

    The arguments are those of `connect`. An interrupt (Ctrl-C) cancels the call that waits and leaves no half of a write.

    Raises:
        InvalidUrl: the URL cannot be read.
        ConfigError, StorageError: the store cannot be opened.
    """
    portal = Portal()

    async def opened() -> Spell:
        return await connect(url, settings=settings, embedder=embedder, clock=clock)

    try:
        spell = portal.run(opened)
    except BaseException:
        portal.close(nothing)
        raise
    portal.at_exit = spell.close
    return BlockingSpell(spell, portal)


class _Twin:
    """An async object seen from outside of its event loop. `of=X` gives it every public method and property of X."""

    def __init__(self, inner: Any, runner: Runner) -> None:
        self._inner = inner
        self._runner = runner

    def __init_subclass__(cls, *, of: type) -> None:
        cls.__doc__ = of.__doc__
        for name, member in vars(of).items():
            if name.startswith("_"):
                continue
            own = vars(cls).get(name)
            if own is not None:
                own.__doc__ = own.__doc__ or member.__doc__
            elif isinstance(member, property):
                setattr(cls, name, property(_property(name), doc=member.__doc__))
            elif inspect.isfunction(member) and str(member.__annotations__.get("return")).startswith("AsyncIterator["):
                setattr(cls, name, _stream(member, f"{cls.__qualname__}.{name}"))
            elif inspect.isfunction(member):
                setattr(cls, name, _method(member, f"{cls.__qualname__}.{name}"))


def _property(name: str) -> Callable[[_Twin], object]:
    def read(self: _Twin) -> object:
        return getattr(self._inner, name)

    return read


def _method(method: Callable[..., Any], qualified: str) -> Callable[..., Any]:
    name = method.__name__

    @functools.wraps(method)
    def call(self: _Twin, *args: Any, **kwargs: Any) -> Any:
        async def start() -> Any:
            result = getattr(self._inner, name)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(start)

    call.__qualname__ = qualified
    return call


def _stream(method: Callable[..., Any], qualified: str) -> Callable[..., Any]:
    """A method that yields: each item is a call of its own, so nothing waits in the portal between two of them."""
    name = method.__name__

    @functools.wraps(method)
    def stream(self: _Twin, *args: Any, **kwargs: Any) -> Iterator[Any]:
        async def start() -> AsyncIterator[Any]:
            return aiter(getattr(self._inner, name)(*args, **kwargs))

        items = self._runner.run(start)
        ended = False
        try:
            while (item := self._runner.run(lambda: _following(items))) is not _END:
                yield item
            ended = True
        except LlmspellError:
            ended = True
            raise
        finally:
            if not ended:  # the caller has seen enough
                self._runner.run(lambda: _closed(items))

    stream.__qualname__ = qualified
    return stream


_END = object()


async def _following(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


async def _closed(items: Any) -> None:
    await items.aclose()


class BlockingKV(_Twin, of=KV):
    pass


class BlockingAudit(_Twin, of=Audit):
    pass


class BlockingApiKeys(_Twin, of=SealedApiKeys):
    pass


class BlockingAccessKeys(_Twin, of=HashedAccessKeys):
    pass


class BlockingScopedState(_Twin, of=ScopedState):
    pass


class BlockingProcedures(_Twin, of=Procedures):
    pass


class BlockingAgentStates(_Twin, of=AgentStates):
    pass


class BlockingWorkflowStates(_Twin, of=WorkflowStates):
    pass


class BlockingJobs(_Twin, of=Jobs):
    pass


class BlockingVectorCollection(_Twin, of=VectorCollection):
    pass


class BlockingKnowledgeGraph(_Twin, of=KnowledgeGraph):
    pass


class BlockingEventLog(_Twin, of=EventLog):
    pass


class BlockingHookHistory(_Twin, of=HookHistory):
    pass


class BlockingMemory(_Twin, of=Memory):
    pass


class BlockingSessions(_Twin, of=Sessions):
    pass


class BlockingArtifacts(_Twin, of=Artifacts):
    pass


class BlockingTenantRegistry(_Twin, of=TenantRegistry):
    def audit(self, id: str) -> BlockingAudit:
        return BlockingAudit(self._inner.audit(id), self._runner)


class BlockingJobAdmin(_Twin, of=JobAdmin):
    pass


class BlockingAdmin(_Twin, of=Admin):
    jobs: BlockingJobAdmin

    def __init__(self, inner: Admin, runner: Runner) -> None:
        super().__init__(inner, runner)
        self.jobs = BlockingJobAdmin(inner.jobs, runner)


class BlockingWorker(_Twin, of=Worker):
    def __enter__(self) -> BlockingWorker:
        self._runner.run(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(functools.partial(self._inner.__aexit__, kind, error, trace))


class _Concerns(_Twin, of=Concerns):
    """The concerns of one tenant, each with its twin."""

    kv: BlockingKV
    audit: BlockingAudit
    state: BlockingScopedState
    procedures: BlockingProcedures
    agent_state: BlockingAgentStates
    workflow_state: BlockingWorkflowStates
    jobs: BlockingJobs
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    event_log: BlockingEventLog
    hook_history: BlockingHookHistory
    memory: BlockingMemory
    sessions: BlockingSessions
    artifacts: BlockingArtifacts

    def __init__(self, inner: Concerns, runner: Runner) -> None:
        super().__init__(inner, runner)
        _bind(self, inner, runner, _Concerns)


class _WithKeys(_Concerns, of=Keys):
    """The concerns of one tenant and its keys."""

    api_keys: BlockingApiKeys
    access_keys: BlockingAccessKeys

    def __init__(self, inner: Tenant | Transaction, runner: Runner) -> None:
        super().__init__(inner, runner)
        _bind(self, inner, runner, _WithKeys)


@functools.cache
def _twins(kind: type) -> dict[str, type[_Twin]]:
    """Return the twins that a class of handles names."""
    return {name: twin for name, twin in get_type_hints(kind).items() if issubclass(twin, _Twin)}


def _bind(handle: _Twin, inner: object, runner: Runner, kind: type) -> None:
    for name, twin in _twins(kind).items():
        setattr(handle, name, twin(getattr(inner, name), runner))


class BlockingTransaction(_WithKeys, of=Transaction):
    @contextmanager
    def savepoint(self) -> Iterator[None]:
        async def opened() -> AbstractAsyncContextManager[None]:
            return cast("AbstractAsyncContextManager[None]", self._inner.savepoint())

        block = self._runner.run(opened)
        self._runner.run(block.__aenter__)
        try:
            yield
        except BaseException as error:
            self._runner.run(functools.partial(block.__aexit__, type(error), error, error.__traceback__))
            raise
        self._runner.run(functools.partial(block.__aexit__, None, None, None))

    def _once(self, keyed: Keyed, work: Callable[[BlockingTransaction], T], tries: Tries) -> T:
        keys = self._inner._storages.idempotency
        answer = self._runner.run(functools.partial(keyed.claim, keys))
        if answer is not None:
            return cast("T", answer.result)
        tries.key_was_free()
        return cast("T", self._runner.run(functools.partial(keyed.record, keys, work(self))))


def _plain(work: Callable[[BlockingTransaction], T]) -> Callable[[BlockingTransaction], T]:
    """Return work that is refused when it turns out to be async: nobody here would await it."""

    def run(tx: BlockingTransaction) -> T:
        result = work(tx)
        if inspect.iscoroutine(result):
            result.close()
            raise InvalidInput(
                "work", "must be a plain function here", given=work, hint="Write `def`, or use `connect`."
            )
        return result

    return run


class BlockingOnce(_Concerns, of=Once):
    pass


class BlockingTenant(_WithKeys, of=Tenant):
    id: str

    def __init__(self, inner: Tenant, portal: Portal) -> None:
        super().__init__(inner, portal)
        self._portal = portal
        self.id = inner.id

    def once(self, idempotency_key: str) -> BlockingOnce:
        async def handle() -> Once:
            return cast("Once", self._inner.once(idempotency_key))

        return BlockingOnce(self._portal.run(handle), self._portal)

    def run(
        self,
        work: Callable[[BlockingTransaction], T],
        *,
        attempts: int | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> T:
        async def planned() -> tuple[Tries, Keyed | None]:
            return cast("tuple[Tries, Keyed | None]", self._inner._plan(work, attempts, idempotency_key))

        tries, keyed = self._portal.run(planned)
        while True:
            try:
                with self.transaction(timeout_s=timeout_s) as tx:
                    return _plain(work)(tx) if keyed is None else tx._once(keyed, _plain(work), tries)
            except LlmspellError as error:
                pause_s = tries.failed(error)
            time.sleep(pause_s)

    @contextmanager
    def transaction(self, *, timeout_s: float | None = None) -> Iterator[BlockingTransaction]:
        if self._portal.surrounded:  # by a transaction of this thread: is it one that this would wait for?
            self._portal.run(functools.partial(self._inner._gate.enter, writes=True))
        unit = Unit(self._portal, self._inner.transaction(timeout_s=timeout_s))
        try:
            tx = BlockingTransaction(unit.enter(), unit)
            with self._portal.around(lambda: OpenHere(self._inner._gate)):
                yield tx
        except BaseException:
            unit.leave(failed=True)
            raise
        unit.leave(failed=False)


class BlockingSpell(_Twin, of=Spell):
    settings: Settings
    tenants: BlockingTenantRegistry
    admin: BlockingAdmin

    def __init__(self, inner: Spell, portal: Portal) -> None:
        super().__init__(inner, portal)
        self._portal = portal
        self.settings = inner.settings
        self.tenants = BlockingTenantRegistry(inner.tenants, portal)
        self.admin = BlockingAdmin(inner.admin, portal)

    def tenant(self, id: str = DEFAULT_TENANT) -> BlockingTenant:
        async def handle() -> Tenant:
            return cast("Tenant", self._inner.tenant(id))

        return BlockingTenant(self._portal.run(handle), self._portal)

    def worker(
        self,
        handlers: Mapping[str, Handler] | None = None,
        *,
        builtin: bool = True,
        tenants: Sequence[str] | None = None,
        name: str | None = None,
        concurrency: int | None = None,
    ) -> BlockingWorker:
        async def made() -> Worker:
            return cast(
                "Worker",
                self._inner.worker(handlers, builtin=builtin, tenants=tenants, name=name, concurrency=concurrency),
            )

        return BlockingWorker(self._portal.run(made), self._portal)

    def close(self) -> None:
        self._portal.close(self._inner.close)

    def __enter__(self) -> BlockingSpell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
