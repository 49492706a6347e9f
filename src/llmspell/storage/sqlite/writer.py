"""The one thread that writes: group commit for small writes, and transactions that hold it for a while.

Writes that wait together share one BEGIN IMMEDIATE … COMMIT, so that one sync of the disk pays for all of them. Each stands
alone: a single statement undoes itself when it fails, several have a savepoint.

Rule 1: a caller hears of success only after the COMMIT that holds its write has succeeded.
Rule 2: the thread never waits for a caller without a limit: a transaction that says nothing is rolled back at its deadline.
Rule 3: a caller that went away costs nothing: its write is skipped if it has not begun, and may land if it has.
Rule 4: the log is written back into the database after its writers have their answers: what is in it is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, TypeAlias

import apsw

from llmspell.clock import Clock
from llmspell.errors import (
    LlmspellError,
    OutcomeUnknown,
    StorageError,
    TransactionClosed,
    TransactionTimeout,
    Unavailable,
)
from llmspell.observe import logger
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import control, may_have_committed, roll_back, translate

QUEUE_MAX: Final = 100_000
"""Writes that may wait; beyond it a caller is told at once instead of later."""
GROUP_MAX: Final = 1_024
GROUP_MAX_S: Final = 0.05
"""A group ends after this long, so that its first caller does not wait for a stream of others."""
CHECKPOINT_PAGES: Final = 1_000
"""The log is written back when it has so many pages, as SQLite does it by itself, which would be before a commit returns."""
LOOK_S: Final = 0.05
"""How often the thread looks at the clock while a transaction is silent (an injected clock may jump)."""

Ending: TypeAlias = Literal["", "COMMIT", "ROLLBACK"]


class Job:
    """One write: what to run on the writer's connection, and who waits for it. Made on the event loop that waits."""

    __slots__ = ("alone", "ending", "error", "future", "loop", "result", "run", "several")

    def __init__(
        self,
        run: Callable[[apsw.Connection], Any],
        *,
        several: bool = False,
        alone: bool = False,
        ending: Ending = "",
    ) -> None:
        """`several`: more than one statement, so it needs a savepoint; `alone`: a transaction of its own instead, for a
        savepoint keeps a copy in memory of every old page that is written. `ending`: it ends its transaction, and runs nothing."""
        self.run = run
        self.several = several
        self.alone = alone
        self.ending = ending
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


def ending(statement: Ending) -> Job:
    """Return the job that commits or rolls back its transaction."""
    return Job(_nothing, ending=statement)


def _nothing(_connection: apsw.Connection) -> None:
    return None


class Session:
    """A transaction as the writer sees it: a queue of its own, served until it ends."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.opened = ending("")
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._over: LlmspellError | None = None

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Queue a job of this transaction.

        Raises:
            TransactionClosed, TransactionTimeout, StorageError: it is over; the error says how it ended.
        """
        with self._lock:
            if self._over is not None:
                raise afresh(self._over)
            self._jobs.put(job)
        return job.future

    def next(self, timeout_s: float) -> Job | None:
        """Return the next job, or None when none came in time."""
        try:
            return self._jobs.get(timeout=timeout_s)
        except Empty:
            return None

    def end(self, over: LlmspellError) -> list[Job]:
        """Take no more jobs, answering later ones with `over`, and return those that were still waiting."""
        with self._lock:
            self._over = self._over or over
            return [self._jobs.get() for _ in range(self._jobs.qsize())]


def afresh(error: LlmspellError) -> LlmspellError:
    """Return an equal error: one exception object must not be raised by two callers."""
    rebuild, arguments = error.__reduce__()[:2]
    return rebuild(*arguments)  # type: ignore[operator, no-any-return, misc]


_Item: TypeAlias = "Job | Session | None"
"""None stops the thread."""


