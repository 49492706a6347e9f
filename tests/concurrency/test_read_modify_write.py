"""Read, change and write back, by many at once: nothing is lost, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, opened

from llmspell.errors import Conflict

CALLERS = 8
ROUNDS = 12
ATTEMPTS_MAX = 2_000
LIMIT_S = 60


async def until_it_holds(change: Callable[[], Awaitable[object]]) -> int:
    """Repeat a change while somebody else was first, and return how often it took."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            await change()
        except Conflict:
            continue
        else:
            return attempt
    raise AssertionError("somebody else was always first")


async def each_caller(change: Callable[[], Awaitable[object]]) -> None:
    async def call() -> None:
        for _ in range(ROUNDS):
            await until_it_holds(change)

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(call() for _ in range(CALLERS)))


@pytest.mark.parametrize("backend", STORES)
async def test_a_counter_in_a_key_is_exact_when_eight_count_in_transactions(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        await tenant.kv.set("n", b"0")

        async def increment() -> None:
            async with tenant.transaction() as tx:
                before = await tx.kv.get("n")
                assert before is not None
                await asyncio.sleep(0)
                await tx.kv.set("n", str(int(before) + 1).encode())

        await each_caller(increment)

        assert await tenant.kv.get("n") == str(CALLERS * ROUNDS).encode()


@pytest.mark.parametrize("backend", STORES)
async def test_a_counter_in_a_memory_is_exact_when_eight_update_the_version_they_have_read(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)
        id = (await tenant.memory.add("a counter", metadata={"n": 0})).id

        async def increment() -> None:
            before = await tenant.memory.get(id)
            assert before is not None
            await asyncio.sleep(0)
            await tenant.memory.update(id, metadata={"n": before.metadata["n"] + 1}, expected_version=before.version)

        await each_caller(increment)

        after = await tenant.memory.get(id)
        assert after is not None
        assert after.metadata == {"n": CALLERS * ROUNDS}
        assert [one.version for one in await tenant.memory.history(id)] == list(range(1, CALLERS * ROUNDS + 2))
