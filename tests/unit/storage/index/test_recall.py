"""Recall is measured against a scan of all rows, and says how many candidates a wanted share takes."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from llmspell.storage.index.graph import Asked, Graph
from llmspell.storage.index.half import Halves
from llmspell.storage.index.recall import BEAMS, MORE_QUESTIONS, QUESTIONS, Recall, held_out, measure


def unit_rows(count: int, dimension: int = 32, seed: int = 1) -> Halves:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float16)


class Scanning:
    """A graph that finds the nearest, and forgets some of them."""

    def __init__(self, rows: Halves, forgets: int = 0) -> None:
        self._rows = rows.astype(np.float32)
        self._forgets = forgets

    def search(self, query: np.ndarray, candidates: int) -> np.ndarray:  # type: ignore[type-arg]
        order = np.argsort(-(self._rows @ query), kind="stable")
        return order[order % 10 >= self._forgets][:candidates]


def test_a_search_that_finds_all_is_measured_as_such() -> None:
    rows = unit_rows(500)

    found = measure(cast("Graph", Scanning(rows)), rows)

    assert found.at(16) == 1.0
    assert found.at(128, 100) == 1.0
    assert found.candidates(0.999, 10) == 16
    assert found.candidates(1.0, 10) is None, "a sample never shows that all are found"


def test_a_search_that_forgets_a_tenth_of_the_rows_is_measured_as_such() -> None:
    rows = unit_rows(2_000)

    found = measure(cast("Graph", Scanning(rows, forgets=1)), rows)

    assert found.at(1_000) == pytest.approx(0.9, abs=0.02)
    assert found.candidates(0.99, 10) is None
    assert found.candidates(0.7, 10) == 16


def test_a_real_graph_gets_better_the_more_candidates_it_is_asked_for() -> None:
    rows = unit_rows(3_000, 64)
    graph = Graph.build(rows, m=4, ef_construction=8)

    shares = measure(graph, rows).by_hits[10]

    assert list(shares) == sorted(shares)
    assert shares[max(shares)] > shares[min(shares)]
    assert min(shares.values()) < 0.9, "the graph was to be a bad one"


def test_a_wanted_recall_is_reached_by_other_questions_too() -> None:
    rows, last = unit_rows(3_000, 64), np.arange(2_600, 3_000)
    shares = []

    def ask(graph: Graph) -> None:
        beam = measure(graph, rows, held_out=last).candidates(0.95, 10)
        assert beam is not None
        for query in unit_rows(1_000, 64, seed=2).astype(np.float32):
            scores = rows[:2_600].astype(np.float32) @ query
            candidates = graph.search(query, beam)
            best = candidates[np.argsort(-scores[candidates])][:10]
            shares.append(len(np.intersect1d(np.argsort(-scores)[:10], best)) / 10)

    Graph.build(rows, m=8, ef_construction=32, asked=Asked(last, ask))

    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize("count", [1, 2, 5, 10, 11, 60])
def test_few_rows_are_measured_as_far_as_they_go(count: int) -> None:
    rows = unit_rows(count)

    found = measure(Graph.build(rows, m=8, ef_construction=32), rows)

    assert set(found.by_hits) <= {10, 100}
    assert (10 in found.by_hits) is (count > 10)
    assert all(0 <= share <= 1 for shares in found.by_hits.values() for share in shares.values())


def test_who_asks_it_to_stop_is_obeyed() -> None:
    rows = unit_rows(500)
    left = iter([True, True])

    found = measure(cast("Graph", Scanning(rows, forgets=5)), rows, going=lambda: next(left, False))

    assert len(found.by_hits.get(10, {})) <= 1
    assert measure(cast("Graph", Scanning(rows)), rows, going=lambda: False) == Recall()


def test_more_hits_than_were_measured_take_more_candidates_in_proportion() -> None:
    shares = {10: {16: 1.0}, 100: {128: 1.0}}
    measured = Recall(shares, least=shares)

    assert measured.candidates(0.9, 10) == 16
    assert measured.candidates(0.9, 11) == 128
    assert measured.candidates(0.9, 500) == 640
    assert measured.at(15) is None
    assert max(BEAMS) == 1_000


def test_between_two_numbers_of_candidates_the_share_lies_on_a_line_over_the_logarithm() -> None:
    shares = {10: {16: 0.90, 32: 0.98, 64: 0.97, 128: 0.99}}
    measured = Recall(shares, least=shares)

    assert measured.candidates(0.94, 10) == 23  # 16 * sqrt(2)
    assert measured.at(23) == pytest.approx(0.94, abs=0.003)
    assert measured.candidates(0.985, 10) == 64, (
        "a dip is an error of the sample: the line goes on from the best before it"
    )
    assert measured.candidates(0.9901, 10) is None
    assert measured.at(2_000) == 0.99


def test_the_smaller_the_sample_the_more_candidates_are_taken() -> None:
    rows = unit_rows(3_000, 64)
    graph = Graph.build(rows, m=8, ef_construction=32)
    few, many = (measure(graph, rows, held_out=np.arange(count)) for count in (20, 200))

    wide, narrow = (found.by_hits[10][64] - found.least[10][64] for found in (few, many))

    assert wide > narrow > 0
    assert all(
        least < share
        for hits in many.by_hits
        for beam, share in many.by_hits[hits].items()
        for least in [many.least[hits][beam]]
    )


def test_more_questions_are_asked_the_more_rows_there_are_to_choose_from() -> None:
    assert held_out(0, 2 * QUESTIONS - 1) is None
    asked = [held_out(0, count) for count in (2 * QUESTIONS, 10_000, 10**6)]
    assert [len(one) for one in asked if one is not None] == [QUESTIONS, 400, QUESTIONS + MORE_QUESTIONS]
    last = held_out(900, 1_500)
    assert last is not None
    assert last.min() >= 900
