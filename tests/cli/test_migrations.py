"""Schemas that somebody has changed, and what `database migrations` says and does about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import psycopg
import pytest
from tests.cli.conftest import Ran, Shell
from tests.fixtures.postgres import PostgresDatabase, make_strict
from tests.migrations.locks import POSTGRES, SQLITE, locks_file, measure_postgres, measure_sqlite, written

import llmspell
from llmspell.storage.postgres import schema_verify, vector_indexes, vector_partitions
from llmspell.storage.relational.migrations import load

FILES, SERVERS = (load(f"llmspell.storage.{dialect}") for dialect in ("sqlite", "postgres"))
WRONG = "0" * 64


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    return at(shell, postgres_database)


@pytest.fixture
def new_server(shell: Shell, postgres_empty_database: PostgresDatabase) -> Shell:
    return at(shell, postgres_empty_database)


def at(shell: Shell, database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", database.admin_url)
    return shell


def on_file(shell: Shell, *statements: str) -> None:
    connection = apsw.Connection(str(shell.file))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def on_server(database: PostgresDatabase, *statements: str) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def found(ran: Ran) -> set[tuple[str, str, str]]:
    return {(one["departure"], one["kind"], one["name"]) for one in ran.document["differences"]}


def states(ran: Ran) -> dict[int, str]:
    return {one["version"]: one["state"] for one in ran.document["migrations"] if one["state"] != "applied"}


def test_the_measured_locks_of_a_server_are_those_that_migrations_take(
    postgres_empty_database: PostgresDatabase,
) -> None:
    with psycopg.connect(postgres_empty_database.admin_url) as connection:
        if connection.info.server_version // 10_000 != schema_verify.TEXT_VERSION:
            pytest.skip("they are measured on another version")
    measured = written(measure_postgres(postgres_empty_database.admin_url))

    assert measured == locks_file(POSTGRES).read_text("utf-8"), "Run: python -m tests.migrations.schemas"


def test_what_migrations_of_a_file_write_anew_is_as_measured() -> None:
    assert written(measure_sqlite()) == locks_file(SQLITE).read_text("utf-8"), "Run: python -m tests.migrations.schemas"


def test_a_list_has_number_state_title_instant_and_hash(empty: Shell) -> None:
    ran = empty("database", "migrations", "list", "--json")

    first = ran.document["migrations"][0]
    assert (ran.code, ran.document["version"], ran.document["current"]) == (0, len(FILES), True)
    assert (first["name"], first["title"], first["state"], first["hash_ok"]) == (
        "V001__initial_setup",
        "initial setup",
        "applied",
        True,
    )
    assert first["applied_at"].endswith("Z")
    assert empty("database", "migrations", "list").lines[0].split("\t")[:3] == ["V001", "applied", "initial setup"]


def test_every_state_is_told_apart(empty: Shell) -> None:
    last = len(FILES)
    on_file(
        empty,
        f"UPDATE schema_migrations SET sha256 = '{WRONG}' WHERE version = 2",
        "DELETE FROM schema_migrations WHERE version = 3",
        f"INSERT INTO schema_migrations VALUES ({last + 1}, 'V{last + 1:03}__from_tomorrow', '{WRONG}', 0)",
    )

    ran = empty("database", "migrations", "list", "--json")

    assert (ran.code, states(ran)) == (5, {2: "modified", 3: "skipped", last + 1: "unknown"})


def test_a_file_is_not_made_by_looking_at_it(shell: Shell) -> None:
    for command in ("list", "plan", "verify"):
        shell("database", "migrations", command)
    shell("database", "migrations", "apply", "--dry-run")

    assert not shell.file.exists()


def test_a_plan_says_what_is_locked_and_written_anew(new_server: Shell) -> None:
    ran = new_server("database", "migrations", "plan", "--json")

    planned = {one["version"]: one for one in ran.document["pending"]}
    assert (len(planned), ran.document["lock_timeout_s"], ran.document["lock_attempts"]) == (len(SERVERS), 5.0, 12)
    assert {"table": "llmspell.kv_store", "lock": "ACCESS EXCLUSIVE"} in planned[18]["locks"]
    assert "ACCESS EXCLUSIVE" in new_server("database", "migrations", "plan").out
    sql = new_server("database", "migrations", "plan", "--print-sql", "--to", "V001")
    assert sql.lines == [f"-- {SERVERS[0].name}", *SERVERS[0].sql.splitlines()]


def test_a_plan_of_a_file_says_that_writers_wait_and_which_tables_are_written_anew(shell: Shell) -> None:
    ran = shell("database", "migrations", "plan", "--json")

    assert ran.document["locks_whole_store"] is True
    assert ran.document["pending"][14]["rewrites"] == ["entities", "relationships"]
    assert "writers wait" in shell("database", "migrations", "plan").out


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_migrations_are_applied_up_to_a_version_and_then_on(
    backend: str, shell: Shell, request: pytest.FixtureRequest
) -> None:
    known = FILES if backend == "sqlite" else SERVERS
    if backend == "postgres":
        request.getfixturevalue("new_server")

    first = shell("database", "migrations", "apply", "--to", "V012", "--json")
    again = shell("database", "migrations", "apply", "--to", "12", "--json")
    rest = shell("database", "migrate", "--json")

    assert (first.code, first.document["version"], len(first.document["applied"])) == (0, 12, 12)
    assert again.document["applied"] == []
    assert (rest.document["version"], rest.document["applied"]) == (len(known), [one.name for one in known[12:]])
    assert shell("database", "migrations", "verify").code == 0


@pytest.mark.parametrize("arguments", [["--to", "0"], ["--to", "999"], ["--to", "last"]])
def test_a_version_that_does_not_exist_is_refused_and_nothing_runs(shell: Shell, arguments: list[str]) -> None:
    assert shell("database", "migrations", "apply", *arguments).code == 2
    assert not shell.file.exists()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "4000"])
def test_a_lock_timeout_that_is_none_is_refused(new_server: Shell, seconds: str) -> None:
    assert new_server("database", "migrations", "apply", "--lock-timeout", seconds).code == 2


@contextmanager
def locked(database: PostgresDatabase) -> Iterator[None]:
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("LOCK TABLE llmspell.kv_store IN ACCESS SHARE MODE")
        yield


def test_a_migration_gives_way_after_the_lock_timeout(
    new_server: Shell, postgres_empty_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmspell.storage.postgres.migrate.LOCK_ATTEMPTS", 1)
    new_server("database", "migrations", "apply", "--to", "17")
    with locked(postgres_empty_database):
        ran = new_server("database", "migrations", "apply", "--lock-timeout", "0.01")

    assert ran.code == 1
    assert "using a table, for too long" in ran.err
    assert new_server("database", "migrations", "list", "--json").document["version"] == 17


def test_a_store_that_serves_is_as_its_migrations_make_it(shell: Shell) -> None:
    with llmspell.connect_blocking(shell.url, embedder="hashing") as spell:
        spell.tenant().memory.add("Tea.")
        ran = shell("database", "migrations", "verify", "--json")

    assert (ran.code, ran.document["ok"], ran.document["differences"], ran.document["hashes"]) == (0, True, [], [])


FILE_FAULTS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "an index is gone": ("DROP INDEX idx_agent_states_type", ("missing", "index", "idx_agent_states_type")),
    "a trigger is gone": (
        "DROP TRIGGER agent_states_data_version",
        ("missing", "trigger", "agent_states_data_version"),
    ),
    "a table is gone": ("DROP TABLE idempotency_keys", ("missing", "table", "idempotency_keys")),
    "a column is new": ("ALTER TABLE sessions ADD COLUMN mine TEXT", ("extra", "column", "sessions.mine")),
    "a trigger is new": (
        "CREATE TRIGGER mine AFTER DELETE ON sessions BEGIN DELETE FROM kv_store; END",
        ("extra", "trigger", "mine"),
    ),
}


@pytest.mark.parametrize("what", FILE_FAULTS)
def test_whatever_differs_in_a_file_is_named(empty: Shell, what: str) -> None:
    statement, difference = FILE_FAULTS[what]
    on_file(empty, statement)

    ran = empty("database", "migrations", "verify", "--json")

    assert (ran.code, ran.document["ok"]) == (5, False)
    assert difference in found(ran)


def test_a_file_is_mended_with_its_marks(empty: Shell) -> None:
    on_file(
        empty,
        "DROP INDEX idx_agent_states_type",
        "DROP TRIGGER agent_states_data_version",
        f"UPDATE schema_migrations SET sha256 = '{WRONG}' WHERE version = 2",
        "DELETE FROM schema_migrations WHERE version = 3",
    )
    dry = empty("database", "migrations", "repair", "--dry-run", "--json")
    assert (len(dry.document["steps"]), empty("database", "migrations", "verify").code) == (4, 5)

    ran = empty("database", "migrations", "repair", "--json")

    assert (ran.code, [step["done"] for step in ran.document["steps"]]) == (0, [True] * 4)
    assert empty("database", "migrations", "verify", "--json").document["ok"] is True
    assert empty("database", "migrations", "repair", "--json").document["steps"] == []


def test_a_mark_is_not_set_while_the_schema_is_wrong(empty: Shell) -> None:
    on_file(
        empty,
        "DROP TABLE idempotency_keys",
        f"UPDATE schema_migrations SET sha256 = '{WRONG}' WHERE version = 2",
    )

    ran = empty("database", "migrations", "repair", "--json")

    assert ran.code == 1
    assert [(bool(step["statements"]), step["done"]) for step in ran.document["steps"]].count((False, False)) == 2
    assert states(empty("database", "migrations", "list", "--json")) == {2: "modified"}


def test_what_others_have_added_and_does_no_harm_is_no_fault(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    on_server(
        postgres_database,
        "CREATE TABLE llmspell.mine (a int PRIMARY KEY)",
        "CREATE INDEX mine_too ON llmspell.kv_store (tenant_id)",
    )

    ran = server("database", "migrations", "verify", "--json")

    assert (ran.code, ran.document["ok"]) == (0, True)
    assert ("extra", "index", "llmspell.mine_too") in found(ran)
    assert server("database", "migrations", "repair", "--json").document["steps"] == []


SERVER_FAULTS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "a policy is gone": (
        "DROP POLICY tenant_isolation_select ON llmspell.kv_store",
        ("missing", "policy", "tenant_isolation_select on llmspell.kv_store"),
    ),
    "row-level security is off": (
        "ALTER TABLE llmspell.memories DISABLE ROW LEVEL SECURITY",
        ("changed", "row-level security", "llmspell.memories"),
    ),
    "row-level security is not forced": (
        "ALTER TABLE llmspell.event_log NO FORCE ROW LEVEL SECURITY",
        ("changed", "row-level security", "llmspell.event_log"),
    ),
    "a right is gone": (
        "REVOKE INSERT ON llmspell.kv_store FROM llmspell_app",
        ("changed", "grant", "llmspell.kv_store to llmspell_app"),
    ),
    "a right too many": (
        "GRANT TRUNCATE ON llmspell.kv_store TO llmspell_app",
        ("changed", "grant", "llmspell.kv_store to llmspell_app"),
    ),
    "an index is gone": (
        "DROP INDEX llmspell.idx_agent_states_type",
        ("missing", "index", "llmspell.idx_agent_states_type"),
    ),
    "an index was never finished": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'llmspell.idx_agent_states_type'::regclass",
        ("invalid", "index", "llmspell.idx_agent_states_type"),
    ),
    "a trigger is gone": (
        "DROP TRIGGER agent_states_data_version ON llmspell.agent_states",
        ("missing", "trigger", "agent_states_data_version on llmspell.agent_states"),
    ),
    "a constraint is gone": (
        "ALTER TABLE llmspell.agent_states DROP CONSTRAINT unique_agent_state",
        ("missing", "constraint", "unique_agent_state on llmspell.agent_states"),
    ),
    "a function was changed": (
        (
            "CREATE OR REPLACE FUNCTION llmspell.counted_day(said integer) RETURNS integer LANGUAGE sql"
            " SET search_path = pg_catalog, pg_temp RETURN said"
        ),
        ("changed", "function", "llmspell.counted_day(said integer)"),
    ),
}


@pytest.mark.parametrize("what", SERVER_FAULTS)
def test_whatever_differs_on_a_server_is_named_and_mended(
    server: Shell, postgres_database: PostgresDatabase, what: str
) -> None:
    statement, difference = SERVER_FAULTS[what]
    on_server(postgres_database, statement)

    verified = server("database", "migrations", "verify", "--json")
    dry = server("database", "migrations", "repair", "--dry-run", "--json")
    unchanged = server("database", "migrations", "verify", "--json")
    mended = server("database", "migrations", "repair", "--json")

    assert (verified.code, verified.document["ok"]) == (5, False)
    assert difference in found(verified)
    assert (dry.document["dry_run"], any(step["done"] for step in dry.document["steps"])) == (True, False)
    assert found(unchanged) == found(verified)
    assert (mended.code, all(step["done"] for step in mended.document["steps"])) == (0, True)
    assert server("database", "migrations", "verify", "--json").document["differences"] == []
    assert server("database", "isolation", "--check").code == 0


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        (
            "ALTER TABLE llmspell.sessions DROP COLUMN session_data",
            ("missing", "column", "llmspell.sessions.session_data"),
        ),
        ("ALTER TABLE llmspell.sessions ADD COLUMN mine text", ("extra", "column", "llmspell.sessions.mine")),
        ("DROP TABLE llmspell.idempotency_keys", ("missing", "table", "llmspell.idempotency_keys")),
        (
            "CREATE POLICY mine ON llmspell.kv_store USING (true)",
            ("extra", "policy", "mine on llmspell.kv_store"),
        ),
    ],
    ids=["column gone", "column added", "table gone", "policy added"],
)
def test_what_holds_rows_or_is_not_ours_is_left_to_be_done_by_hand(
    server: Shell, postgres_database: PostgresDatabase, statement: str, difference: tuple[str, str, str]
) -> None:
    on_server(postgres_database, statement)
    before = found(server("database", "migrations", "verify", "--json"))

    ran = server("database", "migrations", "repair", "--json")

    assert difference in before
    assert ran.code == 1
    assert difference in found(server("database", "migrations", "verify", "--json"))
    by_hand = [step["action"] for step in ran.document["steps"] if not step["statements"]]
    assert any(difference[2] in action for action in by_hand)


def test_an_edited_migration_is_named_and_its_mark_is_mended_when_the_schema_is_right(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    on_server(postgres_database, f"UPDATE llmspell.schema_migrations SET sha256 = '{WRONG}' WHERE version = 7")

    verified = server("database", "migrations", "verify", "--json")
    assert [(one["version"], one["state"]) for one in verified.document["hashes"]] == [(7, "modified")]
    assert server("database", "migrate").code == 5
    assert server("database", "migrations", "repair").code == 0
    assert server("database", "migrations", "list").code == 0


def test_the_serving_role_may_verify_and_may_not_mend(server: Shell, postgres_database: PostgresDatabase) -> None:
    server.environment.delenv("DATABASE_ADMIN_URL")

    assert server("database", "migrations", "verify").code == 0
    assert server("database", "migrations", "repair").code == 2


def test_while_something_is_pending_a_server_is_not_compared_and_not_mended(new_server: Shell) -> None:
    new_server("database", "migrations", "apply", "--to", "20")

    ran = new_server("database", "migrations", "verify", "--json")

    assert (ran.code, ran.document["compared"]) == (5, False)
    assert new_server("database", "migrations", "repair").code == 5


def test_what_llmspell_does_to_a_schema_after_its_migrations_is_no_difference(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    vector_indexes.rebuild(postgres_database.admin_url, dimension=768)
    vector_partitions.partition(
        postgres_database.admin_url, postgres_database.operator_url, dimension=384, partitions=2
    )
    make_strict(postgres_database)

    assert schema_verify.differences(postgres_database.admin_url) == []

    on_server(postgres_database, "DROP POLICY tenant_signature ON llmspell.kv_store")

    (one,) = schema_verify.differences(postgres_database.admin_url)
    assert (one.departure, one.name) == ("missing", "tenant_signature on llmspell.kv_store")
    assert server("database", "migrations", "repair").code == 0
    assert schema_verify.differences(postgres_database.admin_url) == []


def test_a_store_in_memory_has_no_schema(shell: Shell) -> None:
    expected: dict[str, Any] = {"list": "migrations", "plan": "pending", "verify": "differences", "repair": "steps"}
    for command, key in expected.items():
        ran = shell("database", "migrations", command, "--backend", "memory", "--json")
        assert (ran.code, ran.document[key]) == (0, [])
