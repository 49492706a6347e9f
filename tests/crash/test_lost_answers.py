"""Connections that are cut while commits are under way: sent again under its key, a call has one effect and one answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.stores import fresh_tenant, opened

from llmspell.errors import Conflict, OutcomeUnknown, Unavailable
from llmspell.spell import Tenant, Transaction

CALLERS = 6
CALLS_EACH = 20
KILLS_MIN = 20
TRIES_MAX = 400
LIMIT_S = 120
KILL = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'llmspell_app' AND state <> 'idle'
"""


async def test_keyed_work_is_done_once_though_connections_are_cut_under_it(
    postgres_shared_database: PostgresDatabase, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    killed, seen = 0, Counter[type]()
    answers: dict[str, int] = {}

    async def add_one(tx: Transaction) -> int:
        value = int(await tx.kv.get("n") or b"0") + 1
        await tx.kv.set("n", str(value).encode())
        return value

    async def caller(tenant: Tenant, number: int) -> None:
        for call in range(CALLS_EACH):
            key = f"{number}-{call}"
            answers[key] = await insist(tenant, key)

    async def insist(tenant: Tenant, key: str) -> int:
        for _ in range(TRIES_MAX):
            try:
                return await tenant.run(add_one, idempotency_key=key)
            except (Unavailable, OutcomeUnknown) as error:
                seen[type(error)] += 1
            except Conflict:
                continue
        raise AssertionError("the store never answered")

    async def cut(superuser: psycopg.AsyncConnection[tuple[int]]) -> None:
        nonlocal killed
        while len(answers) < CALLERS * CALLS_EACH:
            done = len(answers)
            cursor = await superuser.execute(KILL)
            killed += (await cursor.fetchone() or (0,))[0]
            while len(answers) == done:  # let somebody get through, or nobody ever does
                await asyncio.sleep(0)

    async with opened("postgres", request, tmp_path, connections=CALLERS) as spell:
        tenant = await fresh_tenant(spell)
        async with (
            await psycopg.AsyncConnection.connect(postgres_shared_database.superuser_url, autocommit=True) as superuser,
            asyncio.timeout(LIMIT_S),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(cut(superuser))
            for number in range(CALLERS):
                group.create_task(caller(tenant, number))

        assert await tenant.kv.get("n") == str(CALLERS * CALLS_EACH).encode()
        # Whoever asks again under a key hears the same answer.
        again = {key: await tenant.run(add_one, idempotency_key=key) for key in answers}

    assert killed >= KILLS_MIN, "too few connections were cut for this to prove anything"
    assert seen[Unavailable] > 0
    assert sorted(answers.values()) == list(range(1, CALLERS * CALLS_EACH + 1))
    assert again == answers
