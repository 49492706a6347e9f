"""Raw SQL of the serving role changes neither what a tenant has used nor what it may use, and no path forgets to count."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow
    from tests.fixtures.postgres import PostgresDatabase

LIMITED = """{"max_documents": 5, "max_storage_mb": 1, "max_vectors": 5, "max_embeddings_per_day": 5}"""
BIND = "SELECT set_config('app.current_tenant_id', %s, true)"
USED = "SELECT documents, storage_bytes, vectors FROM llmspell.tenant_usage"
REGISTER = "INSERT INTO llmspell.tenants (tenant_id, name, quotas) VALUES (%s, 'a tenant', %s)"
SET = "INSERT INTO llmspell.kv_store (tenant_id, key, value) VALUES (%s, %s, %s)"
QUOTA_EXCEEDED = "LS123"


def registered(database: PostgresDatabase, quotas: str = LIMITED) -> str:
    tenant = f"tenant-{uuid4()}"
    with psycopg.connect(database.app_url) as app:
        app.execute(BIND, (tenant,))
        app.execute(REGISTER, (tenant, quotas))
    return tenant


def used(connection: Connection[TupleRow], tenant: str) -> tuple[object, ...]:
    connection.execute(BIND, (tenant,))
    (row,) = connection.execute(USED + " WHERE tenant_id = %s", (tenant,)).fetchall()
    return tuple(row)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE llmspell.tenant_usage SET vectors = 0",
        "UPDATE llmspell.tenant_limits SET max_vectors = NULL",
        "UPDATE llmspell.tenant_embeddings SET embeddings = 0",
        "UPDATE llmspell.tenants SET quotas = '{}'",
        "DELETE FROM llmspell.tenant_usage",
        "DELETE FROM llmspell.tenant_limits",
        "DELETE FROM llmspell.tenant_embeddings",
        "DELETE FROM llmspell.tenants",
        "TRUNCATE llmspell.tenant_limits",
        "INSERT INTO llmspell.tenant_limits (tenant_id) VALUES (current_setting('app.current_tenant_id'))",
        "INSERT INTO llmspell.tenant_usage (tenant_id) VALUES (current_setting('app.current_tenant_id'))",
        "SELECT llmspell.count_usage(current_setting('app.current_tenant_id'), 0, 0, -5)",
        "SELECT llmspell.take_embeddings(current_setting('app.current_tenant_id'), -5, 0)",
        "SELECT llmspell.take_embeddings('somebody else', 1, 0)",
        "ALTER TABLE llmspell.kv_store DISABLE TRIGGER kv_store_usage_insert",
        "ALTER TABLE llmspell.kv_store DISABLE TRIGGER ALL",
        "DROP TRIGGER kv_store_usage_insert ON llmspell.kv_store",
        "SET session_replication_role = replica",
    ],
)
def test_the_serving_role_changes_no_counter_and_no_limit(
    postgres_shared_database: PostgresDatabase, statement: str
) -> None:
    tenant = registered(postgres_shared_database)

    with psycopg.connect(postgres_shared_database.app_url) as app:
        app.execute(BIND, (tenant,))
        with pytest.raises(psycopg.Error) as refused:
            app.execute(statement.encode())

    assert refused.value.sqlstate in ("42501", "22023"), refused.value


def test_raw_statements_are_counted_and_refused_like_any_other(postgres_shared_database: PostgresDatabase) -> None:
    tenant = registered(postgres_shared_database)
    many = (
        "INSERT INTO llmspell.memories (tenant_id, memory_id, content, event_at, created_at, updated_at)"
        " SELECT %s, gen_random_uuid(), 'abc', now(), now(), now() FROM generate_series(1, %s)"
    )
    with psycopg.connect(postgres_shared_database.app_url, autocommit=True) as app:
        answers = []
        for count in (4, 2, 1):
            try:
                with app.transaction():
                    app.execute(BIND, (tenant,))
                    app.execute(many, (tenant, count))
                answers.append("stored")
            except psycopg.Error as refused:
                answers.append(str(refused.sqlstate))
        assert answers == ["stored", QUOTA_EXCEEDED, "stored"]
        with app.transaction():
            assert used(app, tenant) == (5, 15, 0)


def test_a_counter_of_another_tenant_is_not_there(postgres_shared_database: PostgresDatabase) -> None:
    registered(postgres_shared_database)
    tenant = registered(postgres_shared_database)

    with psycopg.connect(postgres_shared_database.app_url) as app:
        assert app.execute(USED).fetchall() == []
        app.execute(BIND, (tenant,))
        assert app.execute(USED).fetchall() == [(0, 0, 0)]


def test_what_the_operator_deletes_of_several_tenants_is_given_back_to_each(
    postgres_shared_database: PostgresDatabase,
) -> None:
    tenants = [registered(postgres_shared_database) for _ in range(3)]
    with psycopg.connect(postgres_shared_database.app_url, autocommit=True) as app:
        for tenant in tenants:
            with app.transaction():
                app.execute(BIND, (tenant,))
                app.execute(SET, (tenant, "gone", bytes(100)))
                app.execute(SET, (tenant, "kept", bytes(7)))

    with psycopg.connect(postgres_shared_database.operator_url) as operator:
        operator.execute("DELETE FROM llmspell.kv_store WHERE key = 'gone' AND tenant_id = ANY(%s)", (tenants,))
        bound = operator.execute("SELECT coalesce(current_setting('app.current_tenant_id', true), '')").fetchall()

    assert bound == [("",)]
    with psycopg.connect(postgres_shared_database.app_url) as app:
        assert [used(app, tenant) for tenant in tenants] == [(0, 7, 0)] * 3


def test_a_limit_is_not_set_in_a_snapshot_that_hides_other_writers(postgres_shared_database: PostgresDatabase) -> None:
    tenant = registered(postgres_shared_database)

    with psycopg.connect(postgres_shared_database.operator_url) as operator:
        operator.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.errors.InvalidTransactionState):
            operator.execute("UPDATE llmspell.tenants SET quotas = '{}' WHERE tenant_id = %s", (tenant,))


def test_a_store_without_quotas_has_no_trigger_that_fires(postgres_database: PostgresDatabase) -> None:
    enabled = (
        "SELECT count(*) FILTER (WHERE tgenabled <> 'D'), count(*) FROM pg_trigger WHERE tgname LIKE '%\\_usage\\_%'"
    )
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        registered(postgres_database, "{}")
        before = owner.execute(enabled).fetchall()
        registered(postgres_database)
        after = owner.execute(enabled).fetchall()

    assert (before, after) == ([(0, 17)], [(17, 17)])
