"""The contract of `audit`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.audit import AuditContract


class TestAudit(AuditContract):
    pass
