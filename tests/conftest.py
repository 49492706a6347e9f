"""Loads the fixture modules of the suite. Add yours to `pytest_plugins`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# `pytest` alone, unlike `python -m pytest`, does not put the repository on the path.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests.fixtures.seeds import REPLAY  # noqa: E402 - found by the path above
from tests.fixtures.soak import SOAK, tell, totals  # noqa: E402

TOTALS = "llmspell_totals"
LONGEST = "test_every_stem.py"

pytest_plugins = [
    "llmspell.testing.plugin",
    "tests.fixtures.postgres",
    "tests.fixtures.pgbouncer",
]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Commands set up logging for their process; in a test that is also the process of the tests after it."""
    logger = logging.getLogger("llmspell")
    level, handlers, propagates = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagates


def pytest_report_header() -> str:
    """Say how to draw again what this run draws."""
    return f"drawn at random from {REPLAY}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that nobody waits for it alone at the end; and in a long run no limits of time."""
    items.sort(key=lambda item: item.path.name != LONGEST)
    if SOAK:
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker of a parallel run has done."""
    tell(**getattr(node, "workeroutput", {}).get(TOTALS, {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this worker of a parallel run has done."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[TOTALS] = dict(totals)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests that repeat have done: operations, questions, kills, and what was lost; and how to replay a failure."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"{REPLAY} draws again what this run drew.")
    if totals:
        terminalreporter.section("what was tried")
        for name, count in sorted(totals.items()):
            terminalreporter.write_line(f"{name.replace('_', ' '):<32}{count:>12,}")
