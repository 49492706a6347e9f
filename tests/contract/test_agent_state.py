"""The contract of `agent_state`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.agent_state import AgentStateContract


class TestAgentState(AgentStateContract):
    pass
