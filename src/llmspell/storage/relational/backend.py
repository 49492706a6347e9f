"""The storages of a database, put together once for both dialects."""

from __future__ import annotations

from llmspell.storage.contracts.backend import Storages
from llmspell.storage.relational.database import Unit
from llmspell.storage.relational.event_log import RelationalEventLog
from llmspell.storage.relational.graph import RelationalGraph
from llmspell.storage.relational.hook_history import RelationalHookHistory
from llmspell.storage.relational.idempotency import RelationalIdempotency
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
        event_log=RelationalEventLog(unit, runtime),
        hook_history=RelationalHookHistory(unit, runtime),
        idempotency=RelationalIdempotency(unit, runtime),
    )
