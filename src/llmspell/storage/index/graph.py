"""The approximate index: a navigable graph over the first rows of a space. The only file that knows usearch.

A graph knows positions, nothing of owners, snapshots or files; whoever asks it steps over rows that are gone and scores again
what it returns, because it keeps its vectors in 8 bits.

Rule 1: a graph never changes after it was made. To take in more rows it is copied: usearch ends the process when something is added
to a graph that is a view of a file, or after a removal was saved (pitfalls).
Rule 2: nothing is ever removed from a graph.
Rule 3: rows are finite and of length 1 before they come here: usearch would accept anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index import native

LIBRARY: Final = "usearch-2"
"""Whose bytes a saved graph is; a file of another library is not read."""
ADDED_AT_ONCE: Final = 512
"""Rows between two looks at whether the work is still wanted: some tenths of a second."""
SCORED: Final = 4
"""Candidates for each wanted row that are worth scoring again, and the share of all that is: the order by 8 bits is good enough to
leave out the others (of 268 candidates 40 gave the recall at 10 that all of them gave, measured)."""
Going: TypeAlias = Callable[[int, int], bool]
"""Told how many rows are done and how many there are; False ends the work."""


class Stopped(Exception):
    """The work is not wanted any more."""


class Asked(NamedTuple):
    """Rows that are added last, by their positions in the whole graph, and who is given the graph before they are."""

    positions: NDArray[np.intp]
    ask: Callable[[Graph], None]


class Graph:
    """A graph over rows 0 to `count`, which are its keys."""

    def __init__(self, index: Any, *, owner: object = None) -> None:
        """`owner`: what must live as long as the graph, such as the file that it is a view of."""
        self._index = index
        self._owner = owner

    @classmethod
    def build(
        cls,
        rows: NDArray[np.float16],
        *,
        m: int,
        ef_construction: int,
        threads: int = 1,
        going: Going | None = None,
        asked: Asked | None = None,
    ) -> Graph:
        """Index float16 unit rows of shape (n, dimension).

        Raises:
            Stopped: `going` said so.
        """
        Index = native.index_type()
        index = Index(
            ndim=rows.shape[1],
            metric="cos",
            dtype="i8",
            connectivity=m,
            expansion_add=ef_construction,
            expansion_search=1,  # a search keeps as many candidates as it asks for
            enable_key_lookups=False,
        )
        _add(index, rows, 0, threads, going, asked)
        return cls(index)

    @classmethod
    def view(cls, saved: memoryview, *, owner: object) -> Graph:
        """Return the graph that `saved` holds, without copying it; `owner` keeps these bytes alive."""
        Index = native.index_type()
        index: Any = Index.restore(saved, view=True, enable_key_lookups=False)
        index.expansion_search = 1
        return cls(index, owner=(owner, saved))

    def extended(
        self,
        rows: NDArray[np.float16],
        *,
        ef_construction: int,
        threads: int = 1,
        going: Going | None = None,
        asked: Asked | None = None,
    ) -> Graph:
        """Return a copy that also holds the rows behind its own: `rows` are those, of shape (more, dimension)."""
        Index = native.index_type()
        index: Any = Index.restore(self.saved(), enable_key_lookups=False)
        index.expansion_add, index.expansion_search = ef_construction, 1
        _add(index, rows, len(self), threads, going, asked)
        return Graph(index)

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def size_bytes(self) -> int:
        """What it takes, in memory or in the file behind it."""
        return int(self._index.serialized_length)

    def search(self, query: NDArray[np.float32], candidates: int) -> NDArray[np.int64]:
        """Return positions of about so many nearest rows, best first by their 8-bit scores. `query`: float32 of shape
        (dimension,)."""
        found = self._index.search(query, min(candidates, len(self._index)), threads=1)
        positions: NDArray[np.int64] = found.keys.astype(np.int64)
        return positions

    def saved(self) -> bytes:
        """Return it as bytes."""
        return bytes(self._index.save())


def worth_scoring(candidates: int, wanted: int) -> int:
    """Return how many of a graph's best candidates are scored again, where `wanted` rows are wanted."""
    return max(SCORED * wanted, candidates // SCORED)


def _add(
    index: Any, rows: NDArray[np.float16], first: int, threads: int, going: Going | None, asked: Asked | None
) -> None:
    """Add rows behind the first ones."""
    last = np.empty(0, np.intp) if asked is None else asked.positions - first
    before = np.setdiff1d(np.arange(len(rows)), last, assume_unique=True)
    for done, positions in ((0, before), (len(before), last)):
        for start in range(0, len(positions), ADDED_AT_ONCE):
            if going is not None and not going(done + start, len(rows)):
                raise Stopped
            some = positions[start : start + ADDED_AT_ONCE]
            index.add((some + first).astype(np.uint64), rows[some], threads=threads)
        if positions is before and asked is not None:
            asked.ask(Graph(index))
