from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import ClassVar

import click
import pytest

import llmspell
from llmspell.cli import main as frame
from llmspell.cli.commands.init import project_file
from llmspell.cli.main import run
from llmspell.cli.output import async_command, command, current_output
from llmspell.cli.session import open_tenant
from llmspell.errors import Unavailable
from llmspell.settings import Settings, load_settings, schema

HIDDEN = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project in a home of its own, and nothing of ours in the environment."""
    for name in ("DATABASE_URL", "DATABASE_ADMIN_URL", "OPENAI_API_KEY", "LLMSPELL_LOG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# --- show and explain -------------------------------------------------------------------------------------------------


def test_show_lists_every_setting_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    monkeypatch.setenv("LLMSPELL_SERVER__PORT", "9")
    (project / "llmspell.toml").write_text("[context]\nmax_tokens = 7\n")

    assert run(["config", "show", "--origin", "--json", "--store", "memory://"]) == 0

    document = json.loads(capsys.readouterr().out)
    shown = {entry["key"]: (entry["value"], entry["origin"]) for entry in document["settings"]}
    assert list(shown) == list(schema())
    assert shown["server.port"] == (9, "variable LLMSPELL_SERVER__PORT")
    assert shown["context.max_tokens"] == (7, f"{project / 'llmspell.toml'}, line 2")
    assert shown["storage.url"] == ("memory://", "argument")
    assert shown["text.language"] == ("english", "default")
    assert document["files"] == [str(project / "llmspell.toml")]


def test_show_marks_what_has_no_effect_yet(capsys: pytest.CaptureFixture[str]) -> None:
    run(["config", "show"])

    lines = dict(line.split(" = ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["server.port"] == "8080  # (no effect yet)"
    assert lines["context.max_tokens"] == "2000"


COMMAND_LINES = [
    ["config", "show"],
    ["config", "show", "--origin"],
    ["config", "show", "--json"],
    ["config", "explain", "embedding.api_key"],
    ["config", "explain", "storage.url", "--json"],
    ["config", "explain", "storage.postgres.admin_url"],
    ["config", "paths"],
    ["config", "show", "--store", f"ftp://u:{HIDDEN}@h"],
    ["config", "show", "--store", f"postgresql://u:a@{HIDDEN}@h/d"],
]


@pytest.mark.parametrize("log", ["warning", "debug"])
@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=" ".join)
def test_no_output_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], log: str
) -> None:
    monkeypatch.setenv("LLMSPELL_LOG", log)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{HIDDEN}@db/prod?sslpassword={HIDDEN}")
    monkeypatch.setenv("DATABASE_ADMIN_URL", f"postgresql://admin:{HIDDEN}@db/prod")
    monkeypatch.setenv("OPENAI_API_KEY", HIDDEN)

    run(arguments)

    out, err = capsys.readouterr()
    assert HIDDEN not in out + err
    assert out + err


def test_explain_says_what_a_setting_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "storage.postgres.pool_size", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["accepts"] == "a whole number from 1 to 1,000"
    assert (document["default"], document["value"], document["origin"]) == (20, 20, "default")
    assert document["variable"] == "LLMSPELL_STORAGE__POSTGRES__POOL_SIZE"


def test_explain_answers_to_an_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "storage.state_url"]) == 0
    assert capsys.readouterr().out.startswith("storage.url: ")


def test_an_unknown_setting_is_exit_code_2_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "storage.urll"]) == 2
    assert "Did you mean `storage.url`?" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nosuch:///x", "mysql://x/db", "agent.db"])
def test_a_url_of_no_store_is_told_which_there_are(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--store", url]) == 2
    assert "hint: Use memory://, sqlite:///path/to/file.db or postgresql://" in capsys.readouterr().err


def test_broken_toml_is_exit_code_2_and_names_the_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "llmspell.toml").write_text("tenant_id = 'a'\n[storage\n")

    assert run(["config", "show", "--json"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "line 2" in json.loads(err)["error"]["detail"]


def test_a_missing_config_file_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--config", "missing.toml"]) == 2
    assert "missing.toml" in capsys.readouterr().err


def test_paths_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    run(["config", "paths", "--json"])

    assert json.loads(capsys.readouterr().out)["data"] == str(tmp_path / "llmspell")


# --- init -------------------------------------------------------------------------------------------------------------


def test_init_writes_a_file_and_names_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(project / "llmspell.toml")}
    assert (project / "llmspell.toml").read_text() == project_file()


def test_init_never_replaces_a_file_unless_forced(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "llmspell.toml").write_text("tenant_id = 'mine'\n")

    assert run(["init", "--json"]) == 5
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["title"].startswith("There is a file"), "--force" in error["hint"]) == (
        "LS-1303", True, True,
    )  # fmt: skip
    assert (project / "llmspell.toml").read_text() == "tenant_id = 'mine'\n"
    assert run(["init", "--force"]) == 0
    assert (project / "llmspell.toml").read_text() == project_file()
    assert [file.name for file in project.iterdir()] == ["llmspell.toml"]


def test_the_written_file_changes_nothing(project: Path) -> None:
    before = load_settings()

    run(["init"])

    assert load_settings() == before


def test_the_written_file_is_valid_when_every_default_is_uncommented(project: Path) -> None:
    text = re.sub(r"^# (\w+ = [^…\n]+)$", r"\1", project_file(), flags=re.MULTILINE)
    (project / "llmspell.toml").write_text(text)

    loaded = load_settings()

    assert tomllib.loads(text)["context"] == {"max_tokens": 2000}
    given = {key for key, origin in loaded.origins.items() if str(project) in origin}
    assert given == {key for key, setting in schema().items() if not setting.later and setting.default is not None}
    assert {key: loaded.value(key) for key in given} == {key: schema()[key].default for key in given}


def test_every_setting_with_an_effect_is_in_the_written_file() -> None:
    names = re.findall(r"^# (\w+) = ", project_file(), flags=re.MULTILINE)

    wanted = [key.rpartition(".")[2] for key, setting in schema().items() if not setting.later]
    assert sorted(set(wanted) - set(names)) == []


# --- what commands work on --------------------------------------------------------------------------------------------


class FakeSpell:
    """Remembers how it was opened, and whether it was closed."""

    opened: ClassVar[list[FakeSpell]] = []

    def __init__(self, url: str, *, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.closed = False
        self.opened.append(self)

    async def __aenter__(self) -> FakeSpell:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.closed = True

    def tenant(self, name: str) -> str:
        return f"tenant {name}"


@pytest.fixture
def spells(monkeypatch: pytest.MonkeyPatch) -> list[FakeSpell]:
    monkeypatch.setitem(vars(llmspell), "connect", FakeSpell)
    monkeypatch.setattr(FakeSpell, "opened", [])
    return FakeSpell.opened


def look(failing: bool) -> click.Command:
    @command()
    @async_command
    async def look() -> None:
        async with open_tenant() as tenant:
            if failing:
                raise Unavailable("gone")
            current_output().emit({"tenant": str(tenant)})

    return look


@pytest.mark.parametrize(("failing", "code"), [(False, 0), (True, 3)])
def test_the_store_and_the_tenant_of_the_command_line_are_opened_and_closed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spells: list[FakeSpell],
    failing: bool,
    code: int,
) -> None:
    monkeypatch.setattr(frame, "load_command", lambda entry: look(failing))

    assert run(["version", "--store", "memory://", "--tenant", "acme"]) == code
    assert capsys.readouterr().out == ("" if failing else "tenant: tenant acme\n")
    assert [(spell.url, spell.settings.tenant_id, spell.closed) for spell in spells] == [("memory://", "acme", True)]


def test_a_wrong_log_level_is_refused_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, spells: list[FakeSpell]
) -> None:
    monkeypatch.setattr(frame, "load_command", lambda entry: look(False))
    monkeypatch.setenv("LLMSPELL_LOG", "loud")

    assert run(["version"]) == 2
    assert spells == []
