"""Windows of a text: each fits, together they are the text, and finding them is cheap."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.errors import InvalidLimit
from llmspell.retrieval.windows import split_to_fit

_PIECES = re.compile(r"[a-zA-Z]{1,4}|[0-9]|\S")
CODE = "if(x[i]!=y->z[j*2+1]){f(&a,b<<3|0xFF);}//??\n" * 300
FAMILY = "👨‍👩‍👧‍👦"


def pieces(text: str) -> int:
    """A tokenizer's counts: pieces of words, each digit, each sign and each character of other scripts."""
    return len(_PIECES.findall(text))


def words_or_unknown(text: str) -> int:
    """Counts that fall when a text grows: a word of more than 20 characters is one unknown token, as in WordPiece."""
    return sum(1 if len(word) > 20 else len(word) for word in text.split())


def utf8_bytes(text: str) -> int:
    return len(text.encode())


def covers(text: str, windows: list[str]) -> bool:
    """Whether `windows` are slices of `text`, in order, that leave nothing out."""
    reached = begin = 0
    for number, window in enumerate(windows):
        begin = text.find(window, begin + (number > 0))
        if not 0 <= begin <= reached or begin + len(window) <= reached:
            return False
        reached = begin + len(window)
    return reached == len(text)


TEXTS = st.text(max_size=400) | st.lists(
    st.sampled_from(["a ", "word ", "x" * 90, "中文字", " ", "\n\n", "e\u0301", FAMILY, "f(x);", "\u3000", "naïve "]),
    max_size=80,
).map("".join)


@given(
    TEXTS, st.integers(4, 40), st.sampled_from([pieces, words_or_unknown, utf8_bytes]), st.sampled_from([0, 0.1, 0.5])
)
def test_every_window_fits_and_no_character_is_lost(
    text: str, max_tokens: int, count: Callable[[str], int], overlap: float
) -> None:
    windows = split_to_fit(text, count=count, max_tokens=max_tokens, overlap=overlap)

    assert all(count(window) <= max_tokens for window in windows)
    position = 0
    for window in windows:  # the earliest place that touches what came before, so that repeated texts do not mislead
        places = [at for at in range(position + 1) if text.startswith(window, at) and at + len(window) >= position]
        assert places
        position = max(position, places[-1] + len(window))
    assert position == len(text)


@pytest.mark.parametrize(
    "text",
    [
        "".join(chr(0x4E00 + i % 5_000) for i in range(16_000)),
        "".join(chr(97 + i * i % 26) for i in range(5_000)),
        "".join(chr(0x1F300 + i % 700) for i in range(4_000)),
        CODE,
        " ".join(f"word{i}" for i in range(4_000)),
        "short " + "y" * 5_000 + " tail of a few words",
    ],
    ids=["chinese", "one long word", "emoji", "code", "prose", "long word between short ones"],
)
def test_long_texts_become_few_well_filled_windows_with_few_counts(text: str) -> None:
    counted: list[int] = []

    def count(part: str) -> int:
        counted.append(len(part))
        return pieces(part)

    windows = split_to_fit(text, count=count, max_tokens=254, overlap=0.1)

    assert all(pieces(window) <= 254 for window in windows)
    assert len(windows) <= math.ceil(pieces(text) / (254 * 0.9 * 0.8)) + 2
    assert len(counted) <= 2 + 4 * len(windows)
    assert sum(counted) <= 6 * len(text)


def test_windows_overlap_by_about_a_tenth() -> None:
    text = " ".join(f"w{i}" for i in range(3_000))

    windows = split_to_fit(text, count=pieces, max_tokens=254, overlap=0.1)

    shared = []
    for left, right in itertools.pairwise(windows):
        first = right.split()[0]
        shared.append(len(left[left.index(f"{first} ") :]) / len(left))
    assert min(shared) >= 0.05
    assert max(shared) <= 0.2
    assert covers(text, windows)


def test_words_are_not_cut_where_a_window_has_room_for_them() -> None:
    text = " ".join(["remembering", "the", "migration", "of", "databases"] * 60)

    windows = split_to_fit(text, count=pieces, max_tokens=20)

    assert {word for window in windows for word in window.split()} == {
        "remembering", "the", "migration", "of", "databases"
    }  # fmt: skip


def test_a_space_does_not_shorten_a_window_of_a_script_without_spaces() -> None:
    text = ("中" * 450 + " ") * 4

    windows = split_to_fit(text, count=pieces, max_tokens=100, overlap=0)

    assert len(windows) <= 21


def test_an_accent_stays_with_its_letter_and_a_joined_pictograph_is_one() -> None:
    accents = split_to_fit("e\u0301" * 300, count=len, max_tokens=21, overlap=0)
    families = split_to_fit(FAMILY * 50, count=len, max_tokens=20, overlap=0)

    assert not any(window.startswith("\u0301") for window in accents)
    assert all(window.replace(FAMILY, "") == "" for window in families)


def test_a_text_that_fits_comes_back_as_it_is() -> None:
    assert split_to_fit("  two words ", count=pieces, max_tokens=4) == ["  two words "]
    assert split_to_fit("", count=pieces, max_tokens=1) == [""]


def test_a_limit_below_the_tokens_of_one_character_is_refused() -> None:
    with pytest.raises(InvalidLimit, match="max_tokens"):
        split_to_fit("ab😀", count=utf8_bytes, max_tokens=3)
    with pytest.raises(InvalidLimit, match="max_tokens"):
        split_to_fit("ab", count=utf8_bytes, max_tokens=0)
    with pytest.raises(InvalidLimit, match="overlap"):
        split_to_fit("ab", count=utf8_bytes, max_tokens=1, overlap=1)
