"""One consistent copy of a file that others write, and the way back: what a backup of a store in a file is made of.

Not here: where copies are kept, compressed and sealed (`ops.backup`).

Rule 1: a copy is of one snapshot. One reading transaction spans the digests and the copying, so writers of any process go on, and
none of what they commit meanwhile is in either; the log of the file grows for as long, for nothing can be checkpointed past it.
Rule 2: copying goes in bounded steps, and asks between two of them whether it shall go on.
Rule 3: a live file is replaced in one transaction of it, through the database: whoever has it open sees the old content or the new
one, also after a crash at any moment.
Rule 4: digests are of rows in the order of their keys, with their types, and say nothing of pages or of where a row lies.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from llmspell.errors import Conflict, CorruptStore, NotADatabase, Unavailable
from llmspell.storage.contracts.snapshot import StoreFacts, TableDigest
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import open_writer, translate

STEP_PAGES: Final = 1_024
"""Pages that one step copies: 4 MiB with the usual page."""
STEPS_MAX: Final = 1 << 40
CHANGES_MARGIN: Final = 1 << 30
"""How far the numbers of changes jump at a restore beyond the last one of the live file, which goes on meanwhile."""
ROWS_BETWEEN_LOOKS: Final = 4_096
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems without hard links say."""
_VECTOR_TABLES: Final = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'vector_embeddings_[0-9]*' ORDER BY name"
)
_TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name"
_VERSION: Final = "SELECT coalesce(max(version), 0) FROM schema_migrations"
_TENANTS: Final = "SELECT tenant_id FROM tenants ORDER BY tenant_id"
_LAST_CHANGE: Final = "SELECT coalesce(max(change_seq), 0) FROM embedding_spaces"
_STORE_ID: Final = "SELECT lower(hex(value)) FROM store_meta WHERE name = 'store_id'"

GoingOn = Callable[[], None]
"""Raises when the work shall stop."""
Progress = Callable[[int, int], None]
"""Hears how many pages are copied, and of how many."""


def going_on() -> None:
    """Always go on."""


def copy_snapshot(
    path: str,
    target: str,
    *,
    busy_timeout_s: float,
    progress: Progress = lambda _done, _total: None,
    going_on: GoingOn = going_on,
) -> StoreFacts:
    """Copy one snapshot of the store at `path` into the new file `target`, and return what that snapshot holds.

    The copy is one file, without a log, and synced. Blocks.

    Raises:
        NotADatabase, Unavailable, StorageError, DiskFull: the store cannot be read, or the copy not be written.
        CorruptStore: the copy does not pass the checks of the database.
    """
    source = _open(path, busy_timeout_s)
    try:
        with closing(source), translated(source, path):
            source.execute("BEGIN")
            facts = _facts(source, path, going_on)
            with closing(apsw.Connection(target)) as copy:
                pragmas.durability(copy, "FULL")
                _steps(source, copy, progress, going_on)
                copy.pragma("journal_mode", "delete")
            source.execute("ROLLBACK")
    except BaseException:
        for leftover in (target, f"{target}-journal", f"{target}-wal", f"{target}-shm"):
            Path(leftover).unlink(missing_ok=True)
        raise
    require_sound(target)
    return facts


def facts_of(path: str, *, busy_timeout_s: float = 10.0, going_on: GoingOn = going_on) -> StoreFacts:
    """Return what a file holds, in one snapshot. Blocks.

    Raises:
        NotADatabase, Unavailable, StorageError, CorruptStore.
    """
    connection = _open(path, busy_timeout_s)
    with closing(connection), translated(connection, path):
        connection.execute("BEGIN")
        return _facts(connection, path, going_on)


def require_sound(path: str) -> None:
    """Have the database check a whole file: its pages, its indexes, its references.

    Raises:
        CorruptStore: names the first finding.
    """
    connection = _open(path, 10.0)
    with closing(connection), translated(connection, path):
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(1)")]
        if found != ["ok"]:
            raise CorruptStore("The file is damaged.", path=path, finding=found[0])
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise CorruptStore("A row refers to one that is not there.", path=path, table=broken[0])


