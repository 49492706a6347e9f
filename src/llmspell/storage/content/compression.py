"""Compression of contents: zstd, when it pays.

Rule: what is unpacked is bounded by the size that was promised: a damaged or hostile frame never fills the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 3
COMPRESS_ABOVE_BYTES = 10_240  # C10
STORED_SHARE_MAX = 0.9
"""Compressed content is kept when it takes at most this share: less is not worth unpacking it at every read."""
PIECE_BYTES = 1_048_576


def pays(size_bytes: int, stored_bytes: int) -> bool:
    """Say whether compressing so many bytes into so many was worth it."""
    return stored_bytes <= size_bytes * STORED_SHARE_MAX


def compress(part: Callable[[int, int], bytes | memoryview], size_bytes: int) -> Iterator[bytes]:
    """Compress bytes that `part(start, size)` gives, a piece at a time."""
    compressor = zstd.ZstdCompressor(level=LEVEL)
    for start in range(0, size_bytes, PIECE_BYTES):
        if packed := compressor.compress(part(start, min(PIECE_BYTES, size_bytes - start))):
            yield packed
    yield compressor.flush()


def compressed(pieces: Iterable[bytes], level: int) -> Iterator[bytes]:
    """Compress a stream of any length into one frame with a checksum, in bounded memory."""
    parameters: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    compressor = zstd.ZstdCompressor(options=parameters)
    for piece in pieces:
        if packed := compressor.compress(piece):
            yield packed
    yield compressor.flush()


def decompressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack what `compressed` gave, at most a mebibyte at a time.

    Raises:
        Damaged: it is no such frame, it ends early, or something follows it.
    """
    frame = Decompressor()
    for piece in pieces:
        yield from frame.pieces(piece)
    if not frame.ended:
        raise Damaged("the frame ends early")


class Damaged(Exception):
    """The stored bytes are not what was stored."""


class Decompressor:
    """Unpacks one frame from its pieces."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()

    @property
    def ended(self) -> bool:
        """Whether the frame is complete."""
        return bool(self._frame.eof)

    def pieces(self, stored: bytes) -> Iterator[bytes]:
        """Yield what a piece of the frame unpacks to, at most a mebibyte at a time.

        Raises:
            Damaged: it is no such frame, or something follows it.
        """
        waiting = stored
        while True:
            try:
                unpacked = self._frame.decompress(waiting, PIECE_BYTES)
            except (zstd.ZstdError, EOFError) as exc:
                raise Damaged(str(exc)) from exc
            waiting = b""
            if unpacked:
                yield unpacked
            if self._frame.eof:
                if self._frame.unused_data:
                    raise Damaged("something follows the frame")
                return
            if self._frame.needs_input:
                return


def writing(file: BinaryIO) -> BinaryIO:
    """Return a file whose bytes go into `file` as one zstd frame; closing it ends the frame, and leaves `file` open."""
    return cast("BinaryIO", zstd.ZstdFile(file, "wb", level=LEVEL))


def reading(file: BinaryIO) -> BinaryIO:
    """Return a file with what the zstd frames in `file` unpack to. Damage raises `EOFError` or one of `READ_ERRORS`."""
    return cast("BinaryIO", zstd.ZstdFile(file, "rb"))


READ_ERRORS = (zstd.ZstdError,)
"""What `reading` raises at a frame that is damaged."""
