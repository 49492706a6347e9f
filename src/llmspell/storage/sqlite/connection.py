"""Connections to one file: opening them, running a named query, and translating the driver's errors.

Rule 1: a driver's exception ends here; what leaves is of our own tree and names columns and constraints, never values.
Rule 2: every statement is run to its end, so that nothing stays open between two calls.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import apsw

from llmspell.errors import (
    AlreadyExists,
    CorruptStore,
    DiskFull,
    LlmspellError,
    NotADatabase,
    SchemaOutdated,
    StorageError,
    Unavailable,
)
from llmspell.observe import notify_query, observed
from llmspell.storage.contracts.tenants_checks import read_refusal
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Row
from llmspell.storage.sqlite import dialect, pragmas

_TAKEN: Final = frozenset(
    {apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_ROWID}
)
_REFUSAL: Final = re.compile(r"'(max_[a-z_]+ \d+ \d+ \d+)'")
"""How the triggers of V033 say that a quota is exceeded: quoted by the error of a path that JSON refuses."""
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
RIGHTS_HINT: Final = "Check the permissions of the file and its folder, and that the disk may be written."
BUSY_HINT: Final = (
    "Another process holds the file's write lock; end long transactions, or raise storage.sqlite.busy_timeout_secs."
)


def open_writer(path: str, *, synchronous: pragmas.Synchronous, busy_timeout_s: float) -> apsw.Connection:
    """Open the connection that writes, creating the file when it is missing.

    Raises:
        NotADatabase: the file is not SQLite's, or another program's.
        Unavailable: it cannot be opened, or stays locked.
        StorageError: it, or its folder, cannot be written.
    """
    require_folder(path)
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = None
    try:
        connection = apsw.Connection(path, flags=flags, statementcachesize=pragmas.STATEMENTS_MAX)
        # Before anything is read, which would make a log beside the file that its owner could not write to.
        if connection.readonly("main"):
            raise StorageError("The file cannot be written.", path=path, hint=RIGHTS_HINT)
        pragmas.wait_when_busy(connection, busy_timeout_s)
        pragmas.require_ours(connection, path)
        pragmas.write_ahead(connection, busy_timeout_s)
        pragmas.durability(connection, synchronous)
        pragmas.enforce_foreign_keys(connection)
        pragmas.shrink_log(connection)
        _prepare(connection, pragmas.WRITER_CACHE_BYTES)
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    return connection


def open_reader(path: str, *, busy_timeout_s: float) -> apsw.Connection:
    """Open a connection that only reads. The file exists: the writer came first.

    Raises:
        Unavailable: it cannot be opened, or stays locked.
    """
    connection = None
    try:
        # Opened for writing, since a reader may have to recover the log; `query_only` keeps queries from writing.
        flags = apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(path, flags=flags, statementcachesize=pragmas.STATEMENTS_MAX)
        pragmas.wait_when_busy(connection, busy_timeout_s)
        _prepare(connection, pragmas.READER_CACHE_BYTES)
        pragmas.read_only(connection)
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    return connection


def open_only_to_look(path: str) -> apsw.Connection:
    """Open a file that may belong to anybody, read-only: nothing of it is changed.

    Raises:
        NotADatabase: it is something else.
        Unavailable, StorageError: it cannot be read.
    """
    connection = None
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        pragmas.require_ours(connection, path)
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    return connection


def _prepare(connection: apsw.Connection, cache_bytes: int) -> None:
    pragmas.distrust_schema(connection)
    pragmas.refuse_quoted_texts(connection)
    pragmas.temporary_in_memory(connection)
    pragmas.cache(connection, cache_bytes)
    dialect.register_functions(connection)


def require_folder(path: str) -> None:
    """Refuse a path that cannot be a file, before the driver says less about it.

    Raises:
        Unavailable: the folder is missing, or the path is a folder.
    """
    if Path(path).is_dir():
        raise Unavailable("The path is a folder.", path=path, hint="Name a file inside of it.")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise Unavailable(
            "The folder of the file does not exist.", folder=str(folder), hint="Create it, or choose another path."
        )


def fetch(connection: apsw.Connection, query: Query, parameters: dict[str, Any]) -> list[Row]:
    """Run a query and return all rows. `parameters` holds everything, the tenant included."""
    if observed():
        started = time.perf_counter()
        rows = _run(connection, query, parameters)
        notify_query(query.label, time.perf_counter() - started, len(rows))
        return rows
    return _run(connection, query, parameters)


def change(connection: apsw.Connection, query: Query, parameters: Mapping[str, Any]) -> int:
    """Run a statement and return how many rows it changed, triggers not counted."""
    if observed():
        started = time.perf_counter()
        _run(connection, query, parameters)
        changed = connection.changes()
        notify_query(query.label, time.perf_counter() - started, changed)
        return changed
    _run(connection, query, parameters)
    return connection.changes()


def change_each(connection: apsw.Connection, query: Query, sets: Iterable[Mapping[str, Any]]) -> int:
    """Run a statement once for each set of parameters, and return how many rows all of them changed, triggers not counted."""
    changed = 0

    def each() -> Iterator[Mapping[str, Any]]:
        # The driver asks for the next parameters when it is done with the last ones.
        nonlocal changed
        started = time.perf_counter() if observed() else 0.0
        for parameters in sets:
            yield parameters
            rows = connection.changes()
            changed += rows
            if started:
                ended = time.perf_counter()
                notify_query(query.label, ended - started, rows)
                started = ended

    try:
        connection.executemany(query.sql, each()).fetchall()
    except (apsw.Error, UnicodeDecodeError) as exc:
        raise _failed(exc, connection, query) from exc
    return changed


def _run(connection: apsw.Connection, query: Query, parameters: Mapping[str, Any]) -> list[Row]:
    try:
        return connection.execute(query.sql, parameters).fetchall()
    except (apsw.Error, UnicodeDecodeError) as exc:
        raise _failed(exc, connection, query) from exc


def _failed(exc: apsw.Error | UnicodeDecodeError, connection: apsw.Connection, query: Query) -> LlmspellError:
    if isinstance(exc, apsw.Error):
        return translate(exc, connection, query=query.label)
    return CorruptStore(  # texts are checked on their way in
        "A text in the file is damaged.", path=connection.filename, query=query.label, hint=dialect.DAMAGED_HINT
    )


def control(connection: apsw.Connection, statement: str) -> None:
    """Run a statement of our own that has no parameters: BEGIN, COMMIT, savepoints."""
    try:
        connection.execute(statement)
    except apsw.Error as exc:
        raise translate(exc, connection) from exc


def roll_back(connection: apsw.Connection) -> None:
    """End a transaction without its effects, if one is open: some errors have ended it already."""
    if connection.in_transaction:
        control(connection, "ROLLBACK")


def is_read(connection: apsw.Connection, query: Query) -> bool:
    """Say whether a query leaves the database as it is, as the database itself sees it (a DELETE … RETURNING does not)."""
    found: list[bool] = []

    def look(cursor: apsw.Cursor, _sql: str, _bindings: object) -> bool:
        found.append(cursor.is_readonly)
        return False  # do not run it

    cursor = connection.cursor()
    cursor.exec_trace = look
    try:
        cursor.execute(query.sql, dict.fromkeys(query.parameters))
    except apsw.ExecTraceAbort:
        return found[0]
    except apsw.Error as exc:
        raise translate(exc, connection, query=query.label) from exc
    raise StorageError("The query holds no statement.", query=query.label)


def drive(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a work function to its end without an event loop.

    Raises:
        RuntimeError: it awaited something other than its executor (rule 2 of `relational.database`).
    """
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    work.close()
    raise RuntimeError("a unit of work awaited something other than its executor; do that before or after it")


