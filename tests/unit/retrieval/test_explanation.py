"""Why an item was found, in data and in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime

from llmspell.retrieval.explanation import Match, explain
from llmspell.retrieval.fusion import MEANING, WORDS, Fused

AT = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
BOTH = Fused("m1", 0.031, {MEANING: 1, WORDS: 2}, {MEANING: 0.7123, WORDS: 8.25})


def test_the_sentence_names_rankers_ranks_terms_and_time() -> None:
    found = explain(BOTH, terms=["zurich", "move"], role="Ada", at=AT)

    assert found.sentence == "word match rank 2 (zurich, move), meaning rank 1 at 0.71, said by Ada on 8 May 2023"


def test_a_time_without_a_speaker_is_said_alone() -> None:
    assert explain(BOTH, at=AT).sentence == "word match rank 2, meaning rank 1 at 0.71, said 8 May 2023"


def test_a_speaker_without_a_time_is_said_alone() -> None:
    assert explain(BOTH, role="Ada").sentence.endswith(", said by Ada")


def test_the_data_says_what_the_sentence_says() -> None:
    assert explain(BOTH, terms=["zurich"]).matches == (Match(WORDS, 2, 8.25, ("zurich",)), Match(MEANING, 1, 0.7123))


def test_a_silent_ranker_is_not_mentioned() -> None:
    assert explain(Fused("m1", 0.016, {MEANING: 3}, {MEANING: 0.5})).sentence == "meaning rank 3 at 0.50"


def test_many_terms_are_shortened_in_the_sentence_and_kept_in_the_data() -> None:
    found = explain(BOTH, terms="abcdefg")

    assert found.sentence.startswith("word match rank 2 (a, b, c, d, e, …),")
    assert found.matches[0].terms == tuple("abcdefg")


def test_an_item_that_no_ranker_found_has_the_reason_that_the_caller_gives() -> None:
    assert explain(Fused("m1", 0.0, {}, {}), note="next to the best hit").sentence == "next to the best hit"


def test_other_rankers_follow_by_name() -> None:
    fused = Fused("m1", 0.1, {"graph": 1, "age": 2, WORDS: 3}, {"graph": 1.0, "age": 1.0, WORDS: 1.0})

    assert explain(fused).sentence == "word match rank 3, age rank 2, graph rank 1"
