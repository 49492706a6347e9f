"""The reviewed table of capabilities is what the backends declare."""

from __future__ import annotations

import re

from tests.meta.source import ROOT

from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.inmemory import capabilities as memory
from llmspell.storage.postgres import capabilities as postgres
from llmspell.storage.sqlite import capabilities as sqlite

DECLARED = {"memory": memory, "sqlite": sqlite, "postgresql": postgres}
PAGE = ROOT / "docs" / "reference" / "capabilities.md"


def test_the_table_lists_what_each_backend_declares() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)

    listed = {
        backend: {Capability(row[0]) for row in rows if row[column] == "yes"}
        for column, backend in enumerate(DECLARED, start=1)
    }

    assert {row[0] for row in rows} == {capability.value for capability in Capability}
    assert listed == {backend: set(module.CAPABILITIES) for backend, module in DECLARED.items()}


def test_each_backend_describes_itself_by_its_own_name() -> None:
    assert {backend: module.CHARACTERISTICS.backend for backend, module in DECLARED.items()} == {
        backend: backend for backend in DECLARED
    }
