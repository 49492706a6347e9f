"""What `workflow_state` accepts, and why a change was not made; every backend calls the same functions."""

from __future__ import annotations

from typing import cast

from llmspell.codec import require_key, require_limit
from llmspell.errors import IllegalTransition, InvalidInput, LlmspellError, NotFound, VersionConflict
from llmspell.storage.contracts.workflow_state import (
    STATUSES,
    STEP_MAX,
    TRANSITIONS,
    WORKFLOW_ID_MAX_BYTES,
    WORKFLOW_NAME_MAX_BYTES,
    WorkflowStatus,
)


def require_workflow_id(workflow_id: object) -> str:
    """Return the id of a workflow: text of 1 to 255 bytes."""
    return require_key(workflow_id, field="workflow_id", max_bytes=WORKFLOW_ID_MAX_BYTES)


def optional_name(name: object) -> str | None:
    """Return the name of a workflow, 1 to 500 bytes, or None."""
    return None if name is None else require_key(name, field="name", max_bytes=WORKFLOW_NAME_MAX_BYTES)


def require_status(status: object) -> WorkflowStatus:
    """Return one of the five statuses.

    Raises:
        InvalidInput: anything else.
    """
    if not isinstance(status, str) or status not in STATUSES:
        raise InvalidInput("status", f"must be one of {', '.join(STATUSES)}", given=status)
    return status


def require_step(step: object, *, field: str = "current_step") -> int:
    """Return a step: 0 to 2,147,483,647."""
    return require_limit(step, field=field, maximum=STEP_MAX, minimum=0)


def sources_of(status: WorkflowStatus) -> list[str]:
    """Return the statuses that lead to another one; none leads to "pending"."""
    return [source for source, targets in TRANSITIONS.items() if status in targets]


def refusal(
    workflow_id: str, found: tuple[str, int] | None, *, to: WorkflowStatus, expected: int | None
) -> LlmspellError:
    """Return why a transition did not take place; `found` is status and version, None when there is no workflow."""
    if found is None:
        return NotFound("There is no such workflow.", workflow_id=workflow_id)
    status, version = found
    if expected is not None and version != expected:
        return VersionConflict(workflow_id=workflow_id, expected=expected, current=version)
    legal = ", ".join(TRANSITIONS[cast("WorkflowStatus", status)]) or "nothing, it is final"
    return IllegalTransition(
        f"A workflow that is {status} does not become {to}.",
        workflow_id=workflow_id,
        hint=f"From {status} it may become: {legal}.",
    )


def not_advanced(
    workflow_id: str, found: tuple[str, int, int] | None, *, step: int, expected: int | None
) -> LlmspellError:
    """Return why a workflow did not advance; `found` is status, version and current step."""
    if found is None:
        return NotFound("There is no such workflow.", workflow_id=workflow_id)
    status, version, current = found
    if expected is not None and version != expected:
        return VersionConflict(workflow_id=workflow_id, expected=expected, current=version)
    if status != "running":
        return IllegalTransition(
            f"A workflow that is {status} does not advance.",
            workflow_id=workflow_id,
            hint="Only a running one does; move it on with `transition` first, or use `save`.",
        )
    return IllegalTransition(
        f"The workflow is at step {current}; it does not go back to step {step}.",
        workflow_id=workflow_id,
        hint="Use `save` with `current_step` where a step shall be repeated.",
    )
