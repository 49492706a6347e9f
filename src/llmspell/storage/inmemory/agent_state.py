"""The state of each agent in memory. Data is kept as its canonical JSON, so nobody outside holds what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock, parse_instant
from llmspell.codec import decode_json, encode_json, require_limit
from llmspell.ids import IdSource
from llmspell.storage.contracts import agent_state_checks as checks
from llmspell.storage.contracts.agent_state import (
    DEFAULT_AGENT_TYPE,
    VERIFY_MAX,
    AgentState,
    AgentStateSummary,
    StateCheck,
)
from llmspell.storage.contracts.checks import require_data, require_expected
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.store import Row, State, Unit


class StoredAgentState(AgentStateSummary, frozen=True, kw_only=True):
    """A state with its data as canonical JSON."""

    encoded: str


class InMemoryAgentStates:
    """`AgentStates` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

    async def save(
        self,
        agent_id: str,
        data: Mapping[str, Any],
        *,
        agent_type: str | None = None,
        schema_version: int | None = None,
        expected_version: int | None = None,
    ) -> AgentState:
        checks.require_agent_id(agent_id)
        kept, encoded = require_data(data)
        expected = require_expected(expected_version, minimum=0)
        kind, schema = checks.optional_agent_type(agent_type), checks.optional_schema_version(schema_version)
        checksum, now = checks.checksum_of(encoded), self._clock.now()

        def work(state: State) -> StoredAgentState:
            old = state.agents.get(agent_id)
            current = None if old is None else old.version
            if expected is not None and (current or 0) != expected:
                raise checks.not_expected(agent_id, expected=expected, current=current)
            if old is None:
                new = StoredAgentState(
                    id=self._ids.new(),
                    agent_id=agent_id,
                    agent_type=kind or DEFAULT_AGENT_TYPE,
                    schema_version=schema or 1,
                    version=1,
                    data_version=1,
                    checksum=checksum,
                    created_at=now,
                    updated_at=now,
                    encoded=encoded,
                )
            else:
                new = replace(
                    old,
                    agent_type=kind or old.agent_type,
                    schema_version=schema or old.schema_version,
                    version=old.version + 1,
                    data_version=old.data_version + ((old.checksum, old.encoded) != (checksum, encoded)),
                    checksum=checksum,
                    updated_at=now,
                    encoded=encoded,
                )
            state.agents.put(agent_id, new)
            return new

        return _with_data(await self._unit.write(work), kept)

    async def get(self, agent_id: str) -> AgentState | None:
        checks.require_agent_id(agent_id)
        stored = await self._unit.read(lambda state: state.agents.get(agent_id))
        if stored is None:
            return None
        data = _verified(stored)
        if data is None:
            raise checks.damaged(agent_id)
        return _with_data(stored, data)

    async def list(
        self, *, agent_type: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AgentStateSummary]:
        kind = checks.optional_agent_type(agent_type)
        require_limit(limit)
        query = ["agent_state.list", kind]
        after = await self._cursors.read(cursor, query=query)
        end = (parse_instant(after["at"], field="cursor"), UUID(after["id"])) if after else None
        everything = await self._unit.read(lambda state: state.agents.rows())
        found = [
            _summary(stored)
            for stored in sorted(everything, key=_order, reverse=True)
            if kind in (None, stored.agent_type) and (end is None or _order(stored) < end)
        ]
        return await self._cursors.page(found[: limit + 1], limit=limit, query=query, position=_position)

    async def delete(self, agent_id: str, *, expected_version: int | None = None) -> bool:
        checks.require_agent_id(agent_id)
        expected = require_expected(expected_version)

        def work(state: State) -> bool:
            old = state.agents.get(agent_id)
            if old is None:
                return False
            if expected not in (None, old.version):
                raise checks.not_expected(agent_id, expected=expected or 0, current=old.version)
            state.agents.remove(agent_id)
            return True

        return await self._unit.write(work)

    async def verify(self, *, cursor: str | None = None, limit: int = VERIFY_MAX) -> StateCheck:
        require_limit(limit, maximum=VERIFY_MAX)
        query = ["agent_state.verify"]
        after = await self._cursors.read(cursor, query=query) or {"agent_id": ""}
        everything = await self._unit.read(lambda state: state.agents.items())
        found = [stored for id, stored in sorted(everything) if id > after["agent_id"]]
        page = await self._cursors.page(
            found[: limit + 1], limit=limit, query=query, position=lambda stored: {"agent_id": stored.agent_id}
        )
        damaged = [stored.agent_id for stored in page.items if _verified(stored) is None]
        return StateCheck(checked=len(page.items), damaged=damaged, next_cursor=page.next_cursor)


def _verified(stored: StoredAgentState) -> dict[str, Any] | None:
    data = decode_json(stored.encoded)
    return data if checks.is_intact(data, stored.checksum) else None


def _summary(stored: StoredAgentState) -> AgentStateSummary:
    return AgentStateSummary(**{name: getattr(stored, name) for name in AgentStateSummary.__struct_fields__})


def _with_data(stored: StoredAgentState, data: dict[str, Any]) -> AgentState:
    return AgentState(**{name: getattr(stored, name) for name in AgentStateSummary.__struct_fields__}, data=data)


def _order(stored: AgentStateSummary) -> tuple[datetime, UUID]:
    return stored.created_at, stored.id


def _position(summary: AgentStateSummary) -> dict[str, str]:
    return {"at": summary.created_at.isoformat(), "id": str(summary.id)}


COLUMNS = (
    "agent_id",
    "agent_type",
    "schema_version",
    "version",
    "data_version",
    "checksum",
    "created_at",
    "updated_at",
)


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `agent_states`."""
    for stored in state.agents.rows():
        columns = {name: getattr(stored, name) for name in COLUMNS}
        yield columns | {"state_id": stored.id, "state_data": decode_json(stored.encoded)}


def load(state: State, row: Row) -> None:
    """Keep a row of `agent_states`."""
    columns = {name: row[name] for name in COLUMNS}
    stored = StoredAgentState(id=row["state_id"], encoded=encode_json(row["state_data"]), **columns)
    state.agents.put(stored.agent_id, stored)
