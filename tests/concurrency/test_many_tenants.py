"""Many tenants on one client and few connections: of no concern does anybody see a foreign row."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from tests.fixtures.marked_tenants import QUESTIONS, owners, seed
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import SERVERS, STORES, fresh_tenants, opened

pytest.importorskip("psycopg")

TENANTS = 200
EACH = 8
"""Questions that each tenant asks, of all; so each question is asked by about 80."""
CONNECTIONS = 5
LIMIT_S = 300


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", [*STORES, "pgbouncer"])
async def test_two_hundred_tenants_on_five_connections_see_no_foreign_row(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    count = size(ci=TENANTS, soak=10 * TENANTS)
    async with opened(backend, request, tmp_path, connections=CONNECTIONS, pool_timeout_s=LIMIT_S) as spell:
        tenants = await fresh_tenants(spell, count, "many")
        dice = random.Random(11)
        order = [(tenant, question) for tenant in tenants for question in dice.sample(sorted(QUESTIONS), EACH)]
        dice.shuffle(order)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*map(seed, tenants))
            found = await asyncio.gather(*(owners(tenant, question) for tenant, question in order))

        foreign = [
            (tenant.id, question, marks)
            for (tenant, question), marks in zip(order, found, strict=True)
            if marks != {tenant.id}
        ]
        tell(tenants=count, questions=len(order), leaks=len(foreign))
        assert not foreign
        assert {question for _, question in order} == set(QUESTIONS)
        if backend in SERVERS:
            assert spell.admin.pool_status().size == CONNECTIONS
