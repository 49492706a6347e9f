"""The upkeep of a file: its log folded back, its free pages given back, its statistics renewed, its indexes built anew.

Synchronous, on a connection of its own; other processes may have the file open: they read on, and their writes wait.

Rule: what needs a second copy of the file looks first whether there is room for it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import apsw
import msgspec

from llmspell.errors import DiskFull, NotFound
from llmspell.storage.contracts.maintenance import Announce, Result, Step
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import open_writer, translate

REWRITE_FROM_FREE_SHARE: Final = 0.1
IN_MEMORY_MAX_BYTES: Final = 256 * 1024 * 1024
"""A smaller copy is made in memory, where nothing of it stays; a larger one in the system's folder for temporary files."""
OPTIMIZE_ALL: Final = 0x10002
"""Of the statement `optimize`: look at all tables, not only at those that this connection has used."""
_BUSY: Final = "a reader still uses the log"


def vacuum(
    path: str, *, full: bool = False, busy_timeout_s: float, dry_run: bool = False, announce: Announce
) -> list[Step]:
    """Renew statistics, give free pages back (from a tenth of the file on, or with `full`), and fold the log back.

    Raises:
        NotFound: there is no such file.
        DiskFull: there is no room for a second copy; nothing was changed.
        Unavailable: another process writes for longer than `busy_timeout_s`.
    """
    connection = _opened(path, busy_timeout_s)
    try:
        pages, free, page = (connection.pragma(name) for name in ("page_count", "freelist_count", "page_size"))
        steps = [_plan("optimize", path)]
        if full or free >= max(1, pages * REWRITE_FROM_FREE_SHARE):
            _require_room(path, live_bytes=(pages - free) * page)
            steps.append(_plan("VACUUM", path))
        else:
            share = free / max(pages, 1)
            why = f"{share:.0%} of its pages are free; from {REWRITE_FROM_FREE_SHARE:.0%} on it is rewritten"
            steps.append(_plan("VACUUM", path, result="skipped", why=why))
        steps.append(_plan("checkpoint", path))
        if dry_run:
            return steps
        # Sorting stays in memory, as everywhere; the copy of a large file would not fit there.
        if (pages - free) * page > IN_MEMORY_MAX_BYTES:
            connection.pragma("temp_store", "FILE")
        return [step if step.result == "skipped" else _taken(connection, path, step, announce) for step in steps]
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()


def analyse(path: str, *, busy_timeout_s: float, dry_run: bool = False, announce: Announce) -> list[Step]:
    """Renew the statistics of all tables. Raises: as `vacuum`, but DiskFull."""
    connection = _opened(path, busy_timeout_s)
    try:
        step = _plan("ANALYZE", path)
        return [step if dry_run else _taken(connection, path, step, announce)]
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()


def reindex(
    path: str, *, names: tuple[str, ...] = (), busy_timeout_s: float, dry_run: bool = False, announce: Announce
) -> list[Step]:
    """Build indexes anew: those named, those of the tables named, or all. It mends an index that contradicts its table.

    Raises:
        NotFound: there is no such file, index or table.
        DiskFull: there is no room; nothing was changed.
        Unavailable: as `vacuum`.
    """
    connection = _opened(path, busy_timeout_s)
    try:
        known = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('index', 'table')")
        }
        for name in names:
            if name not in known:
                raise NotFound("There is no such index or table.", name=name)
        _require_room(path, live_bytes=connection.pragma("page_count") * connection.pragma("page_size"))
        steps = [_plan("REINDEX", name) for name in names] or [_plan("REINDEX", path)]
        if dry_run:
            return steps
        return [_taken(connection, path, step, announce) for step in steps]
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()


def _opened(path: str, busy_timeout_s: float) -> apsw.Connection:
    if not Path(path).is_file():
        raise NotFound("There is no store yet.", hint="Run: llmspell database migrate", path=path)
    return open_writer(path, synchronous="FULL", busy_timeout_s=busy_timeout_s)


def _plan(action: str, target: str, *, result: Result = "planned", why: str = "") -> Step:
    return Step(action=action, target=target, result=result, why=why)


def _taken(connection: apsw.Connection, path: str, step: Step, announce: Announce) -> Step:
    before = _bytes(path)
    announce(f"{step.action} {step.target}")
    why = ""
    if step.action == "checkpoint":
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        why = _BUSY if busy else ""
    elif step.action == "optimize":
        connection.pragma("optimize", OPTIMIZE_ALL)
    elif step.action == "REINDEX" and step.target != path:
        connection.execute(pragmas.rebuilding(step.target))
    else:
        connection.execute(step.action)
    return msgspec.structs.replace(
        step, result="skipped" if why else "done", why=why, bytes_before=before, bytes_after=_bytes(path)
    )


def _bytes(path: str) -> int:
    return sum(file.stat().st_size for file in (Path(path), Path(f"{path}-wal")) if file.is_file())


def _require_room(path: str, *, live_bytes: int) -> None:
    """A copy is made in the folder of temporary files, then written through the log beside the file."""
    folders = [Path(path).absolute().parent]
    if live_bytes > IN_MEMORY_MAX_BYTES:
        folders.append(Path(tempfile.gettempdir()))
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if free < live_bytes:
            raise DiskFull(
                "There is no room for a second copy of the file; nothing was changed.",
                hint="Free some space first, or move the file to a larger disk.",
                folder=str(folder),
                free_bytes=free,
                needed_bytes=live_bytes,
            )
