"""The pool of connections of one store.

Our own and small, because everything that changes it is synchronous: a connection comes back in one step that no cancellation can
interrupt, so none is ever lost to the pool (returning through an awaited lock can lose one). A failure to connect reaches the
caller at once instead of a timeout later, and a connection that the server has closed meanwhile is noticed before it is used.

Rule 1: a connection that does not come back idle is closed, never repaired.
Rule 2: nothing is set on a session, so there is nothing to reset, and prepared statements survive.
Rule 3: at most `size` connections exist; who has to wait longer than `timeout_s` is told so.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from llmspell.errors import InvalidSetting, StorageError, Unavailable
from llmspell.storage.contracts.backend import PoolStatus
from llmspell.storage.postgres.link import Link

SIZE_MAX = 1_000


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a pool. `idle_timeout_s` and `max_lifetime_s` close connections that are unused, or old."""

    size: int = 20
    timeout_s: float = 30.0
    idle_timeout_s: float = 600.0
    max_lifetime_s: float = 1_800.0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= SIZE_MAX:
            raise InvalidSetting(f"`pool_size` must be from 1 to {SIZE_MAX:,}; got {self.size}.")
        for name in ("timeout_s", "idle_timeout_s", "max_lifetime_s"):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"`pool {name}` must be greater than 0; got {getattr(self, name)}.")


class Pool:
    """Lends connections, the most recently used first. Bound to the event loop that it is used from."""

    def __init__(self, connect: Callable[[], Awaitable[Link]], settings: PoolSettings) -> None:
        self._connect = connect
        self._settings = settings
        self._idle: deque[Link] = deque()
        self._waiters: deque[asyncio.Future[Link | None]] = deque()
        self._size = 0
        self._closed = False
        self._sweep: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """Borrow a connection for a block.

        Raises:
            Unavailable: no connection was free in time, or none could be made.
        """
        borrowed = await self.acquire()
        try:
            yield borrowed
        finally:
            self.release(borrowed)

    async def acquire(self) -> Link:
        """Borrow a connection; `release` must follow."""
        if (ready := self._take_idle()) is not None:
            return ready
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._made_or_released()
        except TimeoutError:
            raise Unavailable(
                "No connection came free in time.",
                hint="Raise `pool_size`, or do less at once.",
                waited_s=self._settings.timeout_s,
                size=self._size,
                available=len(self._idle),
                waiting=len(self._waiters),
            ) from None

    def release(self, link: Link) -> None:
        """Take a connection back. It is kept when it is idle, not old, and wanted."""
        now = time.monotonic()
        if self._closed or not link.idle or now - link.opened_at > self._settings.max_lifetime_s:
            self._discard(link)
            return
        link.released_at = now
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        self._idle.append(link)
        self._close_unused(now)

    def status(self) -> PoolStatus:
        """How many connections there are, are idle, and how many callers wait."""
        return PoolStatus(size=self._size, available=len(self._idle), waiting=len(self._waiters))

    def close(self) -> None:
        """Close every idle connection now, and every other when it comes back."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._discard(self._idle.pop())
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _made_or_released(self) -> Link:
        while True:  # ends: by a connection, by an error, or by the timeout of `acquire`
            if (ready := self._take_idle()) is not None:
                return ready
            if self._size < self._settings.size:
                return await self._grow()
            waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                link = await waiter
            except asyncio.CancelledError:
                self._give_back(waiter)
                raise
            if link is not None and link.alive():
                return link
            if link is not None:
                self._discard(link)

    async def _grow(self) -> Link:
        self._size += 1
        try:
            return await self._connect()
        except BaseException:
            self._size -= 1
            self._wake_one()
            raise

    def _give_back(self, waiter: asyncio.Future[Link | None]) -> None:
        """A cancelled waiter passes on what it was just given."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.done() and not waiter.cancelled():
            link = waiter.result()
            if link is None:
                self._wake_one()
            else:
                self.release(link)

    def _take_idle(self) -> Link | None:
        if self._closed:
            raise StorageError("The store is closed.")
        now = time.monotonic()
        while self._idle:
            link = self._idle.pop()
            if now - link.opened_at <= self._settings.max_lifetime_s and link.alive():
                return link
            self._discard(link)
        return None

    def _discard(self, link: Link) -> None:
        link.close()
        self._size -= 1
        self._wake_one()

    def _wake_one(self) -> None:
        """There is room for one more connection: the first that waits may make it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _close_unused(self, now: float) -> None:
        while self._idle and now - self._idle[0].released_at >= self._settings.idle_timeout_s:
            self._discard(self._idle.popleft())
        if self._idle and (self._sweep is None or self._sweep.cancelled()):
            due = self._idle[0].released_at + self._settings.idle_timeout_s - now
            self._sweep = asyncio.get_running_loop().call_later(due, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        self._close_unused(time.monotonic())
