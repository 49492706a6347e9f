"""The contract of hostile records, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.hostile_records import HostileRecordsContract


class TestHostileRecords(HostileRecordsContract):
    pass
