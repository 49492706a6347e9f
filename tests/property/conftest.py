"""Stores that stay open for all examples of a property; each example takes a tenant of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.backends import COMPARED, open_for_test

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Backend


@pytest.fixture
def clock() -> ManualClock:
    """The clock that all stores go by."""
    return ManualClock()


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    """Where the examples of a property run: hypothesis calls plain functions."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def stores(
    request: pytest.FixtureRequest, loop: asyncio.Runner, clock: ManualClock, tmp_path: Path
) -> Iterator[dict[str, Backend]]:
    """Every store, by name."""
    opened = {name: loop.run(open_for_test(name, request, clock=clock, folder=tmp_path)) for name in COMPARED}
    yield opened
    for backend in opened.values():
        loop.run(backend.close())
