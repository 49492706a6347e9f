"""The state of each workflow in memory. Data is kept as its canonical JSON, so nobody outside holds what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from llmspell.clock import Clock, parse_instant
from llmspell.codec import decode_json, encode_json, require_limit
from llmspell.errors import AlreadyExists, NotFound, VersionConflict
from llmspell.storage.contracts import workflow_state_checks as checks
from llmspell.storage.contracts.checks import require_data, require_expected
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.workflow_state import (
    ENDED,
    STATUSES,
    TRANSITIONS,
    WorkflowState,
    WorkflowStatus,
    WorkflowSummary,
)
from llmspell.storage.inmemory.store import Row, State, Unit


class StoredWorkflow(WorkflowSummary, frozen=True, kw_only=True):
    """A workflow with its data as canonical JSON."""

    encoded: str


class InMemoryWorkflowStates:
    """`WorkflowStates` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._cursors = cursors

    async def create(
        self, workflow_id: str, data: Mapping[str, Any], *, name: str | None = None, current_step: int = 0
    ) -> WorkflowState:
        new = self._new(workflow_id, require_data(data)[1], name, current_step)

        def work(state: State) -> StoredWorkflow:
            if workflow_id in state.workflows:
                raise AlreadyExists("There is a workflow of that id already.", workflow_id=workflow_id)
            state.workflows.put(workflow_id, new)
            return new

        return _with_data(await self._unit.write(work))

    async def save(
        self,
        workflow_id: str,
        data: Mapping[str, Any],
        *,
        name: str | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        new = self._new(workflow_id, require_data(data)[1], name, 0 if current_step is None else current_step)
        expected = require_expected(expected_version)

        def work(state: State) -> StoredWorkflow:
            old = state.workflows.get(workflow_id)
            if old is None and expected is not None:
                raise NotFound("There is no such workflow.", workflow_id=workflow_id)
            if old is not None and expected not in (None, old.version):
                raise VersionConflict(workflow_id=workflow_id, expected=expected, current=old.version)
            kept = new
            if old is not None:
                kept = replace(
                    old,
                    encoded=new.encoded,
                    name=old.name if name is None else name,
                    current_step=old.current_step if current_step is None else current_step,
                    updated_at=new.updated_at,
                    version=old.version + 1,
                )
            state.workflows.put(workflow_id, kept)
            return kept

        return _with_data(await self._unit.write(work))

    async def get(self, workflow_id: str) -> WorkflowState | None:
        checks.require_workflow_id(workflow_id)
        stored = await self._unit.read(lambda state: state.workflows.get(workflow_id))
        return None if stored is None else _with_data(stored)

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
        changes: dict[str, Any] = {} if data is None else {"encoded": require_data(data)[1]}
        changes |= {} if current_step is None else {"current_step": checks.require_step(current_step)}
        now = self._clock.now()

        def change(old: StoredWorkflow | None) -> StoredWorkflow:
            found = None if old is None else (old.status, old.version)
            if old is None or expected not in (None, old.version) or status not in TRANSITIONS[old.status]:
                raise checks.refusal(workflow_id, found, to=status, expected=expected)
            started = (old.started_at or now) if status == "running" else old.started_at
            ended = None if status == "running" else now
            return replace(old, **changes, status=status, started_at=started, completed_at=ended)

        return await self._changed(workflow_id, change, now)

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
        changes: dict[str, Any] = {} if data is None else {"encoded": require_data(data)[1]}

        def change(old: StoredWorkflow | None) -> StoredWorkflow:
            found = None if old is None else (old.status, old.version, old.current_step)
            behind = old is not None and old.status == "running" and old.current_step <= step
            if old is None or expected not in (None, old.version) or not behind:
                raise checks.not_advanced(workflow_id, found, step=step, expected=expected)
            return replace(old, **changes, current_step=step)

        return await self._changed(workflow_id, change, self._clock.now())

    async def _changed(
        self, workflow_id: str, change: Callable[[StoredWorkflow | None], StoredWorkflow], now: datetime
    ) -> WorkflowState:
        def work(state: State) -> StoredWorkflow:
            new = change(state.workflows.get(workflow_id))
            new = replace(new, updated_at=now, version=new.version + 1)
            state.workflows.put(workflow_id, new)
            return new

        return _with_data(await self._unit.write(work))

    async def list(
        self, *, status: WorkflowStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[WorkflowSummary]:
        wanted = None if status is None else checks.require_status(status)
        require_limit(limit)
        query = ["workflow_state.list", wanted]
        after = await self._cursors.read(cursor, query=query)
        end = (parse_instant(after["at"], field="cursor"), after["id"]) if after else None
        everything = await self._unit.read(lambda state: state.workflows.rows())
        found = [
            _summary(stored)
            for stored in sorted(everything, key=_order, reverse=True)
            if wanted in (None, stored.status) and (end is None or _order(stored) < end)
        ]
        return await self._cursors.page(found[: limit + 1], limit=limit, query=query, position=_position)

    async def counts(self) -> dict[str, int]:
        found = [stored.status for stored in await self._unit.read(lambda state: state.workflows.rows())]
        return {status: found.count(status) for status in STATUSES}

    async def delete(self, workflow_id: str, *, expected_version: int | None = None) -> bool:
        checks.require_workflow_id(workflow_id)
        expected = require_expected(expected_version)

        def work(state: State) -> bool:
            old = state.workflows.get(workflow_id)
            if old is None:
                return False
            if expected not in (None, old.version):
                raise VersionConflict(workflow_id=workflow_id, expected=expected, current=old.version)
            state.workflows.remove(workflow_id)
            return True

        return await self._unit.write(work)

    async def prune(self, *, before: datetime, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit)

        def work(state: State) -> int:
            old = [one for one in state.workflows.rows() if one.status in ENDED and one.updated_at < instant]
            old.sort(key=lambda one: (one.updated_at, one.workflow_id))
            for stored in old[:limit]:
                state.workflows.remove(stored.workflow_id)
            return len(old[:limit])

        return await self._unit.write(work)

    def _new(self, workflow_id: str, encoded: str, name: str | None, current_step: int) -> StoredWorkflow:
        now = self._clock.now()
        return StoredWorkflow(
            workflow_id=checks.require_workflow_id(workflow_id),
            name=checks.optional_name(name),
            encoded=encoded,
            current_step=checks.require_step(current_step),
            status="pending",
            version=1,
            created_at=now,
            updated_at=now,
            started_at=None,
            completed_at=None,
        )


def _summary(stored: StoredWorkflow) -> WorkflowSummary:
    return WorkflowSummary(**{name: getattr(stored, name) for name in WorkflowSummary.__struct_fields__})


def _with_data(stored: StoredWorkflow) -> WorkflowState:
    fields = {name: getattr(stored, name) for name in WorkflowSummary.__struct_fields__}
    return WorkflowState(**fields, data=decode_json(stored.encoded))


def _order(stored: WorkflowSummary) -> tuple[datetime, str]:
    return stored.created_at, stored.workflow_id


def _position(summary: WorkflowSummary) -> dict[str, str]:
    return {"at": summary.created_at.isoformat(), "id": summary.workflow_id}


COLUMNS = {
    "workflow_id": "workflow_id",
    "workflow_name": "name",
    "current_step": "current_step",
    "status": "status",
    "version": "version",
    "created_at": "created_at",
    "last_updated": "updated_at",
    "started_at": "started_at",
    "completed_at": "completed_at",
}
"""Columns of `workflow_states` with the fields of their records."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `workflow_states`."""
    for stored in state.workflows.rows():
        columns = {column: getattr(stored, field) for column, field in COLUMNS.items()}
        yield columns | {"state_data": decode_json(stored.encoded)}


def load(state: State, row: Row) -> None:
    """Keep a row of `workflow_states`."""
    fields = {field: row[column] for column, field in COLUMNS.items()}
    stored = StoredWorkflow(encoded=encode_json(row["state_data"]), **fields)
    state.workflows.put(stored.workflow_id, stored)
