"""Vectors of many spaces kept in memory, within one limit of bytes; the least recently searched leave first.

A space is brought up to date from the rows of a database inside the snapshot of each search, by its change numbers:
insertions append, deletions drop. The cache holds nothing that the database does not, so it may be lost at any time.

Rule: a space is only as new as the newest snapshot it was filled from; an older snapshot is served what it may see, or
nothing (None), and then searches without the cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index.exact import Positions, Rows, Words

CACHE_MAX_BYTES: Final = 512 * 1024 * 1024
"""Vectors kept per process by default: 330,000 of 384 dimensions, 85,000 of 1536."""
SPACES_MAX: Final = 10_000
_SPARE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Version:
    """How far a snapshot sees: the last change of a space, and the last one that deleted."""

    change: int
    deletion: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where a space is read, inside one snapshot."""

    version: Version
    pages: Callable[[int], Iterator[Rows]]
    """Rows of changes after the given one, in order, in pages."""
    present: Callable[[], tuple[Words, NDArray[np.int32]]]
    """Owners and parts of all rows."""


class View:
    """The rows of a space as one snapshot sees them. Never changes."""

    __slots__ = ("_index", "rows", "windows")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.windows = int(rows.parts.max()) + 1 if len(rows) else 1
        self._index: tuple[Words, Positions] | None = None

    def positions(self, owners: Words) -> Positions:
        """Return where the rows of `owners` (each named once) are, ascending; owners without rows are skipped."""
        if self._index is None:  # two threads may both make it: they make the same
            hashes = _hash(self.rows.owners)
            order = np.argsort(hashes, kind="stable")
            self._index = (hashes[order], order)
        hashes, order = self._index
        wanted = _hash(owners)
        first = np.searchsorted(hashes, wanted, "left")
        spans = np.searchsorted(hashes, wanted, "right") - first
        which = np.repeat(np.arange(len(owners)), spans)
        offsets = np.arange(len(which)) - np.repeat(np.cumsum(spans) - spans, spans)
        found = order[first[which] + offsets]
        same = (self.rows.owners[found] == owners[which]).all(axis=1)
        return np.sort(found[same])

    def positions_but(self, owners: Words) -> Positions:
        """Return where all other rows are, ascending."""
        return np.delete(np.arange(len(self.rows), dtype=np.intp), self.positions(owners))


_FACTORS: Final = np.random.default_rng().integers(1, 2**63, size=2, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _hash(owners: Words) -> Words:
    """Mix ids to one word each, by secret factors: ids come from outside, and must not be able to meet on purpose."""
    mixed: Words = owners[:, 0] * _FACTORS[0] + owners[:, 1] * _FACTORS[1]
    return mixed


@dataclass(slots=True)
class _Space:
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Version | None = None
    buffer: Rows | None = None
    """Arrays with room to grow; the first `len(view.rows)` entries are filled."""
    view: View | None = None

    @property
    def size_bytes(self) -> int:
        return self.view.rows.size_bytes if self.view is not None else 0


class SpaceCache:
    """The spaces of one process. Safe to share between threads."""

    def __init__(self, max_bytes: int = CACHE_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._spaces: OrderedDict[Hashable, _Space] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """What all cached vectors take."""
        with self._lock:
            return sum(space.size_bytes for space in self._spaces.values())

    def __len__(self) -> int:
        return len(self._spaces)

    def view(self, key: Hashable, source: Source) -> View | None:
        """Return the rows that the source's snapshot sees.

        None: the cache is ahead of the snapshot and cannot go back, or the space is larger than the whole cache.
        """
        with self._lock:
            space = self._spaces.setdefault(key, _Space())
            self._spaces.move_to_end(key)
        with space.lock:
            view = self._caught_up(space, source)
        self._evict(key)
        return view

    def _caught_up(self, space: _Space, source: Source) -> View | None:
        wanted, known = source.version, space.version
        if known == wanted and space.view is not None:
            return space.view
        if known is None:
            space.view = space.buffer = None
        elif wanted.change < known.change:
            rows = space.view.rows if space.view is not None else _no_rows()
            if wanted.deletion != known.deletion:
                return None
            return View(rows.upto(int(np.searchsorted(rows.seqs, wanted.change, "right"))))
        after = known.change if known is not None else -1
        space.version = None  # should reading fail half-way, the next search starts anew
        if known is not None and wanted.deletion != known.deletion:
            self._drop_deleted(space, source, after=after)
        for page in source.pages(after):
            self._append(space, page)
            if space.size_bytes > self._max_bytes:
                space.view = space.buffer = None
                return None
        if space.view is None:
            space.view = View(_no_rows())
        space.version = wanted
        return space.view

    def _drop_deleted(self, space: _Space, source: Source, *, after: int) -> None:
        """Keep the rows that are still there. One that was replaced is still there by name; its new row comes later."""
        rows = space.view.rows if space.view is not None else _no_rows()
        owners, parts = source.present()
        keep = _are_among(rows, owners, parts)
        for page in source.pages(after):
            keep &= ~_are_among(rows, page.owners, page.parts)
        kept = rows.where(keep)
        space.buffer = kept
        space.view = View(kept)

    def _append(self, space: _Space, page: Rows) -> None:
        old = space.view.rows if space.view is not None else None
        used = len(old) if old is not None else 0
        total = used + len(page)
        if space.buffer is None or len(space.buffer) < total:
            grown = _room(page, max(total, int(total * _SPARE) if used else total))
            if old is not None and used:  # what is empty may not know its dimension yet
                _copy(old, grown, 0)
            space.buffer = grown
        _copy(page, space.buffer, used)  # beyond what any view shows
        space.view = View(space.buffer.upto(total))

    def _evict(self, newest: Hashable) -> None:
        with self._lock:
            total = sum(space.size_bytes for space in self._spaces.values())
            for key in list(self._spaces):
                if total <= self._max_bytes and len(self._spaces) <= SPACES_MAX:
                    break
                if key != newest:
                    total -= self._spaces.pop(key).size_bytes


def _no_rows() -> Rows:
    return Rows(
        np.empty((0, 0), np.float32),
        np.empty(0),
        np.empty((0, 2), np.uint64),
        np.empty(0, np.int32),
        np.empty(0, np.int64),
    )


def _room(like: Rows, count: int) -> Rows:
    return Rows(
        np.empty((count, like.values.shape[1]), np.float32),
        np.empty(count),
        np.empty((count, 2), np.uint64),
        np.empty(count, np.int32),
        np.empty(count, np.int64),
    )


def _copy(source: Rows, target: Rows, at: int) -> None:
    end = at + len(source)
    target.values[at:end] = source.values
    target.lengths[at:end] = source.lengths
    target.owners[at:end] = source.owners
    target.parts[at:end] = source.parts
    target.seqs[at:end] = source.seqs


def _are_among(rows: Rows, owners: Words, parts: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Say for each row whether its (owner, part) is in a list that names each pair once."""
    high = np.concatenate([rows.owners[:, 0], owners[:, 0]])
    low = np.concatenate([rows.owners[:, 1], owners[:, 1]])
    part = np.concatenate([rows.parts, parts])
    order = np.lexsort((part, low, high))
    high, low, part = high[order], low[order], part[order]
    same = (high[1:] == high[:-1]) & (low[1:] == low[:-1]) & (part[1:] == part[:-1])
    found = np.zeros(len(order), dtype=np.bool_)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found[: len(rows)]
