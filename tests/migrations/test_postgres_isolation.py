"""What each role can reach, table by table: the tables come from the catalogue, so a new one is tested by existing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from tests.fixtures.postgres import PostgresDatabase
from tests.migrations.samples import Connection, bind, insert_sample, tenant_tables
from tests.migrations.schemas import migrate_postgres

A, B = "tenant-a", "tenant-b"
CHANGED_BY_THE_OPERATOR_ONLY = {"tenants"}
WRITTEN_BY_FUNCTIONS_ONLY = {"tenant_limits", "tenant_usage", "tenant_embeddings"}
"""The first two come with the registration; see `fill`."""
NEVER_CHANGED = {"audit_log"}
NEVER_DELETED = {"audit_log", "audit_heads"}
UNCHANGED = CHANGED_BY_THE_OPERATOR_ONLY | NEVER_CHANGED | WRITTEN_BY_FUNCTIONS_ONLY
UNDELETED = CHANGED_BY_THE_OPERATOR_ONLY | NEVER_DELETED | WRITTEN_BY_FUNCTIONS_ONLY


@contextmanager
def session(url: str, tenant: str | None) -> Iterator[Connection]:
    """A transaction of one tenant, rolled back at its end."""
    with psycopg.connect(url) as connection:
        bind(connection, tenant)
        yield connection
        connection.rollback()


def count(connection: Connection, table: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("llmspell", table))
    return int(connection.execute(query).fetchall()[0][0])


def refusal(connection: Connection, table: str, action: Any) -> str | None:
    """The SQLSTATE that `action` ends in, or None when it is let through; the transaction goes on."""
    try:
        with connection.transaction(force_rollback=True):
            action(connection, table)
    except psycopg.Error as exc:
        return exc.sqlstate
    return None


def rows_changed(connection: Connection, table: str, statement: str) -> int:
    with connection.transaction(force_rollback=True):
        query = sql.SQL(statement).format(sql.Identifier("llmspell", table))
        return connection.execute(query).rowcount


def fill(connection: Connection, tenant: str) -> None:
    """Give a tenant one row in every table."""
    for table in tenant_tables(connection):
        if table not in WRITTEN_BY_FUNCTIONS_ONLY:
            insert_sample(connection, table, tenant)
    connection.execute("SELECT llmspell.take_embeddings(%s, 1, 0)", (tenant,))


@pytest.fixture
def filled(postgres_database: PostgresDatabase) -> PostgresDatabase:
    """Tenant A has one row in every table."""
    with psycopg.connect(postgres_database.app_url) as app:
        bind(app, A)
        fill(app, A)
    return postgres_database


def test_a_tenant_sees_its_own_row_in_every_table(filled: PostgresDatabase) -> None:
    with session(filled.app_url, A) as app:
        assert {table: count(app, table) for table in tenant_tables(app)} == dict.fromkeys(tenant_tables(app), 1)


@pytest.mark.parametrize("tenant", [B, None, ""])
def test_another_tenant_and_no_tenant_see_no_row_of_any_table(filled: PostgresDatabase, tenant: str | None) -> None:
    with session(filled.app_url, tenant) as app:
        assert [table for table in tenant_tables(app) if count(app, table)] == []


def test_the_owner_without_a_tenant_sees_no_row_either(filled: PostgresDatabase) -> None:
    with session(filled.admin_url, None) as owner:
        assert [table for table in tenant_tables(owner) if count(owner, table)] == []


def test_the_operator_sees_the_rows_of_all_tenants(filled: PostgresDatabase) -> None:
    with session(filled.operator_url, None) as operator:
        assert [table for table in tenant_tables(operator) if count(operator, table) != 1] == []


@pytest.mark.parametrize("tenant", [B, None])
def test_a_row_of_another_tenant_cannot_be_inserted_anywhere(filled: PostgresDatabase, tenant: str | None) -> None:
    other_ids = {"session_id": "00000000-0000-7000-8000-000000000002", "artifact_id": "other", "content_hash": "b" * 64}
    with session(filled.app_url, tenant) as app:
        let_through = [
            table
            for table in tenant_tables(app)
            if refusal(app, table, lambda c, t: insert_sample(c, t, A, **other_ids)) != "42501"
        ]

    assert let_through == []


@pytest.mark.parametrize("tenant", [B, None])
def test_an_update_of_another_tenants_rows_changes_none(filled: PostgresDatabase, tenant: str | None) -> None:
    with session(filled.app_url, tenant) as app:
        tables = [table for table in tenant_tables(app) if table not in UNCHANGED]
        changed = {table: rows_changed(app, table, "UPDATE {} SET tenant_id = tenant_id") for table in tables}

    assert changed == dict.fromkeys(tables, 0)


@pytest.mark.parametrize("tenant", [B, None])
def test_a_delete_reaches_no_row_of_another_tenant(filled: PostgresDatabase, tenant: str | None) -> None:
    with session(filled.app_url, tenant) as app:
        tables = [table for table in tenant_tables(app) if table not in UNDELETED]
        deleted = {table: rows_changed(app, table, "DELETE FROM {}") for table in tables}

    assert deleted == dict.fromkeys(tables, 0)


def test_a_row_cannot_be_given_away_to_another_tenant(filled: PostgresDatabase) -> None:
    def give_away(connection: Connection, table: str) -> None:
        query = sql.SQL("UPDATE {} SET tenant_id = 'tenant-b'").format(sql.Identifier("llmspell", table))
        connection.execute(query)

    with session(filled.app_url, A) as app:
        given = [table for table in tenant_tables(app) if refusal(app, table, give_away) is None]

    assert given == []


def test_two_tenants_can_have_rows_of_the_same_id_in_every_table(filled: PostgresDatabase) -> None:
    with session(filled.app_url, B) as app:
        fill(app, B)
        assert [table for table in tenant_tables(app) if count(app, table) != 1] == []


def test_the_empty_tenant_is_refused_even_when_it_is_bound(filled: PostgresDatabase) -> None:
    with session(filled.app_url, "") as app:
        stored = [
            table
            for table in tenant_tables(app)
            if table not in WRITTEN_BY_FUNCTIONS_ONLY
            and refusal(app, table, lambda c, t: insert_sample(c, t, "")) not in ("23514", "23503")
        ]

    assert stored == []


def partitions(connection: Connection) -> list[str]:
    query = (
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'llmspell.event_log'::regclass ORDER BY 1"
    )
    return [row[0].removeprefix("llmspell.") for row in connection.execute(query).fetchall()]


def test_a_partition_has_no_privileges_for_tenants(filled: PostgresDatabase) -> None:
    with session(filled.app_url, A) as app:
        reachable = [name for name in partitions(app) if refusal(app, name, count) != "42501"]

    assert reachable == []


def test_a_partition_made_later_is_isolated_by_itself(filled: PostgresDatabase) -> None:
    with psycopg.connect(filled.operator_url, autocommit=True) as operator:
        operator.execute("SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')")
    with psycopg.connect(filled.app_url) as app:
        bind(app, A)
        insert_sample(app, "event_log", A, timestamp="2031-05-05T00:00:00Z")
    with psycopg.connect(filled.admin_url, autocommit=True) as owner:
        # As if privileges had come back: the policies alone must hold.
        owner.execute("GRANT SELECT ON llmspell.event_log_2031_05 TO llmspell_app")

    with session(filled.app_url, A) as app:
        assert count(app, "event_log_2031_05") == 1
    with session(filled.app_url, B) as app:
        assert count(app, "event_log_2031_05") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE llmspell.kv_store",
        "CREATE TABLE llmspell.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION llmspell.mine() RETURNS int LANGUAGE sql RETURN 1",
        "DROP TABLE llmspell.kv_store",
        "ALTER TABLE llmspell.kv_store DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant_isolation_select ON llmspell.kv_store",
        "UPDATE llmspell.store_meta SET value = ''",
        "INSERT INTO llmspell.schema_migrations VALUES (999, 'V999__x', repeat('0', 64))",
        "SELECT * FROM llmspell.archive_event_log_partitions(now())",
        "SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')",
        "SELECT llmspell.cleanup_old_event_log_partitions(now())",
        "SELECT llmspell.apply_tenant_rls('llmspell.kv_store')",
        "UPDATE llmspell.tenants SET status = 'active'",
        "DELETE FROM llmspell.tenants",
        "UPDATE llmspell.audit_log SET principal = 'nobody'",
        "DELETE FROM llmspell.audit_log",
        "DELETE FROM llmspell.audit_heads",
        "SET ROLE llmspell",
        "SET ROLE llmspell_operator",
    ],
)
def test_the_app_role_may_not(postgres_database: PostgresDatabase, statement: str) -> None:
    with session(postgres_database.app_url, A) as app, pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement.encode())


def test_row_security_cannot_be_switched_off_by_the_app_role(filled: PostgresDatabase) -> None:
    with session(filled.app_url, A) as app:
        app.execute("SET LOCAL row_security = off")
        with pytest.raises(errors.InsufficientPrivilege):
            count(app, "kv_store")


def test_temporary_tables_are_refused_where_the_migrations_ran(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url)

    with session(postgres_empty_database.app_url, A) as app, pytest.raises(errors.InsufficientPrivilege):
        app.execute("CREATE TEMPORARY TABLE mine (a int)")


@pytest.mark.parametrize("role", ["app_url", "operator_url"])
def test_neither_serving_role_owns_anything(postgres_database: PostgresDatabase, role: str) -> None:
    owned = """
        SELECT (SELECT count(*) FROM pg_class WHERE relowner = r.oid) + (SELECT count(*) FROM pg_proc WHERE proowner = r.oid)
            + (SELECT count(*) FROM pg_namespace WHERE nspowner = r.oid) FROM pg_roles AS r WHERE rolname = current_user
    """
    with session(getattr(postgres_database, role), None) as connection:
        assert connection.execute(owned).fetchall() == [(0,)]


def test_the_secrets_of_the_store_are_random_and_readable(postgres_database: PostgresDatabase) -> None:
    with session(postgres_database.app_url, None) as app:
        rows = dict(app.execute("SELECT name, value FROM llmspell.store_meta").fetchall())

    assert set(rows) == {"store_id", "cursor_key", "access_pepper"}
    assert [len(value) for value in rows.values()] == [32, 32, 32]
    assert len(set(rows.values())) == 3
