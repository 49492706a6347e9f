"""A database as source and target of a transfer.

Rule 1: one tenant's rows are read and written by the serving role, under row-level security; all tenants' by the operator's.
Rule 2: an export is one snapshot (REPEATABLE READ), read in pages behind a key; large rows are asked for their sizes first.
Rule 3: an import is one transaction. It is READ COMMITTED, as the counting of quotas demands when tenants are registered.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from llmspell.codec import decode_json, encode_json
from llmspell.errors import CorruptStore, LlmspellError
from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.contracts.transfer import (
    BATCH_BYTES,
    BATCH_ROWS,
    TRANSFER_TIMEOUT_S,
    Conflicting,
    OnConflict,
    Record,
    Table,
    open_instant,
    shown_instant,
)
from llmspell.storage.postgres.binary_arrays import column
from llmspell.storage.postgres.executor import Inside, InTransaction, Transaction
from llmspell.storage.postgres.link import BEGIN_READ, BEGIN_WRITE
from llmspell.storage.relational.catalog import Catalog, Query
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.table_queries import TENANT_PARAMETER
from llmspell.storage.relational.transfer import RelationalImport, with_row
from llmspell.storage.relational.transfer_rows import Forms, SourceQueries, TableRows
from llmspell.tenant import NO_TENANT, TenantId

if TYPE_CHECKING:
    from llmspell.storage.postgres.database import Database
    from llmspell.storage.relational.database import Executor

T = TypeVar("T")
MARK_BITS = 63
MARK_TIMEOUT_S = 30.0
_EMPTY = msgspec.Raw(b"{}")


def _json(text: str) -> msgspec.Raw:
    return _EMPTY if text == "{}" else msgspec.Raw(encode_json(decode_json(text)).encode())


def _damaged(table: Table, exc: Exception) -> LlmspellError:
    return CorruptStore("A value in the database cannot be read.", table=table.name, detail=str(exc))


FORMS = Forms(
    to_record={"json": _json, "open_instant": open_instant},
    to_member={"uuid": str, "instant": shown_instant},
    damaged=_damaged,
)


class ServerSource:
    """`TransferSource` over one snapshot."""

    backend = "postgresql"

    def __init__(self, executor: Executor, runtime: Runtime, status: MigrationStatus, tenant: TenantId | None) -> None:
        self.migrations = status.applied
        self.schema_version = status.version
        self._executor = executor
        self._queries = SourceQueries(runtime.catalog, tenant)

    async def count(self, table: Table) -> int:
        return int(await self._executor.value(self._queries.count(table)))

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Record]]:
        rows = TableRows(table, FORMS)
        position: dict[str, Any] = {}
        while True:
            after = position.get("after")
            limit = await self._fitting(table, position) if table.large else _page_rows(table)
            found = await self._executor.rows(self._queries.page(table, after), limit=limit, **position)
            records = rows.records(found)
            if records:
                yield records
                position = {"after": rows.key(records[-1])}
            if len(found) < limit:
                return

    async def _fitting(self, table: Table, position: dict[str, Any]) -> int:
        """Return how many of the next rows make a batch: at least one."""
        query = self._queries.sizes(table, position.get("after"))
        sizes = await self._executor.rows(query, limit=BATCH_ROWS, **position)
        total = 0
        for place, (size,) in enumerate(sizes, 1):
            total += size
            if total >= BATCH_BYTES:
                return place
        return BATCH_ROWS


def _page_rows(table: Table) -> int:
    """Return how many rows of a fixed size make a batch."""
    return BATCH_ROWS if table.dimension is None else min(BATCH_ROWS, BATCH_BYTES // (8 * table.dimension))


@asynccontextmanager
async def source(
    database: Database, runtime: Runtime, status: MigrationStatus, tenant: TenantId | None
) -> AsyncIterator[ServerSource]:
    """Open a snapshot of a database."""
    opened = database.opened(tenant or NO_TENANT, BEGIN_READ, timeout_s=TRANSFER_TIMEOUT_S)
    try:
        yield ServerSource(Inside(opened), runtime, status, tenant)
    finally:
        await opened.leave()


async def same_database(one: Database, other: Database, catalog: Catalog) -> bool:
    """Say whether two pools lead to one database: a lock that one transaction holds is one that the other does not get.

    Names of hosts do not tell, and neither does what a server says of itself: a standby that was promoted, or a server that was
    recovered beside the first, has the same identifiers, and moving rows back from there is what it is for.
    """
    mark = secrets.randbits(MARK_BITS)
    opened = [database.opened(NO_TENANT, BEGIN_READ, timeout_s=MARK_TIMEOUT_S) for database in (one, other)]
    try:
        held = [bool(await Inside(each).value(catalog.transfer.take_mark, mark=mark)) for each in opened]
    finally:
        for each in opened:
            await each.leave()
    return held == [True, False]


class _ForTenant(Inside):
    """Statements of the transaction in which `:tenant_id` is another tenant than the one that is bound: the operator's."""

    def __init__(self, transaction: Transaction, tenant: TenantId) -> None:
        super().__init__(transaction)
        self._tenant = tenant
        self._tenant_text = tenant.encode()


