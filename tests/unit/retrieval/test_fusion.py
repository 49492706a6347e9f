"""Fusing rankings: laws that hold for any rankings, and both formulas by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.errors import InvalidLimit
from llmspell.retrieval.fusion import (
    MEANING,
    WORDS,
    Candidate,
    Fused,
    convex_combination,
    reciprocal_rank_fusion,
)

Rankings = Mapping[str, Sequence[Candidate]]
Fusion = Callable[[Rankings], list[Fused]]

both_ways = pytest.mark.parametrize("fuse", [reciprocal_rank_fusion, convex_combination])


def ranking(scores: dict[str, float]) -> list[Candidate]:
    return sorted((Candidate(*pair) for pair in scores.items()), key=lambda one: (-one.score, one.id))


some_ranking = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1_000).map(lambda n: n / 100)).map(ranking)
some_rankings = st.dictionaries(st.sampled_from([WORDS, MEANING, "graph", "age"]), some_ranking, max_size=4)


@both_ways
@given(rankings=some_rankings, data=st.data())
def test_the_order_of_the_rankers_changes_nothing(fuse: Fusion, rankings: Rankings, data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(rankings.items()))))

    assert fuse(rankings) == fuse(shuffled)


@both_ways
@given(rankings=some_rankings)
def test_a_ranker_without_hits_changes_nothing(fuse: Fusion, rankings: Rankings) -> None:
    assert fuse({**rankings, "silent": []}) == fuse(rankings)


@both_ways
@given(rankings=some_rankings)
def test_an_item_that_all_rankers_put_first_wins(fuse: Fusion, rankings: Rankings) -> None:
    crowned = {name: [Candidate("winner", 99.0), *hits] for name, hits in rankings.items()}

    assert [one.id for one in fuse(crowned)][:1] == ["winner"] * bool(rankings)


@both_ways
@given(rankings=some_rankings)
def test_every_candidate_appears_once_with_its_ranks(fuse: Fusion, rankings: Rankings) -> None:
    fused = fuse(rankings)

    assert sorted(one.id for one in fused) == sorted({hit.id for hits in rankings.values() for hit in hits})
    for one in fused:
        for name, rank in one.ranks.items():
            assert rankings[name][rank - 1] == Candidate(one.id, one.scores[name])


@both_ways
@given(rankings=some_rankings)
def test_the_result_is_sorted_by_score_then_id(fuse: Fusion, rankings: Rankings) -> None:
    fused = fuse(rankings)

    assert fused == sorted(fused, key=lambda one: (-one.score, one.id))


@both_ways
@given(hits=some_ranking)
def test_a_single_ranking_keeps_its_order(fuse: Fusion, hits: list[Candidate]) -> None:
    assert [one.id for one in fuse({WORDS: hits})] == [hit.id for hit in hits]


@given(rankings=some_rankings, data=st.data())
def test_a_better_rank_never_lowers_a_reciprocal_score(rankings: Rankings, data: st.DataObject) -> None:
    long_enough = sorted(name for name, hits in rankings.items() if len(hits) > 1)
    if not long_enough:
        return
    name = data.draw(st.sampled_from(long_enough))
    hits = list(rankings[name])
    place = data.draw(st.integers(1, len(hits) - 1))
    hits[place - 1], hits[place] = hits[place], hits[place - 1]
    risen = hits[place - 1].id

    assert _score_of(risen, reciprocal_rank_fusion({**rankings, name: hits})) > _score_of(
        risen, reciprocal_rank_fusion(rankings)
    )


@given(rankings=some_rankings)
def test_convex_scores_lie_between_zero_and_one(rankings: Rankings) -> None:
    assert all(0 <= one.score <= 1 for one in convex_combination(rankings))


@given(first=some_ranking, second=some_ranking)
def test_an_item_that_is_better_everywhere_is_better_in_a_convex_combination(
    first: list[Candidate], second: list[Candidate]
) -> None:
    fused = convex_combination({WORDS: first, MEANING: second})
    for better in fused:
        for worse in fused:
            if all(better.scores.get(name, 0) >= score for name, score in worse.scores.items()):
                assert better.score >= worse.score


def test_reciprocal_scores_are_the_published_formula() -> None:
    fused = reciprocal_rank_fusion({WORDS: [Candidate("a", 9.0), Candidate("b", 5.0)], MEANING: [Candidate("b", 0.7)]})

    assert fused == [
        Fused("b", pytest.approx(1 / 62 + 1 / 61), {WORDS: 2, MEANING: 1}, {WORDS: 5.0, MEANING: 0.7}),
        Fused("a", pytest.approx(1 / 61), {WORDS: 1}, {WORDS: 9.0}),
    ]


def test_convex_scores_are_scaled_and_averaged() -> None:
    rankings = {
        WORDS: [Candidate("a", 8.0), Candidate("b", 2.0)],
        MEANING: [Candidate("b", 0.9), Candidate("c", 0.7), Candidate("a", 0.5)],
    }

    assert {one.id: one.score for one in convex_combination(rankings)} == {"a": 0.5, "b": 0.625, "c": 0.25}


def test_a_floor_that_is_given_replaces_the_lowest_candidate() -> None:
    rankings = {MEANING: [Candidate("a", 0.8), Candidate("b", 0.4)]}

    assert [one.score for one in convex_combination(rankings, floors={MEANING: 0.0})] == [1.0, 0.5]


def test_candidates_that_are_all_alike_share_the_best_score() -> None:
    rankings = {MEANING: [Candidate("a", 0.4), Candidate("b", 0.4)]}

    assert [one.score for one in convex_combination(rankings)] == [1.0, 1.0]


def test_a_clear_winner_by_words_beats_a_narrow_one_by_meaning() -> None:
    rankings = {
        WORDS: [Candidate("a", 10.0), Candidate("b", 1.0)],
        MEANING: [Candidate("b", 0.51), Candidate("a", 0.50), Candidate("c", 0.10)],
    }

    assert convex_combination(rankings)[0].id == "a"
    assert reciprocal_rank_fusion(rankings)[0].score == reciprocal_rank_fusion(rankings)[1].score


@both_ways
def test_weights_decide_between_rankers(fuse: Callable[..., list[Fused]]) -> None:
    rankings = {WORDS: [Candidate("a", 1.0)], MEANING: [Candidate("b", 1.0)]}

    assert [one.id for one in fuse(rankings)] == ["a", "b"]
    assert [one.id for one in fuse(rankings, weights={MEANING: 2.0})] == ["b", "a"]


@both_ways
def test_a_ranker_of_weight_zero_is_left_out(fuse: Callable[..., list[Fused]]) -> None:
    rankings = {WORDS: [Candidate("a", 1.0)], MEANING: [Candidate("b", 1.0)]}

    assert [one.id for one in fuse(rankings, weights={WORDS: 0.0})] == ["b"]


@both_ways
def test_an_id_that_a_ranking_repeats_counts_at_its_best_rank(fuse: Callable[..., list[Fused]]) -> None:
    [one] = fuse({WORDS: [Candidate("a", 2.0), Candidate("a", 1.0)]})

    assert (one.ranks, one.scores) == ({WORDS: 1}, {WORDS: 2.0})


@both_ways
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(fuse: Callable[..., list[Fused]], weight: float) -> None:
    with pytest.raises(InvalidLimit, match="weights"):
        fuse({WORDS: [Candidate("a", 1.0)]}, weights={WORDS: weight})


def test_a_negative_k_is_refused() -> None:
    with pytest.raises(InvalidLimit, match="`k`"):
        reciprocal_rank_fusion({}, k=-1)


@both_ways
def test_nothing_fused_is_nothing(fuse: Fusion) -> None:
    assert fuse({}) == fuse({WORDS: [], MEANING: []}) == []


def _score_of(identity: str, fused: list[Fused]) -> float:
    return next(one.score for one in fused if one.id == identity)
