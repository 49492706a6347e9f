"""The vectors of a dimension in hash partitions: nothing is lost on the way, and no tenant reaches another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tests.unit.storage.postgres.test_nearest import exact, some_vectors

from llmspell.errors import Conflict, InvalidLimit
from llmspell.observe import counting_queries
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import nearest, vector_indexes, vector_partitions
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres
from llmspell.storage.postgres.tenancy import rls_audit
from llmspell.storage.relational.vectors import free_space
from llmspell.tenant import TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

PARTITIONS = 4
TABLE = "vector_embeddings_384"


@pytest.fixture
async def backend(postgres_database: PostgresDatabase) -> AsyncIterator[PostgresBackend]:
    found = await open_postgres(postgres_database.app_url, operator_url=postgres_database.operator_url, pool_size=3)
    yield found
    await found.close()


async def tenant_with(backend: PostgresBackend, data: Any) -> tuple[TenantId, list[Any]]:
    tenant = TenantId(f"t-{uuid4()}")
    await backend.tenants.create(tenant)
    return tenant, await backend.storages(tenant).vectors.insert([VectorEntry(embedding=row) for row in data])


def moved(database: PostgresDatabase, **more: Any) -> list[str]:
    return vector_partitions.partition(
        database.admin_url, database.operator_url, dimension=384, partitions=PARTITIONS, **more
    )


def shape(database: PostgresDatabase, table: str) -> tuple[Any, ...]:
    """Columns with their storage, checks, and indexes of a table."""
    with psycopg.connect(database.admin_url) as owner:
        columns = owner.execute(
            "SELECT attname, atttypid::regtype::text, atttypmod, attnotnull, attstorage::text, attstattarget"
            " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname",
            (f"llmspell.{table}",),
        ).fetchall()
        checks = owner.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
            " AND contype IN ('c', 'p', 'u') ORDER BY conname",
            (f"llmspell.{table}",),
        ).fetchall()
        indexes = owner.execute(
            "SELECT indexname, replace(indexdef, ' ON ONLY ', ' ON ') FROM pg_indexes WHERE tablename = %s ORDER BY 1",
            (table,),
        ).fetchall()
        triggers = owner.execute(
            "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY 1",
            (f"llmspell.{table}",),
        ).fetchall()
    return columns, checks, indexes, triggers


def holes(database: PostgresDatabase) -> list[Any]:
    with psycopg.connect(database.operator_url) as operator:
        return operator.execute(rls_audit().encode()).fetchall()


async def test_the_partitions_hold_what_the_table_held_and_are_as_it_was(
    backend: PostgresBackend, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)
    data = some_vectors(90, 384)
    tenants = [await tenant_with(backend, data[:60]) for _ in range(6)]
    for tenant, _ in tenants[:3]:
        await backend.promote(tenant, free_space(384), dimension=384)
    for tenant, ids in tenants:
        ids += await backend.storages(tenant).vectors.insert([VectorEntry(embedding=row) for row in data[60:]])
        await backend.storages(tenant).vectors.search(data[5], limit=15)
    before, clean = shape(postgres_database, TABLE), holes(postgres_database)

    heard: list[str] = []
    assert moved(postgres_database, dry_run=True) == moved(postgres_database, announce=heard.append)
    assert [line for line in heard if not line.startswith(" ")] == [
        f"make {TABLE}_parted with 4 partitions",
        "copy about 0 rows in batches of 1,000",
        "build 4 approximate indexes",
        f"put it in the place of {TABLE}",
    ]
    assert moved(postgres_database) == []

    assert shape(postgres_database, TABLE) == before
    assert holes(postgres_database) == clean == []
    for tenant, ids in tenants:
        with counting_queries() as counts:
            hits = await backend.storages(tenant).vectors.search(data[5], limit=15)
        assert [hit.id for hit in hits] == exact(data, data[5], ids, 15)
        assert ("nearest.free_union_384" in counts.queries) is (tenant in [one for one, _ in tenants[:3]])
    found = vector_indexes.listed(postgres_database.admin_url, dimension=384)
    assert [(one.table, one.m, one.ef_construction, one.valid) for one in found] == [
        (f"{TABLE}_p{number:03d}", 16, 64, True) for number in range(PARTITIONS)
    ]
    assert vector_indexes.rebuild(postgres_database.admin_url, dimension=384, dry_run=True) == [
        f"rebuild {one.name}" for one in found
    ]


async def test_a_partition_is_closed_to_the_serving_role_and_bound_to_the_tenant(
    backend: PostgresBackend, postgres_database: PostgresDatabase
) -> None:
    tenant, _ = await tenant_with(backend, some_vectors(3, 384))
    moved(postgres_database)
    with psycopg.connect(postgres_database.app_url, autocommit=True) as app:
        app.execute("SELECT set_config('app.current_tenant_id', %s, false)", (tenant,))
        assert app.execute(f"SELECT count(*) FROM llmspell.{TABLE}".encode()).fetchone() == (3,)
        app.execute("SELECT set_config('app.current_tenant_id', 'another', false)")
        assert app.execute(f"SELECT count(*) FROM llmspell.{TABLE}".encode()).fetchone() == (0,)
        for number in range(PARTITIONS):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(f"SELECT FROM llmspell.{TABLE}_p{number:03d}".encode())


async def test_what_is_written_while_the_vectors_move_arrives(
    backend: PostgresBackend, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the batches of the copy others insert, delete, change and promote, before and behind what was copied."""
    monkeypatch.setattr(vector_partitions, "BATCH", 20)
    monkeypatch.setattr(vector_partitions, "REPORT_EVERY", 1)
    data = some_vectors(200, 384)
    tenants = [await tenant_with(backend, data[:60]) for _ in range(3)]
    loop = asyncio.get_running_loop()
    writes: list[int] = []

    async def write(number: int) -> None:
        for tenant, ids in tenants:
            storage = backend.storages(tenant).vectors
            ids += await storage.insert([VectorEntry(embedding=data[60 + number])])
            gone = ids[number % 50]
            await storage.delete([gone])
            await storage.update_metadata(ids[50 + number % 5], {"changed": number})
            if number == 2:
                await backend.promote(tenant, free_space(384), dimension=384, limit=30)

    def announce(line: str) -> None:
        if line.startswith("  ") and len(writes) < 40:
            asyncio.run_coroutine_threadsafe(write(len(writes)), loop).result(timeout=60)
            writes.append(len(writes))

    await asyncio.to_thread(moved, postgres_database, announce=announce)

    assert len(writes) >= 9
    for tenant, ids in tenants:
        storage = backend.storages(tenant).vectors
        left = [id for id in ids if await storage.get(id) is not None]
        assert len(left) == (await storage.stats()).total_vectors == 60
        assert set(ids) - set(left) == {ids[number % 50] for number in writes}
        records = [await storage.get(ids[50 + number]) for number in range(5)]
        assert all(record is not None and "changed" in record.metadata for record in records)


