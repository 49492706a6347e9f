"""What a tenant has, counted in its committed state."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmspell.storage.contracts.holdings import Holdings, SpaceHoldings
from llmspell.storage.contracts.vectors import FREE_SPACE
from llmspell.storage.inmemory.store import State, Table


def holdings(state: State) -> Holdings:
    """Count records and vectors."""
    tables: dict[str, Table[Any, Any]] = {
        "kv": state.kv,
        "memories": state.memories,
        "entities": state.entities,
        "relationships": state.facts,
        "procedures": state.patterns,
        "agent_state": state.agents,
        "workflow_state": state.workflows,
        "sessions": state.sessions,
        "artifacts": state.artifacts,
        "event_log": state.events,
        "hook_history": state.hook_executions,
        "idempotency": state.idempotency,
        "jobs": state.jobs,
        "audit": state.audit,
        "api_keys": state.api_keys,
        "access_keys": state.access_keys,
    }
    records = {concern: len(table.items()) for concern, table in tables.items()}
    records["memory_versions"] = sum(map(len, state.memory_versions.rows()))
    return Holdings(tenant=state.tenant, records=records, spaces=_spaces(state))


def _spaces(state: State) -> list[SpaceHoldings]:
    counted: Counter[tuple[int, str]] = Counter()
    for vector in state.vectors.rows():
        dimension = len(vector.embedding.values)
        counted[dimension, f"{FREE_SPACE}-{dimension}"] += 1
    for memory in state.memories.rows():
        for space_id, windows in memory.embeddings.items():
            for window in windows:
                counted[len(window.values), space_id] += 1
    return [
        SpaceHoldings(space_id=space_id, dimension=dimension, vectors=count)
        for (dimension, space_id), count in sorted(counted.items())
    ]
