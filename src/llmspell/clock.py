"""Time: the injected clock, and the one way an instant gets in.

Rule 1: the core never asks the machine for the time; it asks the `Clock` it was given.
Rule 2: an instant is aware, in UTC, with microsecond precision; periods are half-open; `None` is an open end.
"""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from llmspell.errors import InvalidTime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_BEYOND = re.compile(r"[+-]\d{4,}-\d\d|\d{5,}-\d\d|0000-\d\d")
"""The beginning of a text that names a year outside of 1 to 9999."""


class Clock(Protocol):
    """What the core knows of time."""

    def now(self) -> datetime:
        """The current instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for durations, deadlines and limits."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to: for tests, and for replaying a story at its own dates."""

    def __init__(self, start: datetime | str = "2026-01-01T00:00:00Z") -> None:
        self._now = parse_instant(start, field="start")
        self._seconds = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, *, seconds: float = 0, days: float = 0) -> None:
        """Move forward (a negative amount moves the calendar back, as a corrected machine clock would)."""
        with self._lock:
            self._now += timedelta(days=days, seconds=seconds)
            self._seconds += max(0.0, seconds + days * 86_400)

    def set(self, instant: datetime | str) -> None:
        """Move to an instant."""
        with self._lock:
            moved = parse_instant(instant, field="instant")
            self._seconds += max(0.0, (moved - self._now).total_seconds())
            self._now = moved


def parse_instant(value: datetime | date | str, *, field: str) -> datetime:
    """Return `value` as an aware UTC instant.

    Accepted: an aware `datetime`; a `date` or a bare ISO date ("2026-05-01": 00:00 UTC); ISO 8601 text with an offset,
    whose `T` and `Z` may be lower case (RFC 3339, section 5.6).

    Raises:
        InvalidTime: naive, unreadable, or outside the years 1 to 9999 in UTC.
    """
    try:
        if isinstance(value, str):
            if len(value) == 10:
                return datetime.combine(date.fromisoformat(value), datetime.min.time(), UTC)
            parsed = datetime.fromisoformat(f"{value[:-1]}Z" if value.endswith("z") else value)
        elif isinstance(value, datetime):
            parsed = value
        elif isinstance(value, date):
            return datetime.combine(value, datetime.min.time(), UTC)
        else:
            raise InvalidTime(field, "must be an aware datetime, a date or ISO 8601 text", given=value)
        if parsed.utcoffset() is None:
            raise InvalidTime(
                field,
                "must say its offset from UTC",
                given=str(value),
                hint="Append `Z` or `+00:00`, or give a bare date.",
            )
        return parsed.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        given = value if isinstance(value, str) else str(value)
        if isinstance(exc, OverflowError) or _BEYOND.match(given):
            problem = "must be in the years 1 to 9999 in UTC"
        elif "range" in str(exc) or "must be in" in str(exc):  # "day is out of range for month"
            problem = f"must be in the calendar: {exc}"
        else:
            problem = "must be ISO 8601, such as 2026-05-01 or 2026-05-01T09:30:00Z"
        raise InvalidTime(field, problem, given=given) from exc


def optional_instant(value: datetime | date | str | None, *, field: str) -> datetime | None:
    """`parse_instant`, with None passed through."""
    return None if value is None else parse_instant(value, field=field)


def require_period(start: datetime | None, end: datetime | None, *, fields: tuple[str, str]) -> None:
    """Refuse a period that is empty or reversed.

    Raises:
        InvalidTime: `start` is not before `end`.
    """
    if start is not None and end is not None and start >= end:
        raise InvalidTime(fields[1], f"must be after `{fields[0]}` ({start.isoformat()})", given=end.isoformat())


def to_microseconds(instant: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (instant - EPOCH) // MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The instant so many microseconds after 1970, exact."""
    return EPOCH + timedelta(microseconds=value)
