"""The state of each agent on a database: written by one statement, verified on every read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmspell.clock import parse_instant
from llmspell.codec import require_limit
from llmspell.errors import CorruptStore
from llmspell.ids import HIGHEST_ID
from llmspell.storage.contracts import agent_state_checks as checks
from llmspell.storage.contracts.agent_state import VERIFY_MAX, AgentState, AgentStateSummary, StateCheck
from llmspell.storage.contracts.checks import require_data, require_expected
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.database import Executor, Row, Unit
from llmspell.storage.relational.runtime import Runtime


class RelationalAgentStates:
    """`AgentStates` by the queries of `agent_state.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.agent_state
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

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
        checksum = checks.checksum_of(encoded)
        values: dict[str, Any] = {
            "agent_id": agent_id,
            "agent_type": checks.optional_agent_type(agent_type),
            "data": self._dialect.json(kept),
            "schema_version": checks.optional_schema_version(schema_version),
            "checksum": checksum,
            "now": self._dialect.instant(self._runtime.clock.now()),
        }
        if expected:
            row = await self._unit.row(self._queries.replace, **values, expected_version=expected)
        else:
            new = {**values, "state_id": self._dialect.id(self._runtime.ids.new())}
            row = await self._unit.row(self._queries.save if expected is None else self._queries.create, **new)
        if row is None:
            current = await self._unit.value(self._queries.version, agent_id=agent_id)
            raise checks.not_expected(agent_id, expected=expected or 0, current=current)
        id, kind, schema, version, data_version, created_at, updated_at = row
        return AgentState(
            id=self._dialect.to_id(id),
            agent_id=agent_id,
            agent_type=kind,
            data=kept,
            schema_version=schema,
            version=version,
            data_version=data_version,
            checksum=checksum,
            created_at=self._dialect.to_instant(created_at),
            updated_at=self._dialect.to_instant(updated_at),
        )

    async def get(self, agent_id: str) -> AgentState | None:
        row = await self._unit.row(self._queries.get, agent_id=checks.require_agent_id(agent_id))
        if row is None:
            return None
        summary, raw = self._summary(row[:-1]), row[-1]
        data = self._verified(raw, summary.checksum)
        if data is None or summary.agent_id != agent_id:  # a damaged index may lead to another agent's row
            raise checks.damaged(agent_id)
        return AgentState(**{name: getattr(summary, name) for name in summary.__struct_fields__}, data=data)

    async def list(
        self, *, agent_type: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AgentStateSummary]:
        kind = checks.optional_agent_type(agent_type)
        require_limit(limit)
        query = ["agent_state.list", kind]
        after = await self._cursors.read(cursor, query=query)
        position = {
            "instant": self._dialect.open_end(parse_instant(after["at"], field="cursor") if after else None),
            "id": self._dialect.id(UUID(after["id"]) if after else HIGHEST_ID),
            "limit": limit + 1,
        }
        if kind is None:
            rows = await self._unit.rows(self._queries.page, **position)
        else:
            rows = await self._unit.rows(self._queries.page_of_type, agent_type=kind, **position)
        found = [self._summary(row) for row in rows]
        return await self._cursors.page(found, limit=limit, query=query, position=_position)

    async def delete(self, agent_id: str, *, expected_version: int | None = None) -> bool:
        checks.require_agent_id(agent_id)
        expected = require_expected(expected_version)
        if await self._unit.execute(self._queries.delete, agent_id=agent_id, expected_version=expected):
            return True
        current = None if expected is None else await self._unit.value(self._queries.version, agent_id=agent_id)
        if expected is not None and current is not None:
            raise checks.not_expected(agent_id, expected=expected, current=current)
        return False

    async def verify(self, *, cursor: str | None = None, limit: int = VERIFY_MAX) -> StateCheck:
        require_limit(limit, maximum=VERIFY_MAX)
        query = ["agent_state.verify"]
        after = await self._cursors.read(cursor, query=query) or {"agent_id": ""}

        async def work(executor: Executor) -> list[tuple[str, bool]]:
            rows = await executor.rows(self._queries.verify, after=after["agent_id"], limit=limit + 1)
            return [(id, self._verified(raw, checksum) is not None) for id, raw, checksum in rows]

        found = await self._unit.read(work, heavy=True)
        page = await self._cursors.page(found, limit=limit, query=query, position=lambda one: {"agent_id": one[0]})
        damaged = [id for id, intact in page.items if not intact]
        return StateCheck(checked=len(page.items), damaged=damaged, next_cursor=page.next_cursor)

    def _verified(self, raw: Any, checksum: str) -> dict[str, Any] | None:
        """Return stored data, or None when it is not what the checksum was made of."""
        try:
            data = self._dialect.to_json(raw)
        except (ValueError, RecursionError, CorruptStore):
            return None
        return data if checks.is_intact(data, checksum) else None

    def _summary(self, row: Row) -> AgentStateSummary:
        id, agent_id, agent_type, schema_version, version, data_version, checksum, created_at, updated_at = row
        return AgentStateSummary(
            id=self._dialect.to_id(id),
            agent_id=agent_id,
            agent_type=agent_type,
            schema_version=schema_version,
            version=version,
            data_version=data_version,
            checksum=checksum,
            created_at=self._dialect.to_instant(created_at),
            updated_at=self._dialect.to_instant(updated_at),
        )


def _position(summary: AgentStateSummary) -> dict[str, str]:
    return {"at": summary.created_at.isoformat(), "id": str(summary.id)}
