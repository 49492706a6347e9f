"""What could stay on a connection when a request has ended: our API makes none of it, and made by hand it reveals nothing.

Cursors WITH HOLD, temporary tables, advisory locks, LISTEN, prepared statements and settings of the session all survive a
transaction, and a pool hands the session on. There is no DISCARD ALL here, which would also throw away what is prepared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.marked_tenants import QUESTIONS, id_of, owners, seed
from tests.fixtures.stores import SERVERS, Place, fresh_tenants, opened

from llmspell.errors import AlreadyExists, StorageError
from llmspell.spell import Spell, Tenant

pytest.importorskip("psycopg")

import psycopg

if TYPE_CHECKING:
    from llmspell.storage.postgres.link import Link
    from llmspell.storage.postgres.pool import Pool

CONNECTIONS = 2
"""As many as a pooler of one test has to the server."""
LIMIT_S = 60

# A pooler keeps those five for each client, and sets them itself when it gives a server connection to another one.
LEFT = """
SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
UNION ALL SELECT 'temporary ' || relname FROM pg_class WHERE relpersistence = 't' AND relnamespace = pg_my_temp_schema()
UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'listens ' || channel FROM pg_listening_channels() AS channel
UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements WHERE from_sql
UNION ALL SELECT 'setting ' || name FROM pg_settings WHERE source = 'session'
    AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')
UNION ALL SELECT 'tenant ' || current_setting('app.current_tenant_id', true)
    WHERE coalesce(current_setting('app.current_tenant_id', true), '') <> ''
