"""Filling a token budget: nothing over it, nothing lost, every refusal explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.errors import InvalidLimit
from llmspell.retrieval.budget import Item, Packed, Reason, pack

START = datetime(2026, 5, 1, tzinfo=UTC)
WORDS = ("ada", "moved", "to", "zurich", "in", "may", "not", "3", "4")

items_of_any_kind = st.lists(
    st.builds(
        Item,
        id=st.sampled_from([f"i{number:02}" for number in range(30)]),
        text=st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
        tokens=st.integers(0, 40),
        score=st.floats(0, 1),
        group=st.sampled_from(["", "facts", "memories"]),
        at=st.none() | st.integers(0, 9).map(lambda days: START + timedelta(days=days)),
    ),
    max_size=25,
)
budgets = st.integers(0, 200)


def texts_of_the_same_words(different: int) -> tuple[str, str]:
    """Two texts of 40 words that differ in so many of them."""
    first = [f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(40)]
    second = [f"other{word}" if n < different else word for n, word in enumerate(first)]
    return " ".join(first), " ".join(second)


def pack_texts(*texts: str) -> Packed:
    items = [Item(id=str(number), text=text, tokens=1) for number, text in enumerate(texts)]
    return pack(items, max_tokens=100)


@given(items_of_any_kind, budgets, st.integers(0, 5))
def test_the_budget_is_never_exceeded(items: list[Item], max_tokens: int, overhead: int) -> None:
    packed = pack(items, max_tokens=max_tokens, overhead=overhead, sections={"facts": 6, "memories": 4})

    headings = sum({"facts": 6, "memories": 4}.get(group, 0) for group in {item.group for item in packed.chosen})
    assert packed.tokens_used == headings + sum(item.tokens + overhead for item in packed.chosen)
    assert packed.tokens_used <= max_tokens


@given(items_of_any_kind, budgets)
def test_every_item_is_chosen_or_rejected(items: list[Item], max_tokens: int) -> None:
    packed = pack(items, max_tokens=max_tokens, min_score=0.3)

    accounted = [*packed.chosen, *(rejected.item for rejected in packed.rejected)]
    assert sorted(map(repr, accounted)) == sorted(map(repr, items))


@given(items_of_any_kind, budgets)
def test_every_rejection_has_a_reason_and_a_sentence(items: list[Item], max_tokens: int) -> None:
    chosen = pack(items, max_tokens=max_tokens, min_score=0.3)

    for rejected in chosen.rejected:
        assert rejected.reason in Reason
        assert rejected.sentence
        assert (rejected.duplicate_of is not None) == (rejected.reason is Reason.DUPLICATE)


@given(items_of_any_kind, budgets)
def test_what_would_still_fit_is_never_rejected_for_the_budget(items: list[Item], max_tokens: int) -> None:
    packed = pack(items, max_tokens=max_tokens, overhead=2)

    for rejected in packed.rejected:
        if rejected.reason is Reason.BUDGET:
            assert packed.tokens_used + rejected.item.tokens + 2 > max_tokens


@given(items_of_any_kind, budgets)
def test_the_same_items_give_the_same_context(items: list[Item], max_tokens: int) -> None:
    assert pack(items, max_tokens=max_tokens) == pack(list(items), max_tokens=max_tokens)


@given(items_of_any_kind, budgets)
def test_a_duplicate_names_an_item_that_was_chosen(items: list[Item], max_tokens: int) -> None:
    packed = pack(items, max_tokens=max_tokens)

    named = {rejected.duplicate_of for rejected in packed.rejected} - {None}
    assert named <= {item.id for item in packed.chosen}


def test_a_smaller_item_gets_its_chance_after_one_that_does_not_fit() -> None:
    items = [Item("first", "one", 6), Item("large", "two", 50), Item("small", "three", 4)]

    packed = pack(items, max_tokens=10)

    assert {item.id for item in packed.chosen} == {"first", "small"}
    assert [(one.item.id, one.reason) for one in packed.rejected] == [("large", Reason.BUDGET)]
    assert packed.rejected[0].sentence == "needs 50 tokens where 4 are left"


def test_an_item_of_exactly_the_budget_fits() -> None:
    assert pack([Item("a", "x", 10)], max_tokens=10).tokens_used == 10


def test_chosen_items_are_read_in_the_order_of_time_then_id() -> None:
    items = [
        Item("c", "later", 1, at=START + timedelta(days=1)),
        Item("b", "same day", 1, at=START),
        Item("a", "the same day", 1, at=START),
        Item("d", "timeless", 1),
    ]

    assert [item.id for item in pack(items, max_tokens=9).chosen] == ["d", "a", "b", "c"]


def test_sections_are_read_in_the_order_given_and_others_after_them() -> None:
    items = [
        Item("m", "one", 1, group="memories"),
        Item("z", "two", 1, group="extra"),
        Item("f", "three", 1, group="facts"),
    ]

    packed = pack(items, max_tokens=20, sections={"facts": 3, "memories": 3})

    assert [item.group for item in packed.chosen] == ["facts", "memories", "extra"]


def test_the_heading_of_a_section_is_paid_once() -> None:
    items = [Item("a", "one", 2, group="facts"), Item("b", "two", 2, group="facts")]

    assert pack(items, max_tokens=20, sections={"facts": 5}).tokens_used == 9


def test_an_item_whose_heading_does_not_fit_is_rejected() -> None:
    packed = pack([Item("a", "one", 2, group="facts")], max_tokens=6, sections={"facts": 5})

    assert [one.reason for one in packed.rejected] == [Reason.BUDGET]


@pytest.mark.parametrize("other", ["ada MOVED to  zurich.", "Ada moved to Zurich.\n", "Ａda moved to Zurich."])
def test_the_same_text_in_other_clothes_is_a_duplicate(other: str) -> None:
    packed = pack_texts("Ada moved to Zurich.", other)

    assert [(one.reason, one.duplicate_of) for one in packed.rejected] == [(Reason.DUPLICATE, "0")]


def test_texts_that_differ_in_punctuation_alone_are_duplicates() -> None:
    assert len(pack_texts("Well, Ada moved to Zurich!", "Well Ada moved to Zurich").rejected) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Ada likes the new flat in Zurich very much", "Ada does not like the new flat in Zurich very much"),
        ("Ada pays 2,000 for the flat", "Ada pays 3,000 for the flat"),
        ("Ada lives in Zurich", "Ben lives in Zurich"),
        ("🎉", "👍"),
    ],
)
def test_texts_that_say_something_else_are_both_kept(first: str, second: str) -> None:
    assert pack_texts(first, second).rejected == ()


def test_long_texts_with_one_other_word_are_near_duplicates() -> None:
    assert [one.reason for one in pack_texts(*texts_of_the_same_words(1)).rejected] == [Reason.DUPLICATE]


def test_long_texts_with_three_other_words_are_not() -> None:
    assert pack_texts(*texts_of_the_same_words(3)).rejected == ()


def test_long_texts_with_one_other_number_are_not() -> None:
    first, _ = texts_of_the_same_words(0)

    assert pack_texts(f"{first} 3", f"{first} 4").rejected == ()


def test_the_better_ranked_of_two_duplicates_stays() -> None:
    items = [Item("second", "same", 1, at=START), Item("first", "same", 1, at=START - timedelta(days=1))]

    assert [item.id for item in pack(items, max_tokens=5).chosen] == ["second"]


def test_an_item_that_did_not_fit_makes_no_duplicates() -> None:
    packed = pack([Item("large", "same words", 50), Item("small", "same words", 2)], max_tokens=10)

    assert [item.id for item in packed.chosen] == ["small"]


def test_the_same_id_twice_is_a_duplicate_of_itself() -> None:
    packed = pack([Item("a", "one", 1), Item("a", "two", 1)], max_tokens=5)

    assert [(one.reason, one.duplicate_of) for one in packed.rejected] == [(Reason.DUPLICATE, "a")]


def test_an_item_below_min_score_says_so() -> None:
    packed = pack([Item("a", "one", 1, score=0.25)], max_tokens=5, min_score=0.5)

    assert [(one.reason, one.sentence) for one in packed.rejected] == [
        (Reason.BELOW_MIN_SCORE, "its score 0.25 is below min_score 0.5")
    ]


def test_a_score_of_exactly_min_score_stays() -> None:
    assert len(pack([Item("a", "one", 1, score=0.5)], max_tokens=5, min_score=0.5).chosen) == 1


def test_nothing_to_pack_is_an_empty_context() -> None:
    assert pack([], max_tokens=100) == Packed((), (), 0)


@pytest.mark.parametrize("max_tokens", [-1, True, 1.5, 10**9])
def test_a_budget_that_is_no_budget_is_refused(max_tokens: int) -> None:
    with pytest.raises(InvalidLimit, match="max_tokens"):
        pack([], max_tokens=max_tokens)


def test_a_negative_token_count_is_refused() -> None:
    with pytest.raises(InvalidLimit, match="tokens of a"):
        pack([Item("a", "one", -1)], max_tokens=5)
