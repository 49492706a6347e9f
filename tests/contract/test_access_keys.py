"""The contract of `access_keys`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.access_keys import AccessKeysContract


class TestAccessKeys(AccessKeysContract):
    pass
