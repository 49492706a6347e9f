"""The storages of a database, put together once for both dialects."""

from __future__ import annotations

from llmspell.storage.contracts.backend import Storages
from llmspell.storage.relational.access_keys import RelationalAccessKeys
from llmspell.storage.relational.agent_state import RelationalAgentStates
from llmspell.storage.relational.api_keys import RelationalApiKeys
from llmspell.storage.relational.artifacts import RelationalArtifacts
from llmspell.storage.relational.audit import RelationalAudit
from llmspell.storage.relational.database import Unit
from llmspell.storage.relational.event_log import RelationalEventLog
from llmspell.storage.relational.graph import RelationalGraph
from llmspell.storage.relational.hook_history import RelationalHookHistory
from llmspell.storage.relational.idempotency import RelationalIdempotency
from llmspell.storage.relational.jobs import RelationalJobs
from llmspell.storage.relational.kv import RelationalKV
from llmspell.storage.relational.memories import RelationalMemories
from llmspell.storage.relational.procedures import RelationalProcedures
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.sessions import RelationalSessions
from llmspell.storage.relational.vectors import RelationalVectors
from llmspell.storage.relational.workflow_state import RelationalWorkflowStates


def storages(unit: Unit, runtime: Runtime) -> Storages:
    """Bind every storage to a unit of work."""
    return Storages(
        kv=RelationalKV(unit, runtime),
        vectors=RelationalVectors(unit, runtime),
        memories=RelationalMemories(unit, runtime),
        graph=RelationalGraph(unit, runtime),
        audit=RelationalAudit(unit, runtime),
        api_keys=RelationalApiKeys(unit, runtime),
        access_keys=RelationalAccessKeys(unit, runtime),
        procedures=RelationalProcedures(unit, runtime),
        agent_state=RelationalAgentStates(unit, runtime),
        workflow_state=RelationalWorkflowStates(unit, runtime),
        event_log=RelationalEventLog(unit, runtime),
        hook_history=RelationalHookHistory(unit, runtime),
        idempotency=RelationalIdempotency(unit, runtime),
        sessions=RelationalSessions(unit, runtime),
        artifacts=RelationalArtifacts(unit, runtime),
        jobs=RelationalJobs(unit, runtime),
    )
