"""The file as executors and units of work: who reads where, who writes how.

Reads run on connections of their own, on the calling thread when they are short; writes go to the writer. A transaction
reads and writes on the writer's connection, so it sees what it wrote.

Rule: a read that begins after a write was acknowledged sees it; each `read(work)` sees one snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

import apsw

from llmspell.clock import Clock
from llmspell.errors import LlmspellError, TransactionClosed, TransactionError, TransactionTimeout, Unavailable
from llmspell.observe import notify_round_trip, observed
from llmspell.storage.contracts.backend import PoolStatus, Savepoints
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Executor, Row, Statement
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import (
    change,
    change_each,
    control,
    drive,
    fetch,
    is_read,
    open_reader,
    open_writer,
    roll_back,
)
from llmspell.storage.sqlite.writer import Job, Session, Writer, ending
from llmspell.tenant import TenantId

T = TypeVar("T")
KINDS_MAX: Final = 4_096
"""Texts of queries whose kind (reading or writing) is remembered."""


class ConnectionExecutor:
    """Runs queries on one connection, on the thread that holds it, for as long as its unit of work lasts."""

    __slots__ = ("_connection", "tenant", "uncommitted")

    def __init__(self, connection: apsw.Connection, tenant: TenantId, *, uncommitted: bool) -> None:
        """`uncommitted`: the connection may see writes that can still be rolled back, so nothing read may be cached."""
        self._connection: apsw.Connection | None = connection
        self.tenant = tenant
        self.uncommitted = uncommitted

    def end(self) -> None:
        """Refuse every later call."""
        self._connection = None

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise TransactionClosed("The unit of work has ended; its executor cannot be used any more.")
        return self._connection

    async def rows(self, query: Query, /, **params: Any) -> list[Row]:
        params["tenant_id"] = self.tenant
        return fetch(self._open(), query, params)

    async def row(self, query: Query, /, **params: Any) -> Row | None:
        params["tenant_id"] = self.tenant
        rows = fetch(self._open(), query, params)
        return rows[0] if rows else None

    async def value(self, query: Query, /, **params: Any) -> Any:
        params["tenant_id"] = self.tenant
        rows = fetch(self._open(), query, params)
        return rows[0][0] if rows else None

    async def execute(self, query: Query, /, **params: Any) -> int:
        params["tenant_id"] = self.tenant
        return change(self._open(), query, params)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        connection = self._open()
        if len(statements) == 1 and isinstance(statements[0][1], Mapping):
            return run_batch(connection, self.tenant, statements)
        control(connection, "SAVEPOINT batch")
        try:
            counts = run_batch(connection, self.tenant, statements)
        except BaseException:
            if connection.in_transaction:
                control(connection, "ROLLBACK TO batch")
                control(connection, "RELEASE batch")
            raise
        control(connection, "RELEASE batch")
        return counts

    async def rows_after(self, statements: Sequence[Statement], query: Query, /, **params: Any) -> list[Row]:
        connection = self._open()
        control(connection, "SAVEPOINT batch")
        try:
            rows = run_rows_after(connection, self.tenant, [*statements, (query, params)])
        except BaseException:
            if connection.in_transaction:
                control(connection, "ROLLBACK TO batch")
                control(connection, "RELEASE batch")
            raise
        control(connection, "RELEASE batch")
        return rows


def run_rows_after(connection: apsw.Connection, tenant: TenantId, statements: Sequence[Statement]) -> list[Row]:
    """Run statements in order, and return the rows of the last."""
    *before, (query, parameters) = statements
    run_batch(connection, tenant, before)
    return fetch(connection, query, {**cast("Mapping[str, Any]", parameters), "tenant_id": tenant})


def run_batch(connection: apsw.Connection, tenant: TenantId, statements: Sequence[Statement]) -> list[int]:
    """Run statements in order, and return how many rows each changed."""
    counts = []
    for query, parameters in statements:
        if isinstance(parameters, Mapping):
            counts.append(change(connection, query, {**parameters, "tenant_id": tenant}))
        else:
            sets = ({**each, "tenant_id": tenant} for each in parameters)
            counts.append(change_each(connection, query, sets))
    return counts


def run_work(
    connection: apsw.Connection, tenant: TenantId, work: Callable[[Executor], Awaitable[T]], *, uncommitted: bool
) -> T:
    """Run a unit of work on a connection, on this thread."""
    executor = ConnectionExecutor(connection, tenant, uncommitted=uncommitted)
    try:
        return cast(T, drive(cast("Coroutine[Any, Any, T]", work(executor))))
    finally:
        executor.end()


class Database:
    """One opened file: the writer, the readers, the threads for long reads."""

    def __init__(
        self, path: str, *, synchronous: pragmas.Synchronous, readers: int, busy_timeout_s: float, clock: Clock
    ) -> None:
        """Open the file, creating it when it is missing. Blocks.

        Raises:
            NotADatabase, Unavailable, StorageError.
        """
        self.path = path
        self.synchronous = synchronous
        self.readers = readers
        self._busy_timeout_s = busy_timeout_s
        self._connection = open_writer(path, synchronous=synchronous, busy_timeout_s=busy_timeout_s)
        self.writer = Writer(self._connection, clock=clock, busy_timeout_s=busy_timeout_s)
        self._idle: deque[apsw.Connection] = deque()
        self._opened = 0
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._kinds: dict[str, bool] = {}
        self._closed = False

    # --- reading ------------------------------------------------------------------------------------------------------

    def borrow(self) -> apsw.Connection:
        """Take a reader. There is always one: each thread that reads holds one at a time, so threads bound their number.

        Raises:
            Unavailable: the store is closed, or the file cannot be opened any more.
        """
        if self._closed:
            raise Unavailable("The store is closed.", path=self.path)
        try:
            return self._idle.pop()
        except IndexError:
            connection = open_reader(self.path, busy_timeout_s=self._busy_timeout_s)
            with self._lock:
                self._opened += 1
            return connection

    def give_back(self, connection: apsw.Connection) -> None:
        """Return a reader; what exceeds the configured number is closed."""
        if self._closed or len(self._idle) >= self.readers:
            self._close_reader(connection)
        else:
            self._idle.append(connection)

    def _close_reader(self, connection: apsw.Connection) -> None:
        connection.close()
        with self._lock:
            self._opened -= 1

    def reads(self, query: Query) -> bool:
        """Say whether a query only reads."""
        known = self._kinds.get(query.sql)
        return self._learn(query) if known is None else known

    def _learn(self, query: Query) -> bool:
        connection = self.borrow()
        try:
            kind = is_read(connection, query)
        finally:
            self.give_back(connection)
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[query.sql] = kind
        return kind

    def snapshot(self, tenant: TenantId, work: Callable[[Executor], Awaitable[T]]) -> T:
        """Run a unit of reads over one snapshot, on this thread."""
        connection = self.borrow()
        try:
            control(connection, "BEGIN")
            try:
                return run_work(connection, tenant, work, uncommitted=False)
            finally:
                roll_back(connection)  # nothing was written: ending it any way is the same
        finally:
            self.give_back(connection)

    def threads(self) -> ThreadPoolExecutor:
        """Return the threads on which long reads run; there are none before the first."""
        with self._lock:
            if self._closed:
                raise Unavailable("The store is closed.", path=self.path)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.readers, thread_name_prefix="llmspell-reader")
            return self._threads

    def pool_status(self) -> PoolStatus:
        """Report connections: the writer and the readers open now, the unused readers, the writes that wait."""
        return PoolStatus(size=1 + self._opened, available=len(self._idle), waiting=self.writer.waiting)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish queued writes and running reads, then close every connection. Blocks; closing twice is allowed."""
        with self._lock:
            first, self._closed = not self._closed, True
        self.writer.close()
        if not first:
            return
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        while self._idle:
            self._close_reader(self._idle.pop())
        self._connection.close()


