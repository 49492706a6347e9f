"""Exact cosine search over arrays. Pure: no database, no cache, no locks.

Every row is scored in float32 first; the rows that could be among the best, given the worst error of that, are scored again
in float64. So the answer does not depend on the order of the rows, on threads or on the machine, and equal vectors tie.

Rule: order is score (1 - cosine distance, rounded to 1e-6) descending, then owner ascending; also at the cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.contracts.vectors import SCORE_DECIMALS

Floats: TypeAlias = "NDArray[np.float32]"
Doubles: TypeAlias = "NDArray[np.float64]"
Words: TypeAlias = "NDArray[np.uint64]"
Positions: TypeAlias = "NDArray[np.intp]"

GATHER_SHARE: Final = 0.25
"""Below this share of the rows it is faster to copy the chosen ones than to score all (measured: rows of 384 to 1536)."""
RESCORED_AT_ONCE: Final = 4_096
"""Rows turned into float64 at a time: 12 MiB at 384 dimensions, 96 at 3072."""
SCORED_AT_ONCE: Final = 400_000
"""Components in one product. OpenBLAS shares a product of 460,800 and more among threads that all searches of the process
wait for: four searches at once among 5,120 rows of 384 then took 3.4 times as long as in products of this size (measured)."""
_SCALE: Final = 10.0**SCORE_DECIMALS
_UNIT_ROUNDOFF: Final = 2.0**-24  # of float32
_ORDINARY_EXPONENT: Final = 30


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors and whose they are; all arrays have one entry per row.

    `values`: float32 of shape (n, dimension), each row scaled by a power of two where its length was far from 1.
    `lengths`: float64, the Euclidean lengths of `values`. `owners`: uint64 of shape (n, 2), the halves of the owner's id.
    `parts`: int32, which window of its owner a row is. `seqs`: int64, ascending, the change that brought it. `places`: int64, where
    the database kept the row when it was read.
    """

    values: Floats
    lengths: Doubles
    owners: Words
    parts: NDArray[np.int32]
    seqs: NDArray[np.int64]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def size_bytes(self) -> int:
        """What the arrays take."""
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.values, self.lengths, self.owners, self.parts, self.seqs, self.places

    def upto(self, count: int) -> Rows:
        """Return the first `count` rows, without copying."""
        return Rows(*(array[:count] for array in self._arrays()))

    def where(self, keep: NDArray[np.bool_]) -> Rows:
        """Return a copy of the rows to keep."""
        return Rows(*(array[keep] for array in self._arrays()))


@dataclass(frozen=True, slots=True)
class Found:
    """The best owners: `owners` uint64 of shape (k, 2), `scores` float64 of shape (k,), in order."""

    owners: Words
    scores: Doubles

    def pairs(self) -> list[tuple[bytes, float]]:
        """Return (16 bytes of id, score), in order."""
        return list(zip(owner_bytes(self.owners), self.scores.tolist(), strict=True))


