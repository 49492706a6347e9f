"""The searchable text of a memory: words, speaker, date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from llmspell.storage.text.analyser import Analyser
from llmspell.storage.text.memory_text import memory_text, spoken_date

AT = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def test_speaker_and_date_stand_before_the_words() -> None:
    assert memory_text("I moved to Zurich.", "Caroline", AT) == "Caroline, 8 May 2023: I moved to Zurich."


def test_a_memory_without_a_role_begins_with_its_date() -> None:
    assert memory_text("It rained.", "", AT) == "8 May 2023: It rained."


def test_the_date_is_that_of_utc() -> None:
    late = datetime(2023, 12, 31, 22, 0, tzinfo=timezone(timedelta(hours=-5)))

    assert spoken_date(late) == "1 January 2024"


@pytest.mark.parametrize("query", ["what did the assistant say?", "what happened in May?", "what of 2023?"])
def test_role_month_and_year_can_be_asked_for(query: str) -> None:
    analyser = Analyser()

    assert set(analyser.query_counts(query)) & set(analyser.terms(memory_text("Done.", "assistant", AT)))
