"""The contract of searching `memories`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.memories_search import MemoriesSearchContract


class TestMemoriesSearch(MemoriesSearchContract):
    pass
