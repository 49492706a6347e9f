"""Stores that are broken on purpose, and what `database health` says of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import psycopg
import pytest
from tests.cli.conftest import Ran, Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.storage.sqlite import health as file_health

GIBIBYTE = 1024**3


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    """A migrated server, with the URLs of its three roles."""
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    return shell


def checks(ran: Ran) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in ran.document["checks"]}


def as_superuser(database: PostgresDatabase, *statements: str) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))


def test_a_report_has_every_check_and_one_shape(empty: Shell) -> None:
    ran = empty("database", "health", "--json")

    assert list(ran.document) == ["status", "backend", "url", "at", "reasons", "checks"]
    assert list(checks(ran)) == [
        *("database", "schema", "queue", "integrity", "journal", "durability", "free_pages", "disk", "vector_storage"),
        "backup",
    ]
    shape = ["name", "status", "reason", "hint", "error", "elapsed_ms", "facts"]
    assert all(list(check) == shape for check in checks(ran).values())


def test_an_empty_store_is_degraded_and_one_with_vectors_is_healthy(empty: Shell) -> None:
    assert empty("database", "health", "--json").document["reasons"] == ["vector_storage: No vectors indexed"]
    assert empty("database", "health").code == 0
    assert empty("database", "health", "--strict").code == 1

    empty("add", "Tea.")

    ran = empty("database", "health", "--strict", "--json")
    assert (ran.code, ran.document["status"], ran.document["reasons"]) == (0, "healthy", [])


def test_a_damaged_file_is_unhealthy_and_exit_code_3(empty: Shell) -> None:
    empty("add", "Tea.")
    connection = apsw.Connection(str(empty.file))
    connection.pragma("writable_schema", "ON")
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'idx_kv_store_expires'").get
    root = root or connection.execute("SELECT max(rootpage) FROM sqlite_schema").get
    size = connection.pragma("page_size")
    connection.pragma("wal_checkpoint", "TRUNCATE")
    connection.close()
    with empty.file.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 64)

    ran = empty("database", "health", "--json")

    assert (ran.code, ran.document["status"]) == (3, "unhealthy")
    assert checks(ran)["integrity"]["status"] == "unhealthy"
    assert "damaged" in checks(ran)["integrity"]["reason"] or checks(ran)["integrity"]["error"] == "LS-3005"


@pytest.mark.parametrize(
    ("free", "status", "code"), [(10 * GIBIBYTE, "healthy", 0), (GIBIBYTE // 4, "degraded", 0), (1024, "unhealthy", 3)]
)
def test_a_full_disk_is_seen_before_it_is_full(
    empty: Shell, monkeypatch: pytest.MonkeyPatch, free: int, status: str, code: int
) -> None:
    free_space(monkeypatch, free)

    ran = empty("database", "health", "--json")

    assert (checks(ran)["disk"]["status"], checks(ran)["disk"]["facts"]["free_bytes"], ran.code) == (status, free, code)


def test_a_log_that_cannot_shrink_is_degraded(empty: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_health, "LOG_LARGE_BYTES", 0)
    reader = apsw.Connection(str(empty.file))
    reader.execute("BEGIN; SELECT * FROM kv_store").fetchall()
    empty("add", "Tea.")

    found = checks(empty("database", "health", "--json"))["journal"]

    assert (found["status"], found["facts"]["mode"]) == ("degraded", "wal")
    assert found["facts"]["log_bytes"] > 0
    reader.close()


def test_backups_that_are_asked_for_and_not_there_are_unhealthy_until_one_is_verified(empty: Shell) -> None:
    off = checks(empty("database", "health", "--json"))["backup"]
    empty.environment.setenv("LLMSPELL_BACKUP__ENABLED", "true")
    missing = empty("database", "health", "--json")
    assert empty("backup", "create", "--no-encryption").code == 0
    there = checks(empty("database", "health", "--json"))["backup"]

    assert (off["status"], "llmspell backup create" in off["hint"]) == ("unknown", True)
    assert (missing.code, checks(missing)["backup"]["status"]) == (3, "unhealthy")
    assert (there["status"], there["facts"]["backups"]) == ("healthy", 1)


def test_free_pages_beyond_the_limit_are_degraded(empty: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_health, "FREE_PAGES_MIN_BYTES", 4096)
    monkeypatch.setattr(file_health, "FREE_PAGES_SHARE", 0.0)
    connection = apsw.Connection(str(empty.file))
    connection.execute("CREATE TABLE filler (x); INSERT INTO filler SELECT zeroblob(100000); DROP TABLE filler")
    connection.close()

    assert checks(empty("database", "health", "--json"))["free_pages"]["status"] == "degraded"


def test_a_file_that_lacks_migrations_is_told_so_and_left_as_it_is(empty: Shell) -> None:
    connection = apsw.Connection(str(empty.file))
    connection.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
    connection.close()
    before = empty.file.read_bytes()

    ran = empty("database", "health", "--json")

    assert (ran.code, checks(ran)["schema"]["error"]) == (5, "LS-3004")
    assert empty.file.read_bytes() == before


def test_a_server_is_looked_at_as_its_owner_and_as_the_serving_role(server: Shell) -> None:
    ran = server("database", "health", "--json")
    found = checks(ran)

    assert list(found) == [
        *("database", "schema", "queue", "isolation", "pool", "writable", "connections", "transactions", "replication"),
        *("wal", "durability", "wraparound", "indexes", "disk", "partitions", "vector_storage", "backup"),
    ]
    assert {name for name, check in found.items() if check["status"] == "unhealthy"} == set()
    assert found["durability"]["reason"].startswith("fsync is off")  # as the server of the tests is
    assert (found["isolation"]["status"], found["partitions"]["status"]) == ("healthy", "healthy")
    assert ran.code == 0


def test_what_no_role_may_see_is_unknown_and_says_which_right_is_missing(server: Shell) -> None:
    server.environment.delenv("DATABASE_OPERATOR_URL")
    found = checks(server("database", "health", "--json"))

    assert (found["queue"]["status"], "DATABASE_OPERATOR_URL" in found["queue"]["hint"]) == ("unknown", True)
    assert (found["wal"]["status"], "pg_monitor" in found["wal"]["hint"]) == ("unknown", True)
    assert (found["disk"]["status"], "pg_monitor" in found["disk"]["hint"]) == ("unknown", True)


def test_with_the_right_to_monitor_nothing_of_the_server_is_unknown(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    server.environment.setenv("DATABASE_ADMIN_URL", postgres_database.superuser_url)

    found = checks(server("database", "health", "--json"))

    assert {name for name, check in found.items() if check["status"] == "unknown"} == {"backup"}
    assert found["disk"]["facts"]["free_bytes"] > 0
    assert found["wal"]["facts"]["bytes"] > 0


DROP_MONTH = """
DO $$ BEGIN
  EXECUTE format('DROP TABLE llmspell.event_log_%s', to_char(now() AT TIME ZONE 'UTC' + interval '2 months', 'YYYY_MM'));
