"""One search over the rows of a space: candidates by half precision or by a graph, then scores in full precision.

The scores that decide are computed in float64 from the float32 rows, which the caller fetches for the candidates alone. Half
precision is wrong by a known amount at most (`half.error`), so the candidates of an exact path hold every row that can be among the
best. A graph may miss some: then rows farther away take their place.

Rule: a search gives min(limit, rows that count) owners. What a graph finds too little of is asked for again more widely, then
compared one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.contracts.vectors import SCORE_DECIMALS
from llmspell.storage.index.blocks import Positions, Words
from llmspell.storage.index.exact import Doubles, Found, best, rescored
from llmspell.storage.index.graph import worth_scoring
from llmspell.storage.index.half import Halved, Halves, error, scan
from llmspell.storage.index.planner import BEAM_MAX, Path, Plan, plan
from llmspell.storage.index.space import Heavy, View

LIGHT_COMPONENTS: Final = 4_000_000
"""Up to so many components are compared one by one where a search shall take some tenths of a millisecond."""
WIDER: Final = 4
"""How much more is asked of a graph that gave too little, each time."""
GATHERED_AT_ONCE: Final = 1_024
"""Rows copied at a time: 0.8 MB at 384 dimensions (a fifth faster than 10,000 at once, measured)."""
_ROUNDING: Final = 10.0**-SCORE_DECIMALS

Fetch: TypeAlias = "Callable[[Words, NDArray[np.int32], NDArray[np.int64]], Sequence[bytes] | None]"
"""Gives the float32 rows of owners and parts, in order, with the place where each was; None when any of them is not there."""


@dataclass(frozen=True, slots=True)
class Question:
    """A float64 vector of length 1, how many owners are wanted, and the candidates that a graph is asked for (0: exactly)."""

    unit: Doubles
    limit: int
    candidates: int
    light: bool = False
    """It shall be answered in some tenths of a millisecond or not at all."""


class Harmed(Exception):
    """What is kept in memory is not what the database has: it must be let go."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The best owners, and which way was gone."""

    found: Found
    plan: Plan


def search(view: View, question: Question, fetch: Fetch, *, chosen: Positions | None = None) -> Answer:
    """Return the best owners among the rows that are there and in `chosen` (ascending positions; None: all)."""
    if chosen is not None:
        chosen = view.there(chosen)
    matching = view.count if chosen is None else len(chosen)
    graph = len(view.indexed.graph) if view.indexed is not None and question.candidates else 0
    dimension = len(question.unit)
    way = plan(rows=len(view), matching=matching, graph=graph, candidates=question.candidates, dimension=dimension)
    if question.light and way.exact and matching * dimension > LIGHT_COMPONENTS:
        raise Heavy
    query = Halved.of(question.unit)
    while not way.exact:
        positions, scores, given = _by_graph(view, question, query, way.candidates, chosen)
        if _is_enough(view, question, positions[:given], matching - (len(positions) - given)):
            candidates = _near(view, query, positions, scores, question.limit)
            return Answer(_scored(view, question, candidates, fetch), way)
        asked = way.candidates * WIDER
        way = Plan(Path.GRAPH, asked) if asked <= min(BEAM_MAX, graph // 2) else Plan(Path.GATHER)
    positions, scores = _by_all(view, query.values, way, chosen)
    candidates = _near(view, query, positions, scores, question.limit)
    return Answer(_scored(view, question, candidates, fetch), way)


def _is_enough(view: View, question: Question, given: Positions, matching: int) -> bool:
    """Say whether a graph gave all that can be wanted of its `matching` rows: those behind it never stand in for them."""
    if len(given) >= min(question.limit * view.windows, matching):
        return True
    return len(np.unique(view.owners(given), axis=0)) >= min(question.limit, matching)


def _by_graph(
    view: View, question: Question, halved: Halved, candidates: int, chosen: Positions | None
) -> tuple[Positions, NDArray[np.float64], int]:
    """Return the rows that the graph gives, then those behind it, of those that count; their scores in half precision; and how many
    the graph gave."""
    if view.indexed is None:
        raise AssertionError("a plan by a graph needs one")
    query = halved.values
    near = view.indexed.graph.search(question.unit.astype(np.float32), candidates)
    if len(near) and int(near.max()) >= len(view.base):
        raise Harmed
    near = view.there(near)
    if chosen is not None:
        at = np.searchsorted(chosen, near)
        near = near[chosen[np.minimum(at, len(chosen) - 1)] == near]
    near = near[: worth_scoring(candidates, question.limit * view.windows)]
    scores = scan(view.base.halves[near], query)
    if not len(view.tail):
        return near, scores, len(near)
    first = len(view.base)
    if chosen is not None:
        behind = chosen[np.searchsorted(chosen, first) :]
    elif view.alive is not None:
        behind = np.flatnonzero(view.alive[first:]) + first
    else:
        behind = np.arange(first, len(view))
    rows = view.tail.halves if len(behind) == len(view.tail) else view.tail.halves[behind - first]
    more = scan(rows, query)
    return np.concatenate((near, behind)), np.concatenate((scores, more)), len(near)


def _by_all(view: View, query: Halves, way: Plan, chosen: Positions | None) -> tuple[Positions, NDArray[np.float64]]:
    if chosen is not None and way.path is Path.GATHER:
        return chosen, _gathered(view, chosen, query)
    scores = np.concatenate((scan(view.base.halves, query), scan(view.tail.halves, query)))
    counted = chosen if chosen is not None else None if view.alive is None else np.flatnonzero(view.alive)
    return (np.arange(len(view)), scores) if counted is None else (counted, scores[counted])


def _gathered(view: View, chosen: Positions, query: Halves) -> NDArray[np.float64]:
    """Return the scores of some rows, copied out of their places a few at a time: a processor keeps those near."""
    scores = np.empty(len(chosen))
    for start in range(0, len(chosen), GATHERED_AT_ONCE):
        some = slice(start, start + GATHERED_AT_ONCE)
        scores[some] = scan(view.halves(chosen[some]), query)
    return scores


def _near(view: View, query: Halved, positions: Positions, scores: NDArray[np.float64], limit: int) -> Positions:
    """Return the positions that can be among the best `limit` owners, given how wrong the scores may be."""
    wanted = limit * view.windows
    if len(positions) <= limit:
        return positions
    margin = 2 * error(len(query.values), row=view.off(positions), query=query.off) + _ROUNDING
    if len(positions) > wanted:
        # The `wanted` best rows belong to at least `limit` owners: no owner has more rows than `windows`.
        kth = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
        kept = scores >= kth - margin
        positions, scores = positions[kept], scores[kept]
    if view.windows == 1:
        return positions
    order = np.argsort(-scores, kind="stable")
    owners = view.owners(positions[order])
    _, first = np.unique(owners, axis=0, return_index=True)
    if len(first) <= limit:
        return positions
    least = scores[order[np.sort(first)[limit - 1]]]
    near: Positions = positions[scores >= least - margin]
    return near


def _scored(view: View, question: Question, positions: Positions, fetch: Fetch) -> Found:
    owners: Words = view.owners(positions)
    embeddings = fetch(owners, view.parts(positions), view.places(positions))
    if embeddings is None:
        # What the arrays hold and what the database holds cannot differ, unless memory or a mapped file was harmed.
        raise Harmed
    return best(owners, rescored(embeddings, question.unit), question.limit, distinct=view.windows == 1)
