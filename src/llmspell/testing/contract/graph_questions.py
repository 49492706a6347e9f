"""What `Graph` promises of entities, and of what can be asked."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidInput, InvalidLimit, InvalidTime, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import FactCorrection, GraphStats
from llmspell.testing.contract import DAY, day, ids_of
from llmspell.testing.contract.graph import MICROSECOND, home, lives, objects, open_graph, periods, say


class GraphQuestionsContract:
    """Subclass it in a test module; see the package."""

    # --- entities -----------------------------------------------------------------------------------------------------

    async def test_an_entity_is_created_once_by_name(self, backend: Backend) -> None:
        graph = await open_graph(backend)

        first = await graph.upsert_entity("Ada", type="person", properties={"a": [1]}, source="s", actor="x")
        again = await graph.upsert_entity("Ada", type="person", properties={"a": [1]})

        assert again == first
        assert (first.type, first.properties, first.source, first.actor) == ("person", {"a": [1]}, "s", "x")
        assert await graph.get_entity("Ada") == await graph.get_entity(first.id) == first
        assert await graph.entity_history("Ada") == [first]

    async def test_a_new_version_of_an_entity_holds_from_now_on(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        first = await graph.upsert_entity("Ada", type="person", properties={"title": "Ms"})
        clock.set(day(50))

        second = await graph.upsert_entity("Ada", properties={"title": "Dr"})

        assert (second.id, second.type, second.valid_from, second.valid_to) == (first.id, "person", day(50), None)
        now, then = await graph.get_entity("Ada"), await graph.get_entity("Ada", as_of=day(50) - MICROSECOND)
        known = await graph.get_entity("Ada", known_at=first.recorded_from)
        assert [one.properties["title"] for one in (now, then, known) if one is not None] == ["Dr", "Ms", "Ms"]
        assert len(await graph.entity_history(first.id)) == 3

    async def test_a_version_of_an_entity_for_a_period_leaves_the_rest(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await graph.upsert_entity("Ada", properties={"n": 1})

        await graph.upsert_entity("Ada", properties={"n": 2}, valid_from=day(5), valid_to=day(9))

        seen = [await graph.get_entity("Ada", as_of=day(number)) for number in (4, 5, 8, 9)]
        assert [one.properties["n"] for one in seen if one is not None] == [1, 2, 2, 1]

    async def test_entities_are_listed_in_byte_order_of_names(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        names = ["b", "a", "B", "é", "😀", "～", "ab"]
        for name in names:
            await graph.upsert_entity(name, type="letter" if len(name) == 1 else "word")

        listed = [one.name for one in await graph.list_entities()]

        assert listed == sorted(names, key=str.encode)
        assert [one.name for one in await graph.list_entities(after=listed[2], limit=2)] == listed[3:5]
        assert [one.name for one in await graph.list_entities(type="word")] == ["ab"]

    async def test_entities_are_listed_as_of_a_moment(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        clock.set(day(10))
        first = await graph.upsert_entity("Ada")
        await graph.upsert_entity("Bob", valid_from=day(8), valid_to=day(9))

        assert [one.name for one in await graph.list_entities()] == ["Ada"]
        assert [one.name for one in await graph.list_entities(as_of=day(8))] == ["Ada", "Bob"]
        assert [one.name for one in await graph.list_entities(as_of=day(8), known_at=first.recorded_from)] == ["Ada"]

    async def test_a_deleted_entity_and_its_facts_are_no_longer_believed(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(1))
        await say(graph, "Bob", "knows", "Ada", day(1))
        await say(graph, "Bob", "knows", "Cy", day(1))
        clock.set(day(10))

        assert await graph.delete_entity("Ada")
        assert not await graph.delete_entity("Ada")
        assert not await graph.delete_entity("nobody")

        assert await graph.get_entity("Ada") is None
        assert await graph.neighbours("Ada") == []
        assert objects(await graph.facts(subject="Bob")) == ["Cy"]
        assert await home(graph, day(5), day(5)) == ["Paris"]
        assert await graph.get_entity("Ada", known_at=day(5)) is not None
        assert (await graph.history(fact.id))[0].recorded_to is not None

    async def test_a_deleted_name_means_the_same_entity_when_it_returns(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        first = await graph.upsert_entity("Ada")
        await graph.delete_entity(first.id)

        fact = await say(graph, "Ada", "knows", "Bob")

        assert fact.subject_id == first.id
        assert len(await graph.entity_history("Ada")) == 2

    async def test_mentioned_entities_are_found_whatever_their_case(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        for name in ("Ada Lovelace", "STRASSE", "Bob", "Gone"):
            await graph.upsert_entity(name)
        await graph.upsert_entity("Past", valid_to=day(1))
        await graph.delete_entity("Gone")

        found = await graph.mentioned(["ada lovelace", "straße", "nobody", "gone", "past", "Ada"])

        assert [one.name for one in found] == ["Ada Lovelace", "STRASSE"]
        assert [one.name for one in await graph.mentioned(["BOB", "STRASSE"], limit=1)] == ["Bob"]
        assert await graph.mentioned([]) == []

    async def test_mentioned_entities_are_those_of_the_moment_that_is_asked_for(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        clock.set(day(10))
        await graph.upsert_entity("Gone")
        await graph.upsert_entity("Past", valid_to=day(5))
        clock.set(day(20))
        await graph.delete_entity("Gone")
        await graph.upsert_entity("New")

        async def found(**moment: Any) -> list[str]:
            return [one.name for one in await graph.mentioned(["gone", "PAST", "new"], **moment)]

        assert await found() == ["New"]
        assert await found(known_at=day(15)) == ["Gone"]
        assert await found(as_of=day(4)) == ["New", "Past"]
        assert await found(as_of=day(4), known_at=day(15)) == ["Gone", "Past"]
        assert await found(known_at=day(9)) == []
        with pytest.raises(InvalidTime):
            await found(as_of=datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose

    # --- questions ----------------------------------------------------------------------------------------------------

    async def test_facts_are_found_by_any_of_their_parts(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await say(graph, "Ada", "knows", "Bob", day(1))
        await say(graph, "Ada", "likes", "Cy", day(1))
        await say(graph, "Dan", "knows", "Cy", day(1))

        async def found(**parts: str) -> set[tuple[str, str, str]]:
            facts = await graph.facts(**parts, as_of=day(1))  # type: ignore[arg-type]
            return {(one.subject, one.predicate, one.object) for one in facts}

        assert await found(subject="Ada") == {("Ada", "knows", "Bob"), ("Ada", "likes", "Cy")}
        assert await found(predicate="knows") == {("Ada", "knows", "Bob"), ("Dan", "knows", "Cy")}
        assert await found(object="Cy") == {("Ada", "likes", "Cy"), ("Dan", "knows", "Cy")}
        assert await found(subject="Ada", object="Cy") == {("Ada", "likes", "Cy")}
        assert await found(subject="nobody") == set()
        with pytest.raises(InvalidInput):
            await graph.facts()

    async def test_facts_are_in_order_of_their_beginning_then_id(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for number in (3, 1, 2, 1):
            await say(graph, "Ada", "knows", f"{uuid4()}", day(number))

        found = await graph.facts(subject="Ada", any_time=True)

        assert found == sorted(found, key=lambda one: (one.valid_from, one.id))
        assert await graph.facts(subject="Ada", any_time=True, limit=2) == found[:2]

    async def test_neighbours_have_a_direction_and_a_predicate(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        out = await say(graph, "Ada", "knows", "Bob", day(2))
        first = await say(graph, "Ada", "knows", "Cy", day(1))
        into = await say(graph, "Dan", "hires", "Ada", day(1))
        await say(graph, "Dan", "knows", "Bob", day(1))

        async def ids(**question: Any) -> list[object]:
            return list(ids_of(await graph.neighbours("Ada", as_of=day(2), **question)))

        assert await ids() == [into.id, first.id, out.id]
        assert await ids(direction="out") == [first.id, out.id]
        assert await ids(direction="in") == [into.id]
        assert await ids(predicate="knows") == [first.id, out.id]
        assert await ids(limit=2) == [into.id, first.id]
        assert ids_of(await graph.neighbours(out.subject_id, direction="in", as_of=day(2))) == [into.id]
        assert await graph.neighbours("nobody") == []
        assert await graph.neighbours(uuid4()) == []

    async def test_half_of_all_facts_invalidated_and_none_is_returned(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for number in range(20):
            await say(graph, "Ada", "knows", f"friend {number:02}")
        for number in range(0, 20, 2):
            await graph.retract("Ada", "knows", f"friend {number:02}")

        found = await graph.neighbours("Ada", limit=10)

        assert sorted(objects(found)) == [f"friend {number:02}" for number in range(1, 20, 2)]

    async def test_a_traversal_goes_nearest_first_and_meets_each_once(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for subject, predicate, object in (
            ("Ada", "knows", "Cy"), ("Ada", "knows", "Bob"), ("Dan", "knows", "Bob"), ("Cy", "knows", "Dan"),
            ("Dan", "likes", "Eve"), ("Eve", "knows", "Ada"), ("Eve", "knows", "Fay"), ("Gus", "knows", "Gus"),
        ):  # fmt: skip
            await say(graph, subject, predicate, object)

        near = await graph.traverse("Ada", max_depth=1)
        far = await graph.traverse("Ada", max_depth=2)

        assert [(one.name, one.depth) for one in near] == [("Bob", 1), ("Cy", 1), ("Eve", 1)]
        assert [(one.name, one.depth) for one in far[3:]] == [("Dan", 2), ("Fay", 2)]
        assert all(len(one.facts) == one.depth for one in far)
        assert [one.name for one in await graph.traverse("Ada", max_depth=2, limit=4)] == ["Bob", "Cy", "Eve", "Dan"]
        known = await graph.traverse("Ada", predicate="knows", max_depth=6)
        assert [(one.name, one.depth) for one in known] == [("Bob", 1), ("Cy", 1), ("Eve", 1), ("Dan", 2), ("Fay", 2)]
        assert await graph.traverse("nobody") == []
        assert await graph.traverse("Gus") == []

    async def test_a_traversal_goes_at_most_six_steps(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for number in range(8):
            await say(graph, f"n{number}", "next", f"n{number + 1}")

        assert [one.name for one in await graph.traverse("n0", max_depth=6)] == [f"n{n}" for n in range(1, 7)]
        with pytest.raises(InvalidLimit):
            await graph.traverse("n0", max_depth=7)

    async def test_paths_are_shortest_first_and_repeat_no_entity(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        for subject, object in (("a", "b"), ("b", "d"), ("a", "c"), ("c", "d"), ("b", "c"), ("d", "e"), ("a", "z")):
            await say(graph, subject, "next", object)

        found = await graph.paths("a", "d")

        assert [path.entities for path in found] == [
            ("a", "b", "d"),
            ("a", "c", "d"),
            ("a", "b", "c", "d"),
            ("a", "c", "b", "d"),
        ]
        assert all(len(path.facts) == len(path.entities) - 1 for path in found)
        assert [path.entities for path in await graph.paths("a", "d", limit=1)] == [("a", "b", "d")]
        assert [path.entities for path in await graph.paths("a", "d", max_depth=2)] == [
            ("a", "b", "d"),
            ("a", "c", "d"),
        ]
        assert [path.entities for path in await graph.paths("e", "a", max_depth=3)] == [
            ("e", "d", "b", "a"),
            ("e", "d", "c", "a"),
        ]
        assert await graph.paths("a", "nobody") == []
        assert await graph.paths("a", "e", max_depth=2) == []

    async def test_walks_follow_the_moment_that_is_asked_for(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        first = await say(graph, "a", "next", "b", day(1), day(5))
        await say(graph, "b", "next", "c", day(3), day(9))

        assert [one.name for one in await graph.traverse("a", as_of=day(2))] == ["b"]
        assert [one.name for one in await graph.traverse("a", as_of=day(4))] == ["b", "c"]
        assert [one.name for one in await graph.traverse("a", as_of=day(4), known_at=first.recorded_from)] == ["b"]
        assert [path.entities for path in await graph.paths("a", "c", as_of=day(4))] == [("a", "b", "c")]
        assert await graph.paths("a", "c", as_of=day(6)) == []

    async def test_history_is_in_order_of_recording_then_of_time(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(1), day(20))
        clock.advance(seconds=1)
        await graph.retract("Ada", "lives_in", valid_from=day(5), valid_to=day(9))
        clock.advance(seconds=1)
        await graph.correct(fact.id, FactCorrection(valid_to=day(30)))

        history = await graph.history(fact.id)

        assert [(one.valid_from, one.valid_to) for one in history] == [
            (day(1), day(20)),
            (day(1), day(5)),
            (day(9), day(20)),
            (day(9), day(30)),  # a correction speaks of the latest piece that meets its dates, and the others stay
        ]
        assert [one.recorded_to is None for one in history] == [False, True, False, True]
        assert await graph.history(uuid4()) == []
        assert await graph.entity_history("nobody") == []

    async def test_statistics_count_what_is_true_now_and_all_versions(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        assert await graph.stats() == GraphStats(entities=0, facts=0, entity_versions=0, fact_versions=0)
        await lives(graph, "Paris", day(1))
        clock.set(day(10))
        await lives(graph, "Zurich", day(5))

        assert await graph.stats() == GraphStats(entities=3, facts=1, entity_versions=3, fact_versions=3)

    async def test_old_beliefs_are_pruned_in_bounded_steps(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        for number in range(4):
            clock.set(day(10 + number))
            await lives(graph, f"place {number}", day(1), day(30))
        clock.set(day(40))

        assert await graph.delete_before(day(13), limit=1) == 1
        assert await graph.delete_before(day(13), limit=10) == 1
        assert await graph.delete_before(day(13), limit=10) == 0

        assert await periods(graph) == [("place 3", day(1), day(30))]
        assert (await graph.stats()).fact_versions == 2
        assert await home(graph, day(20), day(12) + DAY / 2) == ["place 2"]

    async def test_another_tenant_knows_nothing(self, backend: Backend) -> None:
        ours, theirs = await open_graph(backend), await open_graph(backend)
        fact = await lives(ours, "Paris", day(1))

        assert await theirs.get_entity("Ada") is None
        assert await theirs.get_entity(fact.subject_id) is None
        assert await theirs.facts(subject="Ada", any_time=True) == []
        assert await theirs.neighbours(fact.subject_id) == []
        assert await theirs.history(fact.id) == []
        assert await theirs.predicates() == {}
        assert await theirs.retract("Ada", "lives_in") == 0
        assert not await theirs.delete_entity(fact.subject_id)
        with pytest.raises(NotFound):
            await theirs.correct(fact.id, FactCorrection(object="Rome"))
        await theirs.declare("lives_in", "many")
        assert await periods(ours) == [("Paris", day(1), None)]
