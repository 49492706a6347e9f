"""A file as source and target of a transfer.

Rule 1: an export is one snapshot on a reader of its own; pages are read on the threads for long reads.
Rule 2: an import is one transaction of the one writer: others read meanwhile, and wait to write.
Rule 3: no savepoints: they would keep a copy of every old page that is written in memory. The first failure ends the import.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar, cast

import apsw
import msgspec

from llmspell.clock import from_microseconds, to_microseconds
from llmspell.codec import decode_json, encode_json
from llmspell.errors import CorruptStore, LlmspellError
from llmspell.ids import id_of
from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.contracts.transfer import (
    BATCH_BYTES,
    BATCH_ROWS,
    INFINITY,
    TRANSFER_TIMEOUT_S,
    Conflicting,
    Kind,
    OnConflict,
    Record,
    Table,
    read_open_instant,
    shown_instant,
)
from llmspell.storage.contracts.vectors import FREE_SPACE
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.table_queries import TENANT_PARAMETER
from llmspell.storage.relational.transfer import RelationalImport, with_row
from llmspell.storage.relational.transfer_rows import Forms, SourceQueries, TableRows
from llmspell.storage.sqlite import dialect
from llmspell.storage.sqlite.connection import control, drive, fetch, roll_back, translate
from llmspell.storage.sqlite.database import ConnectionExecutor, Database, FileUnit
from llmspell.storage.sqlite.writer import Job, Session, ending
from llmspell.tenant import NO_TENANT, TenantId

T = TypeVar("T")
_PARAMETER = re.compile(r":([a-z_0-9]+)")
ROWS_AT_ONCE = 100
"""Rows of one statement: they cost less together, and the reader's thread runs meanwhile. Its parameters are at most 32,766."""
_EMPTY = msgspec.Raw(b"{}")


def _json(text: str) -> msgspec.Raw:
    return _EMPTY if text == "{}" else msgspec.Raw(encode_json(decode_json(text)).encode())


def _open_instant(raw: int) -> str:
    return INFINITY if raw == dialect.INFINITY else shown_instant(from_microseconds(raw))


def _from_open_instant(text: str) -> int:
    end = read_open_instant(text, field="instant")
    return dialect.INFINITY if end is None else to_microseconds(end)


def _damaged(table: Table, exc: Exception) -> LlmspellError:
    return CorruptStore("A value in the file is damaged.", table=table.name, detail=str(exc), hint=dialect.DAMAGED_HINT)


FORMS = Forms(
    to_record={
        "uuid": id_of,
        "boolean": bool,
        "float": float,
        "json": _json,
        "texts": decode_json,
        "instant": from_microseconds,
        "open_instant": _open_instant,
    },
    to_member={"uuid": lambda value: value.hex, "instant": to_microseconds},
    damaged=_damaged,
)
PARAMETERS: dict[Kind, Callable[[Any], Any]] = {
    "uuid": lambda value: value.bytes,
    "boolean": int,
    "json": lambda value: bytes(value).decode(),
    "texts": encode_json,
    "instant": to_microseconds,
    "open_instant": _from_open_instant,
}
"""How the values of a record are said; what is missing travels as it is."""


