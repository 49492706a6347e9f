"""What `Graph` promises of changes that meet: calls of one transaction, pieces of one fact, what pruning leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidTime, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import Fact, FactCorrection, Graph, NewFact
from llmspell.testing.contract import day, new_tenant
from llmspell.testing.contract.graph import lives, open_graph, say

Pieces = list[tuple[str, int, int | None, float | None]]


def pieces(facts: list[Fact]) -> Pieces:
    """Return objects, first days, last days and confidences of facts, by day."""
    found = [(one.object, *(at and (at - day(1)).days + 1 for at in (one.valid_from, one.valid_to))) for one in facts]
    return sorted((*where, one.confidence) for where, one in zip(found, facts, strict=True))  # type: ignore[misc]


async def believed(graph: Graph) -> Pieces:
    """Return what is believed of Ada."""
    return pieces(await graph.facts(subject="Ada", any_time=True))


async def in_two_pieces(graph: Graph) -> Fact:
    """Assert that Ada works at X, but for the days 5 to 8."""
    fact = await say(graph, "Ada", "works_at", "X", day(1), day(20))
    await graph.retract("Ada", "works_at", "X", valid_from=day(5), valid_to=day(9))
    return fact


class GraphChangesContract:
    """Subclass it in a test module; see the package."""

    # --- one transaction ----------------------------------------------------------------------------------------------

    async def test_concurrent_calls_of_one_transaction_share_its_recorded_instant(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            facts = await asyncio.gather(*(say(tx.graph, "Ada", "likes", name) for name in ("tea", "rain", "Bob")))

        assert len({fact.recorded_from for fact in facts}) == 1

    async def test_concurrent_calls_of_one_transaction_take_back_what_it_recorded(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await say(tx.graph, "Ada", "likes", "rain")
            await asyncio.gather(*(say(tx.graph, "Ada", "likes", name) for name in ("tea", "snow", "Bob")))
            await asyncio.gather(*(tx.graph.retract("Ada", "likes", name) for name in ("rain", "tea", "snow", "Bob")))

        assert (await backend.storages(tenant).graph.stats()).fact_versions == 0

    async def test_a_call_that_fails_leaves_the_recorded_instant_to_the_others(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await tx.graph.declare("likes", "many")
            clock.advance(seconds=1)
            results = await asyncio.gather(
                say(tx.graph, "Ada", "likes", "tea", cardinality="one"),
                say(tx.graph, "Ada", "likes", "rain"),
                say(tx.graph, "Ada", "likes", "snow", cardinality="one"),
                say(tx.graph, "Ada", "likes", "Bob"),
                return_exceptions=True,
            )

        assert [type(one) for one in results] == [Conflict, Fact, Conflict, Fact]
        assert len({one.recorded_from for one in results if isinstance(one, Fact)}) == 1

    async def test_a_transaction_whose_first_change_failed_still_has_one_instant(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)
        await backend.storages(tenant).graph.declare("likes", "many")

        async with backend.transaction(tenant) as tx:
            with pytest.raises(Conflict):
                await say(tx.graph, "Ada", "likes", "tea", cardinality="one")
            clock.advance(seconds=1)
            first, second = await asyncio.gather(
                say(tx.graph, "Ada", "likes", "rain"), say(tx.graph, "Ada", "likes", "snow")
            )
        after = await say(backend.storages(tenant).graph, "Ada", "likes", "tea")

        assert first.recorded_from == second.recorded_from < after.recorded_from

    # --- the pieces of a fact -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("dates", "expected"),
        [
            ({}, [("X", 1, 5, None), ("X", 9, 20, 0.5)]),
            ({"valid_from": 12}, [("X", 1, 5, None), ("X", 12, 20, 0.5)]),
            ({"valid_from": 3}, [("X", 1, 3, None), ("X", 3, 20, 0.5)]),
            ({"valid_from": 1}, [("X", 1, 20, 0.5)]),
            ({"valid_to": 30}, [("X", 1, 5, None), ("X", 9, 30, 0.5)]),
            ({"valid_to": None}, [("X", 1, 5, None), ("X", 9, None, 0.5)]),
            ({"valid_to": 3}, [("X", 1, 3, 0.5), ("X", 9, 20, None)]),
            ({"valid_from": 1, "valid_to": 5}, [("X", 1, 5, 0.5), ("X", 9, 20, None)]),
            ({"valid_from": 2, "valid_to": 7}, [("X", 2, 7, 0.5), ("X", 9, 20, None)]),
            ({"valid_from": 3, "valid_to": 12}, [("X", 1, 3, None), ("X", 3, 12, 0.5)]),
            ({"valid_from": 6, "valid_to": 7}, [("X", 1, 5, None), ("X", 6, 7, 0.5)]),
        ],
    )
    async def test_a_correction_speaks_of_one_piece_and_the_others_stay(
        self, backend: Backend, dates: dict[str, int | None], expected: Pieces
    ) -> None:
        graph = await open_graph(backend)
        fact = await in_two_pieces(graph)
        told: dict[str, Any] = {name: None if number is None else day(number) for name, number in dates.items()}

        await graph.correct(fact.id, FactCorrection(confidence=0.5, **told))

        assert await believed(graph) == expected

    async def test_a_correction_of_one_piece_to_another_object_keeps_what_others_say(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await in_two_pieces(graph)
        await say(graph, "Ada", "works_at", "Y", day(3), day(12), confidence=0.25)

        await graph.correct(fact.id, FactCorrection(object="Y"))

        assert await believed(graph) == [("X", 1, 5, None), ("Y", 3, 9, 0.25), ("Y", 9, 20, None)]

    async def test_pieces_of_one_fact_with_other_objects_give_way_only_to_their_own(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await in_two_pieces(graph)
        await graph.correct(fact.id, FactCorrection(object="Y"))

        await say(graph, "Ada", "works_at", "X", day(1), day(20), confidence=0.5)
        assert await believed(graph) == [("X", 1, 20, 0.5), ("Y", 9, 20, None)]
        assert await graph.retract("Ada", "works_at", "Y") == 1
        assert await believed(graph) == [("X", 1, 20, 0.5)]

    async def test_a_piece_cannot_end_before_it_begins(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await in_two_pieces(graph)

        with pytest.raises(InvalidTime):
            await graph.correct(fact.id, FactCorrection(valid_to=day(1)))
        with pytest.raises(InvalidTime):
            await graph.correct(fact.id, FactCorrection(valid_from=day(20)))

        assert await believed(graph) == [("X", 1, 5, None), ("X", 9, 20, None)]

    # --- what is checked first ----------------------------------------------------------------------------------------

    async def test_a_reversed_default_period_is_refused_before_any_declaration(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        await graph.declare("lives_in", "many")
        clock.set(day(50))

        for predicate in ("lives_in", "born_in"):
            new = NewFact(subject="Ada", predicate=predicate, object="Paris", valid_to=day(9))
            with pytest.raises(InvalidTime):
                await graph.assert_fact(new, cardinality="one")

        assert await graph.predicates() == {"lives_in": "many"}

    async def test_a_conflict_of_declarations_says_what_is_declared(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await graph.declare("lives_in", "many")

        with pytest.raises(Conflict) as caught:
            await graph.declare("lives_in", "one")

        assert caught.value.fields == {"predicate": "lives_in", "declared": "many"}
        assert caught.value.hint is not None
        assert "declared" in caught.value.hint

    async def test_entities_made_by_a_fact_have_its_provenance(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        fact = await say(graph, "Ada", "knows", "Bob", source="a letter", actor="reader")
        await graph.correct(fact.id, FactCorrection(object="Cy", source="a call", actor="editor"))

        found = {one.name: (one.source, one.actor) for one in await graph.list_entities()}

        assert found == {"Ada": ("a letter", "reader"), "Bob": ("a letter", "reader"), "Cy": ("a call", "editor")}

    async def test_a_fact_may_touch_one_entity_twice(self, backend: Backend) -> None:
        graph = await open_graph(backend)

        fact = await say(graph, "Ada", "knows", "Ada", subject_type="person", object_type="thing")

        ada = await graph.get_entity("Ada")
        assert ada is not None
        assert (ada.id, ada.id, ada.type) == (fact.subject_id, fact.object_id, "person")
        for entity in ("Ada", ada.id):
            assert await graph.neighbours(entity) == [fact]
            assert await graph.neighbours(entity, direction="in") == [fact]
            assert await graph.neighbours(entity, direction="out") == [fact]

    async def test_a_version_beside_all_others_takes_after_the_latest(self, backend: Backend) -> None:
        graph = await open_graph(backend)
        await graph.upsert_entity("Ada", type="late", valid_from=day(10), valid_to=day(15))
        await graph.upsert_entity("Ada", type="early", valid_from=day(1), valid_to=day(5))

        assert (await graph.upsert_entity("Ada", properties={"n": 1}, valid_from=day(20))).type == "late"

    # --- pruning ------------------------------------------------------------------------------------------------------

    async def test_pruning_keeps_the_last_version_of_a_deleted_entity(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        graph = await open_graph(backend)
        ada = await graph.upsert_entity("Ada", properties={"n": 1})
        clock.advance(seconds=1)
        await graph.upsert_entity("Ada", properties={"n": 2}, valid_from=day(5), valid_to=day(9))
        clock.advance(seconds=1)
        await graph.delete_entity("Ada")
        clock.set(day(50))

        assert await graph.delete_before(day(40)) == 3

        (last,) = await graph.entity_history("Ada")
        assert (last.id, last.valid_from, last.properties) == (ada.id, day(9), {"n": 1})
        assert (await graph.upsert_entity("Ada")).id == ada.id

    async def test_pruning_leaves_nothing_of_a_deleted_fact(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        fact = await lives(graph, "Paris", day(1))
        await graph.delete_entity("Ada")
        clock.set(day(50))

        assert await graph.delete_before(day(40)) == 1

        assert await graph.history(fact.id) == []
        assert (await graph.stats()).entity_versions == 2
        with pytest.raises(NotFound):
            await graph.correct(fact.id, FactCorrection(object="Rome"))

    async def test_pruning_goes_by_the_end_of_belief_and_then_by_id(self, backend: Backend, clock: ManualClock) -> None:
        graph = await open_graph(backend)
        facts = [await say(graph, "Ada", "knows", name, day(1)) for name in ("Cy", "Bob", "Dan")]
        await graph.delete_entity("Ada")
        clock.set(day(50))

        assert await graph.delete_before(day(40), limit=2) == 2

        left = [fact.id for fact in facts if await graph.history(fact.id)]
        assert left == [max(fact.id for fact in facts)]
