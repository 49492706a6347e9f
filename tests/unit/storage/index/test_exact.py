"""Exact search against brute force in plain Python."""

from __future__ import annotations

import math
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspell.storage.index import exact
from llmspell.storage.index.exact import Found, Rows, make_rows, merge, nearest, owner_words, unit_vector

DIMENSION = 8


def rows_of(vectors: list[list[float]], owners: list[bytes], parts: list[int] | None = None) -> Rows:
    packed = [array("f", vector).tobytes() for vector in vectors]
    count = len(vectors)
    return make_rows(
        packed,
        dimension=len(vectors[0]),
        owners=owners,
        parts=parts or [0] * count,
        seqs=list(range(count)),
        places=list(range(count)),
    )


def brute(vectors: list[list[float]], owners: list[bytes], query: list[float], limit: int) -> list[tuple[bytes, float]]:
    best: dict[bytes, float] = {}
    exact_query = list(array("f", query))
    for vector, owner in zip(vectors, owners, strict=True):
        stored = list(array("f", vector))
        product = math.fsum(a * b for a, b in zip(stored, exact_query, strict=True))
        lengths = math.sqrt(math.fsum(a * a for a in stored) * math.fsum(b * b for b in exact_query))
        score = round(max(-1.0, min(1.0, product / lengths)), 6)
        best[owner] = max(score, best.get(owner, -2.0))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:limit]


def ask(rows: Rows, query: list[float], limit: int, **options: object) -> list[tuple[bytes, float]]:
    return nearest(rows, unit_vector(array("f", query).tobytes()), limit=limit, **options).pairs()  # type: ignore[arg-type]


COMPONENT = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])  # few values: many ties
VECTOR = st.lists(COMPONENT, min_size=DIMENSION, max_size=DIMENSION).filter(any)


@settings(max_examples=200, deadline=None)
@given(st.lists(VECTOR, min_size=1, max_size=60), VECTOR, st.integers(1, 70), st.randoms(use_true_random=False))
def test_it_agrees_with_brute_force_including_ties_at_the_cut(
    vectors: list[list[float]], query: list[float], limit: int, random: object
) -> None:
    owners = [n.to_bytes(1, "big") * 16 for n in range(len(vectors))]
    random.shuffle(owners)  # type: ignore[attr-defined]

    assert ask(rows_of(vectors, owners), query, limit) == brute(vectors, owners, query, limit)


@pytest.mark.parametrize("at_once", [1, 2 * DIMENSION, 3 * DIMENSION + 1])
def test_rows_are_scored_in_as_many_products_as_it_takes(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(exact, "SCORED_AT_ONCE", at_once)
    source = np.random.default_rng(4)
    vectors = source.normal(size=(50, DIMENSION)).tolist()
    owners = [source.bytes(16) for _ in vectors]

    for nearest_row in (0, 25, 49):
        query = vectors[nearest_row]
        assert ask(rows_of(vectors, owners), query, 5) == brute(vectors, owners, query, 5)


@settings(max_examples=100, deadline=None)
@given(st.lists(VECTOR, min_size=4, max_size=60), VECTOR, st.integers(1, 20))
def test_an_owner_with_several_windows_counts_once_by_its_best(
    vectors: list[list[float]], query: list[float], limit: int
) -> None:
    owners = [(n // 4).to_bytes(16, "big") for n in range(len(vectors))]
    rows = rows_of(vectors, owners, parts=[n % 4 for n in range(len(vectors))])

    assert ask(rows, query, limit, windows=4) == brute(vectors, owners, query, limit)


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_only_chosen_rows_count_whichever_path_is_taken(share: float) -> None:
    source = np.random.default_rng(3)
    vectors = source.normal(size=(500, 16)).tolist()
    owners = [source.bytes(16) for _ in vectors]
    chosen = np.flatnonzero(source.random(500) < share)
    query = source.normal(size=16).tolist()

    found = ask(rows_of(vectors, owners), query, 5, chosen=chosen)

    some = [int(position) for position in chosen]
    assert found == brute([vectors[n] for n in some], [owners[n] for n in some], query, 5)


def test_a_thousand_equal_vectors_are_cut_by_id() -> None:
    owners = [n.to_bytes(16, "big") for n in range(1_000)]
    shuffled = [owners[(n * 7) % 1_000] for n in range(1_000)]
    vector = np.random.default_rng(5).normal(size=384).tolist()

    found = ask(rows_of([vector] * 1_000, shuffled), vector, 10)

    assert found == [(owner, 1.0) for owner in owners[:10]]


@pytest.mark.parametrize("size", [1e-14, 1e-5, 1.0, 1e10, 3e37])
def test_the_length_of_a_vector_does_not_matter(size: float) -> None:
    vectors = [[size, 0.0, 0.0], [0.0, size, 0.0], [size, size, 0.0]]

    found = ask(rows_of(vectors, [b"a" * 16, b"b" * 16, b"c" * 16]), [size, 0.0, 0.0], 3)

    assert found == [(b"a" * 16, 1.0), (b"c" * 16, 0.707107), (b"b" * 16, 0.0)]


def test_an_opposite_vector_scores_minus_one() -> None:
    assert ask(rows_of([[-1.0, 2.0]], [b"a" * 16]), [1.0, -2.0], 1) == [(b"a" * 16, -1.0)]


def test_ids_that_end_or_begin_with_zero_bytes_stay_whole() -> None:
    owners = [b"\0" * 16, b"a" + b"\0" * 15, b"\0" * 15 + b"a"]

    found = ask(rows_of([[1.0, 0.0]] * 3, owners), [1.0, 0.0], 3)

    assert [id for id, _ in found] == sorted(owners)


def test_nothing_is_found_among_nothing() -> None:
    rows = rows_of([[1.0, 0.0]], [b"a" * 16])

    assert ask(rows, [1.0, 0.0], 3, chosen=np.empty(0, dtype=np.intp)) == []
    assert merge([], 3).pairs() == []


def test_answers_of_pages_merge_into_the_answer_of_all() -> None:
    source = np.random.default_rng(9)
    vectors = source.integers(-2, 3, size=(90, DIMENSION)).astype(float)
    vectors[:, 0] += 0.5
    owners = [(n // 3).to_bytes(16, "big") for n in range(90)]
    parts = [n % 3 for n in range(90)]
    query = [1.0] * DIMENSION
    whole = ask(rows_of(vectors.tolist(), owners, parts), query, 7, windows=3)

    unit = unit_vector(array("f", query).tobytes())
    pages: list[Found] = []
    for start in range(0, 90, 20):  # pages cut an owner's windows apart
        page = slice(start, start + 20)
        rows = rows_of(vectors[page].tolist(), owners[page], parts[page])
        pages.append(nearest(rows, unit, limit=7, windows=3))

    assert merge(pages, 7).pairs() == whole


def test_words_order_as_the_bytes_do() -> None:
    ids = [bytes([n] * 16) for n in (3, 255, 0, 128)]

    words = owner_words(ids)

    assert [ids[n] for n in np.lexsort((words[:, 1], words[:, 0]))] == sorted(ids)
