"""Half precision: no score is wrong by more than is said, whatever the vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.soak import size, tell

from llmspell.storage.index.exact import make_rows, unit_vector
from llmspell.storage.index.half import Halved, error, off_at_most, scan, to_halves

EXAMPLES = size(ci=150, soak=10_000)
COMPONENTS = {
    "normal": lambda source, shape: source.normal(size=shape),
    "sparse": lambda source, shape: source.normal(size=shape) * (source.random(shape) < 0.01) + 1e-9,
    "one large among tiny": lambda source, shape: np.where(source.random(shape) < 0.005, 1.0, 1e-6),
    "subnormal in float16": lambda source, shape: source.normal(size=shape) * 10.0 ** source.uniform(-8, -5, shape),
    "half way between two": lambda source, shape: 1 + (2 * source.integers(0, 512, shape) + 1) * 2.0**-11,
    "all equal": lambda source, shape: np.ones(shape) * source.uniform(0.1, 9),
    "all signs": lambda source, shape: source.choice([-1.0, 1.0], shape),
    "many magnitudes": lambda source, shape: source.choice([-1, 1], shape) * 10.0 ** source.uniform(-30, 3, shape),
    "huge": lambda source, shape: source.normal(size=shape) * 1e37,
    "tiny": lambda source, shape: source.normal(size=shape) * 1e-37,
}


def require_within(kind: str, query_kind: str, dimension: int, seed: int, count: int = 40) -> None:
    """Compare `scan` with float64 over the float32 rows."""
    source = np.random.default_rng(seed)
    values = COMPONENTS[kind](source, (count, dimension)).astype("<f4")
    values[~values.any(axis=1), 0] = 1.0
    query = COMPONENTS[query_kind](source, (dimension,)).astype("<f4")
    if not query.any():
        query[0] = 1.0
    if kind == query_kind:
        values[0], values[1] = query, -query
    zeros = [0] * count
    rows = make_rows(
        [row.tobytes() for row in values],
        dimension=dimension,
        owners=[b"0" * 16] * count,
        parts=zeros,
        seqs=zeros,
        places=zeros,
    )
    (halves, off), unit = to_halves(rows.values, rows.lengths), unit_vector(query.tobytes())
    assert np.isfinite(halves).all()
    doubles = values.astype(np.float64)
    doubles /= np.abs(doubles).max(axis=1)[:, None]
    exact = doubles @ unit / np.sqrt((doubles * doubles).sum(axis=1))
    halved = Halved.of(unit)
    bounds = error(dimension, row=off.astype(float), query=halved.off)  # type: ignore[arg-type]
    assert (np.abs(scan(halves, halved.values) - exact) <= bounds).all(), query_kind
    assert max(off.max(), halved.off) <= off_at_most(dimension) * 1.01, "the bound says too little"


@pytest.mark.parametrize("dimension", [384, 768, 1536, 3072])
@pytest.mark.parametrize("kind", COMPONENTS)
def test_the_error_is_within_its_bound_for_each_kind_of_vector(kind: str, dimension: int) -> None:
    for query_kind in COMPONENTS:
        require_within(kind, query_kind, dimension, 1)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(sorted(COMPONENTS)),
    st.sampled_from(sorted(COMPONENTS)),
    st.sampled_from([1, 2, 3, 7, 8, 31, 384, 769, 3072]),
    st.integers(0, 2**32),
)
def test_the_error_is_within_its_bound(kind: str, query_kind: str, dimension: int, seed: int) -> None:
    require_within(kind, query_kind, dimension, seed)
    tell(scores_compared_with_their_bound=40)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), st.sampled_from([2, 8, 16]))
def test_the_error_is_within_its_bound_for_drawn_components(data: st.DataObject, dimension: int) -> None:
    component = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
    vector = st.lists(component, min_size=dimension, max_size=dimension).filter(any)
    values = np.array(data.draw(st.lists(vector, min_size=1, max_size=8)), "<f4")
    query = np.array(data.draw(vector), "<f4")
    zeros = [0] * len(values)
    rows = make_rows(
        [row.tobytes() for row in values],
        dimension=dimension,
        owners=[b"0" * 16] * len(values),
        parts=zeros,
        seqs=zeros,
        places=zeros,
    )
    unit = unit_vector(query.tobytes())
    doubles = values.astype(np.float64)
    doubles /= np.abs(doubles).max(axis=1)[:, None]
    exact = doubles @ unit / np.sqrt((doubles * doubles).sum(axis=1))

    (halves, off), halved = to_halves(rows.values, rows.lengths), Halved.of(unit)
    scores = scan(halves, halved.values)

    assert (np.abs(scores - exact) <= error(dimension, row=off.astype(float), query=halved.off)).all()  # type: ignore[arg-type]


def test_nothing_is_scored_among_nothing() -> None:
    assert scan(np.empty((0, 8), np.float16), np.ones(8, np.float16)).shape == (0,)


def test_the_bound_is_not_so_wide_that_it_says_nothing() -> None:
    """Of ordinary vectors it is less than half of the worst case, which decides how many rows are read from the database."""
    values = np.random.default_rng(1).normal(size=(100, 384)).astype(np.float32)
    _, off = to_halves(values, np.linalg.norm(values.astype(float), axis=1))

    assert off.max() < off_at_most(384) / 2 < 0.0003
