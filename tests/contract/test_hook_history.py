"""The contract of `hook_history`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.hook_history import HookHistoryContract


class TestHookHistory(HookHistoryContract):
    pass
