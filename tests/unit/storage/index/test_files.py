"""Index files: written whole or not at all, and whatever is wrong with one, it is as if there were none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell

from llmspell.clock import EPOCH
from llmspell.storage.index import files
from llmspell.storage.index.blocks import ALIVE, Block
from llmspell.storage.index.exact import make_rows
from llmspell.storage.index.files import Array, Header, Name
from llmspell.storage.index.graph import LIBRARY, Graph
from llmspell.storage.index.recall import Recall

DIMENSION, COUNT = 8, 60
NAME = Name("acme", "free-384", DIMENSION)
TOKEN = "0123456789abcdef" * 2
FLIPS = size(ci=200, soak=20_000)
CUTS = size(ci=60, soak=5_000)


def block(seed: int = 1, count: int = COUNT) -> Block:
    source = np.random.default_rng(seed)
    vectors = source.normal(size=(count, DIMENSION)).astype("<f4")
    rows = make_rows(
        [row.tobytes() for row in vectors],
        dimension=DIMENSION,
        owners=[source.bytes(16) for _ in range(count)],
        parts=[n % 3 for n in range(count)],
        seqs=list(range(1, count + 1)),
        places=list(range(count, 0, -1)),
    )
    made = Block.of(rows)
    made.died[: min(count, 5)] = count + 1
    return made


def header(**changes: Any) -> Header:
    fields: dict[str, Any] = {
        "name": NAME,
        "library": LIBRARY,
        "change": COUNT + 1,
        "token": TOKEN,
        "m": 8,
        "ef_construction": 40,
        "recall": Recall({10: {16: 0.9, 32: 1.0}}),
        "built_at": EPOCH,
        "arrays": {},
        "size_bytes": 0,
        "digest": "",
    }
    return Header(**{**fields, **changes})


def graph_of(base: Block) -> Graph:
    return Graph.build(base.halves, m=8, ef_construction=40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors" / NAME.file


@pytest.fixture
def written(path: Path) -> Block:
    base = block()
    files.write(path, header(), base, graph_of(base))
    return base


def opened(path: Path, name: Name = NAME, token: str = TOKEN, *, mapped: bool = False) -> files.Stored | None:
    return files.read(path, name, token=token, mapped=mapped)


def same(stored: files.Stored | None, base: Block) -> bool:
    assert stored is not None
    return all(
        np.array_equal(getattr(stored.base, part), getattr(base, part))
        for part in ("halves", "owners", "parts", "seqs", "died", "places")
    )


def head_of(path: Path) -> Header:
    raw = path.read_bytes()
    length = int.from_bytes(raw[8:16], "little")
    return msgspec.json.decode(raw[16 : 16 + length], type=Header)


def forge(path: Path, **changes: Any) -> None:
    """Write another header that holds by itself, over the same arrays."""
    told = msgspec.structs.replace(head_of(path), **changes)
    raw = bytearray(path.read_bytes())
    text = msgspec.json.encode(told)
    head = files.MAGIC + len(text).to_bytes(8, "little") + text + blake3(text).digest()
    raw[: len(head)] = head
    path.write_bytes(raw)


def forge_array(path: Path, key: str, **changes: Any) -> None:
    """The same, of one array, with the digest that would then be right, where there is one."""
    told = head_of(path)
    arrays = {**told.arrays, key: msgspec.structs.replace(told.arrays[key], **changes)}
    raw, digest = path.read_bytes(), blake3()
    for array in arrays.values():
        wide = int(np.prod(array.shape, dtype=object)) * np.dtype(array.type).itemsize
        digest.update(raw[max(0, array.start) : max(0, array.start + wide)])
    forge(path, arrays=arrays, digest=digest.hexdigest())


# --- a file as it should be -------------------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_written(path: Path, written: Block) -> None:
    stored = opened(path)

    assert same(stored, written)
    assert stored is not None
    told = stored.header
    assert (told.change, told.m, told.ef_construction, told.built_at) == (COUNT + 1, 8, 40, EPOCH)
    assert stored.indexed.recall == Recall({10: {16: 0.9, 32: 1.0}})
    assert stored.indexed.file_bytes == path.stat().st_size
    query = written.halves[7].astype(np.float32)
    assert stored.indexed.graph.search(query, 10).tolist() == graph_of(written).search(query, 10).tolist()


def test_what_is_mapped_cannot_be_written_and_deaths_are_noted_beside_it(path: Path, written: Block) -> None:
    before = path.read_bytes()
    stored = opened(path, mapped=True)
    assert same(stored, written)
    assert stored is not None

    stored.base.died[10] = 99
    for array in (stored.base.halves, stored.base.owners, stored.base.parts, stored.base.seqs):
        assert not array.flags.writeable
    assert path.read_bytes() == before
    assert written.died[10] == ALIVE


def test_a_file_is_for_its_owner_alone_and_leaves_nothing_beside_it(path: Path, written: Block) -> None:
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_replaced_stays_as_it_was_for_who_has_it_open(path: Path, written: Block) -> None:
    stored = opened(path)
    newer = block(2, count=30)

    files.write(path, header(token="f" * 32), newer, graph_of(newer))

    assert same(stored, written)
    assert opened(path) is None
    assert same(opened(path, token="f" * 32), newer)


def test_an_empty_space_has_a_file_too(path: Path) -> None:
    base = block(count=0)
    files.write(path, header(), base, graph_of(base))

    assert opened(path) is None or same(opened(path), base)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["magic", "length", "header", "digest", *files._ROWS, "graph"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_bit_in_any_part_is_noticed(path: Path, written: Block, part: str, where: str) -> None:
    told = head_of(path)
    length = int.from_bytes(path.read_bytes()[8:16], "little")
    start, wide = {
        "magic": (0, 8),
        "length": (8, 8),
        "header": (16, length),
        "digest": (16 + length, 32),
        **{key: (array.start, files._bytes(array)) for key, array in told.arrays.items()},
    }[part]
    flip(path, start + {"first": 0, "middle": wide // 2, "last": wide - 1}[where], 3)

    assert opened(path) is None


def flip(path: Path, at: int, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)


def test_a_bit_flipped_anywhere_is_noticed_where_anything_stands(path: Path, written: Block) -> None:
    choose = np.random.default_rng(SEED)
    whole, told = path.read_bytes(), head_of(path)
    used = np.zeros(len(whole), np.bool_)
    used[: 16 + int.from_bytes(whole[8:16], "little") + 32] = True
    for array in told.arrays.values():
        used[array.start : array.start + files._bytes(array)] = True
    places = choose.choice(np.flatnonzero(used), FLIPS).tolist() + choose.choice(np.flatnonzero(~used), 20).tolist()
    noticed = 0
    for place in places:
        flip(path, place, int(choose.integers(8)))
        stored = opened(path)
        noticed += stored is None
        assert stored is None if used[place] else same(stored, written)
        path.write_bytes(whole)
    tell(index_file_bits_flipped=FLIPS, index_file_flips_noticed=noticed)


def test_a_file_cut_anywhere_is_as_if_there_were_none(path: Path, written: Block) -> None:
    choose = np.random.default_rng(SEED)
    whole = path.read_bytes()
    edges = [0, 1, 7, 8, 15, 16, 17, 4_095, 65_535, 65_536, 65_537, len(whole) - 1]
    for length in [*edges, *map(int, choose.integers(0, len(whole), CUTS))]:
        path.write_bytes(whole[:length])
        assert opened(path) is None, length
    path.write_bytes(whole + b"\0")
    assert opened(path) is None
    tell(index_files_cut=len(edges) + CUTS)


@pytest.mark.parametrize(
    "contents",
    [b"", b"SQLite format 3\0" * 5_000, b"llspvec3" + bytes(70_000), b"llspvec1" + b"\xff" * 70_000, b"\0" * 70_000],
    ids=["empty", "another-format", "newer-format", "endless-header", "zeros"],
)
def test_what_is_no_such_file_counts_for_nothing(path: Path, written: Block, contents: bytes) -> None:
    path.write_bytes(contents)

    assert opened(path) is None


# --- a file that is whole and says something else ---------------------------------------------------------------------


def test_a_file_of_another_tenant_space_dimension_or_time_is_not_taken(path: Path, written: Block) -> None:
    assert opened(path, Name("other", "free-384", DIMENSION)) is None
    assert opened(path, Name("acme", "free-768", DIMENSION)) is None
    assert opened(path, Name("acme", "free-384", DIMENSION * 2)) is None
    assert opened(path, token="f" * 32) is None
    assert opened(path) is not None
    assert Name("a", "b-c", 1).file != Name("a-b", "c", 1).file


def test_a_file_of_another_library_is_not_read(path: Path, written: Block) -> None:
    forge(path, library="usearch-3")

    assert opened(path) is None


@pytest.mark.parametrize("key", [*files._ROWS, "graph"])
@pytest.mark.parametrize(
    "change",
    [
        {"start": 2**62},
        {"start": -4_096},
        {"start": 0},
        {"shape": (2**40,)},
        {"shape": (2**40, 2**40)},
        {"shape": (-1,)},
        {"shape": ()},
        {"shape": (COUNT - 1,)},
        {"shape": (COUNT, DIMENSION // 2)},
        {"type": "<i2"},
        {"type": "|O"},
        {"type": "no such type"},
    ],
    ids=lambda change: "-".join(f"{key}-{value}" for key, value in change.items()).replace(" ", ""),
)
def test_a_header_that_claims_what_is_not_there_is_not_believed(
    path: Path, written: Block, key: str, change: dict[str, Any]
) -> None:
    try:
        forge_array(path, key, **change)
    except (TypeError, ValueError, OverflowError):  # no digest can be made for it
        told = head_of(path)
        forge(path, arrays={**told.arrays, key: msgspec.structs.replace(told.arrays[key], **change)})

    assert opened(path) is None


@pytest.mark.parametrize("key", [*files._ROWS, "graph"])
def test_a_header_that_lacks_an_array_is_not_believed(path: Path, written: Block, key: str) -> None:
    arrays = {name: array for name, array in head_of(path).arrays.items() if name != key}
    raw, digest = path.read_bytes(), blake3()
    for array in arrays.values():
        digest.update(raw[array.start : array.start + files._bytes(array)])

    forge(path, arrays=arrays, digest=digest.hexdigest())

    assert opened(path) is None


def test_a_graph_of_other_rows_is_not_taken(path: Path, written: Block) -> None:
    files.write(path, header(), written, graph_of(block(count=COUNT - 1)))

    assert opened(path) is None


def test_a_header_with_more_arrays_than_are_known_is_read_all_the_same(path: Path, written: Block) -> None:
    told = head_of(path)
    nothing = Array("|u1", (0,), told.arrays["graph"].start)
    forge(path, arrays={**told.arrays, "later": nothing})

    assert same(opened(path), written)


# --- what the disk says -----------------------------------------------------------------------------------------------


def test_without_a_file_or_a_folder_there_is_none(tmp_path: Path) -> None:
    assert opened(tmp_path / "x.vectors") is None
    assert opened(tmp_path / "no" / "x.vectors") is None


def test_a_folder_in_the_place_of_a_file_is_no_file(path: Path) -> None:
    path.mkdir(parents=True)

    assert opened(path) is None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENOMEM])
def test_a_file_that_may_not_be_opened_or_mapped_is_as_if_there_were_none(
    path: Path, written: Block, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(files.mmap, "mmap", refuse)
        assert opened(path, mapped=True) is None
        patched.setattr(files, "HUGE_FROM_BYTES", 1)
        assert opened(path) is None
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        assert opened(path) is None
    assert same(opened(path), written)


def test_a_large_file_is_read_into_huge_pages_and_is_the_same(
    path: Path, written: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HUGE_FROM_BYTES", 1)

    assert same(opened(path), written)


@pytest.mark.parametrize("step", ["fsync", "replace", "truncate"])
def test_a_writing_that_fails_leaves_what_was_there_and_nothing_else(
    path: Path, written: Block, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    newer = block(2)
    with monkeypatch.context() as patched:
        if step == "fsync":
            patched.setattr(files.os, "fsync", full)
        elif step == "replace":
            patched.setattr(Path, "replace", full)
        else:
            patched.setattr(files.os, "fdopen", _fails_to("truncate", full))
        with pytest.raises(OSError, match="No space"):
            files.write(path, header(token="f" * 32), newer, graph_of(newer))

    assert same(opened(path), written)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def _fails_to(name: str, fails: Callable[..., None]) -> Callable[..., Any]:
    fdopen = os.fdopen

    class File:
        def __init__(self, handle: int, mode: str) -> None:
            self._file = fdopen(handle, mode)

        def __enter__(self) -> File:
            return self

        def __exit__(self, *args: object) -> None:
            self._file.close()

        def __getattr__(self, wanted: str) -> Any:
            return fails if wanted == name else getattr(self._file, wanted)

    return File


def test_a_disk_that_really_is_full_leaves_the_old_file(path: Path, written: Block) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    real = files.tempfile.mkstemp
    with pytest.MonkeyPatch.context() as patched:

        def mkstemp(**options: Any) -> tuple[int, str]:
            handle, beside = real(**options)
            os.close(handle)
            return os.open(full, os.O_WRONLY), beside

        patched.setattr(files.tempfile, "mkstemp", mkstemp)
        with pytest.raises(OSError, match=r"No space|Invalid argument"):
            files.write(path, header(token="f" * 32), block(2), graph_of(block(2)))

    assert same(opened(path), written)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


# --- the right to build -----------------------------------------------------------------------------------------------


def test_one_builds_a_file_at_a_time(path: Path) -> None:
    with files.building(path) as first, files.building(path) as second:
        assert (first, second) == (True, False)
        with files.building(path.with_name("other.vectors")) as another:
            assert another
    with files.building(path) as again:
        assert again


def test_who_builds_removes_what_somebody_left_unfinished(path: Path, written: Block) -> None:
    unfinished = path.parent / f"{path.name}abc.new"
    foreign = path.parent / "other.vectorsabc.new"
    for one in (unfinished, foreign):
        one.write_bytes(b"half")

    with files.building(path) as mine:
        assert mine
        assert not unfinished.exists()
        with files.building(path) as second:
            unfinished.write_bytes(b"half")
            assert not second
        assert unfinished.exists(), "who has no right to build leaves alone what another one writes"

    assert foreign.exists()
    assert same(opened(path), written)
