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

import asyncio
import atexit
import concurrent.futures.thread  # its exit hook must be older than ours, see `_at_exit`
import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from llmspell.admin import Admin, JobAdmin, TenantRegistry
from llmspell.clock import Clock
from llmspell.errors import OutcomeUnknown, TransactionClosed, Unavailable, Unsupported
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.vectors import VectorCollection
from llmspell.ops.worker import Handler, Worker
from llmspell.providers.embedder import Embedder
from llmspell.settings import Settings
from llmspell.spell import Spell, Tenant, Transaction, connect
from llmspell.storage.contracts.jobs import Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.tenant import DEFAULT_TENANT

INTERRUPT_WAIT_S = 10.0
"""How long an interrupted call waits for its work to stop. Work that takes longer has an unknown outcome."""
DRAIN_S = 10.0
"""How long `close` lets calls of other threads finish before it cancels them."""
T = TypeVar("T")
Start = Callable[[], Coroutine[Any, Any, T]]


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
        portal.close(_nothing)
        raise
    portal.at_exit = spell.close
    return BlockingSpell(spell, portal)


class _Call:
    """Work for the portal, and where its outcome arrives."""

    def __init__(self, start: Start[Any]) -> None:
        self._start = start
        self.outcome: Future[Any] = Future()
        self.task: asyncio.Task[None] | None = None
        self.dropped = False

    async def work(self) -> None:
        """Do the work. Cancellation passes through; whatever else goes wrong belongs to the caller."""
        try:
            result = await self._start()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - also SystemExit of a callback: the caller gets it, the portal lives
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless it is answered."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Runner(Protocol):
    """What runs calls for a twin: the portal, or a transaction inside it."""

    def run(self, start: Start[T]) -> T:
        """Run one call and return its result."""
        ...


