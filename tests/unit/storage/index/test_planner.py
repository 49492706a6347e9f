"""The way a search goes, by counts alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.storage.contracts.vector_index import CONFIGURED, Effort
from llmspell.storage.index import planner
from llmspell.storage.index.planner import (
    BEAM_MAX,
    SCAN_COMPONENTS,
    Path,
    candidates,
    plan,
    wants_anew,
    wants_graph,
    wants_more,
)
from llmspell.storage.index.recall import Recall

SHARES = {10: {16: 0.9, 32: 0.97, 64: 0.996, 128: 1.0}, 100: {128: 0.98, 256: 0.999}}
MEASURED = Recall(SHARES, least=SHARES)


def test_a_few_rows_are_gathered_and_many_are_scanned() -> None:
    assert plan(rows=100_000, matching=1_000, graph=0, candidates=0, dimension=384).path is Path.GATHER
    assert plan(rows=100_000, matching=100_000, graph=0, candidates=0, dimension=384).path is Path.SCAN
    assert plan(rows=0, matching=0, graph=0, candidates=0, dimension=384).path is Path.SCAN


def test_a_graph_is_asked_when_that_is_cheaper_and_for_more_the_fewer_rows_count() -> None:
    assert plan(rows=100_000, matching=100_000, graph=100_000, candidates=50, dimension=384) == planner.Plan(
        Path.GRAPH, 50
    )
    tenth = plan(rows=100_000, matching=10_000, graph=100_000, candidates=10, dimension=384)
    assert tenth == planner.Plan(Path.GRAPH, int(100 * planner.SPARE) + 1)
    assert plan(rows=100_000, matching=1_000, graph=100_000, candidates=50, dimension=384).path is Path.GATHER
    assert plan(rows=100_000, matching=0, graph=100_000, candidates=50, dimension=384).exact


def test_a_long_tail_makes_the_graph_not_worth_asking() -> None:
    assert not plan(rows=100_000, matching=100_000, graph=99_000, candidates=50, dimension=384).exact
    assert plan(rows=100_000, matching=100_000, graph=1_000, candidates=50, dimension=384).exact


@given(
    st.integers(0, 10**7),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 1_000),
)
def test_any_plan_is_one_that_can_be_gone(rows: int, matching: float, graph: float, asked: int) -> None:
    made = plan(
        rows=rows,
        matching=int(rows * matching),
        graph=int(rows * graph) if asked else 0,
        candidates=asked,
        dimension=384,
    )

    assert made.exact is (made.path is not Path.GRAPH)
    if made.path is Path.GRAPH:
        assert asked <= made.candidates <= min(BEAM_MAX, int(rows * graph) // 4)
    else:
        assert made.candidates == 0


@pytest.mark.parametrize("effort", [Effort(exact=True), Effort(recall=1.0)])
def test_an_exact_search_asks_no_graph(effort: Effort) -> None:
    assert candidates(effort, 10, MEASURED, ef_search=50, recall=0.99) == 0


def test_who_names_a_number_gets_it_but_never_less_than_the_limit() -> None:
    assert candidates(Effort(ef_search=7), 5, MEASURED, ef_search=50, recall=0.99) == 7
    assert candidates(Effort(ef_search=7), 100, MEASURED, ef_search=50, recall=0.99) == 100


def test_a_recall_takes_as_many_as_were_measured_to_reach_it() -> None:
    assert candidates(Effort(recall=0.97), 10, MEASURED, ef_search=50, recall=0.99) == 32
    assert candidates(Effort(recall=0.996), 10, MEASURED, ef_search=50, recall=None) == 64
    assert candidates(CONFIGURED, 10, MEASURED, ef_search=50, recall=0.996) == 64
    assert candidates(CONFIGURED, 10, MEASURED, ef_search=500, recall=0.99) == 500
    assert candidates(CONFIGURED, 10, MEASURED, ef_search=50, recall=None) == 50
    assert candidates(CONFIGURED, 70, MEASURED, ef_search=50, recall=None) == 70


def test_a_recall_that_was_never_reached_is_reached_exactly() -> None:
    assert candidates(Effort(recall=0.9999), 100, MEASURED, ef_search=50, recall=None) == 0
    assert candidates(Effort(recall=0.9), 10, Recall(), ef_search=50, recall=None) == 0


def test_a_space_gets_a_graph_when_comparing_all_takes_long() -> None:
    assert not wants_graph(20_000, 384)
    assert wants_graph(21_000, 384)
    assert wants_graph(2_700, 3072)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.floats(0, 1))
def test_a_build_ends_what_made_it_wanted(indexed: int, unindexed: int, dead_share: float) -> None:
    """Else a builder would build for ever."""
    dead = int((indexed + unindexed) * dead_share)
    if not wants_more(indexed, unindexed, dead):
        return
    rows = indexed + unindexed
    if wants_anew(indexed, unindexed, dead):
        assert not wants_more(rows - dead, 0, 0)
    else:
        assert not wants_more(rows, 0, dead)


@pytest.mark.parametrize("dimension", [384, 768, 1536, 3072])
def test_a_space_that_is_worth_a_graph_is_searched_by_it(dimension: int) -> None:
    rows = SCAN_COMPONENTS // dimension + 1

    assert wants_graph(rows, dimension)
    assert plan(rows=rows, matching=rows, graph=rows, candidates=64, dimension=dimension).path is Path.GRAPH
