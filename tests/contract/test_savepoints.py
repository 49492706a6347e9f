"""The contract of savepoints, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.savepoints import SavepointsContract


class TestSavepoints(SavepointsContract):
    pass