class FileSource:
    """`TransferSource` over one snapshot."""

    backend = "sqlite"

    def __init__(
        self,
        database: Database,
        connection: apsw.Connection,
        runtime: Runtime,
        *,
        status: MigrationStatus,
        tenant: TenantId | None,
    ) -> None:
        self.migrations = status.applied
        self.schema_version = status.version
        self._database = database
        self._connection = connection
        self._tenant = tenant or NO_TENANT
        self._queries = SourceQueries(runtime.catalog, tenant)

    async def count(self, table: Table) -> int:
        rows = await self._on_thread(fetch, self._connection, self._queries.count(table), {"tenant_id": self._tenant})
        return int(rows[0][0])

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Record]]:
        rows = TableRows(table, FORMS)
        after: str | None = None
        ended = False
        while not ended:
            records, ended = await self._on_thread(self._page, rows, after)
            if records:
                after = rows.key(records[-1])
                yield records

    def _page(self, rows: TableRows, after: str | None) -> tuple[list[Record], bool]:
        """Read up to a batch behind a key; say whether nothing follows it."""
        query = self._queries.page(rows.table, after)
        parameters = {"tenant_id": self._tenant, "after": after, "limit": BATCH_ROWS}
        wanted = {name: value for name, value in parameters.items() if name in query.parameters}
        found: list[tuple[Any, ...]] = []
        size = 0
        try:
            cursor = self._connection.execute(query.sql, wanted)
            for row in cursor:
                found.append(row)
                if rows.table.large or rows.table.dimension:
                    size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
                    if size >= BATCH_BYTES:
                        cursor.close(True)
                        return rows.records(found), False
        except (apsw.Error, UnicodeDecodeError) as exc:
            if isinstance(exc, apsw.Error):
                raise translate(exc, self._connection, query=query.label) from exc
            raise FORMS.damaged(rows.table, exc) from exc
        return rows.records(found), len(found) < BATCH_ROWS

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._database.threads(), work, *arguments)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # The connection is in use until the thread is done: it must not be given back before.
            await asyncio.wait([running])
            raise


@contextlib.asynccontextmanager
async def source(
    database: Database, runtime: Runtime, status: MigrationStatus, tenant: TenantId | None
) -> AsyncIterator[FileSource]:
    """Open a snapshot of a file."""
    connection = database.borrow()  # not on a thread: cancelled there, nobody would give it back
    try:
        control(connection, "BEGIN")
        yield FileSource(database, connection, runtime, status=status, tenant=tenant)
    finally:
        roll_back(connection)
        database.give_back(connection)


def _parameters(text: str) -> list[str]:
    """Return the names of the parameters of a query, in the order in which SQLite numbers them."""
    return list(dict.fromkeys(_PARAMETER.findall(text)))


@functools.cache
def _several(text: str) -> str | None:
    """Return a query that stores `ROWS_AT_ONCE` rows where the given one stores one; None when it is no such query."""
    insert, values, row = text.partition(" VALUES ")
    if not values:
        return None
    places = {name: number for number, name in enumerate(_parameters(row), start=1)}
    rows = (_numbered(row, places, before=number * len(places)) for number in range(ROWS_AT_ONCE))
    return f"{insert}{values}{', '.join(rows)}"


def _numbered(row: str, places: Mapping[str, int], *, before: int) -> str:
    return _PARAMETER.sub(lambda found: f"?{before + places[found[1]]}", row)


