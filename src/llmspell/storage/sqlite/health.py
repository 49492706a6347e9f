"""The health of a file: what it says of itself, and of the disk that it is on.

Not here: running the checks (`ops.health`), the queue and the schema, which every backend has.

Rule 1: nothing is written, and no lock is held for longer than reading a page: `quick_check` reads in a transaction of its own,
beside writers, and stops at once when it is given up.
Rule 2: thresholds are named here, with what they protect.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import apsw

from llmspell.storage.contracts.health import Finding, HealthCheck, HealthStatus, worst
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import open_reader, translate

if TYPE_CHECKING:
    from llmspell.storage.sqlite.pragmas import Synchronous

T = TypeVar("T")
MEBIBYTE: Final = 1024 * 1024
DISK_RED_BYTES: Final = 64 * MEBIBYTE
"""Less free, and the next checkpoint of the log may fail."""
DISK_LOW_BYTES: Final = 512 * MEBIBYTE
ROOM: Final = 2
"""A copy of the file and a vacuum of it need its size twice (EXP-15)."""
LOG_LARGE_BYTES: Final = 4 * pragmas.WAL_KEPT_BYTES
"""The log is cut back to 64 MiB after a checkpoint; far beyond, some reader keeps it from being checkpointed."""
FREE_PAGES_SHARE: Final = 0.5
FREE_PAGES_MIN_BYTES: Final = 64 * MEBIBYTE
PROGRESS_STEPS: Final = 20_000
"""Virtual machine steps between two looks whether a check was given up: some milliseconds."""
PROBLEMS_SHOWN: Final = 5
_HAS_VECTORS: Final = """
SELECT (SELECT EXISTS (SELECT 1 FROM vector_embeddings_384)) + (SELECT EXISTS (SELECT 1 FROM vector_embeddings_768))
    + (SELECT EXISTS (SELECT 1 FROM vector_embeddings_1536)) + (SELECT EXISTS (SELECT 1 FROM vector_embeddings_3072))
"""


def checks(path: str, *, synchronous: Synchronous, busy_timeout_s: float) -> Sequence[HealthCheck]:
    """Return the checks of one file. `synchronous` is how this process writes to it."""

    def asking(ask: Callable[[apsw.Connection], Finding]) -> Callable[[threading.Event], Finding]:
        return lambda given_up: _asked(path, ask, given_up, busy_timeout_s=busy_timeout_s)

    return (
        _check("integrity", asking(_integrity), when_late="unknown"),
        _check("journal", asking(lambda connection: _journal(connection, path))),
        HealthCheck("durability", lambda: _done(_durability(synchronous))),
        _check("free_pages", asking(_free_pages)),
        _check("disk", lambda _: disk(path)),
        _check("vector_storage", asking(_vectors)),
    )


def _check(
    name: str, look: Callable[[threading.Event], Finding], *, when_late: HealthStatus = "unhealthy"
) -> HealthCheck:
    async def on_a_thread() -> Finding:
        given_up = threading.Event()
        try:
            return await asyncio.to_thread(look, given_up)
        finally:
            given_up.set()

    return HealthCheck(name, on_a_thread, when_late)


async def _done(finding: Finding) -> Finding:
    return finding


def _asked(
    path: str, ask: Callable[[apsw.Connection], Finding], given_up: threading.Event, *, busy_timeout_s: float
) -> Finding:
    connection = open_reader(path, busy_timeout_s=busy_timeout_s)
    try:
        connection.set_progress_handler(given_up.is_set, PROGRESS_STEPS)
        return ask(connection)
    except apsw.InterruptError:
        return Finding(status="unknown", reason="it took too long, and was given up")
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()


def _integrity(connection: apsw.Connection) -> Finding:
    rows = connection.execute(f"PRAGMA quick_check({PROBLEMS_SHOWN})").fetchall()
    problems = [str(row[0]) for row in rows if row[0] != "ok"]
    if problems:
        return Finding(
            status="unhealthy",
            reason="the file is damaged: " + "; ".join(problems),
            hint="Restore the last backup, or save what can be read: sqlite3 FILE .recover",
            facts={"problems": problems},
        )
    return Finding(facts={"problems": []})


def _journal(connection: apsw.Connection, path: str) -> Finding:
    mode = connection.pragma("journal_mode")
    log = _size(Path(f"{path}-wal"))
    facts = {"mode": mode, "log_bytes": log}
    if mode != "wal":
        return Finding(
            status="degraded",
            reason=f"the journal mode is {mode}, so readers and the writer wait for each other",
            hint="Open the store once with llmspell, which switches it back, and see which program changed it.",
            facts=facts,
        )
    if log > LOG_LARGE_BYTES:
        return Finding(
            status="degraded",
            reason=f"the write-ahead log has grown to {log:,} bytes: a transaction that stays open keeps it from shrinking",
            hint="End long transactions, also those of other programs that have the file open.",
            facts=facts,
        )
    return Finding(facts=facts)


def _durability(synchronous: Synchronous) -> Finding:
    if synchronous == "NORMAL":
        note = "a power cut may lose the latest commits, as storage.sqlite.synchronous allows"
        return Finding(reason=note, facts={"synchronous": synchronous})
    return Finding(facts={"synchronous": synchronous})


def _free_pages(connection: apsw.Connection) -> Finding:
    free, pages, size = (int(connection.pragma(name)) for name in ("freelist_count", "page_count", "page_size"))
    facts = {"free_pages": free, "pages": pages, "page_bytes": size}
    if free * size >= FREE_PAGES_MIN_BYTES and free >= FREE_PAGES_SHARE * pages:
        return Finding(
            status="degraded",
            reason=f"{free * size:,} bytes of the file are free pages, {free / pages:.0%} of it",
            hint="Give them back to the disk when nobody writes: llmspell database vacuum --full",
            facts=facts,
        )
    return Finding(facts=facts)


def disk(path: str) -> Finding:
    """Judge the room on the disk of a file, and whether the file and its folder may be written."""
    file = Path(path)
    free, size = shutil.disk_usage(file.parent).free, sum(sizes(path).values())
    facts = {"free_bytes": free, "store_bytes": size}
    room = Finding(facts=facts)
    if free < DISK_RED_BYTES:
        hint = "Make room before anything else; what is written now may be refused."
        room = Finding(status="unhealthy", reason=f"{free:,} bytes are free on the disk", hint=hint, facts=facts)
    elif free < max(ROOM * size, DISK_LOW_BYTES):
        hint = f"A copy of the store needs twice its size; {max(ROOM * size, DISK_LOW_BYTES):,} bytes should be free."
        room = Finding(status="degraded", reason=f"{free:,} bytes are free on the disk", hint=hint, facts=facts)
    unwritable = [str(place) for place in (file, file.parent) if not os.access(place, os.W_OK)]
    if unwritable:
        reason = f"may not be written: {', '.join(unwritable)}"
        return worst(Finding(status="unhealthy", reason=reason, hint="Check the permissions."), room)
    return room


def sizes(path: str, *, index_folder: Path | None = None) -> dict[str, int]:
    """Return the bytes of the file, of its write-ahead log, and of the files of vector indexes beside it."""
    files = index_folder.iterdir() if index_folder is not None and index_folder.is_dir() else ()
    return {"file": _size(Path(path)), "log": _size(Path(f"{path}-wal")), "indexes": sum(map(_size, files))}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _vectors(connection: apsw.Connection) -> Finding:
    """HLT-03."""
    if connection.execute(_HAS_VECTORS).get:
        return Finding()
    return Finding(
        status="degraded", reason="No vectors indexed", hint="Nothing was kept yet that is searched by meaning."
    )
