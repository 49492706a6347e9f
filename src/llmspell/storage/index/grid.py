"""A grid over the parameters of an index, measured on vectors: build time, size, query time and recall (HNS-22, AMB-111).

Not here: where the vectors come from, but for generated ones; how results are shown (`cli.commands.index`).

Rule 1: recall is against exact search over the same vectors, in single precision; rows that score alike are as good as each other.
Rule 2: questions are not among the vectors that are indexed: a vector finds itself whatever the parameters are.
Rule 3: a question is answered as a store answers it: the graph proposes, and its candidates are scored again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmspell.codec import require_limit, require_size
from llmspell.storage.contracts.vector_index import EF_CONSTRUCTION_MAX, EF_SEARCH_MAX, M_MAX, M_MIN, require_dimension
from llmspell.storage.index.graph import Graph
from llmspell.storage.index.half import error, off_at_most, scan

Floats: TypeAlias = "NDArray[np.float32]"
Halves: TypeAlias = "NDArray[np.float16]"

GRID_M: Final = (12, 16, 24)  # HNS-22
GRID_EF_CONSTRUCTION: Final = (64, 128, 256)
GRID_EF_SEARCH: Final = (20, 40, 100)
POINTS_MAX: Final = 20
"""Values of one parameter."""
K: Final = 10
QUESTIONS: Final = 200
QUESTIONS_MAX: Final = 10_000
VECTORS_MIN: Final = 100
VECTORS_MAX: Final = 1_000_000
QUESTION_SHARE: Final = 10
"""Of a small sample at most a tenth are questions."""
_ALIKE: Final = 1e-6
_QUESTIONS_AT_ONCE: Final = 64
# Generated vectors: anisotropic, overlapping clusters. Independent components would have no neighbourhoods to find, and clusters
# well apart would be found by any parameters.
_CLUSTER: Final = 100
_SPECTRUM: Final = 0.5
_NOISE: Final = 1.7


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Which parameters are tried, each with each (HNS-22)."""

    m: tuple[int, ...] = GRID_M
    ef_construction: tuple[int, ...] = GRID_EF_CONSTRUCTION
    ef_search: tuple[int, ...] = GRID_EF_SEARCH

    def __post_init__(self) -> None:
        limits = (
            ("m", self.m, M_MIN, M_MAX),
            ("ef_construction", self.ef_construction, 4, EF_CONSTRUCTION_MAX),
            ("ef_search", self.ef_search, 1, EF_SEARCH_MAX),
        )
        for field, values, least, most in limits:
            require_size(values, field=field, minimum=1, maximum=POINTS_MAX)
            for value in values:
                require_limit(value, field=field, minimum=least, maximum=most)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured with one set of parameters. `recall`: of the 10 nearest, averaged over the questions."""

    m: int
    ef_construction: int
    ef_search: int
    build_s: float
    size_bytes: int
    p50_ms: float
    p95_ms: float
    recall: float


class Questions(msgspec.Struct, frozen=True):
    """Unit rows of shape (n, dimension), and unit questions with the score of the k-th best row of each.

    `halves`: the rows as an index keeps them. `exact`: the same in single precision, by which answers are judged.
    """

    halves: Halves
    exact: Floats
    questions: Floats
    kth: Floats

    def __len__(self) -> int:
        """How many rows are indexed."""
        return len(self.halves)


Progress: TypeAlias = Callable[[int], None]
"""Told how many more rows are indexed."""


def rows_to_index(grid: Grid, questions: Questions) -> int:
    """Return how many rows all builds of a grid index together: the whole of its progress."""
    return len(grid.m) * len(grid.ef_construction) * len(questions)


def of_vectors(vectors: Sequence[Sequence[float]], *, questions: int = QUESTIONS, seed: int = 0) -> Questions:
    """Set some of the vectors apart as questions, by chance, and answer them exactly over the others.

    Raises:
        InvalidLimit: there are fewer than 100 vectors, or a number is out of range.
    """
    require_limit(questions, field="questions", maximum=QUESTIONS_MAX)
    require_size(vectors, field="vectors", minimum=VECTORS_MIN, maximum=VECTORS_MAX)
    unit = _unit(np.asarray(vectors, dtype=np.float32))
    order = np.random.default_rng(seed).permutation(len(unit))
    apart = min(questions, len(unit) // QUESTION_SHARE)
    return _answered(unit[order[apart:]], unit[order[:apart]])


def generated(count: int, dimension: int, *, questions: int = QUESTIONS, seed: int = 0) -> Questions:
    """Make vectors in overlapping clusters whose components grow narrower (dimension j by j^-0.5), and questions like them.

    Raises:
        InvalidLimit: a number is out of range.
    """
    require_limit(count, field="vectors", minimum=VECTORS_MIN, maximum=VECTORS_MAX)
    require_limit(questions, field="questions", maximum=QUESTIONS_MAX)
    require_dimension(dimension)
    source = np.random.default_rng(seed)
    spectrum = (np.arange(1, dimension + 1) ** -_SPECTRUM).astype(np.float32)
    centres = source.standard_normal((max(1, count // _CLUSTER), dimension), dtype=np.float32)
    drawn = source.standard_normal((count + questions, dimension), dtype=np.float32)
    drawn *= np.float32(_NOISE)
    drawn += centres[source.integers(0, len(centres), len(drawn))]
    drawn *= spectrum
    unit = _unit(drawn)
    return _answered(unit[:count], unit[count:])


def _unit(vectors: Floats) -> Floats:
    # Scaled first: the square of a component of 1e30 is not a number that float32 has.
    scaled = vectors / np.abs(vectors).max(axis=1, keepdims=True)
    unit: Floats = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit


def _answered(rows: Floats, questions: Floats) -> Questions:
    """Score every row against every question, and keep the score that a row must reach to be among the best."""
    k = min(K, len(rows))
    kth = np.empty(len(questions), np.float32)
    for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
        scores = questions[start : start + _QUESTIONS_AT_ONCE] @ rows.T  # 256 MB for a million rows
        kth[start : start + _QUESTIONS_AT_ONCE] = np.partition(scores, len(rows) - k, axis=1)[:, len(rows) - k]
    return Questions(rows.astype(np.float16), rows, questions, kth)


def measure(
    grid: Grid, questions: Questions, *, threads: int = 1, progress: Progress = lambda rows: None
) -> Iterator[Point]:
    """Build an index for each (m, ef_construction), ask it with each ef_search, and yield what was measured, in that order."""
    for m in grid.m:
        for ef_construction in grid.ef_construction:
            started = time.perf_counter()
            graph = _built(questions.halves, m, ef_construction, threads, progress)
            build_s = time.perf_counter() - started
            for ef_search in grid.ef_search:
                seconds, recall = _asked(graph, questions, ef_search)
                yield Point(
                    m=m,
                    ef_construction=ef_construction,
                    ef_search=ef_search,
                    build_s=build_s,
                    size_bytes=graph.size_bytes,
                    p50_ms=float(np.percentile(seconds, 50)) * 1_000,
                    p95_ms=float(np.percentile(seconds, 95)) * 1_000,
                    recall=recall,
                )


def _built(rows: Halves, m: int, ef_construction: int, threads: int, progress: Progress) -> Graph:
    told = 0

    def going(done: int, total: int) -> bool:
        nonlocal told
        progress(done - told)
        told = done
        return True

    graph = Graph.build(rows, m=m, ef_construction=ef_construction, threads=threads, going=going)
    progress(len(rows) - told)
    return graph


def _asked(graph: Graph, questions: Questions, ef_search: int) -> tuple[list[float], float]:
    """Ask every question, one at a time: return how long each took, in seconds, and the recall of all."""
    k = min(K, len(questions))
    seconds: list[float] = []
    found = 0
    for question, kth in zip(questions.questions, questions.kth, strict=True):
        started = time.perf_counter()
        candidates = graph.search(question, max(ef_search, k))  # AMB-014
        best = _best(questions, candidates, question, k)
        seconds.append(time.perf_counter() - started)
        found += int((questions.exact[best] @ question >= kth - _ALIKE).sum())
    return seconds, found / (k * len(questions.questions))


def _best(questions: Questions, candidates: NDArray[np.int64], question: Floats, k: int) -> NDArray[np.int64]:
    """Score candidates in half precision, and those that can still be among the best in single precision."""
    scores = scan(questions.halves[candidates], question.astype(np.float16))
    if len(candidates) > k:
        off = off_at_most(len(question))
        margin = 2 * error(len(question), row=off, query=off)
        least = np.partition(scores, len(scores) - k)[len(scores) - k] - margin
        candidates = candidates[scores >= least]
    best: NDArray[np.int64] = candidates[np.argsort(-(questions.exact[candidates] @ question), kind="stable")[:k]]
    return best


def least_effort(points: Sequence[Point], recall: float) -> Point | None:
    """Return the point that answers fastest (p50) of those with at least this recall, or None."""
    return min((point for point in points if point.recall >= recall), key=lambda point: point.p50_ms, default=None)
