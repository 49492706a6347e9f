"""Random filters over random metadata select the same ids on every backend."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.memories import NewMemory
from llmspell.tenant import TenantId

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
FEW = ("s1", "s2", "", "S1")


@st.composite
def conditions(draw: st.DrawFn, rows: list[dict[str, Any]], *, negated: bool = False) -> dict[str, Any]:
    """Draw one comparison; its operand is often a value that some row has."""
    if draw(st.integers(0, 5)) == 0:
        field, operand = draw(
            st.sampled_from(
                [("session", "s1"), ("session", None), ("version", 1), ("processed", False), ("role", "s2")]
            )
        )
        return {field: {draw(st.sampled_from(["$eq", "$ne"])): operand}}
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
def filters(draw: st.DrawFn, rows: list[dict[str, Any]], *, depth: int = 3, negated: bool = False) -> dict[str, Any]:
    """Draw a filter."""
    shape = draw(st.sampled_from(["one", "one", "$and", "$or", "$not"])) if depth else "one"
    if shape == "one":
        return draw(conditions(rows, negated=negated))
    if shape == "$not":
        return {"$not": draw(filters(rows, depth=depth - 1, negated=True))}
    part = filters(rows, depth=depth - 1, negated=negated)
    return {shape: draw(st.lists(part, min_size=1, max_size=3))}


@given(data=st.data(), rows=ROWS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_filter_selects_the_same_rows_everywhere(
    stores: dict[str, Backend],
    loop: asyncio.Runner,
    clock: ManualClock,
    data: st.DataObject,
    rows: list[dict[str, Any]],
) -> None:
    tenant = TenantId(f"filters-{uuid4().hex}")
    memories = [
        NewMemory(
            id=uuid4(),
            content="x",
            metadata=row,
            session=FEW[number % 3] or None,
            role=FEW[number % 2],
            at=clock.now() + timedelta(days=number),
        )
        for number, row in enumerate(rows)
    ]
    questions = [data.draw(filters(rows)) for _ in range(12)]

    async def answers(backend: Backend) -> list[list[int]]:
        await backend.tenants.create(tenant)
        storage = backend.storages(tenant).memories
        await storage.add(memories)
        found = [await storage.list(filters=question, descending=False) for question in questions]
        order = [one.id for one in memories]
        return [[order.index(one.id) for one in page] for page in found]

    given_by = {name: loop.run(answers(backend)) for name, backend in stores.items()}

    for number, question in enumerate(questions):
        selected = {name: answer[number] for name, answer in given_by.items()}
        assert len(set(map(tuple, selected.values()))) == 1, (question, selected)