def translate(
    exc: apsw.Error, connection: apsw.Connection | None, *, path: str | None = None, query: str | None = None
) -> LlmspellError:
    """Return the error of our tree for a driver's error. Messages of the library name columns and constraints only."""
    fields: dict[str, Any] = {name: value for name, value in (("path", path), ("query", query)) if value is not None}
    if (
        path is None
        and connection is not None
        and not isinstance(exc, (apsw.ConstraintError, apsw.ConnectionClosedError))
    ):
        fields["path"] = connection.filename
    refused = _REFUSAL.search(str(exc))
    if refused is not None and (error := read_refusal(refused[1])) is not None:
        return error
    match exc:
        case apsw.ConstraintError():
            return _constraint(exc, fields)
        case apsw.FullError():
            return DiskFull(**fields)
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return Unavailable("The file stayed locked.", **fields, hint=BUSY_HINT)
        case apsw.NotADBError():
            return NotADatabase(
                "The file is not an SQLite database.", **fields, hint="Choose another path; nothing was changed."
            )
        case apsw.CorruptError():
            return CorruptStore("The file is damaged.", **fields, hint=dialect.DAMAGED_HINT)
        case apsw.CantOpenError():
            return Unavailable(
                "The file cannot be opened.", **fields, hint="Check that its folder exists and may be written."
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return StorageError("The file cannot be written.", **fields, hint=RIGHTS_HINT)
        case apsw.IOError():
            return _input_output(exc, connection, fields)
        case apsw.ConnectionClosedError():
            return Unavailable("The store is closed.", **fields)
        case apsw.SQLError() if "no such table" in str(exc) or "no such column" in str(exc):
            return SchemaOutdated(str(exc), **fields)
        case _:
            return StorageError(f"{type(exc).__name__}: {exc}", **fields)


def may_have_committed(exc: apsw.Error, error: LlmspellError) -> bool:
    """Say whether a COMMIT that failed, translated as `error`, may be in the log all the same: the disk did not confirm it.

    Only a write for which there was no space has surely not ended. A sync that finds none (delayed allocation, a quota) comes
    after the log was written.
    """
    no_room_to_write = isinstance(error, DiskFull) and getattr(exc, "extendedresult", 0) == apsw.SQLITE_IOERR_WRITE
    return isinstance(exc, apsw.IOError) and not no_room_to_write


def _constraint(exc: apsw.Error, fields: dict[str, Any]) -> LlmspellError:
    _, _, broken = str(exc).partition("failed: ")
    fields["constraint"] = broken or str(exc)
    if getattr(exc, "extendedresult", 0) in _TAKEN:
        return AlreadyExists(**fields)
    return StorageError("A row breaks a rule of the schema; nothing was written.", **fields)


def _input_output(exc: apsw.Error, connection: apsw.Connection | None, fields: dict[str, Any]) -> LlmspellError:
    code = connection.system_errno if connection is not None else 0
    if code in _NO_SPACE:
        return DiskFull(**fields, system=errno.errorcode.get(code, code))
    return StorageError(
        "The disk failed a read or a write.", **fields, system=errno.errorcode.get(code, code), detail=str(exc)
    )
