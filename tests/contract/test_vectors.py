"""The contract of `vectors`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.vectors import VectorsContract


class TestVectors(VectorsContract):
    pass
