"""A content on its way in: received from whatever the caller has, hashed meanwhile, then packed for the store.

Not here: what becomes of it in a database.

Rule 1: what is large waits in a temporary file without a name, which vanishes with the process; memory is bounded by a few
mebibytes, whatever the size.
Rule 2: the caller's file is read, and what is large is hashed and compressed, off the event loop.
Rule 3: nothing here touches a store, so none is held while the caller is slow.
Rule 4: a file that can be rewound is left where it stood, so that a repeated try reads the same.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, Any, BinaryIO, TypeAlias, TypeVar

from blake3 import blake3

from llmspell.errors import DiskFull, InvalidInput, StorageError
from llmspell.storage.content.compression import COMPRESS_ABOVE_BYTES, PIECE_BYTES, compress, pays

ContentSource: TypeAlias = "bytes | bytearray | memoryview | BinaryIO | AsyncIterable[bytes]"

CHUNK_BYTES = 1_048_576
"""Content below this, as stored, is one value; from here on it is cut into chunks of this size."""
OFF_LOOP_BYTES = 262_144
"""Work on more than this leaves the event loop: hashing and compressing so much takes longer than changing threads."""
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_BYTES = "must be bytes, a binary file or an asynchronous iterable of bytes"
T = TypeVar("T")


class Blob:
    """Bytes in memory or in a temporary file."""

    def __init__(self, source: bytes | memoryview | IO[bytes], size_bytes: int) -> None:
        self.source = source
        self.size_bytes = size_bytes

    def part(self, start: int, size: int) -> bytes | memoryview:
        """Return `size` bytes from `start` on."""
        if isinstance(self.source, (bytes, memoryview)):
            return memoryview(self.source)[start : start + size]
        self.source.seek(start)
        return self.source.read(size)

    def whole(self) -> bytes:
        """Return all of it: ask for what fits into one value."""
        return bytes(self.part(0, self.size_bytes))

    def chunks(self) -> int:
        """Return how many chunks it is cut into."""
        return -(-self.size_bytes // CHUNK_BYTES)

    def chunk(self, number: int) -> bytes:
        """Return one chunk."""
        return bytes(self.part(number * CHUNK_BYTES, CHUNK_BYTES))

    def close(self) -> None:
        """Release the file, if there is one."""
        if not isinstance(self.source, (bytes, memoryview)):
            self.source.close()


class Packed(Blob):
    """A content as it is stored."""

    def __init__(self, source: bytes | memoryview | IO[bytes], size_bytes: int, *, is_compressed: bool) -> None:
        super().__init__(source, size_bytes)
        self.is_compressed = is_compressed

    @property
    def in_one_value(self) -> bool:
        """Whether it is small enough to be kept in one value."""
        return self.size_bytes < CHUNK_BYTES


class Incoming:
    """A received content."""

    def __init__(self, blob: Blob, content_hash: str) -> None:
        self._blob = blob
        self._packed: Packed | None = None
        self.content_hash = content_hash
        self.size_bytes = blob.size_bytes

    async def packed(self) -> Packed:
        """Return it as it is to be stored; it is compressed once, when that pays."""
        if self._packed is None:
            self._packed = await _working(self.size_bytes, self._pack)
        return self._packed

    def _pack(self) -> Packed:
        if self.size_bytes > COMPRESS_ABOVE_BYTES:
            spool = Spool()
            for piece in compress(self._blob.part, self.size_bytes):
                spool.add(piece)
                if not pays(self.size_bytes, spool.size_bytes):
                    spool.close()
                    break
            else:
                return Packed(spool.file, spool.size_bytes, is_compressed=True)
        return Packed(self._blob.source, self.size_bytes, is_compressed=False)

    def close(self) -> None:
        """Release what it is kept in."""
        self._blob.close()
        if self._packed is not None:
            self._packed.close()


class Spool:
    """Grows by pieces: in memory first, then in a temporary file."""

    def __init__(self) -> None:
        self.file: Any = tempfile.SpooledTemporaryFile(max_size=CHUNK_BYTES)  # noqa: SIM115 - whoever has the blob closes it
        self.size_bytes = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Append a piece.

        Raises:
            DiskFull: there is no space for temporary files.
        """
        try:
            self.file.write(piece)
        except OSError as exc:
            if exc.errno in _NO_SPACE:
                raise DiskFull(folder=tempfile.gettempdir(), hint="Free some space, or set TMPDIR.") from exc
            raise StorageError(
                "A temporary file cannot be written.", folder=tempfile.gettempdir(), detail=str(exc)
            ) from exc
        self.size_bytes += len(piece)

    def close(self) -> None:
        """Drop it."""
        self.file.close()


