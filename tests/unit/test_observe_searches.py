"""What is told of searches of vectors and of their indexes, and what `SearchFigures` makes of it."""

from __future__ import annotations

import time

import pytest

from llmspell.observe import (
    SEARCHES_KEPT,
    SearchFigures,
    notify_index,
    notify_search,
    observing_searches,
    searches_observed,
)


def test_latencies_are_kept_by_the_path_that_a_search_took() -> None:
    figures = SearchFigures()
    with observing_searches(figures):
        assert searches_observed()
        for n in range(1, 101):
            notify_search("ann", n / 1_000, 50)
        notify_search("exact", 0.5, 2_000)

    assert figures.percentiles_ms("ann") == {50: 50, 95: 95, 99: 99}
    assert figures.percentiles_ms("exact") == {50: 500, 95: 500, 99: 500}
    assert dict(figures.searches) == {"ann": 100, "exact": 1}
    assert dict(figures.candidates) == {"ann": 5_000, "exact": 2_000}


def test_a_path_that_no_search_took_has_no_latencies() -> None:
    assert SearchFigures().percentiles_ms("ann") == {}


def test_only_the_latest_searches_count_for_the_latencies() -> None:
    figures = SearchFigures()
    for _ in range(SEARCHES_KEPT):
        figures.search("exact", 9.0, 1)
    for _ in range(SEARCHES_KEPT):
        figures.search("exact", 0.001, 1)

    assert figures.percentiles_ms("exact")[99] == pytest.approx(1)
    assert figures.searches["exact"] == 2 * SEARCHES_KEPT


def test_the_latest_size_of_each_index_counts_until_it_is_gone() -> None:
    figures = SearchFigures()
    with observing_searches(figures):
        notify_index("acme", "free-384", 1_000, 300)
        notify_index("globex", "free-384", 50, 5)
        notify_index("acme", "free-384", 2_000, 400)
        assert (figures.file_bytes, figures.memory_bytes) == (2_050, 405)
        notify_index("acme", "free-384", 0, 0)

    assert (figures.file_bytes, figures.memory_bytes) == (50, 5)


def test_nothing_is_told_after_the_block_also_when_it_raised() -> None:
    figures = SearchFigures()
    with pytest.raises(KeyError), observing_searches(figures):
        raise KeyError

    notify_search("ann", 1, 1)

    assert not searches_observed()
    assert not figures.searches


def test_a_search_that_nobody_observes_costs_next_to_nothing() -> None:
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1_000):
            notify_search("ann", 0.0, 0)
        best = min(best, (time.perf_counter() - started) / 1_000)

    assert best < 2e-6
