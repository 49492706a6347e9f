"""One space in memory: caught up from the rows of a database inside the snapshot of each search, by its change numbers.

Insertions append, removals are noted with the change that made them, so any snapshot that is not older than the oldest row kept is
answered as it sees the space. A space holds nothing that the database does not: it may be lost at any time.

Rule 1: a space is only as new as the newest snapshot it was filled from; an older snapshot is served what it may see, or nothing.
Rule 2: should reading fail half-way, the next search starts anew.
Rule 3: whoever touches a space holds its lock; a view needs none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index.blocks import ALIVE, Block, Finder, Positions, Words, joined
from llmspell.storage.index.exact import Rows, owner_words, part_numbers

if TYPE_CHECKING:
    from llmspell.storage.contracts.filters import Node
    from llmspell.storage.index.columns import Columns, Payload
    from llmspell.storage.index.graph import Graph
    from llmspell.storage.index.recall import Recall


DEAD_KEPT: Final = 1_024
"""Rows that are gone and may be kept where no build drops them; beyond, they must not outnumber the others."""
TRIED_AGAIN: Final = 64
"""Changes after which a space that did not fit into memory is tried again: rows may have gone."""


class Heavy(Exception):
    """A search that was to take little would take more."""


class Version(NamedTuple):
    """How far a snapshot sees: the last change of a space, the last one that took something away or rewrote metadata, and the one
    after which all of those are in the log."""

    change: int
    deletion: int
    logged_from: int


class Changes(NamedTuple):
    """What was taken away, and whose metadata were rewritten, each with its owner, part and change."""

    owners: Words
    parts: NDArray[np.int32]
    seqs: NDArray[np.int64]
    removed: NDArray[np.bool_]


def changes_of(rows: Sequence[tuple[bytes, int, int, int]]) -> Changes:
    """Return a log that was read as (owner, part, change, removed)."""
    owners, parts, seqs, removed = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Changes(owner_words(owners), part_numbers(parts), np.asarray(seqs, np.int64), np.asarray(removed, np.bool_))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a space is read, inside one snapshot."""

    dimension: int
    version: Version
    token: str | None
    """That of the newest index file, which the database knows."""
    pages: Callable[[int], Iterator[Rows]]
    """Rows of changes after the given one, in order, in pages."""
    present: Callable[[], tuple[Words, NDArray[np.int32]]]
    """Owners and parts of all rows."""
    changes: Callable[[int], Changes]
    """The log after a change."""
    payloads: Callable[[int], Iterable[Payload]]
    """What filters ask of the rows of changes after the given one, in the order of `pages`."""
    payload: Callable[[Words, NDArray[np.int32]], Iterable[Payload | None]]
    """The same of some rows, in the order given."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A graph over all rows of the first block, and what was measured of it."""

    graph: Graph
    recall: Recall
    m: int
    ef_construction: int
    built_at: datetime
    file_bytes: int | None = None


class View:
    """The rows of a space as one snapshot sees them: those of `base`, then those of `tail`. Only what is cached changes."""

    def __init__(
        self, base: Block, tail: Block, change: int, *, dead: bool, indexed: Indexed | None, windows: int
    ) -> None:
        """`tail` has just the rows that count. `dead`: some rows may be gone. `windows`: the most rows an owner may have."""
        self.base = base
        self.tail = tail
        self.change = change
        self.dead = dead
        self.indexed = indexed
        self.windows = windows

    def __len__(self) -> int:
        return len(self.base) + len(self.tail)

    @cached_property
    def alive(self) -> NDArray[np.bool_] | None:
        """Which rows are there; None when all are."""
        if not self.dead:
            return None
        there: NDArray[np.bool_] = np.concatenate((self.base.died, self.tail.died)) > self.change
        return None if there.all() else there

    @cached_property
    def count(self) -> int:
        """How many rows are there."""
        return len(self) if self.alive is None else int(np.count_nonzero(self.alive))

    def owners(self, positions: Positions) -> Words:
        return _gathered(self.base.owners, self.tail.owners, positions)

    def parts(self, positions: Positions) -> NDArray[np.int32]:
        return _gathered(self.base.parts, self.tail.parts, positions)

    def places(self, positions: Positions) -> NDArray[np.int64]:
        return _gathered(self.base.places, self.tail.places, positions)

    def halves(self, positions: Positions) -> NDArray[np.float16]:
        return _gathered(self.base.halves, self.tail.halves, positions)

    def off(self, positions: Positions) -> float:
        """Return by how much the halves of some rows are off at most."""
        return float(_gathered(self.base.off, self.tail.off, positions).max(initial=0.0))

    def there(self, positions: Positions) -> Positions:
        """Return those of the positions whose row is there."""
        return positions if self.alive is None else positions[self.alive[positions]]


