"""The same call has the same fingerprint, and another one has not."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.errors import InvalidInput
from llmspell.fingerprint import fingerprint


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 0


class Verbs:
    async def put(self, key: str, value: Any = None, *, tags: Any = (), progress: Any = None) -> None: ...


def of(*args: Any, **kwargs: Any) -> bytes:
    return fingerprint("things.put", Verbs.put, args, kwargs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ID = UUID("018f3a4e-0000-7000-8000-000000000001")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@given(value=JSON)
def test_a_repeated_call_has_the_same_fingerprint(value: Any) -> None:
    assert of("k", value) == of(key="k", value=value, tags=())


@given(one=JSON, other=JSON)
def test_another_value_has_another_fingerprint(one: Any, other: Any) -> None:
    same = repr(sorted_deep(one)) == repr(sorted_deep(other))

    assert (of("k", one) == of("k", other)) is same


def sorted_deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_deep(value[key]) for key in sorted(value)}
    return [sorted_deep(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        (b"a", "a"),
        (None, "None"),
        (["ab", "c"], ["a", "bc"]),
        ({"a": 1}, {"a": {"a": 1}}),
        ([], {}),
        ([], None),
        (Point(1), Point(2)),
        (Point(1), {"x": 1, "y": 0}),
        (NOON, NOON + timedelta(microseconds=1)),
        ({1, 2}, {1, 3}),
        (numpy.zeros(3, "f4"), numpy.ones(3, "f4")),
    ],
)
def test_values_that_only_look_alike_differ(one: Any, other: Any) -> None:
    assert of("k", one) != of("k", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ID, str(ID)),
        ([1, 2], (1, 2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1}, frozenset({1, 3})),
        (NOON, NOON.astimezone(timezone(timedelta(hours=2)))),
        (b"abc", bytearray(b"abc")),
    ],
)
def test_two_ways_to_say_the_same_are_the_same(one: Any, other: Any) -> None:
    assert of("k", one) == of("k", other)


def test_the_operation_counts_and_a_callback_does_not() -> None:
    assert fingerprint("a.put", Verbs.put, ("k",), {}) != fingerprint("b.put", Verbs.put, ("k",), {})
    assert of("k", progress=print) == of("k", progress=len)


def test_a_file_is_told_by_what_it_holds_and_left_where_it_stood() -> None:
    file = io.BytesIO(b"header" + bytes(3_000_000))
    file.seek(6)

    first = of("k", file)

    assert file.tell() == 6
    assert of("k", io.BytesIO(bytes(3_000_000))) == first
    assert of("k", io.BytesIO(bytes(2_999_999))) != first


@pytest.mark.parametrize("stream", [iter([1]), (n for n in range(3)), object()])
def test_what_can_be_read_only_once_is_refused(stream: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        of("k", stream)

    assert caught.value.field == "value"


def test_arguments_that_do_not_fit_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        of("k", colour="red")
