"""Group commit: many writes in one transaction, each alone in its failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import apsw
import pytest

from llmspell import observe
from llmspell.errors import AlreadyExists, DiskFull, StorageError, Unavailable
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Executor
from llmspell.storage.sqlite import writer as writer_module
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

TENANT = TenantId("t1")
MakeQuery = Callable[..., Query]


async def behind_a_transaction(backend: SqliteBackend, writes: list[asyncio.Task[object]]) -> None:
    """Hold the writer until `writes` (not started yet) have all queued, so that they form one group."""
    async with backend.transaction(TENANT):
        for _ in range(3):
            await asyncio.sleep(0)
        assert backend.pool_status().waiting == len(writes)


def commits(backend: SqliteBackend) -> list[str]:
    """Record the transaction statements that the writer runs from now on."""
    seen: list[str] = []

    def trace(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        if sql.split()[0] in ("BEGIN", "COMMIT"):
            seen.append(sql.split()[0])
        return True

    backend._database._connection.exec_trace = trace
    return seen


async def test_waiting_writes_share_one_commit(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    writes = [asyncio.create_task(kv.set(f"k{n}", b"v")) for n in range(50)]
    seen: list[str] = []
    async with backend.transaction(TENANT):
        for _ in range(3):
            await asyncio.sleep(0)
        seen = commits(backend)

    await asyncio.gather(*writes)

    assert seen == ["COMMIT", "BEGIN", "COMMIT"]
    assert len(await kv.list_keys()) == 50


async def test_a_failing_write_of_a_group_fails_alone(backend: SqliteBackend) -> None:
    storages = backend.storages(TENANT)

    async def fails(executor: Executor) -> None:
        await executor.execute(backend._runtime.catalog.kv.clear)
        raise ValueError("changed its mind")

    writes: list[asyncio.Task[object]] = [
        asyncio.create_task(storages.kv.set("before", b"1")),
        asyncio.create_task(backend.unit(TENANT).write(fails)),
        asyncio.create_task(backend.tenants.create(TENANT)),
        asyncio.create_task(backend.tenants.create(TENANT)),
        asyncio.create_task(storages.kv.set("after", b"2")),
    ]
    await behind_a_transaction(backend, writes)
    results = await asyncio.gather(*writes, return_exceptions=True)

    assert await storages.kv.list_keys() == ["after", "before"]
    assert isinstance(results[1], ValueError)
    assert isinstance(results[3], AlreadyExists)
    assert [results[0], results[4]] == [None, None]


async def test_a_large_write_shares_its_commit_with_nobody(backend: SqliteBackend) -> None:
    kv, queries = backend.storages(TENANT).kv, backend._runtime.catalog.kv
    seen: list[str] = []

    async def large(executor: Executor) -> None:
        item = {"kv_id": b"i" * 16, "value": b"v", "expires_at": None, "now": 0}
        await executor.execute(queries.set, key="large", **item)

    writes: list[asyncio.Task[object]] = [
        asyncio.create_task(kv.set("before", b"1")),
        asyncio.create_task(backend.unit(TENANT).write(large, large=True)),
        asyncio.create_task(kv.set("after", b"2")),
        asyncio.create_task(kv.set("later", b"2")),
    ]
    async with backend.transaction(TENANT):
        for _ in range(3):
            await asyncio.sleep(0)
        seen = commits(backend)
    await asyncio.gather(*writes)

    assert seen == ["COMMIT", *["BEGIN", "COMMIT"] * 3]
    assert await kv.list_keys() == ["after", "before", "large", "later"]


async def test_a_large_write_that_fails_takes_nothing_of_others_with_it(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv

    async def fails(executor: Executor) -> None:
        await executor.execute(backend._runtime.catalog.kv.clear)
        raise ValueError("changed its mind")

    writes: list[asyncio.Task[object]] = [
        asyncio.create_task(kv.set("before", b"1")),
        asyncio.create_task(backend.unit(TENANT).write(fails, large=True)),
        asyncio.create_task(kv.set("after", b"2")),
    ]
    await behind_a_transaction(backend, writes)
    results = await asyncio.gather(*writes, return_exceptions=True)

    assert await kv.list_keys() == ["after", "before"]
    assert isinstance(results[1], ValueError)
    assert [results[0], results[2]] == [None, None]


async def test_a_statement_that_breaks_a_constraint_names_it_and_no_value(
    backend: SqliteBackend, query: MakeQuery
) -> None:
    insert = query(
        "INSERT INTO tenants (tenant_id, name, created_at, updated_at) VALUES (:tenant_id, :name, 0, 0)", "count"
    )
    unit = backend.unit(TENANT)
    await unit.execute(insert, name="private name")

    with pytest.raises(AlreadyExists) as caught:
        await unit.execute(insert, name="private name")

    assert "tenants.tenant_id" in str(caught.value)
    assert "private name" not in str(caught.value)


async def test_a_broken_check_is_a_storage_error(backend: SqliteBackend, query: MakeQuery) -> None:
    insert = query(
        "INSERT INTO tenants (tenant_id, name, status, created_at, updated_at) VALUES (:tenant_id, 'n', 'odd', 0, 0)",
        "count",
    )

    with pytest.raises(StorageError, match="valid_tenant_status"):
        await backend.unit(TENANT).execute(insert)


async def test_a_batch_is_all_or_nothing(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    queries = backend._runtime.catalog.kv
    good = {"kv_id": b"i" * 16, "key": "k", "value": b"v", "expires_at": None, "now": 0}

    with pytest.raises(StorageError):
        await backend.unit(TENANT).batch([(queries.set, [good, {**good, "key": "l", "value": None}])])

    assert await kv.list_keys() == []


async def test_a_batch_counts_the_rows_of_each_statement(backend: SqliteBackend) -> None:
    queries = backend._runtime.catalog.kv
    items = [{"kv_id": b"i" * 16, "key": k, "value": b"v", "expires_at": None, "now": 0} for k in "abc"]

    counts = await backend.unit(TENANT).batch([(queries.set, items), (queries.clear, {}), (queries.set, items[:1])])

    assert counts == [3, 3, 1]


async def test_a_statement_that_runs_for_many_is_noted_for_each(backend: SqliteBackend) -> None:
    queries = backend._runtime.catalog.kv
    items = [{"kv_id": b"i" * 16, "key": k, "value": b"v", "expires_at": None, "now": 0} for k in "abc"]

    with observe.counting_queries() as counts:
        await backend.unit(TENANT).batch([(queries.set, items)])

    assert dict(counts.queries) == {queries.set.label: 3}
    assert counts.rows == 3
    assert counts.seconds > 0


async def test_of_a_statement_that_fails_for_one_of_many_the_error_names_the_query(backend: SqliteBackend) -> None:
    queries = backend._runtime.catalog.kv
    items = [
        {"kv_id": b"i" * 16, "key": k, "value": v, "expires_at": None, "now": 0} for k, v in (("a", b""), ("b", None))
    ]

    with observe.counting_queries() as counts, pytest.raises(StorageError) as refused:
        await backend.unit(TENANT).batch([(queries.set, items)])

    assert refused.value.fields["query"] == queries.set.label
    assert refused.value.fields["constraint"] == "kv_store.value"
    assert dict(counts.queries) == {queries.set.label: 1}


async def test_a_delete_that_returns_a_value_is_a_write(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    await kv.set("k", b"v")

    assert await kv.delete("k") is True
    assert await kv.get("k") is None


async def test_a_unit_of_work_that_waits_for_something_else_is_refused(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv

    async def waits(executor: Executor) -> None:
        await executor.execute(backend._runtime.catalog.kv.clear)
        await asyncio.sleep(0)

    await kv.set("k", b"v")
    with pytest.raises(RuntimeError, match="other than its executor"):
        await backend.unit(TENANT).write(waits)

    assert await kv.get("k") == b"v"


async def test_a_write_cancelled_in_the_queue_never_happens(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    async with backend.transaction(TENANT):
        write = asyncio.create_task(kv.set("k", b"v"))
        await asyncio.sleep(0)
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)

    await kv.set("later", b"v")
    assert await kv.list_keys() == ["later"]


async def test_a_group_that_cannot_commit_fails_every_caller_and_writes_nothing(
    backend: SqliteBackend, query: MakeQuery
) -> None:
    unit = backend.unit(TENANT)
    pages = await unit.value(query("PRAGMA page_count", "value"))
    backend._database._connection.pragma("max_page_count", pages + 4)
    kv = backend.storages(TENANT).kv

    writes = [asyncio.create_task(kv.set(f"k{n}", b"x" * 50_000)) for n in range(3)]
    results = await asyncio.gather(*writes, return_exceptions=True)

    assert [type(result) for result in results] == [DiskFull] * 3
    assert await kv.list_keys() == []


async def test_writes_return_when_there_is_room_again(backend: SqliteBackend, query: MakeQuery) -> None:
    connection = backend._database._connection
    connection.pragma("max_page_count", await backend.unit(TENANT).value(query("PRAGMA page_count", "value")))
    kv = backend.storages(TENANT).kv
    with pytest.raises(DiskFull):
        await kv.set("k", b"x" * 500_000)

    connection.pragma("max_page_count", 1_000_000)
    await kv.set("k", b"x" * 500_000)

    assert await kv.get("k") == b"x" * 500_000


async def test_too_many_waiting_writes_are_refused_at_once(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "QUEUE_MAX", 2)
    kv = backend.storages(TENANT).kv
    async with backend.transaction(TENANT):
        waiting = [asyncio.create_task(kv.set(f"k{n}", b"v")) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="Too many"):
            await kv.set("k", b"v")

    await asyncio.gather(*waiting)
    assert await kv.list_keys() == ["k0", "k1"]


async def test_closing_finishes_what_was_queued(backend: SqliteBackend, path: object) -> None:
    writes = [asyncio.create_task(backend.storages(TENANT).kv.set(f"k{n}", b"v")) for n in range(20)]
    await asyncio.sleep(0)

    await backend.close()
    await asyncio.gather(*writes)

    again = await open_sqlite(str(path))
    assert len(await again.storages(TENANT).kv.list_keys()) == 20
    await again.close()


async def test_a_closed_store_refuses_reads_and_writes(backend: SqliteBackend) -> None:
    kv = backend.storages(TENANT).kv
    await backend.close()
    await backend.close()

    with pytest.raises(Unavailable, match="closed"):
        await kv.set("k", b"v")
    with pytest.raises(Unavailable, match="closed"):
        await kv.get("k")


async def test_two_callers_never_share_an_exception_object(backend: SqliteBackend, query: MakeQuery) -> None:
    unit = backend.unit(TENANT)
    backend._database._connection.pragma("max_page_count", await unit.value(query("PRAGMA page_count", "value")))
    kv = backend.storages(TENANT).kv
    writes: list[asyncio.Task[object]] = [asyncio.create_task(kv.set(f"k{n}", b"x" * 90_000)) for n in range(2)]

    await behind_a_transaction(backend, writes)
    first, second = await asyncio.gather(*writes, return_exceptions=True)

    assert isinstance(first, DiskFull)
    assert first is not second