async def test_a_move_that_was_interrupted_goes_on_and_can_be_given_up(
    backend: PostgresBackend, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, ids = await tenant_with(backend, some_vectors(40, 384))
    before = shape(postgres_database, TABLE)

    class Killed(BaseException):
        pass

    def killed(line: str) -> None:
        if line.startswith("build"):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            moved(postgres_database, announce=killed)
        await backend.storages(tenant).vectors.delete(ids[:10])
    with pytest.raises(Conflict, match="on their way into 4 partitions"):
        vector_partitions.partition(
            postgres_database.admin_url, postgres_database.operator_url, dimension=384, partitions=8
        )
    assert vector_partitions.abandon(postgres_database.admin_url, dimension=384) is True
    assert vector_partitions.abandon(postgres_database.admin_url, dimension=384) is False
    assert shape(postgres_database, TABLE) == before
    assert holes(postgres_database) == []

    with pytest.raises(Killed):
        moved(postgres_database, announce=killed)
    await backend.storages(tenant).vectors.delete(ids[10:20])
    assert moved(postgres_database)[0] == f"go on with {TABLE}_parted with 4 partitions"
    assert (await backend.storages(tenant).vectors.stats()).total_vectors == 20
    with pytest.raises(Conflict, match="in 4 partitions already"):
        vector_partitions.partition(
            postgres_database.admin_url, postgres_database.operator_url, dimension=384, partitions=8
        )


async def test_quotas_of_vectors_hold_in_partitions(
    backend: PostgresBackend, postgres_database: PostgresDatabase
) -> None:
    tenant, ids = await tenant_with(backend, some_vectors(4, 384))
    moved(postgres_database)
    with psycopg.connect(postgres_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("UPDATE llmspell.tenants SET quotas = '{\"max_vectors\": 5}' WHERE tenant_id = %s", (tenant,))
    storage = backend.storages(tenant).vectors
    await storage.insert([VectorEntry(embedding=row) for row in some_vectors(1, 384)])
    with pytest.raises(Exception, match="max_vectors"):
        await storage.insert([VectorEntry(embedding=row) for row in some_vectors(1, 384)])
    await storage.delete(ids[:2])
    await storage.insert([VectorEntry(embedding=row) for row in some_vectors(2, 384)])
    assert holes(postgres_database) == []
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute(f"ALTER TABLE llmspell.{TABLE}_p000 DISABLE TRIGGER {TABLE}_usage_insert".encode())
    assert [subject for subject, _ in holes(postgres_database)] == [f"llmspell.{TABLE}_p000"]


def test_what_is_out_of_bounds_is_refused(postgres_database: PostgresDatabase) -> None:
    with pytest.raises(InvalidLimit, match="partitions"):
        vector_partitions.partition(
            postgres_database.admin_url, postgres_database.operator_url, dimension=384, partitions=1
        )
    with pytest.raises(InvalidLimit, match="dimension"):
        vector_partitions.abandon(postgres_database.admin_url, dimension=5)
