"""Filling a token budget: which of the ranked items fit, in what order they are read, and why the others are left out.

Not here: how tokens are counted (the items bring their counts) and how the text is laid out (the caller knows what a
separator costs).

Rule 1: whole items only. A sentence cut in half says something else.
Rule 2: greedy by rank: an item that does not fit is passed over, and smaller ones after it still get their chance.
Rule 3: every item is either chosen or rejected with a reason.
Rule 4: chosen items are read in the order of time, because later statements correct earlier ones.
"""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import datetime  # msgspec reads the annotation at run time
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from llmspell.clock import to_microseconds
from llmspell.codec import require_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BUDGET_MAX_TOKENS = 10_000_000  # beyond the window of any model; a larger number is a slip

# Jaccard similarity of the sets of words. One "not" more in a text of up to 18 words, or one other name in up to 38, is
# below it: such texts say something else, and dropping one would hide a contradiction.
DUPLICATE_SIMILARITY = 0.95

_WORDS = re.compile(r"\w+")
_NUMBER = re.compile(r"\d")


class Reason(StrEnum):
    """Why an item was left out."""

    BUDGET = "budget"
    DUPLICATE = "duplicate"
    BELOW_MIN_SCORE = "below min_score"


class Item(msgspec.Struct, frozen=True):
    """Something that may enter the context. `tokens` counts its text alone; `group` is the section it belongs to."""

    id: str
    text: str
    tokens: int
    score: float = 0.0
    group: str = ""
    at: datetime | None = None


class Rejected(msgspec.Struct, frozen=True):
    """An item that was left out: why, in one word and in a sentence, and which chosen item says the same."""

    item: Item
    reason: Reason
    sentence: str
    duplicate_of: str | None = None


class Packed(msgspec.Struct, frozen=True):
    """Chosen items in the order of reading, rejected ones in the order of rank, and what the chosen ones cost."""

    chosen: tuple[Item, ...]
    rejected: tuple[Rejected, ...]
    tokens_used: int


def pack(
    items: Sequence[Item],
    *,
    max_tokens: int,
    overhead: int = 0,
    sections: Mapping[str, int] | None = None,
    min_score: float | None = None,
    similarity: float = DUPLICATE_SIMILARITY,
) -> Packed:
    """Choose from `items` (best first) what fits into `max_tokens`.

    `overhead` is what every chosen item costs beyond its text (a line break, a bullet). `sections` names the groups
    in the order of reading, each with the tokens of its heading, which are paid once, with the group's first item;
    other groups follow by name and have no heading. Within a section items run by (`at`, id); those without a time
    come first.

    An item is a duplicate of a chosen one when it has the same id, the same text (case, spaces and Unicode forms
    aside), or the same numbers and words that are alike by `similarity` (Jaccard, 0 to 1).

    Raises:
        InvalidLimit: `max_tokens`, `overhead` or a token count is not a whole number of 0 or more.
    """
    require_limit(max_tokens, field="max_tokens", minimum=0, maximum=BUDGET_MAX_TOKENS)
    require_limit(overhead, field="overhead", minimum=0, maximum=BUDGET_MAX_TOKENS)
    headings = dict(sections or {})
    seen = _Seen(similarity)
    opened: set[str] = set()
    chosen: list[Item] = []
    rejected: list[Rejected] = []
    used = 0
    for item in items:
        require_limit(item.tokens, field=f"tokens of {item.id}", minimum=0, maximum=BUDGET_MAX_TOKENS)
        cost = item.tokens + overhead + (0 if item.group in opened else headings.get(item.group, 0))
        refusal = _refusal(item, seen, cost=cost, left=max_tokens - used, min_score=min_score)
        if refusal is not None:
            rejected.append(refusal)
            continue
        opened.add(item.group)
        chosen.append(item)
        used += cost
    return Packed(tuple(_in_reading_order(chosen, headings)), tuple(rejected), used)


def _refusal(item: Item, seen: _Seen, *, cost: int, left: int, min_score: float | None) -> Rejected | None:
    if min_score is not None and not item.score >= min_score:
        sentence = f"its score {item.score:.4g} is below min_score {min_score:.4g}"
        return Rejected(item, Reason.BELOW_MIN_SCORE, sentence)
    # Before the search for twins, which costs more: when the budget is full, most items end here.
    if cost > left:
        return Rejected(item, Reason.BUDGET, f"needs {cost:,} tokens where {left:,} are left")
    twin = seen.twin_or_add(item)
    if twin is not None:
        return Rejected(item, Reason.DUPLICATE, f"says the same as {twin}", duplicate_of=twin)
    return None


def _in_reading_order(items: Iterable[Item], headings: Mapping[str, int]) -> list[Item]:
    places = {name: place for place, name in enumerate(headings)}

    def place(item: Item) -> tuple[int, str, bool, int, str]:
        instant = 0 if item.at is None else to_microseconds(item.at)
        return places.get(item.group, len(places)), item.group, item.at is not None, instant, item.id

    return sorted(items, key=place)


class _Seen:
    """The chosen texts, so arranged that a new one is compared with those of about its size only."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._ids: set[str] = set()
        self._texts: dict[str, str] = {}
        self._by_size: dict[int, list[tuple[frozenset[str], str]]] = {}

    def twin_or_add(self, item: Item) -> str | None:
        """The id of a chosen item that says the same; without one the item is remembered as chosen."""
        if item.id in self._ids:
            return item.id
        normal = _normalised(item.text)
        if normal in self._texts:
            return self._texts[normal]
        words = frozenset(_WORDS.findall(normal))
        twin = self._alike(words) if words else None
        if twin is None:
            self._ids.add(item.id)
            self._texts[normal] = item.id
            self._by_size.setdefault(len(words), []).append((words, item.id))
        return twin

    def _alike(self, words: frozenset[str]) -> str | None:
        # |a ∩ b| / |a ∪ b| is at most the smaller size over the larger one.
        smallest, largest = math.ceil(len(words) * self._similarity), int(len(words) / max(self._similarity, 1e-3))
        for size in sorted(size for size in self._by_size if smallest <= size <= largest):
            for other, identity in self._by_size[size]:
                common = len(words & other)
                alike = common >= self._similarity * (len(words) + size - common)
                if alike and not any(map(_NUMBER.search, words ^ other)):
                    return identity
        return None


def _normalised(text: str) -> str:
    """The text without what does not change its meaning."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())
