"""`llmspell database inspect` and `terminate`: the trouble is made on a real server, found, and ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import apsw
import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.ops import inspection
from llmspell.ops.inspection import SECTIONS, SERVER_SECTIONS
from llmspell.storage.postgres.inspection import queries

INSPECT = ("database", "inspect")
TERMINATE = ("database", "terminate")
KEYS = """
    INSERT INTO llmspell.kv_store (tenant_id, key, value)
    SELECT 'tenant', 'key-' || n, 'v' FROM generate_series(1, %s) AS n
"""
LOOKS_MAX = 2_000


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    return shell


@pytest.fixture
def others() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def findings(server: Shell, section: str, *options: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = server(*INSPECT, "--section", section, "--check", "--json", *options).document[
        "findings"
    ]
    return found


def rows(server: Shell, section: str) -> list[dict[str, Any]]:
    (found,) = server(*INSPECT, "--section", section, "--json").document["sections"]
    return list(found["rows"])


def operator_runs(database: PostgresDatabase, *commands: str) -> None:
    """Change rows, and have the server count it before this returns."""
    with psycopg.connect(database.operator_url, autocommit=True) as operator:
        for command in commands:
            operator.execute(command.encode())
        operator.execute("SELECT pg_stat_force_next_flush()")


def owner_runs(database: PostgresDatabase, *commands: str) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as owner:
        for command in commands:
            owner.execute(command.encode())


def test_a_fresh_store_has_nothing_to_find(server: Shell) -> None:
    done = server(*INSPECT, "--check", "--idle-over", "100000", "--running-over", "100000")

    assert (done.code, done.lines) == (0, [])
    assert "pg_stat_statements is not installed" in done.err
    shown = server(*INSPECT)
    assert shown.code == 0
    assert [line.partition(":")[0] for line in shown.lines if line[0] != " "][:-1] == list(SERVER_SECTIONS)
    assert shown.lines[-1] == "asked as llmspell, llmspell_operator, llmspell_app"


def test_dead_rows_are_found_and_what_to_do_is_said(server: Shell, postgres_database: PostgresDatabase) -> None:
    """MNT-05, ALR-12; AMB-094: by dead rows, not by the share of indexes."""
    owner_runs(postgres_database, "ALTER TABLE llmspell.kv_store SET (autovacuum_enabled = false)")
    operator_runs(
        postgres_database,
        KEYS % 3_000,
        "DELETE FROM llmspell.kv_store WHERE key > 'key-2'",
        "ANALYZE llmspell.kv_store",
    )

    (dead,) = findings(server, "bloat")
    assert dead["subject"] == "llmspell.kv_store"
    assert "dead rows" in dead["problem"]
    assert dead["advice"].startswith("llmspell database vacuum kv_store")
    assert {"off", "never"} <= {
        one["problem"].split()[0 if "never" in one["problem"] else -1] for one in findings(server, "autovacuum")
    }
    (row,) = [row for row in rows(server, "bloat") if row["table"] == "llmspell.kv_store"]
    assert row["dead_rows"] >= 1_000
    assert row["dead_percent"] > 30
    assert row["total_bytes"] > row["table_bytes"] > 0

    assert server("database", "vacuum", "kv_store").code == 0
    assert findings(server, "bloat") == []


def test_an_index_of_somebody_else_that_nothing_reads_is_found(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    owner_runs(postgres_database, "CREATE INDEX stray ON llmspell.kv_store (updated_at)")

    (unused,) = findings(server, "unused-indexes")
    own = {row["index"]: row["own"] for row in rows(server, "unused-indexes")}

    assert unused["subject"] == "llmspell.stray"
    assert "DROP INDEX CONCURRENTLY llmspell.stray" in unused["advice"]
    assert own["llmspell.idx_event_log_correlation"] is True
    owner_runs(postgres_database, unused["advice"].rpartition(": ")[2])
    assert findings(server, "unused-indexes") == []


def test_a_large_table_without_an_index_and_a_foreign_key_without_one_are_found(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    owner_runs(
        postgres_database,
        "CREATE TABLE llmspell.notes (n integer, hash text, parent integer)",
        "CREATE TABLE llmspell.parents (n integer PRIMARY KEY)",
        "ALTER TABLE llmspell.notes ADD CONSTRAINT notes_parent FOREIGN KEY (parent) REFERENCES llmspell.parents (n)",
        "INSERT INTO llmspell.notes SELECT n FROM generate_series(1, 12000) AS n",
        "ANALYZE llmspell.notes",
        "DO $$ BEGIN FOR i IN 1..55 LOOP PERFORM count(*) FROM llmspell.notes WHERE n = i; END LOOP; END $$",
        "SELECT pg_stat_force_next_flush()",
    )

    by_key, by_scan = findings(server, "missing-indexes")

    assert "CREATE INDEX CONCURRENTLY ON llmspell.notes (parent)" in by_key["advice"]
    assert "read from end to end" in by_scan["problem"]
    owner_runs(postgres_database, by_key["advice"])
    assert len(findings(server, "missing-indexes")) == 1


def test_an_index_whose_build_failed_is_found_and_mended(server: Shell, postgres_database: PostgresDatabase) -> None:
    operator_runs(postgres_database, KEYS % 3)
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner_runs(postgres_database, "CREATE UNIQUE INDEX CONCURRENTLY once ON llmspell.kv_store (value)")

    (invalid,) = findings(server, "invalid-indexes")
    assert invalid["subject"] == "llmspell.once"
    operator_runs(postgres_database, "DELETE FROM llmspell.kv_store WHERE key <> 'key-1'")
    assert (
        server("database", "reindex", "--invalid").lines[0].startswith("DONE: REINDEX INDEX CONCURRENTLY llmspell.once")
    )
    assert findings(server, "invalid-indexes") == []


def wait_for_lock(database: PostgresDatabase, pid: int) -> None:
    """Look until a session waits for a lock: the event itself, with a limit."""
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        for _ in range(LOOKS_MAX):
            if superuser.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (pid,)).fetchall()[0][0]:
                return
    raise AssertionError("the session never waited")


def test_who_waits_for_whom_is_found_and_ended(
    server: Shell, postgres_database: PostgresDatabase, others: ExitStack
) -> None:
    """MNT-08, MNT-11: a forgotten transaction, and somebody who waits for it."""
    operator_runs(postgres_database, KEYS % 3)
    holder = others.enter_context(psycopg.connect(postgres_database.operator_url))
    holder.execute("UPDATE llmspell.kv_store SET value = 'held' WHERE key = 'key-1'")
    waiter = others.enter_context(psycopg.connect(postgres_database.operator_url, autocommit=True))
    update = "UPDATE llmspell.kv_store SET value = 'waited' WHERE key = 'key-1'"
    thread = threading.Thread(target=waiter.execute, args=(update,), daemon=True)
    thread.start()
    wait_for_lock(postgres_database, waiter.info.backend_pid)

    others.callback(thread.join, 30)
    others.callback(holder.close)
    (lock,) = findings(server, "locks")
    assert lock["subject"] == f"session {waiter.info.backend_pid}"
    assert f"waits for session {holder.info.backend_pid} (llmspell_operator, idle in transaction)" in lock["problem"]
    idle = findings(server, "connections", "--idle-over", "0", "--running-over", "100000")
    assert f"session {holder.info.backend_pid} " in {one["subject"].partition("(")[0] for one in idle}
    assert any("idle in a transaction" in one["problem"] for one in idle)

    dry = server(*TERMINATE, str(holder.info.backend_pid), "--dry-run")
    assert dry.lines[0].split("\t")[4] == "would be ended"
    assert server(*TERMINATE, str(holder.info.backend_pid)).code == 2  # there is no terminal to ask on
    done = server(*lock["advice"].rpartition(": llmspell ")[2].split(), "--yes")
    thread.join(30)

    assert (done.code, done.lines[0].split("\t")[4]) == (0, "ended")
    with psycopg.connect(postgres_database.operator_url) as operator:
        assert operator.execute("SELECT value FROM llmspell.kv_store WHERE key = 'key-1'").fetchall() == [(b"waited",)]
    assert findings(server, "locks") == []
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT 1")
    others.pop_all()
    waiter.close()


def test_idle_sessions_are_ended_and_others_are_left(
    server: Shell, postgres_database: PostgresDatabase, others: ExitStack
) -> None:
    """MNT-08: a session of each role, ended as the role that has it."""
    urls = (postgres_database.app_url, postgres_database.operator_url, postgres_database.admin_url)
    idle = [others.enter_context(psycopg.connect(url, autocommit=True)) for url in urls]
    for connection in idle:
        connection.execute("SELECT 1")

    assert server(*TERMINATE, "--idle", "--idle-over", "100000", "--yes").lines == []
    done = server(*TERMINATE, "--idle", "--idle-over", "0", "--yes")

    assert {int(line.split("\t")[0]) for line in done.lines} == {connection.info.backend_pid for connection in idle}
    assert {line.split("\t")[4] for line in done.lines} == {"ended"}
    assert done.code == 0
    assert server(*TERMINATE).code == 2
    assert server(*TERMINATE, str(2**30), "--yes").code == 1
    others.pop_all()


def run_until_ended(connection: psycopg.Connection[Any]) -> threading.Thread:
    """Run a statement on a thread of its own that only ends when somebody ends it."""

    def run() -> None:
        with suppress(psycopg.Error):
            connection.execute("SELECT pg_sleep(120)")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_long_statement_is_found_unless_it_is_maintenance(server: Shell, postgres_database: PostgresDatabase) -> None:
    """MNT-08."""
    slow = psycopg.connect(postgres_database.app_url, autocommit=True)
    dump = psycopg.connect(postgres_database.app_url, autocommit=True, application_name="pg_dump")
    threads = [run_until_ended(connection) for connection in (slow, dump)]
    slow_pid, dump_pid = slow.info.backend_pid, dump.info.backend_pid
    for _ in range(LOOKS_MAX):
        if {row["pid"] for row in rows(server, "connections") if row["state"] == "active"} >= {slow_pid, dump_pid}:
            break

    found = findings(server, "connections", "--idle-over", "100000", "--running-over", "0")
    done = server(*TERMINATE, "--running", "--running-over", "0", "--yes")
    threads[0].join(30)
    by_name = server(*TERMINATE, str(dump_pid), "--yes")
    threads[1].join(30)

    assert [one["subject"].partition(" (")[0] for one in found] == [f"session {slow_pid}"]
    assert [(line.split("\t")[0], line.split("\t")[4]) for line in done.lines] == [(str(slow_pid), "ended")]
    assert by_name.lines[0].split("\t")[4] == "ended"
    slow.close()
    dump.close()


def test_what_a_role_cannot_see_is_said(server: Shell, postgres_database: PostgresDatabase, others: ExitStack) -> None:
    server.environment.delenv("DATABASE_OPERATOR_URL")
    server.environment.delenv("DATABASE_ADMIN_URL")
    hidden = others.enter_context(psycopg.connect(postgres_database.operator_url, autocommit=True))

    (section,) = server(*INSPECT, "--section", "connections", "--json").document["sections"]

    assert "hidden from these roles" in section["note"]
    assert "pg_monitor" in section["note"]
    assert {row["pid"]: row["state"] for row in section["rows"]}[hidden.info.backend_pid] is None
    refused = server(*TERMINATE, str(hidden.info.backend_pid), "--yes")
    assert (refused.code, refused.lines[0].split("\t")[4]) == (4, "refused")
    assert "pg_signal_backend" in refused.lines[0]


def test_connections_that_run_out_a_cold_cache_and_old_transactions_are_judged() -> None:
    """ALR-09, ALR-10; figures that a test server does not reach."""
    limits = [{"max_connections": 100, "reserved": 3, "taken": 80}]
    (full,) = inspection.sessions([], limits, 600, 5)
    assert "80 of 97 are taken" in full.problem
    assert not list(inspection.sessions([], [{**limits[0], "taken": 70}], 600, 5))
    cold = {"what": "tables", "hit": 90_000, "read": 10_000, "hit_percent": 90.0}
    (found,) = inspection.cache([cold, {**cold, "hit_percent": 95.0}, {**cold, "hit": 9, "read": 1}])
    assert "90 %" in found.problem
    table = {
        "table": "llmspell.kv_store",
        "enabled": True,
        "dead_rows": 0,
        "due_at_dead_rows": 50,
        "vacuumed_before_s": None,
    }
    (old,) = inspection.autovacuum([{**table, "xid_age": 201, "xid_age_max": 200}])
    assert old.advice.startswith("llmspell database vacuum kv_store")


def test_slow_queries_are_read_where_the_extension_is(postgres_database: PostgresDatabase) -> None:
    """MNT-07, MNT-11: on a server without contrib the query runs over a table of the same shape."""
    view = """
        CREATE TABLE statements AS SELECT 10::oid AS userid,
          (SELECT oid FROM pg_database WHERE datname = current_database()) AS dbid,
          n::int8 AS queryid, E'SELECT\n ' || n AS query, n::int8 AS calls, 100.0::float8 * n AS total_exec_time,
          99.0::float8 + n AS mean_exec_time, 900.0::float8 AS max_exec_time, 5::int8 AS rows FROM generate_series(1, 30) AS n
    """
    with psycopg.connect(postgres_database.superuser_url) as superuser:
        superuser.execute(view)
        found = superuser.execute(queries()["slow-queries"].replace("{statements}", "statements").encode()).fetchall()

    assert [row[0] for row in found] == list(range(30, 10, -1))
    assert found[0][-1] == "SELECT 30"
    (judged,) = inspection.slow_queries([{"query": "SELECT 30", "mean_ms": 129.0, "calls": 30}])
    assert "EXPLAIN (ANALYZE, BUFFERS)" in judged.advice


def test_a_section_of_the_other_backend_is_refused(server: Shell, empty: Shell) -> None:
    assert "has no section 'bloat'" in empty(*INSPECT, "--section", "bloat", "--store", empty.url).err
    assert "has no section 'file'" in server(*INSPECT, "--section", "file").err
    assert server(*INSPECT, "--section", "nothing").code == 2
    assert set(SECTIONS) > set(SERVER_SECTIONS)
    done = server(*INSPECT, "--store", "memory://")
    assert "in memory" in done.err


def test_a_file_tells_its_pages_its_tables_and_that_it_is_whole(empty: Shell) -> None:
    for number in range(3):
        empty("add", f"Ada moved to Zurich, for the {number}th time.")
    document = empty(*INSPECT, "--json").document
    sections = {one["name"]: one["rows"] for one in document["sections"]}

    assert list(sections) == ["file", "sizes", "indexes", "statistics", "integrity"]
    (file,) = sections["file"]
    assert file["bytes"] == file["pages"] * file["page_bytes"]
    assert file["journal_mode"] == "wal"
    assert {row["table"]: row["rows"] for row in sections["statistics"]}["memories"] == 3
    assert sum(row["bytes"] for row in sections["sizes"]) <= file["bytes"]
    assert sections["integrity"] == [{"result": "ok"}]
    assert empty(*INSPECT, "--check").lines == []
    assert empty(*TERMINATE, "1").code == 1


def test_an_empty_or_outgrown_or_broken_file_is_found(empty: Shell) -> None:
    connection = apsw.Connection(str(empty.file))
    connection.execute(
        "INSERT INTO kv_store (tenant_id, key, value, created_at, updated_at)"
        " WITH n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000)"
        " SELECT 'tenant', 'key-' || n, zeroblob(900), 1, 1 FROM n"
    )
    connection.execute("ANALYZE")
    connection.execute("DELETE FROM kv_store WHERE key > 'key-1'")
    connection.close()

    assert "of its pages are free" in findings(empty, "file")[0]["problem"]
    assert rows(empty, "statistics")
    drift = {row["table"]: (row["rows"], row["rows_when_analysed"]) for row in rows(empty, "statistics")}["kv_store"]
    assert drift == (1, 3000)
    big = {"table": "t", "rows": 5_000, "rows_when_analysed": None}
    assert "never analysed" in next(inspection.statistics([big])).problem
    assert "had 1,000 rows" in next(inspection.statistics([{**big, "rows_when_analysed": 1_000}])).problem
    assert not list(inspection.statistics([{**big, "rows_when_analysed": 4_000}, {**big, "rows": 9}]))
    (broken,) = inspection.integrity([{"result": "ok"}, {"result": "row 1 missing from index i"}])
    assert "backup" in broken.advice
    assert next(inspection.file_state([{"path": "f", "free_percent": 0, "log_bytes": 2**30}])).subject == "f-wal"
    assert server_code(empty) == 1


def server_code(shell: Shell) -> int:
    return shell(*INSPECT, "--check").code
