"""Behind a real PgBouncer in transaction mode: it shares server connections, and nothing of ours depends on keeping one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tests.fixtures.pgbouncer import PgBouncer, running_pgbouncer

from llmspell.clock import SystemClock
from llmspell.errors import Conflict, LlmspellError, OutcomeUnknown, Unavailable
from llmspell.storage.postgres.pool import PoolSettings
from llmspell.storage.postgres.roles import require_suitable
from llmspell.storage.relational.catalog import parse
from llmspell.tenant import TenantId

pytest.importorskip("psycopg")

import psycopg
from tests.tenancy.answer_losing_relay import Relay, relayed

from llmspell.storage.postgres.address import read_url
from llmspell.storage.postgres.database import Connector, Database

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase, PostgresServer

    from llmspell.storage.relational.database import Executor

CLIENTS = 16
ROUNDS = 25
LIMIT_S = 60
LOOKS_MAX = 4_000

QUERIES = parse(
    "sample",
    """
-- name: insert -> count
-- A plain insert.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (:tenant_id, :key, gen_random_uuid(), '\\x00', now(), now());

-- name: slow_insert -> count
-- An insert that takes a moment.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
SELECT :tenant_id, :key, gen_random_uuid(), '\\x00', now(), now() FROM pg_sleep(:seconds::float8);

-- name: mine -> value
-- How many keys this connection can see.
SELECT count(*) FROM llmspell.kv_store;

