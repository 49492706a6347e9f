"""Backups of a store in a file: a copy of one snapshot, made by the database itself, and its way back.

Rule 1: copies lie unencrypted for as long as they are needed in a private folder beside the store, whose disk holds the same
anyway. What a process that was killed left there is removed by the next one.
Rule 2: the live file is replaced through the database, in one transaction of it; where there is no file, the new one is moved to
its place whole.
Rule 3: index files of vectors are no part of a backup, and those that are there count for nothing after a restore.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from llmspell.errors import Conflict, CorruptStore, NotFound, Unavailable
from llmspell.ops.backup.taken import Taken
from llmspell.storage.contracts.snapshot import StoreFacts, differences

if TYPE_CHECKING:
    from llmspell.ops.backup.container import Opened

PIECE_BYTES: Final = 1_048_576
SCHEME: Final = "sqlite:///"
ATTEMPTS: Final = 10
_WORK: Final = ".llmspell-backup-"
_DRAFT: Final = ".llmspell-new-"
_LOCK: Final = "lock"

Progress = Callable[[int, int], None]


class FileStore:
    """The store in one file."""

    kind: Final = "sqlite"

    def __init__(self, path: Path, *, busy_timeout_s: float, progress: Progress = lambda _done, _total: None) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._progress = progress

    @contextmanager
    def taking(self, going_on: Callable[[], None]) -> Iterator[Taken]:
        """Copy one snapshot, and give what it holds with the bytes of the copy.

        Raises:
            NotFound: there is no store.
            NotADatabase, CorruptStore, Unavailable, StorageError, DiskFull.
        """
        from llmspell.storage.sqlite.snapshot import copy_snapshot

        if not self.path.is_file():
            raise NotFound("There is no store to back up.", path=str(self.path))
        with work_folder(self.path.parent) as folder:
            copy = folder / "copy.db"
            facts = copy_snapshot(
                str(self.path),
                str(copy),
                busy_timeout_s=self._busy_timeout_s,
                progress=self._progress,
                going_on=going_on,
            )
            yield Taken(facts, _pieces(copy, going_on))

    def verify(
        self, opened: Opened, size_bytes: int, going_on: Callable[[], None], *, trust: bool = False
    ) -> StoreFacts:
        """Restore a backup into a temporary file, and return what it holds there.

        Raises:
            SealBroken, CorruptStore, NotADatabase, StorageError, DiskFull: it cannot be restored.
        """
        del size_bytes, trust  # a file runs nothing while it is read
        with self._unpacked(opened, self.path.parent, going_on) as copy:
            return _facts(copy, going_on)

    def restore(self, opened: Opened, into: str | None, going_on: Callable[[], None]) -> None:
        """Restore into the live file, or into the file `into`, which must not be there.

        Raises:
            Conflict: the file `into` is there, or the live one stays in use by a writer; nothing was changed.
            SealBroken, CorruptStore, NotADatabase, StorageError, DiskFull: nothing was changed.
        """
        from llmspell.storage.sqlite.snapshot import place_new, replace_live

        target = self.target(into)
        with self._unpacked(opened, target.parent, going_on) as copy:
            said = differences(opened.manifest.tables, _facts(copy, going_on).tables)
            if said:
                raise CorruptStore("The backup does not hold what it should; nothing was changed.", first=said[0])
            if target.exists() and _is_store(target):
                replace_live(str(target), str(copy), busy_timeout_s=self._busy_timeout_s, progress=self._progress)
                return
            if target.exists():
                _move_aside(target)
            place_new(str(target), str(copy))

    def target(self, into: str | None) -> Path:
        """Return the file that a restore goes to. `into`: a path, or a URL sqlite:///….

        Raises:
            Conflict: the file `into` is there.
            Unavailable: its folder is not there.
        """
        if into is None:
            return self.path
        target = file_of(into) if into.startswith(SCHEME) else Path(into).expanduser().absolute()
        if target.exists():
            raise Conflict(
                "There is a file of that name already; it was left as it is.",
                hint="Name a file that is not there; to go back to the backup, restore without --into.",
                path=str(target),
            )
        if not target.parent.is_dir():
            raise Unavailable(
                "The folder of the file does not exist.",
                hint="Create it, or choose another path.",
                folder=str(target.parent),
            )
        return target

    @contextmanager
    def _unpacked(self, opened: Opened, folder: Path, going_on: Callable[[], None]) -> Iterator[Path]:
        from llmspell.storage.sqlite.snapshot import require_sound

        with work_folder(folder) as work:
            copy = work / "restored.db"
            handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                for piece in opened.content:
                    going_on()
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            require_sound(str(copy))
            yield copy


def file_of(url: str) -> Path:
    """Return the file of a URL sqlite:///…."""
    return Path(unquote(url.removeprefix(SCHEME))).expanduser().absolute()


@contextmanager
def work_folder(beside: Path) -> Iterator[Path]:
    """Give a private folder beside the store, or where temporary files live when there is no such place; it is removed afterwards.

    The lock in it lasts as long as this process: so the next one can tell what was left behind from what is in use.
    """
    place = beside if beside.is_dir() and os.access(beside, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(place)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            handle, folder = _made(place)
            break
        except FileNotFoundError:  # another process took what was not locked yet for a leftover
            if attempt == ATTEMPTS:
                raise
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _made(place: Path) -> tuple[int, Path]:
    """Make a folder, and lock it before it has the name by which others look for what was left behind."""
    mark = secrets.token_hex(8)
    folder, draft = place / f"{_WORK}{mark}", place / f"{_DRAFT}{mark}"
    draft.mkdir(mode=0o700)
    handle = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _locked(handle)
        draft.rename(folder)
    except BaseException:
        os.close(handle)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return handle, folder


def _sweep(place: Path) -> None:
    if sys.platform == "win32":  # its locks end later than the process
        return
    for folder in (*place.glob(f"{_WORK}*"), *place.glob(f"{_DRAFT}*")):
        try:
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # somebody was killed, or is, while removing it
            shutil.rmtree(folder, ignore_errors=True)
            continue
        except OSError:  # another user's
            continue
        try:
            if _locked(handle):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _locked(handle: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pieces(path: Path, going_on: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            going_on()
            yield piece


def _facts(path: Path, going_on: Callable[[], None]) -> StoreFacts:
    from llmspell.storage.sqlite.snapshot import facts_of

    return facts_of(str(path), going_on=going_on)


def _is_store(path: Path) -> bool:
    """Say whether the database can still open the file, so that it may be replaced through it."""
    from llmspell.storage.sqlite.snapshot import opens

    return opens(str(path))


def _move_aside(target: Path) -> None:
    """Move a damaged file and its log away, so that nothing of them is taken for the new one's. Nothing of it is deleted."""
    mark = secrets.token_hex(4)
    for ending in ("-wal", "-shm", "-journal", ""):
        part = target.with_name(target.name + ending)
        if part.exists():
            part.replace(target.with_name(f"{target.name}.damaged-{mark}{ending}"))
