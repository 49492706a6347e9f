"""The contract of `filters`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.filters import FiltersContract


class TestFilters(FiltersContract):
    pass
