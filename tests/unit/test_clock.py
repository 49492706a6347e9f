from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from llmspell.clock import parse_instant
from llmspell.errors import InvalidTime


@pytest.mark.parametrize("text", ["2026-05-01T09:30:00Z", "2026-05-01t09:30:00z", "2026-05-01T11:30:00+02:00"])
def test_an_instant_is_read_with_either_case_of_its_letters(text: str) -> None:
    assert parse_instant(text, field="at") == datetime(2026, 5, 1, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        "0000-01-01",
        "10000-01-01",
        "+12026-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "0001-01-01T00:00:00+01:00",
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
    ],
)
def test_an_instant_beyond_the_calendar_is_told_the_range(given: str | datetime) -> None:
    with pytest.raises(InvalidTime, match="must be in the years 1 to 9999 in UTC"):
        parse_instant(given, field="at")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("2026-02-30", "day is out of range"),
        ("2026-13-01", "month must be in"),
        ("2026-05-01T25:00:00Z", "hour must be"),
    ],
)
def test_a_date_that_no_calendar_has_says_which_part_is_wrong(given: str, said: str) -> None:
    with pytest.raises(InvalidTime, match=f"must be in the calendar: {said}"):
        parse_instant(given, field="at")


@pytest.mark.parametrize("given", ["yesterday", "", "z", "Z", "2026", "2026-05-01T09:30 GMT"])
def test_what_is_no_instant_is_told_the_form(given: str) -> None:
    with pytest.raises(InvalidTime, match="must be ISO 8601"):
        parse_instant(given, field="at")
