"""What opens a store: a question never makes one."""

from __future__ import annotations

import pytest
from tests.cli.conftest import Shell

ID = "01900000-0000-7000-8000-000000000001"
ASKING = [
    ["search", "tea"],
    ["context", "Where does Ada live?"],
    ["embed", "--pending"],
    ["graph", "show", "Ada"],
    ["graph", "paths", "Ada", "Nora"],
    ["graph", "history", ID],
    ["graph", "retract", "Ada", "lives_in"],
    ["graph", "correct", ID, "--object", "Basel"],
    ["tenants", "show", "acme"],
    ["tenants", "list"],
    ["tenants", "suspend", "acme"],
    ["tenants", "resume", "acme"],
    ["tenants", "delete", "acme", "--yes"],
    ["tenants", "quota", "acme", "--max-vectors", "1"],
    ["audit", "list"],
    ["audit", "verify"],
    ["audit", "head", "--as-operator"],
    ["database", "health"],
    ["database", "ann", "promote", "--space", "m@384", "--dimension", "384"],
    ["database", "ann", "promote", "--space", "m@384", "--dimension", "384", "--dry-run"],
]
KEEPING = [
    ["add", "Tea."],
    ["graph", "assert", "Ada", "lives_in", "Basel"],
    ["graph", "declare", "lives_in", "one"],
    ["tenants", "create", "acme"],
    ["database", "migrate"],
]


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_a_command_that_keeps_nothing_makes_no_file(shell: Shell, arguments: list[str]) -> None:
    done = shell(*arguments)

    assert (done.code, done.out) == (1, "")
    assert "There is no store yet" in done.err
    assert "--store" in done.err
    assert str(shell.file) in done.err
    assert "hint: Keep something first" in done.err
    assert not shell.file.exists()


@pytest.mark.parametrize("arguments", KEEPING, ids=" ".join)
def test_a_command_that_keeps_something_makes_the_file(shell: Shell, arguments: list[str]) -> None:
    assert shell(*arguments).code == 0
    assert shell.file.exists()


def test_a_folder_in_the_place_of_the_file_is_said_by_whoever_opens_it(shell: Shell) -> None:
    shell.file.mkdir()

    assert "There is no store yet" not in shell("search", "tea").err
