"""Filters in memory: the six rules of `contracts.filters`, evaluated over one record.

A record is its built-in fields by name and its metadata. Every operator is a small function of (value, operand) that is
called only when the value exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from llmspell.storage.contracts.filters import And, Compare, Node, Operator, Or, comparisons

ABSENT: Any = object()


def matches(node: Node | None, fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Say whether a record satisfies a filter; None restricts nothing."""
    if node is None:
        return True
    if isinstance(node, Compare):
        return _holds(node, fields, metadata)
    if isinstance(node, And):
        return all(matches(part, fields, metadata) for part in node.parts)
    if isinstance(node, Or):
        return any(matches(part, fields, metadata) for part in node.parts)
    # Rule 4: the complement, but only over records in which every key that it names exists.
    named = all(_value(one, fields, metadata) is not ABSENT for one in comparisons(node))
    return named and not matches(node.part, fields, metadata)


def equal(left: Any, right: Any) -> bool:
    """Compare two JSON values (or instants) strictly: numbers by value, true is not 1, lists and objects member by member."""
    if _is_number(left) and _is_number(right):
        return bool(left == right)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)  # true and 1 end here: a bool is not a number


def _holds(compare: Compare, fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    value = _value(compare, fields, metadata)
    if compare.operator == "$exists":
        return (value is not ABSENT) is compare.operand
    return value is not ABSENT and _OPERATORS[compare.operator](value, compare.operand)


def _value(compare: Compare, fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    """Return the value a comparison looks at, or ABSENT. A built-in field exists always; it may be null."""
    if compare.field is not None:
        return fields[compare.path[0]]
    found: Any = metadata
    for segment in compare.path:
        if not isinstance(found, Mapping) or segment not in found:
            return ABSENT
        found = found[segment]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Make an ordering that holds between two numbers, two texts or two instants, and between nothing else."""

    def holds(value: Any, operand: Any) -> bool:
        if _is_number(value) and _is_number(operand):
            return compare(value, operand)
        # Python compares texts by code points, which is the order of their UTF-8 bytes.
        alike = any(isinstance(value, kind) and isinstance(operand, kind) for kind in (str, datetime))
        return alike and compare(value, operand)

    return holds


def _in(value: Any, operand: Sequence[Any]) -> bool:
    return any(equal(value, member) for member in operand)


def _contains(value: Any, operand: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(equal(member, operand) for member in value)


_OPERATORS: dict[Operator, Callable[[Any, Any], bool]] = {
    "$eq": equal,
    "$ne": lambda value, operand: not equal(value, operand),
    "$gt": _ordered(lambda value, operand: bool(value > operand)),
    "$gte": _ordered(lambda value, operand: bool(value >= operand)),
    "$lt": _ordered(lambda value, operand: bool(value < operand)),
    "$lte": _ordered(lambda value, operand: bool(value <= operand)),
    "$in": _in,
    "$nin": lambda value, operand: not _in(value, operand),
    "$contains": _contains,
}
