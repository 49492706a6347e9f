"""`MemoriesUpkeepContract` on every backend."""

from llmspell.testing.contract.memories_upkeep import MemoriesUpkeepContract


class TestMemoriesUpkeep(MemoriesUpkeepContract):
    pass