class Portal:
    """One thread with one event loop that works for all others."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closing: _Call | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        # The factory: without one, a Runner makes its loop the current one of this thread, which is the caller's.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stop: asyncio.Future[_Call] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name="llmspell-portal", daemon=True)
        self._thread.start()
        self.at_exit: Start[None] = _nothing
        _OPEN.add(self)

    def run(self, start: Start[T]) -> T:
        """Run one call in the portal and return its result, or raise its error.

        Raises:
            Unsupported: this is the portal's own thread.
            Unavailable: the store is closed, or was opened before this process was forked.
        """
        return cast("T", self.ask(_Call(start), take=self._take, drop=self._drop))

    def ask(self, call: _Call, *, take: Callable[[_Call], None], drop: Callable[[_Call], None]) -> Any:
        """Hand a call to the portal, where `take` begins it, and wait for its outcome.

        When a signal interrupts that, at whatever point, `drop` sees to it that the work stops and the call is answered.
        """
        self._require_usable()
        try:
            self._hand_over(call, take)
            call.outcome.exception()  # only waits: what is raised here comes from a signal, never from the call
        except _Closed:
            raise Unavailable("The store is closed.", hint="Open it again.") from None
        except BaseException:
            self._abandon(call, drop)
            raise
        try:
            return call.outcome.result()
        finally:
            del call  # the error's traceback would keep it, and it keeps the error

    def _hand_over(self, call: _Call, take: Callable[[_Call], None]) -> None:
        with self._lock:
            if self._closing is not None:
                raise _Closed
            self._loop.call_soon_threadsafe(lambda: None if call.dropped else take(call))

    def _abandon(self, call: _Call, drop: Callable[[_Call], None]) -> None:
        def dropped() -> None:
            call.dropped = True
            drop(call)

        try:
            self._loop.call_soon_threadsafe(dropped)
        except RuntimeError:
            return  # the loop is closed, so the work has ended
        concurrent.futures.wait([call.outcome], timeout=INTERRUPT_WAIT_S)

    def _take(self, call: _Call) -> None:
        call.task = self.keep(call.work(), call=True)
        call.task.add_done_callback(lambda _: call.fail(OutcomeUnknown("The call was cancelled before it answered.")))

    def _drop(self, call: _Call) -> None:
        if call.task is None:
            call.fail(OutcomeUnknown("The call was interrupted before it began."))
        else:
            call.task.cancel()

    def keep(self, work: Coroutine[Any, Any, None], *, call: bool) -> asyncio.Task[None]:
        """Start a task that the portal owns until it ends; `close` lets calls finish, and cancels the rest."""
        task = self._loop.create_task(work)
        owned = self._calls if call else self._tasks
        owned.add(task)
        task.add_done_callback(owned.discard)
        return task

    def close(self, last: Start[None]) -> None:
        """Refuse new calls, let those under way finish, roll open transactions back, run `last`, and end the thread.

        A second call waits for the first and has its outcome.
        """
        if self._pid != os.getpid():
            return  # it belongs to the process that opened it
        self._require_usable()
        with self._lock:
            if self._closing is None:
                self._closing = _Call(last)
                self._loop.call_soon_threadsafe(self._stop.set_result, self._closing)
        self._thread.join()
        _OPEN.discard(self)
        self._closing.outcome.result()

    def _require_usable(self) -> None:
        if threading.current_thread() is self._thread:
            raise Unsupported(
                "A blocking call was made from the thread that would do its work; it would wait for itself forever.",
                hint="Use the async API inside embedders, or do the call after the outer one has returned.",
            )
        if self._pid != os.getpid():
            raise Unavailable("The store was opened in another process.", hint="Open it after the fork.")

    def _serve(self) -> None:
        with self._runner as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        closing = await self._stop
        for task in self._tasks:
            task.cancel()
        under_way = self._tasks | self._calls
        if under_way:
            _, left = await asyncio.wait(under_way, timeout=DRAIN_S)
            for task in left:
                task.cancel()
        await closing.work()


class _Closed(Exception):
    """The portal takes no more calls."""


class _Abandoned(Exception):
    """The block of a transaction was left by an exception."""


class _Unit:
    """A transaction inside the portal: one task enters it, does its calls in order, and leaves it."""

    def __init__(self, portal: Portal, manager: AbstractAsyncContextManager[Any]) -> None:
        self._portal = portal
        self._manager = manager
        self._calls: asyncio.Queue[_Call] = asyncio.Queue()
        self._entering, self._leaving = _Call(_nothing), _Call(_nothing)
        self._current = self._entering
        self._failed = False
        self._ended: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def enter(self) -> Any:
        """Begin, and return the async transaction."""
        return self._portal.ask(self._entering, take=self._begin, drop=self._drop)

    def run(self, start: Start[T]) -> T:
        """Run one call inside the transaction; an interrupt rolls the transaction back."""
        return cast("T", self._portal.ask(_Call(start), take=self._take, drop=self._drop))

    def leave(self, *, failed: bool) -> None:
        """Commit, or roll back when the block `failed`; one that has already ended says why, unless the block failed."""
        self._failed = failed
        try:
            self._portal.ask(self._leaving, take=self._take, drop=self._drop)
        except Unavailable:
            if not failed:  # closed inside of the block, which rolled it back
                raise

    def _begin(self, call: _Call) -> None:
        self._task = self._portal.keep(self._live(), call=False)
        # A callback, because a task that is cancelled before its first step runs none of its own lines.
        self._task.add_done_callback(self._answer_all)

    def _take(self, call: _Call) -> None:
        if self._task is None or self._ended is not None:
            self._answer(call, self._ended or TransactionClosed("The transaction was interrupted before it began."))
        else:
            call.task = self._task
            self._calls.put_nowait(call)

    def _drop(self, call: _Call) -> None:
        """Roll back; the call is answered when that is done. An end that has begun is waited for: it is short."""
        if call is self._leaving and call.task is not None:
            return
        if self._task is not None:
            self._task.cancel()
        if call is not self._entering or self._task is None:
            self._take(call)

    async def _live(self) -> None:
        try:
            async with self._manager as inner:
                self._current.outcome.set_result(inner)
                while (call := await self._calls.get()) is not self._leaving:
                    self._current = call
                    await call.work()
                self._current = call
                if self._failed:
                    raise _Abandoned
            self._leaving.outcome.set_result(None)
            self._ended = TransactionClosed()
        except _Abandoned:
            self._ended = TransactionClosed()  # rolled back as asked; the block's own exception goes on
        except asyncio.CancelledError:
            self._ended = TransactionClosed("The transaction was interrupted and rolled back.")
        except BaseException as error:  # noqa: BLE001 - why it ended belongs to the caller who uses it next
            self._ended = error

    def _answer_all(self, _: asyncio.Task[None]) -> None:
        self._ended = self._ended or TransactionClosed("The transaction was interrupted before it began.")
        self._answer(self._current, self._ended)
        while not self._calls.empty():
            self._answer(self._calls.get_nowait(), self._ended)

    def _answer(self, call: _Call, ended: BaseException) -> None:
        if call is self._leaving and self._failed and not call.outcome.done():
            call.outcome.set_result(None)
        call.fail(ended)


async def _nothing() -> None:
    """Do nothing."""


_OPEN: weakref.WeakSet[Portal] = weakref.WeakSet()


def _close_all() -> None:
    for portal in list(_OPEN):
        portal.close(portal.at_exit)


def _at_exit() -> None:
    """Close what is left open when the interpreter exits, while worker threads can still be used.

    `atexit` runs after those are gone, and closing a file needs one. `concurrent.futures` has the same need, and the same way.
    """
    register: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
    register(_close_all)


_at_exit()


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


class BlockingKV(_Twin, of=KV):
    pass


class BlockingJobs(_Twin, of=Jobs):
    pass


class BlockingVectorCollection(_Twin, of=VectorCollection):
    pass


class BlockingKnowledgeGraph(_Twin, of=KnowledgeGraph):
    pass


class BlockingMemory(_Twin, of=Memory):
    pass


class BlockingTenantRegistry(_Twin, of=TenantRegistry):
    pass


class BlockingJobAdmin(_Twin, of=JobAdmin):
    pass


class BlockingAdmin(_Twin, of=Admin):
    jobs: BlockingJobAdmin

    def __init__(self, inner: Admin, runner: Runner) -> None:
        super().__init__(inner, runner)
        self.jobs = BlockingJobAdmin(inner.jobs, runner)


class BlockingWorker(_Twin, of=Worker):
    pass


class BlockingTransaction(_Twin, of=Transaction):
    kv: BlockingKV
    jobs: BlockingJobs
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    memory: BlockingMemory

    def __init__(self, inner: Transaction, runner: Runner) -> None:
        super().__init__(inner, runner)
        self.kv = BlockingKV(inner.kv, runner)
        self.jobs = BlockingJobs(inner.jobs, runner)
        self.vectors = BlockingVectorCollection(inner.vectors, runner)
        self.graph = BlockingKnowledgeGraph(inner.graph, runner)
        self.memory = BlockingMemory(inner.memory, runner)


class BlockingTenant(_Twin, of=Tenant):
    id: str
    kv: BlockingKV
    jobs: BlockingJobs
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    memory: BlockingMemory

    def __init__(self, inner: Tenant, portal: Portal) -> None:
        super().__init__(inner, portal)
        self._portal = portal
        self.id = inner.id
        self.kv = BlockingKV(inner.kv, portal)
        self.jobs = BlockingJobs(inner.jobs, portal)
        self.vectors = BlockingVectorCollection(inner.vectors, portal)
        self.graph = BlockingKnowledgeGraph(inner.graph, portal)
        self.memory = BlockingMemory(inner.memory, portal)

    @contextmanager
    def transaction(self, *, timeout_s: float | None = None) -> Iterator[BlockingTransaction]:
        unit = _Unit(self._portal, self._inner.transaction(timeout_s=timeout_s))
        try:
            yield BlockingTransaction(unit.enter(), unit)
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
