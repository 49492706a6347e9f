"""The storages of a database, put together once for both dialects."""

from __future__ import annotations

from llmspell.storage.contracts.backend import Storages
from llmspell.storage.relational.database import Unit
from llmspell.storage.relational.graph import RelationalGraph
from llmspell.storage.relational.jobs import RelationalJobs
from llmspell.storage.relational.kv import RelationalKV
from llmspell.storage.relational.memories import RelationalMemories
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.vectors import RelationalVectors


def storages(unit: Unit, runtime: Runtime) -> Storages:
    """Bind every storage to a unit of work."""
    return Storages(
        kv=RelationalKV(unit, runtime),
        vectors=RelationalVectors(unit, runtime),
        memories=RelationalMemories(unit, runtime),
        graph=RelationalGraph(unit, runtime),
        jobs=RelationalJobs(unit, runtime),
    )
