"""What share of the true nearest a graph finds, measured on its own rows, and how many candidates reach a wanted share.

Rows of the space are the questions, asked before they are in the graph: they are distributed as the data are, and as most
questions. A row that is a node of the graph is found too easily (measured on clusters well apart: such rows had a recall of 0.995
and more where others had 0.984). The truth is a comparison with all rows that are in it.

A sample errs. A wanted recall counts as reached where the measured share less `DOUBT` standard errors reaches it; between two
numbers of candidates that were measured, shares are taken to lie on a line over the logarithm of the number, which is below the
true curve: it bends that way.

Source of the method: recall@k against exact search over a sweep of the beam (Aumüller et al., ANN-Benchmarks, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index.blocks import Positions
from llmspell.storage.index.graph import Graph, worth_scoring
from llmspell.storage.index.half import Halves, scan

QUESTIONS: Final = 200
"""Asked of each graph, with every number of candidates."""
MORE_QUESTIONS: Final = 600
"""Asked beyond these, where it was made of enough rows, with the numbers whose share may be the one that searches aim at."""
AIMED_AT: Final = (0.98, 0.996)
ROWS_PER_QUESTION: Final = 25
"""Measuring takes some hundredths of the time that adding so many rows does."""
DOUBT: Final = 1.645
"""Standard errors that are taken off: of a hundred graphs measured so, 95 reach the share or more (normal distribution)."""
NEIGHBOURS: Final = (10, 100)
"""The numbers of hits for which recall is measured; a search for others takes the next larger one."""
BEAMS: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_000)
SCORES_AT_ONCE: Final = 8_000_000
"""Scores of questions that are held at once, in float32: 32 MB."""
CAST_AT_ONCE: Final = 2_000
"""Rows that are cast to float32 at a time: what a processor keeps near."""


class Recall(msgspec.Struct, frozen=True):
    """Measured shares, for a number of hits, by the number of candidates; and what they are at least, the sample's error taken
    off."""

    by_hits: dict[int, dict[int, float]] = {}
    least: dict[int, dict[int, float]] = {}

    def candidates(self, wanted: float, hits: int) -> int | None:
        """Return the least number of candidates that reaches a recall; None when none does, or nothing was measured."""
        known = self._hits(hits)
        beam = None if known is None else _reaching(wanted, self.least[known])
        if beam is None or hits <= max(self.by_hits):
            return beam
        return beam * hits // max(self.by_hits)

    def at(self, candidates: int, hits: int = NEIGHBOURS[0]) -> float | None:
        """Return the share that so many candidates find; None when fewer were never measured."""
        known = self._hits(hits)
        measured = sorted(self.by_hits[known].items()) if known is not None else []
        share = max((share for beam, share in measured if beam <= candidates), default=None)
        for (low, below), (high, above) in pairwise(measured):
            if low < candidates < high and share is not None:
                between = math.log(candidates / low) / math.log(high / low)
                share = max(share, round(below + (above - below) * between, 4))
        return share

    def _hits(self, hits: int) -> int | None:
        enough = [known for known in sorted(self.by_hits) if known >= hits] or sorted(self.by_hits)[-1:]
        return enough[0] if enough else None


def _reaching(wanted: float, measured: Mapping[int, float]) -> int | None:
    before: tuple[int, float] | None = None
    for beam, share in sorted(measured.items()):
        if share >= wanted:
            if before is None or share <= before[1]:
                return beam
            low, below = before
            between: float = (beam / low) ** ((wanted - below) / (share - below))
            return min(beam, math.ceil(low * between))
        if before is None or share > before[1]:
            before = (beam, share)
    return None


def held_out(first: int, count: int, *, seed: int = 0) -> Positions | None:
    """Choose rows, among those from `first` to `count`, that are asked before they are added; None when there are too few."""
    if count - first < 2 * QUESTIONS:
        return None
    wanted = min(QUESTIONS + MORE_QUESTIONS, max(QUESTIONS, (count - first) // ROWS_PER_QUESTION))
    return np.sort(np.random.default_rng(seed).choice(np.arange(first, count), wanted, replace=False))


def measure(
    graph: Graph,
    rows: Halves,
    *,
    held_out: Positions | None = None,
    seed: int = 0,
    going: Callable[[], bool] = lambda: True,
) -> Recall:
    """Measure a graph over all `rows`, but for those `held_out`, which are the questions then: without them some rows are, each
    without itself. Ends early, with less measured, when `going` says no."""
    count, source = len(rows), np.random.default_rng(seed)
    sample = source.permutation(held_out) if held_out is not None else source.permutation(count)[:QUESTIONS]
    most = min(max(NEIGHBOURS), count - (1 if held_out is None else len(held_out)))
    sizes = [hits for hits in NEIGHBOURS if hits <= most]
    if not sizes:
        return Recall()
    truths = list(_truths(rows, sample, most, hidden=held_out, going=going))
    if len(truths) < len(sample):
        return Recall()
    found: dict[int, dict[int, float]] = {hits: {} for hits in sizes}
    least: dict[int, dict[int, float]] = {hits: {} for hits in sizes}
    for beam in BEAMS:
        if not going() or all(shares and max(shares.values()) >= 1.0 for shares in found.values()):
            break
        shares = _shares(graph, rows, sample[:QUESTIONS], truths, beam, sizes)
        if AIMED_AT[0] <= float(shares[0].mean()) <= AIMED_AT[1]:
            more = _shares(graph, rows, sample[QUESTIONS:], truths[QUESTIONS:], beam, sizes)
            shares = np.concatenate((shares, more), axis=1)
        for hits, share in zip(sizes, shares, strict=True):
            if beam >= hits:
                found[hits][beam], least[hits][beam] = round(float(share.mean()), 4), _at_least(share, hits)
    return Recall(
        {hits: shares for hits, shares in found.items() if shares},
        {hits: shares for hits, shares in least.items() if shares},
    )


def _at_least(shares: NDArray[np.float64], hits: int) -> float:
    """Return the mean share less its error, which is that of one neighbour missed at least."""
    error = max(float(shares.std()) / math.sqrt(len(shares)), 1 / (hits * len(shares)))
    return max(0.0, round(float(shares.mean()) - DOUBT * error, 4))


def _shares(
    graph: Graph, rows: Halves, sample: Positions, truths: Sequence[Positions], beam: int, sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Return what share each question found of its nearest rows, of shape (sizes, questions)."""
    shares = np.empty((len(sizes), len(sample)))
    for number, (position, truth) in enumerate(zip(sample, truths, strict=False)):
        query = rows[position]
        candidates = graph.search(query.astype(np.float32), beam + 1)
        candidates = candidates[candidates != position]
        scores = scan(rows[candidates], query)
        for at, hits in enumerate(sizes):
            some = worth_scoring(beam, hits)
            best = candidates[:some][np.argsort(-scores[:some], kind="stable")]
            shares[at, number] = len(np.intersect1d(best[:hits], truth[:hits])) / hits
    return shares


def _truths(
    rows: Halves, sample: Positions, count: int, *, hidden: Positions | None, going: Callable[[], bool]
) -> Iterator[Positions]:
    """Yield the `count` nearest rows of each question, without itself and those that are hidden; ends when `going` says no."""
    at_once = max(1, SCORES_AT_ONCE // len(rows))
    for start in range(0, len(sample), at_once):
        if not going():
            return
        asked = sample[start : start + at_once]
        queries = rows[asked].astype(np.float32)
        scores = np.empty((len(asked), len(rows)), np.float32)
        for first in range(0, len(rows), CAST_AT_ONCE):
            some = rows[first : first + CAST_AT_ONCE].astype(np.float32)
            np.matmul(queries, some.T, out=scores[:, first : first + CAST_AT_ONCE])
        if hidden is None:
            scores[np.arange(len(asked)), asked] = -2.0
        else:
            scores[:, hidden] = -2.0
        for line in scores:
            best = np.argpartition(-line, count - 1)[:count]
            yield best[np.argsort(-line[best], kind="stable")]