class FileUnit:
    """`Unit` of one tenant in which each call is a unit of work of its own."""

    __slots__ = ("_database", "tenant")

    def __init__(self, database: Database, tenant: TenantId) -> None:
        self._database = database
        self.tenant = tenant

    @property
    def in_transaction(self) -> bool:
        return False

    @property
    def undone_blocks(self) -> int:
        return 0

    async def rows(self, query: Query, /, **params: Any) -> list[Row]:
        params["tenant_id"] = self.tenant
        database = self._database
        if observed():
            notify_round_trip(query.label)
        if not database.reads(query):
            return await self._submit(functools.partial(fetch, query=query, parameters=params))  # type: ignore[no-any-return]
        connection = database.borrow()
        try:
            return fetch(connection, query, params)
        finally:
            database.give_back(connection)

    async def row(self, query: Query, /, **params: Any) -> Row | None:
        rows = await self.rows(query, **params)
        return rows[0] if rows else None

    async def value(self, query: Query, /, **params: Any) -> Any:
        rows = await self.rows(query, **params)
        return rows[0][0] if rows else None

    async def execute(self, query: Query, /, **params: Any) -> int:
        params["tenant_id"] = self.tenant
        if observed():
            notify_round_trip(query.label)
        return await self._submit(functools.partial(change, query=query, parameters=params))  # type: ignore[no-any-return]

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        if not statements:
            return []
        if observed():
            notify_round_trip(statements[0][0].label)
        single = len(statements) == 1 and isinstance(statements[0][1], Mapping)
        run = functools.partial(run_batch, tenant=self.tenant, statements=statements)
        return await self._submit(run, several=not single)  # type: ignore[no-any-return]

    async def rows_after(self, statements: Sequence[Statement], query: Query, /, **params: Any) -> list[Row]:
        if observed():
            notify_round_trip(query.label)
        run = functools.partial(run_rows_after, tenant=self.tenant, statements=[*statements, (query, params)])
        return await self._submit(run, several=True)  # type: ignore[no-any-return]

    async def read(self, work: Callable[[Executor], Awaitable[T]], *, heavy: bool = False) -> T:
        if observed():
            notify_round_trip("read")
        if not heavy:
            return self._database.snapshot(self.tenant, work)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._database.threads(), self._database.snapshot, self.tenant, work)

    async def write(self, work: Callable[[Executor], Awaitable[T]], *, large: bool = False) -> T:
        if observed():
            notify_round_trip("write")
        run = functools.partial(run_work, tenant=self.tenant, work=work, uncommitted=True)
        return await self._submit(run, several=not large, alone=large)  # type: ignore[no-any-return]

    def _submit(
        self, run: Callable[[apsw.Connection], Any], *, several: bool = False, alone: bool = False
    ) -> asyncio.Future[Any]:
        return self._database.writer.submit(Job(run, several=several, alone=alone))


