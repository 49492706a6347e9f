"""The contract of `procedures`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.procedures import ProceduresContract


class TestProcedures(ProceduresContract):
    pass
