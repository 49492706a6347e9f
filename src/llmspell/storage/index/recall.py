"""What share of the true nearest a graph finds, measured on its own rows, and how many candidates reach a wanted share.

Rows of the space are the questions, asked before they are in the graph: they are distributed as the data are, and as most
questions. A row that is a node of the graph is found too easily (measured on clusters well apart: such rows had a recall of 0.995
and more where others had 0.984). The truth is a scan of all rows that are in it. A wanted recall counts as reached when the
measured share is at least half way between it and 1: a sample errs.

Source of the method: recall@k against exact search over a sweep of the beam (Aumüller et al., ANN-Benchmarks, 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from llmspell.storage.index.blocks import Positions
from llmspell.storage.index.half import Halves, scan

if TYPE_CHECKING:
    from llmspell.storage.index.graph import Graph

QUESTIONS: Final = 200
"""Asked of each graph: 2,000 neighbours at k = 10, so that a share of 0.99 is known to about 0.002."""
NEIGHBOURS: Final = (10, 100)
"""The numbers of hits for which recall is measured; a search for others takes the next larger one."""
BEAMS: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_000)


class Recall(msgspec.Struct, frozen=True):
    """Measured shares: for a number of hits, by the number of candidates."""

    by_hits: dict[int, dict[int, float]] = {}

    def candidates(self, wanted: float, hits: int) -> int | None:
        """Return the least number of candidates that reached a recall; None when none did, or nothing was measured."""
        measured = self._measured(hits)
        if measured is None:
            return None
        least = wanted + (1 - wanted) / 2
        reached = (beam for beam, share in sorted(measured.items()) if share >= least)
        beam = next(reached, None)
        if beam is None or hits <= max(self.by_hits):
            return beam
        return beam * hits // max(self.by_hits)

    def at(self, candidates: int, hits: int = NEIGHBOURS[0]) -> float | None:
        """Return the recall of the largest beam that was measured and is not larger than `candidates`."""
        measured = self._measured(hits) or {}
        return max((share for beam, share in measured.items() if beam <= candidates), default=None)

    def _measured(self, hits: int) -> dict[int, float] | None:
        enough = [known for known in sorted(self.by_hits) if known >= hits] or sorted(self.by_hits)[-1:]
        return self.by_hits[enough[0]] if enough else None


def held_out(first: int, count: int, *, seed: int = 0) -> Positions | None:
    """Choose rows, among those from `first` to `count`, that are asked before they are added; None when there are too few."""
    if count - first < 2 * QUESTIONS:
        return None
    return np.sort(np.random.default_rng(seed).choice(np.arange(first, count), QUESTIONS, replace=False))


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
    count = len(rows)
    sample = held_out
    if sample is None:
        sample = np.random.default_rng(seed).choice(count, min(QUESTIONS, count), replace=False)
    hidden = sample if held_out is not None else None
    most = min(max(NEIGHBOURS), count - (1 if held_out is None else len(held_out)))
    found: dict[int, dict[int, float]] = {hits: {} for hits in NEIGHBOURS if hits <= most}
    truths = [_nearest(rows, int(position), most, hidden) for position in sample] if found and going() else []
    for beam in BEAMS:
        if not truths or not going() or all(shares and max(shares.values()) >= 1.0 for shares in found.values()):
            break
        hit = dict.fromkeys(found, 0)
        for position, truth in zip(sample, truths, strict=True):
            query = rows[position]
            candidates = graph.search(query.astype(np.float32), beam + 1)
            candidates = candidates[candidates != position]
            best = candidates[np.argsort(-scan(rows[candidates], query), kind="stable")]
            for hits in hit:
                hit[hits] += len(np.intersect1d(best[:hits], truth[:hits]))
        for hits in found:
            if beam >= hits:
                found[hits][beam] = round(hit[hits] / (hits * len(truths)), 4)
    return Recall({hits: shares for hits, shares in found.items() if shares})


def _nearest(rows: Halves, position: int, count: int, hidden: Positions | None) -> np.ndarray:
    scores = scan(rows, rows[position])
    scores[position if hidden is None else hidden] = -2.0
    best = np.argpartition(-scores, count - 1)[:count]
    order: np.ndarray = best[np.argsort(-scores[best], kind="stable")]
    return order
