"""Random metadata and random filters: values that databases treat differently, and operands that some row has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

KEYS = st.sampled_from(["a", "b", "c", "é", "a b", "0", "$x", "it's", "[1]"])
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0.0, 1.0, 1.5, -2.0, 2.0**53, 1e16, 1e22, 1e308, 5e-324, 0.1]),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: value != 0),
)
TEXTS = st.one_of(
    st.sampled_from(["", "1", "1.0", "a", "A", "b", "true", "null", "é", "e\u0301", "～", "😀", "[1]", '"a"', "\\"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=8)
BuiltIn = Sequence[tuple[str, dict[str, Any]]]
"""Conditions on built-in fields, of which one is drawn at times: the name of the field, and the operator with its operand."""


@st.composite
def conditions(
    draw: st.DrawFn, rows: list[dict[str, Any]], built_in: BuiltIn, *, negated: bool = False
) -> dict[str, Any]:
    """Draw one comparison; its operand is often a value that some row has."""
    if draw(st.integers(0, 5)) == 0:
        field, condition = draw(st.sampled_from(built_in))
        return {field: condition}
    path = "metadata." + ".".join(draw(st.lists(KEYS, min_size=1, max_size=2)))
    held = [value for row in rows for value in row.values()]
    inner = [member for value in held if isinstance(value, list) for member in value]
    known = st.sampled_from([*held, *inner]) if held or inner else VALUES
    operand = draw(st.one_of(known, VALUES))
    operators = ["$eq", "$ne", "$in", "$nin", "$contains", "$gt", "$gte", "$lt", "$lte"]
    operator = draw(st.sampled_from(operators if negated else [*operators, "$exists"]))
    if operator == "$exists":
        return {path: {"$exists": draw(st.booleans())}}
    if operator in ("$in", "$nin"):
        return {path: {operator: draw(st.lists(st.one_of(known, VALUES), max_size=3))}}
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return {path: {operator: draw(st.one_of(NUMBERS, TEXTS))}}
    return {path: {operator: operand}}


@st.composite
def filters(
    draw: st.DrawFn, rows: list[dict[str, Any]], built_in: BuiltIn, *, depth: int = 3, negated: bool = False
) -> dict[str, Any]:
    """Draw a filter."""
    shape = draw(st.sampled_from(["one", "one", "$and", "$or", "$not"])) if depth else "one"
    if shape == "one":
        return draw(conditions(rows, built_in, negated=negated))
    if shape == "$not":
        return {"$not": draw(filters(rows, built_in, depth=depth - 1, negated=True))}
    part = filters(rows, built_in, depth=depth - 1, negated=negated)
    return {shape: draw(st.lists(part, min_size=1, max_size=3))}
