"""The file of a backup, written and read as a stream."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.fixtures.backups import MASTER_KEY, OTHER_KEY
from tests.fixtures.seeds import SEED

from llmspell.errors import CorruptStore, LlmspellError, MasterKeyMissing, SealBroken
from llmspell.ops.backup.container import HEADER_BYTES, MAGIC, Packing, pack, unpack
from llmspell.ops.backup.records import Manifest
from llmspell.security.keyring import Keyring, read_keyring
from llmspell.storage.contracts.snapshot import TableDigest

KEYS = read_keyring(MASTER_KEY)
MANIFEST = Manifest(
    format_version=1,
    id="b",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    kind="sqlite",
    store="sqlite:///s.db",
    store_id="aa",
    schema_version=35,
    tenants=["a tenant of ours"],
    tables=[TableDigest("kv_store", 3, "d")],
    software={"sqlite": "3"},
)
PACKINGS = [Packing(level, key_id) for level in (0, 3) for key_id in (None, KEYS.active)] + [
    Packing(3, None, KEYS.active)
]
every = pytest.mark.parametrize(
    "packing", PACKINGS, ids=["plain", "sealed", "packed", "packed-sealed", "packed-signed"]
)


def packed(content: bytes, packing: Packing) -> bytes:
    return b"".join(pack(MANIFEST, [content], keyring=KEYS, packing=packing))


def unpacked(stored: bytes, keyring: Keyring = KEYS) -> tuple[Manifest, bytes]:
    opened = unpack(iter([stored[:5], stored[5:]]), keyring=keyring)
    return opened.manifest, b"".join(opened.content)


@every
@pytest.mark.parametrize("size", [0, 100, 3_000_000])
def test_what_was_packed_unpacks(packing: Packing, size: int) -> None:
    content = random.Random(SEED).randbytes(size)

    assert unpacked(packed(content, packing)) == (MANIFEST, content)


@every
def test_every_region_that_is_harmed_is_noticed(packing: Packing) -> None:
    stored = packed(b"content " * 500, packing)

    for position in [*range(HEADER_BYTES + 40), *range(HEADER_BYTES + 40, len(stored), 97)]:
        harmed = bytearray(stored)
        harmed[position] ^= 0x10
        with pytest.raises(LlmspellError):
            unpacked(bytes(harmed))
    for size in [*range(HEADER_BYTES + 10), len(stored) // 2, len(stored) - 1]:
        with pytest.raises(LlmspellError):
            unpacked(stored[:size])
    with pytest.raises(LlmspellError):
        unpacked(stored + b"\0")


def test_nothing_of_a_sealed_backup_can_be_read_without_its_key() -> None:
    stored = packed(b"a secret of ours", Packing(0, KEYS.active))

    assert b"a secret of ours" not in stored
    assert b"a tenant of ours" not in stored
    with pytest.raises(MasterKeyMissing, match=KEYS.active):
        unpacked(stored, Keyring())
    with pytest.raises(SealBroken, match="not configured"):
        unpacked(stored, read_keyring(OTHER_KEY))


def test_a_key_that_stands_behind_the_active_one_still_opens() -> None:
    both = Keyring([bytes(range(32, 64)), bytes(range(32))])

    assert unpacked(packed(b"content", Packing(3, KEYS.active)), both) == (MANIFEST, b"content")
    assert both.active != KEYS.active


def test_two_backups_share_no_key() -> None:
    """A chunk of one does not open in the other, though number and length are the same."""
    one, two = (packed(bytes(2_000_000), Packing(0, KEYS.active)) for _ in range(2))

    with pytest.raises(SealBroken):
        unpacked(one[: HEADER_BYTES + 1_048_596] + two[HEADER_BYTES + 1_048_596 :])


def test_what_is_signed_is_readable_and_made_by_nobody_without_the_key() -> None:
    packing = Packing(0, None, KEYS.active)
    signed, forged = packed(b"a content", packing), packed(b"a CONTENT", Packing(0, None))
    assert b"a content" in signed

    assert unpack(iter([signed]), keyring=KEYS).packing.genuine
    assert not unpack(iter([forged]), keyring=KEYS).packing.genuine
    for stored in (signed[:HEADER_BYTES] + forged[HEADER_BYTES:], signed.replace(b"a content", b"a CONTENT")):
        with pytest.raises(SealBroken):
            unpacked(stored)
    with pytest.raises(SealBroken, match="was signed under a master key"):
        unpacked(signed, read_keyring(OTHER_KEY))
    with pytest.raises(MasterKeyMissing, match="is signed"):
        unpacked(signed, Keyring())


def test_what_is_no_backup_or_a_newer_one_is_told_apart() -> None:
    with pytest.raises(CorruptStore, match="no backup"):
        unpacked(b"something else entirely, which is long enough for a header" * 2)
    with pytest.raises(CorruptStore, match="newer"):
        unpacked(MAGIC + bytes((3, 0, 0, 0)) + bytes(100))


def test_memory_is_bounded_whatever_the_size() -> None:
    def content() -> Iterator[bytes]:
        for _ in range(64):
            yield random.Random(SEED).randbytes(1_048_576)

    tracemalloc.start()
    try:
        opened = unpack(pack(MANIFEST, content(), keyring=KEYS, packing=Packing(1, KEYS.active)), keyring=KEYS)
        assert sum(map(len, opened.content)) == 64 * 1_048_576
        assert tracemalloc.get_traced_memory()[1] < 20 * 1_048_576
    finally:
        tracemalloc.stop()
