from __future__ import annotations

import array
from datetime import UTC, datetime
from uuid import UUID

import pytest

from llmspell.errors import InvalidText, StorageError
from llmspell.storage.postgres.statements import PackedVector, bind, command, decode_vector, encode
from llmspell.storage.relational.catalog import Query, parse


def query(sql: str) -> Query:
    return parse("sample", f"-- name: one -> rows\n-- A sample.\n{sql}")["one"]


def test_a_parameter_used_twice_is_sent_once() -> None:
    assert command(query("SELECT :a, :b, :a")).sql == b"SELECT $1, $2, $1"


def test_a_cast_is_not_a_parameter() -> None:
    assert command(query("SELECT :ids::uuid[], x::text")).sql == b"SELECT $1::uuid[], x::text"


def test_literals_quoted_names_and_percent_signs_are_left_alone() -> None:
    sql = """SELECT ':a', 'it''s :a', ":a", 5 % 2 WHERE x LIKE '%:a%' AND y = :b"""
    assert command(query(sql)).sql.decode() == sql.replace(":b", "$1")


def test_only_the_tenant_has_a_declared_type() -> None:
    assert command(query("SELECT 1 WHERE tenant_id = :tenant_id AND k = :k")).types == (25, 0)


@pytest.mark.parametrize(
    ("sql", "writes"),
    [
        ("SELECT 1", False),
        ("SELECT count(*) FROM llmspell.memories m JOIN llmspell.kv_store k ON (k.key = m.role)", False),
        ("WITH d AS (DELETE FROM t RETURNING 1) SELECT * FROM d", True),
        ("SELECT llmspell.rotate_api_key(:tenant_id, 'a', 'b', '')", True),
        ("SELECT * FROM llmspell.cleanup_old_event_log_partitions (:a)", True),
        ("SELECT nextval('s')", True),
    ],
)
def test_a_statement_that_changes_rows_is_known_as_one(sql: str, writes: bool) -> None:
    assert command(query(sql)).writes is writes


def test_the_tenant_of_the_executor_wins_over_a_parameter_of_that_name() -> None:
    statement = command(query("SELECT 1 WHERE tenant_id = :tenant_id"))
    assert bind(statement, b"mine", {"tenant_id": "other"}).values == (b"mine",)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(StorageError, match=r"lacks a parameter.*'k'"):
        bind(command(query("SELECT :k")), b"t", {})


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, (None, 0)),
        (True, (b"t", 0)),
        (-(2**63), (b"-9223372036854775808", 0)),
        (0.1, (b"0.1", 0)),
        (b"\0\1", (b"\0\1", 1)),
        (UUID(int=1), (b"00000000-0000-0000-0000-000000000001", 0)),
        (datetime(1, 1, 1, tzinfo=UTC), (b"0001-01-01T00:00:00+00:00", 0)),
        (['a"b\\', "", "NULL", "{,}"], (b'{"a\\"b\\\\","","NULL","{,}"}', 0)),
        ([1, None, 2.5, True], (b"{1,NULL,2.5,t}", 0)),
        ([], (b"{}", 0)),
    ],
)
def test_values_travel_in_a_form_that_the_server_reads_exactly(
    value: object, encoded: tuple[bytes | None, int]
) -> None:
    assert encode(value) == encoded


def test_a_text_with_nul_is_refused_because_the_protocol_would_cut_it_off() -> None:
    with pytest.raises(InvalidText):
        encode("a\0b")


def test_a_value_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(StorageError, match="cannot be stored"):
        encode(object())


def test_a_vector_is_its_count_and_big_endian_components() -> None:
    packed = array.array("f", [1.0, -2.5]).tobytes()
    value, binary = encode(PackedVector(packed))
    assert (value, binary) == (bytes.fromhex("000200003f800000c0200000"), 1)
    assert value is not None
    assert decode_vector(value) == packed
