"""Many tenants on one client and few connections: nobody sees a foreign row, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.stores import fresh_tenants, opened

from llmspell.spell import Spell, Tenant

pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from llmspell.storage.postgres.link import Link

TENANTS = 200
TENANTS_CONNECTIONS = 5
REQUESTS_PER_TENANT = 6
CANCELLED_REQUESTS = 1_000
CANCELLED_CONNECTIONS = 4
PASSES_MAX = 40
"""How often the loop may go round before a request is cancelled: from before it has a connection to after its answer."""
LIMIT_S = 120
PROBE = (
    b"SELECT coalesce(current_setting('app.current_tenant_id', true), ''), (SELECT count(*) FROM llmspell.kv_store),"
    b" (SELECT count(*) FROM llmspell.memories), (SELECT count(*) FROM llmspell.relationships)"
)


async def seed(tenant: Tenant) -> None:
    await tenant.kv.set("name", tenant.id.encode())
    await tenant.memory.add(f"The secret word is {tenant.id}", session="all", metadata={"owner": tenant.id})
    await tenant.graph.assert_fact("Ada", "belongs_to", tenant.id)


async def ask(tenant: Tenant, what: int) -> list[str]:
    """Ask one of several ways, and return the owners of everything that came back."""
    if what == 0:
        return [(await tenant.kv.get("name") or b"").decode()]
    if what == 1:
        return [str(hit.memory.metadata["owner"]) for hit in await tenant.memory.search("the secret word")]
    if what == 2:
        return [str(memory.metadata["owner"]) for memory in (await tenant.memory.list()).items]
    if what == 3:
        return [fact.object for fact in await tenant.graph.neighbours("Ada")]
    if what == 4:
        return [value.decode() for value in (await tenant.kv.get_batch(["name"])).values()]
    async with tenant.transaction() as tx:
        found = [(await tx.kv.get("name") or b"").decode()]
        await tx.kv.set("name", tenant.id.encode())
        return found + [fact.object for fact in await tx.graph.facts(predicate="belongs_to")]


async def test_two_hundred_tenants_on_five_connections_see_no_foreign_row(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened("postgres", request, tmp_path, connections=TENANTS_CONNECTIONS) as spell:
        tenants = await fresh_tenants(spell, TENANTS, "many")
        order = [(tenant, what) for tenant in tenants for what in range(REQUESTS_PER_TENANT)]
        random.Random(11).shuffle(order)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*map(seed, tenants))

            answers = await asyncio.gather(*(ask(tenant, what) for tenant, what in order))

        foreign = [
            (tenant.id, what, owners)
            for (tenant, what), owners in zip(order, answers, strict=True)
            if set(owners) != {tenant.id}
        ]
        assert not foreign
        assert spell.admin.pool_status().size <= TENANTS_CONNECTIONS


async def probe(spell: Spell) -> tuple[Any, ...]:
    """What a connection of the pool shows to somebody who has no tenant."""
    pool = spell._backend._database.pool  # type: ignore[attr-defined]
    link: Link
    async with pool.link() as link:
        cursor = await link._connection.execute(PROBE, prepare=False)
        row = await cursor.fetchone()
    assert row is not None
    return tuple(row)


async def test_nothing_shows_on_a_connection_whose_last_request_was_cancelled(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    choose = random.Random(5)
    async with opened("postgres", request, tmp_path, connections=CANCELLED_CONNECTIONS) as spell:
        tenants = await fresh_tenants(spell, CANCELLED_CONNECTIONS * 2, "cancelled")
        await asyncio.gather(*map(seed, tenants))
        probed, cancelled, finished = [], 0, 0

        async def one(number: int) -> None:
            nonlocal cancelled, finished
            asking = asyncio.create_task(ask(tenants[number % len(tenants)], choose.choice((0, 1, 3, 4, 5))))
            if number % 2:
                for _ in range(choose.randrange(PASSES_MAX)):
                    await asyncio.sleep(0)
                asking.cancel()
            try:
                assert set(await asking) == {tenants[number % len(tenants)].id}
                finished += 1
            except asyncio.CancelledError:
                cancelled += 1
            probed.append(await probe(spell))

        async with asyncio.timeout(LIMIT_S):
            for start in range(0, CANCELLED_REQUESTS, CANCELLED_CONNECTIONS * 2):
                await asyncio.gather(*(one(start + offset) for offset in range(CANCELLED_CONNECTIONS * 2)))

        assert set(probed) == {("", 0, 0, 0)}
        assert len(probed) == CANCELLED_REQUESTS
        assert cancelled > CANCELLED_REQUESTS // 20, "too few were cancelled while they ran to prove anything"
        assert finished >= CANCELLED_REQUESTS // 2
        assert spell.admin.pool_status().size <= CANCELLED_CONNECTIONS
