"""Values that no backend may accept, and values at the edge that every backend must keep.

A refused value raises the same error class with the same field everywhere, and nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    InvalidFilter,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidText,
    InvalidTime,
    InvalidVector,
)
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import FactCorrection, NewFact
from llmspell.storage.contracts.memories import MemoryChange, MemoryQuery
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.testing.contract import add_one, day, memory, new_tenant, open_tenant, packed, random_vector, refused
from llmspell.testing.contract.hostile_values import NAIVE, NUL, SURROGATE, nothing_written


class HostileRecordsContract:
    """Subclass it in a test module; see the package."""

    # --- memories -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("field", "value", "error"),
        [
            ("content", "", InvalidText),
            ("content", NUL, InvalidText),
            ("content", SURROGATE, InvalidText),
            ("content", "x" * 32_769, InvalidText),
            ("content", 1, InvalidText),
            ("session", "", InvalidKey),
            ("session", NUL, InvalidKey),
            ("session", SURROGATE, InvalidKey),
            ("session", "x" * 501, InvalidKey),
            ("role", "", InvalidKey),
            ("role", NUL, InvalidKey),
            ("role", SURROGATE, InvalidKey),
            ("role", "é" * 251, InvalidKey),
            ("kind", "dream", InvalidInput),
            ("kind", None, InvalidInput),
            ("at", NAIVE, InvalidTime),
            ("at", "yesterday", InvalidTime),
            ("token_count", -1, InvalidLimit),
            ("token_count", 2**31, InvalidLimit),
            ("token_count", True, InvalidLimit),
        ],
        ids=lambda value: ascii(value)[:20],
    )
    async def test_a_field_of_a_memory_that_cannot_be_kept_is_refused(
        self, backend: Backend, clock: ManualClock, field: str, value: Any, error: type[InvalidInput]
    ) -> None:
        storages = await open_tenant(backend)

        async with refused(error, f"memories[1].{field}"):
            await storages.memories.add([memory(clock, "good"), memory(clock, **{"content": "bad", field: value})])
        assert await nothing_written(storages)

        added = await add_one(storages, memory(clock, "good"))
        async with refused(error, field):
            await storages.memories.update(added.id, MemoryChange(**{field: value}))
        assert await storages.memories.get(added.id) == added

    async def test_other_arguments_of_memories_are_checked(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        memories = storages.memories

        async with refused(InvalidTime, "memories[0].expires_at"):
            await memories.add([memory(clock, "x", expires_at=NAIVE)])
        for text in (NUL, SURROGATE):
            async with refused(InvalidText, "text"):
                await memories.search(MemoryQuery(text=text))
            async with refused(InvalidKey, "actor"):
                await memories.add([memory(clock, "x")], actor=text)
            async with refused(InvalidText, "reason"):
                await memories.delete(uuid4(), reason=text)
        async with refused(InvalidText, "text"):
            await memories.search(MemoryQuery(text="x" * 8_193))
        async with refused(InvalidVector, "space_id"):
            await memories.search(MemoryQuery(embedding=packed(random_vector(1))))
        async with refused(InvalidTime, "instant"):
            await memories.delete_before(NAIVE)
        async with refused(InvalidInput, "order"):
            await memories.list(order="color")  # type: ignore[arg-type]
        async with refused(InvalidLimit, "expected_version"):
            await memories.delete(uuid4(), expected_version=0)
        assert await nothing_written(storages)

    @pytest.mark.parametrize("id", ["", "not an id", 1, None, NUL], ids=ascii)
    async def test_an_id_that_is_none_is_refused(self, backend: Backend, id: Any) -> None:
        storages = await open_tenant(backend)

        calls: list[Callable[[], Any]] = [
            lambda: storages.memories.get(id),
            lambda: storages.memories.update(id, MemoryChange(content="x")),
            lambda: storages.memories.delete(id),
            lambda: storages.memories.restore(id),
            lambda: storages.memories.forget(id),
            lambda: storages.memories.history(id),
            lambda: storages.vectors.get(id),
            lambda: storages.vectors.update_metadata(id, {}),
        ]
        for call in calls:
            async with refused(InvalidKey, "id"):
                await call()
        async with refused(InvalidKey, "fact_id"):
            await storages.graph.history(id)
        async with refused(InvalidKey, "fact_id"):
            await storages.graph.correct(id, FactCorrection(object="x"))

    async def test_the_longest_memory_is_kept_and_found(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        content = ("😀" * 30_000 + " lighthouse").ljust(32_768, "x")

        added = await add_one(storages, memory(clock, content, session="s" * 500, role="é" * 250))

        assert await storages.memories.get(added.id) == added
        assert added.content == content

    async def test_instants_keep_their_microseconds_whatever_their_offset(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        for text in (
            "0001-01-01T00:00:00+00:00",
            "1969-12-31T23:59:59.999999+00:00",
            "2026-03-29T02:30:00.000001+02:00",
            "9999-12-31T23:59:59.999999+00:00",
        ):
            at = datetime.fromisoformat(text)
            added = await add_one(storages, memory(clock, "x", at=at))
            stored = await storages.memories.get(added.id)
            assert stored is not None
            assert stored.at == at
            assert stored.at.utcoffset() == timedelta(0)
            if 1 < at.year < 9999:
                elsewhere = at.astimezone(timezone(timedelta(hours=-7)))
                assert await storages.memories.count(filters={"at": elsewhere}) == 1

    # --- vectors' scopes and the graph --------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", ["", NUL, SURROGATE, "s" * 1_025, 1], ids=lambda value: ascii(value)[:20])
    async def test_a_scope_that_cannot_be_is_refused(self, backend: Backend, name: Any) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidKey, "entries[0].scope"):
            await storages.vectors.insert([VectorEntry(embedding=random_vector(1), scope=name)])
        async with refused(InvalidKey, "scope"):
            await storages.vectors.search(random_vector(1), scope=name)
        async with refused(InvalidKey, "scope"):
            await storages.vectors.delete_scope(name)
        async with refused(InvalidKey, "scope"):
            await storages.vectors.stats(scope=name)
        async with refused(InvalidKey, "entries[0].id"):
            await storages.vectors.insert([VectorEntry(id="x", embedding=random_vector(1))])  # type: ignore[arg-type]
        assert await nothing_written(storages)

    @pytest.mark.parametrize("name", ["", NUL, SURROGATE, "n" * 501, 1], ids=lambda value: ascii(value)[:20])
    @pytest.mark.parametrize(
        "field", ["subject", "predicate", "object", "subject_type", "object_type", "source", "actor"]
    )
    async def test_a_name_in_a_fact_that_cannot_be_is_refused(self, backend: Backend, field: str, name: Any) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidKey, field):
            await storages.graph.assert_fact(NewFact(**{"subject": "a", "predicate": "p", "object": "b", field: name}))

        assert await nothing_written(storages)

    @pytest.mark.parametrize("name", ["", NUL, SURROGATE, "n" * 501], ids=lambda value: ascii(value)[:20])
    async def test_a_name_in_a_question_to_the_graph_that_cannot_be_is_refused(
        self, backend: Backend, name: str
    ) -> None:
        graph = (await open_tenant(backend)).graph

        calls: list[tuple[str, Callable[[], Any]]] = [
            ("name", lambda: graph.upsert_entity(name)),
            ("type", lambda: graph.upsert_entity("a", type=name)),
            ("entity", lambda: graph.get_entity(name)),
            ("type", lambda: graph.list_entities(type=name)),
            ("entity", lambda: graph.delete_entity(name)),
            ("predicate", lambda: graph.declare(name, "one")),
            ("subject", lambda: graph.retract(name, "p")),
            ("object", lambda: graph.retract("a", "p", name)),
            ("subject", lambda: graph.facts(subject=name)),
            ("predicate", lambda: graph.facts(predicate=name)),
            ("object", lambda: graph.facts(object=name)),
            ("entity", lambda: graph.neighbours(name)),
            ("predicate", lambda: graph.neighbours("a", predicate=name)),
            ("start", lambda: graph.traverse(name)),
            ("end", lambda: graph.paths("a", name)),
            ("entity", lambda: graph.entity_history(name)),
        ]
        for field, call in calls:
            async with refused(InvalidKey, field):
                await call()

    async def test_periods_that_are_reversed_or_naive_are_refused(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        graph = storages.graph

        for start, end, field in (
            (day(5), day(5), "valid_to"),
            (day(5), day(4), "valid_to"),
            (NAIVE, None, "valid_from"),
            (day(5), NAIVE, "valid_to"),
            (None, day(1), "valid_to"),
        ):
            fact = NewFact(subject="a", predicate="p", object="b", valid_from=start, valid_to=end)
            async with refused(InvalidTime, field):
                await graph.assert_fact(fact)
            if start is not None:
                async with refused(InvalidTime, field):
                    await graph.upsert_entity("a", valid_from=start, valid_to=end)
                async with refused(InvalidTime, field):
                    await graph.retract("a", "p", valid_from=start, valid_to=end)
        assert await nothing_written(storages)

    async def test_naive_instants_in_questions_are_refused(self, backend: Backend) -> None:
        graph = (await open_tenant(backend)).graph

        for field in ("as_of", "known_at"):
            moment: dict[str, Any] = {field: NAIVE}
            async with refused(InvalidTime, field):
                await graph.get_entity("a", **moment)
            async with refused(InvalidTime, field):
                await graph.list_entities(**moment)
            async with refused(InvalidTime, field):
                await graph.facts(subject="a", **moment)
            async with refused(InvalidTime, field):
                await graph.neighbours("a", **moment)
            async with refused(InvalidTime, field):
                await graph.traverse("a", **moment)
            async with refused(InvalidTime, field):
                await graph.paths("a", "b", **moment)
        async with refused(InvalidTime, "instant"):
            await graph.delete_before(NAIVE)

    @pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan, math.inf, True, "1"], ids=repr)
    async def test_a_confidence_out_of_range_is_refused(self, backend: Backend, confidence: Any) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidLimit, "confidence"):
            await storages.graph.assert_fact(NewFact(subject="a", predicate="p", object="b", confidence=confidence))

        assert await nothing_written(storages)

    @pytest.mark.parametrize("digits", [400, 5_000])
    async def test_a_number_of_any_length_is_refused(self, backend: Backend, digits: int) -> None:
        """It fits into no float, and from 4,301 digits on Python does not write it out either."""
        storages, number = await open_tenant(backend), 10**digits

        async with refused(InvalidLimit, "ttl_s"):
            await storages.kv.set("k", b"v", ttl_s=number)
        async with refused(InvalidLimit, "confidence"):
            await storages.graph.assert_fact(NewFact(subject="a", predicate="p", object="b", confidence=number))
        async with refused(InvalidLimit, "latency_ms"):
            await storages.audit.record("o", principal="p", resource="r", latency_ms=number)
        async with refused(InvalidLimit, "lease_s"):
            await backend.job_queue.lease(worker="w", lease_s=number)
        async with refused(InvalidLimit, "timeout_s"):
            backend.transaction(await new_tenant(backend), timeout_s=number)
        async with refused(InvalidLimit, "limit"):
            await storages.kv.list_keys(limit=number)
        assert await nothing_written(storages)

    async def test_words_that_choose_must_be_known_ones(self, backend: Backend) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidInput, "cardinality"):
            await storages.graph.declare("p", "some")  # type: ignore[arg-type]
        async with refused(InvalidInput, "direction"):
            await storages.graph.neighbours("a", direction="up")  # type: ignore[arg-type]
        assert await nothing_written(storages)

    async def test_text_that_looks_like_code_is_only_text(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        text = "'; DROP TABLE memories; -- \" %s {} :tenant_id $1 \\"

        await storages.kv.set(text, b"v")
        added = await add_one(storages, memory(clock, text, session=text, role=text, metadata={"k": text}))
        fact = await storages.graph.assert_fact(NewFact(subject=text, predicate=text, object="b"))
        (id,) = await storages.vectors.insert([VectorEntry(embedding=random_vector(1), scope=text)])

        assert await storages.kv.list_keys(text[:3]) == [text]
        assert await storages.memories.list(filters={"session": text, "role": text, "metadata.k": text}) == [added]
        assert await storages.graph.neighbours(text, predicate=text) == [fact]
        assert [hit.id for hit in await storages.vectors.search(random_vector(1), scope=text)] == [id]

    async def test_an_unknown_operator_is_refused_by_every_reader(self, backend: Backend) -> None:
        storages = await open_tenant(backend)
        filters = {"metadata.a": {"$regex": "x"}}

        calls: list[Callable[[], Any]] = [
            lambda: storages.vectors.search(random_vector(1), filters=filters),
            lambda: storages.memories.list(filters=filters),
            lambda: storages.memories.count(filters=filters),
            lambda: storages.memories.search(MemoryQuery(text="a", filters=filters)),
        ]
        for call in calls:
            async with refused(InvalidFilter, "filters.metadata.a"):
                await call()
