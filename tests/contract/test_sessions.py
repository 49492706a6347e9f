"""The contract of `sessions`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.sessions import SessionsContract


class TestSessions(SessionsContract):
    pass
