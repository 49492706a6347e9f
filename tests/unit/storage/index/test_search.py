"""A search in process against brute force in plain Python: the same owners, the same scores, the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.soak import size, tell
from tests.unit.storage.index.table import Table, owner, where

from llmspell.clock import EPOCH
from llmspell.codec import DIMENSIONS
from llmspell.storage.contracts.vectors import FILTER_FIELDS
from llmspell.storage.index import planner
from llmspell.storage.index import search as module
from llmspell.storage.index.blocks import joined
from llmspell.storage.index.columns import Columns
from llmspell.storage.index.exact import owner_words, unit_vector
from llmspell.storage.index.graph import Graph
from llmspell.storage.index.planner import Path
from llmspell.storage.index.recall import Recall
from llmspell.storage.index.search import Answer, Question, search
from llmspell.storage.index.space import Indexed, Space, View

LARGE = 2**40
EXAMPLES = size(ci=60, soak=5_000)
Hits = list[tuple[bytes, float]]


def packed(vector: Sequence[float]) -> bytes:
    return np.asarray(vector, "<f4").tobytes()


def filled(vectors: Sequence[Sequence[float]], *, windows: int = 1, dimension: int) -> Table:
    table = Table(dimension)
    for number, vector in enumerate(vectors):
        if number % (3 * windows) == 0:
            table.change += 1
        table.put(number // windows, number % windows, packed(vector), {"n": number // windows})
    return table


def ask(
    table: Table,
    query: Sequence[float],
    limit: int,
    *,
    space: Space | None = None,
    candidates: int = 0,
    filters: dict[str, object] | None = None,
) -> tuple[Hits, Answer]:
    space = space or Space(table.dimension)
    source = table.source()
    view = space.view(source, LARGE)
    assert view is not None
    chosen = None
    if filters is not None:
        chosen = space.matching(where(filters), source, lambda: Columns(FILTER_FIELDS))
    unit = unit_vector(packed(query))
    answer = search(view, Question(unit, limit, candidates), table.fetch, chosen=chosen)
    return answer.found.pairs(), answer


def index(space: Space, table: Table, *, m: int = 8, ef_construction: int = 64) -> View:
    """Give a space a graph over all of its rows."""
    view = space.view(table.source(), LARGE)
    assert view is not None
    base = joined(view.base, view.tail)
    graph = Graph.build(base.halves, m=m, ef_construction=ef_construction)
    space.install(base, Indexed(graph, Recall(), m, ef_construction, EPOCH), len(view), None)
    return view


def drawn(seed: int, count: int, dimension: int) -> list[list[float]]:
    vectors: list[list[float]] = np.random.default_rng(seed).normal(size=(count, dimension)).tolist()
    return vectors


# --- compared one by one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", sorted(DIMENSIONS))
@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_every_dimension_is_searched_exactly(dimension: int, windows: int, limit: int) -> None:
    table = filled(drawn(1, 90, dimension), windows=windows, dimension=dimension)
    query = drawn(2, 1, dimension)[0]

    assert ask(table, query, limit)[0] == table.nearest(query, limit)


NEAR = st.integers(-4, 4).map(lambda step: 1.0 + step * 1e-7)
COMPONENT = st.one_of(st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]), NEAR)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.lists(COMPONENT, min_size=8, max_size=8), min_size=1, max_size=60),
    st.lists(COMPONENT, min_size=8, max_size=8),
    st.integers(1, 70),
    st.sampled_from([1, 2, 5]),
    st.data(),
)
def test_near_ties_and_ties_are_cut_as_brute_force_cuts_them(
    vectors: list[list[float]], query: list[float], limit: int, windows: int, data: st.DataObject
) -> None:
    table, space = filled(vectors, windows=windows, dimension=8), Space(8)
    ask(table, query, limit, space=space)
    gone = data.draw(st.sets(st.integers(0, len(vectors) // windows), max_size=5))
    table.delete(*gone)
    least = data.draw(st.integers(0, len(vectors)))

    assert ask(table, query, limit, space=space)[0] == table.nearest(query, limit)
    filters: dict[str, object] = {"metadata.n": {"$gte": least}}
    assert ask(table, query, limit, space=space, filters=filters)[0] == table.nearest(query, limit, where(filters))
    tell(searches_in_process_compared_with_brute_force=2)


@pytest.mark.parametrize("magnitude", [1e-37, 1e-14, 1.0, 1e14, 1e37])
def test_lengths_do_not_matter_not_even_side_by_side(magnitude: float) -> None:
    vectors = drawn(3, 60, 384)
    vectors[::2] = [[value * magnitude for value in vector] for vector in vectors[::2]]
    table = filled(vectors, dimension=384)

    for query in (vectors[0], vectors[1], drawn(4, 1, 384)[0]):
        assert ask(table, query, 10)[0] == table.nearest(query, 10)


def test_vectors_that_half_precision_cannot_tell_apart_are_told_apart() -> None:
    source = np.random.default_rng(5)
    middle = source.normal(size=384)
    vectors = [(middle + source.normal(size=384) * 2e-3).tolist() for _ in range(300)]
    table = filled(vectors, dimension=384)

    for query in vectors[:10]:
        assert ask(table, query, 5)[0] == table.nearest(query, 5)


def test_a_thousand_equal_vectors_are_cut_by_id_whichever_way_is_gone() -> None:
    vector = drawn(6, 1, 16)[0]
    table, space = filled([vector] * 1_000, dimension=16), Space(16)
    index(space, table)

    assert ask(table, vector, 10)[0] == table.nearest(vector, 10)
    assert len(ask(table, vector, 10, space=space, candidates=20)[0]) == 10


def test_nothing_is_found_in_an_empty_space_or_among_no_chosen_ones() -> None:
    table = Table(8)
    assert ask(table, [1.0] * 8, 5)[0] == []
    table.insert("a", "b")
    assert ask(table, [1.0] * 8, 5, filters={"metadata.name": "c"})[0] == []


def test_the_way_depends_on_how_many_count() -> None:
    table = filled(drawn(1, 100, 8), dimension=8)

    assert ask(table, [1.0] * 8, 5)[1].plan.path is Path.SCAN
    assert ask(table, [1.0] * 8, 5, filters={"metadata.n": {"$lt": 10}})[1].plan.path is Path.GATHER


# --- by a graph -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is worth asking among some hundred rows."""
    monkeypatch.setattr(planner, "BEAM", 1.0)


