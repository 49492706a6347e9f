"""The backends that the contract tests run on: one fixture, parametrised."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fixtures.backends import BACKENDS, open_for_test

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Backend


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Backend]:
    """An opened and migrated store, closed at the end."""
    opened = await open_for_test(request.param, request, clock=clock, folder=tmp_path)
    try:
        yield opened
    finally:
        await opened.close()
