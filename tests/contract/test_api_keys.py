"""The contract of `api_keys`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.api_keys import ApiKeysContract


class TestApiKeys(ApiKeysContract):
    pass
