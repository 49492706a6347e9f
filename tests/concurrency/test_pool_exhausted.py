"""More callers than connections: they wait so long and no longer, are told what to do, and are served when there is room again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.fixtures.marked_tenants import QUESTIONS, owners, seed
from tests.fixtures.stores import SERVERS, fresh_tenants, opened

from llmspell.errors import Unavailable
from llmspell.spell import Spell, Tenant

pytest.importorskip("psycopg")

CONNECTIONS = 2
CLIENTS = 50
WAIT_S = 0.3
SLACK_S = 5.0
"""A busy machine may answer so much later than it meant to."""
LIMIT_S = 60


@asynccontextmanager
async def every_connection_taken(tenant: Tenant) -> AsyncIterator[None]:
    """Transactions that say nothing more, on all connections."""
    async with AsyncExitStack() as held:
        for number in range(CONNECTIONS):
            tx = await held.enter_async_context(tenant.transaction())
            await tx.kv.set(f"held-{number}", b"")
        yield


@pytest.mark.parametrize("backend", SERVERS)
async def test_fifty_clients_of_two_busy_connections_wait_for_a_bounded_time_and_are_told_what_to_do(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=CONNECTIONS, pool_timeout_s=WAIT_S) as spell:
        tenants = await fresh_tenants(spell, CLIENTS, "client")
        await asyncio.gather(*(tenant.kv.get("warm") for tenant in tenants))
        waited: list[float] = []
        loop = asyncio.get_running_loop()

        async def client(tenant: Tenant) -> None:
            began = loop.time()
            with pytest.raises(Unavailable) as caught:
                await tenant.kv.set("refused", b"")
            waited.append(loop.time() - began)
            assert caught.value.retryable
            assert "pool_size" in str(caught.value)
            assert caught.value.outcome == "failed"

        async with asyncio.timeout(LIMIT_S):
            async with every_connection_taken(tenants[0]):
                await asyncio.gather(*map(client, tenants))

            assert len(waited) == CLIENTS
            assert min(waited) >= WAIT_S * 0.9
            assert max(waited) <= WAIT_S + SLACK_S
            # There is room again: everybody is served, and nothing that was refused has happened.
            await asyncio.gather(*(tenant.kv.set("served", tenant.id.encode()) for tenant in tenants))
            found = await asyncio.gather(*(tenant.kv.list_keys() for tenant in tenants))
        assert found == [["held-0", "held-1", "served"], *[["served"]] * (CLIENTS - 1)]
        assert spell.admin.pool_status().size == CONNECTIONS


@pytest.mark.parametrize("backend", SERVERS)
async def test_fifty_clients_of_two_connections_are_all_served_in_turn(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=CONNECTIONS) as spell:
        tenants = await fresh_tenants(spell, CLIENTS, "client")
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*map(seed, tenants))
            questions = sorted(QUESTIONS)
            found = await asyncio.gather(
                *(owners(tenant, questions[number % len(questions)]) for number, tenant in enumerate(tenants))
            )

        assert found == [{tenant.id} for tenant in tenants]
        assert spell.admin.pool_status().size == CONNECTIONS


@pytest.mark.parametrize("backend", SERVERS)
async def test_clients_that_go_away_while_they_wait_take_no_connection_with_them(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=CONNECTIONS) as spell:
        (tenant,) = await fresh_tenants(spell, 1)
        await tenant.kv.get("warm")
        async with asyncio.timeout(LIMIT_S):
            async with every_connection_taken(tenant):
                clients = [asyncio.create_task(tenant.kv.set(f"client-{number}", b"")) for number in range(CLIENTS)]
                await until_waiting(spell, CLIENTS)
                for client in clients[::2]:
                    client.cancel()
                await asyncio.gather(*clients[::2], return_exceptions=True)
                assert spell.admin.pool_status().waiting == CLIENTS // 2
            await asyncio.gather(*clients[1::2])

            assert len(await tenant.kv.list_keys("client-")) == CLIENTS // 2
        assert spell.admin.pool_status().size == CONNECTIONS


async def until_waiting(spell: Spell, count: int) -> None:
    while spell.admin.pool_status().waiting < count:
        await asyncio.sleep(0)
