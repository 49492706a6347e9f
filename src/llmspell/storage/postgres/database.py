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

from llmspell.errors import SignatureRefused, TenantKeyMissing, TransactionTimeout
from llmspell.storage.postgres.dialect import adapt
from llmspell.storage.postgres.errors import connection_failed
from llmspell.storage.postgres.executor import Binder, Inside, InTransaction, OneShot, Transaction
from llmspell.storage.postgres.link import BEGIN_READ, BEGIN_SERIAL, BEGIN_WRITE, VERIFY_TENANT, Link, bind_tenant
from llmspell.storage.postgres.pool import Pool, PoolSettings
from llmspell.storage.postgres.roles import Facts, read_facts
from llmspell.storage.postgres.statements import bind_texts
from llmspell.tenant import DEFAULT_TENANT, TenantId

if TYPE_CHECKING:
    from llmspell.clock import Clock
    from llmspell.storage.postgres.address import Target
    from llmspell.storage.postgres.statements import Command
    from llmspell.storage.postgres.tenant_key import Signer
    from llmspell.storage.relational.database import Executor, T


class Connector:
    """Makes connections that are fit to serve."""

    def __init__(
        self,
        target: Target,
        *,
        statement_cache_size: int,
        require: Callable[[Facts], None],
        signer: Signer | None = None,
        needs_key: bool = True,
    ) -> None:
        """`require` raises when a connection is not fit for what it shall serve (`roles`). `signer` signs its tenants.

        `needs_key`: a connection that must sign and cannot is refused; False is for who looks at the database, and reads no rows.
        """
        self._target = target
        self._needs_key = needs_key
        self._signer = signer
        self._statement_cache_size = statement_cache_size
        self._require = require

    async def __call__(self) -> Link:
        """Connect and check.

        Raises:
            Unavailable, StorageError, MissingExtension, UnsafeRole.
            TenantKeyMissing, SignatureRefused: the database demands signed tenants, and there is no key, or another one, or the
                database was restored and has none itself.
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
            if facts.signed:
                self._require_key(facts)
        except psycopg.Error as exc:
            connection.pgconn.finish()
            raise connection_failed(exc, target=self._target.shown) from None
        except BaseException:
            connection.pgconn.finish()
            raise
        adapt(connection, vector_oid=facts.vector_oid)
        link = Link(connection, statement_cache_size=self._statement_cache_size)
        if self._signer is not None:
            await self._introduce(self._signer, link, facts)
        return link

    def _require_key(self, facts: Facts) -> None:
        if self._signer is None and not self._needs_key:
            return
        if facts.keys_lost:
            raise SignatureRefused(
                "This database was restored from a signed one: a backup has no signing keys, so no tenant is believed.",
                hint="Run: llmspell database signing enable --key-file … (the key of the applications; with DATABASE_ADMIN_URL)."
                " Or demand no signatures any more: llmspell database signing disable",
            )
        if self._signer is None:
            raise TenantKeyMissing(
                hint="Set LLMSPELL_TENANT_KEY, LLMSPELL_TENANT_KEY_FILE or storage.postgres.tenant_key."
            )

    async def _introduce(self, signer: Signer, link: Link, facts: Facts) -> None:
        """Tell the signer the server's clock, and where signatures are demanded, have one verified before any is relied on."""
        signer.server_says(facts.server_time_s)
        if not facts.signed:
            return
        try:
            asked = (signer(DEFAULT_TENANT.encode()), bind_texts(VERIFY_TENANT))
            await link.exchange(asked, commits=False, name=VERIFY_TENANT.label)
        except SignatureRefused:
            link.close()
            raise SignatureRefused(query=VERIFY_TENANT.label, key=signer.key_id) from None
        except BaseException:
            link.close()
            raise


class Database:
    """One database behind a pool."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        settings: PoolSettings,
        *,
        clock: Clock,
        binder: Binder = bind_tenant,
    ) -> None:
        """`binder` binds tenants: a `Signer`, or without signatures `bind_tenant`."""
        self.pool = Pool(connect, settings)
        self._clock = clock
        self._binder = binder

    def unit(self, tenant: TenantId) -> DirectUnit:
        """Units of work of a tenant, each by itself."""
        return DirectUnit(self.pool, tenant, binder=self._binder, clock=self._clock)

    @asynccontextmanager
    async def transaction(self, tenant: TenantId, *, timeout_s: float) -> AsyncIterator[InTransaction]:
        """Open a transaction (REPEATABLE READ) that commits when the block ends normally."""
        opened = Transaction(
            self.pool, tenant, BEGIN_SERIAL, binder=self._binder, clock=self._clock, timeout_s=timeout_s
        )
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

    def opened(self, tenant: TenantId, begin: Command, *, timeout_s: float) -> Transaction:
        """Open a transaction that the caller commits and leaves, with the isolation that `begin` says."""
        return Transaction(self.pool, tenant, begin, binder=self._binder, clock=self._clock, timeout_s=timeout_s)


class DirectUnit(OneShot):
    """`Unit` outside a transaction."""

    def __init__(self, pool: Pool, tenant: TenantId, *, binder: Binder, clock: Clock) -> None:
        super().__init__(pool, tenant, binder=binder)
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
        opened = Transaction(self._pool, self.tenant, begin, binder=self._binder, clock=self._clock, timeout_s=None)
        try:
            result = await work(Inside(opened))
            await opened.commit()
        finally:
            await opened.leave()
        return result