class ServerHands:
    """`Hands` inside of a transaction."""

    def __init__(self, transaction: Transaction, runtime: Runtime) -> None:
        self._transaction = transaction
        self._unit = InTransaction(transaction)
        self._runtime = runtime
        self._vector_type: int | None = None

    def executor(self, tenant: TenantId) -> Executor:
        return _ForTenant(self._transaction, tenant)

    async def insert(self, query: Query, table: Table, records: Sequence[Record], computed: Sequence[Any]) -> None:
        if self._vector_type is None:
            found = await self.executor(self._transaction.tenant).value(self._runtime.catalog.transfer.vector_type)
            self._vector_type = int(found)
        try:
            await self._together(query, table, records, computed)
        except LlmspellError as exc:
            if exc.retryable or len(records) == 1:
                raise with_row(exc, 0) from None
            await self._one_by_one(query, table, records, computed)
            raise

    async def _together(self, query: Query, table: Table, records: Sequence[Record], computed: Sequence[Any]) -> None:
        columns = self._columns(table, records, computed)

        async def work(executor: Executor) -> None:
            await executor.execute(query, **columns)

        await self._unit.write(work)

    async def _one_by_one(self, query: Query, table: Table, records: Sequence[Record], computed: Sequence[Any]) -> None:
        """Find the record that the server refuses, and raise its error."""
        for place, (record, more) in enumerate(zip(records, computed, strict=True)):
            try:
                await self._together(query, table, [record], [more])
            except LlmspellError as exc:
                raise with_row(exc, place) from None

    def _columns(self, table: Table, records: Sequence[Record], computed: Sequence[Any]) -> dict[str, Any]:
        kind_of_vectors = self._vector_type or 0
        columns: dict[str, Any] = {
            name: column(kind, [getattr(record, name) for record in records], vector_type=kind_of_vectors)
            for name, kind in table.kinds.items()
        }
        columns[TENANT_PARAMETER] = columns.pop("tenant_id")
        for place, extra in enumerate(table.computed):
            columns[extra.name] = column(
                extra.kind, [more[place] for more in computed] if computed[0] else [0], vector_type=kind_of_vectors
            )
        return columns

    async def before_vectors(self, tenant: TenantId, space_id: str, dimension: int) -> None:
        """Nothing: no cache catches up by change numbers here."""

    async def vectors_removed(self, tenant: TenantId) -> None:
        """Nothing, as above."""


class ServerTarget:
    """`TransferTarget` in one transaction."""

    def __init__(self, opened: Transaction, work: RelationalImport, runtime: Runtime) -> None:
        self._opened = opened
        self._import = work
        self._runtime = runtime

    async def write(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        return await self._import.write(table, rows)

    async def finish(self) -> list[str]:
        return await self._import.finish()

    async def commit(self) -> None:
        await self._opened.commit()


@asynccontextmanager
async def target(
    database: Database, runtime: Runtime, tenant: TenantId | None, on_conflict: OnConflict
) -> AsyncIterator[ServerTarget]:
    """Open the transaction of an import."""
    opened = database.opened(tenant or NO_TENANT, BEGIN_WRITE, timeout_s=TRANSFER_TIMEOUT_S)
    try:
        hands = ServerHands(opened, runtime)
        # One tenant's rows come in by the role that serves it, and that role grants nothing to anybody.
        operator = tenant is None
        work = RelationalImport(hands, runtime, FORMS, tenant=tenant, on_conflict=on_conflict, operator=operator)
        yield ServerTarget(opened, work, runtime)
    finally:
        await opened.leave()
