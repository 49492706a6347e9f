"""Executors: named queries for one tenant, alone or inside a transaction.

Rule 1: the tenant is bound in the very exchange that runs the first statement, local to its transaction, as a parameter; with it
goes its signature, where the store has a key, and a transaction that outlives a signature sends the next one with a statement.
Rule 2: what must be said first (BEGIN, the tenant, SAVEPOINT) travels with the first statement: it costs no round trip of its own.
Rule 3: a transaction that failed or was cancelled is rolled back before its connection goes back, or the connection is closed.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from llmspell import observe
from llmspell.errors import LlmspellError, TransactionClosed, TransactionError, TransactionTimeout
from llmspell.storage.contracts.backend import Savepoints
from llmspell.storage.postgres.link import COMMIT, ROLLBACK, Link
from llmspell.storage.postgres.statements import Bound, Command, bind, bind_texts, command, fixed

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from llmspell.clock import Clock
    from llmspell.storage.postgres.pool import Pool
    from llmspell.storage.relational.catalog import Query
    from llmspell.storage.relational.database import Executor, Params, Row, Statement, T
    from llmspell.tenant import TenantId

ROLLBACK_TIMEOUT_S = 5.0
"""How long a rollback after a failure may take before the connection is closed instead."""
SERVER_GRACE_S = 1.0
"""The server ends a transaction so much later than we would: it is the second lock, for a client that hangs."""
UNIT_IDLE_S = 30.0
"""The server ends a unit of work whose client has been silent for so long."""
TRANSACTION_TIMEOUT_VERSION = 170_000
_LIMIT_SILENCE = fixed("driver.limits", "SELECT set_config('idle_in_transaction_session_timeout', $1, true)")
_LIMIT_LENGTH = fixed("driver.limits", "SELECT set_config('transaction_timeout', $1, true)")


_SAVEPOINT = fixed("driver.savepoint", "SAVEPOINT llmspell_unit")
_RELEASE = fixed("driver.savepoint", "RELEASE SAVEPOINT llmspell_unit")
_UNDO = fixed("driver.savepoint", "ROLLBACK TO SAVEPOINT llmspell_unit")

Binder: TypeAlias = "Callable[[bytes], Bound]"
"""Makes the statement that binds a tenant, signed or not."""
Answer: TypeAlias = "tuple[list[PGresult], list[Row]]"
"""The result of each statement, and the rows of the last when they were wanted."""


class Runner(ABC):
    """The five calls of an `Executor`, over one way to run bound statements."""

    def __init__(self, tenant: TenantId) -> None:
        self._tenant = tenant
        self._tenant_text = tenant.encode()

    @property
    def tenant(self) -> TenantId:
        return self._tenant

    @abstractmethod
    async def _run(self, statements: Iterable[Bound], name: str, *, writes: bool, decode: bool) -> Answer:
        """Run statements in one exchange. `decode`: the rows of the last one are wanted."""

    async def rows(self, query: Query, /, **params: Any) -> list[Row]:
        return await self._rows(query, params)

    async def row(self, query: Query, /, **params: Any) -> Row | None:
        found = await self._rows(query, params)
        return found[0] if found else None

    async def value(self, query: Query, /, **params: Any) -> Any:
        found = await self._rows(query, params)
        return found[0][0] if found else None

    async def execute(self, query: Query, /, **params: Any) -> int:
        statement = command(query)
        started = time.perf_counter() if observe.observed() else 0.0
        bound = bind(statement, self._tenant_text, params)
        results, _ = await self._run((bound,), statement.label, writes=statement.writes, decode=False)
        changed = results[-1].command_tuples or 0
        if started:
            observe.notify_query(statement.label, time.perf_counter() - started, changed)
        return changed

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        if not statements:
            return []
        commands = [command(query) for query, _ in statements]
        if not sum(_sizes(statements)):
            return [0] * len(statements)
        started = time.perf_counter() if observe.observed() else 0.0
        writes = any(statement.writes for statement in commands)
        results, _ = await self._run(self._bound(commands, statements), commands[0].label, writes=writes, decode=False)
        counts = _counts(results, _sizes(statements))
        if started:
            seconds = (time.perf_counter() - started) / len(commands)
            for statement, changed in zip(commands, counts, strict=True):
                observe.notify_query(statement.label, seconds, changed)
        return counts

    async def rows_after(self, statements: Sequence[Statement], query: Query, /, **params: Any) -> list[Row]:
        asked: list[Statement] = [*statements, (query, params)]
        commands = [command(one) for one, _ in asked]
        started = time.perf_counter() if observe.observed() else 0.0
        writes = any(statement.writes for statement in commands)
        results, rows = await self._run(self._bound(commands, asked), commands[-1].label, writes=writes, decode=True)
        if started:
            seconds = (time.perf_counter() - started) / len(commands)
            for statement, changed in zip(commands, _counts(results, _sizes(asked)), strict=True):
                observe.notify_query(statement.label, seconds, changed)
        return rows

    def _bound(self, commands: Sequence[Command], statements: Sequence[Statement]) -> Iterator[Bound]:
        """Encode values only when their turn comes: ten thousand vectors need not exist twice."""
        for statement, (_, params) in zip(commands, statements, strict=True):
            sets: Iterable[Params] = (params,) if _is_single(params) else params  # type: ignore[assignment]
            for values in sets:
                yield bind(statement, self._tenant_text, values)

    async def _rows(self, query: Query, params: dict[str, Any]) -> list[Row]:
        statement = command(query)
        started = time.perf_counter() if observe.observed() else 0.0
        bound = bind(statement, self._tenant_text, params)
        _, rows = await self._run((bound,), statement.label, writes=statement.writes, decode=True)
        if started:
            observe.notify_query(statement.label, time.perf_counter() - started, len(rows))
        return rows


def _is_single(params: object) -> bool:
    return hasattr(params, "keys")


def _sizes(statements: Sequence[Statement]) -> list[int]:
    """How often each statement runs."""
    return [1 if _is_single(params) else len(params) for _, params in statements]


def _counts(results: Sequence[PGresult], sizes: Sequence[int]) -> list[int]:
    """Rows changed by each statement; what was said before the first of them has results too, which do not count."""
    counts: list[int] = []
    position = len(results) - sum(sizes)
    for size in sizes:
        counts.append(sum(result.command_tuples or 0 for result in results[position : position + size]))
        position += size
    return counts


class OneShot(Runner):
    """Each call is an implicit transaction of its own: tenant, statements and Sync in one round trip."""

    def __init__(self, pool: Pool, tenant: TenantId, *, binder: Binder) -> None:
        super().__init__(tenant)
        self._pool = pool
        self._binder = binder

    async def _run(self, statements: Iterable[Bound], name: str, *, writes: bool, decode: bool) -> Answer:
        link = await self._pool.acquire()
        try:
            asked = chain((self._binder(self._tenant_text),), statements)
            results = await link.exchange(asked, commits=writes, name=name)
            return results, link.rows(results[-1]) if decode else []
        finally:
            self._pool.release(link)


class Transaction:
    """One transaction on one connection, which is taken for the first statement, not before."""

    def __init__(
        self, pool: Pool, tenant: TenantId, begin: Command, *, binder: Binder, clock: Clock, timeout_s: float | None
    ) -> None:
        """`timeout_s`: how long it may last from now; None leaves only the server's limit on silence."""
        self.tenant = tenant
        self._tenant_text = tenant.encode()
        self._pool = pool
        self._binder = binder
        self._clock = clock
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        self._link: Link | None = None
        self._pending: list[Bound] = [bind_texts(begin)]
        self._binding: Bound | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self._expired = False
        self._abandoned = False
        self._wrote = False

    async def run(self, statements: Iterable[Bound], name: str, *, writes: bool, decode: bool) -> Answer:
        """Run statements in one exchange, together with what had to be said before them.

        Raises:
            TransactionClosed, TransactionTimeout.
        """
        async with self._turn:
            self.require_open()
            try:
                return await self._run(statements, name, writes=writes, decode=decode)
            finally:
                if self._abandoned:
                    self._drop()

    async def commit(self) -> None:
        """End it well.

        Raises:
            TransactionError: a statement had failed, and the failure was not undone: all was rolled back.
            TransactionTimeout: the limit has passed: all was rolled back.
            OutcomeUnknown: the answer was lost.
        """
        async with self._turn:
            self.require_open()
            await self._require_time()
            self._closed = True
            if self._link is None:
                return
            # No limit of ours on a commit: stopping it would leave its outcome open. The server's own still holds.
            asked = chain(self._pending, (bind_texts(COMMIT),))
            results = await self._link.exchange(asked, commits=self._wrote, name=COMMIT.label)
            if results[-1].command_status == b"ROLLBACK":
                raise TransactionError(
                    "A statement had failed, so the transaction was rolled back; nothing was written."
                )

    async def leave(self) -> None:
        """Give the connection back; what was not committed is rolled back first. Calling it twice is allowed."""
        self._closed = True
        try:
            async with self._turn:
                await self._give_back()
        except asyncio.CancelledError:
            # Somebody else's statement may still be under way; whoever runs it drops the connection then.
            self._abandoned = True
            if not self._turn.locked():
                self._drop()
            raise

    def savepoint(self) -> Bound:
        """Set a savepoint before the next statement; return it for `release` or `undo`. One at a time."""
        self.require_open()
        opening = bind_texts(_SAVEPOINT)
        self._pending.append(opening)
        return opening

    def release(self, opening: Bound) -> None:
        """Keep what was done since a savepoint."""
        if not self._unsent(opening):
            self._pending.append(bind_texts(_RELEASE))

    def undo(self, opening: Bound) -> None:
        """Take back what was done since a savepoint, before the next statement."""
        if not self._unsent(opening):
            self._pending += (bind_texts(_UNDO), bind_texts(_RELEASE))
            self._binding = None  # what was bound since the savepoint is undone too

    def require_open(self) -> None:
        """Raise unless statements can still run."""
        if self._expired:
            raise TransactionTimeout(timeout_s=self._timeout_s)
        if self._closed:
            raise TransactionClosed

    def _unsent(self, opening: Bound) -> bool:
        """Withdraw a savepoint that no statement followed; say whether that was so."""
        for position, waiting in enumerate(self._pending):
            if waiting is opening:
                del self._pending[position]
                return True
        return False

    async def _run(self, statements: Iterable[Bound], name: str, *, writes: bool, decode: bool) -> Answer:
        if self._link is None:
            self._link = await self._pool.acquire()
            # Behind BEGIN and before any savepoint, which may be undone.
            self._binding = self._binder(self._tenant_text)
            self._pending[1:1] = [self._binding, *self._limits(self._link)]
        await self._require_time()
        self._wrote = self._wrote or writes
        binding = self._binder(self._tenant_text)
        if binding != self._binding:
            self._pending.append(binding)
            self._binding = binding
        pending, self._pending = self._pending, []
        exchange = self._link.exchange(chain(pending, statements), commits=False, name=name)
        if self._deadline is None:
            results = await exchange
        else:
            try:
                async with asyncio.timeout(self._deadline - self._clock.monotonic()):
                    results = await exchange
            except TimeoutError:
                raise await self._out_of_time() from None
        return results, self._link.rows(results[-1]) if decode else []

    def _limits(self, link: Link) -> list[Bound]:
        idle_s = UNIT_IDLE_S if self._timeout_s is None else self._timeout_s + SERVER_GRACE_S
        limits = [bind_texts(_LIMIT_SILENCE, _milliseconds(idle_s))]
        if self._timeout_s is not None and link.server_version >= TRANSACTION_TIMEOUT_VERSION:
            limits.append(bind_texts(_LIMIT_LENGTH, _milliseconds(self._timeout_s + SERVER_GRACE_S)))
        return limits

    async def _require_time(self) -> None:
        if self._deadline is not None and self._clock.monotonic() >= self._deadline:
            raise await self._out_of_time()

    async def _out_of_time(self) -> TransactionTimeout:
        self._expired = True
        await self._give_back()
        return TransactionTimeout(timeout_s=self._timeout_s)

    async def _give_back(self) -> None:
        link = self._link
        if link is None:
            return
        try:
            if link.in_transaction:
                async with asyncio.timeout(ROLLBACK_TIMEOUT_S):
                    await link.exchange((bind_texts(ROLLBACK),), commits=False, name=ROLLBACK.label)
        except (LlmspellError, TimeoutError):
            link.close()
        finally:
            self._link = None
            self._pool.release(link)

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._pool.release(self._link)
            self._link = None


