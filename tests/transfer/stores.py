"""Stores to export from and to import into."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fixtures.postgres import PostgresDatabase

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.transfer import Transferable
from llmspell.storage.contracts.transfer_tables import TABLES
from llmspell.storage.postgres.backend import open_postgres
from llmspell.storage.sqlite.backend import open_sqlite
from llmspell.tenant import TenantId

CLOCK = ManualClock()


@asynccontextmanager
async def file_store(path: Path) -> AsyncIterator[Backend]:
    store = await open_sqlite(path, clock=CLOCK)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def server_store(database: PostgresDatabase, *, operator: bool = True) -> AsyncIterator[Backend]:
    store = await open_postgres(
        database.app_url,
        operator_url=database.operator_url if operator else None,
        tenant_key=database.tenant_key,
        clock=CLOCK,
    )
    try:
        yield store
    finally:
        await store.close()


async def contents(store: Transferable, tenant: str | None = None) -> dict[str, int]:
    """How many rows each table has that has any."""
    async with store.transfer_source(None if tenant is None else TenantId(tenant)) as snapshot:
        counts = {table.name: await snapshot.count(table) for table in TABLES}
    return {name: count for name, count in counts.items() if count}
