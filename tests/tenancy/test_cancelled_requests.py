"""Requests of several tenants on one pool, half of them cancelled or failing at random: what they leave behind is nothing.

After each, the very connection that it used is asked without a tenant, and must show none and no row. At the end every
acknowledged write is there, every refused one is not, every cancelled one is whole or absent, and no connection is missing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from tests.fixtures.marked_tenants import seed
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import fresh_tenants, opened

from llmspell.spell import Spell

pytest.importorskip("psycopg")

from tests.tenancy.random_requests import Requests, Round
from tests.tenancy.watched_pool import NOTHING, watching

REQUESTS = {"postgres": (10_000, 700_000), "pgbouncer": (3_000, 300_000)}
"""In continuous integration, and in a long run. Up to ten thousand are made of one pool, directly; each round has another."""
IN_A_ROUND = 10_000
TENANTS = 8
CONNECTIONS = 4
LIMIT_S = 7_200
SEED = usual(4)


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("backend", sorted(REQUESTS, reverse=True))
async def test_nothing_is_left_by_requests_that_are_cancelled_or_fail_at_random(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = REQUESTS[backend]
    total, counts, asked = size(ci=few, soak=many), Counter[str](), 0
    together = min(total, IN_A_ROUND)
    # On a busy machine fewer cancels meet a request under way: then more are asked.
    while asked < total or (counts["in_flight"] < total // 6 and asked < 3 * total):
        async with opened(backend, request, tmp_path, connections=CONNECTIONS) as spell:
            counts += await play(spell, asked // together, together, monkeypatch)
        asked += together

    tell(
        requests=asked,
        requests_cancelled_in_flight=counts["in_flight"],
        requests_failed=counts["failed"],
        connections_dropped=counts["dropped"],
        probes=counts["probes"],
    )
    assert counts["in_flight"] >= total // 6, f"too few cancels landed between question and answer: {counts}"
    assert counts["failed"] >= total // 10
    assert counts["probes"] + counts["dropped"] >= asked


async def play(spell: Spell, turn: int, total: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Play a round, and check it."""
    tenants = list(await fresh_tenants(spell, TENANTS, "cancelled"))
    await asyncio.gather(*map(seed, tenants))
    requests = Requests(spell, tenants, f"{SEED}/{turn}")
    with watching(spell, monkeypatch) as pool:
        played = Round(requests, pool)
        await played.run(range(total))
        await pool.settle()
        shown = pool.seen.total() - pool.seen[NOTHING]
        tell(leaks=shown + pool.kept)
        assert shown == 0, f"seed {SEED}: {pool.seen}"
        assert pool.kept == 0, "the pool goes on with connections that did not come back idle"
    await played.require_whole()
    await require_every_connection(spell)
    return played.counts + Counter(probes=pool.seen.total(), dropped=pool.dropped)


async def require_every_connection(spell: Spell) -> None:
    """None is lost: as many as the pool may have can be had at once, and all come back."""
    pool = spell._backend._database.pool  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        links = [await pool.acquire() for _ in range(CONNECTIONS)]
    assert len(set(links)) == CONNECTIONS == pool.status().size
    for link in links:
        pool.release(link)
    status = pool.status()
    assert (status.size, status.available, status.waiting) == (CONNECTIONS, CONNECTIONS, 0)
