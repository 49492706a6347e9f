"""What a graph believed, by replaying everything that was said to it: plain Python, and none of the code that it judges.

Instants are microseconds since the year 1; `FOREVER` is an open end. The log is replayed change by change, and what was believed
after each is kept whole: a question about what was known at an instant is answered by the last of these that is not later, and a
question about when something was true by looking at every period in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

EARLIEST = 0
FOREVER = 10**20
DEFAULT_TYPE = "entity"


class Belief(NamedTuple):
    """That a fact holds for a period. `fact` is a number of its own for each fact."""

    fact: int
    subject: str
    predicate: str
    object: str
    confidence: float | None
    start: int
    end: int
    recorded: int


class Known(NamedTuple):
    """What is held to be so of an entity for a period."""

    name: str
    type: str
    number: int | None
    start: int
    end: int
    recorded: int


class State(NamedTuple):
    """Everything that was believed after a change."""

    recorded: int
    facts: tuple[Belief, ...]
    entities: tuple[Known, ...]


class Refused(Exception):
    """What was said is refused, and nothing of it stays."""


def carved(rows: Any, start: int, end: int, chosen: Callable[[Any], bool], recorded: int) -> list[Any]:
    """Return rows with a period taken away from the chosen ones; what is left of those is recorded anew."""
    left: list[Any] = []
    for row in rows:
        if not chosen(row) or row.end <= start or end <= row.start:
            left.append(row)
            continue
        for piece in ((row.start, min(row.end, start)), (max(row.start, end), row.end)):
            if piece[0] < piece[1]:
                left.append(row._replace(start=piece[0], end=piece[1], recorded=recorded))
    return left


class Log:
    """The changes so far, each with everything that was believed after it."""

    def __init__(self, one_valued: frozenset[str]) -> None:
        self.states: list[State] = [State(-1, (), ())]
        self.instants: set[int] = set()
        self._one_valued = one_valued

    @property
    def last(self) -> State:
        return self.states[-1]

    def next_instant(self, now: int) -> int:
        """Return when something is recorded that is said now: later than everything before."""
        return max(now, self.last.recorded + 1)

    def keep(self, state: State) -> None:
        """Add what is believed after a change."""
        self.states.append(state)
        for row in (*state.facts, *state.entities):
            self.instants.update((row.start, row.end))

    # --- changes: each takes a state, and returns the next ------------------------------------------------------------------

    def asserted(self, state: State, fact: int, said: dict[str, Any], now: int) -> State:
        """`said`: subject, predicate, object, confidence, start (None: now) and end."""
        start, end = now if said["start"] is None else said["start"], said["end"]
        subject, predicate, object = said["subject"], said["predicate"], said["object"]
        if start >= end:
            raise Refused
        one = predicate in self._one_valued
        believed = [row for row in state.facts if (row.subject, row.predicate) == (subject, predicate)]
        if one and end == FOREVER:
            end = min((row.start for row in believed if row.start > start), default=FOREVER)
        if any(
            (row.object, row.confidence) == (object, said["confidence"]) and row.start <= start and end <= row.end
            for row in believed
        ):
            return state
        entities = self._with_entities(state, (subject, object))

        def rival(row: Belief) -> bool:
            return (row.subject, row.predicate) == (subject, predicate) and (
                one or row.object == object or row.fact == fact
            )

        facts = carved(state.facts, start, end, rival, state.recorded)
        facts.append(Belief(fact, subject, predicate, object, said["confidence"], start, end, state.recorded))
        return State(state.recorded, tuple(facts), entities)

    def retracted(self, state: State, subject: str, predicate: str, object: str | None, start: int, end: int) -> State:
        def chosen(row: Belief) -> bool:
            return (row.subject, row.predicate) == (subject, predicate) and object in (None, row.object)

        return state._replace(facts=tuple(carved(state.facts, start, end, chosen, state.recorded)))

    def corrected(self, state: State, fact: int, change: dict[str, Any]) -> State:
        pieces = [row for row in state.facts if row.fact == fact]
        if not pieces:
            raise Refused
        start, end = change.get("start", EARLIEST - 1), change.get("end", FOREVER)
        met = [row for row in pieces if row.start < end and start < row.end]
        old = max(met or pieces, key=lambda row: row.start)
        new = old._replace(**change, recorded=state.recorded)
        if new.start >= new.end:
            raise Refused
        entities = self._with_entities(state, (new.object,))
        one = new.predicate in self._one_valued

        def rival(row: Belief) -> bool:
            return (row.subject, row.predicate) == (new.subject, new.predicate) and (
                one or row.object == new.object or row.fact == fact
            )

        others = [row for row in state.facts if row != old]
        facts = [*carved(others, new.start, new.end, rival, state.recorded), new]
        return State(state.recorded, tuple(facts), entities)

    def described(
        self, state: State, name: str, type: str | None, number: int | None, start: int | None, end: int
    ) -> State:
        """An entity said anew; `number` is its one property, None leaves what it has. `start` None was resolved by the caller."""
        believed = sorted((row for row in state.entities if row.name == name), key=lambda row: row.start)
        assert start is not None
        if start >= end:
            raise Refused
        before = next((row for row in believed if row.start <= start < row.end), believed[-1] if believed else None)
        type = type or (before.type if before else DEFAULT_TYPE)
        number = number if number is not None else (before.number if before else None)
        if any((row.type, row.number) == (type, number) and row.start <= start and end <= row.end for row in believed):
            return state
        entities = carved(state.entities, start, end, lambda row: row.name == name, state.recorded)
        return state._replace(entities=(*entities, Known(name, type, number, start, end, state.recorded)))

    def deleted(self, state: State, name: str) -> State:
        return State(
            state.recorded,
            tuple(row for row in state.facts if name not in (row.subject, row.object)),
            tuple(row for row in state.entities if row.name != name),
        )

    def _with_entities(self, state: State, names: tuple[str, ...]) -> tuple[Known, ...]:
        entities = state.entities
        for name in dict.fromkeys(names):
            if not any(row.name == name for row in entities):
                entities = (*entities, Known(name, DEFAULT_TYPE, None, EARLIEST, FOREVER, state.recorded))
        return entities

    # --- questions ----------------------------------------------------------------------------------------------------------

    def known(self, known_at: int | None) -> State:
        """Return what was believed at an instant, now without one."""
        if known_at is None:
            return self.last
        return next(state for state in reversed(self.states) if state.recorded <= known_at)

    def facts(self, known_at: int | None, as_of: int | None, chosen: Callable[[Belief], bool]) -> set[Belief]:
        """Return the chosen facts, of an instant or of any."""
        return {
            row for row in self.known(known_at).facts if chosen(row) and (as_of is None or row.start <= as_of < row.end)
        }

    def entities(self, known_at: int | None, as_of: int, chosen: Callable[[Known], bool]) -> set[Known]:
        """Return the chosen entities of an instant."""
        return {row for row in self.known(known_at).entities if chosen(row) and row.start <= as_of < row.end}
