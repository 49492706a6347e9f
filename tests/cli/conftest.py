"""A command line of the test's own: a home that is empty, no variables of ours, and the quick embedder."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmspell.cli.main import run


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Shell:
    """Runs commands in this process, on a file of the test's own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.file = folder / "store.db"
        self.url = f"sqlite:///{self.file}"
        self.environment = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, stdin: str | None = None) -> Ran:
        self._capsys.readouterr()
        if stdin is not None:
            self.environment.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run(list(arguments))
        out, err = self._capsys.readouterr()
        return Ran(code, out, err)

    def write(self, name: str, content: object) -> str:
        """Write a file: a list of lines as JSON Lines, text as it is, anything else as JSON."""
        path = self.folder / name
        if name.endswith(".jsonl") and isinstance(content, list):
            content = "".join(json.dumps(line) + "\n" for line in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name in (
        *(
            "DATABASE_URL",
            "DATABASE_ADMIN_URL",
            "DATABASE_OPERATOR_URL",
            "OPENAI_API_KEY",
            "LLMSPELL_LOG",
            "LLMSPELL_CONFIG",
            "LLMSPELL_TENANT_ID",
            "LLMSPELL_MASTER_KEY",
            "LLMSPELL_MASTER_KEY_FILE",
        ),
        *("NO_COLOR", "FORCE_COLOR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMSPELL_EMBEDDING__PROVIDER", "hashing")
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("LLMSPELL_STORAGE__URL", made.url)
    return made


@pytest.fixture
def empty(shell: Shell) -> Shell:
    """A store that is there and holds nothing."""
    assert shell("database", "migrate").code == 0
    return shell