END $$
"""
BROKEN = {
    "a dropped policy": (
        "isolation",
        "unhealthy",
        3,
        "DROP POLICY tenant_isolation_select ON llmspell.kv_store",
    ),
    "row-level security that is off": (
        "isolation",
        "unhealthy",
        3,
        "ALTER TABLE llmspell.memories DISABLE ROW LEVEL SECURITY",
    ),
    "a missing month": (
        "partitions",
        "degraded",
        0,
        DROP_MONTH,
    ),
    "an index that was never finished": (
        "indexes",
        "degraded",
        0,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'llmspell.idx_agent_states_type'::regclass",
    ),
    "transactions that are read-only": (
        "writable",
        "unhealthy",
        3,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_each_thing_that_is_broken_is_named(server: Shell, postgres_database: PostgresDatabase, what: str) -> None:
    name, status, code, statement = BROKEN[what]
    as_superuser(postgres_database, statement)
    if name == "partitions":  # opening a store makes the months that are missing, unless it may not
        as_superuser(
            postgres_database,
            "REVOKE EXECUTE ON FUNCTION llmspell.ensure_future_event_log_partitions() FROM llmspell_app",
        )

    ran = server("database", "health", "--json")

    assert (checks(ran)[name]["status"], ran.code) == (status, code)
    assert checks(ran)[name]["hint"]


def test_rights_that_were_revoked_are_named_with_what_mends_them(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    as_superuser(postgres_database, "REVOKE SELECT ON llmspell.schema_migrations FROM llmspell_app")

    ran = server("database", "health", "--json")

    assert (ran.code, ran.document["status"], ran.document["checks"][0]["error"]) == (4, "unhealthy", "LS-3009")
    assert '"code": "LS-3009"' in ran.err


@contextmanager
def left_open(database: PostgresDatabase) -> Iterator[None]:
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("SELECT 1")
        yield


def test_a_transaction_that_stays_open_is_named_with_its_process(
    server: Shell, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmspell.storage.postgres.health.IDLE_TRANSACTION_S", -1.0)
    server.environment.setenv("DATABASE_ADMIN_URL", postgres_database.superuser_url)
    with left_open(postgres_database):
        found = checks(server("database", "health", "--json"))["transactions"]

    assert (found["status"], found["facts"]["long"]) == ("degraded", 1)
    assert "idle in transaction" in found["reason"]
    assert "pg_terminate_backend" in found["hint"]


def test_a_store_that_cannot_be_opened_still_gives_a_report(shell: Shell) -> None:
    ran = shell("database", "health", "--json", "--store", f"postgresql://llmspell_app@/nowhere?host={shell.folder}")

    assert (ran.code, ran.document["status"], ran.document["backend"]) == (3, "unhealthy", "postgresql")
    assert [(check["name"], check["error"]) for check in ran.document["checks"]] == [("database", "LS-3001")]


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "3601"])
def test_a_time_limit_that_is_none_is_refused(empty: Shell, timeout: str) -> None:
    assert empty("database", "health", "--timeout", timeout).code == 2
