"""Random programs of recordings and deletions give the same answers on the databases as in the plain model."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.hook_history import HookHistory, NewHookExecution, RetentionPolicy
from llmspell.tenant import TenantId

NOW = ManualClock().now()
INSTANTS = st.integers(0, 20).map(lambda days: NOW - timedelta(days=days))
IDS = st.integers(0, 9).map(lambda n: UUID(int=n))
EXECUTIONS = st.builds(
    NewHookExecution,
    hook_id=st.sampled_from(["a", "b"]),
    hook_type=st.sampled_from(["AgentError", "ToolError"]),
    triggering_component=st.just("c"),
    context=st.one_of(st.binary(max_size=8), st.just({"x": "y" * 300}), st.just(b"z" * 300)),
    result=st.sampled_from(["continue", "cancel", "skipped"]),
    duration_ms=st.integers(0, 5) | st.just(2**31 - 1),
    at=INSTANTS,
    id=IDS,
    correlation_id=st.integers(0, 1).map(lambda n: UUID(int=n)),
    retention_priority=st.integers(3, 6),
    contains_sensitive_data=st.booleans(),
)
POLICIES = st.builds(RetentionPolicy, executions_min=st.integers(0, 4))
PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), EXECUTIONS),
        st.tuples(st.just("record_many"), st.lists(EXECUTIONS, max_size=4)),
        st.tuples(st.just("delete"), IDS),
        st.tuples(st.just("prune"), INSTANTS, st.none() | st.integers(3, 6), st.integers(1, 3)),
        st.tuples(st.just("apply_retention"), POLICIES, st.integers(1, 3)),
    ),
    max_size=12,
)


QUESTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"hook_id": "a"},
    {"hook_type": "ToolError"},
    {"correlation_id": UUID(int=1)},
    {"since": NOW - timedelta(days=9)},
)


async def perform(history: HookHistory, step: tuple[Any, ...]) -> Any:
    """Carry out one step, and return what came of it."""
    kind, *rest = step
    if kind == "delete":
        return await history.delete(rest[0])
    if kind == "prune":
        return await history.prune(before=rest[0], below_priority=rest[1], limit=rest[2])
    if kind == "apply_retention":
        return await history.apply_retention(rest[0], limit=rest[1])
    try:
        return await (history.record(rest[0]) if kind == "record" else history.record_many(rest[0]))
    except AlreadyExists:
        return "taken"


async def asked(history: HookHistory, limit: int) -> Any:
    """Ask everything that can be asked, with pages of `limit`."""
    answers: list[Any] = []
    for question in QUESTIONS:
        cursor = None
        while True:
            page = await history.list(**question, include_context=True, cursor=cursor, limit=limit)
            answers.append(page.items)
            cursor = page.next_cursor
            if cursor is None:
                break
    answers.append([await history.get(UUID(int=n)) for n in range(10)])
    answers.append([await history.statistics(), await history.statistics(hook_id="b", until=NOW - timedelta(days=3))])
    return answers


@given(program=PROGRAMS, limit=st.integers(1, 3))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_a_history_answers_as_the_model_does(
    stores: dict[str, Backend],
    loop: asyncio.Runner,
    clock: ManualClock,
    name: str,
    program: list[tuple[Any, ...]],
    limit: int,
) -> None:
    if name not in stores or "memory" not in stores:
        pytest.skip("the store or the model is not among the backends of this run")

    async def example() -> None:
        tenant = TenantId(f"hooks-{uuid4().hex}")
        histories = []
        for store in ("memory", name):
            await stores[store].tenants.create(tenant)
            histories.append(stores[store].storages(tenant).hook_history)
        model, history = histories
        for step in program:
            assert await perform(history, step) == await perform(model, step), step
        assert await asked(history, limit) == await asked(model, limit)

    loop.run(example())
