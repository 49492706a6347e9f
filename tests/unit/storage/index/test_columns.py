"""Columns: each rule of filters on an example, and what happens to columns while rows come, change and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from llmspell.clock import to_microseconds
from llmspell.codec import encode_json
from llmspell.errors import CorruptStore
from llmspell.storage.contracts.filters import Field, Fields, Node, parse
from llmspell.storage.contracts.vectors import FILTER_FIELDS
from llmspell.storage.index import columns, encoded
from llmspell.storage.index.columns import Columns, Payload

START = datetime(2026, 1, 1, tzinfo=UTC)
BIG = 2**53


def payload(metadata: Any = None, *, scope: str = "default", days: int = 0) -> Payload:
    at = START + timedelta(days=days)
    return Payload(scope, at, to_microseconds(at), encode_json({} if metadata is None else metadata))


def of_values(values: Iterable[Any]) -> list[Payload]:
    """Rows with each value under `v`; `...` is a row without the key."""
    return [payload({} if value is ... else {"v": value}) for value in values]


def node_of(filters: Mapping[str, Any]) -> Node:
    node = parse(filters, FILTER_FIELDS)
    assert node is not None
    return node


def answer(held: Columns, rows: list[Payload], filters: Mapping[str, Any]) -> list[int]:
    """The positions that a filter selects; the mask must say the same."""
    node = node_of(filters)
    held.hold(held.needs(node), rows)
    found: list[int] = held.positions(node, len(rows)).tolist()
    mask = held.matching(node, len(rows))
    assert mask.nonzero()[0].tolist() == found
    assert mask.dtype == np.bool_
    assert len(mask) == len(rows)
    return found


def selected(rows: list[Payload], filters: Mapping[str, Any]) -> list[int]:
    return answer(Columns(FILTER_FIELDS), rows, filters)


MIXED = of_values([..., None, 1, 1.0, True, "1", "a", [1], {"a": 1}, 0, False, [], {}, ""])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param({"$exists": True}, list(range(1, 14)), id="exists"),
        pytest.param({"$exists": False}, [0], id="does not exist"),
        pytest.param({"$eq": None}, [1], id="null equals null"),
        pytest.param({"$eq": 1}, [2, 3], id="an integer equals a float"),
        pytest.param({"$eq": 1.0}, [2, 3], id="a float equals an integer"),
        pytest.param({"$eq": True}, [4], id="true is not 1"),
        pytest.param({"$eq": 0}, [9], id="0 is not false"),
        pytest.param({"$eq": False}, [10], id="false"),
        pytest.param({"$eq": "1"}, [5], id="a text is no number"),
        pytest.param({"$eq": ""}, [13], id="an empty text"),
        pytest.param({"$eq": [1.0]}, [7], id="lists compare their members as numbers"),
        pytest.param({"$eq": [True]}, [], id="and not booleans as numbers"),
        pytest.param({"$eq": {"a": 1.0}}, [8], id="objects compare their members as numbers"),
        pytest.param({"$eq": []}, [11], id="an empty list"),
        pytest.param({"$eq": {}}, [12], id="an empty object"),
        pytest.param({"$eq": "other"}, [], id="a value that no row has"),
        pytest.param({"$ne": 1}, [1, *range(4, 14)], id="another value, and the key exists"),
        pytest.param({"$ne": None}, list(range(2, 14)), id="not null"),
        pytest.param({"$ne": "other"}, list(range(1, 14)), id="not a value that no row has"),
        pytest.param({"$in": [1, "a", None]}, [1, 2, 3, 6], id="one of several types"),
        pytest.param({"$in": [[1], {"a": 1}, True]}, [4, 7, 8], id="one of lists, objects and booleans"),
        pytest.param({"$in": []}, [], id="one of none"),
        pytest.param({"$in": [0, 1, "a", "1", "", None, True, []]}, [1, 2, 3, 4, 5, 6, 9, 11, 13], id="one of many"),
        pytest.param({"$nin": [1, "a", None]}, [4, 5, *range(7, 14)], id="none of several"),
        pytest.param({"$nin": []}, list(range(1, 14)), id="none of none"),
        pytest.param({"$gt": 0}, [2, 3], id="only numbers are above a number"),
        pytest.param({"$gte": 0}, [2, 3, 9], id="at least"),
        pytest.param({"$lt": 1}, [9], id="below"),
        pytest.param({"$lte": 1.0}, [2, 3, 9], id="at most"),
        pytest.param({"$gt": ""}, [5, 6], id="only texts are above a text"),
        pytest.param({"$gte": ""}, [5, 6, 13], id="texts from the empty one on"),
        pytest.param({"$lt": "a"}, [5, 13], id="texts below"),
        pytest.param({"$contains": 1}, [7], id="a member"),
        pytest.param({"$contains": "a"}, [], id="a text contains nothing"),
        pytest.param({"$not": {"$gt": 0}}, [1, *range(4, 14)], id="the complement where the key exists"),
    ],
)
def test_a_condition_selects_what_the_rules_say(condition: dict[str, Any], expected: list[int]) -> None:
    assert selected(MIXED, {"metadata.v": condition}) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"$eq": BIG}, [0, 1]),
        ({"$eq": float(BIG)}, [0, 1]),
        ({"$eq": BIG + 1}, [2]),
        ({"$gt": float(BIG)}, [2, 3, 4, 5]),
        ({"$lte": BIG + 1}, [0, 1, 2, 6]),
        ({"$gt": 2**63 - 1}, [4]),
        ({"$in": [float(BIG), 2.0**63]}, [0, 1, 4]),
        ({"$contains": BIG}, []),
    ],
    ids=str,
)
def test_integers_and_floats_compare_exactly_beyond_2_to_the_53(condition: dict[str, Any], expected: list[int]) -> None:
    rows = of_values([BIG, float(BIG), BIG + 1, BIG + 2, 2.0**63, 2**63 - 1, -(2**63)])

    assert selected(rows, {"metadata.v": condition}) == expected


@pytest.mark.parametrize(
    ("values", "operand", "expected"),
    [
        ([[2.0**53], [2**53], [2**53 + 1]], [2**53], [0, 1]),
        ([[1e22], [10**18], [1e18]], [1e18], [1, 2]),
        ([[1e22], [1.5], [True]], [1e22], [0]),
        ([[1, [2.0]], [1.0, [2]], [[2], 1]], [1, [2]], [0, 1]),
        ([{"a": 1, "b": [None]}, {"b": [None], "a": 1.0}, {"a": 1}], {"b": [None], "a": 1}, [0, 1]),
        (["[1]", [1], "null", None], [1], [1]),
    ],
    ids=["beyond 2^53", "whole floats", "large floats", "nested", "members in any order", "texts that look alike"],
)
def test_lists_and_objects_are_equal_member_by_member(values: list[Any], operand: Any, expected: list[int]) -> None:
    assert selected(of_values(values), {"metadata.v": {"$eq": operand}}) == expected


@pytest.mark.parametrize(
    ("member", "expected"),
    [(1, [0, 1]), (True, [2]), ("a", [3, 5]), (None, [4]), ([1], [5]), ({"k": 1}, [6]), (2, [])],
    ids=str,
)
def test_contains_asks_for_a_member_of_a_list(member: Any, expected: list[int]) -> None:
    rows = of_values([[1], [1.0, 1], [True], ["a", "b"], [None], ["a", [1.0]], [{"k": 1.0}], "a", {"a": 1}, 1, ...])

    assert selected(rows, {"metadata.v": {"$contains": member}}) == expected


def test_texts_are_ordered_by_code_points() -> None:
    rows = of_values(["～", "😀", "é", "e\u0301", "z", "Z", "\x01", ""])

    assert selected(rows, {"metadata.v": {"$gt": "～"}}) == [1]
    assert selected(rows, {"metadata.v": {"$lt": "e\u0301"}}) == [5, 6, 7]


@pytest.mark.parametrize("key", ["a b", "é", "0", "$x", "it's", "[1]", "_0", "\x01", "class"])
def test_any_key_can_be_asked_for_also_within_another(key: str) -> None:
    rows = [payload({key: {key: 1}, "other": 2}), payload({key: 1}), payload({key: [{key: 1}]}), payload({key: None})]

    assert selected(rows, {f"metadata.{key}.{key}": 1}) == [0]
    assert selected(rows, {f"metadata.{key}.{key}": {"$exists": False}}) == [1, 2, 3]
    assert selected(rows, {f"metadata.{key}": {"$exists": True}}) == [0, 1, 2, 3]


def test_negation_asks_for_every_key_that_it_names() -> None:
    rows = [payload({"a": 1, "b": 1}), payload({"a": 2, "b": 2}), payload({"a": 2}), payload({"b": 2}), payload()]

    assert selected(rows, {"$not": {"metadata.a": 1, "metadata.b": 1}}) == [1]
    assert selected(rows, {"$not": {"$or": [{"metadata.a": 1}, {"metadata.b": 1}]}}) == [1]
    assert selected(rows, {"$not": {"$not": {"metadata.a": 2}}}) == [1, 2]
    assert selected(rows, {"$not": {"metadata.a": 1, "scope": "other"}}) == [0, 1, 2]


def test_conditions_are_joined() -> None:
    rows = [payload({"a": a, "b": b}) for a in (1, 2) for b in (1, 2)]

    assert selected(rows, {"metadata.a": 1, "metadata.b": {"$gt": 1}}) == [1]
    assert selected(rows, {"$or": [{"metadata.a": 1}, {"metadata.b": 1}]}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"scope": "s1"}, [0, 2]),
        ({"scope": {"$ne": "s1"}}, [1, 3]),
        ({"scope": {"$ne": None}}, [0, 1, 2, 3]),
        ({"scope": {"$in": ["s2", None]}}, [1]),
        ({"scope": {"$gte": "s2"}}, [1, 3]),
        ({"scope": {"$exists": False}}, []),
        ({"metadata.scope": "s1"}, [3]),
        ({"created_at": START}, [0]),
        ({"created_at": {"$gt": START}}, [1, 2, 3]),
        ({"created_at": {"$lte": "2026-01-02"}}, [0, 1]),
        ({"updated_at": {"$gte": "2026-01-03T00:00:00Z", "$lt": START + timedelta(days=3)}}, [2]),
        ({"updated_at": {"$in": [START, None, START + timedelta(days=3)]}}, [0, 3]),
        ({"updated_at": {"$nin": [START]}}, [1, 2, 3]),
        ({"updated_at": {"$nin": []}}, [0, 1, 2, 3]),
        ({"created_at": {"$ne": START}}, [1, 2, 3]),
        ({"created_at": None}, []),
        ({"created_at": {"$ne": None}}, [0, 1, 2, 3]),
        ({"created_at": {"$exists": True}}, [0, 1, 2, 3]),
        ({"$not": {"created_at": {"$gt": START}}}, [0]),
    ],
    ids=str,
)
def test_built_in_fields_have_their_own_columns(filters: dict[str, Any], expected: list[int]) -> None:
    scopes = ["s1", "s2", "s1", "s3"]
    rows = [payload({"scope": "s1"} if day == 3 else {}, scope=scopes[day], days=day) for day in range(4)]

    assert selected(rows, filters) == expected


def test_only_fields_of_a_payload_are_taken() -> None:
    with pytest.raises(ValueError, match="no such field: session"):
        Columns(Fields({"scope": Field("text"), "session": Field("text")}))


def test_rows_that_come_change_and_go_are_answered_for() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([1, "a", [1], ...])
    answer(held, rows, {"metadata.v": {"$contains": 1}})

    added = of_values([2, "b", [1, 2], 1.0])
    held.append(iter(added))
    rows += added
    rows[0] = payload({"v": [3]})
    held.replace(0, rows[0])

    assert answer(held, rows, {"metadata.v": 1}) == [7]
    assert answer(held, rows, {"metadata.v": {"$gte": 1}}) == [4, 7]
    assert answer(held, rows, {"metadata.v": {"$contains": 1}}) == [2, 6]
    assert answer(held, rows, {"metadata.v": {"$contains": 3}}) == [0]
    kept = held.keep(np.array([6, 1, 4, 0], np.intp))
    rows = [rows[position] for position in (6, 1, 4, 0)]
    assert answer(kept, rows, {"metadata.v": {"$contains": 3}}) == [3]
    assert answer(kept, rows, {"metadata.v": {"$lt": "b"}}) == [1]
    assert len(held) == 8


def test_kept_columns_and_their_origin_go_separate_ways() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([1, 2, 3])
    answer(held, rows, {"metadata.v": 1})

    kept = held.keep(np.arange(3))
    kept.replace(0, payload({"v": 9}))

    assert held.positions(node_of({"metadata.v": 1}), 3).tolist() == [0]
    assert kept.positions(node_of({"metadata.v": 9}), 3).tolist() == [0]


def test_a_count_leaves_out_the_rows_behind_it() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([1, 1, 1, ...])
    answer(held, rows, {"metadata.v": 1})

    assert held.positions(node_of({"metadata.v": 1}), 2).tolist() == [0, 1]
    assert len(held.matching(node_of({"metadata.v": {"$ne": 1}}), 0)) == 0
    with pytest.raises(ValueError, match="there are 4 rows; asked for 5"):
        held.matching(node_of({"metadata.v": 1}), 5)


def test_many_new_values_are_found_by_ranges_before_and_after_they_are_sorted_in() -> None:
    many = encoded.UNSORTED_MAX + 2
    held, rows = Columns(FILTER_FIELDS), of_values([-1, "x", -2.5])
    answer(held, rows, {"metadata.v": 1})

    for value in range(many):
        rows += of_values([value, f"{value:06}"])
        held.append(rows[-2:])
        if value in (3, many - 1):
            assert len(answer(held, rows, {"metadata.v": {"$gte": 2}})) == value - 1
            assert len(answer(held, rows, {"metadata.v": {"$lt": "000002"}})) == 2
            assert answer(held, rows, {"metadata.v": value}) == [len(rows) - 2]


def test_values_that_no_row_has_any_more_are_forgotten() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([0] * 4)
    answer(held, rows, {"metadata.v": 1})

    for number in range(4 * encoded.UNSORTED_MAX):
        held.replace(number % 4, payload({"v": number if number % 2 else [number]}))

    assert held.size_bytes < 200 * encoded.UNSORTED_MAX
    last = 4 * encoded.UNSORTED_MAX - 1
    assert held.positions(node_of({"metadata.v": last}), 4).tolist() == [3]
    assert held.positions(node_of({"metadata.v": {"$contains": last - 1}}), 4).tolist() == [2]


def test_members_are_found_after_lists_were_forgotten() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([["a", number] for number in range(9)])
    assert answer(held, rows, {"metadata.v": {"$contains": 7}}) == [7]

    for number in range(
        encoded.UNSORTED_MAX + 1
    ):  # the last one has the new values sorted in, and those of no row forgotten
        held.replace(0, payload({"v": [number + 0.5]}))

    assert held.positions(node_of({"metadata.v": {"$contains": 7}}), 9).tolist() == [7]
    assert held.positions(node_of({"metadata.v": {"$contains": "a"}}), 9).tolist() == list(range(1, 9))


def test_only_what_is_missing_is_needed() -> None:
    held, rows = Columns(FILTER_FIELDS), [payload({"a": 1, "b": 1})]
    both = node_of({"metadata.a": 1, "metadata.b": 1})

    answer(held, rows, {"metadata.a": 1})

    assert held.needs(both) == {("b",)}
    answer(held, rows, {"metadata.b": 1})
    assert held.needs(both) == frozenset()
    assert held.matching(both, 1).tolist() == [True]


def test_a_path_that_was_not_used_for_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PATHS_MAX", 2)
    held, rows = Columns(FILTER_FIELDS), [payload({"a": 1, "b": 1, "c": 1})]

    for name in ("a", "b", "a", "c"):
        assert answer(held, rows, {f"metadata.{name}": 1}) == [0]

    assert held.held == [("a",), ("c",)]
    assert answer(held, rows, {"metadata.b": 1, "metadata.a": 1}) == [0]
    assert set(held.held) == {("a",), ("b",)}


def test_columns_beyond_their_bytes_give_way_and_those_of_one_filter_stay() -> None:
    held, rows = Columns(FILTER_FIELDS, held_max_bytes=1), [payload({"a": 1, "b": 1, "c": 1})] * 100
    held.append(rows)

    answer(held, rows, {"metadata.a": 1, "metadata.b": 1})
    assert answer(held, rows, {"metadata.a": 1, "metadata.c": 1}) == list(range(100))

    assert set(held.held) == {("a",), ("c",)}


def test_a_filter_without_its_columns_is_refused() -> None:
    held = Columns(FILTER_FIELDS)
    held.append(of_values([1]))

    with pytest.raises(LookupError, match=r"no column is held for a\.b"):
        held.matching(node_of({"metadata.a.b": 1}), 1)


def test_a_load_of_other_rows_is_refused_and_changes_nothing() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([1, 2])
    answer(held, rows, {"metadata.v": 1})

    with pytest.raises(ValueError, match="there are 2 rows; got 1 payloads"):
        held.hold([("w",)], rows[:1])

    assert held.held == [("v",)]
    assert len(held) == 2


@pytest.mark.parametrize("damaged", ["", "{", "[1]", "null", b"\xff", '{"v":1}x', '{"v":"\\ud800"}'], ids=str)
def test_damaged_metadata_is_told_by_its_position_and_changes_nothing(damaged: bytes | str) -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([1, 2])
    answer(held, rows, {"metadata.v": 1, "scope": "default"})
    broken = payload()._replace(metadata=damaged)

    with pytest.raises(CorruptStore, match="position=3"):
        held.append([*of_values([3]), broken])
    with pytest.raises(CorruptStore, match="position=1"):
        held.replace(1, broken)
    with pytest.raises(CorruptStore, match="position=1"):
        held.hold([("w",)], [rows[0], broken])

    assert answer(held, rows, {"metadata.v": {"$exists": True}, "scope": "default"}) == [0, 1]


def test_a_row_that_is_not_there_cannot_be_replaced() -> None:
    held, rows = Columns(FILTER_FIELDS), of_values([1])
    answer(held, rows, {"metadata.v": 1})

    for position in (-1, 1):
        with pytest.raises(IndexError, match="there are 1 rows"):
            held.replace(position, rows[0])


def test_size_counts_rows_and_distinct_values() -> None:
    few, many = Columns(FILTER_FIELDS), Columns(FILTER_FIELDS)
    answer(few, of_values(["same"] * 10_000), {"metadata.v": "same"})
    answer(many, of_values([f"text {number}" for number in range(10_000)]), {"metadata.v": "same"})

    assert 40_000 <= few.size_bytes < 60_000
    assert 500_000 < many.size_bytes < 1_500_000
