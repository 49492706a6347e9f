"""The state of each workflow execution, and its life cycle (WFS-01…03).

    pending ──► running ──► completed
       │         │  ▲ └───► failed ──┐
       │         │  └────── retry ───┘
       └─────────┴────────► cancelled

A workflow that failed may run again: it keeps its id, its data and when it first started. What is completed or cancelled stays
so. A status does not follow itself: of two callers who start the same workflow, one is told that it is running already.

Not here: what the steps do (`workflows`), who runs them (`jobs`).

Rule 1: a transition is one conditional statement: of two at once exactly one takes place.
Rule 2: every change raises `version` by one. Instants come from the injected clock.
Rule 3: `started_at` is the first start; `completed_at` is the end, whichever it was, and is empty while a workflow goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

import msgspec

from llmspell.storage.contracts.pages import Page

WorkflowStatus: TypeAlias = Literal["pending", "running", "completed", "failed", "cancelled"]

STATUSES: Final[tuple[WorkflowStatus, ...]] = get_args(WorkflowStatus)
TRANSITIONS: Final[dict[WorkflowStatus, tuple[WorkflowStatus, ...]]] = {
    "pending": ("running", "cancelled"),
    "running": ("completed", "failed", "cancelled"),
    "completed": (),
    "failed": ("running",),
    "cancelled": (),
}
"""From each status, where a workflow may go."""
ENDED: Final[tuple[WorkflowStatus, ...]] = ("completed", "failed", "cancelled")
WORKFLOW_ID_MAX_BYTES = 255
WORKFLOW_NAME_MAX_BYTES = 500
STEP_MAX = 2_147_483_647
VERSION_MAX = 2_147_483_647


class WorkflowState(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a workflow."""

    workflow_id: str
    name: str | None
    data: dict[str, Any]
    current_step: int
    status: WorkflowStatus
    version: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class WorkflowSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a list tells of a workflow: all but its data."""

    workflow_id: str
    name: str | None
    current_step: int
    status: WorkflowStatus
    version: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class WorkflowStates(Protocol):
    """A tenant's workflows. Ids: 1 to 255 bytes. Data: a JSON object of at most 4 MiB."""

    async def create(
        self, workflow_id: str, data: Mapping[str, Any], *, name: str | None = None, current_step: int = 0
    ) -> WorkflowState:
        """Keep a new workflow, pending.

        Raises:
            AlreadyExists: the id is taken.
        """
        ...

    async def save(
        self,
        workflow_id: str,
        data: Mapping[str, Any],
        *,
        name: str | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        """Replace a workflow's data in whatever status it is, or keep a new one, pending; name and step stay unless given.

        With `expected_version` there must be one, of that version.

        Raises:
            VersionConflict: it has another version than expected.
            NotFound: a version is expected, and there is no such workflow.
        """
        ...

    async def get(self, workflow_id: str) -> WorkflowState | None:
        """Return a workflow, or None."""
        ...

    async def transition(
        self,
        workflow_id: str,
        status: WorkflowStatus,
        *,
        data: Mapping[str, Any] | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        """Move a workflow on to another status; data and step stay as they are unless given.

        Raises:
            IllegalTransition: its status does not lead there; names from, to and what is legal.
            VersionConflict: it has another version than expected.
            NotFound: there is no such workflow.
        """
        ...

    async def advance(
        self,
        workflow_id: str,
        step: int,
        *,
        data: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        """Note that a running workflow has reached a step; steps never go back.

        Raises:
            IllegalTransition: the workflow is not running, or is beyond that step.
            VersionConflict: it has another version than expected.
            NotFound: there is no such workflow.
        """
        ...

    async def list(
        self, *, status: WorkflowStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[WorkflowSummary]:
        """Return a page of workflows without their data, the newest first."""
        ...

    async def counts(self) -> dict[str, int]:
        """Return how many workflows there are of each of the five statuses."""
        ...

    async def delete(self, workflow_id: str, *, expected_version: int | None = None) -> bool:
        """Delete a workflow in whatever status it is, and say whether it was there.

        Raises:
            VersionConflict: it has another version than expected.
        """
        ...

    async def prune(self, *, before: datetime, limit: int = 1_000) -> int:
        """Delete at most `limit` workflows that ended, the longest untouched first and all before an instant; return how many."""
        ...
