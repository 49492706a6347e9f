"""What filters ask of the rows of a space, answered in process: a column for each path that is asked for.

Not here: how a column answers one condition (`encoded`), which rows a snapshot sees, and where payloads come from. The meaning is
the one of `contracts/filters`. Pure: no database, no locks.

Rule 1: a path gets its column when a filter names it (`needs`, then `hold`), and loses it when others have been used since, beyond
`PATHS_MAX` columns or `HELD_MAX_BYTES`.
Rule 2: all columns have the same rows. A payload that cannot be read changes none of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmspell.clock import to_microseconds
from llmspell.errors import CorruptStore
from llmspell.storage.contracts.filters import CONDITIONS_MAX, And, Compare, Fields, Node, Or, comparisons
from llmspell.storage.index.encoded import ABSENT, Encoded, Instants

Path: TypeAlias = tuple[str, ...]

PATHS_MAX: Final = CONDITIONS_MAX
"""Columns of a space: as many as one filter can name."""
HELD_MAX_BYTES: Final = 64 * 1024 * 1024
"""What the columns of a space may take before those that were not used lately go. Those of one filter stay, whatever they take."""
DECODED_AT_ONCE: Final = 4_096
"""Payloads decoded before their values are encoded, so that a load of any length takes little memory."""
_BUILT_IN: Final = ""
"""What paths of built-in fields begin with: no part of a path inside metadata is empty."""
_FIELDS: Final = {"scope": "text", "created_at": "time", "updated_at": "time"}
"""The built-in fields of a payload, and their kinds."""
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, TypeError, RecursionError)
"""What decoders raise at a text that nobody stored."""


class Payload(NamedTuple):
    """What filters can ask of a row: built-in fields (instants may be microseconds since 1970), and metadata as JSON text."""

    scope: str
    created_at: datetime | int
    updated_at: datetime | int
    metadata: bytes | str


class Columns:
    """What filters ask of the rows of a space, by position. Not safe to share between threads without a lock."""

    def __init__(self, fields: Fields, *, held_max_bytes: int = HELD_MAX_BYTES) -> None:
        """`fields`: the built-in fields, texts and instants that `Payload` has.

        Raises:
            ValueError: a field is another one.
        """
        kinds = {name: field.kind for name, field in fields.by_name.items()}
        strangers = sorted(name for name, kind in kinds.items() if _FIELDS.get(name) != kind)
        if strangers:
            raise ValueError(f"a payload has no such field: {', '.join(strangers)}")
        self._fields = fields
        self._held_max_bytes = held_max_bytes
        self._count = 0
        self._held: OrderedDict[Path, Encoded | Instants] = OrderedDict()
        """By path, the one that was used last at the end."""
        self._read = _Reader(())

    def __len__(self) -> int:
        return self._count

    @property
    def held(self) -> list[Path]:
        """The paths that have a column, the one that was used last at the end."""
        return list(self._held)

    @property
    def size_bytes(self) -> int:
        """What all columns take, about."""
        return sum(column.size_bytes for column in self._held.values())

    def needs(self, node: Node) -> frozenset[Path]:
        """Return the paths that a filter names and that have no column yet; `hold` takes them as they are.

        Makes room for them, and keeps the other columns of the filter. So between this, `hold` and the answer no other filter may
        be asked about; else ask again.
        """
        named = self._named(node)
        missing = frozenset(path for path in named if path not in self._held)
        if missing:
            self._forget(PATHS_MAX - len(missing), keep=named)
        return missing

    def has(self, node: Node) -> bool:
        """Say whether every path that a filter names has a column. None is dropped or loaded."""
        return all(path in self._held for path in self._named(node))

    def hold(self, paths: Iterable[Path], payloads: Iterable[Payload]) -> None:
        """Make columns for paths, from the payloads of all positions in their order. Paths that have one are left as they are.

        Raises:
            ValueError: there are not as many payloads as rows. The first load of all decides how many rows there are.
            CorruptStore: a payload is not what was stored.
        """
        new: dict[Path, Encoded | Instants] = {path: _column(path) for path in paths if path not in self._held}
        if not new:
            return
        count = 0
        read = _Reader(tuple(new))
        for some in _portions(payloads):
            for column, values in zip(new.values(), read(some, count), strict=True):
                column.extend(values, settle=False)
            count += len(some)
        if count != self._count and (self._count or self._held):
            raise ValueError(f"there are {self._count:,} rows; got {count:,} payloads")
        for column in new.values():
            column.settle()
        self._count = count
        self._held.update(new)
        self._forget(PATHS_MAX, keep=new, size=False)
        self._read = _Reader(tuple(self._held))

    def append(self, payloads: Iterable[Payload]) -> None:
        """Add rows behind the last one, in those columns that there are.

        Raises:
            CorruptStore: a payload is not what was stored; no row is added.
        """
        added = list(payloads)
        columns = self._read(added, self._count)
        for column, values in zip(self._ordered(), columns, strict=True):
            column.extend(values)
        self._count += len(added)

    def replace(self, position: int, payload: Payload) -> None:
        """Give a row another payload.

        Raises:
            IndexError: there is no such row.
            CorruptStore: the payload is not what was stored; the row is as it was.
        """
        if not 0 <= position < self._count:
            raise IndexError(f"there are {self._count:,} rows; got position {position:,}")
        columns = self._read([payload], position)
        for column, values in zip(self._ordered(), columns, strict=True):
            column.replace(position, values[0])

    def keep(self, positions: NDArray[np.intp]) -> Columns:
        """Return the same columns over some rows, numbered anew in the order given."""
        kept = Columns(self._fields, held_max_bytes=self._held_max_bytes)
        kept._count = len(positions)
        kept._held = OrderedDict((path, column.keep(positions)) for path, column in self._held.items())
        kept._read = _Reader(tuple(kept._held))
        return kept

    def matching(self, node: Node, count: int) -> NDArray[np.bool_]:
        """Say which of the first `count` rows a filter accepts. The mask is the caller's own.

        Raises:
            LookupError: the filter names a path without a column; ask `needs` before.
            ValueError: there are fewer rows.
        """
        if not 0 <= count <= self._count:
            raise ValueError(f"there are {self._count:,} rows; asked for {count:,}")
        for path in self._named(node):
            if path not in self._held:
                raise LookupError(f"no column is held for {'.'.join(path)}")
        return self._mask(node, count)

    def positions(self, node: Node, count: int) -> NDArray[np.intp]:
        """Return the positions below `count` that a filter accepts, ascending. Raises what `matching` raises."""
        return np.flatnonzero(self.matching(node, count))

    def _mask(self, node: Node, count: int) -> NDArray[np.bool_]:
        if isinstance(node, Compare):
            return self._held[_path(node)].matching(node.operator, _operand(node), count)
        if isinstance(node, (And, Or)):
            first, *others = node.parts
            found = self._mask(first, count)
            for part in others:
                if isinstance(node, And):
                    found &= self._mask(part, count)
                else:
                    found |= self._mask(part, count)
            return found
        found = ~self._mask(node.part, count)
        for path in dict.fromkeys(map(_path, comparisons(node.part))):
            found &= self._held[path].present(count)
        return found

    def _named(self, node: Node) -> dict[Path, None]:
        """Return the paths that a filter names, and note that they are used."""
        named = dict.fromkeys(map(_path, comparisons(node)))
        for path in named:
            if path in self._held:
                self._held.move_to_end(path)
        return named

    def _forget(self, most: int, *, keep: Collection[Path], size: bool = True) -> None:
        """Drop columns that were not used for longest, until at most `most` are left (and they take what they may)."""
        for path in [path for path in self._held if path not in keep]:
            if len(self._held) <= most and not (size and self.size_bytes > self._held_max_bytes):
                return
            del self._held[path]
            self._read = _Reader(tuple(self._held))

    def _ordered(self) -> list[Encoded | Instants]:
        """The columns in the order in which `_read` returns their values."""
        return [self._held[path] for path in self._read.paths]


class _Reader:
    """Takes the values of some paths out of payloads; of metadata it decodes only the keys that the paths begin with."""

    def __init__(self, paths: Collection[Path]) -> None:
        self.paths = tuple(paths)
        heads = {path[0]: f"_{number}" for number, path in enumerate(self.paths) if path[0] != _BUILT_IN}
        self._decode: Callable[[bytes | str], Any] | None = None
        self._head: dict[str, Callable[[Any], Any]] = {}
        if any(min(head) < " " for head in heads):  # names of a Struct have no control characters
            self._decode = msgspec.json.Decoder(dict[str, Any]).decode
            self._head = {head: _member(head) for head in heads}
        elif heads:
            fields = [(name, Any | msgspec.UnsetType, ABSENT) for name in heads.values()]
            names = {name: head for head, name in heads.items()}
            row = msgspec.defstruct("Row", fields, rename=names, gc=False)
            self._decode = msgspec.json.Decoder(row).decode
            self._head = {head: attrgetter(name) for head, name in heads.items()}

    def __call__(self, payloads: Sequence[Payload], first: int) -> list[list[Any]]:
        """Return the values of each path, one for each payload. `first`: the position of the first one, for an error."""
        rows = self._decoded(payloads, first)
        return [
            _built_in(path[1], payloads) if path[0] == _BUILT_IN else self._inside(path, rows) for path in self.paths
        ]

    def _decoded(self, payloads: Sequence[Payload], first: int) -> list[Any]:
        rows: list[Any] = []
        if self._decode is None:
            return rows
        try:
            rows.extend(map(self._decode, (payload.metadata for payload in payloads)))
        except _UNREADABLE as exc:
            raise CorruptStore("The metadata of a row is damaged.", position=first + len(rows)) from exc
        return rows

    def _inside(self, path: Path, rows: list[Any]) -> list[Any]:
        values = list(map(self._head[path[0]], rows))
        for segment in path[1:]:
            values = [value.get(segment, ABSENT) if type(value) is dict else ABSENT for value in values]
        return values


def _member(name: str) -> Callable[[Any], Any]:
    return lambda row: row.get(name, ABSENT)


def _built_in(name: str, payloads: Sequence[Payload]) -> list[Any]:
    values = list(map(attrgetter(name), payloads))
    return list(map(_microseconds, values)) if _FIELDS[name] == "time" else values


def _microseconds(instant: datetime | int) -> int:
    return instant if isinstance(instant, int) else to_microseconds(instant)


def _path(compare: Compare) -> Path:
    return compare.path if compare.field is None else (_BUILT_IN, *compare.path)


def _operand(compare: Compare) -> Any:
    if compare.field is None or compare.field.kind != "time":
        return compare.operand
    if compare.operator in ("$in", "$nin"):
        return [None if member is None else to_microseconds(member) for member in compare.operand]
    return to_microseconds(compare.operand) if isinstance(compare.operand, datetime) else compare.operand


def _column(path: Path) -> Encoded | Instants:
    return Instants() if path[0] == _BUILT_IN and _FIELDS[path[1]] == "time" else Encoded()


def _portions(payloads: Iterable[Payload]) -> Iterator[list[Payload]]:
    left = iter(payloads)
    while some := list(islice(left, DECODED_AT_ONCE)):
        yield some
