"""One column of a space: the values of one path in a form that a condition is answered from by comparing small integers.

`Encoded` is for values of any JSON type: each row has a code, and each distinct value is kept once. Numbers and texts have their
rank among the sorted values as code, so a range of values is a range of codes. `Instants` is for instants that every row has.

Not here: what a filter is made of (`columns`). Pure: no database, no locks.

Rule 1: equal means equal as filters say it: 1 is 1.0 and not true, 2^53 + 1 is not 2.0^53, lists go by order and objects do not.
Rule 2: a row whose key is missing has the code -1, and no condition but `$exists: false` holds for it.
Rule 3: values that no row has any more are forgotten: what is kept for values is bounded by the rows, not by
how often they changed.
"""

from __future__ import annotations

import operator
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmspell.codec import INT64
from llmspell.storage.contracts.filters import Operator

Codes: TypeAlias = "NDArray[np.int32]"
Mask: TypeAlias = "NDArray[np.bool_]"
Positions: TypeAlias = "NDArray[np.intp]"
Value: TypeAlias = "float | str"  # a number or a text: what has an order

ABSENT: Final = msgspec.UNSET
"""What stands for the value of a row whose key is missing."""
UNSORTED_MAX: Final = 2_048
"""Values outside of the sorted ones that a range looks at one by one (0.2 ms, measured); with more, it sorts them in first."""
UNSORTED_SHARE: Final = 4
"""Writing sorts new values in when they are more than a fourth of the sorted ones, so that each is moved a few times only."""
COMPARED_MAX: Final = 6
"""Codes that are compared with a column one after the other; more of them are looked up in a table (as fast at 6, measured)."""
_ABSENT: Final = -1
_FIRST_OTHER: Final = -2
_SPARE: Final = 1.25
_ENTRY_BYTES: Final = 104
"""What an entry of a dictionary takes beside its key: its place in the table at the usual load, and the number it leads to."""
_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Members whose JSON is the same for all equal values."""
_NULL, _TRUE, _FALSE = ("null",), ("true",), ("false",)
_ORDERINGS: Final[dict[Operator, Callable[[Any, Any], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_COMPARISONS: Final[dict[Operator, Callable[[Any, Any], Any]]] = {"$eq": operator.eq, "$ne": operator.ne, **_ORDERINGS}


def key_of(value: Any) -> Hashable:
    """Return what stands for a JSON value in a dictionary: two keys are equal exactly when a filter calls the values equal.

    Numbers and texts stand for themselves; Python compares integers and floats exactly, and hashes them alike. Lists and objects
    are canonical JSON, one object of Python instead of one for each member.
    """
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, (str, int, float)):
        return value
    if value is None:
        return _NULL
    if not (type(value) is list and _PLAIN.issuperset(map(type, value))):
        value = _canonical(value)
    return msgspec.json.encode(value, order="sorted")


def _canonical(value: Any) -> Any:
    """Return an equal value whose JSON is the same for all equal values: a float is an integer where it may equal one."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and int(value) in INT64 else value
    if isinstance(value, Mapping):
        return {name: _canonical(inner) for name, inner in value.items()}
    return list(map(_canonical, value)) if isinstance(value, (list, tuple)) else value


