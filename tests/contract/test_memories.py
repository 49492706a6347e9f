"""The contract of `memories`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.memories import MemoriesContract


class TestMemories(MemoriesContract):
    pass