def opens(path: str) -> bool:
    """Say whether a file can still be opened and read as a store; False when it is damaged.

    Raises:
        NotADatabase: it belongs to another program.
        Unavailable, StorageError: it cannot be looked at.
    """
    try:
        with closing(_open(path, 10.0)) as connection, translated(connection, path):
            return [row[0] for row in connection.execute("PRAGMA quick_check(1)")] == ["ok"]
    except CorruptStore:
        return False
    except NotADatabase as exc:
        if isinstance(exc.__cause__, apsw.NotADBError):
            return False
        raise


def replace_live(
    path: str,
    replacement: str,
    *,
    busy_timeout_s: float,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Put the content of the file `replacement` in the place of that of the store at `path`, in one transaction of it. Blocks.

    Processes that have the store open go on: their next statement sees the new content. `replacement` is changed meanwhile: the
    changes of its vectors are numbered anew, beyond all that a cache of vectors in some process may have seen.

    Raises:
        Conflict: somebody else writes for longer than `busy_timeout_s`; nothing was changed.
        NotADatabase, Unavailable, StorageError, DiskFull: nothing was changed.
    """
    with closing(open_writer(path, synchronous="FULL", busy_timeout_s=busy_timeout_s)) as live:
        with translated(live, path):
            forget_changes(replacement, beyond=_last_change(live))
        new = apsw.Connection(replacement, flags=apsw.SQLITE_OPEN_READWRITE)
        with closing(new), translated(live, path):
            _require_same_pages(live, new, path)
            _steps(new, live, progress, going_on, patience_s=busy_timeout_s)
            live.pragma("wal_checkpoint(PASSIVE)")


def place_new(path: str, replacement: str) -> None:
    """Move the file `replacement`, which lies on the same disk, to `path`, where there is none.

    A log that an earlier file of this name has left is moved aside first, for the database would apply it to the new one.

    Raises:
        Conflict: there is a file now.
    """
    with Path(replacement).open("rb") as written:
        os.fsync(written.fileno())
    for ending in ("-wal", "-journal", "-shm"):
        orphan = Path(path + ending)
        if orphan.exists() and not Path(path).exists():
            orphan.replace(f"{path}{ending}.orphan")
    try:
        os.link(replacement, path)
    except FileExistsError as exc:
        raise Conflict("There is a file of that name already; it was left as it is.", path=path) from exc
    except OSError as exc:
        if exc.errno not in _NO_LINKS or Path(path).exists():
            raise
        Path(replacement).rename(path)
    Path(replacement).unlink(missing_ok=True)
    sync_folder(Path(path).parent)


def forget_changes(path: str, *, beyond: int) -> None:
    """Number the changes of all vectors anew, well beyond change `beyond`, and let no index file count.

    A cache in a process knows which changes it has; in a store that was set back the same numbers would mean others.
    """
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    with closing(connection), translated(connection, path):
        tables = [str(row[0]) for row in connection.execute(_VECTOR_TABLES)]
        if not tables or not _numbers_changes(connection):
            return
        jump = {"jump": beyond + CHANGES_MARGIN}
        with connection:
            for table in tables:
                connection.execute(f'UPDATE "{table}" SET seq = seq + :jump', jump)
            connection.execute("DELETE FROM vector_changes")
            connection.execute(
                "UPDATE embedding_spaces SET change_seq = change_seq + :jump, deleted_seq = change_seq + :jump,"
                " logged_from = change_seq + :jump, logged_rows = 0, index_change = NULL, index_token = NULL",
                jump,
            )


def _numbers_changes(connection: apsw.Connection) -> bool:
    """Say whether its schema has caches catch up by numbers of changes (V034)."""
    return bool(
        connection.execute("SELECT count(*) FROM pragma_table_info('embedding_spaces') WHERE name = 'index_token'").get
        == 1
    )


def _last_change(live: apsw.Connection) -> int:
    return int(str(live.execute(_LAST_CHANGE).get)) if _numbers_changes(live) else 0


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def translated(connection: apsw.Connection, path: str) -> Iterator[None]:
    """Let errors of the driver leave as ours."""
    try:
        yield
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc


def _open(path: str, busy_timeout_s: float) -> apsw.Connection:
    if not Path(path).is_file():
        raise Unavailable("There is no such file.", path=path)
    # For writing, since a reader may have to recover the log of a process that was killed.
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        pragmas.wait_when_busy(connection, busy_timeout_s)
        if connection.pragma("application_id") != pragmas.APPLICATION_ID:
            connection.close()
            raise NotADatabase(path=path)
        pragmas.distrust_schema(connection)
        pragmas.cache(connection, pragmas.WRITER_CACHE_BYTES)
    except apsw.Error as exc:
        raise translate(exc, None, path=path) from exc
    return connection


def _steps(
    source: apsw.Connection,
    target: apsw.Connection,
    progress: Progress,
    going_on: GoingOn,
    *,
    patience_s: float = 0.0,
) -> None:
    deadline, attempt = time.monotonic() + patience_s, 0
    with target.backup("main", source, "main") as copying:
        for _ in range(STEPS_MAX):
            going_on()
            try:
                done = copying.step(STEP_PAGES)
            except (apsw.BusyError, apsw.LockedError) as exc:
                if time.monotonic() >= deadline:
                    raise Conflict(
                        "The store stayed in use by a writer; nothing was changed.", path=target.filename
                    ) from exc
                attempt += 1
                pragmas.pause(attempt)
                continue
            progress(copying.page_count - copying.remaining, copying.page_count)
            if done:
                return


def _require_same_pages(live: apsw.Connection, new: apsw.Connection, path: str) -> None:
    if live.pragma("page_size") != new.pragma("page_size"):
        raise Conflict(
            "The store has pages of another size than the backup, so it cannot be replaced while it may be open.",
            hint="Restore with --into another file, stop everything that uses the store, and move that file to its place.",
            path=path,
        )


def _facts(connection: apsw.Connection, path: str, going_on: GoingOn) -> StoreFacts:
    tables = [str(row[0]) for row in connection.execute(_TABLES)]
    if "schema_migrations" not in tables:
        raise NotADatabase("The file has no schema of llmspell.", path=path)
    has = frozenset(tables)
    store_id = connection.execute(_STORE_ID).get if "store_meta" in has else None
    return StoreFacts(
        schema_version=int(str(connection.execute(_VERSION).get)),
        store_id=str(store_id or ""),
        tenants=[str(row[0]) for row in connection.execute(_TENANTS)] if "tenants" in has else [],
        tables=[TableDigest(name, *_digest(connection, name, going_on)) for name in tables],
        software={"sqlite": apsw.sqlite_lib_version()},
    )


def _digest(connection: apsw.Connection, table: str, going_on: GoingOn) -> tuple[int, str]:
    columns: list[tuple[Any, ...]] = connection.execute(
        "SELECT name, pk FROM pragma_table_info(:name) ORDER BY cid", {"name": table}
    ).fetchall()
    keys = [_quoted(name) for _, name in sorted((pk, name) for name, pk in columns if pk)]
    order = ", ".join(keys) if keys else "rowid"
    names = ", ".join(_quoted(name) for name, _ in columns)
    digest, count = hashlib.blake2b(digest_size=32), 0
    for row in connection.execute(f"SELECT {names} FROM {_quoted(table)} ORDER BY {order}"):
        digest.update(msgspec.msgpack.encode(row))
        count += 1
        if count % ROWS_BETWEEN_LOOKS == 0:
            going_on()
    return count, digest.hexdigest()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
