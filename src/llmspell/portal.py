"""The thread with an event loop on which a synchronous twin does its work, and what other threads hand to it.

Not here: the twins themselves (`blocking`).

Rule 1: a call ends after its work has: an interrupt cancels the work and waits for it to stop.
Rule 2: a transaction is entered, used and left in one task, as time limits and cancellation of asyncio require.
Rule 3: what would wait for itself is refused: a blocking call from the portal.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # its exit hook must be older than ours, see `_at_exit`
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar, cast

from llmspell.errors import OutcomeUnknown, TransactionClosed, Unavailable, Unsupported

INTERRUPT_WAIT_S = 10.0
"""How long an interrupted call waits for its work to stop. Work that takes longer has an unknown outcome."""
DRAIN_S = 10.0
"""How long `close` lets calls of other threads finish before it cancels them."""
T = TypeVar("T")
Start = Callable[[], Coroutine[Any, Any, T]]


class Call:
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
        self._closing: Call | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        # The factory: without one, a Runner makes its loop the current one of this thread, which is the caller's.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stop: asyncio.Future[Call] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name="llmspell-portal", daemon=True)
        self._thread.start()
        self.at_exit: Start[None] = nothing
        self._here = threading.local()
        _OPEN.add(self)

    @contextmanager
    def around(self, block: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """For the length of a block, run every call of this thread inside of what `block` makes."""
        outer: tuple[Callable[[], AbstractContextManager[None]], ...] = getattr(self._here, "blocks", ())
        self._here.blocks = (*outer, block)
        try:
            yield
        finally:
            self._here.blocks = outer

    @property
    def surrounded(self) -> bool:
        """Whether this thread is inside of a block of `around`."""
        return bool(getattr(self._here, "blocks", ()))

    def run(self, start: Start[T]) -> T:
        """Run one call in the portal and return its result, or raise its error.

        Raises:
            Unsupported: this is the portal's own thread.
            Unavailable: the store is closed, or was opened before this process was forked.
        """
        blocks = getattr(self._here, "blocks", ())

        async def inside() -> T:
            with ExitStack() as stack:
                for block in blocks:
                    stack.enter_context(block())
                return await start()

        return cast("T", self.ask(Call(inside if blocks else start), take=self._take, drop=self._drop))

    def ask(self, call: Call, *, take: Callable[[Call], None], drop: Callable[[Call], None]) -> Any:
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

    def _hand_over(self, call: Call, take: Callable[[Call], None]) -> None:
        with self._lock:
            if self._closing is not None:
                raise _Closed
            self._loop.call_soon_threadsafe(lambda: None if call.dropped else take(call))

    def _abandon(self, call: Call, drop: Callable[[Call], None]) -> None:
        def dropped() -> None:
            call.dropped = True
            drop(call)

        try:
            self._loop.call_soon_threadsafe(dropped)
        except RuntimeError:
            return  # the loop is closed, so the work has ended
        concurrent.futures.wait([call.outcome], timeout=INTERRUPT_WAIT_S)

    def _take(self, call: Call) -> None:
        call.task = self.keep(call.work(), call=True)
        call.task.add_done_callback(lambda _: call.fail(OutcomeUnknown("The call was cancelled before it answered.")))

    def _drop(self, call: Call) -> None:
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
                self._closing = Call(last)
                self._loop.call_soon_threadsafe(self._stop.set_result, self._closing)
        self._thread.join()
        _OPEN.discard(self)
        self._closing.outcome.result()

    def _require_usable(self) -> None:
        if threading.current_thread() is self._thread:
            raise Unsupported(
                "A blocking call was made from the thread that would do its work; it would wait for itself forever.",
                hint="Use the async API inside embedders and async handlers, or do the call after the outer one has returned.",
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


class Unit:
    """A transaction inside the portal: one task enters it, does its calls in order, and leaves it."""

    def __init__(self, portal: Portal, manager: AbstractAsyncContextManager[Any]) -> None:
        self._portal = portal
        self._manager = manager
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._entering, self._leaving = Call(nothing), Call(nothing)
        self._current = self._entering
        self._failed = False
        self._ended: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def enter(self) -> Any:
        """Begin, and return the async transaction."""
        return self._portal.ask(self._entering, take=self._begin, drop=self._drop)

    def run(self, start: Start[T]) -> T:
        """Run one call inside the transaction; an interrupt rolls the transaction back."""
        return cast("T", self._portal.ask(Call(start), take=self._take, drop=self._drop))

    def leave(self, *, failed: bool) -> None:
        """Commit, or roll back when the block `failed`; one that has already ended says why, unless the block failed."""
        self._failed = failed
        try:
            self._portal.ask(self._leaving, take=self._take, drop=self._drop)
        except Unavailable:
            if not failed:  # closed inside of the block, which rolled it back
                raise

    def _begin(self, call: Call) -> None:
        self._task = self._portal.keep(self._live(), call=False)
        # A callback, because a task that is cancelled before its first step runs none of its own lines.
        self._task.add_done_callback(self._answer_all)

    def _take(self, call: Call) -> None:
        if self._task is None or self._ended is not None:
            self._answer(call, self._ended or TransactionClosed("The transaction was interrupted before it began."))
        else:
            call.task = self._task
            self._calls.put_nowait(call)

    def _drop(self, call: Call) -> None:
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

    def _answer(self, call: Call, ended: BaseException) -> None:
        if call is self._leaving and self._failed and not call.outcome.done():
            call.outcome.set_result(None)
        call.fail(ended)


async def nothing() -> None:
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
