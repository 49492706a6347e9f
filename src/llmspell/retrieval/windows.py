"""Cutting a text into windows that a model reads whole. Pure.

Not here: which tokenizer counts (the caller hands it in), and how many windows of one text are kept.

Rule 1: a window is a slice of the text, and together the windows hold every character of it.
Rule 2: a window is cut where a word begins, or anywhere in a script that is written without spaces. Only inside of a word
        that is longer than a window is it cut between letters, and even there no accent leaves its letter.
Rule 3: every window was counted as it is. A sum over words would be wrong: tokens depend on what stands beside them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import TYPE_CHECKING

from llmspell.errors import InvalidLimit

if TYPE_CHECKING:
    from collections.abc import Callable

OVERLAP = 0.1
"""The share of a window that the next one repeats, so that a sentence cut in two is whole in one of them."""
OVERLAP_MAX = 0.5
FULL = 0.9  # a window with so many of its tokens used is not made longer: the next count would cost more than it gains
NARROW = 0.03  # nor is one when so little of its length is left to try
SAFETY = 0.97  # shortening aims a little below the limit, so that the next count mostly ends the search
GUESSES_MAX = 3  # before plain halving, whose number of steps is bounded
GROWTH_MAX = 2
COUNTS_MAX = 48  # of one window; halving a text of a million characters takes 20
MARKS_MAX = 16  # marks on one letter that are kept with it

# Thai and Lao, Burmese, Khmer, the scripts of China and Japan, full-width forms, pictographs: no spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef\U0001f000-\U0003ffff]"
)
_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)


def split_to_fit(text: str, *, count: Callable[[str], int], max_tokens: int, overlap: float = OVERLAP) -> list[str]:
    """Cut `text` into slices of at most `max_tokens` by `count`, in order; a text that fits comes back as it is.

    Neighbours share about `overlap` of a window's characters. `count` is called once with the whole text and then, per
    window, a few times with slices of about a window's length (at most logarithmically many in the worst case), so the
    cost grows with the length of the text and not with its square.

    Raises:
        InvalidLimit: `max_tokens` is below 1, or a single character has more tokens than that; `overlap` is not in 0
            to 0.5.
    """
    if max_tokens < 1:
        raise InvalidLimit("max_tokens", "must be at least 1", given=max_tokens)
    if not 0 <= overlap <= OVERLAP_MAX:
        raise InvalidLimit("overlap", f"must be between 0 and {OVERLAP_MAX}", given=overlap)
    total = count(text)
    if total <= max_tokens:
        return [text]
    search = _Search(text, count, max_tokens, per_token=len(text) / total)
    windows: list[str] = []
    start = end = 0
    while end < len(text):
        found = search.end(start, beyond=end)
        if found is None and start < end:  # what is repeated leaves no room for anything new
            start = end
            found = search.end(start, beyond=end)
        if found is None:
            raise InvalidLimit("max_tokens", f"is less than the tokens of {text[end]!r}", given=max_tokens)
        windows.append(text[start:found])
        start, end = _next_start(text, start, found, overlap), found
    return windows


class _Search:
    """Finds where a window ends, and learns from each how many characters a token of this text has."""

    def __init__(self, text: str, count: Callable[[str], int], max_tokens: int, *, per_token: float) -> None:
        self._text = text
        self._count = count
        self._max = max_tokens
        self._per_token = per_token

    def end(self, start: int, *, beyond: int) -> int | None:
        """The end of a well filled window from `start` that ends after `beyond`; None when no such window fits."""
        text, best = self._text, None
        low, high = beyond, len(text) + 1  # every end from `high` on is taken to be too far
        aim = start + math.ceil(self._max * self._per_token)
        for attempt in range(COUNTS_MAX):
            aim = min(max(aim, low + 1), high - 1)
            end = _last_boundary(text, low, aim)
            if end is None:
                if best is not None and _is_boundary(text, best):
                    break  # rather a shorter window than a word cut in two
                end = _between_letters(text, low, aim)
            size, tokens = end - start, self._count(text[start:end])
            if tokens <= self._max:
                best = low = end
                self._per_token = size / max(tokens, 1)
                if end == len(text) or tokens >= self._max * FULL or high - end <= size * NARROW:
                    break
                aim = start + min(math.ceil(size * self._max / max(tokens, 1)), size * GROWTH_MAX)
            else:
                high = end
                aim = start + math.floor(size * self._max * SAFETY / tokens)
            if low + 1 >= high:
                break
            if attempt >= GUESSES_MAX and high <= len(text):
                aim = (low + high) // 2
        return best


def _next_start(text: str, start: int, end: int, overlap: float) -> int:
    """Where the window after text[start:end] begins: `overlap` of it earlier than `end`, at a word if one is near."""
    repeated = int((end - start) * overlap)
    if repeated == 0:
        return end
    target = end - repeated
    near = _last_boundary(text, max(start, target - repeated // 2 - 1), target)
    if near is None:
        near = next((at for at in range(target + 1, end) if _is_boundary(text, at)), None)
    if near is None and _is_boundary(text, end):  # the last word is longer than what is repeated: it whole, or nothing
        near = _last_boundary(text, (start + end) // 2, target) or end
    return near if near is not None else _between_letters(text, start, target)


def _last_boundary(text: str, low: int, high: int) -> int | None:
    """The last place in (low, high] where the text may be cut between words."""
    return next((at for at in range(high, low, -1) if _is_boundary(text, at)), None)


def _is_boundary(text: str, at: int) -> bool:
    if at >= len(text):
        return True
    if text[at].isspace():
        return False  # the spaces after a word stay with it, so that windows begin with a word
    if text[at - 1].isspace():
        return True
    return bool(_UNSPACED.match(text[at]) or _UNSPACED.match(text[at - 1])) and not _continues(text, at)


def _between_letters(text: str, low: int, at: int) -> int:
    """The last place in (low, at] that is not inside of a letter with its marks; `at` when there is none near."""
    nearest = max(low, at - MARKS_MAX)
    return next((place for place in range(at, nearest, -1) if not _continues(text, place)), at)


def _continues(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the one before: an accent, a joined or a toned pictograph."""
    if at >= len(text):
        return False
    character = text[at]
    return (
        unicodedata.category(character)[0] == "M"
        or character == _JOINER
        or text[at - 1] == _JOINER
        or ord(character) in _SKIN_TONES
    )
