"""Values on their way to the database and back, and conditions on metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import apsw
import pytest

from llmspell.codec import encode_json
from llmspell.storage.contracts.filters import Fields, parse
from llmspell.storage.relational.filters import Columns, compile_filter
from llmspell.storage.sqlite.dialect import SqliteDialect, SqliteFilters, register_functions, same

DIALECT = SqliteDialect()
NOW = datetime(2026, 5, 1, 9, 30, 0, 123_456, UTC)
ID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")


@pytest.fixture(scope="module")
def connection() -> apsw.Connection:
    opened = apsw.Connection(":memory:")
    register_functions(opened)
    return opened


@pytest.fixture
def matches(connection: apsw.Connection) -> Callable[[Mapping[str, Any], Mapping[str, Any]], bool]:
    def ask(filters: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
        compiled = compile_filter(parse(filters, Fields({})), Columns({}, "r.metadata"), DIALECT, SqliteFilters())
        sql = f"SELECT count(*) FROM (SELECT :metadata AS metadata) AS r WHERE {compiled.fragment}"
        return bool(connection.execute(sql, {**compiled.parameters, "metadata": encode_json(metadata)}).get)

    return ask


def test_ids_instants_and_json_come_back_as_they_were() -> None:
    assert DIALECT.to_id(DIALECT.id(ID)) == ID
    assert DIALECT.to_instant(DIALECT.instant(NOW)) == NOW
    assert DIALECT.to_json(DIALECT.json({"b": [1, 2.5, None], "a": "é"})) == {"b": [1, 2.5, None], "a": "é"}


def test_the_open_end_of_a_period_is_later_than_every_instant() -> None:
    assert DIALECT.to_open_end(DIALECT.open_end(None)) is None
    assert DIALECT.to_open_end(DIALECT.open_end(NOW)) == NOW
    assert DIALECT.open_end(None) > DIALECT.open_end(datetime.max.replace(tzinfo=UTC))


def test_nothing_stays_nothing() -> None:
    assert DIALECT.instant(None) is None
    assert DIALECT.to_instant(None) is None
    assert DIALECT.json(None) is None
    assert DIALECT.to_json(None) is None


def test_arrays_are_read_by_the_json_functions(connection: apsw.Connection) -> None:
    ids = connection.execute("SELECT unhex(value) FROM json_each(?)", (DIALECT.array([ID]),)).fetchall()
    others = connection.execute("SELECT value FROM json_each(?)", (DIALECT.array(["é", 2, NOW]),)).fetchall()

    assert ids == [(ID.bytes,)]
    assert others == [("é",), (2,), (DIALECT.instant(NOW),)]


@pytest.mark.parametrize(
    ("filters", "metadata", "expected"),
    [
        ({"metadata.a": 1}, {"a": 1}, True),
        ({"metadata.a": 1}, {"a": 1.0}, True),
        ({"metadata.a": 1}, {"a": True}, False),
        ({"metadata.a": True}, {"a": 1}, False),
        ({"metadata.a": 1}, {"a": "1"}, False),
        ({"metadata.a": "1"}, {"a": 1}, False),
        ({"metadata.a": None}, {"a": None}, True),
        ({"metadata.a": None}, {}, False),
        ({"metadata.a": {"$ne": 1}}, {}, False),
        ({"metadata.a": {"$ne": 1}}, {"a": "1"}, True),
        ({"metadata.a": {"$ne": 1}}, {"a": None}, True),
        ({"metadata.a": {"$gt": 1}}, {"a": 2.5}, True),
        ({"metadata.a": {"$gt": 1}}, {"a": "2"}, False),
        ({"metadata.a": {"$gt": "b"}}, {"a": "é"}, True),
        ({"metadata.a": {"$gt": "1"}}, {"a": 2}, False),
        ({"metadata.a": {"$lte": 9007199254740992}}, {"a": 9007199254740993}, False),
        ({"metadata.a": {"$in": ["x", "y"]}}, {"a": "y"}, True),
        ({"metadata.a": {"$in": []}}, {"a": "y"}, False),
        ({"metadata.a": {"$nin": []}}, {"a": "y"}, True),
        ({"metadata.a": {"$nin": ["x", 1]}}, {}, False),
        ({"metadata.a": {"$in": [1, None, "x"]}}, {"a": None}, True),
        ({"metadata.a": {"$in": [1, "x"]}}, {"a": True}, False),
        ({"metadata.a": {"$nin": [1, "x"]}}, {"a": True}, True),
        ({"metadata.a": {"$in": [[1, 2]]}}, {"a": [1.0, 2]}, True),
        ({"metadata.a": [1, 2]}, {"a": [1, 2]}, True),
        ({"metadata.a": [1, 2]}, {"a": [2, 1]}, False),
        ({"metadata.a": {"$eq": {"x": 1, "y": [True]}}}, {"a": {"y": [True], "x": 1.0}}, True),
        ({"metadata.a": {"$eq": {"x": 1}}}, {"a": {"x": True}}, False),
        ({"metadata.a": {"$contains": 2}}, {"a": [1, 2.0]}, True),
        ({"metadata.a": {"$contains": 1}}, {"a": [True]}, False),
        ({"metadata.a": {"$contains": "b"}}, {"a": "abc"}, False),
        ({"metadata.a": {"$contains": None}}, {"a": [None]}, True),
        ({"metadata.a": {"$exists": True}}, {"a": None}, True),
        ({"metadata.a": {"$exists": False}}, {"a": None}, False),
        ({"metadata.a": {"$exists": False}}, {}, True),
        ({"metadata.a.b": 1}, {"a": {"b": 1}}, True),
        ({"metadata.a.b": 1}, {"a.b": 1}, False),
        ({"metadata.a.0": 1}, {"a": [1]}, False),
        ({"metadata.ключ $[0]*": 1}, {"ключ $[0]*": 1}, True),
        ({"metadata.line\nbreak": 1}, {"line\nbreak": 1}, True),
        ({"$not": {"metadata.a": 1}}, {"a": 2}, True),
        ({"$not": {"metadata.a": 1}}, {}, False),
        ({"$not": {"metadata.a": {"$gt": 1}}}, {"a": "text"}, True),
        ({"$not": {"$or": [{"metadata.a": 1}, {"metadata.b": 1}]}}, {"a": 2, "b": 2}, True),
        ({"$or": [{"metadata.a": 1}, {"metadata.b": 1}]}, {"b": 1}, True),
    ],
)
def test_a_filter_means_what_the_contract_says(
    matches: Callable[[Mapping[str, Any], Mapping[str, Any]], bool],
    filters: Mapping[str, Any],
    metadata: Mapping[str, Any],
    expected: bool,
) -> None:
    assert matches(filters, metadata) is expected


def test_a_path_never_becomes_part_of_the_query() -> None:
    tree = parse({"metadata.x') OR ('1'='1": 1}, Fields({}))

    compiled = compile_filter(tree, Columns({}, "r.metadata"), DIALECT, SqliteFilters())

    assert "OR" not in compiled.fragment
    assert "$.\"x') OR ('1'='1\"" in compiled.parameters.values()


@pytest.mark.parametrize(("left", "right"), [(1, True), (0, False), (None, False), ([1], {"0": 1}), ("1", 1)])
def test_values_of_different_types_differ(left: object, right: object) -> None:
    assert not same(left, right)
    assert not same([left], [right])
