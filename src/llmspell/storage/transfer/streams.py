"""Files of exports: written whole or not at all, read in pieces, packed or not; the path `-` is the standard output or input.

Rule 1: a file appears under its name only when it is complete and on the disk. What stops before leaves the name as it was.
Rule 2: exports hold everything: only the owner may read them.
Rule 3: only a file is replaced. A device or a pipe is written into as it stands, and a link leads to what it names.
Rule 4: waiting for the standard input or at a pipe ends when nobody wants it any more: an interrupt must not wait for who never
writes, or never reads.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import secrets
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias, cast

from llmspell.errors import DiskFull, InvalidInput, StorageError, TransferError, Unavailable
from llmspell.storage.content import compression
from llmspell.storage.transfer.threads import require_wanted

Compress: TypeAlias = Literal["gz", "zst", "none"]
STANDARD: Final = "-"
MODE: Final = 0o600
GZIP_LEVEL: Final = 6
READ_BYTES: Final = 1024 * 1024
LOOK_S: Final = 0.1
"""How often whoever waits for the standard input looks whether it is still wanted."""
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNREADABLE: Final = (EOFError, zlib.error, gzip.BadGzipFile, *compression.READ_ERRORS)
_MAGIC: Final[tuple[tuple[bytes, Compress], ...]] = ((b"\x1f\x8b", "gz"), (b"\x28\xb5\x2f\xfd", "zst"))


def _suffix(path: str, compress: Compress | None) -> Compress:
    if compress is not None:
        if compress not in ("gz", "zst", "none"):
            raise InvalidInput("compress", "must be `gz`, `zst` or `none`", given=compress)
        return compress
    return "gz" if path.endswith(".gz") else "zst" if path.endswith(".zst") else "none"


class Output:
    """Where an export goes. `compress`: None goes by the suffix of the path."""

    def __init__(self, path: str | Path, *, compress: Compress | None = None, stream: BinaryIO | None = None) -> None:
        """`stream` takes the place of the standard output for the path `-`."""
        self.path = str(path)
        self.compress = _suffix(self.path, compress)
        self._stream = stream

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it for writing. A file replaces what had its name when the block ends normally, and not before.

        Raises:
            InvalidInput: the path names a folder, or a file that holds a store.
            DiskFull, Unavailable, StorageError.
        """
        if self.path == STANDARD:
            target = self._stream or sys.stdout.buffer
            with self._named(), self._packed(target) as file:
                yield file
            with self._named():
                target.flush()
            return
        final = Path(os.path.realpath(self.path))
        if final.is_dir():
            raise InvalidInput("output", "must name a file, and this is a folder", given=self.path)
        if final.exists() and not final.is_file():
            with self._named(), self._device(final) as target, self._packed(target) as file:
                yield file
            return
        partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
        try:
            with self._named():
                with self._created(partial) as target:
                    with self._packed(target) as file:
                        yield file
                    target.flush()
                    os.fsync(target.fileno())
                partial.replace(final)
                _sync_folder(final.parent)
        finally:
            partial.unlink(missing_ok=True)

    def _device(self, path: Path) -> BinaryIO:
        """Open what is no file of its own: /dev/stdout, /dev/null, a named pipe. Replacing it would take it from everybody else."""
        if os.name == "nt" or not is_pipe(path):
            return path.open("wb")
        while True:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError as exc:
                if exc.errno != errno.ENXIO:  # nobody reads yet
                    raise
            require_wanted()
            select.select([], [], [], LOOK_S)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "wb")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Have what the system refuses name the path, and say what to do."""
        try:
            yield
        except OSError as exc:
            raise _written(exc, self.path) from exc

    def _created(self, partial: Path) -> BinaryIO:
        try:
            return os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "wb")
        except FileNotFoundError as exc:
            raise Unavailable("The folder of the file does not exist.", path=self.path) from exc

    @contextlib.contextmanager
    def _packed(self, target: BinaryIO) -> Iterator[BinaryIO]:
        if self.compress == "none":
            yield target
        elif self.compress == "zst":
            with compression.writing(target) as file:
                yield file
        else:
            # No name and no time: equal exports are equal files.
            with gzip.GzipFile("", "wb", GZIP_LEVEL, target, mtime=0) as file:
                yield cast("BinaryIO", file)


class Input:
    """An export to be read. `compress`: None looks at the first bytes."""

    def __init__(self, path: str | Path, *, compress: Compress | None = None, stream: BinaryIO | None = None) -> None:
        """`stream` takes the place of the standard input for the path `-`."""
        self.path = str(path)
        self._compress = compress
        if compress is not None:
            _suffix(self.path, compress)
        self._stream = stream

    @property
    def again(self) -> bool:
        """Whether it can be read more than once."""
        return self.path != STANDARD and Path(self.path).is_file()

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it for reading, unpacked.

        Raises:
            Unavailable: there is no such file, or it may not be read.
        """
        try:
            raw = (self._stream or _standard_input()) if self.path == STANDARD else _opened(self.path)
        except OSError as exc:
            raise Unavailable(f"The export cannot be opened: {exc.strerror}.", path=self.path) from exc
        try:
            yield self._unpacked(raw)
        finally:
            if self.path != STANDARD:
                raw.close()

    def _unpacked(self, raw: BinaryIO) -> BinaryIO:
        compress = self._compress
        if compress is None:
            peeked = raw.peek(4)[:4] if hasattr(raw, "peek") else b""
            compress = next((kind for magic, kind in _MAGIC if peeked.startswith(magic)), "none")
        if compress == "zst":
            return compression.reading(raw)
        return cast("BinaryIO", gzip.GzipFile("", "rb", fileobj=raw)) if compress == "gz" else raw

    def read(self, file: BinaryIO) -> bytes:
        """Read the next piece; empty at the end.

        Raises:
            TransferError: what is packed is damaged or cut off.
        """
        try:
            return file.read(READ_BYTES)
        except _UNREADABLE as exc:
            raise TransferError(f"The packed export is damaged or cut off: {exc}.", path=self.path) from exc
        except OSError as exc:
            raise Unavailable(f"The export cannot be read: {exc.strerror or exc}.", path=self.path) from exc


