"""The files of deploy/ work as they are shipped: every script runs on a real server, every line of cron and every unit is right."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresDatabase

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPTS = sorted(path.name for path in (DEPLOY / "bin").iterdir())
UNITS = sorted(path.name for path in (DEPLOY / "systemd").iterdir())
CRON = (DEPLOY / "cron.d" / "llmspell").read_text()
CRON_LINE = re.compile(
    r"(?P<when>[\d*]+ [\d*]+ [\d*]+ [\d*]+ [\d*]+)  llmspell  "
    r"set -a; \. /etc/llmspell/environment; exec (?P<script>\S+)( >/dev/null)?"
)
LIMIT_S = 120
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the files are for POSIX machines")


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = folder / "llmspell"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmspell "$@"\n')
    program.chmod(0o755)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.run(
        [DEPLOY / "bin" / script],
        cwd=folder,
        env=kept
        | {"HOME": str(folder), "LLMSPELL": str(program), "LLMSPELL_EMBEDDING__PROVIDER": "hashing"}
        | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture
def roles(postgres_database: PostgresDatabase) -> dict[str, str]:
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(
            "INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)"
            " VALUES ('t', gen_random_uuid(), 'test.event', gen_random_uuid(), '2019-03-15', 1, '{}')"
        )
    return {
        "DATABASE_URL": postgres_database.app_url,
        "DATABASE_OPERATOR_URL": postgres_database.operator_url,
        "DATABASE_ADMIN_URL": postgres_database.admin_url,
    }


PRINTED = {
    "llmspell-archive": [
        "ARCHIVED: event_log_2019_03",
        "DUMPED: event_log_2019_03",
        "DROPPED: event_log_2019_03",
        "slow-queries",
    ],
    "llmspell-backup": [],
    "llmspell-inspect": [],
    "llmspell-partition-management": ["SKIPPED: event_log_"] * 4,
    "llmspell-reindex": [
        "DONE: REINDEX INDEX CONCURRENTLY",
        "DONE: ANALYZE llmspell.event_log",
        "sizes: nothing to do",
    ],
    "llmspell-vacuum": ["DONE: VACUUM (ANALYZE) llmspell.sessions", "DONE: ANALYZE llmspell.event_log"],
    "llmspell-vacuum-full": ["SKIPPED: VACUUM (FULL, ANALYZE) llmspell.procedural_patterns"],
}


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "llmspell-backup"])
def test_every_script_runs_on_a_server_and_may_be_repeated(script: str, roles: dict[str, str], tmp_path: Path) -> None:
    """EVT-04, MNT-03, MNT-04, MNT-06, MNT-07, MNT-12."""
    done = run(script, tmp_path, **roles)

    assert done.returncode == 0, done.stdout + done.stderr
    for said in PRINTED[script]:
        assert said in done.stdout
    if script == "llmspell-archive":
        assert run(script, tmp_path, **roles).returncode == 0


def test_the_daily_backup_is_verified(tmp_path: Path) -> None:
    """MNT-12; on a file, whose backup costs little. What it does on a server is proved where backups are."""
    environment = {
        "LLMSPELL_STORAGE__URL": f"sqlite:///{tmp_path / 'store.db'}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    subprocess.run(
        [sys.executable, "-m", "llmspell", "database", "migrate"],
        env={"PATH": os.defpath, "HOME": str(tmp_path), **environment},
        check=True,
        capture_output=True,
        timeout=LIMIT_S,
    )
    done = run("llmspell-backup", tmp_path, **environment, LLMSPELL_BACKUP__ENCRYPTION="false")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_failure_is_the_exit_code_of_the_script(script: str, tmp_path: Path) -> None:
    """A script of two commands ends at the first that fails."""
    done = run(script, tmp_path, DATABASE_URL="postgresql://llmspell_app@127.0.0.1:1/none", DATABASE_OPERATOR_URL="",
               DATABASE_ADMIN_URL="")  # fmt: skip

    assert done.returncode != 0
    assert "error:" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_plain_sh_and_runs_by_its_name(script: str) -> None:
    path = DEPLOY / "bin" / script

    assert path.stat().st_mode & stat.S_IXUSR
    assert path.read_text().startswith("#!/bin/sh\n")
    assert "set -eu" in path.read_text()
    assert subprocess.run(["sh", "-n", path], capture_output=True, timeout=LIMIT_S, check=False).returncode == 0


def test_cron_and_systemd_run_every_script_at_the_same_times() -> None:
    lines = [line for line in CRON.splitlines() if line and not line.startswith("#") and "=" not in line.split()[0]]
    found = {match["script"]: match["when"] for line in lines if (match := CRON_LINE.fullmatch(line))}

    assert len(found) == len(lines)
    assert sorted(found) == SCRIPTS
    assert sorted(f"{name}.{kind}" for name in SCRIPTS for kind in ("service", "timer")) == UNITS
    assert CRON.endswith("\n")  # cron ignores a last line without its end
    for name, when in found.items():
        service = (DEPLOY / "systemd" / f"{name}.service").read_text()
        calendar = re.findall(r"^OnCalendar=(.+)$", (DEPLOY / "systemd" / f"{name}.timer").read_text(), re.MULTILINE)
        assert f"ExecStart=/usr/local/bin/{name}\n" in service
        assert calendar == [calendar_of(when)]


def calendar_of(when: str) -> str:
    """What systemd calls a time of cron."""
    minute, hour, day, month, weekday = when.split()
    assert month == "*"
    days = f"{'Sun ' if weekday == '0' else ''}*-*-{day if day == '*' else f'{int(day):02}'}"
    return f"{days} {hour if hour == '*' else f'{int(hour):02}'}:{int(minute):02}:00"


def test_systemd_accepts_every_unit(tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("systemd-analyze is not installed")
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        # The scripts are not installed on this machine; where they will be, a program stands that is.
        (tmp_path / name).write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    command = [verifier, "verify", "--man=no", "--recursive-errors=no", *(str(tmp_path / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert not [line for line in done.stderr.splitlines() if str(tmp_path) in line], done.stderr
    for name in UNITS:
        for calendar in re.findall(r"^OnCalendar=(.+)$", (tmp_path / name).read_text(), re.MULTILINE):
            assert (
                subprocess.run(
                    [verifier, "calendar", calendar], capture_output=True, timeout=LIMIT_S, check=False
                ).returncode
                == 0
            )
