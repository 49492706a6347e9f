"""What the fixtures of `tests/fixtures/postgres.py` and `services.py` promise to every other test."""

from __future__ import annotations

import time

import pytest
from tests.fixtures import postgres
from tests.fixtures.postgres import PostgresDatabase, PostgresServer
from tests.fixtures.services import require_service

psycopg = pytest.importorskip("psycopg")


def tables_of(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'llmspell'").fetchall()
    return {name for (name,) in rows}


def test_each_url_connects_as_its_role(postgres_database: PostgresDatabase) -> None:
    urls = ("app_url", "admin_url", "operator_url", "superuser_url")
    roles = []
    for url in urls:
        with psycopg.connect(getattr(postgres_database, url)) as connection:
            roles.append(connection.execute("SELECT current_user").fetchone()[0])

    assert roles == ["llmspell_app", "llmspell", "llmspell_operator", "postgres"]


def test_a_database_is_migrated_and_recorded_as_such(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.admin_url) as connection:
        applied = connection.execute("SELECT count(*) FROM llmspell.schema_migrations").fetchone()

    assert applied is not None
    assert applied[0] >= 1
    assert "kv_store" in tables_of(postgres_database.superuser_url)


def test_a_copy_has_the_privileges_that_the_migrations_gave(
    postgres_template: PostgresDatabase, postgres_database: PostgresDatabase
) -> None:
    query = "SELECT datacl::text[] FROM pg_database WHERE datname = %s"
    with psycopg.connect(postgres_database.superuser_url) as connection:
        (original,) = connection.execute(query, (postgres_template.name,)).fetchone()
        (copied,) = connection.execute(query, (postgres_database.name,)).fetchone()

    assert original is not None
    assert sorted(copied) == sorted(original)


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_leaves_in_its_database_is_gone_in_the_next(postgres_database: PostgresDatabase, turn: int) -> None:
    with psycopg.connect(postgres_database.admin_url) as connection:
        connection.execute("CREATE TABLE llmspell.left_behind (turn integer)")
        connection.execute("INSERT INTO llmspell.left_behind VALUES (%s)", (turn,))
        rows = connection.execute("SELECT turn FROM llmspell.left_behind").fetchall()

    assert rows == [(turn,)]


def test_an_empty_database_has_the_extension_and_no_schema(postgres_empty_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_empty_database.admin_url) as connection:
        extensions = connection.execute("SELECT extname FROM pg_extension WHERE extname = 'vector'").fetchall()

    assert extensions == [("vector",)]
    assert tables_of(postgres_empty_database.superuser_url) == set()


def test_a_database_with_a_connection_left_open_is_dropped(
    postgres_cluster: PostgresServer, postgres_template: PostgresDatabase
) -> None:
    database = postgres_cluster.copy(postgres_template, "llmspell_forced")
    connection = psycopg.connect(database.app_url)

    postgres_cluster.drop(database)

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(database.app_url)


def test_a_copy_and_its_drop_are_quick(postgres_cluster: PostgresServer, postgres_template: PostgresDatabase) -> None:
    took = []
    for _ in range(5):
        began = time.perf_counter()
        postgres_cluster.drop(postgres_cluster.copy(postgres_template, "llmspell_quick"))
        took.append(time.perf_counter() - began)

    assert min(took) < 0.25  # 0.03 s on a quiet machine; the budget of a suite with hundreds of databases


def test_another_server_serves_the_same_roles(postgres_cluster: PostgresServer) -> None:
    admin_url = postgres_cluster.database("postgres").superuser_url

    with postgres._external_server(admin_url) as server:
        database = server.create("llmspell_external")
        try:
            with psycopg.connect(database.operator_url) as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("llmspell_operator",)
        finally:
            server.drop(database)


@pytest.mark.parametrize(
    ("admin_url", "expected"),
    [
        ("postgresql://boss:p%40ss@db:6000/postgres", "postgresql://llmspell_app:p%40ss@db:6000/d"),
        ("postgresql://boss@db/postgres?sslmode=require", "postgresql://llmspell_app@db/d?sslmode=require"),
        ("postgresql:///postgres?host=/run", "postgresql://llmspell_app@/d?host=/run"),
    ],
)
def test_the_url_of_a_role_keeps_server_password_and_options(admin_url: str, expected: str) -> None:
    assert postgres._replace(admin_url, "llmspell_app", "d") == expected


def test_a_missing_service_skips_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs PostgreSQL: not installed"):
        require_service("PostgreSQL", "not installed")

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs PostgreSQL: not installed"):
        require_service("PostgreSQL", "not installed")
