"""A file layer that writes down what a store asks of its disk, in order: every write, truncation, sync, creation and deletion.

It stands under the real store: it is the library's default file layer while `recorded` lasts, so that connections, pragmas, group
commit, checkpoints, locks and shared memory are those of production. What is recorded of them is the database, its log and its
journal; the shared memory beside them is no part of what must survive.

It can also let an operation fail, as a disk does: a write that fails has written its first half, a sync that fails has kept
nobody's word. `fail_below` does so by code, as the operating system does; in a recording that is given a fault the layer raises,
which also makes the driver report what the library itself would overlook (a checkpoint that fails while a connection closes).
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import apsw
import msgspec

from llmspell.storage.sqlite import writer

_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_WORD = ctypes.sizeof(ctypes.c_void_p)
_METHODS_BYTES = 19 * _WORD  # `sqlite3_io_methods`: a version and 18 functions
_WRITE_AT, _SYNC_AT = 3 * _WORD, 5 * _WORD
FILE = "store.db"
BELOW = "unix"
"""The layer that does the work. Only it names itself when it syncs a folder, so these tests run where it exists."""
_OPEN_DIRECTORY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))

Kind: TypeAlias = Literal[
    "write", "truncate", "sync", "failed sync", "create", "delete", "sync folder", "begin", "end", "refused"
]
Value: TypeAlias = str | None
Change: TypeAlias = tuple[str, str, Value]
"""What a write changes: (kind of record, its name, its value or None when it is gone)."""


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """One request to the disk, or what a caller knew at that moment: that it began write `number`, that this
    was acknowledged (`end`), or that it failed for certain (`refused`); a write that is none of the two may be there or not.

    `number` is an offset (write), a size (truncate), or how many operations there were when a sync began.
    """

    kind: Kind
    file: str = ""
    number: int = 0
    data: bytes = b""


class Recording(msgspec.Struct):
    """A run of a workload: the files before it, what it asked of the disk, what its writes change, where its story begins."""

    name: str
    files: dict[str, bytes]
    operations: list[Operation] = []
    writes: list[list[Change]] = []
    begins_at: int = 0
    """Nothing is cut before this operation: by then the scene is set."""
    migrates: bool = False
    """The schema is not complete before the end."""

    def note(self, operation: Operation) -> None:
        self.operations.append(operation)


class Fault:
    """Fails the n-th operation of a kind once it is armed, or all from the n-th on; counts them either way."""

    def __init__(self, kind: Kind, code: int, *, system: int = errno.EIO, at: int = 0, lasting: bool = False) -> None:
        self.kind = kind
        self.code = code
        self.system = system
        self.at = at
        self.lasting = lasting
        self.armed = False
        self.seen = 0
        self.failed = 0

    def due(self, kind: Kind) -> bool:
        if kind != self.kind or not self.armed:
            return False
        self.seen += 1
        due = self.at > 0 and (self.seen == self.at or (self.lasting and self.seen > self.at))
        self.failed += due
        return due


class RecordingFile(apsw.VFSFile):
    """One file of the store."""

    def __init__(self, name: str | apsw.URIFilename, flags: list[int], layer: RecordingFiles) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        new = not Path(path).exists()
        super().__init__(BELOW, name, flags)
        self._file = Path(path).name
        self._layer = layer
        if new:
            layer.recording.note(Operation("create", self._file))

    def xWrite(self, data: bytes, offset: int) -> None:  # type: ignore[override]
        if self._layer.due("write"):
            self.xWrite(data[: len(data) // 2], offset)
            raise apsw.exception_for(self._layer.code)
        self._layer.recording.note(Operation("write", self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._layer.recording.note(Operation("truncate", self._file, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        begun = len(self._layer.recording.operations)
        if self._layer.due("sync"):
            self._layer.recording.note(Operation("failed sync", self._file, begun))
            raise apsw.exception_for(self._layer.code)
        super().xSync(flags)
        self._layer.recording.note(Operation("sync", self._file, begun))


class RecordingFiles(apsw.VFS):
    """The layer itself; the library's default while it is registered."""

    def __init__(self, recording: Recording, fault: Fault | None) -> None:
        self.recording = recording
        self._fault = fault
        self._folder_opened: Any = None
        self._raises = True
        self._kept: list[Any] = []
        self.connections: list[apsw.Connection] = []
        super().__init__("recording", BELOW, makedefault=True)

    @property
    def code(self) -> int:
        assert self._fault is not None
        return self._fault.code

    def due(self, kind: Kind) -> bool:
        return self._fault is not None and self._raises and self._fault.due(kind)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:  # a temporary file, which nobody finds again
            return apsw.VFSFile(BELOW, name, flags)
        return RecordingFile(name, flags, self)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.recording.note(Operation("delete", Path(filename).name))
        super().xDelete(filename, syncdir)

    def xGetLastError(self) -> tuple[int, str]:
        if self._fault is not None and self._fault.failed:
            return self._fault.system, ""
        return super().xGetLastError()

    def fail_below(self) -> None:
        """From now on let the fault of this recording come as a code of the operating system, for the connection opened first.

        It is the one that writes. Its functions are exchanged in the library's own structures, above this layer.
        """
        self._raises = False
        for which in (apsw.SQLITE_FCNTL_FILE_POINTER, apsw.SQLITE_FCNTL_JOURNAL_POINTER):
            pointer = ctypes.c_void_p()
            assert self.connections[0].file_control("main", which, ctypes.addressof(pointer))
            assert pointer.value is not None
            self._exchange(pointer.value, FILE if which == apsw.SQLITE_FCNTL_FILE_POINTER else f"{FILE}-wal")

    def _exchange(self, file: int, name: str) -> None:
        fault = self._fault
        assert fault is not None
        methods = ctypes.c_void_p.from_address(file).value
        assert methods is not None
        table = ctypes.create_string_buffer(ctypes.string_at(methods, _METHODS_BYTES), _METHODS_BYTES)
        write_slot, sync_slot = (ctypes.c_void_p.from_buffer(table, at) for at in (_WRITE_AT, _SYNC_AT))
        assert write_slot.value is not None
        assert sync_slot.value is not None
        write_below, sync_below = _WRITE(write_slot.value), _SYNC(sync_slot.value)

        def write(file: int, data: int, length: int, offset: int) -> int:
            if fault.due("write"):
                write_below(file, data, length // 2, offset)
                return fault.code
            return write_below(file, data, length, offset)

        def sync(file: int, flags: int) -> int:
            if fault.due("sync"):
                self.recording.note(Operation("failed sync", name, len(self.recording.operations)))
                return fault.code
            return sync_below(file, flags)

        functions = _WRITE(write), _SYNC(sync)
        write_slot.value, sync_slot.value = (ctypes.cast(one, ctypes.c_void_p).value for one in functions)
        ctypes.c_void_p.from_address(file).value = ctypes.addressof(table)
        self._kept.append((table, functions))

    def watch_folder(self) -> Callable[[], None]:
        """Note each sync of the folder, which the layer below does by itself; return what ends that."""
        pointer = self.xGetSystemCall("openDirectory")
        assert pointer is not None
        below = _OPEN_DIRECTORY(pointer)

        def opened(path: bytes, descriptor: Any) -> int:
            self.recording.note(Operation("sync folder"))
            return below(path, descriptor)

        self._folder_opened = _OPEN_DIRECTORY(opened)
        address = ctypes.cast(self._folder_opened, ctypes.c_void_p).value
        assert address is not None
        assert self.xSetSystemCall("openDirectory", address)
        return lambda: self._forget_folder(pointer)

    def _forget_folder(self, pointer: int) -> None:
        self.xSetSystemCall("openDirectory", pointer)
        self._folder_opened = None


@contextmanager
def recorded(
    name: str, folder: Path, *, fault: Fault | None = None, pages_between_checkpoints: int | None = None
) -> Iterator[RecordingFiles]:
    """Record what every store opened meanwhile asks of its disk; they must be closed at the end.

    `fault` fails some of it. `pages_between_checkpoints` makes the log be written back more often than by itself.
    """
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    layer = RecordingFiles(Recording(name, files), fault)

    def opened(connection: apsw.Connection) -> None:
        layer.connections.append(connection)

    apsw.connection_hooks.append(opened)
    forget_folder = layer.watch_folder()
    pages = writer.CHECKPOINT_PAGES if pages_between_checkpoints is None else pages_between_checkpoints
    try:
        with patch.object(writer, "CHECKPOINT_PAGES", pages):
            yield layer
    finally:
        apsw.connection_hooks.remove(opened)
        forget_folder()
        layer.unregister()
