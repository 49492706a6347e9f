"""The contract of `transactions`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.transactions import TransactionsContract


class TestTransactions(TransactionsContract):
    pass
