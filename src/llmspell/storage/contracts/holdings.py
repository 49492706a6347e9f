"""What a store holds: records by concern, vectors by space, and how much room it takes."""

from __future__ import annotations

from typing import Final

import msgspec

from llmspell.tenant import TenantId

CONCERNS: Final = (
    *("kv", "memories", "memory_versions", "entities", "relationships", "procedures", "agent_state", "workflow_state"),
    *("sessions", "artifacts", "event_log", "hook_history", "idempotency", "jobs", "audit", "api_keys", "access_keys"),
)
"""What is counted, in the order in which it is shown. Vectors are counted by space, beside it."""


class SpaceHoldings(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of one space; a memory has one for each window of its text."""

    space_id: str
    dimension: int
    vectors: int


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant has. `records` counts rows by concern: every version of an entity, a relationship or a memory is one."""

    tenant: TenantId
    records: dict[str, int]
    spaces: list[SpaceHoldings]

    @property
    def vectors(self) -> int:
        """Vectors of all spaces."""
        return sum(space.vectors for space in self.spaces)


class StoreSize(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes by part, such as `file`, `log`, `database`; nothing for a store that keeps nothing on a disk."""

    parts: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())
