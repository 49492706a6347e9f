"""The searchable text of a memory: who said it and when belong to it.

Rule 1: terms and embedding are made from this one text, so that both rankers know the same about a memory.
Rule 2: it depends on nothing but its arguments: no locale, no time zone, no clock.

People ask "what did Caroline say in May?", and the words of the memory itself hold neither name nor month. Measured
on two long dialogues (evidence recall@10 of BM25 alone): the bare text 0.572, with the speaker 0.608, with speaker
and date 0.619. A weekday or the time of day adds nothing that a second measurement confirms.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def spoken_date(at: datetime) -> str:
    """The UTC date of an aware instant as people write it: "8 May 2023"."""
    day = at.astimezone(UTC)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def memory_text(content: str, role: str, at: datetime) -> str:
    """The text of a memory as it is searched, embedded and read: "Caroline, 8 May 2023: I moved to Zurich."

    `role` is the speaker's name or a generic role ("user", "assistant", "system", "tool"); a generic one counts as
    text too: "what did the assistant say?" is a fair question. An empty role is left out. `at` must be aware.
    """
    return f"{role}, {spoken_date(at)}: {content}" if role else f"{spoken_date(at)}: {content}"
