"""Filters: one written meaning, checked and parsed here, then answered by each backend in its own way.

A filter is an object: `{"session": "s1", "metadata.topic": {"$in": ["travel", "work"]}, "$or": [{…}, {…}]}`.

Rule 1: a missing key matches nothing but `$exists: false`. `null` is a value, and equals `null`.
Rule 2: numbers compare as numbers, texts by their code points; nothing is coerced, and true is not 1.
Rule 3: `$ne` and `$nin` match rows whose key exists and whose value differs (another type differs).
Rule 4: `$not` is the complement over rows in which every key it names exists.
Rule 5: an operator holds for a list as a whole; `$contains` asks for a member.
Rule 6: a dot is always nesting; built-in fields have their own names, anything else is `metadata.…`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from llmspell.clock import parse_instant
from llmspell.codec import INT64, require_json, require_text
from llmspell.errors import InvalidFilter, InvalidMetadata, InvalidTime

Operator: TypeAlias = Literal["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
ORDERINGS = frozenset({"$gt", "$gte", "$lt", "$lte"})
CONDITIONS_MAX = 64
DEPTH_MAX = 8
IN_MAX = 1_000
PATH_MAX_BYTES = 512
METADATA_PREFIX = "metadata."


class Field(msgspec.Struct, frozen=True):
    """A built-in field and the type of its operands."""

    kind: Literal["text", "time", "number", "boolean"]


class Fields(msgspec.Struct, frozen=True):
    """The built-in fields of one kind of record, by the name that callers use."""

    by_name: dict[str, Field]


class Compare(msgspec.Struct, frozen=True):
    """`path operator operand`. A built-in field has `path == (name,)` and a `field`; else `path` lies inside metadata.

    Operands are checked: instants for time fields, JSON values otherwise; a tuple of them for `$in` and `$nin`, a bool
    for `$exists`.
    """

    path: tuple[str, ...]
    field: Field | None
    operator: Operator
    operand: Any


class And(msgspec.Struct, frozen=True):
    """All hold."""

    parts: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True):
    """At least one holds."""

    parts: tuple[Node, ...]


class Not(msgspec.Struct, frozen=True):
    """Every key named inside exists, and the part does not hold."""

    part: Node


Node: TypeAlias = Compare | And | Or | Not


def parse(filters: Mapping[str, Any] | None, fields: Fields) -> Node | None:
    """Check a filter and return its tree, or None when it restricts nothing.

    Raises:
        InvalidFilter: names the offending part, what was given and what is possible.
    """
    if filters is None:
        return None
    parsed = _Parser(fields).whole(filters, where="filters", depth=DEPTH_MAX, negated=False) if filters else None
    if parsed is None and not isinstance(filters, Mapping):
        raise InvalidFilter("filters", "must be an object", given=filters)
    return parsed


def comparisons(node: Node) -> Iterator[Compare]:
    """Yield every comparison inside a tree."""
    if isinstance(node, Compare):
        yield node
    elif isinstance(node, Not):
        yield from comparisons(node.part)
    else:
        for part in node.parts:
            yield from comparisons(part)


class _Parser:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields.by_name
        self._conditions = 0

    def whole(self, value: object, *, where: str, depth: int, negated: bool) -> Node:
        if not isinstance(value, Mapping) or not value:
            raise InvalidFilter(where, "must be an object with at least one condition", given=value)
        if depth == 0:
            raise InvalidFilter(where, f"must be nested at most {DEPTH_MAX} deep")
        return _and([self._member(key, inner, where, depth, negated) for key, inner in value.items()])

    def _member(self, key: object, value: object, where: str, depth: int, negated: bool) -> Node:
        if key in ("$and", "$or"):
            if not isinstance(value, (list, tuple)) or not value:
                raise InvalidFilter(f"{where}.{key}", "must be a list of at least one filter", given=value)
            parts = [
                self.whole(part, where=f"{where}.{key}[{position}]", depth=depth - 1, negated=negated)
                for position, part in enumerate(value)
            ]
            return _and(parts) if key == "$and" else parts[0] if len(parts) == 1 else Or(tuple(parts))
        if key == "$not":
            return Not(self.whole(value, where=f"{where}.$not", depth=depth - 1, negated=True))
        path, field = self._path(key, where)
        name = f"{where}.{key}"
        if isinstance(value, Mapping):
            return self._operators(path, field, value, where=name, depth=depth, negated=negated)
        return self._compare(path, field, "$eq", value, where=name, negated=negated)

    def _operators(
        self,
        path: tuple[str, ...],
        field: Field | None,
        value: Mapping[Any, Any],
        *,
        where: str,
        depth: int,
        negated: bool,
    ) -> Node:
        if not value or depth == 0:
            raise InvalidFilter(where, "must hold at least one operator", given=value)
        parts: list[Node] = []
        for operator, operand in value.items():
            if operator == "$not":
                if not isinstance(operand, Mapping):
                    raise InvalidFilter(f"{where}.$not", "must hold operators, such as {'$gt': 3}", given=operand)
                inner = self._operators(path, field, operand, where=f"{where}.$not", depth=depth - 1, negated=True)
                parts.append(Not(inner))
            elif operator in OPERATORS:
                parts.append(
                    self._compare(path, field, operator, operand, where=f"{where}.{operator}", negated=negated)
                )
            else:
                raise InvalidFilter(
                    where,
                    "has an unknown operator",
                    given=operator,
                    hint=f"Known: {' '.join(OPERATORS)} $not. To compare with an object, write {{'$eq': {{…}}}}.",
                )
        return _and(parts)

    def _path(self, key: object, where: str) -> tuple[tuple[str, ...], Field | None]:
        text = require_text(key, field=f"{where} key", max_bytes=PATH_MAX_BYTES, empty=False, error=InvalidFilter)
        if text in self._fields:
            return (text,), self._fields[text]
        if not text.startswith(METADATA_PREFIX):
            raise InvalidFilter(
                where,
                f"names an unknown field; the built-in ones are {', '.join(sorted(self._fields))}",
                given=text,
                hint=f"Your own keys are written {METADATA_PREFIX}{text.lstrip('$')}.",
            )
        segments = tuple(text[len(METADATA_PREFIX) :].split("."))
        if not all(segments) or any('"' in segment or "\\" in segment for segment in segments):
            raise InvalidFilter(f"{where} key", 'must have no empty part, no " and no \\', given=text)
        return segments, None

    def _compare(
        self,
        path: tuple[str, ...],
        field: Field | None,
        operator: Operator,
        operand: object,
        *,
        where: str,
        negated: bool,
    ) -> Compare:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise InvalidFilter("filters", f"must have at most {CONDITIONS_MAX} conditions")
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise InvalidFilter(where, "must be true or false", given=operand)
            if negated:
                raise InvalidFilter(where, "must not stand inside $not", given=operand, hint="Say {'$exists': false}.")
            return Compare(path, field, operator, operand)
        if operator in ("$in", "$nin"):
            if not isinstance(operand, (list, tuple, set, frozenset)):
                raise InvalidFilter(where, "must be a list", given=operand)
            if len(operand) > IN_MAX:
                raise InvalidFilter(where, f"must have at most {IN_MAX:,} members", given=len(operand))
            members = tuple(
                _operand(member, field, operator, where=f"{where}[{n}]") for n, member in enumerate(operand)
            )
            return Compare(path, field, operator, members)
        if operator == "$contains" and field is not None:
            raise InvalidFilter(where, "asks for a member of a list; built-in fields hold none", given=operand)
        return Compare(path, field, operator, _operand(operand, field, operator, where=where))


def _and(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _operand(value: object, field: Field | None, operator: str, *, where: str) -> Any:
    if operator in ORDERINGS and (value is None or isinstance(value, (bool, list, tuple, Mapping))):
        raise InvalidFilter(where, "orders numbers, texts and instants only", given=value)
    if field is None or value is None:
        try:
            require_json(value, field=where)
        except InvalidMetadata as exc:
            raise InvalidFilter(exc.field, exc.problem) from exc
        return list(value) if isinstance(value, tuple) else value
    if field.kind == "time":
        if not isinstance(value, (str, date, datetime)):
            raise InvalidFilter(where, "must be an instant", given=value)
        try:
            return parse_instant(value, field=where)
        except InvalidTime as exc:
            raise InvalidFilter(where, exc.problem, given=value) from exc
    if field.kind == "text":
        return require_text(value, field=where, error=InvalidFilter)
    if field.kind == "boolean":
        if not isinstance(value, bool):
            raise InvalidFilter(where, "must be true or false", given=value)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidFilter(where, "must be a number", given=value)
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and value not in INT64):
        raise InvalidFilter(where, "must be a finite number that fits into 64 bits", given=value)
    return value
