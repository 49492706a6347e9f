"""What limits a wait for a lock, and what a cancelled write leaves, on a real server, as `llmspell_app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tests.fixtures.stores import SERVERS

from llmspell.clock import SystemClock
from llmspell.storage.postgres.pool import PoolSettings
from llmspell.storage.postgres.roles import require_suitable
from llmspell.storage.relational.catalog import load, parse
from llmspell.tenant import TenantId

pytest.importorskip("psycopg")

from llmspell.storage.postgres.address import read_url
from llmspell.storage.postgres.database import Connector, Database

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

    from llmspell.storage.relational.database import Executor

LARGE_BYTES = 16_000_000
QUERIES = parse(
    "sample",
    """
-- name: lock_timeout -> value
-- How long a statement waits for a lock.
SELECT current_setting('lock_timeout');

-- name: mine -> value
-- How many keys this connection can see.
SELECT count(*) FROM llmspell.kv_store;
""",
)


@pytest.fixture(params=SERVERS)
async def database(
    request: pytest.FixtureRequest, postgres_shared_database: PostgresDatabase
) -> AsyncIterator[Database]:
    url, cached = postgres_shared_database.app_url, 100
    if request.param == "pgbouncer":
        url, cached = request.getfixturevalue("pgbouncer").pooled(url), 0
    connect = Connector(read_url(url), statement_cache_size=cached, require=require_suitable)
    found = Database(connect, PoolSettings(size=1, timeout_s=20), clock=SystemClock())
    yield found
    found.pool.close()


def fresh_tenant() -> TenantId:
    return TenantId(f"t-{uuid4()}")


async def limit(executor: Executor) -> Any:
    return await executor.value(QUERIES["lock_timeout"])


async def test_a_statement_waits_for_a_lock_only_so_long(database: Database) -> None:
    unit = database.unit(fresh_tenant())

    assert [await limit(unit), await unit.read(limit), await unit.write(limit)] == ["30s", "30s", "30s"]
    async with database.transaction(unit.tenant, timeout_s=5) as transaction:
        assert await limit(transaction) == "30s"


async def test_the_limit_is_not_left_on_the_connection(database: Database) -> None:
    assert await limit(database.unit(fresh_tenant())) == "30s"

    async with database.pool.link() as link:
        cursor = await link._connection.execute("SHOW lock_timeout")
        assert await cursor.fetchone() == ("0",)


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.01, 0.02])
async def test_a_large_write_that_is_cancelled_while_it_is_sent_writes_nothing(
    database: Database, delay_s: float
) -> None:
    unit = database.unit(fresh_tenant())
    values = {"kv_id": uuid4(), "value": bytes(LARGE_BYTES), "now": datetime.now(UTC), "expires_at": None}
    batch = [(load("llmspell.storage.postgres").kv.set, [{"key": str(n), **values} for n in range(4)])]

    task = asyncio.create_task(unit.batch(batch))
    asyncio.get_running_loop().call_later(delay_s, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await unit.value(QUERIES["mine"]) == 0
