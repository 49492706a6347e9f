"""`llmspell database partitions`: on a server, and where there are none."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.ops.backup.programs import find_programs
from llmspell.ops.postgres_installation import ENVIRONMENT
from llmspell.storage.postgres import event_months

PARTITIONS = ("database", "partitions")
ARCHIVE = (*PARTITIONS, "archive", "--before", "2019-04-01")
MARCH = "event_log_2019_03"
EVENTS = 300
EVENT = """
    INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
    SELECT 'tenant-' || mod(n, 3), gen_random_uuid(), 'test.event', gen_random_uuid(),
      '2019-03-01 00:00:00.000001+00'::timestamptz + n * interval '2 hours', n,
      jsonb_build_object('text', E'tab\t line\n back\\\\slash \\\\. ö' || n, 'n', n)
    FROM generate_series(1, %s) AS n
"""
ROWS = "SELECT * FROM {} ORDER BY tenant_id, timestamp, event_id"


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(EVENT, (EVENTS,))
    return shell


def seen(database: PostgresDatabase, table: str = "llmspell.event_log") -> list[Any]:
    with psycopg.connect(database.operator_url) as operator:
        return operator.execute(ROWS.format(table).encode()).fetchall()


def states(server: Shell) -> dict[str, tuple[str, str, str]]:
    """State, walls and dump of every month."""
    found = (line.split("\t") for line in server(*PARTITIONS, "list").lines)
    return {name: (state, walls, dump) for name, _, state, _, _, walls, dump in found}


def words(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def test_the_months_are_listed(server: Shell) -> None:
    server(*ARCHIVE, "--no-dump")
    done = server(*PARTITIONS, "list")

    assert done.code == 0
    assert [line.split("\t")[0] for line in done.lines][-2:] == ["event_log_default", MARCH]
    pattern = r"event_log_\w+\t(\d{4}-\d\d-01 to \d{4}-\d\d-01|all others)\t\w+\tabout [\d,]+ rows?\t[\d,]+ bytes\tisolated\t.*"
    assert all(re.fullmatch(pattern, line) for line in done.lines)
    assert [one[0] for one in states(server).values()] == ["attached"] * 4 + ["default", "archived"]
    document = server(*PARTITIONS, "list", "--json").document
    assert [one["name"] for one in document["partitions"]] == [line.split("\t")[0] for line in done.lines]
    assert document["partitions"][-1]["starts_at"] == "2019-03-01T00:00:00Z"


def test_a_month_that_tenants_could_reach_is_listed_as_open(server: Shell, postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.admin_url) as owner:
        owner.execute("GRANT SELECT ON llmspell.event_log_default TO llmspell_app")

    assert states(server)["event_log_default"][1] == "OPEN"


def test_ensure_makes_what_is_missing_and_moves_the_events_that_wait_for_it(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    last = server(*PARTITIONS, "list", "--json").document["partitions"][3]
    with psycopg.connect(postgres_database.admin_url) as owner:
        owner.execute(f"DROP TABLE llmspell.{last['name']}".encode())
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(
            "UPDATE llmspell.event_log_default SET timestamp = %s WHERE sequence = 1", (last["starts_at"],)
        )
    before = seen(postgres_database)

    dry = server(*PARTITIONS, "ensure", "--dry-run")
    done = server(*PARTITIONS, "ensure")

    assert words(dry.lines) == ["SKIPPED"] * 3 + ["WOULD CREATE"]
    assert [line.replace("WOULD CREATE", "CREATED") for line in dry.lines] == done.lines
    assert words(server(*PARTITIONS, "ensure").lines) == ["SKIPPED"] * 4
    assert len(seen(postgres_database, f"llmspell.{last['name']}")) == 1
    assert seen(postgres_database) == before
    assert states(server)[last["name"]] == ("attached", "isolated", "")


def test_a_month_goes_to_a_file_and_comes_back_the_same(server: Shell, postgres_database: PostgresDatabase) -> None:
    """EVT-14…16: each step is announced before it is taken, and the rows that come back are those that went."""
    before = seen(postgres_database)
    folder = ("--folder", str(server.folder / "dumps"))

    dry = server(*ARCHIVE, *folder, "--drop", "--dry-run")
    assert words(dry.lines) == ["WOULD ARCHIVE", "WOULD DUMP", "WOULD DROP"]
    assert "nothing was changed" in dry.err
    assert not (server.folder / "dumps").exists()
    done = server(*ARCHIVE, *folder, "--drop", "--json")
    assert words(done.document["partitions"]) == ["ARCHIVED", "DUMPED", "DROPPED"]
    assert f"{EVENTS} rows" in done.document["partitions"][2]
    assert seen(postgres_database) == []
    assert MARCH not in states(server)
    assert sorted(path.name for path in (server.folder / "dumps").iterdir()) == [f"{MARCH}.dump", f"{MARCH}.dump.json"]
    assert server(*ARCHIVE, *folder, "--drop").lines == []

    assert words(server(*PARTITIONS, "restore", MARCH, *folder, "--dry-run").lines) == ["WOULD RESTORE"]
    assert seen(postgres_database) == []
    back = server(*PARTITIONS, "restore", MARCH, *folder)

    assert words(back.lines) == ["RESTORED"]
    assert seen(postgres_database) == before == seen(postgres_database, f"llmspell.{MARCH}")
    assert states(server)[MARCH] == ("attached", "isolated", "")
    assert server("database", "isolation", "--check").lines == []
    assert server("database", "migrations", "verify").code == 0
    with psycopg.connect(postgres_database.admin_url) as owner:
        bounds = (
            "SELECT pg_get_expr(relpartbound, oid), reloptions::text FROM pg_class WHERE relname = 'event_log_2019_03'"
        )
        bound, options = owner.execute(bounds).fetchall()[0]
    assert re.findall(r"\d{4}-\d\d-\d\d", bound) == ["2019-03-01", "2019-04-01"]
    assert "autovacuum_vacuum_scale_factor=0.02" in options


def test_the_file_is_one_that_pg_restore_reads_into_another_database(
    server: Shell, postgres_database: PostgresDatabase, postgres_empty_database: PostgresDatabase
) -> None:
    """AMB-108: no row is missing in it."""
    server(*ARCHIVE, "--folder", "dumps")
    with psycopg.connect(postgres_empty_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("CREATE SCHEMA llmspell_archive")
        superuser.execute("CREATE SCHEMA llmspell")

    restore = find_programs(18).folder / "pg_restore"
    command = [restore, "--no-owner", "-d", postgres_empty_database.superuser_url, f"dumps/{MARCH}.dump"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    with psycopg.connect(postgres_empty_database.superuser_url) as superuser:
        assert superuser.execute(ROWS.format(f"llmspell_archive.{MARCH}").encode()).fetchall() == seen(
            postgres_database, f"llmspell_archive.{MARCH}"
        )


def test_a_month_that_was_not_dropped_is_attached_as_it_is(server: Shell, postgres_database: PostgresDatabase) -> None:
    before = seen(postgres_database)
    assert words(server(*ARCHIVE, "--folder", "dumps").lines) == ["ARCHIVED", "DUMPED"]
    assert states(server)[MARCH] == ("archived", "isolated", "dumped")
    with psycopg.connect(
        postgres_database.operator_url
    ) as operator:  # a late event, which waits in the default partition
        operator.execute(EVENT, (1,))

    done = server(*PARTITIONS, "restore", MARCH)

    assert words(done.lines) == ["ATTACHED"]
    assert "1 that had come since" in done.lines[0]
    found = seen(postgres_database)
    assert len(found) == EVENTS + 1
    assert [row for row in found if row in before] == before
    assert seen(postgres_database, "llmspell.event_log_default") == []
    assert server("database", "isolation", "--check").lines == []


def test_late_events_get_a_file_of_their_own_and_both_come_back(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    server(*ARCHIVE, "--folder", "dumps", "--drop")
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(EVENT, (2,))
    late = seen(postgres_database)
    assert words(server(*ARCHIVE, "--folder", "dumps", "--drop").lines) == ["ARCHIVED", "DUMPED", "DROPPED"]

    unclear = server(*PARTITIONS, "restore", MARCH, "--folder", "dumps")
    first = server(*PARTITIONS, "restore", f"dumps/{MARCH}.dump")
    second = server(*PARTITIONS, "restore", f"dumps/{MARCH}-2.dump")
    again = server(*PARTITIONS, "restore", f"dumps/{MARCH}-2.dump")

    assert unclear.code == 5
    assert "several dumps" in unclear.err
    assert words(first.lines + second.lines + again.lines) == ["RESTORED"] * 3
    assert "late events" in second.lines[0]
    found = seen(postgres_database)
    assert len(found) == EVENTS + 2
    assert all(row in found for row in late)
    assert server("database", "isolation", "--check").lines == []


def test_what_no_dump_holds_is_not_dropped(server: Shell, postgres_database: PostgresDatabase) -> None:
    server(*ARCHIVE, "--no-dump")
    table = f"llmspell_archive.{MARCH}"

    refused = server(*PARTITIONS, "drop", MARCH, "--yes")
    assert refused.code == 5
    assert "no verified dump" in refused.err
    server(*ARCHIVE, "--folder", "dumps")
    elsewhere = server(*PARTITIONS, "drop", MARCH, "--folder", "other", "--yes")
    assert "no verified dump" in elsewhere.err
    unasked = server(*PARTITIONS, "drop", MARCH, "--folder", "dumps")
    assert unasked.code == 2
    assert "--yes" in unasked.err
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(f"DELETE FROM {table} WHERE sequence = 7".encode())
    changed = server(*PARTITIONS, "drop", MARCH, "--folder", "dumps", "--yes")
    assert changed.code == 1
    assert "not those that were dumped" in changed.err
    assert len(seen(postgres_database, table)) == EVENTS - 1

    assert words(server(*PARTITIONS, "drop", MARCH, "--without-dump", "--dry-run").lines) == ["WOULD DROP"]
    done = server(*PARTITIONS, "drop", MARCH, "--without-dump", "--yes")
    assert done.lines == [f"DROPPED: {MARCH} {EVENTS - 1} rows without a dump"]
    assert server(*PARTITIONS, "drop", MARCH, "--yes").code == 1


def test_a_file_that_was_touched_is_not_restored_and_nothing_is_dropped_for_it(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    server(*ARCHIVE, "--folder", "dumps")
    file = Path("dumps") / f"{MARCH}.dump"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    for command in (("drop", MARCH, "--folder", "dumps", "--yes"), ("restore", str(file))):
        done = server(*PARTITIONS, *command)
        assert done.code == 1
        assert "not the one that was verified" in done.err
    assert len(seen(postgres_database, f"llmspell_archive.{MARCH}")) == EVENTS


def test_a_manifest_that_promises_other_rows_changes_nothing(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    server(*ARCHIVE, "--folder", "dumps", "--drop")
    manifest = Path("dumps") / f"{MARCH}.dump.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"rows": document["rows"] - 1}))

    done = server(*PARTITIONS, "restore", MARCH, "--folder", "dumps")

    assert done.code == 1
    assert "other rows than were dumped" in done.err
    assert seen(postgres_database) == []
    assert MARCH not in states(server)
    manifest.write_text(json.dumps(document | {"columns": ["tenant_id", "payload"]}))
    assert "does not hold the events" in server(*PARTITIONS, "restore", MARCH, "--folder", "dumps").err
    manifest.write_text("{")
    assert "manifest" in server(*PARTITIONS, "restore", MARCH, "--folder", "dumps").err


def test_restored_events_are_found_where_the_bounds_of_the_tenant_were_narrower(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    server(*ARCHIVE, "--folder", "dumps", "--drop")
    narrow = "INSERT INTO llmspell.event_sequences VALUES ('tenant-1', 5, now(), now())"
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(narrow)

    server(*PARTITIONS, "restore", MARCH, "--folder", "dumps")

    with psycopg.connect(postgres_database.operator_url) as operator:
        asked = "SELECT tenant_id, value, first_at < '2019-03-02' FROM llmspell.event_sequences ORDER BY 1"
        assert operator.execute(asked).fetchall() == [
            ("tenant-0", EVENTS, True), ("tenant-1", EVENTS - 2, True), ("tenant-2", EVENTS - 1, True),
        ]  # fmt: skip


def test_ninety_days_is_what_archive_means_without_a_date(server: Shell) -> None:
    """EVT-14."""
    dry = (*PARTITIONS, "archive", "--no-dump", "--dry-run")
    assert len(server(*dry).lines) == 1
    assert server(*dry, "--older-than", "36500").lines == []
    assert server(*dry, "--older-than", "9", "--before", "2019-01-01").code == 2
    server.environment.setenv("LLMSPELL_RETENTION__EVENTS_DAYS", "36500")

    assert server(*dry).lines == []


def test_somebody_else_who_archives_is_not_disturbed(server: Shell, postgres_database: PostgresDatabase) -> None:
    from llmspell.storage.postgres import event_months

    with event_months.turn(postgres_database.admin_url):
        done = server(*ARCHIVE)

    assert done.code == 5
    assert "Another command archives" in done.err


@pytest.mark.parametrize("missing", ["DATABASE_OPERATOR_URL", "DATABASE_ADMIN_URL"])
def test_a_role_that_is_not_configured_is_named(server: Shell, missing: str) -> None:
    server.environment.delenv(missing)

    for command in (ARCHIVE, (*PARTITIONS, "archive", "--dry-run", "--before", "2019-04-01")):
        done = server(*command)
        if "--dry-run" not in command or missing == "DATABASE_OPERATOR_URL":
            assert done.code != 0
            assert missing in done.err


def test_a_machine_without_pg_dump_says_what_to_install(server: Shell, postgres_database: PostgresDatabase) -> None:
    from llmspell.ops.backup import programs

    server.environment.setattr(programs, "_folders", list)
    done = server(*ARCHIVE)

    assert done.code != 0
    assert "postgresql-client-18" in done.err
    assert states(server)[MARCH][0] == "archived"
    server.environment.undo()


@pytest.mark.parametrize(
    "command", [["list"], ["ensure"], ["archive"], ["restore", MARCH], ["drop", MARCH]], ids=lambda c: c[0]
)
def test_a_store_of_one_table_says_that_it_has_no_months(shell: Shell, command: list[str]) -> None:
    shell("database", "migrate")

    done = shell(*PARTITIONS, *command)

    assert done.code != 0
    assert "one table" in done.err
    assert "prune" in done.err


def test_a_dump_that_cannot_be_verified_is_not_kept(server: Shell) -> None:
    """The rows of all tenants are in it. A link that stands in its place is not followed."""
    (server.folder / "dumps").mkdir()
    elsewhere = server.folder / "elsewhere"
    elsewhere.write_text("mine")
    (server.folder / "dumps" / f"{MARCH}.dump.part").symlink_to(elsewhere)

    def other(*_: object, **__: object) -> event_months.Content:
        return event_months.Content(0, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_months, "read_back", other)
        done = server(*ARCHIVE, "--folder", "dumps", "--drop")

    assert done.code != 0
    assert "was not kept" in done.err
    assert list((server.folder / "dumps").iterdir()) == []
    assert elsewhere.read_text() == "mine"
    assert states(server)[MARCH] == ("archived", "isolated", "not dumped")
