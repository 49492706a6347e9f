"""Databases with rows in them, migrated further: nothing is lost, and every row fits the new shape."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import apsw
import psycopg
import pytest
from tests.fixtures.postgres import TENANT_KEY, PostgresDatabase
from tests.migrations.samples import ID, bind, insert_sample
from tests.migrations.schemas import migrate_postgres, migrate_sqlite

from llmspell.storage.postgres import signing
from llmspell.storage.postgres.migrate import connected, migrate
from llmspell.storage.postgres.tenant_key import read_tenant_key

TENANTS = ("tenant-a", "tenant-b")
EVENTS = ((TENANTS[0], "2031-01-01"), (TENANTS[1], "2026-01-01"), (TENANTS[0], "2019-01-01"))
DIMENSIONS = (384, 768, 1536, 3072)


def test_vectors_of_all_tenants_become_their_own_owners(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url, last=16)
    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        for tenant in TENANTS:
            for dimension in DIMENSIONS:
                insert_sample(operator, f"vector_embeddings_{dimension}", tenant, id=ID)

    migrate_postgres(postgres_empty_database.admin_url, first=17)

    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        for dimension in DIMENSIONS:
            rows = operator.execute(
                "SELECT tenant_id, space_id, owner_id, part_no, ann"
                f" FROM llmspell.vector_embeddings_{dimension} ORDER BY 1".encode()
            ).fetchall()
            assert rows == [(tenant, f"free-{dimension}", ID, 0, False) for tenant in TENANTS]


def test_row_level_security_is_forced_again_after_the_backfill(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url)

    with psycopg.connect(postgres_empty_database.admin_url) as owner:
        unforced = owner.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'llmspell'::regnamespace"
            " AND relrowsecurity AND NOT relforcerowsecurity"
        ).fetchall()
    assert unforced == []


def test_the_graph_keeps_its_rows_when_its_keys_change(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url, last=14)
    with psycopg.connect(postgres_empty_database.app_url) as app:
        bind(app, TENANTS[0])
        insert_sample(app, "entities", TENANTS[0], entity_id=ID)
        insert_sample(app, "relationships", TENANTS[0])

    migrate_postgres(postgres_empty_database.admin_url, first=15)

    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        assert operator.execute("SELECT tenant_id, from_entity, to_entity FROM llmspell.relationships").fetchall() == [
            (TENANTS[0], ID, ID)
        ]
        assert operator.execute("SELECT entity_id FROM llmspell.entities").fetchall() == [(ID,)]


def test_events_of_a_role_less_database_are_isolated_once_the_roles_exist(
    postgres_empty_database: PostgresDatabase,
) -> None:
    migrate_postgres(postgres_empty_database.admin_url, last=11)
    with psycopg.connect(postgres_empty_database.admin_url) as owner:
        bind(owner, TENANTS[0])
        insert_sample(owner, "event_log", TENANTS[0])

    migrate_postgres(postgres_empty_database.admin_url, first=12)

    with psycopg.connect(postgres_empty_database.app_url) as app:
        bind(app, TENANTS[1])
        assert app.execute("SELECT count(*) FROM llmspell.event_log").fetchall() == [(0,)]
        bind(app, TENANTS[0])
        assert app.execute("SELECT count(*) FROM llmspell.event_log").fetchall() == [(1,)]


def test_a_file_keeps_its_vectors_and_they_become_their_own_owners(tmp_path: Path) -> None:
    file = apsw.Connection(str(tmp_path / "store.db"))
    migrate_sqlite(file, last=16)
    for tenant in TENANTS:
        for dimension in DIMENSIONS:
            file.execute(
                f"INSERT INTO vector_embeddings_{dimension} VALUES (?, ?, 's', zeroblob(?), '{{}}', 1, 2)",
                (ID.bytes, tenant, dimension * 4),
            )

    migrate_sqlite(file, first=17)

    for dimension in DIMENSIONS:
        rows = file.execute(
            "SELECT tenant_id, space_id, owner_id, part_no, ann, created_at, updated_at"
            f" FROM vector_embeddings_{dimension} ORDER BY 1"
        ).fetchall()
        assert rows == [(tenant, f"free-{dimension}", ID.bytes, 0, 0, 1, 2) for tenant in TENANTS]
    file.close()


def test_a_file_keeps_its_graph_when_its_keys_change(tmp_path: Path) -> None:
    file = apsw.Connection(str(tmp_path / "store.db"))
    migrate_sqlite(file, last=14)
    file.execute("INSERT INTO entities VALUES (?, 'a', 't', 'n', '{}', 1, 9, 2, 8, 3)", (ID.bytes,))
    file.execute("INSERT INTO relationships VALUES (?, 'a', ?, ?, 'r', '{}', 1, 9, 2, 8, 3)", (ID.bytes,) * 3)

    migrate_sqlite(file, first=15)

    times = "valid_time_start, valid_time_end, transaction_time_start, transaction_time_end, created_at"
    assert file.execute(f"SELECT name, {times} FROM entities").fetchall() == [("n", 1, 9, 2, 8, 3)]
    assert file.execute(f"SELECT from_entity, {times} FROM relationships").fetchall() == [(ID.bytes, 1, 9, 2, 8, 3)]
    file.close()


def test_the_bounds_of_events_that_are_there_become_known(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url, last=27)
    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        for number, (tenant, at) in enumerate(EVENTS):
            event = {"event_id": UUID(int=number), "timestamp": at, "sequence": number + 1}
            insert_sample(operator, "event_log", tenant, **event)
        insert_sample(operator, "event_sequences", TENANTS[0], value=7)

    migrate_postgres(postgres_empty_database.admin_url, first=28)

    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        rows = operator.execute(
            "SELECT tenant_id, value, first_at::text, last_at::text FROM llmspell.event_sequences ORDER BY 1"
        ).fetchall()
    assert rows == [
        (TENANTS[0], 7, "2019-01-01 00:00:00+00", "2031-01-01 00:00:00+00"),
        (TENANTS[1], 2, "2026-01-01 00:00:00+00", "2026-01-01 00:00:00+00"),
    ]


def test_the_bounds_of_events_in_a_file_become_known_and_stay_so(tmp_path: Path) -> None:
    file = apsw.Connection(str(tmp_path / "store.db"))
    migrate_sqlite(file, last=27)
    insert = "INSERT INTO event_log VALUES (?, ?, 'a.b', zeroblob(16), ?, ?, 'python', '{}')"
    for number, (tenant, at) in enumerate([(TENANTS[0], 5), (TENANTS[1], 9), (TENANTS[0], -5)]):
        file.execute(insert, (tenant, UUID(int=number).bytes, at, number + 1))

    migrate_sqlite(file, first=28)
    file.execute(insert, (TENANTS[1], UUID(int=9).bytes, 10, 4))

    rows = file.execute("SELECT tenant_id, value, first_at, last_at FROM event_sequences ORDER BY 1").fetchall()
    assert rows == [(TENANTS[0], 3, -5, 5), (TENANTS[1], 4, 9, 10)]


OLD_QUOTAS = {
    TENANTS[0]: '{"max_documents": 10000, "max_storage_mb": 1024, "max_vectors": 1, "max_embeddings_per_day": 50000}',
    TENANTS[1]: '{"max_documents": 10000, "max_storage_mb": 1024, "max_vectors": 1000000}',
}


def test_a_quota_that_somebody_chose_holds_after_the_upgrade_and_the_defaults_do_not(
    postgres_empty_database: PostgresDatabase,
) -> None:
    migrate_postgres(postgres_empty_database.admin_url, last=32)
    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        for tenant, quotas in OLD_QUOTAS.items():
            operator.execute(
                "INSERT INTO llmspell.tenants (tenant_id, name, quotas) VALUES (%s, 't', %s)", (tenant, quotas)
            )
            insert_sample(operator, "vector_embeddings_384", tenant, id=ID, owner_id=ID)

    migrate_postgres(postgres_empty_database.admin_url, first=33)

    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        usage = "SELECT tenant_id, documents, storage_bytes, vectors FROM llmspell.tenant_usage ORDER BY 1"
        limits = (
            "SELECT tenant_id, max_documents, max_storage_bytes, max_vectors FROM llmspell.tenant_limits ORDER BY 1"
        )
        kept = "SELECT tenant_id, quotas ->> 'max_vectors', quotas ? 'marked' FROM llmspell.tenants ORDER BY 1"
        assert operator.execute(usage).fetchall() == [(TENANTS[0], None, None, 1), (TENANTS[1], None, None, None)]
        assert operator.execute(limits).fetchall() == [(TENANTS[0], None, None, 1), (TENANTS[1], None, None, None)]
        assert operator.execute(kept).fetchall() == [(TENANTS[0], "1", False), (TENANTS[1], None, False)]


MANY = 20_000
LIMITED_EVERY = 4


def test_a_server_with_many_tenants_is_upgraded_and_what_they_have_is_counted(
    postgres_empty_database: PostgresDatabase,
) -> None:
    """One lock for each tenant would be more than a server has room for."""
    migrate_postgres(postgres_empty_database.admin_url, last=32)
    with psycopg.connect(postgres_empty_database.superuser_url) as superuser:
        superuser.execute(
            "INSERT INTO llmspell.tenants (tenant_id, name, quotas) SELECT 't-' || n, 't',"
            ' CASE WHEN n %% %s = 0 THEN \'{"max_documents": 1, "max_storage_mb": 3, "max_vectors": 2}\'::jsonb ELSE %s::jsonb END'
            " FROM generate_series(1, %s) AS n",
            (LIMITED_EVERY, OLD_QUOTAS[TENANTS[1]], MANY),
        )
        superuser.execute(
            "INSERT INTO llmspell.kv_store (tenant_id, key, value)"
            " SELECT 't-' || n, 'k', '12345' FROM generate_series(1, %s) AS n",
            (MANY,),
        )
        for tenant in ("t-4", "t-5"):
            insert_sample(superuser, "memories", tenant, memory_id=ID)
            insert_sample(superuser, "vector_embeddings_768", tenant, id=ID, owner_id=ID)

    migrate_postgres(postgres_empty_database.admin_url, first=33)

    usage = (
        "SELECT documents, storage_bytes, vectors, count(*) FROM llmspell.tenant_usage GROUP BY 1, 2, 3 ORDER BY 4, 1"
    )
    with psycopg.connect(postgres_empty_database.superuser_url) as superuser:
        limited = MANY // LIMITED_EVERY
        assert superuser.execute(usage).fetchall() == [
            (1, 6, 1, 1),
            (0, 5, 0, limited - 1),
            (None, None, None, MANY - limited),
        ]
        limits = "SELECT count(*) FROM llmspell.tenant_limits WHERE max_storage_bytes = 3 * 1048576"
        assert superuser.execute(limits).fetchall() == [(limited,)]
        unforced = "SELECT count(*) FROM pg_class WHERE relrowsecurity AND NOT relforcerowsecurity"
        assert superuser.execute(unforced).fetchall() == [(0,)]
    with psycopg.connect(postgres_empty_database.app_url) as app:
        bind(app, "t-4")
        with pytest.raises(psycopg.Error, match="max_documents 1 1 1"):
            insert_sample(app, "memories", "t-4", memory_id=UUID(int=7))


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_server_with_another_default_of_isolation_is_upgraded_and_signs(
    postgres_empty_database: PostgresDatabase, level: str
) -> None:
    database = postgres_empty_database
    migrate_postgres(database.admin_url, last=32)
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = '{level}'".encode())
        superuser.execute(
            "INSERT INTO llmspell.tenants (tenant_id, name, quotas) VALUES ('t', 't', %s)", (OLD_QUOTAS[TENANTS[0]],)
        )
    with connected(database.admin_url) as owner:
        assert owner.execute("SHOW default_transaction_isolation").fetchall() == [(level,)]
        with owner.transaction():
            assert owner.execute("SHOW transaction_isolation").fetchall() == [("read committed",)]

    assert migrate(database.admin_url).pending == ()
    assert signing.enable(database.admin_url, read_tenant_key(TENANT_KEY)).enforced

    with psycopg.connect(database.superuser_url) as superuser:
        assert superuser.execute("SELECT vectors FROM llmspell.tenant_usage").fetchall() == [(0,)]


def test_a_migration_counts_what_a_writer_commits_while_it_waits_whatever_the_default_is(
    postgres_empty_database: PostgresDatabase,
) -> None:
    """In one snapshot for all of it, taken before it had to wait, the rows of that writer would be missing."""
    database = postgres_empty_database
    migrate_postgres(database.admin_url, last=32)
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute(
            f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'repeatable read'".encode()
        )
        superuser.execute(
            "INSERT INTO llmspell.tenants (tenant_id, name, quotas) VALUES ('t', 't', %s)", (OLD_QUOTAS[TENANTS[0]],)
        )
        with psycopg.connect(database.app_url) as app, ThreadPoolExecutor(1) as pool:
            bind(app, "t")
            insert_sample(app, "vector_embeddings_384", "t", id=ID, owner_id=ID)
            migrating = pool.submit(migrate, database.admin_url)
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
            while superuser.execute(waits).fetchall() == [(0,)]:
                assert not migrating.done()
            app.commit()
            assert migrating.result(60).pending == ()

        assert superuser.execute("SELECT vectors FROM llmspell.tenant_usage").fetchall() == [(1,)]


def test_a_quota_that_somebody_chose_in_a_file_holds_after_the_upgrade_and_the_defaults_do_not(tmp_path: Path) -> None:
    file = apsw.Connection(str(tmp_path / "store.db"))
    migrate_sqlite(file, last=32)
    for tenant, quotas in OLD_QUOTAS.items():
        insert = "INSERT INTO tenants (tenant_id, name, quotas, created_at, updated_at) VALUES (?, 't', ?, 0, 0)"
        file.execute(insert, (tenant, quotas))

    migrate_sqlite(file, first=33)

    usage = (
        "SELECT u.tenant_id, documents, vectors, max_vectors"
        " FROM tenant_usage u JOIN tenant_limits USING (tenant_id) ORDER BY 1"
    )
    assert file.execute(usage).fetchall() == [(TENANTS[0], None, 0, 1), (TENANTS[1], None, None, None)]
    kept = [json.loads(str(quotas)) for (quotas,) in file.execute("SELECT quotas FROM tenants ORDER BY tenant_id")]
    assert [{name for name, limit in quotas.items() if limit is not None} for quotas in kept] == [
        {"max_vectors"},
        set(),
    ]
    file.close()


def test_an_older_sqlite_opens_the_file_and_is_counted_too(tmp_path: Path) -> None:
    """The module of the standard library is what a distribution has; tools open our files with it."""
    path = str(tmp_path / "store.db")
    file = apsw.Connection(path)
    migrate_sqlite(file)
    file.close()
    register = "INSERT INTO tenants (tenant_id, name, quotas, created_at, updated_at) VALUES ('a', 'a', ?, 0, 0)"
    keep = (
        "INSERT INTO kv_store (tenant_id, key, value, metadata, created_at, updated_at) VALUES ('a', ?, ?, '{}', 0, 0)"
    )
    older = sqlite3.connect(path)
    older.execute(register, ('{"max_storage_mb": 1}',))
    older.execute(keep, ("fits", bytes(2**20)))

    with pytest.raises(sqlite3.Error, match="max_storage_mb 1048576 1048576 1"):
        older.execute(keep, ("one too many", b"x"))

    assert older.execute("SELECT storage_bytes FROM tenant_usage").fetchall() == [(2**20,)]
    assert older.execute("SELECT key FROM kv_store").fetchall() == [("fits",)]
    older.close()
