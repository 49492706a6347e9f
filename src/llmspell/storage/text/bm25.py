"""BM25: the weight of a term in a text, and which terms of a query are worth looking up.

Not here: the postings and the statistics (the backends keep them, per tenant), and how texts become terms (`analyser`).

The formula (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; k1 = 1.5 and b =
0.75 are given by the requirements, C8), for a query with the distinct terms t, over a tenant with `documents` texts:

    score      = Σ over t of  idf(t) · tf · (k1 + 1) / (tf + k1 · (1 − b + b · length / average_length))
    idf(t)     = ln(1 + (documents − df + 0.5) / (df + 0.5))

    tf              how often t occurs in this text
    length          how many terms this text has, repetitions included
    average_length  total length of the tenant's texts / documents
    df              how many of the tenant's texts contain t

The logarithm is of 1 + …, so no term counts against a text, however common (as in Lucene; the original goes negative
above half of the texts). A term counts once however often the query repeats it: queries are short, and a repetition
there is style and not weight.

Rule 1: a score is rounded to `ROUNDING` before anything is ranked, as floor(score / ROUNDING + 0.5) · ROUNDING, so
that the order in which a database adds the terms up cannot be seen. The best score is first; ties go by id,
ascending.
Rule 2: all statistics are the tenant's own. Another tenant's rows never move a score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

K1 = 1.5
B = 0.75
ROUNDING = 1e-6

COMMON_SHARE = 0.2  # a term in more than this share of the texts generates no candidates
COMMON_MIN_DOCUMENTS = 1_000  # unless there are so few texts that scanning the term costs nothing
QUERY_TERMS_MAX = 256  # the rarest ones; a pasted page must not become ten thousand look-ups

_STEPS = round(1 / ROUNDING)


class WeightedTerm(msgspec.Struct, frozen=True):
    """A term of a query and its inverse document frequency (> 0)."""

    term: str
    idf: float


class QueryPlan(msgspec.Struct, frozen=True):
    """What to look up: a text is a candidate when it has one of `generating`, and is then scored on all of `scoring`.

    Both run from the rarest term to the commonest (ties by term). `generating` is part of `scoring`, and is empty only
    when no term of the query occurs in any text: then nothing matches.
    """

    generating: tuple[str, ...]
    scoring: tuple[WeightedTerm, ...]

    @property
    def idf(self) -> dict[str, float]:
        """The weight of each scoring term."""
        return {weighted.term: weighted.idf for weighted in self.scoring}


def inverse_document_frequency(df: int, documents: int) -> float:
    """ln(1 + (documents − df + 0.5) / (df + 0.5)): positive, and smaller the more texts contain the term.

    `df` beyond `documents` (statistics read while texts are being deleted) counts as all of them.
    """
    present = min(df, documents)
    return math.log(1 + (documents - present + 0.5) / (present + 0.5))


def score(tf: int, length: int, average_length: float, idf: float) -> float:
    """The weight of one term in one text, unrounded, as the module's formula has it.

    `average_length` must be positive; it is whenever a text has a term.
    """
    return idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / average_length))


def rounded(total: float) -> float:
    """A sum of weights as it is ranked and shown: the nearest multiple of `ROUNDING`, halves upwards."""
    return math.floor(total * _STEPS + 0.5) / _STEPS


def ranked(scores: Mapping[str, float], *, limit: int) -> list[tuple[str, float]]:
    """The best `limit` (id, rounded score) pairs: best first, ties by id ascending."""
    pairs = ((identity, rounded(total)) for identity, total in scores.items())
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:limit]


def plan_terms(query_terms: Iterable[str], df: Mapping[str, int], documents: int) -> QueryPlan:
    """Decide which terms of a query generate candidates and which only score them.

    `query_terms` are the terms of the query (`Analyser.query_counts` will do); `df` gives the number of texts
    with each term (a missing term occurs nowhere and is dropped); `documents` is the number of texts.

    A common term (in more than `COMMON_SHARE` of at least `COMMON_MIN_DOCUMENTS` texts) would generate a large part
    of the store as candidates and weighs little, so it only scores those that rarer terms bring, unless all terms are
    common.
    """
    weighted = sorted(
        (
            WeightedTerm(term, inverse_document_frequency(df[term], documents))
            for term in set(query_terms)
            if df.get(term)
        ),
        key=lambda one: (-one.idf, one.term),
    )[:QUERY_TERMS_MAX]
    ceiling = COMMON_SHARE * documents if documents >= COMMON_MIN_DOCUMENTS else math.inf
    rare = tuple(one.term for one in weighted if df[one.term] <= ceiling)
    return QueryPlan(generating=rare or tuple(one.term for one in weighted), scoring=tuple(weighted))
