"""Transactions: one at a time, all or nothing, and never longer than their limit."""

from __future__ import annotations

import asyncio

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, InvalidLimit, TransactionClosed, TransactionTimeout, Unavailable
from llmspell.storage.contracts.backend import Storages
from llmspell.storage.relational.database import Executor
from llmspell.storage.sqlite.backend import SqliteBackend
from llmspell.storage.sqlite.database import transaction
from llmspell.tenant import TenantId

TENANT = TenantId("t1")


async def test_a_transaction_sees_its_own_writes_and_nobody_else_does_before_the_end(backend: SqliteBackend) -> None:
    outside = backend.storages(TENANT).kv
    async with backend.transaction(TENANT) as inside:
        await inside.kv.set("k", b"v")
        assert await inside.kv.get("k") == b"v"
        assert await outside.get("k") is None

    assert await outside.get("k") == b"v"


async def test_an_exception_rolls_everything_back(backend: SqliteBackend) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT) as inside:
            await inside.kv.set("k", b"v")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await block()

    assert await backend.storages(TENANT).kv.get("k") is None


async def test_a_failed_write_inside_leaves_the_rest_of_the_transaction(backend: SqliteBackend) -> None:
    async with transaction(backend._database, TENANT, 30) as unit:
        queries = backend._runtime.catalog.kv
        item = {"kv_id": b"i" * 16, "value": b"v", "expires_at": None, "now": 0}

        async def fails(executor: Executor) -> None:
            await executor.execute(queries.set, key="lost", **item)
            raise AlreadyExists

        await unit.execute(queries.set, key="first", **item)
        with pytest.raises(AlreadyExists):
            await unit.write(fails)
        await unit.execute(queries.set, key="last", **item)

    assert await backend.storages(TENANT).kv.list_keys() == ["first", "last"]


async def test_its_storages_are_closed_after_the_end(backend: SqliteBackend) -> None:
    async with backend.transaction(TENANT) as inside:
        pass

    with pytest.raises(TransactionClosed):
        await inside.kv.get("k")


async def test_its_storages_are_closed_after_a_rollback(backend: SqliteBackend) -> None:
    kept: list[Storages] = []

    async def block() -> None:
        async with backend.transaction(TENANT) as inside:
            kept.append(inside)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await block()
    await backend.storages(TENANT).kv.set("k", b"v")

    with pytest.raises(TransactionClosed):
        await kept[0].kv.set("l", b"v")


async def test_a_statement_after_the_limit_is_refused_and_everything_rolled_back(
    backend: SqliteBackend, clock: ManualClock
) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT, timeout_s=5) as inside:
            await inside.kv.set("k", b"v")
            clock.advance(seconds=6)
            await inside.kv.set("l", b"v")

    with pytest.raises(TransactionTimeout):
        await block()

    assert await backend.storages(TENANT).kv.list_keys() == []


async def test_a_commit_after_the_limit_is_refused(backend: SqliteBackend, clock: ManualClock) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT, timeout_s=5) as inside:
            await inside.kv.set("k", b"v")
            clock.advance(seconds=6)

    with pytest.raises(TransactionTimeout):
        await block()

    assert await backend.storages(TENANT).kv.list_keys() == []


async def test_a_silent_transaction_gives_way_at_its_limit(backend: SqliteBackend, clock: ManualClock) -> None:
    kv = backend.storages(TENANT).kv

    async def block() -> None:
        async with backend.transaction(TENANT, timeout_s=5) as inside:
            await inside.kv.set("k", b"v")
            clock.advance(seconds=6)
            await kv.set("other", b"v")  # would wait for ever, if the silent one could hold the writer
            await inside.kv.set("l", b"v")

    with pytest.raises(TransactionTimeout):
        await block()

    assert await kv.list_keys() == ["other"]


async def test_writers_wait_while_a_transaction_is_open(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    async with backend.transaction(TENANT) as inside:
        write = asyncio.create_task(kv.set("k", b"outside"))
        await inside.kv.set("k", b"inside")
        assert not write.done()

    await write
    assert await kv.get("k") == b"outside"


async def test_a_cancelled_block_rolls_back_and_frees_the_writer(backend: SqliteBackend) -> None:
    inside_block = asyncio.Event()

    async def block() -> None:
        async with backend.transaction(TENANT) as inside:
            await inside.kv.set("k", b"v")
            inside_block.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside_block.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    kv = backend.storages(TENANT).kv
    await asyncio.wait_for(kv.set("other", b"v"), timeout=5)
    assert await kv.list_keys() == ["other"]


async def test_cancelling_while_waiting_to_begin_frees_the_writer(backend: SqliteBackend) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT):
            pytest.fail("it must not begin")

    async with backend.transaction(TENANT):
        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    kv = backend.storages(TENANT).kv
    await asyncio.wait_for(kv.set("k", b"v"), timeout=5)
    assert await kv.get("k") == b"v"


async def test_cancelled_at_any_moment_a_transaction_lands_whole_or_not_at_all(backend: SqliteBackend) -> None:
    async def both(n: int) -> None:
        async with backend.transaction(TENANT) as inside:
            await inside.kv.set(f"{n}-a", b"v")
            await inside.kv.set(f"{n}-b", b"v")

    for n in range(60):
        task = asyncio.create_task(both(n))
        for _ in range(n % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    kv = backend.storages(TENANT).kv
    await asyncio.wait_for(kv.set("end", b"v"), timeout=5)
    keys = set(await kv.list_keys()) - {"end"}
    assert {key[:-2] + "-a" for key in keys} | {key[:-2] + "-b" for key in keys} == keys


async def test_a_read_inside_sees_the_transaction(backend: SqliteBackend) -> None:
    async with transaction(backend._database, TENANT, 30) as unit:
        queries = backend._runtime.catalog.kv
        await unit.execute(queries.set, kv_id=b"i" * 16, key="k", value=b"v", expires_at=None, now=0)

        async def work(executor: Executor) -> object:
            return await executor.value(queries.count, now=0)

        assert await unit.read(work, heavy=True) == 1


async def test_closing_the_store_ends_a_silent_transaction(backend: SqliteBackend) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT) as inside:
            await inside.kv.set("k", b"v")
            await backend.close()
            await inside.kv.get("k")

    with pytest.raises(Unavailable, match="closed"):
        await block()


async def test_a_block_that_waits_for_something_else_is_ended_by_the_limit(backend: SqliteBackend) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT, timeout_s=0.05) as inside:
            await inside.kv.set("k", b"v")
            await asyncio.Event().wait()

    with pytest.raises(TransactionTimeout):
        await asyncio.wait_for(block(), timeout=10)

    assert await backend.storages(TENANT).kv.list_keys() == []


async def test_a_timeout_of_the_callers_own_stays_what_it_is(backend: SqliteBackend) -> None:
    async def block() -> None:
        async with backend.transaction(TENANT), asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await block()


@pytest.mark.parametrize("timeout_s", [0, -1, True, float("nan"), float("inf")])
async def test_a_limit_must_be_a_positive_number_of_seconds(backend: SqliteBackend, timeout_s: float) -> None:
    with pytest.raises(InvalidLimit):
        backend.transaction(TENANT, timeout_s=timeout_s)
