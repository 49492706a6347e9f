"""Columns answer random filters over random metadata as the in-memory model does, while rows come, change and go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.soak import size, tell
from tests.property.drawn_filters import ROWS, filters

from llmspell.clock import to_microseconds
from llmspell.codec import encode_json
from llmspell.storage.contracts.filters import Node, parse
from llmspell.storage.contracts.vectors import FILTER_FIELDS
from llmspell.storage.index import columns, encoded
from llmspell.storage.index.columns import HELD_MAX_BYTES, Columns, Payload
from llmspell.storage.inmemory.filters import matches

EXAMPLES = size(ci=100, soak=3_000)
SCOPES = ("s1", "s2", "S1", "é")
DAY = datetime(2026, 1, 1, tzinfo=UTC)
BUILT_IN = [
    *(("scope", {operator: "s1"}) for operator in ("$eq", "$ne", "$gt", "$lte")),
    ("scope", {"$in": ["s2", None]}),
    ("scope", {"$ne": None}),
    *(("created_at", {operator: DAY}) for operator in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")),
    *(("updated_at", {operator: [DAY, None]}) for operator in ("$in", "$nin")),
    *(("updated_at", {operator: None}) for operator in ("$eq", "$ne")),
]


class Row(NamedTuple):
    """A row as the model has it."""

    scope: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]

    def payload(self) -> Payload:
        """The row as columns get it: instants in both ways."""
        text = encode_json(self.metadata)
        return Payload(
            self.scope, self.created_at, to_microseconds(self.updated_at), text.encode() if len(text) % 2 else text
        )


def drawn_rows(data: st.DataObject) -> list[Row]:
    instants = st.integers(-1, 1).map(lambda days: DAY + timedelta(days=days))
    return [
        Row(data.draw(st.sampled_from(SCOPES)), data.draw(instants), data.draw(instants), metadata)
        for metadata in data.draw(ROWS)
    ]


def expected(node: Node, rows: list[Row]) -> list[bool]:
    return [matches(node, row._asdict(), row.metadata) for row in rows]


def changed(data: st.DataObject, held: Columns, rows: list[Row]) -> Columns:
    """Do something to the rows, in the columns and in the model."""
    verb = data.draw(st.sampled_from(["append", "replace", "replace", "keep"]))
    if verb == "append":
        new = drawn_rows(data)
        held.append(row.payload() for row in new)
        rows.extend(new)
    elif verb == "replace" and rows:
        position = data.draw(st.integers(0, len(rows) - 1))
        rows[position] = drawn_rows(data)[0]
        held.replace(position, rows[position].payload())
    elif verb == "keep":
        kept = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True)) if rows else []
        rows[:] = [rows[position] for position in kept]
        return held.keep(np.array(kept, np.intp))
    return held


@pytest.mark.parametrize("small", [False, True], ids=["usual-limits", "small-limits"])
@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_columns_select_what_the_model_selects(
    monkeypatch: pytest.MonkeyPatch, data: st.DataObject, small: bool
) -> None:
    if small:  # so that a few values are sorted in, looked up and loaded in pieces, and columns forgotten
        for module, name, limit in (
            (encoded, "UNSORTED_MAX", 2),
            (encoded, "COMPARED_MAX", 1),
            (columns, "DECODED_AT_ONCE", 3),
        ):
            monkeypatch.setattr(module, name, limit)
    rows = drawn_rows(data)
    held = Columns(FILTER_FIELDS, held_max_bytes=1 if small else HELD_MAX_BYTES)
    held.append(row.payload() for row in rows)
    compared = 0

    for _ in range(data.draw(st.integers(1, 4))):
        for _ in range(5):
            question = data.draw(filters([row.metadata for row in rows], BUILT_IN))
            node = parse(question, FILTER_FIELDS)
            assert node is not None
            held.hold(held.needs(node), (row.payload() for row in rows))
            count = data.draw(st.sampled_from([len(rows), len(rows) // 2]))
            wanted = expected(node, rows[:count])

            assert held.matching(node, count).tolist() == wanted, (question, rows)
            assert held.positions(node, count).tolist() == [at for at, chosen in enumerate(wanted) if chosen]
            compared += count
        held = changed(data, held, rows)
        assert len(held) == len(rows)
    tell(rows_compared_with_columns=compared)
