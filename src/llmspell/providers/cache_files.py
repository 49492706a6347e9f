"""Embeddings on disk: one small file per entry, sharded, checksummed, shared by processes.

    <root>/v1/<"shared" or digest of the tenant>/<first byte of the key>/<key>

An entry: magic, flags, the instant it was computed (µs), the vector's length in bytes, the key's digest (32), the
payload, and a BLAKE3 checksum (16) over all of it.

Not here: what a key is made of, and what is asked of whom (`cache`).

Rule 1: a damaged, torn, foreign or expired file is a miss, and is removed; reading never raises for what it finds.
Rule 2: an entry appears by one rename, so readers in other processes see all of it or nothing. Nothing is synced to
        disk: a crash loses cache entries only.
Rule 3: the bound on entries is kept by counting at the start and every so many writes; the oldest go first.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

MAGIC = b"LSE1"
COMPRESSED = 1
DIGEST_BYTES = 32
CHECKSUM_BYTES = 16
VECTOR_MAX_BYTES = 65_536
FILE_MAX_BYTES = 2 * VECTOR_MAX_BYTES
COMPRESSION_MIN_SAVING = 0.10  # of the size; less does not pay for the inflation at every read
COMPRESSION_LEVEL = 1
EVICTION_SHARE = 0.10  # below the bound after an eviction, so that not every write evicts
RECOUNT_SHARE = 0.05  # of the bound: so many own writes until other processes' writes are counted again
SHARED = "shared"
VERSION_FOLDER = "v1"
FOLDER_MODE = 0o700  # vectors tell what a text is about
_HEADER = struct.Struct(f"<4sBqI{DIGEST_BYTES}s")


class EmbeddingFiles:
    """The folder of a cache. Blocking: called off the event loop. Threads and processes may share the folder."""

    def __init__(self, root: Path, *, max_entries: int, ttl_us: int, compression_threshold: int) -> None:
        """Make the folder (0700); one that exists keeps its mode. Instants are microseconds of the owner's clock.

        Raises:
            OSError: it cannot be made, or everybody may write into it.
        """
        self._root = root / VERSION_FOLDER
        for folder in (root, self._root):
            _make_folder(folder)
        self._max_entries = max_entries
        self._ttl_us = ttl_us
        self._compression_threshold = compression_threshold
        self._writes_until_count = 0
        self.damaged = 0
        """Files that were found damaged and removed."""

    def read(self, namespace: str, digest: bytes, *, now_us: int) -> tuple[int, bytes] | None:
        """Return (instant in µs, vector) of a key, or None."""
        path = self._path(namespace, digest)
        try:
            with path.open("rb") as opened:
                content = opened.read(FILE_MAX_BYTES + 1)
        except OSError:
            return None
        entry = decode_entry(content, digest)
        if entry is None:
            self.damaged += 1
        elif abs(now_us - entry[0]) < self._ttl_us:  # a clock that was set back must not make entries immortal
            return entry
        path.unlink(missing_ok=True)
        return None

    def write(self, namespace: str, digest: bytes, vector: bytes, *, now_us: int) -> None:
        """Keep a vector.

        Raises:
            OSError: no space, no permission.
        """
        path = self._path(namespace, digest)
        for folder in (path.parent.parent, path.parent):  # one by one: `parents=True` would not pass the mode on
            folder.mkdir(exist_ok=True, mode=FOLDER_MODE)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(encode_entry(digest, vector, now_us=now_us, threshold=self._compression_threshold))
            # The age of a file is that of its entry by the owner's clock, so that evicting need not open files.
            os.utime(temporary, ns=(now_us * 1_000, now_us * 1_000))
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._writes_until_count -= 1
        if self._writes_until_count <= 0:
            self.evict(now_us=now_us)

    def evict(self, *, now_us: int) -> int:
        """Remove what is expired or abandoned and, above the bound, the oldest entries; return how many files went."""
        self._writes_until_count = max(1, int(self._max_entries * RECOUNT_SHARE))
        aged: list[tuple[int, str]] = []
        removed = 0
        for file in self._files():
            try:
                written_us = file.stat().st_mtime_ns // 1_000
            except OSError:
                continue
            if abs(now_us - written_us) >= self._ttl_us:
                Path(file.path).unlink(missing_ok=True)
                removed += 1
            else:
                aged.append((written_us, file.path))
        if len(aged) > self._max_entries:
            aged.sort()
            surplus = len(aged) - int(self._max_entries * (1 - EVICTION_SHARE))
            for _, path in aged[:surplus]:
                Path(path).unlink(missing_ok=True)
            removed += surplus
        return removed

    def count(self) -> int:
        """How many files there are. Reads the whole folder."""
        return sum(1 for _ in self._files())

    def _path(self, namespace: str, digest: bytes) -> Path:
        name = digest.hex()
        return self._root / namespace / name[:2] / name

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """The files of all namespaces; folders that another process removes meanwhile are passed over."""
        for namespace in _entries(self._root):
            for shard in _entries(namespace.path):
                yield from _entries(shard.path)


def erase_namespace(root: Path, namespace: str) -> None:
    """Remove every entry of a namespace from the folder of a cache, which need not exist or be usable otherwise.

    Raises:
        OSError: something is there that cannot be removed, or looked for.
    """
    folder = root / VERSION_FOLDER / namespace
    if folder.exists():
        shutil.rmtree(folder)


def _make_folder(folder: Path) -> None:
    """Make a folder for its user alone, or accept one that exists. Its mode is whoever's it is: it may hold other things.

    A folder that everybody may write into is refused: others could put vectors there, or a link in the place of ours.
    """
    try:
        folder.mkdir(parents=True, mode=FOLDER_MODE)
    except FileExistsError:
        if folder.stat().st_mode & stat.S_IWOTH:
            raise PermissionError(f"everybody may write into {folder}; name a folder of its own") from None


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def encode_entry(digest: bytes, vector: bytes, *, now_us: int, threshold: int) -> bytes:
    """Return the content of an entry's file; compressed from `threshold` bytes on when that saves a tenth or more."""
    flags, payload = 0, vector
    if len(vector) >= threshold:
        smaller = zlib.compress(vector, COMPRESSION_LEVEL)
        if len(smaller) <= len(vector) * (1 - COMPRESSION_MIN_SAVING):
            flags, payload = COMPRESSED, smaller
    content = _HEADER.pack(MAGIC, flags, now_us, len(vector), digest) + payload
    return content + blake3(content).digest(length=CHECKSUM_BYTES)


def decode_entry(content: bytes, digest: bytes) -> tuple[int, bytes] | None:
    """Return (instant in µs, vector) of an entry's file; None when it is damaged or belongs to another key."""
    if not _HEADER.size + CHECKSUM_BYTES <= len(content) <= FILE_MAX_BYTES:
        return None
    body, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if blake3(body).digest(length=CHECKSUM_BYTES) != checksum:
        return None
    magic, flags, written_us, size_bytes, owner = _HEADER.unpack_from(body)
    if magic != MAGIC or owner != digest or size_bytes > VECTOR_MAX_BYTES:
        return None
    vector: bytes = body[_HEADER.size :]
    if flags & COMPRESSED:
        try:
            vector = zlib.decompressobj().decompress(vector, size_bytes + 1)
        except zlib.error:
            return None
    return (written_us, vector) if len(vector) == size_bytes else None
