"""The contract of `hostile_values`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.hostile_values import HostileValuesContract


class TestHostileValues(HostileValuesContract):
    pass