-- name: pid -> value
-- The server process.
SELECT pg_backend_pid();
""",
)


def fresh_tenant() -> TenantId:
    return TenantId(f"t-{uuid4()}")


@asynccontextmanager
async def pooled_database(url: str, **settings: Any) -> AsyncIterator[Database]:
    connect = Connector(read_url(url), statement_cache_size=0, require=require_suitable)
    database = Database(connect, PoolSettings(**settings), clock=SystemClock())
    try:
        yield database
    finally:
        database.pool.close()


# --- it is a pooler -----------------------------------------------------------------------------------------------------


async def test_sixteen_clients_share_fewer_server_connections_and_change_them(
    pgbouncer: PgBouncer, postgres_database: PostgresDatabase
) -> None:
    url, name = pgbouncer.pooled(postgres_database.app_url), postgres_database.name
    processes: list[set[int]] = [set() for _ in range(CLIENTS)]
    async with pooled_database(url, size=CLIENTS) as database, asyncio.timeout(LIMIT_S):
        ready = asyncio.Barrier(CLIENTS)

        async def client(number: int) -> None:
            async def work(executor: Executor) -> int:
                before = await executor.value(QUERIES["pid"])
                assert await executor.value(QUERIES["pid"]) == before, "it changed within a transaction"
                return int(before)

            unit = database.unit(fresh_tenant())
            async with database.pool.link():  # so that there is one more connection than units at work
                await ready.wait()
            for _ in range(ROUNDS):
                processes[number].add(await unit.read(work))

        await asyncio.gather(*map(client, range(CLIENTS)))
        (pool,) = [one for one in pgbouncer.show("pools") if (one["database"], one["user"]) == (name, "llmspell_app")]
        clients = [one for one in pgbouncer.show("clients") if one["database"] == name]
        servers = [one for one in pgbouncer.show("servers") if one["database"] == name]

    served = set().union(*processes)
    assert pool["pool_mode"] == "transaction"
    assert len(clients) == CLIENTS
    assert {one["remote_pid"] for one in servers} == served
    assert 2 <= len(served) <= pgbouncer.connections < CLIENTS
    assert all(len(one) >= 2 for one in processes), "a client never changed its server connection"


async def test_what_is_set_on_a_session_reaches_the_next_client_so_a_leak_would_be_seen(
    own_pgbouncer: PgBouncer, postgres_shared_database: PostgresDatabase
) -> None:
    """The trap that everything here must not step into, shown to be set."""
    url = own_pgbouncer.pooled(postgres_shared_database.app_url)
    victim = fresh_tenant()
    async with pooled_database(url) as database:
        await database.unit(victim).execute(QUERIES["insert"], key="k")
        with psycopg.connect(url, autocommit=True) as careless, psycopg.connect(url, autocommit=True) as other:
            for _ in range(own_pgbouncer.connections):
                careless.execute("SELECT set_config('app.current_tenant_id', %s, false)", (victim,))
            assert other.execute("SELECT count(*) FROM llmspell.kv_store").fetchone() == (1,)

        # Even then a unit of work sees its own rows: it binds its tenant itself.
        assert await database.unit(fresh_tenant()).value(QUERIES["mine"]) == 0


async def test_a_store_that_was_not_told_of_the_pooler_runs_no_statement_of_another_client_and_says_what_to_set(
    own_pgbouncer: PgBouncer, postgres_shared_database: PostgresDatabase
) -> None:
    url = own_pgbouncer.pooled(postgres_shared_database.app_url)
    connect = Connector(read_url(url), statement_cache_size=100, require=require_suitable)
    wrong: list[tuple[int, int]] = []
    errors: list[LlmspellError] = []

    async def client(number: int) -> None:
        database = Database(connect, PoolSettings(size=1), clock=SystemClock())
        unit = database.unit(fresh_tenant())
        mine = parse("s", f"-- name: own -> value\n-- The number of this client.\nSELECT {number}")["own"]
        for _ in range(ROUNDS):
            try:
                found = await unit.value(mine)
            except LlmspellError as exc:
                errors.append(exc)
            else:
                wrong.extend([(number, found)] if found != number else [])
        database.pool.close()

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*map(client, range(6)))

    assert wrong == []
    assert errors, "nothing was prepared, so nothing was tried"
    assert all(isinstance(one, Conflict) and 'pooler = "transaction"' in str(one) for one in errors), errors


GUIDE = Path(__file__).resolve().parents[2] / "docs/how-to/run-behind-pgbouncer.md"
OF_THE_PLACE = ("listen_", "auth_", "client_tls_", "server_tls_")
"""Settings of the guide that name an address, a file or a certificate of its example."""


async def test_the_settings_of_the_guide_are_understood_and_serve(
    postgres_cluster: PostgresServer, postgres_shared_database: PostgresDatabase
) -> None:
    (block,) = re.findall(r"```ini\n.*?\[pgbouncer\]\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in block.splitlines() if line and not line.startswith(OF_THE_PLACE)]
    assert "pool_mode = transaction" in lines

    with running_pgbouncer(postgres_cluster, connections=2, more="\n".join([*lines, ""])) as pooler:
        async with pooled_database(pooler.pooled(postgres_shared_database.app_url)) as database:
            await database.unit(fresh_tenant()).execute(QUERIES["insert"], key="k")
        assert "ERROR" not in pooler.log()


# --- the server is lost behind it ---------------------------------------------------------------------------------------


@asynccontextmanager
async def behind_a_relay(server: PostgresServer, database: PostgresDatabase) -> AsyncIterator[tuple[Relay, Database]]:
    async with relayed(database.app_url) as relay:
        # In a thread: the pooler is asked, while it starts, through this very loop's relay.
        running = running_pgbouncer(server, connections=2, through=relay.folder)
        pooler = await asyncio.to_thread(running.__enter__)
        try:
            async with pooled_database(pooler.pooled(database.app_url), size=2) as found:
                yield relay, found
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)


async def kept(database: PostgresDatabase, tenant: TenantId) -> int:
    async with await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True) as connection:
        sql = "SELECT count(*) FROM llmspell.kv_store WHERE tenant_id = %s"
        row = await (await connection.execute(sql, (tenant,))).fetchone()
    assert row is not None
    return int(row[0])


async def until_kept(database: PostgresDatabase, tenant: TenantId, count: int) -> None:
    for _ in range(LOOKS_MAX):
        if await kept(database, tenant) == count:
            return
    raise AssertionError(f"{count} rows were never kept")


@pytest.mark.parametrize("form", ["call", "batch", "write", "transaction"])
async def test_a_commit_whose_answer_is_lost_behind_the_pooler_is_of_unknown_outcome(
    form: str, postgres_cluster: PostgresServer, postgres_shared_database: PostgresDatabase
) -> None:
    tenant = fresh_tenant()
    async with (
        behind_a_relay(postgres_cluster, postgres_shared_database) as (relay, database),
        asyncio.timeout(LIMIT_S),
    ):
        unit = database.unit(tenant)
        await unit.execute(QUERIES["insert"], key="before")

        async def work(executor: Executor) -> None:
            await executor.execute(QUERIES["insert"], key="a")
            relay.losing = True

        async def write() -> None:
            if form == "call":
                relay.losing = True
                await unit.execute(QUERIES["insert"], key="a")
            elif form == "batch":
                relay.losing = True
                await unit.batch([(QUERIES["insert"], [{"key": "a"}])])
            elif form == "write":
                await unit.write(work)
            else:
                async with database.transaction(tenant, timeout_s=30) as transaction:
                    await transaction.write(work)

        task = asyncio.create_task(write())
        await until_kept(postgres_shared_database, tenant, 2)  # it has happened, and nobody was told
        assert not task.done()
        relay.cut()
        with pytest.raises(OutcomeUnknown):
            await task

        assert relay.lost_bytes > 0
        relay.losing = False
        assert await unit.value(QUERIES["mine"]) == 2
        assert database.pool.status().size == database.pool.status().available


async def test_a_write_that_got_no_server_connection_in_time_did_not_happen(
    postgres_cluster: PostgresServer, postgres_shared_database: PostgresDatabase
) -> None:
    with running_pgbouncer(postgres_cluster, connections=1, wait_s=0.1) as pooler:
        url, tenant = pooler.pooled(postgres_shared_database.app_url), fresh_tenant()
        async with pooled_database(url, size=2) as database, asyncio.timeout(LIMIT_S):
            unit = database.unit(tenant)
            async with database.transaction(fresh_tenant(), timeout_s=30) as holding:
                await holding.value(QUERIES["mine"])
                with pytest.raises(Unavailable, match="query_wait_timeout") as caught:
                    await unit.execute(QUERIES["insert"], key="a")

            assert caught.value.retryable
            assert await unit.value(QUERIES["mine"]) == 0
            await unit.execute(QUERIES["insert"], key="a")


async def test_a_read_whose_server_is_lost_behind_the_pooler_may_be_repeated(
    postgres_cluster: PostgresServer, postgres_shared_database: PostgresDatabase
) -> None:
    async with (
        behind_a_relay(postgres_cluster, postgres_shared_database) as (relay, database),
        asyncio.timeout(LIMIT_S),
    ):
        unit = database.unit(fresh_tenant())
        await unit.value(QUERIES["mine"])
        relay.losing = True
        task = asyncio.create_task(unit.value(QUERIES["mine"]))
        while not relay.lost_bytes:
            await asyncio.sleep(0)
        relay.cut()

        with pytest.raises(Unavailable) as caught:
            await task

        assert caught.value.retryable
        relay.losing = False
        assert await unit.value(QUERIES["mine"]) == 0