def recall_of(table: Table, found: Hits, query: Sequence[float], limit: int, **options: object) -> float:
    """Require what any answer must be; return how much of the true one it has."""
    node = where(options["filters"]) if options.get("filters") else None  # type: ignore[arg-type]
    everything = dict(table.nearest(query, len(table.rows), node))
    assert len(found) == min(limit, len(everything))
    assert all(everything[id] == score for id, score in found), "a score is that of the row"
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
    truth = {id for id, _ in table.nearest(query, limit, node)}
    return len(truth & {id for id, _ in found}) / max(1, len(truth))


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
@pytest.mark.usefixtures("cheap")
def test_a_graph_gives_as_many_hits_as_there_are_with_their_scores(windows: int, share: float) -> None:
    table, space = filled(drawn(1, 1_200, 32), windows=windows, dimension=32), Space(32)
    index(space, table)
    count = 1_200 // windows
    table.delete(*range(0, count, 7))
    table.change += 1
    for number, vector in enumerate(drawn(8, 60, 32)):
        table.put(f"tail{number}", 0, packed(vector), {"n": number * 20 // windows})
    filters: dict[str, object] | None = None if share == 1.0 else {"metadata.n": {"$lt": int(count * share)}}
    shares, by_graph = [], 0
    for query in drawn(9, 30, 32):
        found, answer = ask(table, query, 10, space=space, candidates=40, filters=filters)
        by_graph += answer.plan.path is Path.GRAPH
        shares.append(recall_of(table, found, query, 10, filters=filters))

    assert by_graph > 0
    assert sum(shares) / len(shares) >= 0.9


@pytest.mark.usefixtures("cheap")
def test_a_row_behind_the_graph_is_found_at_once() -> None:
    table, space = filled(drawn(1, 800, 16), dimension=16), Space(16)
    index(space, table)
    for number, query in enumerate(drawn(7, 20, 16)):
        table.change += 1
        table.put(f"t{number}", 0, packed(query))

        found, answer = ask(table, query, 3, space=space, candidates=20)

        assert answer.plan.path is Path.GRAPH
        assert found[0] == (owner(f"t{number}"), 1.0)


@pytest.mark.usefixtures("cheap")
def test_a_row_that_is_gone_is_not_found_although_the_graph_has_it() -> None:
    vectors = drawn(1, 800, 16)
    table, space = filled(vectors, dimension=16), Space(16)
    index(space, table)
    for number in range(20):
        table.delete(number)

        found, answer = ask(table, vectors[number], 3, space=space, candidates=20)

        assert answer.plan.path is Path.GRAPH
        assert owner(number) not in dict(found)
        assert len(found) == 3


@pytest.mark.usefixtures("cheap")
def test_a_graph_whose_nearest_are_all_gone_or_unwanted_is_asked_more_widely_and_then_left() -> None:
    vectors = [[1.0, n * 1e-3, *[0.0] * 6] for n in range(600)] + [[-1.0, n * 1e-3, *[0.0] * 6] for n in range(600)]
    table, space = filled(vectors, dimension=8), Space(8)
    index(space, table)
    far: dict[str, object] = {"metadata.n": {"$gte": 600}}

    found, answer = ask(table, vectors[0], 10, space=space, candidates=10, filters=far)

    assert found == table.nearest(vectors[0], 10, where(far))
    assert answer.plan.exact
    table.delete(*range(600))
    assert ask(table, vectors[0], 10, space=space, candidates=10)[0] == table.nearest(vectors[0], 10)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("how", ["filtered", "deleted"])
def test_rows_behind_a_graph_do_not_stand_in_for_those_that_it_did_not_give(how: str) -> None:
    near = [[1.0, n * 1e-3, *[0.0] * 6] for n in range(600)]
    middle = [[-0.1, n * 1e-3, 1.0, *[0.0] * 5] for n in range(600)]
    table, space = filled([*near, *middle], dimension=8), Space(8)
    index(space, table)
    table.change += 1
    for number in range(30):
        table.put(f"far{number}", 0, packed([-1.0, number * 1e-3, *[0.0] * 6]), {"n": 600})
    filters: dict[str, object] | None = {"metadata.n": {"$gte": 600}}
    if how == "deleted":
        table.delete(*range(600))
        filters = None

    found, _ = ask(table, near[0], 10, space=space, candidates=10, filters=filters)

    assert found == table.nearest(near[0], 10, where(filters) if filters else None)


@pytest.mark.usefixtures("cheap")
def test_a_graph_that_finds_only_windows_of_too_few_owners_is_asked_again() -> None:
    near = [[1.0, n * 1e-4, *[0.0] * 6] for n in range(40)]
    far = drawn(2, 800, 8)
    table = filled(far, dimension=8)
    table.change += 1
    for part, vector in enumerate(near):
        table.put("many", part, packed(vector))
    space = Space(8)
    index(space, table)

    found, _ = ask(table, near[0], 5, space=space, candidates=10)

    assert len(found) == 5
    assert found[0][0] == owner("many")
    assert found == table.nearest(near[0], 5)


def test_who_wants_it_exactly_gets_it_although_there_is_a_graph() -> None:
    table, space = filled(drawn(1, 600, 16), dimension=16), Space(16)
    index(space, table, m=2, ef_construction=4)
    table.delete(1, 2, 3)

    for query in drawn(9, 20, 16):
        assert ask(table, query, 10, space=space)[0] == table.nearest(query, 10)


def test_chosen_positions_of_rows_that_are_gone_do_not_count() -> None:
    table, space = filled(drawn(1, 60, 8), dimension=8), Space(8)
    space.view(table.source(), LARGE)
    table.delete(1, 2)
    view = space.view(table.source(), LARGE)
    assert view is not None
    chosen = space.positions(owner_words([owner(n) for n in (1, 2, 3)]))
    unit = unit_vector(packed([1.0] * 8))

    answer = search(view, Question(unit, 5, 0), table.fetch, chosen=chosen)

    assert [id for id, _ in answer.found.pairs()] == [owner(3)]


def test_the_margin_of_half_precision_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it vectors that half precision cannot tell apart would be lost; so this test would say nothing without that."""
    source = np.random.default_rng(5)
    middle = source.normal(size=384)
    vectors = [(middle + source.normal(size=384) * 2e-3).tolist() for _ in range(300)]
    table = filled(vectors, dimension=384)
    monkeypatch.setattr(module, "error", lambda *_, **__: 0.0)
    monkeypatch.setattr(module, "_ROUNDING", 0.0)

    assert any(ask(table, query, 5)[0] != table.nearest(query, 5) for query in vectors[:40])
