"""BM25: the formula by hand, and which terms of a query generate candidates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.storage.text import bm25


def test_the_weight_of_a_term_is_the_published_formula() -> None:
    idf = math.log(1 + (10 - 2 + 0.5) / (2 + 0.5))

    assert bm25.inverse_document_frequency(2, 10) == pytest.approx(idf)
    assert bm25.score(3, 20, 10.0, idf) == pytest.approx(idf * 3 * 2.5 / (3 + 1.5 * (0.25 + 0.75 * 2)))


def test_a_term_of_every_text_still_counts_a_little() -> None:
    assert 0 < bm25.inverse_document_frequency(10, 10) < 0.1


def test_statistics_read_during_a_deletion_do_not_break_the_logarithm() -> None:
    assert bm25.inverse_document_frequency(12, 10) == bm25.inverse_document_frequency(10, 10)


@given(tf=st.integers(1, 1_000), length=st.integers(1, 10_000), average=st.floats(0.5, 10_000), idf=st.floats(0.01, 20))
def test_a_weight_grows_with_frequency_and_shrinks_with_length(
    tf: int, length: int, average: float, idf: float
) -> None:
    weight = bm25.score(tf, length, average, idf)

    assert weight <= bm25.score(tf + 1, length, average, idf)
    assert weight >= bm25.score(tf, length + 1, average, idf)
    assert 0 < weight < idf * (bm25.K1 + 1)


@given(st.lists(st.floats(0.001, 50), min_size=2, max_size=12), st.randoms())
def test_the_order_of_addition_is_not_seen_after_rounding(weights: list[float], random: object) -> None:
    assert bm25.rounded(sum(weights)) == pytest.approx(bm25.rounded(sum(reversed(weights))), abs=1.1 * bm25.ROUNDING)


def test_scores_that_differ_by_an_ulp_are_ties() -> None:
    assert bm25.rounded(0.1 + 0.2) == bm25.rounded(0.3) == 0.3


def test_ties_go_by_id() -> None:
    assert bm25.ranked({"b": 1.0, "a": 1.0 + 1e-9, "c": 2.0}, limit=3) == [("c", 2.0), ("a", 1.0), ("b", 1.0)]


def test_only_the_best_are_kept() -> None:
    assert [identity for identity, _ in bm25.ranked({"a": 1.0, "b": 3.0, "c": 2.0}, limit=2)] == ["b", "c"]


def test_a_common_term_scores_and_does_not_generate() -> None:
    plan = bm25.plan_terms({"the": 1, "zurich": 1}, {"the": 900, "zurich": 3}, 1_000)

    assert plan.generating == ("zurich",)
    assert [weighted.term for weighted in plan.scoring] == ["zurich", "the"]


def test_common_terms_generate_when_nothing_else_is_left() -> None:
    plan = bm25.plan_terms({"the": 1, "of": 1, "absent": 1}, {"the": 900, "of": 800}, 1_000)

    assert plan.generating == ("of", "the")


def test_a_small_store_has_no_common_terms() -> None:
    plan = bm25.plan_terms({"the": 1, "zurich": 1}, {"the": 900, "zurich": 3}, 999)

    assert plan.generating == ("zurich", "the")


def test_a_term_at_the_ceiling_itself_still_generates() -> None:
    plan = bm25.plan_terms({"half": 1, "rare": 1}, {"half": 200, "rare": 1}, 1_000)

    assert plan.generating == ("rare", "half")


def test_terms_that_occur_nowhere_are_dropped() -> None:
    assert bm25.plan_terms({"absent": 1, "gone": 2}, {"gone": 0}, 10) == bm25.QueryPlan(generating=(), scoring=())


def test_a_repeated_term_counts_once() -> None:
    assert bm25.plan_terms(["ada", "ada"], {"ada": 2}, 10) == bm25.plan_terms(["ada"], {"ada": 2}, 10)


def test_an_endless_query_keeps_its_rarest_terms() -> None:
    df = {f"t{number:04}": number + 1 for number in range(2_000)}
    plan = bm25.plan_terms(df, df, 5_000)

    assert [weighted.term for weighted in plan.scoring] == sorted(df)[: bm25.QUERY_TERMS_MAX]


def test_the_plan_gives_each_term_its_weight() -> None:
    plan = bm25.plan_terms(["ada"], {"ada": 2}, 10)

    assert plan.idf == {"ada": bm25.inverse_document_frequency(2, 10)}
