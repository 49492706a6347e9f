"""Random programs of appends, batches and prunes give the same answers on the databases as in the plain model."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock, parse_instant
from llmspell.errors import AlreadyExists
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.event_log import EventLog, NewEvent
from llmspell.tenant import TenantId

START = parse_instant("2026-01-30", field="start")
TYPES = ("a.b", "a.bc", "a.c", "ab.c", "A.b", "a-b.c")
PATTERNS = (None, "*", "a.b", "a.*", "a*", "a.b*", "A*", "z.*")
# Few instants and ids, so that they meet; the instants lie on both sides of a month's end.
INSTANTS = st.integers(0, 5).map(lambda n: START + timedelta(hours=12 * n))
IDS = st.integers(0, 6).map(lambda n: UUID(int=n << 120))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
PAYLOADS = st.fixed_dictionaries({"n": st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS})
EVENTS = st.builds(
    NewEvent,
    type=st.sampled_from(TYPES),
    payload=PAYLOADS,
    at=INSTANTS,
    id=IDS,
    correlation_id=st.integers(0, 2).map(lambda n: UUID(int=n)),
    language=st.sampled_from(["python", "lua"]),
)
PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), EVENTS),
        st.tuples(st.just("append_many"), st.lists(EVENTS, max_size=5)),
        st.tuples(st.just("prune"), INSTANTS, st.integers(1, 4)),
    ),
    max_size=12,
)
QUESTIONS = st.fixed_dictionaries(
    {
        "since": st.none() | INSTANTS,
        "until": st.none() | INSTANTS,
        "type": st.sampled_from(PATTERNS),
        "correlation_id": st.none() | st.integers(0, 2).map(lambda n: UUID(int=n)),
    }
).filter(lambda asked: asked["since"] is None or asked["until"] is None or asked["since"] < asked["until"])


async def perform(log: EventLog, step: tuple[Any, ...]) -> Any:
    """Carry out one step, and return what came of it."""
    kind, *rest = step
    if kind == "prune":
        return await log.prune(rest[0], limit=rest[1])
    if kind == "append_many":
        try:
            return await log.append_many(rest[0])
        except AlreadyExists:
            return "taken"
    new: NewEvent = rest[0]
    try:
        return await log.append(
            new.type,
            new.payload,
            at=new.at,
            id=new.id,
            correlation_id=new.correlation_id,
            language=new.language,
        )
    except AlreadyExists:
        return "taken"


async def asked(log: EventLog, question: dict[str, Any], limit: int) -> Any:
    """Ask everything that can be asked, with pages of `limit`."""
    answers: list[Any] = [await log.count(**question)]
    for descending in (True, False):
        cursor = None
        while True:
            page = await log.list(**question, descending=descending, cursor=cursor, limit=limit)
            answers.append(page.items)
            cursor = page.next_cursor
            if cursor is None:
                break
    chosen = {name: question[name] for name in ("type", "correlation_id")}
    answers.append([await log.tail(**chosen, after_sequence=number, limit=limit) for number in (0, 3)])
    answers.append(await log.stats(since=question["since"], until=question["until"]))
    answers.append([await log.get(UUID(int=n << 120)) for n in range(7)])
    return answers


@given(program=PROGRAMS, question=QUESTIONS, limit=st.integers(1, 4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_a_log_answers_as_the_model_does(
    stores: dict[str, Backend],
    loop: asyncio.Runner,
    clock: ManualClock,
    name: str,
    program: list[tuple[Any, ...]],
    question: dict[str, Any],
    limit: int,
) -> None:
    if name not in stores or "memory" not in stores:
        pytest.skip("the store or the model is not among the backends of this run")

    async def example() -> None:
        tenant = TenantId(f"events-{uuid4().hex}")
        logs = []
        for store in ("memory", name):
            await stores[store].tenants.create(tenant)
            logs.append(stores[store].storages(tenant).event_log)
        model, log = logs
        for step in program:
            assert await perform(log, step) == await perform(model, step), step
        assert await asked(log, question, limit) == await asked(model, question, limit)

    loop.run(example())
