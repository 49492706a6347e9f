from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmspell.cli.commands.models import group
from llmspell.errors import ModelMissing
from llmspell.providers import models

FILES = {"config.json": b"{}", "tokenizer.json": b"tokens", "model.safetensors": b"weights"}


@pytest.fixture
def house_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory, on a machine where no model is installed."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(models, "_in_package", lambda known: None)
    source = tmp_path / "house-model"
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    return source


def test_pull_registers_a_directory_and_list_shows_it(house_model: Path, tmp_path: Path) -> None:
    pulled = CliRunner().invoke(group, ["pull", str(house_model), "--json"])
    listed = CliRunner().invoke(group, ["list", "--json"])

    target = str(tmp_path / "data" / "llmspell" / "models" / "house-model")
    assert json.loads(pulled.stdout) == {"name": "house-model", "path": target, "source": "folder"}
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert (rows["house-model"]["installed"], rows["house-model"]["path"]) == (True, target)
    assert (rows["all-MiniLM-L6-v2"]["installed"], rows["all-MiniLM-L6-v2"]["dimension"]) == (False, 384)


def test_list_says_what_to_type_when_there_is_no_model(house_model: Path) -> None:
    listed = CliRunner().invoke(group, ["list"])

    assert listed.exit_code == 0
    assert "llmspell models pull all-MiniLM-L6-v2" in listed.stderr
    assert "llmspell models pull" not in listed.stdout


def test_an_unknown_model_is_an_error_of_our_tree(house_model: Path) -> None:
    result = CliRunner().invoke(group, ["pull", "no-such-model"])

    assert isinstance(result.exception, ModelMissing)