"""


@pytest.fixture(params=SERVERS)
async def spell(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spell]:
    """A store whose connections, also those of the pooler to the server, no other test has."""
    pooler = request.getfixturevalue("own_pgbouncer") if request.param == "pgbouncer" else None
    async with opened(request.param, request, tmp_path, connections=CONNECTIONS, place=Place(pooler=pooler)) as store:
        yield store


@asynccontextmanager
async def every_connection(spell: Spell) -> AsyncIterator[list[Link]]:
    """All connections of the pool at once, each in a transaction, so that a pooler has to take another one for each."""
    pool: Pool = spell._backend._database.pool  # type: ignore[attr-defined]
    links = [await pool.acquire() for _ in range(CONNECTIONS)]
    try:
        for link in links:
            await link._connection.execute("BEGIN", prepare=False)
        yield links
    finally:
        for link in links:
            await link._connection.execute("COMMIT", prepare=False)
            pool.release(link)


async def left(spell: Spell) -> set[str]:
    """What is on the connections of the pool that a request does not see by itself."""
    found: set[str] = set()
    async with every_connection(spell) as links:
        for link in links:
            cursor = await link._connection.execute(LEFT.encode(), prepare=False)
            found |= {row[0] for row in await cursor.fetchall()}
    return found


async def by_hand(spell: Spell, tenant: Tenant, statement: str) -> None:
    """Run a statement as a tenant on every connection, past the API, and keep what it leaves."""
    async with every_connection(spell) as links:
        for link in links:
            bind = "SELECT set_config('app.current_tenant_id', %s, true)"
            await link._connection.execute(bind, (tenant.id,), prepare=False)
            await link._connection.execute(statement.replace(":tenant", tenant.id).encode(), prepare=False)


# --- what our API leaves ------------------------------------------------------------------------------------------------


async def refused(call: Awaitable[object]) -> None:
    with pytest.raises(AlreadyExists):
        await call


async def fail_in_a_transaction(tenant: Tenant) -> None:
    async with tenant.transaction() as tx:
        await tx.kv.set("never", b"")
        await tx.sessions.create(id=id_of(tenant))


async def cancelled(call: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.ensure_future(call())
    for _ in range(4):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_our_api_leaves_nothing_on_a_connection(spell: Spell) -> None:
    async with asyncio.timeout(LIMIT_S):
        (tenant,) = await fresh_tenants(spell, 1)
        await seed(tenant)
        for question in QUESTIONS:
            assert await owners(tenant, question) == {tenant.id}
            await cancelled(lambda question=question: owners(tenant, question))  # type: ignore[misc]
        await refused(tenant.sessions.create(id=id_of(tenant)))
        await refused(fail_in_a_transaction(tenant))
        async for _ in tenant.artifacts.stream((await tenant.artifacts.list()).items[0].id):
            break  # a stream that nobody reads to its end

        assert await left(spell) == set()


# --- what the serving role cannot make ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMPORARY TABLE t AS SELECT * FROM llmspell.kv_store",
        "SELECT * INTO TEMPORARY t FROM llmspell.kv_store",
        "CREATE TEMPORARY VIEW v AS SELECT * FROM llmspell.kv_store",
        "CREATE TEMPORARY SEQUENCE s",
        "CREATE TABLE llmspell.t (a int)",
        "CREATE TABLE public.t (a int)",
        "CREATE SCHEMA s",
        "CREATE FUNCTION llmspell.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE llmspell",
        "SET ROLE llmspell_operator",
        "SET SESSION AUTHORIZATION llmspell_operator",
        "COPY llmspell.kv_store TO PROGRAM 'cat'",
        "COPY llmspell.kv_store TO '/tmp/llmspell'",
        "SET session_replication_role = replica",
    ],
)
async def test_the_serving_role_may_not_make_what_would_outlive_a_request(spell: Spell, statement: str) -> None:
    (tenant,) = await fresh_tenants(spell, 1)

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await by_hand(spell, tenant, statement)

    assert await left(spell) == set()


# --- what it can make ---------------------------------------------------------------------------------------------------

LEFTOVERS = {
    "cursor": "DECLARE held CURSOR WITH HOLD FOR SELECT * FROM llmspell.kv_store",
    "lock": "SELECT pg_advisory_lock_shared(hashtextextended(':tenant', 0))",
    "listens": "LISTEN llmspell",
    "prepared": "PREPARE s1 AS SELECT * FROM llmspell.kv_store",
    "setting": "SET search_path = pg_temp, public",
    "tenant": "SELECT set_config('app.current_tenant_id', ':tenant', false)",
}


@pytest.mark.parametrize("kind", LEFTOVERS)
async def test_what_is_left_on_a_connection_by_hand_reveals_nothing_to_the_next_tenant(spell: Spell, kind: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        tenants = await fresh_tenants(spell, 2)
        await asyncio.gather(*map(seed, tenants))
        victim, other = tenants
        await by_hand(spell, victim, LEFTOVERS[kind])
        assert {one.partition(" ")[0] for one in await left(spell)} == {kind}, "it is not there, so nothing is tried"

        for tenant in (other, victim):
            wrong = {
                question: found for question in QUESTIONS if (found := await owners(tenant, question)) != {tenant.id}
            }
            assert not wrong
        (third,) = await fresh_tenants(spell, 1)
        assert await third.kv.list_keys() == []
        assert (await third.memory.list()).items == []
        await other.kv.set("name", other.id.encode())
        assert await victim.kv.get("name") == victim.id.encode()


async def test_row_level_security_that_was_switched_off_is_an_error_and_no_way_around(spell: Spell) -> None:
    tenants = await fresh_tenants(spell, 2)
    await asyncio.gather(*map(seed, tenants))
    await by_hand(spell, tenants[0], "SET row_security = off")

    for question in QUESTIONS:
        with pytest.raises(StorageError, match="row-level security"):
            await owners(tenants[1], question)


async def test_a_connection_that_comes_back_in_a_transaction_is_closed_with_all_that_is_on_it(spell: Spell) -> None:
    pool: Pool = spell._backend._database.pool  # type: ignore[attr-defined]
    (tenant,) = await fresh_tenants(spell, 1)
    async with pool.link() as link:
        for statement in ("BEGIN", LEFTOVERS["cursor"], LEFTOVERS["tenant"].replace(":tenant", tenant.id)):
            await link._connection.execute(statement.encode(), prepare=False)

    assert link._connection.closed
    assert await left(spell) == set()
