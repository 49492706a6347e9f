"""The grid over parameters of an index: what it measures is so."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tests.fixtures.seeds import usual

from llmspell.errors import InvalidLimit
from llmspell.storage.index import grid
from llmspell.storage.index.graph import Graph
from llmspell.storage.index.grid import Grid, Point, generated, least_effort, measure, of_vectors, rows_to_index

SMALL = Grid(m=(4, 16), ef_construction=(16,), ef_search=(10, 200))


def drawn(count: int, dimension: int = 384) -> list[list[float]]:
    source = np.random.default_rng(usual(7))
    return source.standard_normal((count, dimension)).tolist()  # type: ignore[no-any-return]


def point(**changes: float) -> Point:
    values = {"m": 16, "ef_construction": 64, "ef_search": 20, "build_s": 1, "size_bytes": 1, "p50_ms": 1, "p95_ms": 1}
    return Point(**{"recall": 1.0, **values, **changes})  # type: ignore[arg-type]


def test_every_combination_is_measured_once_and_in_order() -> None:
    points = list(measure(SMALL, generated(600, 384, questions=20, seed=usual(1))))

    tried = list(product(SMALL.m, SMALL.ef_construction, SMALL.ef_search))
    assert [(one.m, one.ef_construction, one.ef_search) for one in points] == tried
    assert all(one.build_s > 0 and 0 < one.p50_ms <= one.p95_ms for one in points)


def test_more_candidates_and_more_links_find_more_and_links_take_room() -> None:
    """AMB-016: the order of recall, and not its height, is what parameters promise."""
    points = list(measure(SMALL, generated(3_000, 384, seed=usual(2))))

    few, many = points[:2], points[2:]
    assert few[0].recall < few[1].recall
    assert many[0].recall < many[1].recall
    assert few[0].recall < many[0].recall
    assert few[0].size_bytes < many[0].size_bytes
    assert few[0].size_bytes == few[1].size_bytes  # searched with other candidates, and not built again


def test_when_all_rows_are_candidates_every_neighbour_is_found() -> None:
    asked = generated(300, 768, questions=30, seed=usual(3))

    (found,) = measure(Grid(m=(16,), ef_construction=(200,), ef_search=(1_000,)), asked)

    assert found.recall == 1.0


def test_a_graph_that_finds_nothing_near_has_no_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = generated(2_000, 384, questions=20, seed=usual(4))

    def farthest(self: Graph, query: np.ndarray, candidates: int) -> np.ndarray:
        return np.argsort(asked.exact @ query)[:candidates]

    monkeypatch.setattr(Graph, "search", farthest)

    assert [one.recall for one in measure(SMALL, asked)] == [0.0] * 4


def test_the_truth_is_what_comparing_every_row_gives() -> None:
    vectors = np.asarray(drawn(150))
    asked = of_vectors(vectors.tolist(), questions=15)

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for question, kth in zip(asked.questions, asked.kth, strict=True):
        scores = np.sort(unit @ question.astype(np.float64))[::-1]
        assert scores[0] == pytest.approx(1)  # the question itself, which is among the vectors and not among the rows
        assert kth <= scores[10] + 1e-6


def test_questions_are_set_apart_from_what_is_indexed() -> None:
    asked = of_vectors(drawn(200), questions=20)

    assert (len(asked), len(asked.questions)) == (180, 20)
    assert float((asked.exact @ asked.questions.T).max()) < 0.9


def test_of_few_vectors_a_tenth_are_questions() -> None:
    assert len(of_vectors(drawn(100), questions=200).questions) == 10


def test_vectors_that_are_alike_are_as_good_as_each_other() -> None:
    vectors = drawn(20) * 10  # ten of each: which ten are found is chance

    (found,) = measure(Grid(m=(32,), ef_construction=(400,), ef_search=(200,)), of_vectors(vectors, questions=20))

    assert found.recall == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_length_of_vectors_does_not_matter(scale: float) -> None:
    asked = of_vectors((np.asarray(drawn(120)) * scale).tolist(), questions=12)

    assert np.allclose(np.linalg.norm(asked.exact, axis=1), 1)
    assert np.isfinite(asked.halves.astype(np.float32)).all()


def test_the_same_seed_generates_the_same_vectors() -> None:
    first, again, other = (generated(120, 384, questions=5, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(first.exact, again.exact)
    assert not np.array_equal(first.exact, other.exact)


def test_progress_counts_every_row_of_every_build() -> None:
    asked, told = generated(2_500, 384, questions=5), list[int]()

    list(measure(SMALL, asked, progress=told.append))

    assert sum(told) == rows_to_index(SMALL, asked) == 2 * 2_500
    assert max(told) < 2_500  # while it builds, and not only afterwards


def test_the_fastest_that_reaches_a_recall_is_suggested() -> None:
    quick, right, slow = point(p50_ms=1, recall=0.9), point(p50_ms=2, recall=0.99), point(p50_ms=3, recall=1.0)

    assert least_effort([quick, slow, right], 0.99) == right
    assert least_effort([quick, slow, right], 0.5) == quick
    assert least_effort([quick], 0.99) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [("m", (1,)), ("m", (101,)), ("m", ()), ("ef_construction", (3,)), ("ef_search", (1_001,)), ("m", (16,) * 21)],
)
def test_a_grid_beyond_the_limits_is_refused(name: str, values: tuple[int, ...]) -> None:
    with pytest.raises(InvalidLimit, match=name):
        Grid(**{name: values})


def test_too_few_or_too_many_vectors_are_refused() -> None:
    with pytest.raises(InvalidLimit, match="vectors"):
        of_vectors(drawn(99))
    with pytest.raises(InvalidLimit, match="vectors"):
        generated(grid.VECTORS_MAX + 1, 384)
    with pytest.raises(InvalidLimit, match="dimension"):
        generated(100, 100)
