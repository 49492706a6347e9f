"""Raw SQL of the serving role changes neither what a tenant has used nor what it may use, and no path forgets to count."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
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


def test_a_snapshot_that_is_older_than_the_tenant_writes_nothing_past_its_quota(
    postgres_shared_database: PostgresDatabase,
) -> None:
    tenant = f"tenant-{uuid4()}"
    registered(postgres_shared_database)  # counting is on
    with psycopg.connect(postgres_shared_database.app_url) as app:
        app.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        app.execute(BIND, (tenant,))
        assert app.execute("SELECT count(*) FROM llmspell.tenants").fetchall() == [(0,)]
        with psycopg.connect(postgres_shared_database.app_url) as other:
            other.execute(BIND, (tenant,))
            other.execute(REGISTER, (tenant, '{"max_storage_mb": 0}'))

        with pytest.raises(psycopg.errors.SerializationFailure):
            app.execute(SET, (tenant, "k", b"v"))


WIDE = 300
ADVISORY = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
LOCKS_MAX = 101
MARKED = "SELECT documents, storage_bytes, vectors FROM llmspell.tenant_usage WHERE tenant_id LIKE %s GROUP BY 1, 2, 3"


@pytest.fixture
def many(postgres_shared_database: PostgresDatabase) -> str:
    """Tenants with limits, each with two keys; the beginning of their ids."""
    mark = f"wide-{uuid4()}-"
    with psycopg.connect(postgres_shared_database.superuser_url) as superuser:
        superuser.execute(
            "INSERT INTO llmspell.tenants (tenant_id, name, quotas) SELECT %s || n, 't', %s FROM generate_series(1, %s) n",
            (mark, LIMITED, WIDE),
        )
        superuser.execute(
            "INSERT INTO llmspell.kv_store (tenant_id, key, value)"
            " SELECT %s || n, key, '12345' FROM generate_series(1, %s) n, unnest(ARRAY['gone', 'kept']) AS key",
            (mark, WIDE),
        )
    return mark


def test_a_statement_over_many_tenants_takes_no_lock_for_each_of_them_and_is_counted(
    postgres_shared_database: PostgresDatabase, many: str
) -> None:
    with psycopg.connect(postgres_shared_database.operator_url) as operator:
        operator.execute("DELETE FROM llmspell.kv_store WHERE key = 'gone' AND tenant_id LIKE %s", (many + "%",))
        assert operator.execute(ADVISORY).fetchall() == [(LOCKS_MAX,)]
        assert operator.execute(MARKED, (many + "%",)).fetchall() == [(0, 5, 0)]


def test_a_change_of_many_tenants_limits_takes_no_lock_for_each_of_them_and_counts_anew(
    postgres_shared_database: PostgresDatabase, many: str
) -> None:
    with psycopg.connect(postgres_shared_database.operator_url) as operator:
        change = "UPDATE llmspell.tenants SET quotas = '{\"max_storage_mb\": 2}' WHERE tenant_id LIKE %s"
        operator.execute(change, (many + "%",))
        assert operator.execute(ADVISORY).fetchall() == [(LOCKS_MAX,)]
        assert operator.execute(MARKED, (many + "%",)).fetchall() == [(None, 10, None)]


def test_a_limit_that_is_set_while_many_tenants_are_written_counts_what_was_written(
    postgres_shared_database: PostgresDatabase, many: str
) -> None:
    """The last tenant has no lock of its own: whoever sets its limit waits for the one of all of them."""
    database, last = postgres_shared_database, f"{many}{WIDE}"
    limit = "UPDATE llmspell.tenants SET quotas = '{\"max_storage_mb\": 1}' WHERE tenant_id = %s"
    ids = [f"{many}{number}" for number in range(1, WIDE + 1)]
    with psycopg.connect(database.operator_url) as operator, ThreadPoolExecutor(1) as pool:
        operator.execute("UPDATE llmspell.tenants SET quotas = '{}' WHERE tenant_id = %s", (last,))
        operator.commit()
        for id in ids:  # one after another: in a statement the order would be that of the ids
            operator.execute("DELETE FROM llmspell.kv_store WHERE key = 'gone' AND tenant_id = %s", (id,))
        with psycopg.connect(database.operator_url, autocommit=True) as other:
            setting = pool.submit(other.execute, limit, (last,))
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND pid = %s"
            while operator.execute(waits, (other.info.backend_pid,)).fetchall() == [(0,)]:
                assert not setting.done()
            operator.commit()
            setting.result(60)

    with psycopg.connect(database.app_url) as app:
        assert used(app, last) == (None, 5, None)


@pytest.mark.parametrize("said", [-1, 0, 1, 20_000_000])
def test_on_a_server_its_own_date_decides_whatever_day_a_caller_names(
    postgres_database: PostgresDatabase, said: int
) -> None:
    tenant = registered(postgres_database)
    with psycopg.connect(postgres_database.app_url, autocommit=True) as app:
        today = (datetime.now(UTC).date() - date(1970, 1, 1)).days
        with app.transaction():
            app.execute(BIND, (tenant,))
            take = "SELECT llmspell.take_embeddings(%s, %s, %s)"
            assert app.execute(take, (tenant, 4, today)).fetchall() == [(4,)]
            kept = app.execute("SELECT day FROM llmspell.tenant_embeddings").fetchall()
            with pytest.raises(psycopg.Error) as refused, app.transaction():
                app.execute(take, (tenant, 2, today + said))
            assert app.execute(take, (tenant, 1, today + said)).fetchall() == [(5,)]
            assert app.execute("SELECT day FROM llmspell.tenant_embeddings").fetchall() == kept

    assert (refused.value.sqlstate, refused.value.diag.message_primary) == (
        QUOTA_EXCEEDED,
        "max_embeddings_per_day 5 4 2",
    )
    assert kept[0][0] - today in (0, 1), "midnight may have come meanwhile"


def test_nobody_counts_embeddings_for_a_tenant_that_is_not_registered(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.app_url) as app:
        app.execute(BIND, ("nobody",))
        assert app.execute("SELECT llmspell.take_embeddings('nobody', 1, 0)").fetchall() == [(None,)]
        assert app.execute("SELECT count(*) FROM llmspell.tenant_embeddings").fetchall() == [(0,)]


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