class _Receiving:
    """What has come so far, and its hash."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._hash = blake3()
        self.spool = Spool()

    def add(self, piece: bytes | memoryview) -> None:
        require_size(self.spool.size_bytes + len(piece), self._limit_bytes)
        self._hash.update(piece)
        self.spool.add(piece)

    def end(self) -> Incoming:
        return Incoming(Blob(self.spool.file, self.spool.size_bytes), self._hash.hexdigest())


def require_size(size_bytes: int, limit_bytes: int) -> None:
    """Refuse a content that is too large.

    Raises:
        InvalidInput: it is.
    """
    if size_bytes > limit_bytes:
        raise InvalidInput("data", f"must be at most {limit_bytes:,} bytes", given=size_bytes)


@asynccontextmanager
async def received(data: ContentSource, *, limit_bytes: int) -> AsyncIterator[Incoming]:
    """Receive a content to its end, and release it after the block.

    Raises:
        InvalidInput: it is no bytes, or more than `limit_bytes`; the rest was not read.
    """
    content = await _receive(data, limit_bytes)
    try:
        yield content
    finally:
        content.close()


async def _receive(data: ContentSource, limit_bytes: int) -> Incoming:
    if isinstance(data, (bytes, bytearray, memoryview)):
        require_size(memoryview(data).nbytes, limit_bytes)
        # A buffer that its owner may change while we wait is copied; bytes are not.
        source = data if isinstance(data, bytes) else bytes(data)
        digest = await _working(len(source), lambda: blake3(source).hexdigest())
        return Incoming(Blob(source, len(source)), digest)
    if not hasattr(data, "__aiter__") and not callable(getattr(data, "read", None)):
        hint = "Encode text with `.encode()`." if isinstance(data, str) else ""
        raise InvalidInput("data", _NOT_BYTES, given=type(data).__name__, hint=hint)
    if inspect.isasyncgen(data) and data.ag_frame is None:
        # At a second try it would be an empty content, and nobody would know.
        raise InvalidInput(
            "data",
            "must not have been read to its end already",
            given=type(data).__name__,
            hint="What is tried again needs bytes, a file that can be rewound, or a generator that is made for each try.",
        )
    receiving = _Receiving(limit_bytes)
    try:
        if hasattr(data, "__aiter__"):
            await _receive_pieces(data, receiving)
        else:
            await asyncio.to_thread(_receive_file, data, receiving)
    except BaseException:
        receiving.spool.close()
        raise
    return receiving.end()


def _receive_file(file: BinaryIO, receiving: _Receiving) -> None:
    start = _start_of(file)
    try:
        while piece := _bytes(file.read(PIECE_BYTES)):
            receiving.add(piece)
    finally:
        if start is not None:
            file.seek(start)


def _start_of(file: BinaryIO) -> int | None:
    """Return where a file stands, or None when it cannot be brought back there."""
    if not hasattr(file, "seek"):
        return None
    try:
        start = file.tell()
        file.seek(start)  # some that cannot be rewound do say where they stand
    except (OSError, TypeError, AttributeError):
        return None
    return start


async def _receive_pieces(pieces: AsyncIterable[bytes], receiving: _Receiving) -> None:
    """Gather small pieces, so that a change of threads pays."""
    gathered = bytearray()
    async for piece in pieces:
        view = _bytes(piece)
        for start in range(0, len(view), PIECE_BYTES):
            gathered += view[start : start + PIECE_BYTES]
            if len(gathered) >= PIECE_BYTES:
                await asyncio.to_thread(receiving.add, bytes(gathered))
                gathered.clear()
    await _working(len(gathered), lambda: receiving.add(bytes(gathered)))


def _bytes(piece: object) -> memoryview:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        hint = "Open the file in binary mode." if isinstance(piece, str) else ""
        raise InvalidInput("data", _NOT_BYTES, given=type(piece).__name__, hint=hint)
    return memoryview(piece.tobytes() if isinstance(piece, memoryview) else piece)


async def _working(size_bytes: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if size_bytes > OFF_LOOP_BYTES else work()


def checksum(number: int, data: bytes) -> bytes:
    """Return the checksum of a chunk: of its number too, so that no chunk stands in for another."""
    return blake3(number.to_bytes(4, "little") + data).digest()
