"""An opened store on a fresh file, and a table-free way to look inside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llmspell.clock import ManualClock
from llmspell.storage.relational.catalog import Query, parse
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

TENANT = TenantId("t1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def backend(path: Path, clock: ManualClock) -> AsyncIterator[SqliteBackend]:
    opened = await open_sqlite(path, clock=clock, busy_timeout_s=20)
    yield opened
    await opened.close()


@pytest.fixture
def query() -> Callable[..., Query]:
    """Make a query for a test, as a catalogue file would hold it."""

    def make(sql: str, kind: str = "rows") -> Query:
        return parse("test", f"-- name: q -> {kind}\n-- For a test.\n{sql};\n")["q"]

    return make
