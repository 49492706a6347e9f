"""Loads the fixture modules of the suite. Add yours to `pytest_plugins`."""

from __future__ import annotations

import sys
from pathlib import Path

# `pytest` alone, unlike `python -m pytest`, does not put the repository on the path.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

pytest_plugins = [
    "llmspell.testing.plugin",
    "tests.fixtures.postgres",
    "tests.fixtures.pgbouncer",
]
