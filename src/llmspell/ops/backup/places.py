"""Where backups lie: a folder of this machine, or a bucket of an object store (`bucket`).

Each backup is two files: `<id>.lsbk`, its content, and `<id>.json`, its record, which is written last.

Rule 1: a file is there whole and durable, or not at all: it is written beside its place, synced, and moved.
Rule 2: nobody else may read it: files are 0600, and a folder that is made here 0700.
Rule 3: what a process that was killed has left has another name (`.part`), and is never taken for a backup.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from llmspell.errors import AccessRefused, DiskFull, InvalidSetting, NotFound, StorageError, Unavailable

if TYPE_CHECKING:
    from llmspell.settings import BackupSettings

CONTENT: Final = ".lsbk"
RECORD: Final = ".json"
PART: Final = ".part"
PIECE_BYTES: Final = 1_048_576
RECORD_MAX_BYTES: Final = 1_048_576
S3: Final = "s3://"
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Found(NamedTuple):
    """A file of a place."""

    name: str
    size_bytes: int
    modified_at: datetime


class Place(Protocol):
    """Keeps files by name. Every method blocks."""

    @property
    def shown(self) -> str:
        """Where it is, without secrets."""

    def list(self) -> list[Found]:
        """Return every file, also unfinished ones, in the order of their names. A place that is not there yet is empty."""

    def put(self, name: str, pieces: Iterable[bytes]) -> int:
        """Keep a file, replacing one of that name, and return its size; when `pieces` raises, nothing is kept."""

    def read(self, name: str) -> Iterator[bytes]:
        """Yield a file piece by piece. Raises NotFound when it is not there."""

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""


def open_place(location: str | None, settings: BackupSettings, default_folder: Path) -> Place:
    """Return the place that `location` names (a folder, or s3://bucket/prefix), or else the settings do.

    Raises:
        InvalidSetting: it names no place.
        MissingExtra: it is a bucket, and the extra `s3` is not installed.
    """
    if location is None and settings.location == "s3":
        location = f"{S3}{settings.s3_bucket}/{settings.s3_prefix}"
    if location is not None and location.startswith(S3):
        from llmspell.ops.backup.bucket import open_bucket

        return open_bucket(location, settings)
    if location is not None and "://" in location:
        raise InvalidSetting(
            "This is no place for backups.",
            hint="Name a folder, or s3://bucket/prefix.",
            given=location.partition("://")[0],
        )
    chosen = location if location is not None else settings.folder
    return Folder(Path(chosen).expanduser().absolute() if chosen else default_folder)


class Folder:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def shown(self) -> str:
        return str(self.path)

    def list(self) -> list[Found]:
        found = []
        with self._translated():
            if not self.path.exists():
                return []
            for entry in os.scandir(self.path):
                if entry.is_file(follow_symlinks=False) and entry.name.endswith((CONTENT, RECORD, PART)):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        status = entry.stat(follow_symlinks=False)
                        found.append(Found(entry.name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)))
        return sorted(found)

    def put(self, name: str, pieces: Iterable[bytes]) -> int:
        draft = self.path / f"{name}.{secrets.token_hex(6)}{PART}"
        with self._translated():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    for piece in pieces:
                        _write(file.fileno(), piece)
                    os.fsync(file.fileno())
                    size = file.tell()
                draft.replace(self.path / name)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            self._sync()
        return size

    def read(self, name: str) -> Iterator[bytes]:
        with self._translated(name), (self.path / name).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def delete(self, name: str) -> None:
        with self._translated():
            (self.path / name).unlink(missing_ok=True)
            self._sync()

    def _sync(self) -> None:
        if os.name == "nt" or not self.path.is_dir():
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _translated(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as exc:
            raise NotFound("There is no such file among the backups.", name=name, place=self.shown) from exc
        except PermissionError as exc:
            raise AccessRefused(
                "The place of the backups may not be used.",
                hint="Check the permissions of the folder.",
                path=str(self.path),
            ) from exc
        except NotADirectoryError as exc:
            raise InvalidSetting("The place of the backups is no folder.", path=str(self.path)) from exc
        except FileExistsError as exc:
            raise InvalidSetting("The place of the backups is no folder.", path=str(self.path)) from exc
        except OSError as exc:
            if exc.errno in _NO_SPACE:
                raise DiskFull("There is no space for the backup.", path=str(self.path)) from exc
            if exc.errno is None:
                raise
            kind = Unavailable if exc.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT) else StorageError
            raise kind(
                f"The place of the backups failed: {exc.strerror}.",
                path=str(self.path),
                system=errno.errorcode.get(exc.errno),
            ) from exc


def _write(handle: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while len(rest):
        rest = rest[os.write(handle, rest) :]


def read_small(place: Place, name: str) -> bytes:
    """Return a file of at most a mebibyte.

    Raises:
        NotFound: it is not there.
        StorageError: it is larger.
    """
    content = bytearray()
    for piece in place.read(name):
        content += piece
        if len(content) > RECORD_MAX_BYTES:
            raise StorageError("A record of a backup is too large to be one.", name=name)
    return bytes(content)