class TransactionUnit:
    """`Unit` of one tenant inside a transaction: every call runs on the writer's connection, in its transaction."""

    __slots__ = ("_session", "savepoints", "tenant")

    def __init__(self, session: Session, tenant: TenantId) -> None:
        self._session = session
        self.savepoints = Savepoints()
        self.tenant = tenant

    @property
    def in_transaction(self) -> bool:
        return True

    @property
    def undone_blocks(self) -> int:
        return self.savepoints.undone

    async def rows(self, query: Query, /, **params: Any) -> list[Row]:
        params["tenant_id"] = self.tenant
        return await self._submit(functools.partial(fetch, query=query, parameters=params))  # type: ignore[no-any-return]

    async def row(self, query: Query, /, **params: Any) -> Row | None:
        rows = await self.rows(query, **params)
        return rows[0] if rows else None

    async def value(self, query: Query, /, **params: Any) -> Any:
        rows = await self.rows(query, **params)
        return rows[0][0] if rows else None

    async def execute(self, query: Query, /, **params: Any) -> int:
        params["tenant_id"] = self.tenant
        return await self._submit(functools.partial(change, query=query, parameters=params))  # type: ignore[no-any-return]

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        run = functools.partial(run_batch, tenant=self.tenant, statements=statements)
        return await self._submit(run, several=True)  # type: ignore[no-any-return]

    async def rows_after(self, statements: Sequence[Statement], query: Query, /, **params: Any) -> list[Row]:
        run = functools.partial(run_rows_after, tenant=self.tenant, statements=[*statements, (query, params)])
        return await self._submit(run, several=True)  # type: ignore[no-any-return]

    async def read(self, work: Callable[[Executor], Awaitable[T]], *, heavy: bool = False) -> T:
        # The transaction is the snapshot, and its thread is not the caller's: `heavy` changes nothing.
        run = functools.partial(run_work, tenant=self.tenant, work=work, uncommitted=True)
        return await self._submit(run)  # type: ignore[no-any-return]

    async def write(self, work: Callable[[Executor], Awaitable[T]], *, large: bool = False) -> T:
        # Always in a savepoint, `large` or not: a call that fails must be undone alone.
        run = functools.partial(run_work, tenant=self.tenant, work=work, uncommitted=True)
        return await self._submit(run, several=True)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Hold a savepoint for the length of a block. Savepoints of one name nest: the innermost is meant."""
        mark = self.savepoints.enter()
        await self._submit(functools.partial(_control_all, statements=("SAVEPOINT block",)))
        try:
            yield
        except BaseException:
            self._leave_block(mark, undone=True)
            with contextlib.suppress(LlmspellError):  # the transaction is over: the block is gone with it
                await self._control("ROLLBACK TO block", "RELEASE block")
            raise
        self._leave_block(mark)
        await self._control("RELEASE block")

    def _leave_block(self, mark: object, *, undone: bool = False) -> None:
        try:
            self.savepoints.leave(mark, undone=undone)
        except TransactionError:
            self._session.submit(ending("ROLLBACK"))
            raise

    async def _control(self, *statements: str) -> None:
        # Shielded: a cancelled caller must not leave the block open for what comes after.
        await asyncio.shield(self._submit(functools.partial(_control_all, statements=statements)))

    def _submit(self, run: Callable[[apsw.Connection], Any], *, several: bool = False) -> asyncio.Future[Any]:
        if observed():
            notify_round_trip("transaction")
        return self._session.submit(Job(run, several=several))


def _control_all(connection: apsw.Connection, *, statements: Sequence[str]) -> None:
    for statement in statements:
        control(connection, statement)


@contextlib.asynccontextmanager
async def transaction(database: Database, tenant: TenantId, timeout_s: float) -> AsyncIterator[TransactionUnit]:
    """Hold the writer from entry to exit: commit when the block ends normally, roll back otherwise.

    Raises:
        TransactionTimeout: `timeout_s` passed since the transaction began; it was rolled back by then.
        Unavailable: other processes held the lock too long.
    """
    session = Session(timeout_s)
    opened = database.writer.submit(session)
    with _rolled_back_on_failure(session):
        await opened
        try:
            # The writer rolls back at its own deadline; this one ends a block that waits for something else.
            async with asyncio.timeout(timeout_s) as limit:
                unit = TransactionUnit(session, tenant)
                yield unit
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TransactionTimeout(timeout_s=timeout_s) from exc
        if limit.expired():  # the block held on to its cancellation
            raise TransactionTimeout(timeout_s=timeout_s)
        unit.savepoints.require_none()
        # A cancelled commit may land or not, but never by half; the writer needs no answer from here.
        await session.submit(ending("COMMIT"))


@contextlib.contextmanager
def _rolled_back_on_failure(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(LlmspellError):  # it is over already: there is nothing to roll back
            session.submit(ending("ROLLBACK"))
        raise
