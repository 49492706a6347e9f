"""A place for embedded servers, and one that is stopped at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.services import require_service

from llmspell.errors import MissingExtra
from llmspell.ops import embedded_postgres, postgres_installation
from llmspell.ops.embedded_postgres import EmbeddedCluster
from llmspell.ops.postgres_installation import server_account


@pytest.fixture(scope="module")
def embedded_package() -> None:
    """Skip where the package is missing, fail in CI."""
    try:
        postgres_installation.program_folder(server_account())
    except MissingExtra as exc:
        require_service("the embedded PostgreSQL", str(exc))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server account can enter; pytest's own is closed to `nobody`."""
    made = embedded_postgres._temporary_folder(in_memory=True)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def cluster(folder: Path) -> Iterator[EmbeddedCluster]:
    """A cluster that was not started yet."""
    made = EmbeddedCluster(folder / "data", durable=False)
    yield made
    made.stop(immediate=True)
