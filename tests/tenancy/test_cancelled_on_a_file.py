"""Tasks that are cancelled at random while a file is written: rolled back or whole, and nothing stays that anybody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
from tests.fixtures.marked_tenants import seed
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import fresh_tenants, opened
from tests.tenancy.random_requests import Request, Requests, Round

from llmspell.storage.sqlite.writer import Job, Session, Writer

T = TypeVar("T")
CANCELS = (3_000, 100_000)
"""That land while the writer has something of the request: in continuous integration, and in a long run."""
IN_A_ROUND = 1_000
ROUNDS_MAX = 1_000
TENANTS = 8
LIMIT_S = 7_200
SEED = usual(4)


class WatchedWriter:
    """Sees what requests hand to the thread that writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._current: ContextVar[Request | None] = ContextVar("request", default=None)
        to_writer, to_transaction = Writer.submit, Session.submit

        def submit(writer: Writer, item: Job | Session) -> asyncio.Future[Any]:
            return self._note(to_writer(writer, item))

        def submit_within(session: Session, job: Job) -> asyncio.Future[Any]:
            return self._note(to_transaction(session, job))

        monkeypatch.setattr(Writer, "submit", submit)
        monkeypatch.setattr(Session, "submit", submit_within)

    async def run(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` as a request."""
        self._current.set(request)
        return await work()

    async def probe(self, request: Request) -> None:
        """There is nothing that one request leaves to another but the file."""

    def _note(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        request = self._current.get()
        if request is not None:
            request.exchanges += 1
            request.waits = lambda: not future.done()
        return future


@pytest.mark.timeout(LIMIT_S)
async def test_tasks_cancelled_at_random_leave_whole_writes_no_lock_and_no_thread(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = size(ci=CANCELS[0], soak=CANCELS[1])
    threads, landed, whole, absent = set(threading.enumerate()), 0, 0, 0
    watch = WatchedWriter(monkeypatch)
    async with opened("sqlite", request, tmp_path) as spell:
        for turn in range(ROUNDS_MAX):
            tenants = list(await fresh_tenants(spell, TENANTS, "cancelled"))
            await asyncio.gather(*map(seed, tenants))
            requests = Requests(spell, tenants, f"{SEED}/file/{turn}", server=False)
            played = Round(requests, watch, cancelled=0.95)
            await played.run(range(IN_A_ROUND))

            # What was cancelled may still be begun and ended by the writer; these come after all of it.
            await asyncio.gather(*(tenant.kv.set("afterwards", b"") for tenant in tenants))
            require_no_lock(tmp_path / "store.db")
            await played.require_whole()
            landed += played.counts["in_flight"]
            whole += played.counts["either, there"]
            absent += played.counts["either, absent"]
            if landed >= wanted:
                break
        await spell.tenants.create(f"last-{tenants[0].id}")

    tell(requests_cancelled_in_flight=landed, requests_cancelled_after_they_had_begun=whole)
    assert landed >= wanted
    # Few: a write that has begun takes less time than one that waits for others, and for the log to be written back.
    assert whole > wanted // 1_000, "too few were cancelled after the write had begun"
    assert absent > wanted // 50, "too few were cancelled before it"
    left = [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("llmspell")]
    assert left == []


def require_no_lock(file: Path) -> None:
    """Somebody else can write at once, without waiting."""
    other = apsw.Connection(str(file))
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    other.close()