class Inside(Runner):
    """What a `work` function gets: statements of a transaction that somebody else ends."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction.tenant)
        self._transaction = transaction

    async def _run(self, statements: Iterable[Bound], name: str, *, writes: bool, decode: bool) -> Answer:
        return await self._transaction.run(statements, name, writes=writes, decode=decode)


class InTransaction(Inside):
    """`Unit` inside a transaction. One unit at a time: tasks may share it, and none gets into another's savepoint."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._inside = Inside(transaction)
        self._unit = asyncio.Lock()
        self.savepoints = Savepoints()

    @property
    def in_transaction(self) -> bool:
        return True

    @property
    def undone_blocks(self) -> int:
        return self.savepoints.undone

    async def read(self, work: Callable[[Executor], Awaitable[T]], *, heavy: bool = False) -> T:
        """Run `work` over the transaction's snapshot."""
        del heavy
        async with self._unit:
            return await work(self._inside)

    async def write(self, work: Callable[[Executor], Awaitable[T]], *, large: bool = False) -> T:
        """Run `work` in a savepoint."""
        del large
        async with self._unit:
            with self._savepoint():
                return await work(self._inside)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Hold a savepoint for the length of a block. Savepoints of one name nest: the innermost is meant."""
        async with self._unit:
            opening = self._transaction.savepoint()
            mark = self.savepoints.enter()
        try:
            yield
        except BaseException:
            await self._end_block(mark, partial(self._transaction.undo, opening), undone=True)
            raise
        await self._end_block(mark, partial(self._transaction.release, opening))

    async def _end_block(self, mark: object, end: Callable[[], None], *, undone: bool = False) -> None:
        async with self._unit:
            try:
                self.savepoints.leave(mark, undone=undone)
            except TransactionError:
                await self._transaction.leave()
                raise
            end()

    async def _run(self, statements: Iterable[Bound], name: str, *, writes: bool, decode: bool) -> Answer:
        async with self._unit:
            if not writes:
                return await super()._run(statements, name, writes=writes, decode=decode)
            # A call that fails is undone alone, as on every backend: whoever catches its error can go on.
            with self._savepoint():
                return await super()._run(statements, name, writes=writes, decode=decode)

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        savepoint = self._transaction.savepoint()
        try:
            yield
        except BaseException:
            self._transaction.undo(savepoint)
            raise
        self._transaction.release(savepoint)


def _milliseconds(seconds: float) -> bytes:
    return str(max(1, round(seconds * 1_000))).encode()
