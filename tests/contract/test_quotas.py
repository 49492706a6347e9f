"""The contract of quotas, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.quotas import QuotasContract


class TestQuotas(QuotasContract):
    pass
