"""Units of work on a server, as `llmspell_app`, also behind a pooler: what is committed, what stays, what an answer is worth."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tests.fixtures.stores import SERVERS

from llmspell.clock import ManualClock, SystemClock
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    LlmspellError,
    OutcomeUnknown,
    StorageError,
    TransactionClosed,
    TransactionError,
    TransactionTimeout,
    Unavailable,
)
from llmspell.observe import counting_queries
from llmspell.storage.postgres.pool import PoolSettings
from llmspell.storage.postgres.roles import require_suitable
from llmspell.storage.relational.catalog import Catalog, load, parse
from llmspell.tenant import TenantId

pytest.importorskip("psycopg")

from llmspell.storage.postgres.address import read_url
from llmspell.storage.postgres.database import Connector, Database

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

    from llmspell.storage.postgres.link import Link
    from llmspell.storage.relational.database import Executor

CANCELLED_REQUESTS = 400
BOUND = b"SELECT coalesce(current_setting('app.current_tenant_id', true), ''), (SELECT count(*) FROM llmspell.kv_store)"

QUERIES = parse(
    "sample",
    """
-- name: slow_write -> count
-- A write that takes a moment.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
SELECT :tenant_id, :key, gen_random_uuid(), '\\x00', now(), now() FROM pg_sleep(:seconds::float8);

-- name: insert -> count
-- A plain insert.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (:tenant_id, :key, gen_random_uuid(), '\\x00', now(), now());

-- name: insert_foreign -> count
-- An insert for somebody else.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (:victim, :key, gen_random_uuid(), '\\x00', now(), now());

-- name: break -> rows
-- It fails.
SELECT 1 / 0 FROM llmspell.kv_store;

-- name: sleep -> rows
-- It takes its time.
SELECT 1 FROM pg_sleep(:seconds::float8);

-- name: mine -> value
-- How many keys this connection can see.
SELECT count(*) FROM llmspell.kv_store;

-- name: pid -> value
-- The server process.
SELECT pg_backend_pid();

-- name: bad_check -> count
-- It breaks a constraint.
INSERT INTO llmspell.agent_states (tenant_id, agent_id, agent_type, state_data, schema_version, checksum)
VALUES (:tenant_id, 'a', 't', '{}', 0, 'c');

