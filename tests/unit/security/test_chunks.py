"""A stream of chunks opens whole and in order, or not at all."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.fixtures.seeds import SEED

from llmspell.errors import SealBroken
from llmspell.security.chunks import CHUNK_BYTES, TAG_BYTES, open_chunks, seal_chunks

KEYS = (None, bytes(range(32)))
HEADER = b"a header of this stream"
OVERHEAD = 4 + TAG_BYTES
both = pytest.mark.parametrize("key", KEYS, ids=("plain", "sealed"))


def sealed(content: bytes, key: bytes | None, header: bytes = HEADER) -> bytes:
    return b"".join(seal_chunks([content], key=key, header=header))


def opened(stored: bytes, key: bytes | None, header: bytes = HEADER) -> bytes:
    return b"".join(open_chunks([stored], key=key, header=header))


@both
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_what_was_sealed_opens(key: bytes | None, size: int) -> None:
    content = random.Random(SEED).randbytes(size)

    stored = sealed(content, key)

    assert opened(stored, key) == content
    assert len(stored) == size + OVERHEAD * max(1, -(-size // CHUNK_BYTES))
    if size != 1:  # any byte may stand by chance among those that were sealed
        assert (content[:1_000] in stored) is (key is None or not content)


@both
def test_pieces_of_any_size_make_the_same_stream(key: bytes | None) -> None:
    chance = random.Random(SEED)
    content = chance.randbytes(CHUNK_BYTES + 12_345)

    def cut(whole: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(whole):
            size = chance.choice((0, 1, 7, 100_000, CHUNK_BYTES))
            yield whole[start : start + size]
            start += size

    stored = b"".join(seal_chunks(cut(content), key=key, header=HEADER))

    assert stored == sealed(content, key)
    assert b"".join(open_chunks(cut(stored), key=key, header=HEADER)) == content


@both
def test_a_flipped_bit_anywhere_is_refused(key: bytes | None) -> None:
    stored = sealed(b"some content", key)

    for position in range(len(stored)):
        harmed = bytearray(stored)
        harmed[position] ^= 1 << random.Random(SEED + position).randrange(8)
        with pytest.raises(SealBroken):
            opened(bytes(harmed), key)


@both
def test_a_stream_that_was_cut_or_goes_on_is_refused(key: bytes | None) -> None:
    stored = sealed(bytes(CHUNK_BYTES + 10), key)

    for size in (0, 3, 4, 100, CHUNK_BYTES + OVERHEAD, len(stored) - 1):
        with pytest.raises(SealBroken):
            opened(stored[:size], key)
    with pytest.raises(SealBroken, match="follows"):
        opened(stored + b"x", key)


@both
def test_chunks_that_change_places_are_missing_or_repeated_are_refused(key: bytes | None) -> None:
    stored = sealed(b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c" * CHUNK_BYTES, key)
    size = CHUNK_BYTES + OVERHEAD
    first, second, third = (stored[start : start + size] for start in range(0, 3 * size, size))

    for wrong in (second + first + third, first + third, first + first + third, third, first + second):
        with pytest.raises(SealBroken):
            opened(wrong, key)


@both
def test_a_chunk_of_another_stream_is_refused(key: bytes | None) -> None:
    ours, theirs = sealed(bytes(2 * CHUNK_BYTES), key), sealed(bytes(2 * CHUNK_BYTES), key, b"another header")
    size = CHUNK_BYTES + OVERHEAD

    with pytest.raises(SealBroken):
        opened(ours[:size] + theirs[size:], key)
    with pytest.raises(SealBroken):
        opened(ours, key, b"another header")


def test_another_key_opens_nothing() -> None:
    with pytest.raises(SealBroken):
        opened(sealed(b"content", bytes(32)), bytes(range(32)))
    with pytest.raises(SealBroken):
        opened(sealed(b"content", bytes(32)), None)
