"""The contract of `event_log`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.event_log import EventLogContract


class TestEventLog(EventLogContract):
    pass
