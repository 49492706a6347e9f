"""Blocking work of a transfer on threads, and one batch ahead of whoever takes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


async def on_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work` on a thread, and never return before it has ended: files and generators have one user at a time."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def stepped(iterator: Iterator[T]) -> AsyncIterator[T]:
    """Step through a blocking iterator on threads."""
    while (item := await on_thread(next, iterator, _END)) is not _END:
        yield item


async def ahead(batches: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Read one batch ahead of the consumer."""
    iterator = aiter(batches)

    async def step() -> Any:
        return await anext(iterator, _END)

    waiting = asyncio.create_task(step())
    try:
        while (batch := await asyncio.shield(waiting)) is not _END:
            waiting = asyncio.create_task(step())
            yield batch
    finally:
        # What reads is never cut off in the middle: it uses a connection that goes back to others.
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            waiting.exception()
        if hasattr(iterator, "aclose"):
            with contextlib.suppress(RuntimeError):
                await iterator.aclose()
