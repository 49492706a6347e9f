"""The contract of questions to `graph`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.graph_questions import GraphQuestionsContract


class TestGraphQuestions(GraphQuestionsContract):
    pass
