"""The contract of `kv`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.kv import KvContract


class TestKv(KvContract):
    pass
