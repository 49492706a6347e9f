"""The graph: made once, never changed; what is not to be lived through is never asked of its library."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from llmspell.storage.index import graph as module
from llmspell.storage.index.graph import Graph, Stopped
from llmspell.storage.index.half import Halves


def unit_rows(count: int, dimension: int = 16, seed: int = 1) -> Halves:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float16)


def found(graph: Graph, row: np.ndarray, candidates: int = 5) -> list[int]:  # type: ignore[type-arg]
    return graph.search(row.astype(np.float32), candidates).tolist()


def test_each_row_finds_itself_at_its_position() -> None:
    rows = unit_rows(300)
    graph = Graph.build(rows, m=8, ef_construction=64)

    assert len(graph) == 300
    assert all(found(graph, row, 20).index(position) < 3 for position, row in enumerate(rows))


def test_it_gives_no_more_than_it_has() -> None:
    graph = Graph.build(unit_rows(3), m=8, ef_construction=64)

    assert sorted(found(graph, unit_rows(1)[0], 100)) == [0, 1, 2]


def test_an_empty_graph_is_a_graph() -> None:
    graph = Graph.build(unit_rows(0), m=8, ef_construction=64)

    assert len(graph) == 0


@pytest.mark.parametrize("viewed", [False, True], ids=["in-memory", "view-of-a-file"])
def test_what_is_extended_is_a_copy_and_the_original_stays_as_it_was(tmp_path: Path, viewed: bool) -> None:
    rows = unit_rows(400)
    graph = Graph.build(rows[:300], m=8, ef_construction=64)
    saved = graph.saved()
    if viewed:
        (tmp_path / "g").write_bytes(saved)
        with (tmp_path / "g").open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        graph = Graph.view(memoryview(mapping), owner=mapping)
    before = [found(graph, row) for row in rows]

    longer = graph.extended(rows[300:], ef_construction=64)

    assert (len(graph), len(longer)) == (300, 400)
    assert [found(graph, row) for row in rows] == before
    assert graph.saved() == saved
    assert all(position in found(longer, rows[position]) for position in range(400))
    if viewed:
        assert (tmp_path / "g").read_bytes() == saved


def test_a_view_outlives_the_name_of_its_file_and_whoever_opened_it(tmp_path: Path) -> None:
    rows = unit_rows(300)
    built = Graph.build(rows, m=8, ef_construction=64)
    (tmp_path / "g").write_bytes(built.saved())

    def view() -> Graph:
        with (tmp_path / "g").open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Graph.view(memoryview(mapping), owner=mapping)

    graph = view()
    (tmp_path / "g").unlink()

    assert [found(graph, row) for row in rows] == [found(built, row) for row in rows]


def test_work_that_is_not_wanted_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDED_AT_ONCE", 50)
    told: list[tuple[int, int]] = []

    def going(done: int, total: int) -> bool:
        told.append((done, total))
        return done < 100

    with pytest.raises(Stopped):
        Graph.build(unit_rows(300), m=8, ef_construction=64, going=going)
    assert told == [(0, 300), (50, 300), (100, 300)]
    whole = Graph.build(unit_rows(300), m=8, ef_construction=64)
    with pytest.raises(Stopped):
        whole.extended(unit_rows(200), ef_construction=64, going=going)
    assert len(whole) == 300


def test_bytes_that_are_no_graph_are_refused() -> None:
    for contents in (b"", b"nonsense" * 100):
        with pytest.raises((RuntimeError, ValueError)):
            Graph.view(memoryview(contents), owner=None)
