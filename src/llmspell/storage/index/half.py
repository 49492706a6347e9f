"""Unit vectors in half precision: half the memory, scanned at the speed of memory, and wrong by a known amount.

`scan` gives scores that choose candidates, never scores that anybody sees: candidates are scored again from the float32 rows
(`exact.rescored`). The only file that knows numkong.

A float16 has 11 significant bits, so a component of a unit vector is off by at most 2^-11 of itself, or by 2^-25 where it is
subnormal; a vector is off by at most `error(dimension)` in length, and so is its product with a unit vector (Cauchy-Schwarz).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmspell.storage.index import native

Halves: TypeAlias = "NDArray[np.float16]"


def error(dimension: int) -> float:
    """Return by how much a score of `scan` may be off: both vectors were rounded, and products are summed in float32."""
    rounded: float = 2.0**-11 + math.sqrt(dimension) * 2.0**-25
    return 2 * rounded + (dimension + 4) * 2.0**-24


def to_halves(values: NDArray[np.float32], lengths: NDArray[np.float64]) -> Halves:
    """Return float32 rows of shape (n, dimension) as unit vectors in float16; `lengths` are theirs."""
    return (values / lengths[:, None].astype(np.float32)).astype(np.float16)


def scan(rows: Halves, query: Halves) -> NDArray[np.float64]:
    """Return the product of each row with the query: float64 of shape (n,)."""
    if not len(rows):
        return np.empty(0)
    products: NDArray[np.float64] = np.asarray(native.cdist()(query[None], rows, "dot"))[0]
    return products
