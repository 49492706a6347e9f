"""Reads: inline or in a thread, over one snapshot, from any number of loops and threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from llmspell.errors import StorageError, TransactionClosed
from llmspell.observe import counting_queries
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Executor
from llmspell.storage.sqlite.backend import SqliteBackend
from llmspell.storage.sqlite.connection import is_read
from llmspell.tenant import TenantId

TENANT = TenantId("t1")
MakeQuery = Callable[..., Query]


async def test_a_read_sees_every_write_acknowledged_before_it(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    for number in range(50):
        await kv.set("k", str(number).encode())
        assert await kv.get("k") == str(number).encode()


@pytest.mark.parametrize("heavy", [False, True])
async def test_a_unit_of_reads_sees_one_snapshot(backend: SqliteBackend, heavy: bool) -> None:
    count = backend._runtime.catalog.kv.count
    other_loop = asyncio.new_event_loop()

    async def work(executor: Executor) -> tuple[object, object]:
        before = await executor.value(count, now=0)
        write = threading.Thread(
            target=lambda: other_loop.run_until_complete(backend.storages(TENANT).kv.set("new", b"v"))
        )
        write.start()
        write.join()
        return before, await executor.value(count, now=0)

    assert await backend.unit(TENANT).read(work, heavy=heavy) == (0, 0)
    assert await backend.storages(TENANT).kv.list_keys() == ["new"]
    other_loop.close()


@pytest.mark.parametrize("heavy", [False, True])
async def test_only_heavy_reads_leave_the_calling_thread(backend: SqliteBackend, heavy: bool) -> None:
    async def work(executor: Executor) -> int:
        return threading.get_ident()

    assert (await backend.unit(TENANT).read(work, heavy=heavy) != threading.get_ident()) is heavy


async def test_a_unit_of_reads_cannot_write(backend: SqliteBackend) -> None:
    async def work(executor: Executor) -> int:
        return await executor.execute(backend._runtime.catalog.kv.clear)

    with pytest.raises(StorageError):
        await backend.unit(TENANT).read(work)


async def test_a_failing_unit_of_reads_leaves_no_snapshot_open(backend: SqliteBackend) -> None:
    async def work(executor: Executor) -> None:
        await executor.value(backend._runtime.catalog.kv.count, now=0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await backend.unit(TENANT).read(work)

    assert not any(connection.in_transaction for connection in backend._database._idle)


async def test_an_executor_does_not_outlive_its_unit_of_work(backend: SqliteBackend) -> None:
    kept: list[Executor] = []

    async def work(executor: Executor) -> None:
        kept.append(executor)

    await backend.unit(TENANT).read(work)

    with pytest.raises(TransactionClosed):
        await kept[0].value(backend._runtime.catalog.kv.count, now=0)


async def test_tenants_never_see_each_other(backend: SqliteBackend) -> None:
    await backend.storages(TenantId("a")).kv.set("k", b"a")
    await backend.storages(TenantId("b")).kv.set("k", b"b")

    assert await backend.storages(TenantId("a")).kv.clear() == 1
    assert await backend.storages(TenantId("b")).kv.get("k") == b"b"


async def test_the_database_itself_says_which_queries_write(backend: SqliteBackend, query: MakeQuery) -> None:
    connection = backend._database._connection
    common = "WITH wanted AS (SELECT 'k' AS key) "

    assert is_read(connection, query(common + "SELECT key FROM wanted"))
    assert not is_read(
        connection, query(common + "DELETE FROM kv_store WHERE key IN (SELECT key FROM wanted) RETURNING 1")
    )
    assert not is_read(connection, query("INSERT INTO kv_store SELECT * FROM kv_store RETURNING key"))


async def test_a_missing_parameter_is_an_error_and_not_null(backend: SqliteBackend) -> None:
    with pytest.raises((KeyError, StorageError)):
        await backend.unit(TENANT).value(backend._runtime.catalog.kv.get, key="k")


async def test_two_event_loops_on_two_threads_share_one_store(backend: SqliteBackend) -> None:
    def elsewhere(name: str, errors: list[BaseException]) -> None:
        async def story() -> None:
            kv = backend.storages(TENANT).kv
            for number in range(40):
                await kv.set(f"{name}{number}", b"v")
                assert await kv.get(f"{name}{number}") == b"v"
            async with backend.transaction(TENANT) as inside:
                await inside.kv.set(f"{name}-tx", b"v")

        try:
            asyncio.run(story())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    errors: list[BaseException] = []
    threads = [threading.Thread(target=elsewhere, args=(name, errors)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert errors == []
    assert len(await backend.storages(TENANT).kv.list_keys()) == 82


async def test_idle_readers_are_bounded(backend: SqliteBackend) -> None:
    borrowed = [backend._database.borrow() for _ in range(12)]
    assert backend.pool_status().size == 13

    for connection in borrowed:
        backend._database.give_back(connection)

    assert backend.pool_status().size == 1 + backend._database.readers
    assert backend.pool_status().available == backend._database.readers


async def test_observers_hear_of_queries_with_their_names(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    with counting_queries() as counts:
        await kv.set("k", b"v")
        await kv.get("k")

    assert counts.queries == {"kv.set": 1, "kv.get": 1}
    assert counts.round_trips.total() == 2