-- name: ends -> row
-- An open and a closed end.
SELECT :a::timestamptz, :b::timestamptz;
""",
)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load("llmspell.storage.postgres")


def fresh_tenant() -> TenantId:
    return TenantId(f"t-{uuid4()}")


@asynccontextmanager
async def opened(url: str, *, clock: Any = None, cached: int = 100, **settings: Any) -> AsyncIterator[Database]:
    connect = Connector(read_url(url), statement_cache_size=cached, require=require_suitable)
    database = Database(connect, PoolSettings(**settings), clock=clock or SystemClock())
    try:
        yield database
    finally:
        database.pool.close()


@pytest.fixture(params=SERVERS)
async def database(
    request: pytest.FixtureRequest, postgres_shared_database: PostgresDatabase
) -> AsyncIterator[Database]:
    url, cached = postgres_shared_database.app_url, 100
    if request.param == "pgbouncer":
        url, cached = request.getfixturevalue("pgbouncer").pooled(url), 0
    async with opened(url, size=4, timeout_s=10, cached=cached) as found:
        yield found


async def probe(link: Link) -> tuple[str, int]:
    """What a connection shows to somebody who has no tenant."""
    cursor = await link._connection.execute(BOUND)
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


def item(key: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {"key": key, "kv_id": uuid4(), "value": b"v", "now": now, "expires_at": None}


# --- what is left on a connection ---------------------------------------------------------------------------------------


async def test_no_tenant_is_left_after_a_call(database: Database, catalog: Catalog) -> None:
    await database.unit(fresh_tenant()).execute(catalog.kv.set, **item("a"))
    async with database.pool.link() as link:
        assert await probe(link) == ("", 0)


async def test_no_tenant_is_left_after_a_failing_call(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())
    await unit.execute(catalog.kv.set, **item("a"))
    with pytest.raises(StorageError):
        await unit.rows(QUERIES["break"])
    async with database.pool.link() as link:
        assert await probe(link) == ("", 0)
    assert database.pool.status().size == 1


@pytest.mark.parametrize("form", ["read", "write", "transaction"])
async def test_no_tenant_is_left_after_a_failing_transaction(database: Database, catalog: Catalog, form: str) -> None:
    unit = database.unit(fresh_tenant())
    await unit.execute(catalog.kv.set, **item("a"))

    async def work(executor: Executor) -> None:
        await executor.rows(QUERIES["break"])

    with pytest.raises(StorageError):  # noqa: PT012 - the block is the unit of work
        if form == "transaction":
            async with database.transaction(unit.tenant, timeout_s=5) as transaction:
                await work(transaction)
        else:
            await getattr(unit, form)(work)
    async with database.pool.link() as link:
        assert await probe(link) == ("", 0)
    assert database.pool.status().size == 1


async def test_no_tenant_is_left_by_requests_that_are_cancelled_at_random(
    postgres_shared_database: PostgresDatabase, catalog: Catalog
) -> None:
    dice = random.Random(7)
    async with opened(postgres_shared_database.app_url, size=3, timeout_s=20) as database:
        leaks: list[object] = []

        async def request(number: int) -> None:
            unit = database.unit(fresh_tenant())

            async def work(executor: Executor) -> None:
                await executor.execute(catalog.kv.set, **item("a"))
                await executor.rows(QUERIES["sleep"], seconds=dice.random() * 0.004)
                await executor.value(QUERIES["mine"])

            if number % 4 == 0:
                await unit.write(work)
            elif number % 4 == 1:
                async with database.transaction(unit.tenant, timeout_s=10) as transaction:
                    await transaction.write(work)
            elif number % 4 == 2:
                await unit.batch([(catalog.kv.set, [item(str(n)) for n in range(50)])])
            else:
                await unit.execute(QUERIES["slow_write"], key="k", seconds=dice.random() * 0.003)

        async def cancelled_request(number: int) -> None:
            task = asyncio.create_task(request(number))
            if number % 2:
                asyncio.get_running_loop().call_later(dice.random() * 0.006, task.cancel)
            await asyncio.gather(task, return_exceptions=True)
            async with database.pool.link() as link:
                if (found := await probe(link)) != ("", 0):
                    leaks.append(found)

        for first in range(0, CANCELLED_REQUESTS, 8):
            await asyncio.gather(*(cancelled_request(first + offset) for offset in range(8)))
        assert leaks == []
        status = database.pool.status()
        assert status.size == status.available <= 3


async def test_interleaved_tenants_on_a_small_pool_see_their_own_rows_only(
    postgres_shared_database: PostgresDatabase, catalog: Catalog
) -> None:
    async with opened(postgres_shared_database.app_url, size=2, timeout_s=30) as database:
        tenants = [fresh_tenant() for _ in range(40)]

        async def live(number: int, tenant: TenantId) -> set[int]:
            unit = database.unit(tenant)
            for n in range(number % 5 + 1):
                await unit.execute(catalog.kv.set, **item(f"{tenant}-{n}"))
            return {await unit.value(QUERIES["mine"]) for _ in range(5)}

        seen = await asyncio.gather(*(live(number, tenant) for number, tenant in enumerate(tenants)))
        assert seen == [{number % 5 + 1} for number in range(40)]


async def test_the_database_refuses_a_write_for_another_tenant(database: Database) -> None:
    with pytest.raises(StorageError, match="refused the access"):
        await database.unit(fresh_tenant()).execute(QUERIES["insert_foreign"], victim="somebody", key="k")


# --- what a unit of work does -------------------------------------------------------------------------------------------


async def test_a_batch_is_atomic(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())
    with pytest.raises(AlreadyExists):
        await unit.batch([(QUERIES["insert"], [{"key": "a"}, {"key": "b"}, {"key": "a"}])])
    assert await unit.value(QUERIES["mine"]) == 0


async def test_a_batch_counts_the_rows_of_each_statement(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())
    keys = [{"key": str(n)} for n in range(300)]
    counts = await unit.batch([(QUERIES["insert"], keys), (QUERIES["insert"], []), (catalog.kv.clear, {})])
    assert counts == [300, 0, 300]


async def test_a_write_that_raises_leaves_nothing(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())

    async def work(executor: Executor) -> None:
        await executor.execute(catalog.kv.set, **item("a"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await unit.write(work)
    assert await unit.value(QUERIES["mine"]) == 0


async def test_a_read_sees_one_snapshot(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())

    async def work(executor: Executor) -> tuple[int, int]:
        before = await executor.value(QUERIES["mine"])
        await unit.execute(catalog.kv.set, **item("a"))
        return before, await executor.value(QUERIES["mine"])

    assert await unit.read(work) == (0, 0)


async def test_a_read_cannot_write(database: Database, catalog: Catalog) -> None:
    async def work(executor: Executor) -> None:
        await executor.execute(catalog.kv.set, **item("a"))

    with pytest.raises(StorageError, match="no writes"):
        await database.unit(fresh_tenant()).read(work)


async def test_a_nested_write_that_fails_is_undone_alone(database: Database, catalog: Catalog) -> None:
    tenant = fresh_tenant()

    async def failing(executor: Executor) -> None:
        await executor.execute(QUERIES["insert"], key="inner")
        await executor.execute(QUERIES["insert"], key="outer")

    async with database.transaction(tenant, timeout_s=5) as transaction:
        await transaction.execute(QUERIES["insert"], key="outer")
        with pytest.raises(AlreadyExists):
            await transaction.write(failing)
        await transaction.execute(QUERIES["insert"], key="after")
    keys = await database.unit(tenant).rows(
        catalog.kv.list_keys, first="", beyond=None, after="", now=datetime.now(UTC), limit=9
    )
    assert keys == [("after",), ("outer",)]


async def test_tasks_that_share_a_transaction_do_not_undo_each_other(database: Database, catalog: Catalog) -> None:
    tenant = fresh_tenant()

    async def failing(executor: Executor) -> None:
        await executor.execute(QUERIES["insert"], key="x")
        await executor.rows(QUERIES["sleep"], seconds=0.01)
        await executor.rows(QUERIES["break"])

    async with database.transaction(tenant, timeout_s=5) as transaction:
        results = await asyncio.gather(
            transaction.write(failing),
            *(transaction.execute(QUERIES["insert"], key=f"k{n}") for n in range(5)),
            return_exceptions=True,
        )
    assert isinstance(results[0], LlmspellError)
    assert await database.unit(tenant).value(QUERIES["mine"]) == 5


async def test_a_failed_call_that_is_caught_leaves_the_rest_of_a_transaction(
    database: Database, catalog: Catalog
) -> None:
    tenant = fresh_tenant()
    async with database.transaction(tenant, timeout_s=5) as transaction:
        await transaction.execute(QUERIES["insert"], key="a")
        with pytest.raises(AlreadyExists):
            await transaction.execute(QUERIES["insert"], key="a")
    assert await database.unit(tenant).value(QUERIES["mine"]) == 1


async def test_a_swallowed_failure_makes_the_end_of_a_write_fail(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())

    async def work(executor: Executor) -> None:
        await executor.execute(QUERIES["insert"], key="a")
        with pytest.raises(AlreadyExists):
            await executor.execute(QUERIES["insert"], key="a")

    with pytest.raises(TransactionError, match="nothing was written"):
        await unit.write(work)
    assert await unit.value(QUERIES["mine"]) == 0


async def test_a_lost_update_is_refused(database: Database, catalog: Catalog) -> None:
    tenant = fresh_tenant()
    await database.unit(tenant).execute(catalog.kv.set, **item("a"))
    with pytest.raises(Conflict):  # noqa: PT012 - the block is the unit of work
        async with database.transaction(tenant, timeout_s=5) as transaction:
            await transaction.value(QUERIES["mine"])
            await database.unit(tenant).execute(catalog.kv.set, **item("a"))
            await transaction.execute(catalog.kv.set, **item("a"))


async def test_a_transaction_cannot_be_used_after_its_end(database: Database) -> None:
    async with database.transaction(fresh_tenant(), timeout_s=5) as transaction:
        pass
    with pytest.raises(TransactionClosed):
        await transaction.value(QUERIES["mine"])


async def test_an_empty_transaction_takes_no_connection(database: Database) -> None:
    async with database.transaction(fresh_tenant(), timeout_s=5):
        assert database.pool.status().size == 0


# --- limits -------------------------------------------------------------------------------------------------------------


async def test_a_transaction_that_outlives_its_limit_is_rolled_back(postgres_shared_database: PostgresDatabase) -> None:
    clock = ManualClock()
    tenant = fresh_tenant()
    async with opened(postgres_shared_database.app_url, clock=clock) as database:
        with pytest.raises(TransactionTimeout):  # noqa: PT012 - the block is the unit of work
            async with database.transaction(tenant, timeout_s=5) as transaction:
                await transaction.execute(QUERIES["insert"], key="a")
                clock.advance(seconds=6)
        assert await database.unit(tenant).value(QUERIES["mine"]) == 0
        assert database.pool.status().available == 1


async def test_a_statement_is_stopped_when_the_limit_passes(database: Database) -> None:
    started = time.monotonic()
    with pytest.raises(TransactionTimeout):
        async with database.transaction(fresh_tenant(), timeout_s=0.1) as transaction:
            await transaction.rows(QUERIES["sleep"], seconds=20)
    assert time.monotonic() - started < 5


async def test_the_server_ends_a_transaction_whose_client_hangs(
    postgres_shared_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmspell.storage.postgres.executor.SERVER_GRACE_S", 0.0)
    clock = ManualClock()  # ours never passes the limit
    async with opened(postgres_shared_database.app_url, clock=clock) as database:
        with pytest.raises(TransactionTimeout):  # noqa: PT012 - the block is the unit of work
            async with database.transaction(fresh_tenant(), timeout_s=0.05) as transaction:
                pid = await transaction.value(QUERIES["pid"])
                await gone(postgres_shared_database, pid)
                await transaction.value(QUERIES["mine"])


async def test_a_caller_does_not_wait_for_a_connection_beyond_the_limit(
    postgres_shared_database: PostgresDatabase,
) -> None:
    async with opened(postgres_shared_database.app_url, size=1, timeout_s=0.05) as database, database.pool.link():
        with pytest.raises(Unavailable, match="size=1, available=0"):
            await database.unit(fresh_tenant()).value(QUERIES["mine"])
        assert database.pool.status().waiting == 0


# --- lost connections ---------------------------------------------------------------------------------------------------


async def gone(database: PostgresDatabase, pid: int) -> None:
    """Wait until a server process has ended."""
    await until(database, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", pid)


async def until(database: PostgresDatabase, condition: str, *values: object) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True) as connection:
        for _ in range(2_000):
            row = await (await connection.execute(condition, values)).fetchone()
            if row == (True,):
                return
            await asyncio.sleep(0)
    raise AssertionError(f"never: {condition}")


async def kill(database: PostgresDatabase, pid: int) -> None:
    await until(database, "SELECT pg_terminate_backend(%s, 5000)", pid)


async def test_a_connection_that_the_server_closed_is_not_handed_out(
    database: Database, postgres_shared_database: PostgresDatabase
) -> None:
    unit = database.unit(fresh_tenant())
    await kill(postgres_shared_database, await unit.value(QUERIES["pid"]))
    assert await unit.value(QUERIES["mine"]) == 0


async def test_a_write_whose_server_process_dies_before_its_end_did_not_happen(
    database: Database, postgres_shared_database: PostgresDatabase
) -> None:
    unit = database.unit(fresh_tenant())
    task = asyncio.create_task(unit.execute(QUERIES["slow_write"], key="a", seconds=20))
    asleep = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = %s)"
    await until(postgres_shared_database, asleep, postgres_shared_database.name)
    await until(
        postgres_shared_database,
        "SELECT bool_and(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = %s",
        postgres_shared_database.name,
    )
    with pytest.raises(Unavailable):
        await task
    assert await unit.value(QUERIES["mine"]) == 0


def lose_answers(link: Link) -> None:
    """Put the end of a closed pair in the place of the socket, so that nothing comes out of it any more, not even what has
    arrived: an answer may be faster than we are, and a socket that is shut down still gives what waits in it."""
    end, other = socket.socketpair()
    other.close()
    with end:
        os.dup2(end.fileno(), link._pgconn.socket, inheritable=False)


@pytest.mark.parametrize("form", ["call", "write"])
async def test_a_commit_whose_answer_is_lost_is_of_unknown_outcome(
    database: Database, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from llmspell.storage.postgres import link as module

    unit = database.unit(fresh_tenant())
    await unit.value(QUERIES["mine"])
    collect: Callable[..., Any] = module.Link._collect

    def cut(self: Any, state: Any, expected: Any) -> Any:
        if form == "call" or any(bound.command is module.COMMIT for bound, _ in expected):
            lose_answers(self)
        return collect(self, state, expected)

    monkeypatch.setattr(module.Link, "_collect", cut)

    async def work(executor: Executor) -> None:
        await executor.execute(QUERIES["insert"], key="a")

    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the block is the unit of work
        if form == "call":
            await unit.execute(QUERIES["insert"], key="a")
        else:
            await unit.write(work)
    monkeypatch.undo()
    assert await unit.value(QUERIES["mine"]) in (0, 1)
    assert database.pool.status().size == 1


async def test_a_read_whose_answer_is_lost_may_be_repeated(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmspell.storage.postgres import link as module

    unit = database.unit(fresh_tenant())

    def cut(self: Any, state: Any, expected: Any) -> Any:
        raise module.Lost("cut")
        yield

    monkeypatch.setattr(module.Link, "_collect", cut)
    with pytest.raises(Unavailable) as caught:
        await unit.value(QUERIES["mine"])
    assert caught.value.retryable


# --- round trips and errors ---------------------------------------------------------------------------------------------


async def test_a_call_takes_one_round_trip(database: Database, catalog: Catalog) -> None:
    unit = database.unit(fresh_tenant())
    await unit.value(QUERIES["mine"])
    with counting_queries() as counts:
        await unit.execute(catalog.kv.set, **item("a"))
    assert counts.round_trips == {"kv.set": 1}
    assert counts.queries == {"kv.set": 1}


async def test_a_batch_of_a_thousand_takes_one_round_trip(database: Database) -> None:
    unit = database.unit(fresh_tenant())
    with counting_queries() as counts:
        await unit.batch([(QUERIES["insert"], [{"key": str(n)} for n in range(1_000)])])
    assert (counts.round_trips.total(), counts.rows) == (1, 1_000)


async def test_a_transaction_takes_one_round_trip_a_statement_and_one_to_commit(database: Database) -> None:
    async def work(executor: Executor) -> None:
        await executor.execute(QUERIES["insert"], key="b")

    with counting_queries() as counts:
        async with database.transaction(fresh_tenant(), timeout_s=5) as transaction:
            await transaction.execute(QUERIES["insert"], key="a")
            await transaction.write(work)
    assert counts.round_trips.total() == 3


async def test_an_error_names_the_constraint_and_no_value(database: Database) -> None:
    unit = database.unit(fresh_tenant())
    with pytest.raises(StorageError, match="agent_states_schema_version_check"):
        await unit.execute(QUERIES["bad_check"])
    await unit.execute(QUERIES["insert"], key="secret-key")
    with pytest.raises(AlreadyExists) as caught:
        await unit.execute(QUERIES["insert"], key="secret-key")
    assert "secret-key" not in str(caught.value)


async def test_a_statement_that_fails_again_and_again_is_prepared_once(database: Database) -> None:
    unit = database.unit(fresh_tenant())
    for _ in range(20):
        with pytest.raises(StorageError):
            await unit.execute(QUERIES["bad_check"])
    async with database.pool.link() as link:
        cursor = await link._connection.execute("SELECT count(*) FROM pg_prepared_statements")
        assert (await cursor.fetchone() or (99,))[0] <= 2


async def test_the_statement_cache_has_a_limit(postgres_shared_database: PostgresDatabase) -> None:
    connect = Connector(read_url(postgres_shared_database.app_url), statement_cache_size=4, require=require_suitable)
    database = Database(connect, PoolSettings(), clock=SystemClock())
    unit = database.unit(fresh_tenant())
    many = [parse("s", f"-- name: q -> rows\n-- One of many.\nSELECT {n}")["q"] for n in range(3)]
    for _ in range(3):
        for query in [*many, QUERIES["mine"], QUERIES["pid"]]:
            await unit.value(query)
    async with database.pool.link() as link:
        cursor = await link._connection.execute("SELECT count(*) FROM pg_prepared_statements")
        assert (await cursor.fetchone() or (99,))[0] <= 4
    database.pool.close()


async def test_an_open_end_is_none_and_instants_are_utc_to_the_microsecond(database: Database) -> None:
    instant = datetime(2026, 5, 1, 9, 30, 0, 123_456, tzinfo=UTC)
    assert await database.unit(fresh_tenant()).row(QUERIES["ends"], a="infinity", b=instant) == (None, instant)
