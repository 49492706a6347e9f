"""Unit vectors in half precision: half the memory, scanned at the speed of memory, and wrong by a known amount.

`scan` gives scores that choose candidates, never scores that anybody sees: candidates are scored again from the float32 rows
(`exact.rescored`). The only file that knows numkong.

A float16 has 11 significant bits, so a component of a unit vector is off by at most 2^-11 of itself, or by 2^-25 where it is
subnormal. By how much a vector is off in length is measured when it is rounded: about a third of the worst case. Its product with
a unit vector is off by no more than that (Cauchy-Schwarz).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index import native

Halves: TypeAlias = "NDArray[np.float16]"
_UNIT_ROUNDOFF = 2.0**-24  # of float32


class Halved(NamedTuple):
    """A unit vector in half precision, and by how much it is off at most."""

    values: Halves
    off: float

    @classmethod
    def of(cls, unit: NDArray[np.float64]) -> Halved:
        """Round a float64 vector of length 1."""
        values = unit.astype(np.float16)
        rest = unit - values
        return cls(values, math.sqrt(rest @ rest) + _UNIT_ROUNDOFF)


def off_at_most(dimension: int) -> float:
    """Return by how much any unit vector is off when it is rounded to half precision."""
    return float(2.0**-11 + math.sqrt(dimension) * 2.0**-25)


def error(dimension: int, *, row: float, query: float) -> float:
    """Return by how much a score of `scan` may be off: both vectors were rounded, and products are summed in float32.

    `row`, `query`: by how much the two vectors are off at most.
    """
    return row + query * (1 + row) + (dimension + 4) * _UNIT_ROUNDOFF


def to_halves(values: NDArray[np.float32], lengths: NDArray[np.float64]) -> tuple[Halves, NDArray[np.float32]]:
    """Return float32 rows of shape (n, dimension) as unit vectors in float16, and by how much each is off at most; `lengths` are
    theirs."""
    units = values / lengths[:, None].astype(np.float32)
    halves = units.astype(np.float16)
    units -= halves
    # What was divided was off by two roundings, and the sum of squares by less than a thousandth of itself.
    off = np.sqrt(np.einsum("ij,ij->i", units, units)) * np.float32(1.001) + np.float32(4 * _UNIT_ROUNDOFF)
    return halves, off.astype(np.float32)


def scan(rows: Halves, query: Halves) -> NDArray[np.float64]:
    """Return the product of each row with the query: float64 of shape (n,)."""
    if not len(rows):
        return np.empty(0)
    products: NDArray[np.float64] = np.asarray(native.cdist()(query[None], rows, "dot"))[0]
    return products