class Writer:
    """Owns the connection that writes, and the thread that uses it."""

    def __init__(self, connection: apsw.Connection, *, clock: Clock, busy_timeout_s: float) -> None:
        self._connection = connection
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._finished: list[Job] = []
        self._log_pages = 0
        connection.set_wal_hook(self._note_log)
        self._thread = threading.Thread(target=self._serve, name="llmspell-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many writes and transactions wait."""
        return self._queue.qsize()

    def submit(self, item: Job | Session) -> asyncio.Future[Any]:
        """Queue a write, whose future has its result; or a transaction, whose future says that it has begun.

        Raises:
            Unavailable: the store is closed, or too many writes wait already.
        """
        with self._lock:
            if self._closed:
                raise Unavailable("The store is closed.")
            if self._queue.qsize() >= QUEUE_MAX:
                raise Unavailable(
                    "Too many writes are waiting.", waiting=QUEUE_MAX, hint="Write in batches, or slow down."
                )
            self._queue.put(item)
        return (item if isinstance(item, Job) else item.opened).future

    def close(self) -> None:
        """Finish what is queued, then end the thread; the connection stays open. Blocks; closing twice is allowed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            item = self._queue.get()
            while item is not None:
                if isinstance(item, Session):
                    self._transaction(item)
                    following: tuple[bool, _Item] = (False, None)
                else:
                    following = self._group(item)
                self._deliver()
                self._write_log_back()
                item = following[1] if following[0] else self._queue.get()
        finally:
            # Empty after an ordinary close. After a failure of this thread itself nobody may be left waiting.
            with self._lock:
                self._closed = True
            self._refuse_waiting(Unavailable("The store is closed."))
            self._deliver()

    def _group(self, first: Job) -> tuple[bool, _Item]:
        """Run `first` and what waits behind it in one transaction; return whether an item was taken that could not join it."""
        try:
            self._begin()
        except LlmspellError as error:
            self._finish([first], lost=error)
            self._refuse_waiting(error)
            return False, None
        done: list[Job] = []
        taken: tuple[bool, _Item] = (True, first)
        ends = time.monotonic() + GROUP_MAX_S
        while isinstance(taken[1], Job):
            job = taken[1]
            if job.alone and done:
                break  # it begins the next group, and ends it
            if not job.future.cancelled():
                done.append(job)
                self._attempt(job)
                if job.alone and job.error is not None:
                    self._undo("ROLLBACK")
                if not self._connection.in_transaction:  # some errors make the library give up the whole transaction
                    self._finish(done, lost=job.error)
                    return False, None
            full = job.alone or len(done) >= GROUP_MAX or time.monotonic() > ends
            taken = (False, None) if full else self._take()
        try:
            self._commit()
        except LlmspellError as error:
            self._finish(done, lost=error)
        else:
            self._finish(done)
        return taken

    def _take(self) -> tuple[bool, _Item]:
        try:
            return True, self._queue.get_nowait()
        except Empty:
            return False, None

    def _attempt(self, job: Job) -> None:
        """Run a job and keep its result or its error; when it fails its effects are undone, and only its."""
        connection = self._connection
        try:
            if job.several:
                control(connection, "SAVEPOINT job")
            job.result = job.run(connection)
            if job.several:
                control(connection, "RELEASE job")
        except BaseException as error:  # noqa: BLE001 - what a unit of work raises belongs to its caller, not to this thread
            job.error = error
            if job.several and connection.in_transaction:
                self._undo("ROLLBACK TO job")
                self._undo("RELEASE job")

    def _transaction(self, session: Session) -> None:
        """Serve one transaction from its beginning to its end."""
        if session.opened.future.cancelled():
            self._finish(session.end(TransactionClosed()), lost=TransactionClosed())
            return
        try:
            self._begin()
        except LlmspellError as error:
            self._finish([session.opened, *session.end(error)], lost=error)
            return
        self._finish([session.opened])
        self._deliver()
        over = self._converse(session)
        self._undo("ROLLBACK")
        self._finish(session.end(over), lost=over)

    def _converse(self, session: Session) -> LlmspellError:
        """Run a transaction's jobs until it ends, and return what later calls are told."""
        deadline = self._clock.monotonic() + session.timeout_s
        while True:
            job = session.next(max(0.0, min(LOOK_S, deadline - self._clock.monotonic())))
            if self._clock.monotonic() >= deadline:
                timeout = TransactionTimeout(timeout_s=session.timeout_s)
                if job is not None:
                    self._finish([job], lost=timeout)
                return timeout
            if job is None:
                if self._closed:
                    return Unavailable("The store was closed during the transaction.")
                continue
            if job.ending:
                return self._end(job)
            if not job.future.cancelled():
                self._attempt(job)
                self._finish([job])
                self._deliver()
            if not self._connection.in_transaction:
                return (
                    job.error
                    if isinstance(job.error, LlmspellError)
                    else StorageError("The transaction was rolled back.")
                )

    def _end(self, job: Job) -> LlmspellError:
        try:
            if job.ending == "COMMIT":
                self._commit()
            else:
                roll_back(self._connection)
        except LlmspellError as error:
            job.error = error
        self._finish([job])
        return TransactionClosed()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        deadline = time.monotonic() + self._busy_timeout_s
        attempt = 0
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except (apsw.BusyError, apsw.ProtocolError) as exc:
                # The busy handler has waited already; a few rare states of the log come here without asking it.
                if time.monotonic() >= deadline:
                    raise translate(exc, self._connection) from exc
            except apsw.Error as exc:
                raise translate(exc, self._connection) from exc
            pragmas.pause(attempt)
            attempt += 1

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as exc:
            error = translate(exc, self._connection)
            self._undo("ROLLBACK")
            if may_have_committed(exc, error):
                raise OutcomeUnknown(path=self._connection.filename) from exc
            raise error from exc

    def _note_log(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _write_log_back(self) -> None:
        if self._log_pages < CHECKPOINT_PAGES:
            return
        self._log_pages = 0
        # When it fails, or a reader still needs the log, everything stays in there, and the next commit tries again.
        with contextlib.suppress(apsw.Error):
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _undo(self, statement: str) -> None:
        if not self._connection.in_transaction:
            return
        try:
            control(self._connection, statement)
        except LlmspellError:
            # Nothing is acknowledged from here on: the next BEGIN fails inside of the transaction that stayed open.
            logger.exception("undoing a failed write failed; open the store anew")

    def _finish(self, jobs: Iterable[Job], *, lost: BaseException | None = None) -> None:
        """Note that jobs are done; `lost` is why their effects are gone, unless they failed by themselves."""
        for job in jobs:
            if lost is not None and job.error is None:
                job.error = (
                    afresh(lost)
                    if isinstance(lost, LlmspellError)
                    else StorageError("The transaction was rolled back.")
                )
            self._finished.append(job)

    def _refuse_waiting(self, error: LlmspellError) -> None:
        """Fail what waits now: it has waited for the same lock as the one that failed."""
        for _ in range(self._queue.qsize()):
            item = self._queue.get()
            if item is None:
                self._queue.put(None)
            elif isinstance(item, Session):
                self._finish([item.opened, *item.end(error)], lost=error)
            else:
                self._finish([item], lost=error)

    def _deliver(self) -> None:
        """Wake the callers of finished jobs: one call per event loop."""
        finished, self._finished = self._finished, []
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in finished:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, jobs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, jobs)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                continue


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        # Nobody waits for a rollback, and it cannot matter how it ended.
        if job.error is not None and job.ending != "ROLLBACK":
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
