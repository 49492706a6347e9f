"""The guides are true: their commands, typed in the order of the page, print what stands below them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresDatabase

GUIDES = Path(__file__).resolve().parents[2] / "docs"
README = GUIDES.parent / "README.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
RECORDED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
MARK = "-- the next command --"
PROCESS_LIMIT_S = 120
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the guides are written for a POSIX shell")


def told(blocks: list[str]) -> list[tuple[str, list[str]]]:
    """Return every command with the lines that the page shows below it."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


def run(commands: list[str], folder: Path, *, shell: str = "sh", **environment: str) -> list[list[str]]:
    """Run commands in one shell, and return what each of them printed."""
    names = ("PATH", "LANG", "LC_ALL", "TMPDIR")
    settings = {name: os.environ[name] for name in names if name in os.environ} | {
        "HOME": str(folder),
        "LLMSPELL_STORAGE__URL": f"sqlite:///{folder / 'guide.db'}",
        "LLMSPELL_EMBEDDING__PROVIDER": "hashing",
        **environment,
    }
    python = shlex.quote(sys.executable)
    script = [f'llmspell() {{ {python} -m llmspell "$@"; }}']
    for command in commands:
        script += [command, f"echo '{MARK}'"]
    done = subprocess.run(
        [shell, "-eu", "-c", "\n".join(script)],
        cwd=folder,
        env={name: value for name, value in settings.items() if value},
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [part.splitlines() for part in done.stdout.split(f"{MARK}\n")[:-1]]


def alike(lines: list[str]) -> list[str]:
    """Return lines without what differs from store to store: ids, and the instants of recording."""
    return [RECORDED.sub("RECORDED", ID.sub("ID", line)).rstrip() for line in lines]


def test_asking_about_the_past_prints_what_its_guide_says(tmp_path: Path) -> None:
    steps = told(CONSOLE.findall((GUIDES / "how-to" / "ask-about-the-past.md").read_text("utf-8")))

    printed = run([command for command, _ in steps], tmp_path)

    assert [(command, alike(lines)) for (command, _), lines in zip(steps, printed, strict=True)] == [
        (command, alike(lines)) for command, lines in steps
    ]
    assert sum(bool(lines) for _, lines in steps) >= 10


def test_the_command_line_of_the_readme_answers_every_question(tmp_path: Path) -> None:
    (block,) = [block for block in SHELL.findall(README.read_text("utf-8")) if "llmspell add" in block]
    commands = [line for line in block.splitlines() if line]

    printed = run(commands, tmp_path)

    assert all(printed)
    (then,) = [lines for command, lines in zip(commands, printed, strict=True) if "--as-of" in command]
    assert [line.split("\t")[3] for line in then] == ["Berlin"]


def test_the_commands_on_a_new_server_make_it_serve(tmp_path: Path, postgres_empty_database: PostgresDatabase) -> None:
    page = (GUIDES / "how-to" / "run-postgres-locally.md").read_text("utf-8")
    (block,) = [block for block in CONSOLE.findall(page) if "$ llmspell tenants create" in block]
    steps = told([block])

    printed = run(
        [command for command, _ in steps],
        tmp_path,
        LLMSPELL_STORAGE__URL="",
        DATABASE_URL=postgres_empty_database.app_url,
        DATABASE_ADMIN_URL=postgres_empty_database.admin_url,
    )

    assert printed[0][0] == "V001__initial_setup"
    assert [alike(lines) for lines in printed[1:]] == [alike(lines) for _, lines in steps[1:]]


@pytest.mark.parametrize(("page", "store"), [("check-health", "file"), ("upgrade", "server")])
def test_every_command_of_the_operators_guides_runs_as_written(
    page: str, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    blocks = SHELL.findall((GUIDES / "how-to" / f"{page}.md").read_text("utf-8"))
    commands = [line for block in blocks for line in block.splitlines() if line]
    environment = {}
    if store == "server":
        database: PostgresDatabase = request.getfixturevalue("postgres_database")
        environment = {
            "LLMSPELL_STORAGE__URL": "",
            "DATABASE_URL": database.app_url,
            "DATABASE_ADMIN_URL": database.admin_url,
            "DATABASE_OPERATOR_URL": database.operator_url,
        }
        commands = [command for command in commands if "--backend sqlite" not in command]

    printed = run(["llmspell storage validate", *commands], tmp_path, **environment)

    assert len(printed) == len(commands) + 1 >= 7
