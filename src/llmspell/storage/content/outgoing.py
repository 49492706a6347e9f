"""A content on its way out: unpacked and verified, a piece at a time.

Rule: nothing is handed out that is not verified: chunks have checksums of their own, and the last piece waits for the hash of the
whole. What does not hold is reported by its hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

import msgspec
from blake3 import blake3

from llmspell.errors import CorruptStore, InvalidInput
from llmspell.storage.content.compression import PIECE_BYTES, Damaged, Decompressor
from llmspell.storage.content.incoming import OFF_LOOP_BYTES, checksum


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known of a content to read it; `stored_bytes` is its size in the store, `size_bytes` its own."""

    content_hash: str
    is_compressed: bool
    size_bytes: int
    stored_bytes: int


def damaged(content_hash: str) -> CorruptStore:
    """Return the error that says so."""
    return CorruptStore(
        "The content of an artifact is damaged; it was not handed out.",
        content_hash=content_hash,
        hint="Restore it from a backup, or store the content again under the same session.",
    )


def require_chunk(head: Head, number: int, data: bytes, stored_checksum: bytes) -> bytes:
    """Return a chunk that is what was stored.

    Raises:
        CorruptStore: it is not.
    """
    if checksum(number, data) != stored_checksum:
        raise damaged(head.content_hash)
    return data


async def opened(head: Head, stored: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a content from its stored pieces, at most a mebibyte at a time.

    Raises:
        CorruptStore: it is not what its hash says; the last piece was not yielded then.
    """
    reading = _Reading(head)
    held = b""
    async for piece in stored:
        unpacked = reading.unpack(piece)
        while True:
            following = await _off_loop(len(piece), unpacked)
            if following is None:
                break
            if held:
                yield held
            held = following
    reading.require_whole()
    if held:
        yield held


async def written(pieces: AsyncIterator[bytes], into: BinaryIO) -> int:
    """Write every piece into a file, off the event loop, and return how many bytes those were.

    Raises:
        InvalidInput: the file does not take what it is given.
    """
    size_bytes = 0
    async for piece in pieces:
        await asyncio.to_thread(_write_all, piece, into)
        size_bytes += len(piece)
    return size_bytes


def _write_all(piece: bytes, into: BinaryIO) -> None:
    """Write a piece to its end: a file without a buffer may take less than it is given."""
    rest: bytes | memoryview = piece
    while rest:
        taken = into.write(rest)
        if not isinstance(taken, int) or not 0 < taken <= len(rest):
            raise InvalidInput("into", "must take what is written to it, and say how many bytes it took", given=taken)
        rest = memoryview(rest)[taken:]


async def _off_loop(size_bytes: int, pieces: Iterator[bytes]) -> bytes | None:
    if size_bytes > OFF_LOOP_BYTES:
        return await asyncio.to_thread(next, pieces, None)
    return next(pieces, None)


class _Reading:
    """Unpacks, hashes and counts."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._hash = blake3()
        self._size_bytes = 0
        self._stored_bytes = 0
        self._frame = Decompressor() if head.is_compressed else None

    def unpack(self, stored: bytes) -> Iterator[bytes]:
        """Yield what a stored piece holds.

        Raises:
            CorruptStore: it cannot be unpacked, or is more than was stored.
        """
        self._stored_bytes += len(stored)
        try:
            for piece in _cut(stored) if self._frame is None else self._frame.pieces(stored):
                self._size_bytes += len(piece)
                if self._size_bytes > self._head.size_bytes:
                    raise damaged(self._head.content_hash)
                self._hash.update(piece)
                yield piece
        except Damaged as exc:
            raise damaged(self._head.content_hash) from exc

    def require_whole(self) -> None:
        """Raise unless all of it came, and nothing else."""
        whole = (self._size_bytes, self._stored_bytes) == (self._head.size_bytes, self._head.stored_bytes)
        if not whole or self._hash.hexdigest() != self._head.content_hash:
            raise damaged(self._head.content_hash)


def _cut(stored: bytes) -> Iterator[bytes]:
    if len(stored) <= PIECE_BYTES:
        if stored:
            yield stored
        return
    for start in range(0, len(stored), PIECE_BYTES):
        yield stored[start : start + PIECE_BYTES]
