"""When a call is begun again, and what it ends with: decided without a store, a clock that is told the time, and no waiting."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    IdempotencyConflict,
    LlmspellError,
    OutcomeUnknown,
    TenantInactive,
    TenantKeyMissing,
    TenantUnknown,
    Unavailable,
    VersionConflict,
)
from llmspell.retries import ATTEMPTS_MAX, PAUSE_MAX_S, REPEAT_FOR_S, Tries, pauses
from llmspell.settings import Settings

DEFAULT = Settings().transaction.attempts


def longest(_: float, most: float) -> float:
    return most


def ended(tries: Tries, clock: ManualClock, fails: Callable[[int], LlmspellError]) -> tuple[int, LlmspellError]:
    """Fail at every try, as `fails(number)`, and return after how many the call ended, and with what."""
    for number in range(1, ATTEMPTS_MAX + 1):
        try:
            pause_s = tries.failed(fails(number))
        except LlmspellError as error:
            return number, error
        clock.advance(seconds=pause_s)
    raise AssertionError("it went on for ever")


def test_pauses_grow_up_to_a_limit() -> None:
    most = list(pauses(12, uniform=longest))

    assert most[:3] == [0.005, 0.01, 0.02]
    assert max(most) == PAUSE_MAX_S
    assert len(most) == 11
    assert list(pauses(4, uniform=lambda least, _: least)) == [0, 0, 0]


def test_a_call_that_always_meets_another_ends_in_time_although_it_has_tries_left() -> None:
    clock = ManualClock()
    tries = Tries(ATTEMPTS_MAX, keyed=False, monotonic=clock.monotonic, uniform=longest)

    number, error = ended(tries, clock, lambda number: Conflict(f"conflict {number}"))

    assert isinstance(error, Conflict)
    assert error.detail == f"conflict {number}"
    assert error.__notes__ == [f"It was given up at try {number}."]
    assert REPEAT_FOR_S - PAUSE_MAX_S <= clock.monotonic() <= REPEAT_FOR_S
    assert number < DEFAULT


@pytest.mark.parametrize(("lasts_s", "most"), [(REPEAT_FOR_S, 2), (5.0, 7), (1_000.0, 2)])
def test_a_try_that_waits_for_a_lock_in_vain_is_not_repeated_as_often_as_one_that_fails_at_once(
    lasts_s: float, most: int
) -> None:
    clock = ManualClock()
    tries = Tries(DEFAULT, keyed=True, monotonic=clock.monotonic)

    def waits(_: int) -> LlmspellError:
        clock.advance(seconds=lasts_s)
        return Conflict("A lock is held by another transaction.")

    number, _ = ended(tries, clock, waits)

    assert 2 <= number <= most
    assert clock.monotonic() <= lasts_s + REPEAT_FOR_S + lasts_s


def test_tries_are_bounded_in_number() -> None:
    clock = ManualClock()
    tries = Tries(4, keyed=False, monotonic=clock.monotonic)

    assert ended(tries, clock, lambda _: Conflict())[0] == 4


@pytest.mark.parametrize("error", [AlreadyExists, VersionConflict, Unavailable, OutcomeUnknown])
def test_what_a_repetition_cannot_help_ends_the_call(error: type[LlmspellError]) -> None:
    with pytest.raises(error):
        Tries(4, keyed=False, monotonic=ManualClock().monotonic).failed(error())


@pytest.mark.parametrize("error", [TenantInactive, TenantUnknown, TenantKeyMissing, Unavailable, VersionConflict])
def test_what_fails_before_the_key_is_claimed_says_nothing_of_a_lost_answer(error: type[LlmspellError]) -> None:
    tries = Tries(4, keyed=True, monotonic=ManualClock().monotonic)
    tries.key_was_free()
    tries.failed(OutcomeUnknown("lost"))
    tries.failed(Conflict())

    with pytest.raises(OutcomeUnknown, match="lost") as caught:
        tries.failed(error())

    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("error", [TenantInactive, Unavailable, VersionConflict])
def test_a_key_that_is_free_says_that_a_lost_answer_was_no_effect(error: type[LlmspellError]) -> None:
    tries = Tries(4, keyed=True, monotonic=ManualClock().monotonic)
    tries.failed(OutcomeUnknown())
    tries.key_was_free()
    tries.failed(Conflict())

    with pytest.raises(error):
        tries.failed(error())


def test_a_key_that_is_anothers_says_so_too() -> None:
    tries = Tries(4, keyed=True, monotonic=ManualClock().monotonic)
    tries.failed(OutcomeUnknown())

    with pytest.raises(IdempotencyConflict):
        tries.failed(IdempotencyConflict())
