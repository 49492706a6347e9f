"""The rows of a space as arrays: half-precision vectors, whose they are, which change brought them and which one took them away.

Rule 1: rows stand in the order of the changes that brought them; nothing but `died` ever changes, and that once per row.
Rule 2: a block may have more room than rows; who reads one knows how many rows count (`View`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index.exact import Rows
from llmspell.storage.index.half import Halves, to_halves

Words: TypeAlias = "NDArray[np.uint64]"
Positions: TypeAlias = "NDArray[np.intp]"

ALIVE: Final = np.iinfo(np.int64).max
"""`died` of a row that is still there."""
_SPARE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Block:
    """All arrays have one entry per row.

    `halves`: float16 of shape (n, dimension), unit vectors; `off`: float32, by how much each is off at most. `owners`: uint64 of
    shape (n, 2), the halves of the owner's id.
    `parts`: int32, which window of its owner a row is. `seqs`, `died`: int64, the changes that brought it and took it away.
    `places`: int64, where the database kept the row when it was read: it may have moved since.
    """

    halves: Halves
    owners: Words
    parts: NDArray[np.int32]
    seqs: NDArray[np.int64]
    died: NDArray[np.int64]
    places: NDArray[np.int64]
    off: NDArray[np.float32]

    @classmethod
    def empty(cls, dimension: int, room: int = 0) -> Block:
        return cls(
            np.empty((room, dimension), np.float16),
            np.empty((room, 2), np.uint64),
            np.empty(room, np.int32),
            np.empty(room, np.int64),
            np.empty(room, np.int64),
            np.empty(room, np.int64),
            np.empty(room, np.float32),
        )

    @classmethod
    def of(cls, rows: Rows) -> Block:
        """Make a block of rows that are all there."""
        halves, off = to_halves(rows.values, rows.lengths)
        return cls(halves, rows.owners, rows.parts, rows.seqs, np.full(len(rows), ALIVE), rows.places, off)

    def __len__(self) -> int:
        return len(self.seqs)

    @property
    def row_bytes(self) -> int:
        """What one row takes."""
        dimension: int = self.halves.shape[1]
        return 2 * dimension + 16 + 4 + 8 + 8 + 8 + 4

    def each(self, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Block:
        """Return a block of changed arrays."""
        arrays = (self.halves, self.owners, self.parts, self.seqs, self.died, self.places, self.off)
        return Block(*map(change, arrays))  # type: ignore[arg-type]

    def upto(self, count: int) -> Block:
        """Return the first rows, without copying."""
        return self.each(lambda array: array[:count])

    def beyond(self, count: int) -> Block:
        """Return a copy of the rows behind the first ones."""
        return self.each(lambda array: array[count:].copy())

    def at(self, positions: Positions) -> Block:
        """Return a copy of some rows."""
        return self.each(lambda array: array[positions])

    def and_then(self, more: Block, used: int) -> Block:
        """Return a block whose first `used` rows are these, with `more` behind them: in place where there is room.

        Rows that a view shows are never touched: what is written lies beyond them.
        """
        total = used + len(more)
        block = self
        if len(self) < total:
            block = Block.empty(more.halves.shape[1], max(total, int(total * _SPARE) if used else total))
            if used:
                block._write(self.upto(used), 0)
        block._write(more, used)
        return block

    def _write(self, rows: Block, start: int) -> None:
        end = start + len(rows)
        self.halves[start:end] = rows.halves
        self.owners[start:end] = rows.owners
        self.parts[start:end] = rows.parts
        self.seqs[start:end] = rows.seqs
        self.died[start:end] = rows.died
        self.places[start:end] = rows.places
        self.off[start:end] = rows.off


def joined(first: Block, second: Block) -> Block:
    """Return a copy of two blocks as one."""
    if not len(first):
        return second.each(np.copy)
    return Block.empty(first.halves.shape[1], len(first) + len(second)).and_then(first, 0).and_then(second, len(first))


_FACTORS: Final = np.random.default_rng().integers(1, 2**63, size=2, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


class Finder:
    """Finds the rows of owners: their mixed ids, sorted. The factors are secret: ids come from outside and must not meet on
    purpose."""

    __slots__ = ("_hashes", "_order", "_owners")

    def __init__(self, owners: Words) -> None:
        self._owners = owners
        hashes = _mixed(owners)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def positions(self, owners: Words) -> tuple[Positions, Positions]:
        """Return where the rows of `owners` are, and for each which of the owners it belongs to."""
        wanted = _mixed(owners)
        first = np.searchsorted(self._hashes, wanted, "left")
        spans = np.searchsorted(self._hashes, wanted, "right") - first
        which = np.repeat(np.arange(len(owners)), spans)
        offsets = np.arange(len(which)) - np.repeat(np.cumsum(spans) - spans, spans)
        found = self._order[first[which] + offsets]
        same = (self._owners[found] == owners[which]).all(axis=1)
        return found[same], which[same]


def _mixed(owners: Words) -> Words:
    mixed: Words = owners[:, 0] * _FACTORS[0] + owners[:, 1] * _FACTORS[1]
    return mixed
