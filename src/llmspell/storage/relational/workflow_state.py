"""The state of each workflow on a database: every change is one conditional statement.

When a statement changed nothing, a second one finds out why; by then the workflow may have moved on, so the error tells what is
true now.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llmspell.clock import parse_instant
from llmspell.codec import require_limit
from llmspell.errors import AlreadyExists, NotFound, VersionConflict
from llmspell.storage.contracts import workflow_state_checks as checks
from llmspell.storage.contracts.checks import require_data, require_expected
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.workflow_state import (
    STATUSES,
    WORKFLOW_ID_MAX_BYTES,
    WorkflowState,
    WorkflowStatus,
    WorkflowSummary,
)
from llmspell.storage.relational.database import Row, Unit
from llmspell.storage.relational.runtime import Runtime

BEYOND_IDS = "\U0010ffff" * (WORKFLOW_ID_MAX_BYTES // 4)
"""No id sorts behind it."""


class RelationalWorkflowStates:
    """`WorkflowStates` by the queries of `workflow_state.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.workflow_state
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

    async def create(
        self, workflow_id: str, data: Mapping[str, Any], *, name: str | None = None, current_step: int = 0
    ) -> WorkflowState:
        checks.require_workflow_id(workflow_id)
        kept, _ = require_data(data)
        row = await self._unit.row(
            self._queries.create,
            workflow_id=workflow_id,
            name=checks.optional_name(name),
            data=self._dialect.json(kept),
            current_step=checks.require_step(current_step),
            now=self._now(),
        )
        if row is None:
            raise AlreadyExists("There is a workflow of that id already.", workflow_id=workflow_id)
        return self._state(row, kept)

    async def save(
        self,
        workflow_id: str,
        data: Mapping[str, Any],
        *,
        name: str | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        checks.require_workflow_id(workflow_id)
        kept, _ = require_data(data)
        expected = require_expected(expected_version)
        values: dict[str, Any] = {
            "workflow_id": workflow_id,
            "name": checks.optional_name(name),
            "data": self._dialect.json(kept),
            "current_step": None if current_step is None else checks.require_step(current_step),
            "now": self._now(),
        }
        if expected is None:
            row = await self._unit.row(self._queries.save, **values)
        else:
            row = await self._unit.row(self._queries.replace, **values, expected_version=expected)
        if row is None:
            found = await self._unit.row(self._queries.position, workflow_id=workflow_id)
            if found is None:
                raise NotFound("There is no such workflow.", workflow_id=workflow_id)
            raise VersionConflict(workflow_id=workflow_id, expected=expected, current=found[1])
        return self._state(row, kept)

    async def get(self, workflow_id: str) -> WorkflowState | None:
        row = await self._unit.row(self._queries.get, workflow_id=checks.require_workflow_id(workflow_id))
        return None if row is None else self._with_data(row)

    async def transition(
        self,
        workflow_id: str,
        status: WorkflowStatus,
        *,
        data: Mapping[str, Any] | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        checks.require_workflow_id(workflow_id)
        checks.require_status(status)
        expected = require_expected(expected_version)
        row = await self._unit.row(
            self._queries.transition,
            workflow_id=workflow_id,
            status=status,
            sources=self._dialect.array(checks.sources_of(status)),
            data=self._optional_data(data),
            current_step=None if current_step is None else checks.require_step(current_step),
            expected_version=expected,
            now=self._now(),
        )
        if row is None:
            found = await self._unit.row(self._queries.position, workflow_id=workflow_id)
            stands = None if found is None else (found[0], found[1])
            raise checks.refusal(workflow_id, stands, to=status, expected=expected)
        return self._with_data(row)

    async def advance(
        self,
        workflow_id: str,
        step: int,
        *,
        data: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        checks.require_workflow_id(workflow_id)
        checks.require_step(step, field="step")
        expected = require_expected(expected_version)
        row = await self._unit.row(
            self._queries.advance,
            workflow_id=workflow_id,
            step=step,
            data=self._optional_data(data),
            expected_version=expected,
            now=self._now(),
        )
        if row is None:
            found = await self._unit.row(self._queries.position, workflow_id=workflow_id)
            stands = None if found is None else (found[0], found[1], found[2])
            raise checks.not_advanced(workflow_id, stands, step=step, expected=expected)
        return self._with_data(row)

    async def list(
        self, *, status: WorkflowStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[WorkflowSummary]:
        wanted = None if status is None else checks.require_status(status)
        require_limit(limit)
        query = ["workflow_state.list", wanted]
        after = await self._cursors.read(cursor, query=query)
        position = {
            "instant": self._dialect.open_end(parse_instant(after["at"], field="cursor") if after else None),
            "id": after["id"] if after else BEYOND_IDS,
            "limit": limit + 1,
        }
        if wanted is None:
            rows = await self._unit.rows(self._queries.page, **position)
        else:
            rows = await self._unit.rows(self._queries.page_of_status, status=wanted, **position)
        found = [WorkflowSummary(**self._fields(row)) for row in rows]
        return await self._cursors.page(found, limit=limit, query=query, position=_position)

    async def counts(self) -> dict[str, int]:
        found = {status: int(count) for status, count in await self._unit.rows(self._queries.counts)}
        return {status: found.get(status, 0) for status in STATUSES}

    async def delete(self, workflow_id: str, *, expected_version: int | None = None) -> bool:
        checks.require_workflow_id(workflow_id)
        expected = require_expected(expected_version)
        if await self._unit.execute(self._queries.delete, workflow_id=workflow_id, expected_version=expected):
            return True
        found = None if expected is None else await self._unit.row(self._queries.position, workflow_id=workflow_id)
        if found is not None:
            raise VersionConflict(workflow_id=workflow_id, expected=expected, current=found[1])
        return False

    async def prune(self, *, before: datetime, limit: int = 1_000) -> int:
        instant = self._dialect.instant(parse_instant(before, field="before"))
        return await self._unit.execute(self._queries.prune, before=instant, limit=require_limit(limit))

    def _now(self) -> Any:
        return self._dialect.instant(self._runtime.clock.now())

    def _optional_data(self, data: Mapping[str, Any] | None) -> Any:
        """Data as a parameter; None is none, and not the JSON value null."""
        return None if data is None else self._dialect.json(require_data(data)[0])

    def _with_data(self, row: Row) -> WorkflowState:
        return self._state(row[:-1], self._dialect.to_json(row[-1]))

    def _state(self, row: Row, data: dict[str, Any]) -> WorkflowState:
        return WorkflowState(**self._fields(row), data=data)

    def _fields(self, row: Row) -> dict[str, Any]:
        workflow_id, name, current_step, status, version, created_at, updated_at, started_at, completed_at = row
        to_instant = self._dialect.to_instant
        return {
            "workflow_id": workflow_id,
            "name": name,
            "current_step": current_step,
            "status": status,
            "version": version,
            "created_at": to_instant(created_at),
            "updated_at": to_instant(updated_at),
            "started_at": None if started_at is None else to_instant(started_at),
            "completed_at": None if completed_at is None else to_instant(completed_at),
        }


def _position(summary: WorkflowSummary) -> dict[str, str]:
    return {"at": summary.created_at.isoformat(), "id": summary.workflow_id}
