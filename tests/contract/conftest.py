"""The backends that the contract tests run on: one fixture, parametrised."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmspell.clock import ManualClock
from llmspell.ids import IdSource
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.inmemory.backend import InMemoryBackend

# Memory alone until the stores of the other two can be opened; `LLMSPELL_TEST_BACKENDS=memory,sqlite` narrows a run.
AVAILABLE = ["memory", "sqlite", "postgres"] if find_spec("llmspell.storage.open") else ["memory"]
BACKENDS = [name for name in AVAILABLE if name in os.environ.get("LLMSPELL_TEST_BACKENDS", ",".join(AVAILABLE))]


@pytest.fixture
def clock() -> ManualClock:
    """The clock that the backend goes by."""
    return ManualClock()


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Backend]:
    """An opened and migrated store."""
    ids = IdSource(clock)
    if request.param == "memory":
        opened: Backend = InMemoryBackend(clock=clock, ids=ids)
    else:
        opened = await _opened(request, clock, ids, tmp_path)
    try:
        yield opened
    finally:
        await opened.close()


async def _opened(request: pytest.FixtureRequest, clock: ManualClock, ids: IdSource, folder: Path) -> Backend:
    from llmspell.settings import Settings
    from llmspell.storage.open import open_backend

    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'store.db'}"
    else:
        url = request.getfixturevalue("postgres_shared_database").app_url
    opened = await open_backend(url, settings=Settings(), clock=clock, ids=ids)
    if request.param == "sqlite":
        await opened.migrate()
    return opened