def owner_words(ids: Sequence[bytes]) -> Words:
    """Return ids of 16 bytes as uint64 of shape (n, 2): ordered as the bytes are, first half first."""
    return np.frombuffer(b"".join(ids), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def part_numbers(parts: Sequence[int]) -> NDArray[np.int32]:
    """Return numbers of parts as int32 of shape (n,)."""
    return np.asarray(parts, dtype=np.int32)


def make_rows(
    embeddings: Sequence[bytes],
    *,
    dimension: int,
    owners: Sequence[bytes],
    parts: Sequence[int],
    seqs: Sequence[int],
    places: Sequence[int],
) -> Rows:
    """Build rows from little-endian float32 embeddings."""
    values = np.frombuffer(b"".join(embeddings), dtype="<f4").reshape(-1, dimension).astype(np.float32)
    lengths = _lengths(values)
    exponents = np.frexp(lengths)[1]
    if exponents.size and int(np.abs(exponents).max()) > _ORDINARY_EXPONENT:
        # A power of two changes no direction and no bit of a mantissa, and keeps float32 from overflowing in a product.
        values = np.ldexp(values, -exponents[:, None])
        lengths = _lengths(values)
    numbers = (np.asarray(seqs, dtype=np.int64), np.asarray(places, dtype=np.int64))
    return Rows(values, lengths, owner_words(owners), part_numbers(parts), *numbers)


def _lengths(values: Floats) -> Doubles:
    doubles = values.astype(np.float64)
    lengths: Doubles = np.sqrt(np.einsum("ij,ij->i", doubles, doubles))
    return lengths


def unit_vector(query: bytes) -> Doubles:
    """Return a query of little-endian float32 bytes as a float64 vector of length 1."""
    vector = np.frombuffer(query, dtype="<f4").astype(np.float64)  # no square of a float32 leaves the range of these
    vector /= math.sqrt(vector @ vector)
    return vector


def nearest(rows: Rows, query: Doubles, *, limit: int, windows: int = 1, chosen: Positions | None = None) -> Found:
    """Return the `limit` best owners, each by its best row.

    `query` has length 1. `windows`: no owner has more rows than this. `chosen`: positions of the rows that count, each
    once; None means all.
    """
    count = len(rows) if chosen is None else len(chosen)
    if count == 0:
        return Found(np.empty((0, 2), np.uint64), np.empty(0))
    candidates = _candidates(rows, query, limit * windows, chosen)
    scores = _exact_scores(rows, query, candidates)
    return best(rows.owners[candidates], scores, limit)


def owner_bytes(owners: Words) -> list[bytes]:
    """Return ids of 16 bytes from uint64 of shape (n, 2)."""
    raw = owners.astype(">u8").tobytes()
    return [raw[start : start + 16] for start in range(0, len(raw), 16)]


def rescored(embeddings: Sequence[bytes], query: Doubles) -> Doubles:
    """Return the scores of little-endian float32 embeddings, as every backend rounds them. `query` has length 1."""
    scores = np.empty(len(embeddings))
    for start in range(0, len(embeddings), RESCORED_AT_ONCE):
        some = np.frombuffer(b"".join(embeddings[start : start + RESCORED_AT_ONCE]), dtype="<f4")
        doubles = some.reshape(-1, len(query)).astype(np.float64)
        products = np.einsum("ij,j->i", doubles, query)
        products /= np.sqrt(np.einsum("ij,ij->i", doubles, doubles))
        scores[start : start + RESCORED_AT_ONCE] = products
    return _rounded(scores)


def merge(parts: Sequence[Found], limit: int) -> Found:
    """Return the best of several answers; an owner found by several counts by its best score."""
    owners = np.concatenate([part.owners for part in parts]) if parts else np.empty((0, 2), np.uint64)
    scores = np.concatenate([part.scores for part in parts]) if parts else np.empty(0)
    return best(owners, scores, limit)


def _candidates(rows: Rows, query: Doubles, wanted: int, chosen: Positions | None) -> Positions:
    """Return positions of all rows that can be among the `wanted` best, after rounding."""
    count = len(rows) if chosen is None else len(chosen)
    everything = np.arange(len(rows), dtype=np.intp) if chosen is None else chosen
    if count <= wanted:
        return everything
    gather = chosen is not None and count < GATHER_SHARE * len(rows)
    values, lengths = (rows.values[everything], rows.lengths[everything]) if gather else (rows.values, rows.lengths)
    approximate = _products(values, query.astype(np.float32)) / lengths.astype(np.float32)
    if chosen is not None and not gather:
        approximate = approximate[chosen]
    kth = np.partition(approximate, count - wanted)[count - wanted]
    # Any order of summation errs by less than (dimension + 4) roundings; twice, since the k-th errs as well; and 1e-6
    # because scores are compared after rounding.
    margin = 2 * (rows.values.shape[1] + 4) * _UNIT_ROUNDOFF + 1 / _SCALE
    candidates: Positions = everything[approximate >= kth - np.float32(margin)]
    return candidates


def _products(values: Floats, query: Floats) -> Floats:
    products = np.empty(len(values), np.float32)
    step = max(1, SCORED_AT_ONCE // values.shape[1])
    for start in range(0, len(values), step):
        np.matmul(values[start : start + step], query, out=products[start : start + step])
    return products


def _exact_scores(rows: Rows, query: Doubles, positions: Positions) -> Doubles:
    scores = np.empty(len(positions))
    for start in range(0, len(positions), RESCORED_AT_ONCE):
        some = positions[start : start + RESCORED_AT_ONCE]
        # einsum sums every row alike, wherever it stands: a matrix product may not, and equal vectors would not tie.
        products = np.einsum("ij,j->i", rows.values[some].astype(np.float64), query)
        scores[start : start + RESCORED_AT_ONCE] = products / rows.lengths[some]
    return _rounded(scores)


def _rounded(scores: Doubles) -> Doubles:
    rounded: Doubles = np.rint(np.minimum(np.maximum(scores, -1.0), 1.0) * _SCALE)
    rounded /= _SCALE
    rounded += 0.0  # no negative zero
    return rounded


def best(owners: Words, scores: Doubles, limit: int, *, distinct: bool = False) -> Found:
    """Return the best owners, each by its best score; ties go by owner. `distinct`: no owner is there twice."""
    order = np.lexsort((owners[:, 1], owners[:, 0], -scores))
    if distinct:
        order = order[:limit]
        return Found(owners[order], scores[order])
    seen: set[tuple[int, int]] = set()
    kept: list[int] = []
    for position in order:
        owner = (int(owners[position, 0]), int(owners[position, 1]))
        if owner not in seen:
            seen.add(owner)
            kept.append(int(position))
            if len(kept) == limit:
                break
    return Found(owners[kept].reshape(-1, 2), scores[kept])
