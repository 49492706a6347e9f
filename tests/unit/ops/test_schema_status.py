from __future__ import annotations

from pathlib import Path

import pytest

import llmspell
from llmspell.errors import NotADatabase
from llmspell.ops.schema_status import SQLITE_PACKAGE, status_of_file
from llmspell.storage.relational.migrations import load

NAMES = tuple(migration.name for migration in load(SQLITE_PACKAGE))


def test_a_missing_file_lacks_everything_and_is_not_made(tmp_path: Path) -> None:
    file = tmp_path / "new.db"

    found = status_of_file(f"sqlite:///{file}")

    assert (found.version, found.applied, found.pending) == (0, (), NAMES)
    assert not file.exists()


def test_an_empty_file_lacks_everything(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()

    assert status_of_file(f"sqlite:///{tmp_path}/empty.db").pending == NAMES


async def test_a_file_that_is_in_use_says_what_the_store_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a%20store.db"
    async with llmspell.connect(url) as spell:
        assert status_of_file(url) == await spell.admin.migration_status()


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("something else " * 1_000)

    with pytest.raises(NotADatabase):
        status_of_file(f"sqlite:///{tmp_path}/other.db")
