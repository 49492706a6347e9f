from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
from tests.cli.conftest import Shell

from llmspell.errors import ProviderUnavailable
from llmspell.providers.hashing import HashingEmbedder


@pytest.fixture
def waiting(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Five memories that were kept while the embedder was down."""

    async def fail(*arguments: object) -> NoReturn:
        raise ProviderUnavailable("The endpoint is down.")

    with monkeypatch.context() as down:
        down.setattr(HashingEmbedder, "embed", fail)
        for n in range(5):
            done = shell("add", f"Tea number {n}.")
            assert done.code == 0
            assert "pending" in done.err
    return shell


def digest(file: Path) -> bytes:
    return file.read_bytes()


def test_pending_embeddings_are_computed(waiting: Shell) -> None:
    done = waiting("embed", "--pending", "--json")

    assert (done.code, done.document) == (0, {"pending": 5, "embedded": 5, "left": 0, "dry_run": False})
    assert waiting("embed", "--pending", "--json").document["pending"] == 0
    assert waiting("search", "tea", "--json").document[0]["similarity"] is not None


def test_no_more_than_the_limit_are_computed(waiting: Shell) -> None:
    assert waiting("embed", "--pending", "--limit", "2", "--json").document == {
        "pending": 5, "embedded": 2, "left": 3, "dry_run": False,
    }  # fmt: skip


def test_a_dry_run_counts_and_changes_nothing(waiting: Shell) -> None:
    before = digest(waiting.file)

    done = waiting("embed", "--pending", "--dry-run", "--json")

    assert done.document == {"pending": 5, "embedded": 0, "left": 5, "dry_run": True}
    assert digest(waiting.file) == before


def test_an_embedder_that_is_down_is_exit_code_3(waiting: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object) -> NoReturn:
        raise ProviderUnavailable("The endpoint is down.")

    monkeypatch.setattr(HashingEmbedder, "embed", fail)

    assert waiting("embed", "--pending").code == 3


@pytest.mark.parametrize("arguments", [[], ["--pending", "--limit", "0"], ["--pending", "--limit", "1000001"]])
def test_arguments_that_can_never_succeed_are_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    assert shell("embed", *arguments).code == 2
