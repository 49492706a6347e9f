"""The contract of changes to `graph` that meet each other, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.graph_changes import GraphChangesContract


class TestGraphChanges(GraphChangesContract):
    pass
