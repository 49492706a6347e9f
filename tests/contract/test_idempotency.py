"""The contract of `idempotency`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.idempotency import IdempotencyContract


class TestIdempotency(IdempotencyContract):
    pass
