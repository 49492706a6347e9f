"""The state of each agent: one JSON object under the agent's id, versioned, with a checksum (AGS-01…03).

The checksum is the SHA-256 of the canonical JSON (`codec.encode_json`), made when a state is saved and verified whenever it is
read. So a state that was changed behind the store's back, by hand or by a failing disk, is reported and never served.

Not here: what an agent remembers (`memories`), what it did (`event_log`), single values under keys (`kv`, `tenant.state`).

Rule 1: `version` grows by one with each save, so of several callers who expect the same version exactly one wins.
`data_version` grows by one with each save that changes the data, and with no other (AGS-03).
Rule 2: what `get` returns is what was saved, to the last bit of each number; or `CorruptStore` is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

AGENT_ID_MAX_BYTES = 255
AGENT_TYPE_MAX_BYTES = 100
DEFAULT_AGENT_TYPE = "agent"
VERSION_MAX = 2_147_483_647
VERIFY_MAX = 100


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an agent. `schema_version` is the caller's: which layout `data` has."""

    id: UUID
    agent_id: str
    agent_type: str
    data: dict[str, Any]
    schema_version: int
    version: int
    """How often it was saved; what `expected_version` is compared with."""
    data_version: int
    """How often its data changed."""
    checksum: str
    created_at: datetime
    updated_at: datetime


class AgentStateSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a list tells of a state: all but its data."""

    id: UUID
    agent_id: str
    agent_type: str
    schema_version: int
    version: int
    """How often it was saved; what `expected_version` is compared with."""
    data_version: int
    """How often its data changed."""
    checksum: str
    created_at: datetime
    updated_at: datetime


class StateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found: how many states it read, and the agents whose state does not match its checksum."""

    checked: int
    damaged: list[str]
    next_cursor: str | None


class AgentStates(Protocol):
    """A tenant's agents. Ids: 1 to 255 bytes. Data: a JSON object of at most 4 MiB."""

    async def save(
        self,
        agent_id: str,
        data: Mapping[str, Any],
        *,
        agent_type: str | None = None,
        schema_version: int | None = None,
        expected_version: int | None = None,
    ) -> AgentState:
        """Store an agent's state, replacing any; `expected_version` 0 means that there must be none yet.

        Type and schema version stay as they are unless given; those of a new state are "agent" and 1.

        Raises:
            VersionConflict: the state has another `version` than expected.
            NotFound: a version above 0 is expected, and there is no state.
        """
        ...

    async def get(self, agent_id: str) -> AgentState | None:
        """Return the state of an agent, verified, or None.

        Raises:
            CorruptStore: it does not match its checksum.
        """
        ...

    async def list(
        self, *, agent_type: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AgentStateSummary]:
        """Return a page of states without their data, the newest agent first."""
        ...

    async def delete(self, agent_id: str, *, expected_version: int | None = None) -> bool:
        """Delete an agent's state, damaged or not, and say whether there was one.

        Raises:
            VersionConflict: it has another `version` than expected.
        """
        ...

    async def verify(self, *, cursor: str | None = None, limit: int = VERIFY_MAX) -> StateCheck:
        """Compare at most `limit` states with their checksums, in the order of agent ids."""
        ...