def _gathered(base: NDArray[np.generic], tail: NDArray[np.generic], positions: Positions) -> NDArray:  # type: ignore[type-arg]
    if not len(tail) or not len(positions):
        return base[positions]
    if not len(base):
        return tail[positions]
    behind = positions >= len(base)
    if not behind.any():
        return base[positions]
    found = np.empty((len(positions), *base.shape[1:]), base.dtype)
    found[~behind] = base[positions[~behind]]
    found[behind] = tail[positions[behind] - len(base)]
    return found


class Space:
    """See the module. `base` is what a graph covers, when there is one."""

    def __init__(self, dimension: int) -> None:
        self.lock = threading.Lock()
        self.dimension = dimension
        self.version: Version | None = None
        self.considered: Version | None = None
        """Of which version it is known that nothing is to be built."""
        self.floor = -1
        """Snapshots before this change cannot be served: rows that they see may have been dropped."""
        self.columns: Columns | None = None
        self.indexed: Indexed | None = None
        self._too_large = (-1, 0)
        """Until this change it is not tried again within this limit: what was read would be thrown away."""
        self.epoch = 0
        """Changes whenever positions begin to mean other rows."""
        self._forget()

    def _forget(self) -> None:
        self.epoch += 1
        self._base = Block.empty(self.dimension)
        self._tail = Block.empty(self.dimension)
        self._used = 0
        self._windows = 1
        self._dead = 0
        self._finders: tuple[Finder, Finder, int] | None = None
        self._view: View | None = None
        self.indexed = self.columns = self.version = None
        self.floor = -1

    @property
    def size_bytes(self) -> int:
        graph = self.indexed.graph.size_bytes if self.indexed is not None else 0
        columns = self.columns.size_bytes if self.columns is not None else 0
        return (len(self._base) + len(self._tail)) * self._base.row_bytes + graph + columns

    @property
    def rows(self) -> int:
        return len(self._base) + self._used

    @property
    def unindexed(self) -> int:
        return self._used if self.indexed is not None else self.rows

    @property
    def dead_indexed(self) -> int:
        """Rows of the graph that are gone."""
        return int(np.count_nonzero(self._base.died != ALIVE)) if self.indexed is not None else 0

    @property
    def dead(self) -> int:
        """Rows that are gone and still kept."""
        return self._dead

    def is_current(self, source: Source) -> bool:
        """Say whether a view for this snapshot needs no reading."""
        return self.version is not None and source.version.change <= self.version.change

    def view(self, source: Source, max_bytes: int) -> View | None:
        """Return the rows that the source's snapshot sees; None when the space is ahead of it and cannot go back, or too large."""
        wanted, known = source.version, self.version
        if wanted.change < self._too_large[0] and max_bytes <= self._too_large[1]:
            return None
        if known is None:
            self._forget()
        elif wanted.change < known.change:
            return self._older(wanted.change)
        if (known is None or wanted.change > known.change) and not self._caught_up(source, max_bytes):
            return None
        if self._view is None:
            self._view = self._seen(wanted.change, self._used)
        return self._view

    def _seen(self, change: int, used: int) -> View:
        return View(
            self._base, self._tail.upto(used), change, dead=self._dead > 0, indexed=self.indexed, windows=self._windows
        )

    def _older(self, change: int) -> View | None:
        if change < self.floor:
            return None
        if len(self._base) and change < int(self._base.seqs[-1]):  # it sees less than the graph holds
            base = self._base.upto(int(np.searchsorted(self._base.seqs, change, "right")))
            return View(
                base, Block.empty(self.dimension), change, dead=self._dead > 0, indexed=None, windows=self._windows
            )
        return self._seen(change, int(np.searchsorted(self._tail.seqs[: self._used], change, "right")))

    def _caught_up(self, source: Source, max_bytes: int) -> bool:
        known, wanted = self.version, source.version
        after = known.change if known is not None else -1
        self.version = self._view = None
        if known is None:
            self.floor = wanted.deletion  # what went before is not among the rows, and older snapshots may see it
        elif wanted.deletion > known.change:
            if known.change >= wanted.logged_from:
                self._apply(source, source.changes(after))
            else:
                self._drop_missing(source, after)
        first = self.rows
        for page in source.pages(after):
            self._append(page)
            if self.size_bytes > max_bytes:
                self._forget()
                self._too_large = (wanted.change + TRIED_AGAIN, max_bytes)
                return False
        if self.columns is not None and not len(self.columns):
            self.columns = None
        if self.columns is not None and self.rows > first:
            self.columns.append(source.payloads(after))
            if len(self.columns) != self.rows:
                self.columns = None
        self.version = wanted
        if self.indexed is None and self._dead > max(DEAD_KEPT, self.rows - self._dead):
            self._compact()
        return True

    def _compact(self) -> None:
        """Drop the rows that are gone. With a graph, a build does that."""
        whole = joined(self._base, self._tail.upto(self._used))
        kept = np.flatnonzero(whole.died == ALIVE)
        self.floor = max(self.floor, self.version.change if self.version is not None else 0)
        if self.columns is not None:
            self.columns = self.columns.keep(kept)
        self.epoch += 1
        self._base, self._tail, self._used, self._dead = Block.empty(self.dimension), whole.at(kept), len(kept), 0
        self._finders = self._view = None

    def shrink(self) -> None:
        """Let a graph go whose space has become small."""
        self.indexed = None
        self._compact()

    def _append(self, page: Rows) -> None:
        self._tail = self._tail.and_then(Block.of(page), self._used)
        self._used += len(page)
        if len(page):
            self._windows = max(self._windows, int(page.parts.max()) + 1)

    def _apply(self, source: Source, changes: Changes) -> None:
        """Note what the log says. One that was replaced is removed here, and its new row comes later."""
        positions, which = self._find(changes.owners)
        same = (self._part(positions) == changes.parts[which]) & (self._seq(positions) < changes.seqs[which])
        positions, which = positions[same], which[same]
        removed = changes.removed[which]
        self._bury(positions[removed], changes.seqs[which[removed]])
        if len(np.unique(positions[removed])) < np.count_nonzero(changes.removed):
            # Some rows came and went since: they are seen by snapshots in between, and were never read.
            self.floor = max(self.floor, source.version.deletion)
        if self.columns is not None and not removed.all():
            rewritten = np.unique(positions[~removed])
            owners, parts = self._owner(rewritten), self._part(rewritten)
            for position, payload in zip(rewritten, source.payload(owners, parts), strict=True):
                if payload is not None:
                    self.columns.replace(int(position), payload)

    def _drop_missing(self, source: Source, after: int) -> None:
        """Without a log: keep the rows that are still there by name, and were not replaced. When the others went is not known."""
        owners, parts = source.present()
        there = self._named(owners, parts)
        for page in source.pages(after):
            there &= ~self._named(page.owners, page.parts)
        gone = np.flatnonzero(~there & (np.concatenate((self._base.died, self._tail.died[: self._used])) == ALIVE))
        self._bury(gone, np.full(len(gone), source.version.change))
        self.floor = source.version.change
        self.columns = None

    def _bury(self, positions: Positions, seqs: NDArray[np.int64]) -> None:
        for died, chosen in (
            (self._base.died, positions < len(self._base)),
            (self._tail.died, positions >= len(self._base)),
        ):
            at = positions[chosen] - (0 if died is self._base.died else len(self._base))
            self._dead += len(np.unique(at[died[at] == ALIVE]))
            np.minimum.at(
                died, at, seqs[chosen]
            )  # a row goes once; what is said later is of one that came in its place

    def _named(self, owners: Words, parts: NDArray[np.int32]) -> NDArray[np.bool_]:
        named = np.zeros(self.rows, np.bool_)
        positions, which = self._find(owners)
        named[positions[self._part(positions) == parts[which]]] = True
        return named

    def _find(self, owners: Words) -> tuple[Positions, Positions]:
        """Return where the rows of owners are, there or not, and whose each is."""
        known = self._finders
        if known is None or known[2] != self._used:
            base = known[0] if known is not None else Finder(self._base.owners)
            self._finders = known = (base, Finder(self._tail.owners[: self._used].copy()), self._used)
        first, whose = known[0].positions(owners)
        second, also = known[1].positions(owners)
        return np.concatenate((first, second + len(self._base))), np.concatenate((whose, also))

    def _owner(self, positions: Positions) -> Words:
        return _gathered(self._base.owners, self._tail.owners, positions)

    def _part(self, positions: Positions) -> NDArray[np.int32]:
        return _gathered(self._base.parts, self._tail.parts, positions)

    def _seq(self, positions: Positions) -> NDArray[np.int64]:
        return _gathered(self._base.seqs, self._tail.seqs, positions)

    # --- who counts ---------------------------------------------------------------------------------------------------

    def positions(self, owners: Words) -> Positions:
        """Return where the rows of `owners` (each named once) are, there or not, ascending."""
        return np.sort(self._find(owners)[0])

    def positions_but(self, owners: Words) -> Positions:
        """Return where all other rows are, there or not, ascending."""
        return np.setdiff1d(np.arange(self.rows), self._find(owners)[0])

    def matching(self, node: Node, source: Source, make: Callable[[], Columns]) -> Positions | None:
        """Return positions of the rows that a filter accepts, there or not; None when that cannot be said for this snapshot."""
        if self.version is None or self.version.change != source.version.change:
            return None
        columns = self.columns or make()
        missing = columns.needs(node)
        if missing:
            alive = np.concatenate((self._base.died, self._tail.died[: self._used])) == ALIVE
            if not alive.any():
                return np.empty(0, np.intp)
            try:
                columns.hold(missing, _spread(source.payloads(-1), alive))
            except Unequal:
                return None
        self.columns = columns
        return columns.positions(node, self.rows)

    def holds(self, node: Node) -> bool:
        """Say whether a filter can be answered without reading rows."""
        return self.columns is not None and self.columns.has(node)

    # --- the graph ----------------------------------------------------------------------------------------------------

    def install(self, base: Block, indexed: Indexed, taken: int, kept: Positions | None) -> None:
        """Take in a graph over `base`, made of the first `taken` rows, of which `kept` were kept (None: all).

        What has died meanwhile is carried over; the rows behind stay the tail.
        """
        died = np.concatenate((self._base.died, self._tail.died[: self._used]))
        base.died[:] = died[:taken] if kept is None else died[kept]
        behind = self.rows - taken
        tail = self._rows_behind(taken)
        if kept is not None:
            self.floor = max(self.floor, self.version.change if self.version is not None else 0)
            if self.columns is not None:
                self.columns = self.columns.keep(
                    np.concatenate((kept, np.arange(taken, taken + behind, dtype=np.intp)))
                )
        self.epoch += 1
        self._base, self._tail, self._used, self.indexed = base, tail, behind, indexed
        self._dead = int(np.count_nonzero(base.died != ALIVE)) + int(np.count_nonzero(tail.died != ALIVE))
        self._finders = self._view = None

    def _rows_behind(self, taken: int) -> Block:
        if taken >= len(self._base):
            return self._tail.upto(self._used).beyond(taken - len(self._base))
        return joined(self._base.beyond(taken), self._tail.upto(self._used))

    def restore(self, base: Block, indexed: Indexed, version: Version) -> None:
        """Begin with what a file held: the rows of all changes up to `version`."""
        self._forget()
        self._base, self.indexed, self.version = base, indexed, version
        self.floor = version.change
        self._dead = int(np.count_nonzero(base.died != ALIVE))
        self._windows = int(base.parts.max()) + 1 if len(base) else 1


class Unequal(Exception):
    """There are not as many payloads as rows."""


def _spread(payloads: Iterable[Payload], alive: NDArray[np.bool_]) -> Iterator[Payload]:
    """Yield a payload for each position; a row that is gone gets that of another one, and is stepped over by whoever asks."""
    each = iter(payloads)
    last = first = next(each, None)
    if first is None:
        raise Unequal
    waiting = True  # the first one was taken, and not given
    for there in alive.tolist():
        if there and not waiting:
            last = next(each, None)
            if last is None:
                raise Unequal
        waiting = waiting and not there
        yield last or first
    if next(each, None) is not None:
        raise Unequal
