"""Blocking work of a transfer on threads, and one batch ahead of whoever takes them.

Rule: nothing here returns before the thread that it began has ended, however often it is cancelled: files, connections and
generators have one user at a time. What may block for ever asks `require_wanted` while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from llmspell.errors import Unavailable

T = TypeVar("T")
_END = object()
_unwanted: Final[contextvars.ContextVar[threading.Event]] = contextvars.ContextVar("unwanted")
"""Set when nobody waits any more for what runs in this context."""


def require_wanted() -> None:
    """Return when somebody still waits for this thread's work.

    Raises:
        Unavailable: nobody does; nobody hears of this either.
    """
    unwanted = _unwanted.get(None)
    if unwanted is not None and unwanted.is_set():
        raise Unavailable("The transfer was given up.")


async def on_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work` on a thread, and never return before it has ended."""
    unwanted = _unwanted.get(None) or threading.Event()
    context = _context(unwanted)
    # A future of the pool and no task: at the end of a loop all tasks are cancelled, and this one would end before its thread.
    running = asyncio.get_running_loop().run_in_executor(None, partial(context.run, work, *arguments))
    cancelled = await _ended(running, unwanted)
    if cancelled is not None:
        raise cancelled
    return running.result()


async def stepped(iterator: Iterator[T]) -> AsyncIterator[T]:
    """Step through a blocking iterator on threads."""
    while (item := await on_thread(next, iterator, _END)) is not _END:
        yield item


async def ahead(batches: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Read one batch ahead of the consumer."""
    iterator = aiter(batches)
    unwanted = threading.Event()
    context = _context(unwanted)

    async def step() -> Any:
        return await anext(iterator, _END)

    waiting = asyncio.create_task(step(), context=context)
    try:
        while (batch := await asyncio.shield(waiting)) is not _END:
            waiting = asyncio.create_task(step(), context=context)
            yield batch
    finally:
        # What reads is never cut off in the middle: it uses a connection that goes back to others.
        unwanted.set()
        cancelled = await _ended(waiting, unwanted)
        if hasattr(iterator, "aclose"):
            with contextlib.suppress(RuntimeError):
                await iterator.aclose()
        if cancelled is not None:
            raise cancelled


def _context(unwanted: threading.Event) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(_unwanted.set, unwanted)
    return context


async def _ended(work: asyncio.Future[Any], unwanted: threading.Event) -> asyncio.CancelledError | None:
    """Wait until work has ended, and return the cancellation that came meanwhile."""
    cancelled = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as exc:
            unwanted.set()
            cancelled = exc
    if not work.cancelled():
        work.exception()  # it is heard, also when the cancellation is raised in its place
    return cancelled