class Encoded:
    """A dictionary-encoded column. Codes from 0 on are ranks, then numbers of unsorted values; those from -2 down have no order."""

    def __init__(self) -> None:
        self._rows = _Growing(np.dtype(np.int32))
        self._numbers: Sequence[float] = array("q")
        self._texts: list[str] = []
        self._unsorted: dict[Value, int] = {}
        self._others: dict[Hashable, int] = {}
        self._holders: dict[Hashable, array[int]] = {}
        """The codes of the lists that have a member, for the first `_lists` of the others."""
        self._lists = 0
        self._ranked = 0
        self._settled = 0
        self._settled_others = 0
        self._value_bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """What the column takes: 4 bytes a row, and its distinct values."""
        held = sum(members.buffer_info()[1] * members.itemsize + _ENTRY_BYTES for members in self._holders.values())
        return self._rows.size_bytes + self._value_bytes + held

    def extend(self, values: Sequence[Any], *, settle: bool = True) -> None:
        """Add rows behind the last one. Without `settle` nothing is sorted: for pieces of one load, until `settle` is called."""
        self._rows.extend(list(map(self._code_for, values)))
        if settle:
            self._settle_if_due()

    def replace(self, position: int, value: Any) -> None:
        """Give a row another value."""
        self._rows.used[position] = self._code_for(value)
        self._settle_if_due()

    def keep(self, positions: Positions) -> Encoded:
        """Return a column of some rows, in the order given."""
        kept = Encoded()
        kept._rows.extend(self._rows.used[positions])
        # Shared for a moment: settling puts others in their place, and changes none of them.
        kept._numbers, kept._texts, kept._ranked = self._numbers, self._texts, self._ranked
        kept._unsorted, kept._others = self._unsorted, self._others
        kept.settle()
        return kept

    def present(self, count: int) -> Mask:
        """Say which of the first `count` rows have the key."""
        found: Mask = self._rows.used[:count] != _ABSENT
        return found

    def matching(self, operator: Operator, operand: Any, count: int) -> Mask:
        """Say for which of the first `count` rows a condition holds."""
        if operator == "$exists":
            return self.present(count) if operand else ~self.present(count)
        if operator == "$eq":
            return self._among([self._known(operand)], count)
        if operator == "$in":
            return self._among([self._known(member) for member in operand], count)
        if operator == "$ne":
            return self.present(count) & ~self._among([self._known(operand)], count)
        if operator == "$nin":
            return self.present(count) & ~self._among([self._known(member) for member in operand], count)
        if operator == "$contains":
            return self._holding(operand, count)
        return self._ordered(operator, operand, count)

    def settle(self) -> None:
        """Sort the new values in, forget those that no row has, and give the rows their new codes."""
        codes = self._rows.used
        ranked, others = self._ranked + len(self._unsorted), len(self._others)
        used = np.zeros(ranked + others + 1, np.bool_)  # a negative code counts from the end, here and below
        used[codes] = True
        moved = np.full(len(used), _ABSENT, np.int32)
        old: list[Any] = [*self._numbers, *self._texts, *self._unsorted]
        left = used[:ranked].nonzero()[0].tolist()
        numbers, self._numbers = _sorted_numbers([at for at in left if type(old[at]) is not str], old)
        texts = sorted([at for at in left if type(old[at]) is str], key=old.__getitem__)
        self._texts = [old[at] for at in texts]
        moved[np.array([*numbers, *texts], np.intp)] = np.arange(len(left), dtype=np.int32)
        self._unsorted, self._ranked = {}, len(left)
        kept = [(key, code) for key, code in self._others.items() if used[code]]
        self._others = {key: _FIRST_OTHER - number for number, (key, _) in enumerate(kept)}
        moved[np.array([code for _, code in kept], np.intp)] = list(self._others.values())
        self._holders, self._lists = {}, 0
        codes[:] = moved[codes]
        self._settled, self._settled_others = len(left) + len(kept), len(kept)
        self._value_bytes = _bytes_of(self._numbers) + sum(map(sys.getsizeof, self._texts)) + 8 * len(self._texts)
        self._value_bytes += sum(map(sys.getsizeof, self._others)) + _ENTRY_BYTES * len(self._others)

    def _settle_if_due(self) -> None:
        new = len(self._unsorted) + len(self._others) - self._settled_others
        if new > max(UNSORTED_MAX, self._settled // UNSORTED_SHARE):
            self.settle()

    def _code_for(self, value: Any) -> int:
        """Return the code of a value, which gets one when it is new."""
        if value is ABSENT:
            return _ABSENT
        kind = type(value)
        if kind is str or kind is int or kind is float:
            code = self._unsorted.get(value)
            if code is None and self._ranked:
                code = self._rank(value)
            if code is None:
                code = self._unsorted[value] = self._ranked + len(self._unsorted)
                self._value_bytes += sys.getsizeof(value) + _ENTRY_BYTES
            return code
        key = key_of(value)
        code = self._others.get(key)
        if code is None:
            code = self._others[key] = _FIRST_OTHER - len(self._others)
            self._value_bytes += sys.getsizeof(key) + _ENTRY_BYTES
        return code

    def _known(self, value: Any) -> int | None:
        """Return the code of a value, or None when no row has it."""
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            code = self._unsorted.get(value)
            return self._rank(value) if code is None else code
        return self._others.get(key_of(value))

    def _rank(self, value: Value) -> int | None:
        if isinstance(value, str):
            at, before = bisect_left(self._texts, value), len(self._numbers)
            return before + at if at < len(self._texts) and self._texts[at] == value else None
        at = bisect_left(self._numbers, value)
        return at if at < len(self._numbers) and self._numbers[at] == value else None

    def _among(self, wanted: Sequence[int | None], count: int) -> Mask:
        rows = self._rows.used[:count]
        known = [code for code in wanted if code is not None]
        if len(known) > COMPARED_MAX:
            return self._looked_up(known, count)
        found = rows == known[0] if known else np.zeros(count, np.bool_)
        for code in known[1:]:
            found |= rows == code
        return found

    def _looked_up(self, known: Sequence[int] | Codes, count: int) -> Mask:
        table = np.zeros(self._ranked + len(self._unsorted) + len(self._others) + 1, np.bool_)
        table[known] = True
        return table.take(self._rows.used[:count])

    def _ordered(self, operator: Operator, operand: Value, count: int) -> Mask:
        if len(self._unsorted) > UNSORTED_MAX:
            self.settle()
        text = isinstance(operand, str)
        values: Sequence[Any] = self._texts if text else self._numbers
        first = len(self._numbers) if text else 0
        cut = first + (bisect_left if operator in ("$gte", "$lt") else bisect_right)(values, operand)
        low, high = (cut, first + len(values)) if operator in ("$gt", "$gte") else (first, cut)
        rows = self._rows.used[:count]
        found = (rows >= low) & (rows < high)
        holds = _ORDERINGS[operator]
        alike = [
            code for value, code in self._unsorted.items() if isinstance(value, str) is text and holds(value, operand)
        ]
        return found | self._among(alike, count) if alike else found

    def _holding(self, member: Any, count: int) -> Mask:
        if self._lists < len(self._others):
            for key, code in islice(self._others.items(), self._lists, None):
                if isinstance(key, bytes) and key.startswith(b"["):
                    for one in set(map(key_of, msgspec.json.decode(key))):
                        self._holders.setdefault(one, array("i")).append(code)
            self._lists = len(self._others)
        holders = self._holders.get(key_of(member))
        if holders is None:
            return np.zeros(count, np.bool_)
        return self._looked_up(np.array(holders, np.int32), count)


class Instants:
    """A column of instants, in microseconds since 1970, one for every row."""

    def __init__(self) -> None:
        self._rows = _Growing(np.dtype(np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """What the column takes: 8 bytes a row."""
        return self._rows.size_bytes

    def extend(self, values: Sequence[int], *, settle: bool = True) -> None:
        """Add rows behind the last one."""
        self._rows.extend(values)

    def settle(self) -> None:
        """Nothing waits to be sorted here."""

    def replace(self, position: int, value: int) -> None:
        """Give a row another instant."""
        self._rows.used[position] = value

    def keep(self, positions: Positions) -> Instants:
        """Return a column of some rows, in the order given."""
        kept = Instants()
        kept._rows.extend(self._rows.used[positions])
        return kept

    def present(self, count: int) -> Mask:
        """Every row has an instant."""
        return np.ones(count, np.bool_)

    def matching(self, operator: Operator, operand: Any, count: int) -> Mask:
        """Say for which of the first `count` rows a condition holds. Operands: microseconds, or None; for `$in` a list of them."""
        rows = self._rows.used[:count]
        if operator == "$exists":
            return np.full(count, operand, np.bool_)
        if operator in ("$in", "$nin"):
            members = np.array([member for member in operand if member is not None], np.int64)
            return np.isin(rows, members, invert=operator == "$nin")
        if operand is None:
            return np.full(count, operator == "$ne", np.bool_)
        return np.asarray(_COMPARISONS[operator](rows, operand), np.bool_)


class _Growing:
    """An array that rows are added to: with some room to spare, so that adding a row does not copy all of them."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._room: NDArray[Any] = np.empty(0, dtype)
        self.used: NDArray[Any] = self._room

    def __len__(self) -> int:
        return len(self.used)

    @property
    def size_bytes(self) -> int:
        return self._room.nbytes

    def extend(self, values: Sequence[Any] | NDArray[Any]) -> None:
        before, total = len(self.used), len(self.used) + len(values)
        if total > len(self._room):
            grown = np.empty(max(total, int(before * _SPARE)), self._room.dtype)
            grown[:before] = self.used
            self._room = grown
        self._room[before:total] = values
        self.used = self._room[:total]


def _sorted_numbers(places: list[int], values: list[Any]) -> tuple[list[int], Sequence[float]]:
    """Return the places of numbers in their order, and the numbers as densely as they allow: reading one gives it back exactly."""
    numbers = [values[at] for at in places]
    kinds = set(map(type, numbers))
    if len(kinds) > 1:  # compared as Python compares: exactly
        places = sorted(places, key=values.__getitem__)
        return places, [values[at] for at in places]
    kind = "d" if kinds == {float} else "q"
    order = np.array(numbers, kind).argsort()
    return np.array(places, np.intp)[order].tolist(), array(kind, np.array(numbers, kind)[order].tobytes())


def _bytes_of(numbers: Sequence[float]) -> int:
    if isinstance(numbers, array):
        return len(numbers) * numbers.itemsize
    return sum(map(sys.getsizeof, numbers)) + 8 * len(numbers)
