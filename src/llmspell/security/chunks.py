"""A stream of chunks, each authenticated with its place in the stream, so that memory stays bounded whatever the length.

    chunk = length of the text, 4 bytes, its highest bit set on the last chunk | text | tag, 16 bytes

With a key the text is AES-256-GCM ciphertext, or where it shall be signed alone, plain with a tag that only the key makes (keyed
BLAKE2b). Without a key it is plain, and the tag a checksum: that finds damage, not forgery.

Rule 1: every chunk is bound to the header of its stream, to its number and to whether it is the last. So chunks that are missing,
repeated, exchanged, taken from another stream or altered in any bit do not open, and neither does a stream that was cut.
Rule 2: a key serves one stream: the number of the chunk is its nonce.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from llmspell.errors import MissingExtra, SealBroken

CHUNK_BYTES: Final = 1_048_576
TAG_BYTES: Final = 16
CHUNKS_MAX: Final = 1 << 32
"""Four pebibytes, far below what one key may encrypt under counted nonces."""
_LAST: Final = 1 << 31


class _Cipher(Protocol):
    def seal(self, number: int, text: bytes, bound_to: bytes) -> bytes: ...

    def open(self, number: int, sealed: bytes, bound_to: bytes) -> bytes: ...


def seal_chunks(
    pieces: Iterable[bytes], *, key: bytes | None, header: bytes, readable: bool = False
) -> Iterator[bytes]:
    """Yield the chunks of a stream; `pieces` may have any size. `key`: 32 bytes that seal nothing else; None encrypts nothing.

    `readable`: the key signs, and encrypts nothing.

    Raises:
        MissingExtra: it shall be encrypted, and the package `cryptography` is not installed.
    """
    cipher = _cipher(key, readable=readable)
    number, waiting = 0, bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) > CHUNK_BYTES:  # one at least stays behind: the last one is marked
            yield _chunk(cipher, number, bytes(waiting[:CHUNK_BYTES]), header, last=False)
            del waiting[:CHUNK_BYTES]
            number += 1
    yield _chunk(cipher, number, bytes(waiting), header, last=True)


def open_chunks(
    stored: Iterable[bytes], *, key: bytes | None, header: bytes, readable: bool = False
) -> Iterator[bytes]:
    """Yield the text of each chunk, once it is verified; `stored` may come in pieces of any size, and is read to its end.

    Raises:
        SealBroken: something was altered, is missing, or is too much; what was yielded before is genuine, but not all of it.
        MissingExtra: as `seal_chunks`.
    """
    cipher = _cipher(key, readable=readable)
    source = _Pieces(stored)
    for number in range(CHUNKS_MAX):
        word = int.from_bytes(source.take(4, number), "big")
        size, last = word & ~_LAST, bool(word & _LAST)
        if size > CHUNK_BYTES:
            raise _broken(number)
        yield cipher.open(number, source.take(size + TAG_BYTES, number), _bound(header, number, last=last))
        if last:
            if source.rest():
                raise SealBroken("Something follows the end of the stream.")
            return
    raise SealBroken("The stream has no end.")


class _Pieces:
    def __init__(self, stored: Iterable[bytes]) -> None:
        self._stored = iter(stored)
        self._waiting = bytearray()

    def take(self, size: int, number: int) -> bytes:
        while len(self._waiting) < size:
            piece = next(self._stored, None)
            if piece is None:
                raise SealBroken("The stream ends early.", chunk=number)
            self._waiting += piece
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken

    def rest(self) -> bool:
        return bool(self._waiting) or any(self._stored)


def _chunk(cipher: _Cipher, number: int, text: bytes, header: bytes, *, last: bool) -> bytes:
    word = len(text) | (_LAST if last else 0)
    return word.to_bytes(4, "big") + cipher.seal(number, text, _bound(header, number, last=last))


def _bound(header: bytes, number: int, *, last: bool) -> bytes:
    return header + number.to_bytes(8, "big") + (b"\1" if last else b"\0")


def _broken(number: int) -> SealBroken:
    return SealBroken("A chunk was altered, or is not where it belongs.", chunk=number)


class _Plain:
    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def seal(self, number: int, text: bytes, bound_to: bytes) -> bytes:
        return text + self._tag(text, bound_to)

    def open(self, number: int, sealed: bytes, bound_to: bytes) -> bytes:
        text, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(text, bound_to)):
            raise _broken(number)
        return text

    def _tag(self, text: bytes, bound_to: bytes) -> bytes:
        digest = hashlib.blake2b(len(bound_to).to_bytes(8, "big") + bound_to, digest_size=TAG_BYTES, key=self._key)
        digest.update(text)
        return digest.digest()


class _Sealed:
    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError as exc:
            raise MissingExtra("encryption", needed_for="Encrypting a backup") from exc
        self._aes = AESGCM(key)

    def seal(self, number: int, text: bytes, bound_to: bytes) -> bytes:
        return self._aes.encrypt(number.to_bytes(12, "big"), text, bound_to)

    def open(self, number: int, sealed: bytes, bound_to: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._aes.decrypt(number.to_bytes(12, "big"), sealed, bound_to)
        except InvalidTag:
            raise _broken(number) from None


def _cipher(key: bytes | None, *, readable: bool) -> _Cipher:
    if key is None:
        return _Plain()
    return _Plain(key) if readable else _Sealed(key)
