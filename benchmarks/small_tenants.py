"""Does a small tenant get exact answers, and quickly, whatever others hold?

    python benchmarks/small_tenants.py [--json] [--small] [--backends sqlite postgres] [--dimensions 384 768 1536 3072]

A tenant of 1,000 vectors among 100 tenants: p50 and p95 of a search for the ten nearest through the public API, and the time of the
first one, in which a file's index is loaded. Then a tenant of 50 vectors (384 dimensions) among 20,000 of others, part of them in
the approximate index where the backend has one: before and after the small tenant's own vectors are moved into it too. Every
answer is compared with all vectors of the tenant multiplied out in double precision; a recall below 1 makes the script fail.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from llmspell.spell import Spell, Tenant
from llmspell.storage.contracts.capabilities import Capability

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import quantiles, show
from machine import described
from stores import DATABASES, opened

DIMENSIONS = (384, 768, 1536, 3072)
TENANTS = 100
ROWS = 1_000
OTHERS_ROWS, OTHERS_ROWS_SMALL = 200, 10
LIMIT = 10
SEARCHES, SEARCHES_SMALL = 200, 40
CROWD = 20_000
CROWD_TENANTS = 10
CROWD_PROMOTED, CROWD_PROMOTED_SMALL = 10_000, 2_000
FEW = 50
BATCH = 500
TOLERANCE = 2e-6
"""Scores are single precision, rounded to 1e-6: a hit whose true score is this close to the tenth is as good as the tenth."""
Matrix = NDArray[np.float32]


class Filled:
    """A tenant with random vectors, and the vectors."""

    def __init__(self, tenant: Tenant, ids: list[UUID], vectors: Matrix) -> None:
        self.tenant = tenant
        self._places = {id: place for place, id in enumerate(ids)}
        self._unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)

    async def check(self, question: Matrix) -> float:
        """Search once, compare with every vector of the tenant, and return the seconds of the search."""
        started = time.perf_counter()
        hits = await self.tenant.vectors.search(question, limit=LIMIT)
        seconds = time.perf_counter() - started
        scores = self._unit @ (question.astype(np.float64) / np.linalg.norm(question.astype(np.float64)))
        least = np.sort(scores)[-min(LIMIT, len(scores))] - TOLERANCE
        right = [hit for hit in hits if hit.id in self._places and scores[self._places[hit.id]] >= least]
        if len({hit.id for hit in right}) != min(LIMIT, len(scores)) or len(hits) != len(right):
            raise SystemExit(f"error: recall {len(right)}/{LIMIT}: the answer is not the exact one")
        if any(abs(hit.score - scores[self._places[hit.id]]) > TOLERANCE for hit in hits):
            raise SystemExit("error: a score is wrong")
        return seconds


async def filled(spell: Spell, name: str, vectors: Matrix) -> Filled:
    """Make a tenant with these vectors."""
    await spell.tenants.create(name, exist_ok=True)
    tenant, ids = spell.tenant(name), []
    for start in range(0, len(vectors), BATCH):
        ids += await tenant.vectors.insert([{"embedding": vector} for vector in vectors[start : start + BATCH]])
    return Filled(tenant, ids, vectors)


def random_vectors(rows: int, dimension: int, seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


async def among_many(spell: Spell, dimension: int, *, small: bool) -> dict[str, Any]:
    """Search in a tenant of 1,000 among 100."""
    others = OTHERS_ROWS_SMALL if small else OTHERS_ROWS
    for number in range(TENANTS - 1):
        await filled(spell, f"other-{dimension}-{number}", random_vectors(others, dimension, number))
    mine = await filled(spell, f"mine-{dimension}", random_vectors(ROWS, dimension, 7_777))
    questions = random_vectors((SEARCHES_SMALL if small else SEARCHES) + 1, dimension, 9_999)
    seconds = [await mine.check(question) for question in questions]
    stats = await mine.tenant.vectors.stats()
    if stats.by_dimension.get(dimension) != ROWS:
        raise SystemExit("error: vectors are missing")
    return {"first_ms": round(seconds[0] * 1e3, 3), **quantiles(seconds[1:]), "recall": 1.0, "others": others}


async def among_a_crowd(spell: Spell, *, small: bool) -> dict[str, Any]:
    """Search in a tenant of 50 among 20,000."""
    dimension, promoted = 384, CROWD_PROMOTED_SMALL if small else CROWD_PROMOTED
    for number in range(CROWD_TENANTS):
        await filled(spell, f"crowd-{number}", random_vectors(CROWD // CROWD_TENANTS, dimension, 100 + number))
    few = await filled(spell, "few", random_vectors(FEW, dimension, 5_555))
    questions = random_vectors(SEARCHES_SMALL, dimension, 8_888)
    found: dict[str, Any] = {"rows": FEW, "others": CROWD, "in_the_approximate_index": 0}
    if Capability.ANN_PROMOTION in spell.capabilities:
        moved = 0
        for number in range(promoted * CROWD_TENANTS // CROWD):
            moved += await spell.admin.promote(f"crowd-{number}", f"free-{dimension}", dimension=dimension)
        found["in_the_approximate_index"] = moved
    found["exact"] = {**quantiles([await few.check(question) for question in questions]), "recall": 1.0}
    if Capability.ANN_PROMOTION in spell.capabilities:
        if await spell.admin.promote("few", f"free-{dimension}", dimension=dimension) != FEW:
            raise SystemExit("error: not every vector was moved")
        found["promoted"] = {**quantiles([await few.check(question) for question in questions]), "recall": 1.0}
    return found


async def run(backends: list[str], dimensions: list[int], *, small: bool) -> dict[str, Any]:
    """Measure every backend and dimension, and return one document."""
    figures: dict[str, Any] = {}
    for backend in backends:
        async with opened(backend) as store:
            found: dict[str, Any] = {
                str(dimension): await among_many(store.spell, dimension, small=small) for dimension in dimensions
            }
            found["crowd"] = await among_a_crowd(store.spell, small=small)
            figures[backend] = found
    return {
        "benchmark": "small_tenants",
        "small": small,
        "tenants": TENANTS,
        "rows": ROWS,
        "limit": LIMIT,
        "figures": figures,
        **described(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--dimensions", nargs="+", type=int, choices=DIMENSIONS, default=list(DIMENSIONS))
    parser.add_argument("--small", action="store_true", help="fewer rows of others and fewer searches")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    document = asyncio.run(run(arguments.backends, arguments.dimensions, small=arguments.small))
    show(document, as_json=arguments.json)


if __name__ == "__main__":
    main()
