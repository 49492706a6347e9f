"""Eight workers on the same few rows, in opposite orders, through `run`: no conflict reaches anybody, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import SERVERS, STORES, Place, fresh_tenant, opened

from llmspell.errors import LlmspellError
from llmspell.settings import Settings
from llmspell.spell import Tenant, Transaction

WORKERS = 8
HOT = ("a", "b", "c")
DEADLOCK_TIMEOUT_MS = 10
"""After so long a server looks for a deadlock, instead of a second: there are hundreds here."""
LIMIT_S = 3_600
SEED = usual(17)
MEET_EVERY = 5
"""Turns: in such a one all workers have read, each by its own snapshot, before anybody writes; all but one meet a conflict."""
MEET_LIMIT_S = 120
TOGETHER = "postgres"
"""Where all can be in a transaction at once: elsewhere they write one after another, or the pooler has fewer connections."""
ATTEMPTS = Settings().transaction.attempts
"""The default: this is what a caller gets who asks for nothing."""


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """A database of its own that finds deadlocks fast, if the backend is a server."""
    if request.node.callspec.params["backend"] not in SERVERS:
        return Place()
    database: PostgresDatabase = request.getfixturevalue("postgres_database")
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        setting = sql.SQL("ALTER DATABASE {} SET deadlock_timeout = {}")
        superuser.execute(setting.format(sql.Identifier(database.name), sql.Literal(DEADLOCK_TIMEOUT_MS)))
    return Place(database=database)


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("backend", [*STORES, "pgbouncer"])
async def test_hot_rows_changed_in_opposite_orders_end_exact_and_no_conflict_surfaces(
    backend: str, place: Place, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rounds = size(ci=50, soak=2_000)
    tries: Counter[int] = Counter()
    surfaced: list[LlmspellError] = []
    barrier = asyncio.Barrier(WORKERS)

    async def meet() -> None:
        async with asyncio.timeout(MEET_LIMIT_S):
            await barrier.wait()

    async def worker(tenant: Tenant, number: int) -> None:
        dice = random.Random(f"{SEED}/{number}")
        for turn in range(rounds):
            order = list(HOT if number % 2 else reversed(HOT))
            if dice.random() < 0.3:
                dice.shuffle(order)
            tried = 0

            async def change(tx: Transaction, order: list[str] = order, turn: int = turn) -> None:
                nonlocal tried
                tried += 1
                if tried == 1 and turn % MEET_EVERY == 0 and backend == TOGETHER:
                    await tx.kv.get_batch(HOT)
                    await meet()
                for name in order:
                    value = int(await tx.kv.get(name) or b"")
                    await asyncio.sleep(0)
                    await tx.kv.set(name, str(value + 1).encode())
                await tx.kv.set(f"done-{number}-{turn}", b"")

            try:
                await tenant.run(change)
            except LlmspellError as error:
                surfaced.append(error)
            tries[tried] += 1

    async with opened(backend, request, tmp_path, connections=WORKERS, place=place) as spell:
        tenant = await fresh_tenant(spell)
        await tenant.kv.set_batch(dict.fromkeys(HOT, b"0"))
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(worker(tenant, number) for number in range(WORKERS)))

        changes = WORKERS * rounds
        assert surfaced == []
        assert await tenant.kv.get_batch(HOT) == dict.fromkeys(HOT, str(changes).encode())
        assert len(await tenant.kv.list_keys("done-", limit=changes + 1)) == changes
    conflicts = sum((number - 1) * count for number, count in tries.items())
    tell(storm_transactions=changes, storm_conflicts=conflicts)
    assert max(tries) <= ATTEMPTS
    if backend == TOGETHER:
        assert conflicts >= (WORKERS - 1) * rounds // MEET_EVERY, "there was no storm"