class FileHands:
    """`Hands` on the writer's thread."""

    def __init__(self, connection: apsw.Connection, runtime: Runtime) -> None:
        self._connection = connection
        self._runtime = runtime

    def executor(self, tenant: TenantId) -> ConnectionExecutor:
        return ConnectionExecutor(self._connection, tenant, uncommitted=True)

    async def insert(self, query: Query, table: Table, records: Sequence[Record], computed: Sequence[Any]) -> None:
        rows = list(self._rows(query, table, records, computed))
        done = 0 if table.large else self._insert_hundreds(query, rows)
        left = iter(rows[done:])
        try:
            self._connection.executemany(query.sql, left).fetchall()
        except apsw.Error as exc:
            begun = len(rows) - sum(1 for _ in left)
            raise with_row(translate(exc, self._connection, query=query.label), begun - 1) from exc

    def _insert_hundreds(self, query: Query, rows: Sequence[Sequence[Any]]) -> int:
        """Store as many rows as can be stored many at once, and return how many."""
        several = _several(query.sql)
        if several is None:
            return 0
        whole = len(rows) - len(rows) % ROWS_AT_ONCE
        for done in range(0, whole, ROWS_AT_ONCE):
            values = list(chain.from_iterable(rows[done : done + ROWS_AT_ONCE]))
            try:
                self._connection.execute(several, values).fetchall()
            except apsw.ConstraintError:
                return done  # nothing of the statement was stored: row by row, the error is that of one of them
            except apsw.Error as exc:
                raise translate(exc, self._connection, query=query.label) from exc
        return whole

    def _rows(
        self, query: Query, table: Table, records: Sequence[Record], computed: Sequence[Any]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what is said for each record, in the order of the query's parameters; made column by column."""
        names = (*table.names, *(one.name for one in table.computed))
        columns: list[Sequence[Any]] = [
            *zip(*map(attrgetter(*table.names), records), strict=True),
            *zip(*computed, strict=True),
        ]
        given = dict(zip(names, columns, strict=True))
        for name, kind in table.kinds.items():
            convert = PARAMETERS.get(kind)
            if convert is not None:
                given[name] = [None if value is None else convert(value) for value in given[name]]
        given[TENANT_PARAMETER] = given["tenant_id"]
        return zip(*(given[name] for name in _parameters(query.sql)), strict=True)

    async def before_vectors(self, tenant: TenantId, space_id: str, dimension: int) -> None:
        await self.executor(tenant).execute(
            self._runtime.catalog.transfer.space_imported,
            space_id=space_id,
            model=FREE_SPACE,
            dimension=dimension,
            now=to_microseconds(self._runtime.clock.now()),
        )

    async def vectors_removed(self, tenant: TenantId) -> None:
        await self.executor(tenant).execute(self._runtime.catalog.transfer.spaces_changed)


class FileTarget:
    """`TransferTarget` in one session of the writer."""

    def __init__(self, database: Database, runtime: Runtime, tenant: TenantId | None, on_conflict: OnConflict) -> None:
        self._database = database
        self._session = Session(TRANSFER_TIMEOUT_S)
        self._runtime = runtime
        self._tenant = tenant
        self._on_conflict = on_conflict
        self._import: RelationalImport | None = None

    async def begin(self) -> None:
        """Wait for the write lock. Whoever stops waiting takes it from nobody: the writer would serve them for a day."""
        opened = self._database.writer.submit(self._session)
        try:
            await opened
        except BaseException:
            with contextlib.suppress(LlmspellError):  # it is over
                self._session.submit(ending("ROLLBACK"))
            raise

    async def write(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        return await self._run(lambda work: work.write(table, rows))

    async def finish(self) -> list[str]:
        return await self._run(lambda work: work.finish())

    async def commit(self) -> None:
        await self._session.submit(ending("COMMIT"))
        if self._import is not None:
            for (tenant, space_id, dimension), count in sorted(self._import.vectors.items()):
                unit = FileUnit(self._database, TenantId(tenant))
                await self._runtime.nearest.inserted_rows(unit, space_id=space_id, dimension=dimension, count=count)

    async def leave(self) -> None:
        """Roll back what was not committed."""
        with contextlib.suppress(LlmspellError):  # it is over
            await asyncio.shield(self._session.submit(ending("ROLLBACK")))

    async def _run(self, work: Callable[[RelationalImport], Awaitable[T]]) -> T:
        def run(connection: apsw.Connection) -> T:
            if self._import is None:
                self._import = RelationalImport(
                    FileHands(connection, self._runtime),
                    self._runtime,
                    FORMS,
                    tenant=self._tenant,
                    on_conflict=self._on_conflict,
                )
            return cast(T, drive(cast("Coroutine[Any, Any, Any]", work(self._import))))

        return cast(T, await self._session.submit(Job(run)))


@contextlib.asynccontextmanager
async def target(
    database: Database, runtime: Runtime, tenant: TenantId | None, on_conflict: OnConflict
) -> AsyncIterator[FileTarget]:
    """Open the transaction of an import."""
    opened = FileTarget(database, runtime, tenant, on_conflict)
    await opened.begin()
    try:
        yield opened
    finally:
        await opened.leave()
