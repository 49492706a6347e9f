"""The contract of `workflow_state`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.workflow_state import WorkflowStateContract


class TestWorkflowState(WorkflowStateContract):
    pass
