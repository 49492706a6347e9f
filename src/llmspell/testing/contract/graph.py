"""What `Graph` promises."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidTime, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import Cardinality, Fact, FactCorrection, Graph, NewFact
from llmspell.testing.contract import day, new_tenant, open_tenant

MICROSECOND = timedelta(microseconds=1)
ONE: Cardinality = "one"


async def open_graph(backend: Backend) -> Graph:
    """Return the graph of a new tenant."""
    return (await open_tenant(backend)).graph


async def say(
    graph: Graph,
    subject: str,
    predicate: str,
    object: str,
    *period: datetime | None,
    cardinality: Cardinality | None = None,
    **fields: Any,
) -> Fact:
    """Assert a fact, for a period given as its start and its end."""
    start, end = (*period, None, None)[:2]
    new = NewFact(subject=subject, predicate=predicate, object=object, valid_from=start, valid_to=end, **fields)
    return await graph.assert_fact(new, cardinality=cardinality)


async def lives(
    graph: Graph, place: str, start: datetime | None = None, end: datetime | None = None, **fields: Any
) -> Fact:
    """Assert where Ada lives, which is one place at a time."""
    return await say(graph, "Ada", "lives_in", place, start, end, cardinality=ONE, **fields)


async def periods(graph: Graph, known_at: datetime | None = None) -> list[tuple[str, datetime, datetime | None]]:
    """Return where Ada is believed to live, and when."""
    found = await graph.facts(subject="Ada", predicate="lives_in", any_time=True, known_at=known_at, limit=1_000)
    return [(fact.object, fact.valid_from, fact.valid_to) for fact in found]


async def home(graph: Graph, as_of: datetime | None = None, known_at: datetime | None = None) -> list[str]:
    """Return where Ada lives at a moment."""
    found = await graph.facts(subject="Ada", predicate="lives_in", as_of=as_of, known_at=known_at)
    return [fact.object for fact in found]


def objects(facts: list[Fact]) -> list[str]:
    """Return the objects of facts, in order."""
    return [fact.object for fact in facts]


class GraphContract:
    """Subclass it in a test module; see the package."""

    # --- assertions ---------------------------------------------------------------------------------------------------

    async def test_a_fact_comes_back_as_it_was_asserted(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)

        fact = await graph.assert_fact(
            NewFact(
                subject="Ada",
                predicate="works_for",
                object="Zürich 🏔️",
                valid_from=day(2),
                valid_to=day(9),
                properties={"since": [1, None], "a": 0.5},
                confidence=0.75,
                source="a letter",
                actor="reader",
            )
        )

        assert (fact.subject, fact.predicate, fact.object) == ("Ada", "works_for", "Zürich 🏔️")
        assert (fact.properties, fact.confidence) == ({"since": [1, None], "a": 0.5}, 0.75)
        assert (fact.valid_from, fact.valid_to, fact.recorded_to) == (day(2), day(9), None)
        assert fact.recorded_from >= clock.now()
        assert (fact.source, fact.actor) == ("a letter", "reader")
        assert await graph.facts(subject="Ada", as_of=day(2)) == [fact]
        assert await graph.history(fact.id) == [fact]

    async def test_a_fact_without_a_date_is_true_from_now_on_and_seen_at_once(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)

        for place in ("Paris", "Zurich", "Rome"):  # the clock stands still
            fact = await lives(graph, place)
            assert (fact.valid_from, fact.valid_to) == (clock.now(), None)
            assert await home(graph) == [place]

    async def test_entities_are_created_as_from_the_earliest_instant(self, backend: Backend) -> None:
        graph = await open_graph(backend)

        fact = await say(graph, "Ada", "lives_in", "Paris", day(5), subject_type="person", object_type="city")

        ada = await graph.get_entity("Ada", as_of=datetime.fromisoformat("0001-01-01T00:00:00+00:00"))
        paris = await graph.get_entity(fact.object_id)
        assert ada is not None
        assert paris is not None
        assert (ada.id, ada.name, ada.type, ada.valid_to) == (fact.subject_id, "Ada", "person", None)
        assert (paris.name, paris.type) == ("Paris", "city")

    async def test_an_entity_that_exists_keeps_its_type(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await graph.upsert_entity("Ada", type="person")

        await say(graph, "Ada", "lives_in", "Paris", subject_type="city")

        ada = await graph.get_entity("Ada")
        assert ada is not None
        assert ada.type == "person"

    async def test_names_are_compared_by_code_points(self, backend: Backend) -> None:
        graph = await open_graph(backend)

        for name in ("Ada", "ada", "é", "e\u0301", "Ada "):
            await say(graph, name, "is", "known")

        assert (await graph.stats()).entities == 6

    async def test_an_undeclared_predicate_holds_many_values(self, backend: Backend) -> None:
        graph = await open_graph(backend)

        await say(graph, "Ada", "knows", "Bob", day(1))
        await say(graph, "Ada", "knows", "Cy", day(2))

        assert objects(await graph.facts(subject="Ada", as_of=day(2))) == ["Bob", "Cy"]
        assert await graph.predicates() == {}

    async def test_asserting_the_same_again_appends_nothing(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        first = await lives(graph, "Paris", day(1), properties={"a": 1}, confidence=0.5, source="s")
        clock.advance(days=1)

        same = [
            await lives(graph, "Paris", day(1), properties={"a": 1}, confidence=0.5, source="s"),
            await lives(graph, "Paris", properties={"a": 1}, confidence=0.5, source="s"),
            await lives(graph, "Paris", day(3), day(4), properties={"a": 1}, confidence=0.5, source="s"),
        ]

        assert same == [first, first, first]
        assert await graph.history(first.id) == [first]

    @pytest.mark.parametrize(
        "other",
        [{"properties": {"a": 2}}, {"properties": {"a": True}}, {"confidence": 0.25}],
        ids=["properties", "type", "confidence"],
    )
    async def test_other_content_of_the_same_fact_replaces_it_during_the_new_period_only(
        self, backend: Backend, other: dict[str, Any]
    ) -> None:
        graph = await open_graph(backend)
        content: dict[str, Any] = {"properties": {"a": 1}, "confidence": 0.5}
        first = await say(graph, "Ada", "knows", "Bob", day(1), day(20), **content)

        second = await say(graph, "Ada", "knows", "Bob", day(5), day(9), **{**content, **other})

        assert second.id == first.id
        believed = await graph.facts(subject="Ada", any_time=True)
        assert [(one.valid_from, one.valid_to) for one in believed] == [
            (day(1), day(5)),
            (day(5), day(9)),
            (day(9), day(20)),
        ]
        assert [one.confidence for one in believed] == [0.5, second.confidence, 0.5]
        assert [one.properties for one in believed] == [{"a": 1}, second.properties, {"a": 1}]
        assert {type(one.properties["a"]) for one in believed[::2]} == {int}

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (1, 3, [("new", 1, 3), ("old", 5, 9)]),
            (1, 5, [("new", 1, 5), ("old", 5, 9)]),
            (1, 7, [("new", 1, 7), ("old", 7, 9)]),
            (1, 9, [("new", 1, 9)]),
            (1, 12, [("new", 1, 12)]),
            (5, 7, [("new", 5, 7), ("old", 7, 9)]),
            (5, 9, [("new", 5, 9)]),
            (5, 12, [("new", 5, 12)]),
            (6, 8, [("old", 5, 6), ("new", 6, 8), ("old", 8, 9)]),
            (6, 9, [("old", 5, 6), ("new", 6, 9)]),
            (6, 12, [("old", 5, 6), ("new", 6, 12)]),
            (9, 12, [("old", 5, 9), ("new", 9, 12)]),
            (10, 12, [("old", 5, 9), ("new", 10, 12)]),
            (1, None, [("new", 1, 5), ("old", 5, 9)]),
            (5, None, [("new", 5, None)]),
            (6, None, [("old", 5, 6), ("new", 6, None)]),
            (9, None, [("old", 5, 9), ("new", 9, None)]),
        ],
    )
    async def test_a_predicate_of_one_value_gives_its_period_to_the_new_fact(
        self, backend: Backend, start: int, end: int | None, expected: list[tuple[str, int, int | None]]
    ) -> None:
        graph = await open_graph(backend)
        await lives(graph, "old", day(5), day(9))

        await lives(graph, "new", day(start), None if end is None else day(end))

        assert await periods(graph) == [
            (place, day(begins), None if ends is None else day(ends)) for place, begins, ends in expected
        ]

    async def test_a_new_fact_takes_its_period_from_all_that_it_overlaps(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for place, start, end in (("a", 1, 5), ("b", 5, 8), ("c", 8, 12), ("d", 14, 20)):
            await lives(graph, place, day(start), day(end))

        await lives(graph, "new", day(3), day(10))

        assert await periods(graph) == [
            ("a", day(1), day(3)),
            ("new", day(3), day(10)),
            ("c", day(10), day(12)),
            ("d", day(14), day(20)),
        ]

    async def test_a_fact_that_arrives_late_ends_where_the_next_known_one_begins(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        clock.set(day(100))
        await lives(graph, "Zurich", day(50))
        clock.set(day(110))

        late = await lives(graph, "Paris", day(10))

        assert late.valid_to == day(50)
        assert await home(graph) == ["Zurich"]
        assert await home(graph, as_of=day(20)) == ["Paris"]
        assert await home(graph, as_of=day(20), known_at=day(105)) == []

    async def test_facts_of_other_subjects_and_predicates_do_not_give_way(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await lives(graph, "Paris", day(1))
        await say(graph, "Bob", "lives_in", "Paris", day(1))
        await say(graph, "Ada", "born_in", "Paris", day(1))

        await lives(graph, "Zurich", day(1))

        assert objects(await graph.facts(subject="Bob")) == ["Paris"]
        assert objects(await graph.facts(predicate="born_in")) == ["Paris"]
        assert await home(graph, as_of=day(2)) == ["Zurich"]

    async def test_a_cardinality_is_declared_once(self, backend: Backend) -> None:
        graph = await open_graph(backend)

        await graph.declare("lives_in", "one")
        await graph.declare("lives_in", "one")
        await graph.declare("knows", "many")

        assert await graph.predicates() == {"knows": "many", "lives_in": "one"}
        with pytest.raises(Conflict):
            await graph.declare("lives_in", "many")
        with pytest.raises(Conflict):
            await say(graph, "Ada", "knows", "Bob", cardinality="one")
        assert await graph.facts(subject="Ada") == []
        assert await graph.get_entity("Ada") is None

    async def test_one_value_cannot_be_declared_over_beliefs_that_overlap(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await say(graph, "Ada", "lives_in", "Paris", day(1), day(5))
        await say(graph, "Ada", "lives_in", "Rome", day(4), day(9))
        await say(graph, "Bob", "lives_in", "Rome", day(4), day(9))

        with pytest.raises(Conflict):
            await graph.declare("lives_in", "one")
        await graph.retract("Ada", "lives_in", "Paris", valid_from=day(4))
        await graph.declare("lives_in", "one")

        assert await graph.predicates() == {"lives_in": "one"}

    # --- the two axes -------------------------------------------------------------------------------------------------

    async def test_valid_periods_are_half_open(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await lives(graph, "Paris", day(1), day(5))
        await lives(graph, "Zurich", day(5), day(9))

        assert await home(graph, as_of=day(1) - MICROSECOND) == []
        assert await home(graph, as_of=day(1)) == ["Paris"]
        assert await home(graph, as_of=day(5) - MICROSECOND) == ["Paris"]
        assert await home(graph, as_of=day(5)) == ["Zurich"]
        assert await home(graph, as_of=day(9) - MICROSECOND) == ["Zurich"]
        assert await home(graph, as_of=day(9)) == []

    async def test_recorded_periods_are_half_open(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        first = await lives(graph, "Paris", day(1))
        clock.set(day(10))
        second = await lives(graph, "Zurich", day(1))
        clock.set(day(20))

        at = day(15)
        assert await home(graph, at, first.recorded_from - MICROSECOND) == []
        assert await home(graph, at, first.recorded_from) == ["Paris"]
        assert await home(graph, at, second.recorded_from - MICROSECOND) == ["Paris"]
        assert await home(graph, at, second.recorded_from) == ["Zurich"]
        closed = (await graph.history(first.id))[0]
        assert closed.recorded_to == second.recorded_from

    async def test_what_was_true_and_what_was_known_are_two_questions(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        clock.set(day(10))
        await lives(graph, "Paris", day(1))
        clock.set(day(40))
        await lives(graph, "Zurich", day(30))  # she had moved ten days before we heard of it

        assert await home(graph) == ["Zurich"]
        assert await home(graph, as_of=day(35)) == ["Zurich"]
        assert await home(graph, as_of=day(35), known_at=day(35)) == ["Paris"]
        assert await home(graph, as_of=day(20)) == ["Paris"]
        assert await home(graph, as_of=day(20), known_at=day(5)) == []
        assert await periods(graph, known_at=day(35)) == [("Paris", day(1), None)]
        assert await periods(graph) == [("Paris", day(1), day(30)), ("Zurich", day(30), None)]

    async def test_true_now_is_the_default_of_every_read(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        clock.set(day(10))
        await lives(graph, "Paris", day(1), day(5))
        await lives(graph, "Zurich", day(5), day(20))
        await lives(graph, "Rome", day(20))
        await say(graph, "Ada", "knew", "Bob", day(1), day(2))
        await say(graph, "Ada", "knew", "Cy", day(1))
        await graph.retract("Ada", "knew", "Cy")

        assert await home(graph) == ["Zurich"]
        assert objects(await graph.neighbours("Ada")) == ["Zurich"]
        assert [one.name for one in await graph.traverse("Ada", max_depth=6)] == ["Zurich"]
        assert [path.entities for path in await graph.paths("Ada", "Zurich")] == [("Ada", "Zurich")]
        assert await graph.paths("Ada", "Paris") == []
        clock.set(day(20))
        assert await home(graph) == ["Rome"]

    async def test_recorded_instants_strictly_increase_though_the_clock_does_not(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        facts = []
        for n in range(6):
            facts.append(await say(graph, "Ada", "knows", f"friend {n}"))
            clock.advance(seconds=-1)

        instants = [fact.recorded_from for fact in facts]
        assert instants == sorted(set(instants))

    async def test_one_transaction_has_one_recorded_instant(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        graph = backend.storages(tenant).graph
        before = await say(graph, "Ada", "knows", "Bob")

        async with backend.transaction(tenant) as tx:
            first = await say(tx.graph, "Ada", "knows", "Cy")
            clock.advance(seconds=5)
            second = await say(tx.graph, "Dan", "knows", "Eve")
            entity = await tx.graph.upsert_entity("Fay")
        after = await say(graph, "Ada", "knows", "Gus")

        dan = await graph.get_entity("Dan")
        assert dan is not None
        assert {first.recorded_from, second.recorded_from, entity.recorded_from, dan.recorded_from} == {
            first.recorded_from
        }
        assert before.recorded_from < first.recorded_from < after.recorded_from

    async def test_what_one_transaction_takes_back_was_never_believed(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await lives(tx.graph, "Paris", day(1))
            second = await lives(tx.graph, "Zurich", day(1))

        graph = backend.storages(tenant).graph
        assert await periods(graph, known_at=second.recorded_from) == [("Zurich", day(1), None)]
        assert (await graph.stats()).fact_versions == 1

    async def test_concurrent_assertions_leave_beliefs_that_do_not_overlap(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await graph.declare("lives_in", "one")

        async def move(number: int) -> None:
            for _ in range(50):
                try:
                    await say(graph, "Ada", "lives_in", f"place {number}", day(1 + number % 4), day(9 + number))
                except Conflict:
                    continue
                return
            raise AssertionError("the assertion conflicted every time")

        await asyncio.gather(*(move(number) for number in range(8)))

        believed = await periods(graph)
        assert all(ends is not None and ends <= begins for (_, _, ends), (_, begins, _) in itertools.pairwise(believed))
        recorded = [one.recorded_from for one in await graph.facts(predicate="lives_in", any_time=True)]
        assert (await graph.stats()).fact_versions >= len(recorded) >= 1

    # --- retraction and correction ------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (None, None, []),
            (7, None, [(5, 7)]),
            (None, 7, [(7, 9)]),
            (6, 8, [(5, 6), (8, 9)]),
            (5, 9, []),
            (1, 20, []),
            (5, 6, [(6, 9)]),
            (8, 9, [(5, 8)]),
        ],
    )
    async def test_a_retraction_withdraws_a_part_and_keeps_the_rest(
        self,
        backend: Backend,
        clock: ManualClock,
        start: int | None,
        end: int | None,
        expected: list[tuple[int, int]],
    ) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(5), day(9), properties={"a": 1}, source="a letter")
        clock.set(day(2))

        touched = await graph.retract(
            "Ada",
            "lives_in",
            valid_from=None if start is None else day(start),
            valid_to=None if end is None else day(end),
        )

        assert touched == 1
        assert await periods(graph) == [("Paris", day(begins), day(ends)) for begins, ends in expected]
        kept = await graph.facts(subject="Ada", any_time=True)
        assert {(one.id, one.source, one.properties["a"]) for one in kept} <= {(fact.id, "a letter", 1)}
        assert await periods(graph, known_at=fact.recorded_from) == [("Paris", day(5), day(9))]

    @pytest.mark.parametrize(("start", "end"), [(1, 5), (9, None), (9, 12)])
    async def test_a_retraction_beside_the_period_touches_nothing(
        self, backend: Backend, start: int, end: int | None
    ) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(5), day(9))

        touched = await graph.retract(
            "Ada", "lives_in", "Paris", valid_from=day(start), valid_to=None if end is None else day(end)
        )

        assert touched == 0
        assert await graph.history(fact.id) == [fact]

    async def test_a_retraction_chooses_by_object_or_takes_all(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for name in ("Bob", "Cy", "Dan"):
            await say(graph, "Ada", "knows", name)

        assert await graph.retract("Ada", "knows", "Bob") == 1
        assert await graph.retract("Ada", "knows", "nobody") == 0
        assert await graph.retract("nobody", "knows") == 0
        assert await graph.retract("Ada", "knows") == 2
        assert await graph.retract("Ada", "knows") == 0
        assert await graph.facts(subject="Ada") == []

    async def test_a_retracted_fact_can_be_asserted_again(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await lives(graph, "Paris", day(1))
        await graph.retract("Ada", "lives_in")

        again = await lives(graph, "Paris", day(1))

        assert await graph.facts(subject="Ada", as_of=day(1)) == [again]

    async def test_a_correction_keeps_what_was_known_before(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        clock.set(day(10))
        wrong = await lives(graph, "Paris", day(1), day(9), confidence=0.5, properties={"a": 1})
        clock.set(day(20))

        right = await graph.correct(wrong.id, FactCorrection(object="Zurich", confidence=0.9, actor="editor"))

        assert right.id == wrong.id
        assert (right.object, right.confidence, right.properties) == ("Zurich", 0.9, {"a": 1})
        assert (right.valid_from, right.valid_to, right.actor) == (day(1), day(9), "editor")
        assert await periods(graph) == [("Zurich", day(1), day(9))]
        assert await periods(graph, known_at=day(15)) == [("Paris", day(1), day(9))]
        before, after = await graph.history(wrong.id)
        assert (before.object, before.recorded_to) == ("Paris", right.recorded_from)
        assert after == right

    async def test_a_correction_may_move_a_period(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(5), day(9))

        await graph.correct(fact.id, FactCorrection(valid_from=day(3), valid_to=None))
        assert await periods(graph) == [("Paris", day(3), None)]
        await graph.correct(fact.id, FactCorrection(valid_to=day(7)))
        assert await periods(graph) == [("Paris", day(3), day(7))]

    async def test_a_correction_makes_other_facts_of_one_value_give_way(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        first = await lives(graph, "Paris", day(1), day(5))
        await lives(graph, "Zurich", day(5), day(9))

        await graph.correct(first.id, FactCorrection(valid_to=day(7)))

        assert await periods(graph) == [("Paris", day(1), day(7)), ("Zurich", day(7), day(9))]

    async def test_a_fact_that_is_not_believed_cannot_be_corrected(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(1))
        await graph.retract("Ada", "lives_in")

        for id in (fact.id, uuid4()):
            with pytest.raises(NotFound):
                await graph.correct(id, FactCorrection(object="Rome"))
        assert await graph.get_entity("Rome") is None

    async def test_a_corrected_fact_and_the_old_one_asserted_again_are_two(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        wrong = await say(graph, "Ada", "knows", "Bob", day(1))
        await graph.correct(wrong.id, FactCorrection(object="Cy"))

        again = await say(graph, "Ada", "knows", "Bob", day(1))

        assert again.id != wrong.id
        assert sorted(objects(await graph.facts(subject="Ada", as_of=day(1)))) == ["Bob", "Cy"]

    async def test_a_correction_that_reverses_the_period_changes_nothing(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(5), day(9))

        for correction in (FactCorrection(valid_from=day(9)), FactCorrection(valid_to=day(5))):
            with pytest.raises(InvalidTime) as caught:
                await graph.correct(fact.id, correction)
            assert caught.value.field == "valid_to"

        assert await graph.history(fact.id) == [fact]
