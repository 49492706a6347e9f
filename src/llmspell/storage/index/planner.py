"""Which way a search goes. Pure: it decides, others do.

Costs are in rows of 384 float16 components compared one by one in order, about 35 ns each here (measured, like the others); only
their relations matter.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.index.recall import Recall

SCAN_COMPONENTS: Final = 8_000_000
"""Up to so many components (20,833 rows of 384) a space is compared one by one and has no graph: that takes less than a
millisecond."""
TAIL_ROWS: Final = 2_048
TAIL_SHARE: Final = 0.05
"""Rows behind a graph that are worth taking in: at least 2,048, and a twentieth of it (HNS-23 advises to rebuild beyond a
tenth)."""
DEAD_SHARE: Final = 0.2
"""A graph of which more is gone is made anew: usearch's recall falls as rows are replaced (0.93 to 0.83 at half, pitfalls)."""
GATHERED: Final = 2.5
"""Cost of a row that is copied out of its place before it is compared."""
BEAM: Final = 160.0
"""Cost of one candidate of a graph at 384 dimensions: what it visits lies anywhere in memory, and is 8 bits wide."""
BEAM_SLOPE: Final = 0.8
"""A candidate costs fewer rows the longer rows are: jumping about costs the same, and rows cost more (measured to 3,072)."""
SPARE: Final = 1.3
"""Candidates beyond those that a filter will leave on average."""
BEAM_MAX: Final = 4_096


class Path(enum.Enum):
    """How the rows are visited."""

    SCAN = "scan"  # score every row, drop the ones that do not count
    GATHER = "gather"  # copy the rows that count, score those
    GRAPH = "graph"  # ask the graph for candidates, score them and the rows behind it


class Plan(msgspec.Struct, frozen=True):
    """A decision. `candidates`: what the graph is asked for."""

    path: Path
    candidates: int = 0

    @property
    def exact(self) -> bool:
        return self.path is not Path.GRAPH


def wants_graph(count: int, dimension: int) -> bool:
    """Say whether so many rows are worth a graph."""
    return count * dimension > SCAN_COMPONENTS


def wants_more(indexed: int, unindexed: int, dead: int) -> bool:
    """Say whether a graph is worth being extended, or made anew."""
    return unindexed > max(TAIL_ROWS, TAIL_SHARE * indexed) or dead > DEAD_SHARE * indexed


def wants_anew(indexed: int, unindexed: int, dead: int) -> bool:
    """Say whether a graph is better made anew than extended: much of it is gone, or most of it would be new."""
    return dead > DEAD_SHARE * (indexed + unindexed) or unindexed > indexed


def candidates(effort: Effort, limit: int, measured: Recall, *, ef_search: int, recall: float | None) -> int:
    """Return how many candidates a graph is asked for; 0: the search shall be exact.

    `ef_search`, `recall`: what is configured. A recall that no number of candidates reached on the data is reached exactly.
    """
    if effort.exact or effort.recall == 1.0:
        return 0
    if effort.ef_search is not None:
        return max(effort.ef_search, limit)  # AMB-014
    wanted = recall if effort.recall is None else effort.recall
    least = max(limit, ef_search if effort.recall is None else 1)
    if wanted is None:
        return least
    reached = measured.candidates(wanted, limit)
    return 0 if reached is None else max(least, reached)


def plan(*, rows: int, matching: int, graph: int, candidates: int, dimension: int) -> Plan:
    """Choose for a space of `rows` rows of which `matching` count, `graph` of them behind a graph that is asked for `candidates`.

    `graph` = 0: there is none, or the search shall be exact.
    """
    exact = Plan(Path.GATHER) if matching * GATHERED < rows else Plan(Path.SCAN)
    if not graph or not matching:
        return exact
    share = matching / rows
    asked = candidates if share >= 1 else int(candidates / share * SPARE) + 1
    cost = BEAM * min(1.0, (384 / dimension) ** BEAM_SLOPE) * asked + (rows - graph)
    if asked > min(BEAM_MAX, graph // 4) or cost >= min(matching * GATHERED, rows):
        return exact
    return Plan(Path.GRAPH, asked)
