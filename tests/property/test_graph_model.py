"""Every point-in-time answer of a graph equals a replay of what was said until then.

The oracle knows nothing of recorded time: to know what was believed at an instant, it replays the log up to it. A belief is
a row (fact, object, confidence, start, end) of days, in a list per (subject, predicate); `FOREVER` is an open end.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import InvalidTime, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import Cardinality, FactCorrection, Graph, NewFact
from llmspell.tenant import TenantId
from llmspell.testing.contract import day

FOREVER = 10_000
LAST_DAY = 12
CARDINALITIES: dict[str, Cardinality] = {"lives_in": "one", "knows": "many"}
Answer = set[tuple[str, str, str, float | None, int, int]]


class Belief(NamedTuple):
    fact: UUID
    object: str
    confidence: float | None
    start: int
    end: int


class Oracle:
    """What is believed after the operations that it was told, in order."""

    def __init__(self) -> None:
        self.beliefs: dict[tuple[str, str], list[Belief]] = {}

    def carve(self, key: tuple[str, str], start: int, end: int, chosen: Any) -> None:
        """Take a period away from the chosen beliefs."""
        pieces = []
        for one in self.beliefs.get(key, []):
            if not chosen(one):
                pieces.append(one)
                continue
            left = one._replace(end=min(one.end, start))
            right = one._replace(start=max(one.start, end))
            pieces += [piece for piece in (left, right) if piece.start < piece.end]
        self.beliefs[key] = pieces

    def tell(self, operation: tuple[Any, ...]) -> None:
        """Replay one operation."""
        kind, key, *rest = operation
        rows = self.beliefs.setdefault(key, [])
        one_value = CARDINALITIES[key[1]] == "one"
        if kind == "assert":
            fact, object, confidence, start, end = rest
            if end == FOREVER and one_value:
                end = min((one.start for one in rows if one.start > start), default=FOREVER)
            said = any(
                (one.object, one.confidence) == (object, confidence) and one.start <= start and end <= one.end
                for one in rows
            )
            if not said:
                self.carve(key, start, end, lambda one: one_value or one.object == object)
                self.beliefs[key].append(Belief(fact, object, confidence, start, end))
        elif kind == "retract":
            object, start, end = rest
            self.carve(key, start, end, lambda one: object in (None, one.object))
        else:
            fact, object, start, end = rest
            pieces = sorted((one for one in rows if one.fact == fact), key=lambda one: one.start)
            met = [one for one in pieces if (start is None or start < one.end) and (end is None or one.start < end)]
            before = (met or pieces)[-1]
            new = before._replace(
                object=object or before.object,
                start=before.start if start is None else start,
                end=before.end if end is None else end,
            )
            self.beliefs[key] = [one for one in rows if one != before]
            self.carve(key, new.start, new.end, lambda one: one_value or one.fact == fact or one.object == new.object)
            self.beliefs[key].append(new)

    def answer(self, as_of: int | None) -> Answer:
        """Return what is believed, of one day or of all."""
        return {
            (*key, one.object, one.confidence, one.start, one.end)
            for key, rows in self.beliefs.items()
            for one in rows
            if as_of is None or one.start <= as_of < one.end
        }


DAYS = st.integers(1, LAST_DAY)
NAMES = st.sampled_from(["a", "b", "c"])
KEYS = st.tuples(st.sampled_from(["Ada", "Bob"]), st.sampled_from(sorted(CARDINALITIES)))
PERIODS = st.tuples(DAYS, st.one_of(st.just(FOREVER), DAYS)).filter(lambda period: period[0] < period[1])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("assert"), KEYS, NAMES, st.sampled_from([None, 0.5]), PERIODS),
        st.tuples(st.just("assert"), KEYS, NAMES, st.sampled_from([None, 0.5]), PERIODS),
        st.tuples(st.just("retract"), KEYS, st.none() | NAMES, st.none() | PERIODS),
        st.tuples(st.just("correct"), st.integers(0, 20), st.none() | NAMES, st.none() | DAYS, st.none() | DAYS),
    ),
    min_size=1,
    max_size=12,
)


def date(number: int) -> datetime | None:
    return None if number == FOREVER else day(number)


async def perform(graph: Graph, operation: tuple[Any, ...], facts: list[tuple[UUID, tuple[str, str]]]) -> Any:
    """Carry out one operation, and return what to tell the oracle of it; None when it was refused."""
    kind, *rest = operation
    if kind == "assert":
        key, object, confidence, (start, end) = rest
        new = NewFact(
            subject=key[0],
            predicate=key[1],
            object=object,
            confidence=confidence,
            valid_from=day(start),
            valid_to=date(end),
        )
        fact = await graph.assert_fact(new, cardinality=CARDINALITIES[key[1]])
        facts.append((fact.id, key))
        return "assert", key, fact.id, object, confidence, start, end
    if kind == "retract":
        key, object, period = rest
        start, end = period or (0, FOREVER)
        valid_from = day(start) if period else None
        await graph.retract(*key, object, valid_from=valid_from, valid_to=date(end))
        return "retract", key, object, start, end
    number, object, start, end = rest
    if not facts:
        return None
    id, key = facts[number % len(facts)]
    changes: dict[str, Any] = {} if object is None else {"object": object}
    changes |= {} if start is None else {"valid_from": day(start)}
    changes |= {} if end is None else {"valid_to": day(end)}
    try:
        await graph.correct(id, FactCorrection(**changes))
    except (NotFound, InvalidTime):
        return None
    return "correct", key, id, object, start, end


async def asked(graph: Graph, as_of: int | None, known_at: datetime | None) -> Answer:
    """Ask the graph what the oracle is asked."""
    found: Answer = set()
    for predicate in CARDINALITIES:
        moment = {} if as_of is None else {"as_of": day(as_of)}
        facts = await graph.facts(predicate=predicate, any_time=as_of is None, known_at=known_at, limit=1_000, **moment)
        for one in facts:
            numbers = [
                FOREVER if instant is None else (instant - day(1)).days + 1
                for instant in (one.valid_from, one.valid_to)
            ]
            found.add((one.subject, one.predicate, one.object, one.confidence, numbers[0], numbers[1]))
    return found


@given(operations=OPERATIONS, data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@pytest.mark.parametrize("name", ["memory", "sqlite", "postgres"])
def test_every_answer_is_a_replay_of_what_was_said_until_then(
    stores: dict[str, Backend],
    loop: asyncio.Runner,
    clock: ManualClock,
    name: str,
    operations: list[tuple[Any, ...]],
    data: st.DataObject,
) -> None:
    if name not in stores:
        pytest.skip(f"{name} is not among the backends of this run")

    async def example() -> None:
        tenant = TenantId(f"graph-{uuid4().hex}")
        await stores[name].tenants.create(tenant)
        graph = stores[name].storages(tenant).graph
        facts: list[tuple[UUID, tuple[str, str]]] = []
        log: list[tuple[datetime, Any]] = []
        for operation in operations:
            clock.advance(seconds=1)
            told = await perform(graph, operation, facts)
            if told is not None:
                log.append((clock.now(), told))
        instants = [None, *(instant for instant, _ in log)]
        for known_at in [*data.draw(st.lists(st.sampled_from(instants), max_size=4, unique=True)), None]:
            oracle = Oracle()
            for instant, told in log:
                if known_at is None or instant <= known_at:
                    oracle.tell(told)
            for as_of in (None, *data.draw(st.lists(st.integers(0, LAST_DAY + 1), max_size=3, unique=True))):
                assert await asked(graph, as_of, known_at) == oracle.answer(as_of), (as_of, known_at, log)

    loop.run(example())
