"""The file of a backup: a header, then authenticated chunks of (manifest, content), compressed.

    "LSBK" | version 1 or 2 | encrypted 0/1 | compressed 0/1 | signed 0/1 | key id, 8 bytes | salt, 32 bytes
    chunks (`security.chunks`) of: [one zstd frame of] length of the manifest, 4 bytes | manifest, JSON | content

What is signed can be read by anybody, and made by nobody without the key; it has version 2, which older releases refuse by name.
The key of a backup is made of the master key and the salt, so no two backups share one, and a chunk of one never opens in another.

Rule: written and read as a stream, in memory of a few mebibytes whatever the size.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from llmspell.errors import CorruptStore, MasterKeyMissing, SealBroken
from llmspell.ops.backup.records import FORMAT_VERSION, Manifest
from llmspell.security.chunks import open_chunks, seal_chunks
from llmspell.security.keyring import Keyring
from llmspell.storage.content.compression import Damaged, compressed, decompressed

MAGIC: Final = b"LSBK"
SIGNED_VERSION: Final = 2
SALT_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
HEADER_BYTES: Final = 8 + KEY_ID_BYTES + SALT_BYTES
MANIFEST_MAX_BYTES: Final = 64 * 1024 * 1024
_PIECE_BYTES: Final = 1_048_576


class Packing(NamedTuple):
    """How a backup is packed. `level`: of zstd, 0 leaves it as it is. `key_id`: None encrypts nothing. `signed_by`: the key that
    signs what is not encrypted."""

    level: int
    key_id: str | None
    signed_by: str | None = None

    @property
    def genuine(self) -> bool:
        """Whether only somebody with a master key can have made it."""
        return self.key_id is not None or self.signed_by is not None


class Opened(NamedTuple):
    """A backup that is being read. `content` must be read to its end: only then is all of it known to be genuine."""

    manifest: Manifest
    packing: Packing
    content: Iterator[bytes]


def pack(manifest: Manifest, content: Iterable[bytes], *, keyring: Keyring, packing: Packing) -> Iterator[bytes]:
    """Yield the bytes of a backup.

    Raises:
        MasterKeyMissing: the key is not in the keyring.
        MissingExtra: the package `cryptography` is not installed.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    encrypted, signed = packing.key_id is not None, packing.key_id is None and packing.signed_by is not None
    key_id = packing.key_id or packing.signed_by
    flags = bytes((SIGNED_VERSION if signed else FORMAT_VERSION, encrypted, packing.level > 0, signed))
    header = MAGIC + flags + (bytes(KEY_ID_BYTES) if key_id is None else bytes.fromhex(key_id)) + salt
    key = _key(keyring, packing, salt)
    document = msgspec.json.encode(manifest)
    text = chain((len(document).to_bytes(4, "big"), document), content)
    yield header
    yield from seal_chunks(
        compressed(text, packing.level) if packing.level else text, key=key, header=header, readable=signed
    )


def unpack(stored: Iterable[bytes], *, keyring: Keyring) -> Opened:
    """Read the header and the manifest of a backup; the content follows as it is asked for.

    Raises:
        CorruptStore: these bytes are no backup, or are damaged.
        SealBroken: they were altered or cut, or the master key is not in the keyring.
        MissingExtra: it is encrypted, and the package `cryptography` is not installed.
    """
    pieces = iter(stored)
    begun = bytearray()
    while len(begun) < HEADER_BYTES:
        piece = next(pieces, None)
        if piece is None:
            raise CorruptStore("This is no backup: it ends before its header does.", size_bytes=len(begun))
        begun += piece
    header = bytes(begun[:HEADER_BYTES])
    packing, salt = _read_header(header)
    text = open_chunks(
        chain((bytes(begun[HEADER_BYTES:]),), pieces),
        key=_key(keyring, packing, salt),
        header=header,
        readable=packing.key_id is None,
    )
    text = _inflated(text) if packing.level else text
    waiting = bytearray()
    size = int.from_bytes(_take(text, waiting, 4), "big")
    if size > MANIFEST_MAX_BYTES:
        raise CorruptStore("The manifest of the backup is too large.", size_bytes=size)
    try:
        manifest = msgspec.json.decode(_take(text, waiting, size), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CorruptStore("The manifest of the backup cannot be read.", reason=str(exc)) from exc
    return Opened(manifest, packing, chain((bytes(waiting),), text) if waiting else text)


def _read_header(header: bytes) -> tuple[Packing, bytes]:
    if not header.startswith(MAGIC):
        raise CorruptStore("This is no backup of llmspell.")
    version, encrypted, compressed_, signed = header[4:8]
    if version > SIGNED_VERSION:
        raise CorruptStore("A newer llmspell made this backup.", hint="Upgrade llmspell to read it.", version=version)
    if (version, signed) not in ((FORMAT_VERSION, 0), (SIGNED_VERSION, 1)) or encrypted + signed > 1 or compressed_ > 1:
        raise CorruptStore("The header of the backup is damaged.")
    key_id = header[8 : 8 + KEY_ID_BYTES].hex()
    return Packing(compressed_, key_id if encrypted else None, key_id if signed else None), header[8 + KEY_ID_BYTES :]


def _key(keyring: Keyring, packing: Packing, salt: bytes) -> bytes | None:
    key_id = packing.key_id or packing.signed_by
    if key_id is None:
        return None
    how = "signed" if packing.key_id is None else "encrypted"
    if keyring.active is None:
        raise MasterKeyMissing(
            f"The backup is {how}, and no master key is configured (it needs {key_id}).",
            hint="Set LLMSPELL_MASTER_KEY_FILE to the copy of that key; a new key does not open it.",
        )
    purpose = "backup signature" if packing.key_id is None else "backup"
    key = keyring.derive(f"{purpose} {salt.hex()}", key_id=key_id)
    if key is None:
        raise SealBroken(
            f"The backup was {how} under a master key that is not configured here.",
            master_key_id=key_id,
            hint="Add that key to security.master_keys; older keys stand behind the active one.",
        )
    return key


def _inflated(text: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from decompressed(text)
    except Damaged as exc:
        raise CorruptStore("The compressed content of the backup is damaged.", reason=str(exc)) from exc


def _take(text: Iterator[bytes], waiting: bytearray, size: int) -> bytes:
    while len(waiting) < size:
        piece = next(text, None)
        if piece is None:
            raise CorruptStore("The backup ends before its content begins.")
        waiting += piece
    taken = bytes(waiting[:size])
    del waiting[:size]
    return taken
