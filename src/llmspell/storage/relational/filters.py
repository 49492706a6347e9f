"""Filters as SQL: a checked tree becomes a condition with named parameters.

The meaning is the one of `contracts/filters`; conditions inside metadata are the dialect's, for no two databases read JSON alike.

Rule: a condition may be NULL for a row only where NULL and FALSE are the same, so everything below a negation is made two-valued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from llmspell.storage.contracts.filters import And, Compare, Node, Not, Operator, Or, comparisons
from llmspell.storage.relational.catalog import NO_FILTER
from llmspell.storage.relational.database import Dialect

FieldKind: TypeAlias = Literal["text", "time", "number", "boolean"]
_SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class FilterDialect(Protocol):
    """How one database says what filters need. Parameter names come without their colon."""

    def typed(self, parameter: str, kind: FieldKind) -> str:
        """A scalar parameter, cast where the database needs it."""
        ...

    def member(self, column: str, parameter: str, kind: FieldKind) -> str:
        """A condition: the column's value is in the array parameter (never NULL inside)."""
        ...

    def selective(self, condition: str) -> str:
        """A condition on columns of an index that leaves few rows: a planner without statistics would not expect it."""
        ...

    def metadata(self, column: str, comparison: Compare, bind: Callable[[Any], str]) -> str:
        """A condition on the value at the comparison's path inside a JSON column.

        `bind(value)` adds a parameter and returns its name. `$in` and `$nin` have a tuple as operand. The condition is TRUE
        exactly when the contract says so; otherwise FALSE or NULL.
        """
        ...


class Compiled(msgspec.Struct, frozen=True):
    """A condition and its parameters (`f0`, `f1`, …)."""

    fragment: str
    parameters: dict[str, Any]


class Columns(msgspec.Struct, frozen=True):
    """Where built-in fields and metadata live in a query: SQL expressions from our code."""

    fields: Mapping[str, str]
    metadata: str


def compile_filter(node: Node | None, columns: Columns, dialect: Dialect, filters: FilterDialect) -> Compiled:
    """Return the condition for a tree; without one, a condition that always holds."""
    if node is None:
        return Compiled(NO_FILTER, {})
    compiler = _Compiler(columns, dialect, filters)
    return Compiled(compiler.node(node, negated=False), compiler.parameters)


class _Compiler:
    def __init__(self, columns: Columns, dialect: Dialect, filters: FilterDialect) -> None:
        self._columns = columns
        self._dialect = dialect
        self._filters = filters
        self.parameters: dict[str, Any] = {}

    def node(self, node: Node, *, negated: bool) -> str:
        if isinstance(node, And):
            return "(" + " AND ".join(self.node(part, negated=negated) for part in node.parts) + ")"
        if isinstance(node, Or):
            return "(" + " OR ".join(self.node(part, negated=negated) for part in node.parts) + ")"
        if isinstance(node, Not):
            paths = dict.fromkeys(part.path for part in comparisons(node.part) if part.field is None)
            present = [self._metadata(Compare(path, None, "$exists", True)) for path in paths]
            return "(" + " AND ".join([*present, f"NOT {self.node(node.part, negated=True)}"]) + ")"
        condition = self._compare(node)
        return f"coalesce({condition}, FALSE)" if negated else condition

    def _compare(self, node: Compare) -> str:
        if node.field is None:
            return self._metadata(node)
        return self._builtin(self._columns.fields[node.path[0]], node.field.kind, node.operator, node.operand)

    def _metadata(self, node: Compare) -> str:
        return self._filters.metadata(self._columns.metadata, node, self._bind)

    def _builtin(self, column: str, kind: FieldKind, operator: Operator, operand: Any) -> str:
        if operator == "$exists":
            return "TRUE" if operand else "FALSE"
        if operator in ("$in", "$nin"):
            return self._membership(column, kind, operator, operand)
        if operand is None:
            return f"({column} IS NULL)" if operator == "$eq" else f"({column} IS NOT NULL)"
        value = self._filters.typed(self._bind(self._encoded(operand, kind)), kind)
        if operator == "$eq":
            return f"({column} = {value})"
        if operator == "$ne":
            return f"({column} IS NULL OR {column} <> {value})"
        return f"({column} {_SYMBOLS[operator]} {value})"

    def _membership(self, column: str, kind: FieldKind, operator: Operator, operand: tuple[Any, ...]) -> str:
        members = [self._encoded(member, kind) for member in operand if member is not None]
        inside = self._filters.member(column, self._bind(self._dialect.array(members)), kind)
        null = "TRUE" if None in operand else "FALSE"
        found = f"(CASE WHEN {column} IS NULL THEN {null} ELSE {inside} END)"
        return found if operator == "$in" else f"(NOT {found})"

    def _encoded(self, value: Any, kind: FieldKind) -> Any:
        return self._dialect.instant(value) if kind == "time" else value

    def _bind(self, value: Any) -> str:
        name = f"f{len(self.parameters)}"
        self.parameters[name] = value
        return name
