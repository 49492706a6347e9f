from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.providers.cache_files import (
    COMPRESSED,
    SHARED,
    EmbeddingFiles,
    decode_entry,
    encode_entry,
    erase_namespace,
)

KEY = bytes(range(32))
FLAGS_AT = 4


def files(tmp_path: Path, **limits: int) -> EmbeddingFiles:
    named = {"max_entries": 100, "ttl_us": 60_000_000, "compression_threshold": 1_024, **limits}
    return EmbeddingFiles(tmp_path, **named)


@given(st.binary(max_size=4_096), st.integers(-(2**62), 2**62), st.integers(0, 4_096))
def test_an_entry_comes_back_as_it_went_in(vector: bytes, now_us: int, threshold: int) -> None:
    assert decode_entry(encode_entry(KEY, vector, now_us=now_us, threshold=threshold), KEY) == (now_us, vector)


@given(st.integers(0, 1_599), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    content = bytearray(encode_entry(KEY, bytes(i * 7 % 256 for i in range(1_536)), now_us=5, threshold=10**6))
    content[position % len(content)] ^= change

    assert decode_entry(bytes(content), KEY) is None


def test_compression_is_kept_only_where_it_pays() -> None:
    import random

    random_bytes = random.Random(1).randbytes(2_000)

    assert encode_entry(KEY, bytes(2_000), now_us=0, threshold=1_024)[FLAGS_AT] == COMPRESSED
    assert encode_entry(KEY, bytes(1_023), now_us=0, threshold=1_024)[FLAGS_AT] == 0
    assert encode_entry(KEY, random_bytes, now_us=0, threshold=1_024)[FLAGS_AT] == 0


def test_a_clock_that_was_set_back_makes_no_entry_immortal(tmp_path: Path) -> None:
    folder = files(tmp_path)
    folder.write(SHARED, KEY, b"vector", now_us=10**15)

    assert folder.read(SHARED, KEY, now_us=10**15 - 59_000_000) == (10**15, b"vector")
    assert folder.read(SHARED, KEY, now_us=0) is None
    assert folder.count() == 0


def test_abandoned_and_expired_files_are_evicted(tmp_path: Path) -> None:
    folder = files(tmp_path)
    folder.write(SHARED, KEY, b"vector", now_us=0)
    (next(path for path in tmp_path.rglob("*") if path.is_file()).parent / ".new-torn").write_bytes(b"half")

    assert folder.evict(now_us=10**15) == 2
    assert folder.count() == 0


def test_erasing_one_namespace_leaves_the_others(tmp_path: Path) -> None:
    folder = files(tmp_path)
    folder.write("t-one", KEY, b"1", now_us=0)
    folder.write("t-two", KEY, b"2", now_us=0)

    erase_namespace(tmp_path, "t-one")
    erase_namespace(tmp_path, "t-never")
    erase_namespace(tmp_path / "absent", "t-one")

    assert folder.read("t-one", KEY, now_us=0) is None
    assert folder.read("t-two", KEY, now_us=0) == (0, b"2")


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    files(tmp_path)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "v1").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_everybody_may_write_into_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)

    with pytest.raises(PermissionError, match="everybody"):
        files(shared)

    assert stat.S_IMODE(shared.stat().st_mode) == mode
    assert list(shared.iterdir()) == []


def test_a_folder_of_entries_that_everybody_may_write_into_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1").chmod(0o777)

    with pytest.raises(PermissionError, match="everybody"):
        files(tmp_path)
