"""What `event_log` refuses, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.event_log_refusals import EventLogRefusalsContract


class TestEventLogRefusals(EventLogRefusalsContract):
    pass
