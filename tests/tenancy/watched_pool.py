"""Watches the pool of a real store: which request has which connection, and what every connection shows when it comes back.

    with watching(spell, monkeypatch) as pool:
        await Round(requests, pool).run(range(1_000))
        await pool.settle()

A connection that comes back idle is asked, before anybody else can have it, what it shows to somebody without a tenant. One that
comes back otherwise goes to the pool as it is, which has to close it at once: there is nobody then whom it could show anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from psycopg import pq
from tests.tenancy.random_requests import Request

from llmspell.spell import Spell
from llmspell.storage.postgres.link import Link

if TYPE_CHECKING:
    import pytest

    from llmspell.storage.postgres.backend import PostgresBackend
    from llmspell.storage.postgres.statements import Bound

T = TypeVar("T")
PROBE = (
    b"SELECT coalesce(current_setting('app.current_tenant_id', true), ''),"
    b" (SELECT count(*) FROM llmspell.kv_store), (SELECT count(*) FROM llmspell.memories),"
    b" (SELECT count(*) FROM llmspell.relationships), (SELECT count(*) FROM llmspell.event_log),"
    b" (SELECT count(*) FROM llmspell.sessions), (SELECT count(*) FROM llmspell.vector_embeddings_384)"
)
NOTHING = ("", 0, 0, 0, 0, 0, 0)


class WatchedPool:
    """The pool of one store."""

    def __init__(self, spell: Spell) -> None:
        self.pool = cast("PostgresBackend", spell._backend)._database.pool
        self.current: ContextVar[Request | None] = ContextVar("request", default=None)
        self.seen: Counter[tuple[Any, ...]] = Counter()
        self.dropped = self.kept = 0
        """Connections that did not come back idle: those that the pool closed, and those that it did not."""
        self._probing: set[asyncio.Task[None]] = set()
        self._acquire, self._release = self.pool.acquire, self.pool.release

    async def run(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` as a request."""
        self.current.set(request)
        return await work()

    async def settle(self) -> None:
        """Wait until every probe has been answered and its connection is back."""
        while self._probing:
            await asyncio.gather(*self._probing)

    async def probe(self, request: Request) -> None:
        """Ask whichever connection is free, behind a request that had none; those that were used have been asked."""
        if not request.exchanges:
            await self._ask(await self._acquire())

    async def acquire(self) -> Link:
        """Lend a connection, and note to whom."""
        link = await self._acquire()
        request = self.current.get()
        if request is not None:
            request.waits = lambda: link._pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        return link

    def release(self, link: Link) -> None:
        """Take a connection back, by way of the probe."""
        request = self.current.get()
        if request is not None:
            request.waits = lambda: False
        if not link.idle:
            before = self.pool.status().size
            self._release(link)
            closed = link._pgconn.status == pq.ConnStatus.BAD and self.pool.status().size == before - 1
            self.dropped, self.kept = self.dropped + closed, self.kept + (not closed)
            return
        task = asyncio.create_task(self._ask(link))
        self._probing.add(task)
        task.add_done_callback(self._probing.discard)

    async def _ask(self, link: Link) -> None:
        try:
            cursor = await link._connection.execute(PROBE, prepare=False)
            row = await cursor.fetchone()
        finally:
            self._release(link)
        self.seen[tuple(row or ())] += 1


@contextmanager
def watching(spell: Spell, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedPool]:
    """Watch the pool of `spell` for the length of a block; call `settle` at its end."""
    watched = WatchedPool(spell)
    exchange = Link.exchange

    async def counted(self: Link, statements: Iterable[Bound], *, commits: bool, name: str) -> Any:
        request = watched.current.get()
        if request is not None:
            request.exchanges += 1
        return await exchange(self, statements, commits=commits, name=name)

    with monkeypatch.context() as patch:
        patch.setattr(watched.pool, "acquire", watched.acquire)
        patch.setattr(watched.pool, "release", watched.release)
        patch.setattr(Link, "exchange", counted)
        yield watched
