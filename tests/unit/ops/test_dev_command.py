"""`llmspell dev postgres`: the commands, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmspell
from llmspell.ops import postgres_installation
from llmspell.ops.embedded_postgres import EmbeddedCluster
from llmspell.ops.postgres_installation import server_account

pytestmark = pytest.mark.usefixtures("embedded_package")
is_root = os.geteuid() == 0
root_only = pytest.mark.skipif(not is_root, reason="only root drops privileges")


def run_cli(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmspell", "dev", "postgres", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/", **options)  # type: ignore[call-overload, no-any-return]


def cycle(data: Path, **options: object) -> list[tuple[str, int]]:
    said = []
    for step in ("status", "start", "start", "status", "url", "stop", "stop", "status"):
        done = run_cli(step, "--data", str(data), "--json", **options)
        said.append((step, done.returncode))
    return said


CYCLE = [
    ("status", 1),
    ("start", 0),
    ("start", 0),
    ("status", 0),
    ("url", 0),
    ("stop", 0),
    ("stop", 0),
    ("status", 1),
]


def test_the_commands_go_through_a_whole_cycle(folder: Path) -> None:
    assert cycle(folder / "data") == CYCLE


AS_SOMEBODY = """
import importlib.readers, os, sys
import llmspell.cli.commands.dev, llmspell.cli.main, llmspell.observe, llmspell.ops.embedded_postgres
import llmspell.ops.postgres_installation, llmspell.settings
# The packages may lie where only root can go; the programs were copied to where everybody can, and are looked up there.
sys.path.append(str(llmspell.ops.postgres_installation.program_folder(
    llmspell.ops.postgres_installation.server_account()
).parents[2]))
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
for step in sys.argv[3:]:
    print(step, llmspell.cli.main.run(["dev", "postgres", step, "--data", sys.argv[1], "--quiet"]), file=sys.stderr)
"""


@root_only
def test_the_commands_go_through_a_whole_cycle_as_an_ordinary_user(folder: Path) -> None:
    somebody = server_account().uid
    os.chown(folder, somebody, somebody)
    data, code = folder / "data", folder / "code"
    shutil.copytree(Path(llmspell.__file__).parent, code / "llmspell", ignore=shutil.ignore_patterns("__pycache__"))
    postgres_installation._let_everybody_read(code)
    # Dropped after the imports, because the interpreter, its packages and this clone may lie where only root can go.
    command = [sys.executable, "-c", AS_SOMEBODY, str(data), str(somebody), *(step for step, _ in CYCLE)]
    environment = os.environ | {"PYTHONPATH": str(code)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/", env=environment)

    assert [line for line in done.stderr.splitlines() if line] == [f"{step} {code}" for step, code in CYCLE]
    assert (data / "pgdata").stat().st_uid == somebody


@root_only
@pytest.mark.parametrize("named", [True, False])
def test_a_data_folder_that_the_environment_names_in_vain_is_said(folder: Path, named: bool) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    places = {"XDG_DATA_HOME": str(closed)} if named else {"HOME": str(closed), "XDG_DATA_HOME": ""}

    done = run_cli("status", env=os.environ | places)

    assert (f"which cannot enter {closed}" in done.stderr) is named


def test_start_says_what_a_new_server_needs(folder: Path) -> None:
    done = run_cli("start", "--data", str(folder / "data"))
    EmbeddedCluster(folder / "data").stop()

    assert "llmspell database migrate" in done.stderr
    assert "llmspell tenants create" in done.stderr


def test_the_output_of_start_can_be_evaluated_by_a_shell(folder: Path) -> None:
    done = run_cli("start", "--data", str(folder / "data"))
    try:
        said = run_cli("url", "--admin", "--data", str(folder / "data")).stdout.strip()
        shell = subprocess.run(
            ["sh", "-c", f'{done.stdout}\nprintf %s "$DATABASE_ADMIN_URL"'], capture_output=True, text=True, check=True
        )
    finally:
        EmbeddedCluster(folder / "data").stop()

    assert shell.stdout == said
    assert said.startswith("postgresql://llmspell@/llmspell_dev?host=/")


def test_a_server_that_does_not_run_is_started_by_the_command_of_the_hint(folder: Path) -> None:
    data = folder / "my data"

    done = run_cli("url", "--data", str(data))

    assert (done.returncode, done.stdout) == (3, "")
    assert f"hint: Run: llmspell dev postgres start --data '{data}'" in done.stderr


def test_json_output_is_one_document(folder: Path) -> None:
    done = run_cli("status", "--json", "--data", str(folder / "data"))

    assert json.loads(done.stdout) == {
        "running": False,
        "data_dir": str(folder / "data"),
        "pid": None,
        "socket_dir": None,
        "port": None,
    }
