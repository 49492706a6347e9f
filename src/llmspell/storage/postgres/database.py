"""Units of work on PostgreSQL.

Forms, by what they cost on the wire:
    a call outside a transaction    one round trip: tenant, statement(s), Sync; an implicit transaction
    read(work)                      BEGIN REPEATABLE READ READ ONLY and the tenant ride with the first statement; COMMIT at the end
    write(work)                     the same, READ COMMITTED
    transaction()                   the same, REPEATABLE READ, with a time limit; write(work) inside it is a savepoint
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg

from llmspell.errors import TransactionTimeout
from llmspell.storage.postgres.dialect import adapt
from llmspell.storage.postgres.errors import connection_failed
from llmspell.storage.postgres.executor import Inside, InTransaction, OneShot, Transaction
from llmspell.storage.postgres.link import BEGIN_READ, BEGIN_SERIAL, BEGIN_WRITE, Link
from llmspell.storage.postgres.pool import Pool, PoolSettings
from llmspell.storage.postgres.roles import Facts, read_facts

if TYPE_CHECKING:
    from llmspell.clock import Clock
    from llmspell.storage.postgres.address import Target
    from llmspell.storage.postgres.statements import Command
    from llmspell.storage.relational.database import Executor, T
    from llmspell.tenant import TenantId


class Connector:
    """Makes connections that are fit to serve."""

    def __init__(self, target: Target, *, statement_cache_size: int, require: Callable[[Facts], None]) -> None:
        """`require` raises when a connection is not fit for what it shall serve (`roles`)."""
        self._target = target
        self._statement_cache_size = statement_cache_size
        self._require = require

    async def __call__(self) -> Link:
        """Connect and check.

        Raises:
            Unavailable, StorageError, MissingExtension, UnsafeRole.
        """
        try:
            connection = await psycopg.AsyncConnection.connect(
                autocommit=True, prepare_threshold=None, **self._target.parameters
            )
        except (psycopg.Error, OSError) as exc:
            raise connection_failed(exc, target=self._target.shown) from None
        try:
            facts = await read_facts(connection)
            self._require(facts)
        except psycopg.Error as exc:
            connection.pgconn.finish()
            raise connection_failed(exc, target=self._target.shown) from None
        except BaseException:
            connection.pgconn.finish()
            raise
        adapt(connection, vector_oid=facts.vector_oid)
        return Link(connection, statement_cache_size=self._statement_cache_size)


class Database:
    """One database behind a pool."""

    def __init__(self, connect: Callable[[], Awaitable[Link]], settings: PoolSettings, *, clock: Clock) -> None:
        self.pool = Pool(connect, settings)
        self._clock = clock

    def unit(self, tenant: TenantId) -> DirectUnit:
        """Units of work of a tenant, each by itself."""
        return DirectUnit(self.pool, tenant, clock=self._clock)

    @asynccontextmanager
    async def transaction(self, tenant: TenantId, *, timeout_s: float) -> AsyncIterator[InTransaction]:
        """Open a transaction (REPEATABLE READ) that commits when the block ends normally."""
        opened = Transaction(self.pool, tenant, BEGIN_SERIAL, clock=self._clock, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                unit = InTransaction(opened)
                yield unit
            unit.savepoints.require_none()
            await opened.commit()
        except TimeoutError:
            if limit.expired():
                raise TransactionTimeout(timeout_s=timeout_s) from None
            raise
        finally:
            await opened.leave()


class DirectUnit(OneShot):
    """`Unit` outside a transaction."""

    def __init__(self, pool: Pool, tenant: TenantId, *, clock: Clock) -> None:
        super().__init__(pool, tenant)
        self._clock = clock

    @property
    def in_transaction(self) -> bool:
        return False

    @property
    def undone_blocks(self) -> int:
        return 0

    async def read(self, work: Callable[[Executor], Awaitable[T]], *, heavy: bool = False) -> T:
        """Run `work` over one snapshot."""
        del heavy  # the server does the work, whatever it costs
        return await self._within(BEGIN_READ, work)

    async def write(self, work: Callable[[Executor], Awaitable[T]], *, large: bool = False) -> T:
        """Run `work` atomically."""
        del large  # every unit of work has a transaction of its own
        return await self._within(BEGIN_WRITE, work)

    async def _within(self, begin: Command, work: Callable[[Executor], Awaitable[T]]) -> T:
        opened = Transaction(self._pool, self.tenant, begin, clock=self._clock, timeout_s=None)
        try:
            result = await work(Inside(opened))
            await opened.commit()
        finally:
            await opened.leave()
        return result
