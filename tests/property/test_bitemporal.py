"""Every point-in-time answer of a graph equals a replay of the log, and stays what it was for ever.

Random changes (asserted, retracted, corrected, described, deleted; alone and several in a transaction, kept and undone) at random
valid times, with a clock that stands still and goes back. After each change, questions about random points on both axes are put to
every store; most of them lie on an edge of a period or a microsecond beside one. Some are put again after every later change.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.property.bitemporal_log import EARLIEST, FOREVER, Belief, Known, Log, Refused, State

from llmspell.clock import ManualClock
from llmspell.errors import InvalidTime, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import Entity, Fact, FactCorrection, Graph, NewFact
from llmspell.tenant import TenantId

SEED = usual(1)
QUESTIONS = size(ci=30_000, soak=1_000_000)
CHANGES = 30
QUESTIONS_EACH = 20
ASKED_AGAIN = 4
ON_AN_EDGE_MIN = 0.5
"""The share of questions of which an instant lies on the edge of a period, or a microsecond beside it."""
FULL_MIN = 0.3
"""The share of answers that are not empty."""
YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)
LAST = (datetime.max.replace(tzinfo=UTC) - YEAR_1) // timedelta(microseconds=1)
BASE = (datetime(2026, 1, 1, tzinfo=UTC) - YEAR_1) // timedelta(microseconds=1)
DAY = 86_400_000_000
INSTANTS = [0, 1, BASE - 400_000 * DAY, *(BASE + n * DAY for n in range(-3, 4)), BASE + 1, BASE - 1, LAST - 1, LAST]
NAMES = ["Ada", "Bob", "Zürich", "Bern"]
ONE = frozenset({"lives_in"})
PREDICATES = ["lives_in", "knows"]
CONFIDENCES = [None, 0.25, 0.5]
Answer = set[Any]


class Undone(Exception):
    """Leaves a transaction that is not to be kept."""


def when(instant: int) -> datetime:
    return YEAR_1 + timedelta(microseconds=instant)


def end_of(instant: int) -> datetime | None:
    return None if instant == FOREVER else when(instant)


def micro(instant: datetime | None) -> int:
    return FOREVER if instant is None else (instant - YEAR_1) // timedelta(microseconds=1)


class Story:
    """One tenant on every store, its log, and the numbers that stand for the ids that each store made."""

    def __init__(self, stores: dict[str, Backend], clock: ManualClock, seed: int) -> None:
        self.stores, self.clock, self.seed = stores, clock, seed
        self.draw = random.Random(seed)
        self.log = Log(ONE)
        self.told: list[str] = []
        self.graphs: dict[str, Graph] = {}
        self.tenant = TenantId(f"story-{uuid4().hex}")
        self.numbers: dict[str, dict[UUID, int]] = {name: {} for name in stores}
        self.ids: dict[str, list[UUID]] = {name: [] for name in stores}
        self.fixed: list[tuple[tuple[Any, ...], Answer]] = []
        self.questions = self.on_edge = self.full = self.repeated = self.refused = self.undone = 0

    async def run(self) -> None:
        for name, store in self.stores.items():
            await store.tenants.create(self.tenant)
            self.graphs[name] = store.storages(self.tenant).graph
        for _ in range(CHANGES):
            self.clock.advance(seconds=self.draw.choice([0, 0, 0.000_001, 1, 60, 86_400, -0.000_001, -5, -3_600]))
            await self.change()
            for _ in range(QUESTIONS_EACH):
                await self.ask_something()
            for question, answer in self.draw.sample(self.fixed, min(ASKED_AGAIN, len(self.fixed))):
                await self.check(question, answer, "what was answered before")
                self.repeated += 1
        await self.check_histories()

    # --- changes ------------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        return micro(self.clock.now())

    async def change(self) -> None:
        """Say something, or several things in one transaction; what a transaction keeps is recorded at one instant."""
        if self.draw.random() < 0.75:
            state = await self.say(self.graphs, self.log.last._replace(recorded=self.log.next_instant(self.now())))
            if state is not None:
                self.log.keep(state)
            return
        keep, last = self.draw.random() < 0.7, None
        self.told.append("in one transaction:" if keep else "in a transaction that is undone:")
        try:
            async with AsyncExitStack() as stack:
                graphs = {
                    name: (await stack.enter_async_context(store.transaction(self.tenant))).graph
                    for name, store in self.stores.items()
                }
                for _ in range(self.draw.randint(1, 3)):
                    first = self.log.last._replace(recorded=self.log.next_instant(self.now()))
                    last = await self.say(graphs, last or first) or last
                    self.clock.advance(seconds=self.draw.choice([0, 0, 1, -1]))
                if not keep:
                    raise Undone
        except Undone:
            self.undone += 1
            return
        if last is not None:
            self.log.keep(last)

    async def say(self, graphs: dict[str, Graph], state: State) -> State | None:
        """Say one thing to every store and to the log, and return what is believed then; None when it is refused."""
        kind = self.draw.choice(["assert", "assert", "assert", "retract", "correct", "correct", "describe", "delete"])
        if kind == "delete" and self.draw.random() < 0.5:
            kind = "assert"
        arguments = getattr(self, f"draw_{kind}")(state)
        self.told.append(f"{kind} {arguments} at {state.recorded}")
        answers = {name: await self.said(kind, graph, name, arguments) for name, graph in graphs.items()}
        try:
            if kind == "assert":
                number = self.number_of(answers, self.log)
                after = self.log.asserted(state, number, arguments, self.now())
            elif kind == "retract":
                after = self.log.retracted(state, *arguments)
            elif kind == "correct":
                after = self.log.corrected(state, *arguments)
            elif kind == "describe":
                after = self.log.described(state, *arguments)
            else:
                after = self.log.deleted(state, arguments)
        except Refused:
            assert all(isinstance(one, (NotFound, InvalidTime)) for one in answers.values()), self.story(answers)
            self.refused += 1
            return None
        for name, answer in answers.items():
            assert not isinstance(answer, Exception), self.story(answers)
            if isinstance(answer, Fact):
                assert self.belief(answer, name) in after.facts, self.story(answers, after.facts)
            if isinstance(answer, Entity):
                assert known(answer) in after.entities, self.story(answers, after.entities)
        return after

    async def said(self, kind: str, graph: Graph, name: str, arguments: Any) -> Any:
        """Say it to one store, and return its answer; a refusal too."""
        try:
            if kind == "assert":
                period = {"valid_from": None if arguments["start"] is None else when(arguments["start"])}
                new = {key: arguments[key] for key in ("subject", "predicate", "object", "confidence")}
                fact = NewFact(**new, **period, valid_to=end_of(arguments["end"]))
                return await graph.assert_fact(fact, cardinality="one" if fact.predicate in ONE else "many")
            if kind == "retract":
                *what, start, end = arguments
                valid_from = None if start < EARLIEST else when(start)
                return await graph.retract(*what, valid_from=valid_from, valid_to=end_of(end))
            if kind == "correct":
                number, change = arguments
                ids = self.ids[name]
                changes = {key: change[key] for key in ("object", "confidence") if key in change}
                changes |= {"valid_from": when(change["start"])} if "start" in change else {}
                changes |= {"valid_to": end_of(change["end"])} if "end" in change else {}
                return await graph.correct(ids[number] if number < len(ids) else uuid4(), FactCorrection(**changes))
            if kind == "describe":
                entity, type, number, start, end = arguments
                properties = None if number is None else {"n": number}
                return await graph.upsert_entity(
                    entity, type=type, properties=properties, valid_from=when(start), valid_to=end_of(end)
                )
            return await graph.delete_entity(arguments)
        except (NotFound, InvalidTime) as error:
            return error

    def number_of(self, answers: dict[str, Any], log: Log) -> int:
        """Return the number of the fact that every store answered with."""
        numbers = set()
        for name, answer in answers.items():
            if isinstance(answer, Exception):
                numbers.add(-1)
                continue
            if answer.id not in self.numbers[name]:
                self.numbers[name][answer.id] = len(self.ids[name])
                self.ids[name].append(answer.id)
            numbers.add(self.numbers[name][answer.id])
        assert len(numbers) == 1, self.story(answers)
        return numbers.pop()

    def instant(self) -> int:
        """Return an instant of valid time: one of a few, or beside one that somebody has named."""
        named = sorted(self.log.instants - {FOREVER})
        if named and self.draw.random() < 0.4:
            return min(max(self.draw.choice(named) + self.draw.choice([-1, 0, 1]), EARLIEST), LAST)
        return self.draw.choice(INSTANTS)

    def period(self, *, valid: float = 0.93) -> tuple[int, int]:
        start, end = self.instant(), self.instant() if self.draw.random() < 0.6 else FOREVER
        if start >= end and self.draw.random() < valid:  # else it is reversed or empty, and refused
            start, end = min(start, end), max(start, end) + 1
            return (start, end) if end <= LAST else (start, FOREVER)
        return start, end

    def draw_assert(self, state: State) -> dict[str, Any]:
        start, end = self.period()
        return {
            "subject": self.draw.choice(NAMES[:2]),
            "predicate": self.draw.choice(PREDICATES),
            "object": self.draw.choice(NAMES),
            "confidence": self.draw.choice(CONFIDENCES),
            "start": None if self.draw.random() < 0.15 and end == FOREVER else start,
            "end": end,
        }

    def draw_retract(self, state: State) -> tuple[Any, ...]:
        start, end = self.period(valid=1)
        start = EARLIEST - 1 if self.draw.random() < 0.2 else start
        objects = [None, *NAMES]
        return self.draw.choice(NAMES[:2]), self.draw.choice(PREDICATES), self.draw.choice(objects), start, end

    def draw_correct(self, state: State) -> tuple[int, dict[str, Any]]:
        believed = [row.fact for row in state.facts]
        number = self.draw.choice(believed) if believed and self.draw.random() < 0.9 else 1_000
        change: dict[str, Any] = {}
        if self.draw.random() < 0.4:
            change["object"] = self.draw.choice(NAMES)
        if self.draw.random() < 0.3:
            change["confidence"] = self.draw.choice(CONFIDENCES)
        start, end = self.period()
        change |= {"start": start} if self.draw.random() < 0.5 else {}
        change |= {"end": end} if self.draw.random() < 0.5 else {}
        return number, change

    def draw_describe(self, state: State) -> tuple[Any, ...]:
        start, end = self.period()
        draw = self.draw
        return draw.choice(NAMES), draw.choice([None, "person", "city"]), draw.choice([None, 1, 2]), start, end

    def draw_delete(self, state: State) -> str:
        return self.draw.choice(NAMES)

    # --- questions ------------------------------------------------------------------------------------------------------------

    def point(self) -> tuple[int | None, int | None]:
        """Return a point: when true, when known; None is now."""
        as_of: int | None = None
        if self.draw.random() < 0.9:
            as_of = self.instant()
            named = self.log.instants - {FOREVER}
            self.on_edge += any(as_of + beside in named for beside in (-1, 0, 1))
        known_at: int | None = None
        if self.draw.random() < 0.75:
            state = self.draw.choice(self.log.states[1:] or [State(BASE, (), ())])
            known_at = self.draw.choice(
                [state.recorded, state.recorded, state.recorded - 1, state.recorded + 1, 0, LAST]
            )
        return as_of, known_at

    async def ask_something(self) -> None:
        """Put a question to every store and to the log."""
        as_of, known_at = self.point()
        kind = self.draw.choice(["facts", "facts", "any_time", "neighbours", "entity", "entities"])
        about: Any = self.draw.choice(NAMES)
        if kind in ("facts", "any_time"):
            field = self.draw.choice(["subject", "predicate", "object"])
            about = field, self.draw.choice(PREDICATES) if field == "predicate" else about
        elif kind == "neighbours":
            about = about, self.draw.choice(["out", "in", "both"])
        elif kind == "entities":
            about = self.draw.choice([None, "entity", "person"])
        expected = self.replayed(kind, about, as_of, known_at)
        self.full += bool(expected)
        await self.check((kind, about, as_of, known_at), expected, "a replay of the log")
        if known_at is not None and as_of is not None and known_at <= self.log.last.recorded:
            self.fixed.append(((kind, about, as_of, known_at), expected))

    async def check(self, question: tuple[Any, ...], expected: Answer, of: str) -> None:
        self.questions += 1
        answers = await asyncio.gather(*(self.answered(self.graphs[name], name, *question) for name in self.stores))
        for name, found in zip(self.stores, answers, strict=True):
            assert found == expected, self.story(f"{name} says {found}", f"{of} says {expected}", question)

    def replayed(self, kind: str, about: Any, as_of: int | None, known_at: int | None) -> Answer:
        """Return the answer of the log."""
        at = self.now() if as_of is None else as_of
        if kind in ("facts", "any_time"):
            field, value = about
            moment = None if kind == "any_time" else at
            return self.log.facts(known_at, moment, lambda row: getattr(row, field) == value)
        if kind == "neighbours":
            name, direction = about
            sides = {"out": ("subject",), "in": ("object",), "both": ("subject", "object")}[direction]
            return self.log.facts(known_at, at, lambda row: any(getattr(row, side) == name for side in sides))
        if kind == "entity":
            return self.log.entities(known_at, at, lambda row: row.name == about)
        return self.log.entities(known_at, at, lambda row: about in (None, row.type))

    async def answered(
        self, graph: Graph, name: str, kind: str, about: Any, as_of: int | None, known_at: int | None
    ) -> Answer:
        """Return the answer of one store, in the words of the log."""
        moment: dict[str, Any] = {} if known_at is None else {"known_at": when(known_at)}
        moment |= {} if as_of is None or kind == "any_time" else {"as_of": when(as_of)}
        if kind in ("facts", "any_time"):
            found = await graph.facts(**{about[0]: about[1]}, any_time=kind == "any_time", limit=1_000, **moment)
            return {self.belief(fact, name) for fact in found}
        if kind == "neighbours":
            found = await graph.neighbours(about[0], direction=about[1], limit=1_000, **moment)
            return {self.belief(fact, name) for fact in found}
        if kind == "entity":
            entity = await graph.get_entity(about, **moment)
            return set() if entity is None else {known(entity)}
        return {known(entity) for entity in await graph.list_entities(type=about, limit=1_000, **moment)}

    async def check_histories(self) -> None:
        """Compare every version that there ever was, and when it was believed no longer."""
        ended: dict[Any, int] = {}
        for before, after in itertools.pairwise(self.log.states):
            for row in {*before.facts, *before.entities} - {*after.facts, *after.entities}:
                ended[row] = after.recorded
        for kind in (Belief, Known):
            rows = {row for state in self.log.states for row in (state.facts if kind is Belief else state.entities)}
            expected = {(row, ended.get(row, FOREVER)) for row in rows}
            for name, store in self.stores.items():
                graph = store.storages(self.tenant).graph
                found: set[Any] = set()
                if kind is Belief:
                    for id in self.ids[name]:
                        found |= {(self.belief(one, name), micro(one.recorded_to)) for one in await graph.history(id)}
                else:
                    for entity in NAMES:
                        found |= {(known(one), micro(one.recorded_to)) for one in await graph.entity_history(entity)}
                lasting = {(row, end) for row, end in found if row.recorded < end}
                assert lasting == expected, self.story(f"{name}: {lasting ^ expected}", "in the histories")

    def belief(self, fact: Fact, name: str) -> Belief:
        number = self.numbers[name][fact.id]
        period = micro(fact.valid_from), micro(fact.valid_to)
        return Belief(
            number, fact.subject, fact.predicate, fact.object, fact.confidence, *period, micro(fact.recorded_from)
        )

    def story(self, *what: Any) -> str:
        """Return what somebody needs who is to mend it."""
        lines = "\n".join(self.told)
        return f"{what}\nLLMSPELL_TEST_SEED={self.seed} replays this log (microseconds since the year 1):\n{lines}"


def known(entity: Entity) -> Known:
    period = micro(entity.valid_from), micro(entity.valid_to)
    return Known(entity.name, entity.type, entity.properties.get("n"), *period, micro(entity.recorded_from))


@pytest.mark.timeout(size(ci=600, soak=86_400))
def test_every_answer_is_a_replay_of_what_was_said_until_then(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock
) -> None:
    """Invariant: for every fact, "as of (valid, known)" gives the same answer for ever."""
    counted: Counter[str] = Counter()
    seed = SEED
    while counted["questions"] < QUESTIONS:
        clock.set("2026-01-01T00:00:00Z")
        story = Story(stores, clock, seed)
        loop.run(story.run())
        counted.update(
            {name: getattr(story, name) for name in ("questions", "on_edge", "full", "repeated", "refused", "undone")}
        )
        seed += 1

    tell(questions=counted["questions"], questions_asked_again=counted["repeated"])
    first = counted["questions"] - counted["repeated"]
    assert counted["on_edge"] > ON_AN_EDGE_MIN * first, counted
    assert counted["full"] > FULL_MIN * first, counted
    assert min(counted["refused"], counted["undone"], counted["repeated"]) > seed - SEED, counted
