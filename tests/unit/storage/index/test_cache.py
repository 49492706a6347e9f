"""The cache of spaces: it follows the database by change numbers, and forgets within its limit."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pytest

from llmspell.storage.index.cache import Source, SpaceCache, Version, View
from llmspell.storage.index.exact import Rows, make_rows, owner_words

PAGE = 3


class Table:
    """A space in a database: rows of (seq, owner, part), and how often they were read."""

    def __init__(self) -> None:
        self.rows: dict[tuple[bytes, int], int] = {}
        self.change = 0
        self.deletion = 0
        self.read = 0

    def insert(self, *names: str, part: int = 0) -> None:
        self.change += 1
        for name in names:
            self.rows[(owner(name), part)] = self.change

    def delete(self, name: str) -> None:
        self.change += 1
        self.deletion = self.change
        self.rows = {key: seq for key, seq in self.rows.items() if key[0] != owner(name)}

    def source(self) -> Source:
        """What a snapshot taken now sees, also after later changes."""
        frozen = sorted((seq, *key) for key, seq in self.rows.items())

        def pages(after: int) -> Iterator[Rows]:
            newer = [row for row in frozen if row[0] > after]
            for start in range(0, len(newer), PAGE):
                page = newer[start : start + PAGE]
                self.read += len(page)
                yield make_rows(
                    [array("f", [1.0, float(len(name))]).tobytes() for _, name, _ in page],
                    dimension=2,
                    owners=[name for _, name, _ in page],
                    parts=[part for _, _, part in page],
                    seqs=[seq for seq, _, _ in page],
                )

        def present() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
            return owner_words([row[1] for row in frozen]), np.array([row[2] for row in frozen], dtype=np.int32)

        return Source(Version(self.change, self.deletion), pages, present)


def owner(name: str) -> bytes:
    return name.encode().rjust(16, b"\0")


def names(view: View | None) -> list[str]:
    assert view is not None
    raw = view.rows.owners.astype(">u8").tobytes()
    return sorted(raw[n : n + 16].lstrip(b"\0").decode() for n in range(0, len(raw), 16))


@pytest.fixture
def table() -> Table:
    made = Table()
    made.insert("a", "b", "c", "d")
    return made


def test_a_space_is_read_once(table: Table) -> None:
    cache = SpaceCache()

    first, second = cache.view("s", table.source()), cache.view("s", table.source())

    assert names(first) == names(second) == ["a", "b", "c", "d"]
    assert table.read == 4


def test_insertions_are_appended_without_reading_the_rest(table: Table) -> None:
    cache = SpaceCache()
    cache.view("s", table.source())
    table.insert("e")

    assert names(cache.view("s", table.source())) == ["a", "b", "c", "d", "e"]
    assert table.read == 5


def test_a_space_that_was_empty_when_it_was_first_searched_is_filled_later() -> None:
    cache, table = SpaceCache(), Table()
    assert names(cache.view("s", table.source())) == []
    table.insert("a")

    assert names(cache.view("s", table.source())) == ["a"]


def test_deletions_are_dropped_without_reading_the_vectors_again(table: Table) -> None:
    cache = SpaceCache()
    cache.view("s", table.source())
    table.delete("b")

    assert names(cache.view("s", table.source())) == ["a", "c", "d"]
    assert table.read == 4


def test_a_row_that_was_replaced_is_there_once_with_its_new_number(table: Table) -> None:
    cache = SpaceCache()
    cache.view("s", table.source())
    table.delete("b")
    table.insert("b", "e")

    view = cache.view("s", table.source())

    assert names(view) == ["a", "b", "c", "d", "e"]
    assert view is not None
    assert view.rows.seqs.tolist() == [1, 1, 1, 3, 3]


def test_windows_are_told_apart(table: Table) -> None:
    cache = SpaceCache()
    table.insert("a", part=1)
    assert cache.view("s", table.source()).windows == 2  # type: ignore[union-attr]
    table.delete("a")
    table.insert("a", part=0)

    view = cache.view("s", table.source())

    assert names(view) == ["a", "b", "c", "d"]
    assert view.windows == 1  # type: ignore[union-attr]


def test_an_older_snapshot_does_not_see_later_insertions(table: Table) -> None:
    cache = SpaceCache()
    older = table.source()
    table.insert("e")
    cache.view("s", table.source())

    assert names(cache.view("s", older)) == ["a", "b", "c", "d"]


def test_an_older_snapshot_from_before_a_deletion_is_not_served(table: Table) -> None:
    cache = SpaceCache()
    older = table.source()
    table.delete("a")
    cache.view("s", table.source())

    assert cache.view("s", older) is None
    assert names(cache.view("s", table.source())) == ["b", "c", "d"]


def test_a_view_does_not_change_when_its_space_does(table: Table) -> None:
    cache = SpaceCache()
    view = cache.view("s", table.source())
    table.insert("e")
    cache.view("s", table.source())
    table.delete("a")
    cache.view("s", table.source())

    assert names(view) == ["a", "b", "c", "d"]


def test_a_reading_that_fails_half_way_is_started_anew(table: Table) -> None:
    cache = SpaceCache()
    good = table.source()

    def fails(after: int) -> Iterator[Rows]:
        yield next(good.pages(after))
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        cache.view("s", Source(good.version, fails, good.present))

    assert names(cache.view("s", good)) == ["a", "b", "c", "d"]


def test_the_least_recently_searched_space_leaves_first() -> None:
    tables = {name: Table() for name in "xyz"}
    for made in tables.values():
        made.insert("a", "b", "c")
    measured = Table()
    measured.insert("a", "b", "c")
    one = SpaceCache()
    one.view("x", measured.source())
    cache = SpaceCache(max_bytes=2 * one.size_bytes)

    for key in ("x", "y", "x", "z", "x"):
        cache.view(key, tables[key].source())

    assert cache.size_bytes <= 2 * one.size_bytes
    assert (tables["x"].read, tables["y"].read, tables["z"].read) == (3, 3, 3)
    cache.view("y", tables["y"].source())
    assert tables["y"].read == 6


def test_a_space_larger_than_the_cache_is_not_kept(table: Table) -> None:
    cache = SpaceCache(max_bytes=10)

    assert cache.view("s", table.source()) is None
    assert cache.size_bytes == 0


def test_owners_are_found_whatever_their_order(table: Table) -> None:
    table.insert("a", part=1)
    view = SpaceCache().view("s", table.source())
    assert view is not None

    positions = view.positions(owner_words([owner("zz"), owner("d"), owner("a")]))

    raw = view.rows.owners.astype(">u8").tobytes()
    assert sorted(raw[16 * n : 16 * n + 16].lstrip(b"\0") for n in positions) == [b"a", b"a", b"d"]
    assert positions.tolist() == sorted(positions.tolist())
