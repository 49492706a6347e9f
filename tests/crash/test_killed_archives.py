"""Whoever archives, dumps, drops or restores months of events may be killed anywhere: the same command then ends what was begun.

At each moment the rows are in the log, in the archive, or in a file whose manifest tells what it holds; at the end all are back.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
LIMIT_S = 60
ROUNDS = size(ci=2, soak=60)
MARCH = "event_log_2019_03"
ARCHIVE = ["database", "partitions", "archive", "--before", "2019-04-01", "--folder", "dumps", "--drop"]
RESTORE = ["database", "partitions", "restore", MARCH, "--folder", "dumps"]
EVENTS = """
    INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
    SELECT 'tenant-' || mod(n, 3), gen_random_uuid(), 'test.event', gen_random_uuid(),
      '2019-03-01 00:00:00+00'::timestamptz + n * interval '1 hour', n, jsonb_build_object('n', n)
    FROM generate_series(1, 200) AS n
"""
LOG = "SELECT tenant_id, event_id::text, payload::text FROM llmspell.event_log ORDER BY 1, 2"
ARCHIVED = "SELECT to_regclass('llmspell_archive.event_log_2019_03') IS NOT NULL"


def run(database: PostgresDatabase, folder: Path, command: list[str], *, kill_at: int) -> tuple[int, int]:
    """Run a command in a process of its own, and return its exit code and how many points it passed."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.archiver", str(kill_at), *command],
        cwd=folder,
        env=kept
        | {
            "HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "DATABASE_URL": database.app_url,
            "DATABASE_OPERATOR_URL": database.operator_url,
            "DATABASE_ADMIN_URL": database.admin_url,
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    passed = int(done.stdout.rpartition("passed ")[2] or 0) if done.returncode == 0 else 0
    return done.returncode, passed


def rows(database: PostgresDatabase) -> list[tuple[str, str, str]]:
    with psycopg.connect(database.operator_url) as operator:
        return operator.execute(LOG).fetchall()


def archived(database: PostgresDatabase) -> bool:
    with psycopg.connect(database.operator_url) as operator:
        return bool(operator.execute(ARCHIVED).fetchall()[0][0])


def test_a_kill_between_any_two_steps_loses_no_event(postgres_database: PostgresDatabase, tmp_path: Path) -> None:
    """EVT-15, EVT-16."""
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(EVENTS)
    before = rows(postgres_database)
    _, points_out = run(postgres_database, tmp_path, ARCHIVE, kill_at=0)
    assert rows(postgres_database) == []
    _, points_back = run(postgres_database, tmp_path, RESTORE, kill_at=0)
    assert rows(postgres_database) == before
    chance, kills = random.Random(usual(20_268)), 0

    for _ in range(ROUNDS):
        code, _ = run(postgres_database, tmp_path, ARCHIVE, kill_at=chance.randint(1, points_out))
        kills += code != 0
        complete = (tmp_path / "dumps" / f"{MARCH}.dump.json").exists()
        assert rows(postgres_database) in (before, [])
        assert rows(postgres_database) or archived(postgres_database) or complete
        assert run(postgres_database, tmp_path, ARCHIVE, kill_at=0)[0] == 0
        assert (rows(postgres_database), archived(postgres_database)) == ([], False)

        code, _ = run(postgres_database, tmp_path, RESTORE, kill_at=chance.randint(1, points_back))
        kills += code != 0
        if rows(postgres_database) != before:  # what was killed has changed nothing
            assert (rows(postgres_database), archived(postgres_database)) == ([], False)
            assert run(postgres_database, tmp_path, RESTORE, kill_at=0)[0] == 0
        assert rows(postgres_database) == before

    tell(killed_archives=kills)
    assert kills >= ROUNDS
    assert sorted(path.name for path in (tmp_path / "dumps").iterdir()) == [f"{MARCH}.dump", f"{MARCH}.dump.json"]
