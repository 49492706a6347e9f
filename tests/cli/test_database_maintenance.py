"""`llmspell database vacuum`, `reindex` and `tune`: what is in the way is made on a real server, and goes."""

from __future__ import annotations

import re
import shutil
from typing import Any, NamedTuple

import apsw
import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.storage.postgres import maintenance
from llmspell.storage.sqlite import maintenance as file_maintenance

VACUUM, REINDEX, TUNE = ("database", "vacuum"), ("database", "reindex"), ("database", "tune")
SIZES = re.compile(r" \([0-9,]+ to [0-9,]+ bytes\)")
KEYS = "INSERT INTO llmspell.kv_store (tenant_id, key, value) SELECT 't', 'key-' || n, 'v' FROM generate_series(1, %s) AS n"


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    return shell


def ask(url: str, query: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else None


def make_dead_rows(database: PostgresDatabase, rows: int = 2_000) -> None:
    ask(database.admin_url, "ALTER TABLE llmspell.kv_store SET (autovacuum_enabled = false)")
    ask(database.operator_url, KEYS % rows)
    ask(database.operator_url, "DELETE FROM llmspell.kv_store WHERE key <> 'key-1'")
    # What a session has changed is counted when it ends; this one sees to it before it goes.
    ask(database.operator_url, "SELECT pg_stat_force_next_flush()")


def test_vacuum_takes_dead_rows_away_and_analyses_the_months_as_a_whole(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    """MNT-03, AMB-088."""
    dry = server(*VACUUM, "--dry-run")
    done = server(*VACUUM)

    months = [one["name"] for one in server("database", "partitions", "list", "--json").document["partitions"]]
    targets = [*sorted(f"llmspell.{name}" for name in months), "llmspell.sessions", "llmspell.artifacts"]
    assert dry.lines == [*(f"WOULD: VACUUM (ANALYZE) {name}" for name in targets), "WOULD: ANALYZE llmspell.event_log"]
    assert "Nothing was changed" in dry.err
    assert [line.replace("WOULD", "DONE") for line in dry.lines] == [SIZES.sub("", line) for line in done.lines]
    assert done.code == 0
    seen = "SELECT relname, vacuum_count > 0, analyze_count > 0 FROM pg_stat_user_tables WHERE relname IN ('sessions', 'event_log')"
    assert sorted(ask(postgres_database.admin_url, seen)) == [("event_log", False, True), ("sessions", True, True)]


def test_a_named_table_is_vacuumed_alone(server: Shell, postgres_database: PostgresDatabase) -> None:
    make_dead_rows(postgres_database)
    dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'kv_store'"
    assert ask(postgres_database.admin_url, dead)[0][0] >= 1_000

    done = server(*VACUUM, "llmspell.kv_store", "--no-analyze", "--json")

    (step,) = done.document["steps"]
    assert (step["action"], step["target"], step["result"]) == ("VACUUM", "llmspell.kv_store", "done")
    assert ask(postgres_database.admin_url, dead) == [(0,)]
    assert server(*VACUUM, "nothing").code == 1
    assert server(*VACUUM, "--analyze-only", "kv_store").lines == ["DONE: ANALYZE llmspell.kv_store"]
    everything = server(*VACUUM, "--analyze-only").lines
    assert "DONE: ANALYZE llmspell.event_log" in everything
    assert len(everything) > 30
    assert not [line for line in everything if "event_log_" in line]


def test_a_rewrite_gives_space_back_and_leaves_out_what_is_not_bloated(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    """MNT-04, AMB-109."""
    make_dead_rows(postgres_database)

    unasked = server(*VACUUM, "--full", "kv_store")
    dry = server(*VACUUM, "--full", "kv_store", "--dry-run")
    done = server(*VACUUM, "--full", "kv_store", "--yes", "--json")
    weekly = server(*VACUUM, "--full", "--yes")
    forced = server(*VACUUM, "--full", "--force", "--yes", "sessions")

    assert unasked.code == 2
    assert dry.lines == ["WOULD: VACUUM (FULL, ANALYZE) llmspell.kv_store"]
    assert "ACCESS EXCLUSIVE" in dry.err
    (step,) = done.document["steps"]
    assert step["bytes_after"] < step["bytes_before"]
    assert [line.partition(":")[0] for line in weekly.lines] == ["SKIPPED", "SKIPPED"]
    assert {line.split(": ")[1].split()[-1] for line in weekly.lines} == {
        "llmspell.procedural_patterns",
        "llmspell.hook_history",
    }
    assert forced.lines[0].startswith("DONE: VACUUM (FULL, ANALYZE) llmspell.sessions")
    assert server(*VACUUM, "--force").code == 2


def test_a_table_that_somebody_uses_is_left_out_and_named(server: Shell, postgres_database: PostgresDatabase) -> None:
    server.environment.setattr(maintenance, "FULL_LOCK_TIMEOUT", "50ms")
    with psycopg.connect(postgres_database.operator_url) as reader:
        reader.execute("SELECT count(*) FROM llmspell.hook_history")
        done = server(*VACUUM, "--full", "--force", "--yes")

    assert done.code == 1
    assert done.lines[0].startswith("DONE: VACUUM (FULL, ANALYZE) llmspell.procedural_patterns")
    assert done.lines[1].startswith("BUSY: VACUUM (FULL, ANALYZE) llmspell.hook_history")


def test_what_the_server_only_warns_about_is_not_said_to_be_done(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    ask(postgres_database.superuser_url, "CREATE TABLE llmspell.of_another (n integer)")
    done = server(*VACUUM, "of_another")

    assert done.code == 1
    assert done.lines[0].startswith("REFUSED: VACUUM (ANALYZE) llmspell.of_another: it belongs to another role")


def test_indexes_are_built_anew_one_by_one_and_leftovers_are_dropped(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    """MNT-06, AMB-092."""
    ask(postgres_database.operator_url, KEYS % 3)
    with pytest.raises(psycopg.errors.UniqueViolation):
        ask(
            postgres_database.admin_url,
            "CREATE UNIQUE INDEX CONCURRENTLY kv_store_pkey_ccnew ON llmspell.kv_store (value)",
        )
    nodes = (
        "SELECT relname, relfilenode FROM pg_class WHERE relname IN ('kv_store_pkey', 'idx_vector_384_hnsw') ORDER BY 1"
    )
    before = dict(ask(postgres_database.admin_url, nodes))

    dry = server(*REINDEX, "--dry-run")
    only = server(*REINDEX, "--invalid")
    assert dict(ask(postgres_database.admin_url, nodes)) == before
    named = server(*REINDEX, "kv_store", "--json")
    blocking = server(*REINDEX, "kv_store_pkey", "--blocking")

    after = dict(ask(postgres_database.admin_url, nodes))
    assert "WOULD: DROP INDEX CONCURRENTLY llmspell.kv_store_pkey_ccnew" in dry.lines
    assert len(dry.lines) > 60
    assert not [line for line in dry.lines if "hnsw" in line]
    assert any("event_log_default" in line for line in dry.lines)  # each partition has indexes of its own
    assert [line.partition(" (")[0] for line in only.lines] == [
        "DONE: DROP INDEX CONCURRENTLY llmspell.kv_store_pkey_ccnew"
    ]
    assert {step["target"] for step in named.document["steps"]} >= {"llmspell.kv_store_pkey"}
    assert {step["result"] for step in named.document["steps"]} == {"done"}
    assert before["kv_store_pkey"] != after["kv_store_pkey"]
    assert before["idx_vector_384_hnsw"] == after["idx_vector_384_hnsw"]
    assert blocking.lines[0].startswith("DONE: REINDEX INDEX llmspell.kv_store_pkey")
    assert server(*REINDEX, "nothing").code == 1
    assert server(*REINDEX, "idx_vector_384_hnsw").lines[0].startswith("DONE: REINDEX INDEX CONCURRENTLY")


def options(database: PostgresDatabase, table: str) -> set[str]:
    return set(
        ask(database.admin_url, f"SELECT reloptions FROM pg_class WHERE oid = 'llmspell.{table}'::regclass")[0][0] or ()
    )


def test_autovacuum_comes_earlier_where_many_rows_are_written(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    """MNT-01, MNT-02, AMB-088, AMB-089: on each partition, for the whole refuses it; what somebody has set is kept."""
    ask(postgres_database.admin_url, "ALTER TABLE llmspell.sessions SET (autovacuum_vacuum_cost_limit = 700)")

    dry = server(*TUNE, "--dry-run")
    assert options(postgres_database, "artifacts") == set()
    done = server(*TUNE)
    again = server(*TUNE)

    assert [line.replace("WOULD", "DONE") for line in dry.lines] == done.lines
    pace = {"autovacuum_vacuum_cost_delay=2", "autovacuum_vacuum_cost_limit=1000"}
    assert options(postgres_database, "artifacts") == {
        "autovacuum_vacuum_scale_factor=0.05", "autovacuum_analyze_scale_factor=0.02", *pace,
    }  # fmt: skip
    assert options(postgres_database, "event_log_default") == {
        "autovacuum_vacuum_scale_factor=0.02", "autovacuum_analyze_scale_factor=0.01", *pace,
    }  # fmt: skip
    assert "autovacuum_vacuum_scale_factor=0.02" in options(postgres_database, "jobs")
    assert "autovacuum_vacuum_cost_limit=700" in options(postgres_database, "sessions")
    assert {line.partition(":")[0] for line in again.lines} == {"SKIPPED"}
    assert "SKIPPED: SET llmspell.sessions: kept: autovacuum_vacuum_cost_limit=700" in again.lines
    assert server("database", "migrations", "verify").code == 0
    overwritten = [line for line in server(*TUNE, "--overwrite").lines if line.startswith("DONE")]
    assert {line.split()[-1] for line in overwritten} == {"llmspell.sessions", "llmspell.jobs"}


@pytest.mark.parametrize("command", [VACUUM, REINDEX, TUNE], ids=lambda command: command[1])
def test_the_owner_of_the_schema_is_asked_for(server: Shell, command: tuple[str, ...]) -> None:
    server.environment.delenv("DATABASE_ADMIN_URL")

    done = server(*command)

    assert done.code != 0
    assert "DATABASE_ADMIN_URL" in done.err
    memory = server(*command, "--store", "memory://")
    assert memory.code == 1
    assert "in memory" in memory.err


def fill_and_empty(shell: Shell) -> None:
    connection = apsw.Connection(str(shell.file))
    connection.execute(
        "INSERT INTO kv_store (tenant_id, key, value, created_at, updated_at)"
        " WITH n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000)"
        " SELECT 'tenant', 'key-' || n, zeroblob(900), 1, 1 FROM n"
    )
    connection.execute("DELETE FROM kv_store WHERE key <> 'key-1'")
    connection.close()


def contents(shell: Shell) -> list[Any]:
    connection = apsw.Connection(str(shell.file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute("SELECT key, length(value) FROM kv_store ORDER BY key").fetchall()
    finally:
        connection.close()


def test_a_file_gives_its_free_pages_back_and_keeps_its_rows(empty: Shell) -> None:
    fill_and_empty(empty)
    before, size = contents(empty), empty.file.stat().st_size

    dry = empty(*VACUUM, "--dry-run")
    assert empty.file.stat().st_size == size
    done = empty(*VACUUM)

    assert [line.split()[1] for line in dry.lines] == ["optimize", "VACUUM", "checkpoint"]
    assert [line.partition(":")[0] for line in done.lines] == ["DONE"] * 3
    assert empty.file.stat().st_size < size / 2
    assert contents(empty) == before
    again = empty(*VACUUM)
    assert [line.partition(":")[0] for line in again.lines] == ["DONE", "SKIPPED", "DONE"]
    assert [line.partition(":")[0] for line in empty(*VACUUM, "--full", "--yes").lines] == ["DONE"] * 3
    assert empty(*VACUUM, "--analyze-only").lines[0].startswith("DONE: ANALYZE")
    assert empty("database", "inspect", "--check").lines == []
    assert empty(*VACUUM, "kv_store").code == 1
    assert empty("search", "nothing").code == 0


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_file_is_not_rewritten_without_room_for_a_copy(empty: Shell) -> None:
    fill_and_empty(empty)
    size = empty.file.stat().st_size
    empty.environment.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1_000))
    for command in ((*VACUUM, "--full", "--yes"), REINDEX):
        done = empty(*command)

        assert done.code == 1
        assert "no room for a second copy" in done.err
    assert empty.file.stat().st_size == size


def test_a_large_copy_is_not_made_in_memory(empty: Shell) -> None:
    fill_and_empty(empty)
    before = contents(empty)
    empty.environment.setattr(file_maintenance, "IN_MEMORY_MAX_BYTES", 0)

    assert empty(*VACUUM, "--full", "--yes").code == 0
    assert contents(empty) == before


def test_the_indexes_of_a_file_are_built_anew(empty: Shell) -> None:
    """It mends an index that contradicts its table."""
    fill_and_empty(empty)
    connection = apsw.Connection(str(empty.file))
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'CREATE INDEX', 'CREATE  INDEX') WHERE type = 'index'"
    )
    connection.close()

    assert empty(*REINDEX, "--dry-run").lines == [f"WOULD: REINDEX {empty.file}"]
    assert empty(*REINDEX).lines[0].startswith(f"DONE: REINDEX {empty.file}")
    named = empty(*REINDEX, "kv_store", "idx_event_log_id")
    assert [SIZES.sub("", line) for line in named.lines] == ["DONE: REINDEX kv_store", "DONE: REINDEX idx_event_log_id"]
    assert empty(*REINDEX, 'x" y').code == 1
    assert empty(*REINDEX, "--invalid").code == 1
    assert empty(*TUNE).code == 1
    assert empty("database", "inspect", "--section", "integrity", "--check").code == 0
