"""Why an item was found: as data for programs, and as one sentence for people.

Rule 1: it says only what the rankers did; it never guesses why a text "fits".
Rule 2: the same facts give the same sentence, whatever the locale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmspell.retrieval.fusion import MEANING, WORDS, Fused
from llmspell.storage.text.memory_text import spoken_date

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

TERMS_SHOWN_MAX = 5
_FIRST = (WORDS, MEANING)  # the order in which rankers are named; others follow by name


class Match(msgspec.Struct, frozen=True):
    """One ranker's part: where it put the item, and for the ranker by words which terms of the query the item has."""

    ranker: str
    rank: int
    score: float
    terms: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """Why an item is among the results."""

    sentence: str
    score: float
    matches: tuple[Match, ...]


def explain(
    fused: Fused, *, terms: Iterable[str] = (), role: str = "", at: datetime | None = None, note: str = ""
) -> Explanation:
    """Explain one item of a fused ranking.

    `terms` are the query's terms that the item contains, rarest first; `role` and `at` (aware) say who said it and
    when; `note` is what the caller knows beyond the rankers ("neighbour of …") and ends the sentence.

    For example: "word match rank 2 (zurich, move), meaning rank 1 at 0.71, said by Ada on 8 May 2023".
    """
    named = tuple(dict.fromkeys(terms))
    matches = tuple(
        Match(ranker, fused.ranks[ranker], fused.scores[ranker], named if ranker == WORDS else ())
        for ranker in sorted(
            fused.ranks, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)
        )
    )
    parts = [_phrase(match) for match in matches] + [_said(role, at), note]
    return Explanation(", ".join(part for part in parts if part), fused.score, matches)


def _phrase(match: Match) -> str:
    if match.ranker == MEANING:
        return f"meaning rank {match.rank} at {match.score:.2f}"
    if match.ranker != WORDS:
        return f"{match.ranker} rank {match.rank}"
    shown = list(match.terms[:TERMS_SHOWN_MAX]) + ["…"] * (len(match.terms) > TERMS_SHOWN_MAX)
    return f"word match rank {match.rank}" + (f" ({', '.join(shown)})" if shown else "")


def _said(role: str, at: datetime | None) -> str:
    who = f" by {role}" if role else ""
    when = f"{' on' if role else ''} {spoken_date(at)}" if at is not None else ""
    return f"said{who}{when}" if who or when else ""