class _Waiting(io.RawIOBase):
    """What stands behind a descriptor, read for as long as somebody wants it. Closing it leaves the descriptor open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not select.select([self._descriptor], [], [], LOOK_S)[0]:
            require_wanted()
        return os.readv(self._descriptor, [buffer])


def is_pipe(path: str | Path) -> bool:
    """Say whether a path names a pipe, which is read when somebody writes into it, and no sooner."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116 - the same for a text
    except OSError:
        return False


class _Pipe(_Waiting):
    """A named pipe, opened without waiting for who writes into it: that open cannot be interrupted, a wait can."""

    def __init__(self, path: str) -> None:
        super().__init__(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        self._begun = False

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                size = super().readinto(buffer)
            except BlockingIOError:
                continue
            if size or self._begun or sys.platform == "linux":
                self._begun = True
                return size
            # Other systems say that a pipe has ended before anybody has opened it to write.
            require_wanted()
            select.select([], [], [], LOOK_S)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _opened(path: str) -> BinaryIO:
    return io.BufferedReader(_Pipe(path)) if os.name != "nt" and is_pipe(path) else Path(path).open("rb")


def _standard_input() -> BinaryIO:
    stream = sys.stdin.buffer
    if os.name == "nt":  # it can wait for sockets alone
        return stream
    try:
        return io.BufferedReader(_Waiting(stream.fileno()))
    except (AttributeError, OSError):  # somebody has put another stream there
        return stream


def _written(exc: OSError, path: str) -> Exception:
    if isinstance(exc, BrokenPipeError):
        return exc
    if exc.errno in _NO_SPACE:
        return DiskFull(path=path, system=errno.errorcode.get(exc.errno or 0, exc.errno))
    return StorageError(f"The export cannot be written: {exc.strerror or exc}.", path=path)


def _sync_folder(folder: Path) -> None:
    """Have the name on the disk too, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
