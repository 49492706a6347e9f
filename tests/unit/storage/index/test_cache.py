"""The spaces of one process: kept within a limit of bytes, shared between threads, begun from a file where there is one."""

from __future__ import annotations

import threading
from collections.abc import Hashable

import numpy as np
import pytest
from tests.unit.storage.index.table import Table, names, owner

from llmspell.storage.index import cache as module
from llmspell.storage.index.blocks import Positions, joined
from llmspell.storage.index.cache import SpaceCache
from llmspell.storage.index.exact import owner_words
from llmspell.storage.index.space import Source, Space, View


@pytest.fixture
def table() -> Table:
    made = Table()
    made.insert("a", "b", "c", "d")
    return made


def seen(cache: SpaceCache, table: Table, key: Hashable = "s") -> list[str]:
    return names(cache.view(key, table.source())[0])


def test_a_space_is_read_once_and_then_kept(table: Table) -> None:
    cache = SpaceCache(2**31)

    assert seen(cache, table) == seen(cache, table) == ["a", "b", "c", "d"]
    assert (table.read, len(cache)) == (4, 1)


def test_spaces_of_different_keys_never_mix(table: Table) -> None:
    cache, other = SpaceCache(2**31), Table()
    other.insert("x")

    assert (seen(cache, table, "s"), seen(cache, other, "t"), seen(cache, table, "s")) == (
        ["a", "b", "c", "d"],
        ["x"],
        ["a", "b", "c", "d"],
    )


def test_the_least_recently_searched_space_leaves_first() -> None:
    tables = {name: Table() for name in "xyz"}
    for made in tables.values():
        made.insert("a", "b", "c")
    one = SpaceCache(2**31)
    seen(one, tables["x"])
    tables["x"].read = 0
    cache = SpaceCache(max_bytes=2 * one.size_bytes)

    for key in ("x", "y", "x", "z", "x"):
        seen(cache, tables[key], key)

    assert cache.size_bytes <= 2 * one.size_bytes
    assert (tables["x"].read, tables["y"].read, tables["z"].read) == (3, 3, 3)
    assert cache.get("y") is None
    seen(cache, tables["y"], "y")
    assert tables["y"].read == 6


def test_a_space_larger_than_the_cache_gives_no_view_and_takes_nothing(table: Table) -> None:
    cache = SpaceCache(max_bytes=10)

    assert cache.view("s", table.source()) == (None, None)
    assert cache.size_bytes == 0


def test_there_are_only_so_many_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPACES_MAX", 3)
    cache = SpaceCache(2**31)
    for number in range(10):
        table = Table()
        table.insert("a")
        assert seen(cache, table, number) == ["a"]

    assert [cache.get(number) is not None for number in range(10)] == [False] * 7 + [True] * 3


def test_what_is_chosen_is_chosen_among_the_rows_of_the_view(table: Table) -> None:
    cache = SpaceCache(2**31)

    def choose(space: Space, view: View) -> Positions:
        assert space.lock.locked()
        return space.positions(owner_words([owner("zz"), owner("d"), owner("a")]))

    view, chosen = cache.view("s", table.source(), choose)

    assert view is not None
    assert chosen is not None
    assert chosen.tolist() == [0, 3]


def test_a_space_that_is_new_here_begins_with_what_its_file_had(table: Table) -> None:
    whole = Space(8).view(table.source(), 2**40)
    assert whole is not None
    begun: list[Hashable] = []

    def begin(key: Hashable, space: Space, source: Source) -> None:
        begun.append(key)
        space.restore(joined(whole.base, whole.tail), None, source.version)  # type: ignore[arg-type]

    cache = SpaceCache(2**31, begin=begin)
    table.read = 0

    assert seen(cache, table) == seen(cache, table) == ["a", "b", "c", "d"]
    assert (begun, table.read) == (["s"], 0)


def test_many_threads_see_each_its_own_snapshot_while_the_space_goes_on() -> None:
    cache, table, lock = SpaceCache(2**31), Table(), threading.Lock()
    wrong: list[object] = []
    served = [0]

    def work(seed: int) -> None:
        choose = np.random.default_rng(seed)
        for step in range(60):
            with lock:
                living = sorted({id.lstrip(b"\0").decode() for id, _ in table.rows})
                if living and choose.random() < 0.4:
                    table.delete(str(choose.choice(living)))
                else:
                    table.insert(f"{seed}-{step}")
                source = table.source()
                expected = sorted(id.lstrip(b"\0").decode() for id, _ in table.rows)
            try:
                view, _ = cache.view("s", source)
                if view is not None:
                    served[0] += 1
                    if names(view) != expected:
                        wrong.append((seed, step))
            except Exception as error:  # noqa: BLE001 - a thread's error would be lost
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert served[0] > 100
    assert seen(cache, table) == sorted(id.lstrip(b"\0").decode() for id, _ in table.rows)
