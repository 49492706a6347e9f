"""The contract of `graph`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.graph import GraphContract


class TestGraph(GraphContract):
    pass
