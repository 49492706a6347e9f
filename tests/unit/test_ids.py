"""Ids increase within a source, whatever its clock does, however many are made at once."""

from __future__ import annotations

import copy
import pickle
from uuid import RFC_4122, UUID

import pytest

from llmspell.clock import ManualClock, to_microseconds
from llmspell.ids import IdSource, id_of

PER_MILLISECOND = 4_096
"""What the counter of one instant can tell apart."""


def test_ids_made_at_once_are_in_order_with_those_before_and_after() -> None:
    ids = IdSource(ManualClock())

    made = [ids.new(), *ids.new_many(2 * PER_MILLISECOND + 5), ids.new(), *ids.new_many(0), *ids.new_many(2), ids.new()]

    assert made == sorted(set(made))


def test_ids_increase_when_the_clock_goes_back() -> None:
    clock = ManualClock()
    ids = IdSource(clock)
    before = ids.new_many(3)

    clock.advance(seconds=-3_600)

    made = [*before, *ids.new_many(3), ids.new()]
    assert made == sorted(set(made))


def test_an_id_is_a_uuid_of_version_7_with_the_time_of_the_clock() -> None:
    clock = ManualClock()

    for id in (IdSource(clock).new(), *IdSource(clock).new_many(3)):
        assert (id.version, id.variant) == (7, RFC_4122)
        assert id.int >> 80 == to_microseconds(clock.now()) // 1_000


def test_two_sources_of_one_instant_make_different_ids() -> None:
    clock = ManualClock()
    made = [id for _ in range(100) for id in IdSource(clock).new_many(100)]

    assert len(set(made)) == len(made)
    assert {id.int & 1 for id in made} == {0, 1}
    assert {id.int >> 61 & 1 for id in made} == {0, 1}


def test_an_id_of_16_bytes_is_the_uuid_of_those_bytes_in_every_respect() -> None:
    for raw in (bytes(16), b"\xff" * 16, IdSource(ManualClock()).new().bytes):
        made, expected = id_of(raw), UUID(bytes=raw)
        assert made == expected
        assert (hash(made), str(made), made.is_safe) == (hash(expected), str(expected), expected.is_safe)
        assert pickle.loads(pickle.dumps(made)) == copy.copy(made) == expected


@pytest.mark.parametrize("raw", [b"", bytes(15), bytes(17)])
def test_other_bytes_are_no_id(raw: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        id_of(raw)
