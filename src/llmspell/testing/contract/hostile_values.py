"""Values that no backend may accept, and values at the edge that every backend must keep.

A refused value raises the same error class with the same field everywhere, and nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import NORM_SQUARED_MAX, NORM_SQUARED_MIN
from llmspell.errors import (
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    InvalidTenant,
    InvalidText,
    InvalidVector,
)
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.graph import NewFact
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryChange, MemoryQuery
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.testing.contract import SPACE, add_one, day, memory, open_tenant, packed, random_vector, refused

NUL, SURROGATE = "a\0b", "a\ud800b"
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
BAD_LIMITS = [0, -1, 1_001, 2**70, True, 1.0, "10", None]
BAD_VECTORS: list[tuple[str, Any, str]] = [
    ("NaN", [1.0, math.nan, *[0.0] * 382], "[1]"),
    ("infinite", [1.0, *[0.0] * 382, -math.inf], "[383]"),
    ("overflowing float32", [1e39, *[1.0] * 383], "[0]"),
    ("zero", [0.0] * 384, ""),
    ("almost zero", [1e-30] * 384, ""),
    ("so short that float32 loses its square", [1e-17] * 384, ""),
    ("so long that float32 overflows in its square", [1e18] * 384, ""),
    ("longest by one component", [4e18, *[0.0] * 383], ""),
    ("empty", [], ""),
    ("too short", [1.0] * 383, ""),
    ("of another model", [1.0] * 1024, ""),
    ("text", "0" * 384, ""),
    ("texts", ["1"] * 384, ""),
    ("nested", [[1.0] * 384], ""),
    ("a number", 1.0, ""),
    ("nothing", None, ""),
]
BAD_METADATA: list[tuple[str, Any, str]] = [
    ("NaN", {"a": math.nan}, ".a"),
    ("infinite", {"a": [1, math.inf]}, ".a[1]"),
    ("negative zero", {"a": {"b": -0.0}}, ".a.b"),
    ("beyond 64 bits", {"a": 2**63}, ".a"),
    ("below 64 bits", {"a": -(2**63) - 1}, ".a"),
    ("NUL", {"a": NUL}, ".a"),
    ("surrogate", {"a": SURROGATE}, ".a"),
    ("NUL in a key", {NUL: 1}, " key"),
    ("surrogate in an inner key", {"a": {SURROGATE: 1}}, ".a key"),
    ("an empty key", {"": 1}, " key"),
    ("a key that is no text", {1: 1}, " key"),
    ("a long key", {"k" * 65: 1}, " key"),
    ("too many keys", {f"k{n}": n for n in range(51)}, ""),
    ("too large", {"a": "x" * 16_384}, ""),
    ("too deep", {"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}, ".a" + "[0]" * 15),
    ("bytes", {"a": b"x"}, ".a"),
    ("a set", {"a": {1}}, ".a"),
    ("an instant", {"a": NAIVE}, ".a"),
    ("not an object", [1], ""),
    ("text", "{}", ""),
]
ENDS = (NORM_SQUARED_MIN, NORM_SQUARED_MAX)
KEPT: dict[str, Any] = {
    "largest integer": 2**63 - 1,
    "smallest integer": -(2**63),
    "beyond doubles": 2**53 + 1,
    "1e22": 1e22,
    "1e308": 1e308,
    "-1e308": -1e308,
    "1e16": 1e16,
    "1e15": 1e15,
    "5e-324": 5e-324,
    "1e-7": 1e-7,
    "a third": 1 / 3,
    "0.1": 0.1,
    "1.0": 1.0,
    "0.0": 0.0,
    "one": 1,
    "zero": 0,
    "true": True,
    "null": None,
    "empty": ["", [], {}],
    "deep": [[[[[[[[[[[[["x"]]]]]]]]]]]]],
    "text": "é e\u0301 😀 \u2028 \x7f \x01 \" ' \\ \\u0000 %s :p ? $1",
    "Z": {"b": 1, "a": 2, "é": 3, "B": 4},
}


def _cosine(one: list[float], other: list[float]) -> float:
    dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(math.fsum(a * a for a in one) * math.fsum(b * b for b in other))


def labelled(cases: list[tuple[str, Any, str]]) -> Any:
    """Return the cases with their names as ids."""
    return [pytest.param(value, where, id=name) for name, value, where in cases]


def typed(value: Any) -> Any:
    """Return a value with the types of all numbers, so that 1, 1.0 and true differ."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return (type(value).__name__, value)


async def nothing_written(storages: Storages) -> bool:
    """Say whether a tenant's storages are as empty as they were."""
    graph = await storages.graph.stats()
    return (
        await storages.kv.list_keys() == []
        and (await storages.vectors.stats()).total_vectors == 0
        and await storages.memories.count() == 0
        and (graph.entity_versions, graph.fact_versions) == (0, 0)
        and await storages.graph.predicates() == {}
    )


class HostileValuesContract:
    """Subclass it in a test module; see the package."""

    # --- tenants and keys ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "tenant", ["", NUL, SURROGATE, "x" * 129, "é" * 65, " a", "a ", "a\nb", "\x7f", 1, None, b"a"], ids=ascii
    )
    async def test_a_tenant_id_that_none_can_have_is_refused(self, backend: Backend, tenant: Any) -> None:
        async with refused(InvalidTenant, "tenant"):
            await backend.storages(tenant).kv.set("k", b"v")
        async with refused(InvalidTenant, "tenant"):
            await backend.tenants.create(tenant)
        async with refused(InvalidTenant, "tenant"), backend.transaction(tenant) as tx:
            await tx.kv.get("k")

    @pytest.mark.parametrize("key", ["", NUL, SURROGATE, "k" * 1_025, "é" * 513, 1, None, b"k"], ids=ascii)
    async def test_a_key_that_none_can_be_is_refused(self, backend: Backend, key: Any) -> None:
        storages = await open_tenant(backend)
        kv = storages.kv

        calls: list[Callable[[], Any]] = [
            lambda: kv.get(key),
            lambda: kv.set(key, b"v"),
            lambda: kv.delete(key),
            lambda: kv.exists(key),
            lambda: kv.get_batch(["a", key]),
            lambda: kv.set_batch({key: b"v"}),
            lambda: kv.delete_batch([key]),
        ]
        for call in calls:
            async with refused(InvalidKey, "key"):
                await call()
        assert await nothing_written(storages)

    async def test_the_longest_key_is_kept(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        for key in ("k" * 1_024, "é" * 512, "😀" * 256):
            await kv.set(key, key.encode())
            assert await kv.get(key) == key.encode()

    @pytest.mark.parametrize("value", ["text", None, 1, [1], {"a": 1}], ids=repr)
    async def test_a_value_that_is_not_bytes_is_refused(self, backend: Backend, value: Any) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidInput, "value"):
            await storages.kv.set("k", value)

        assert await nothing_written(storages)

    async def test_a_value_beyond_sixteen_mebibytes_is_refused(self, backend: Backend) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidInput, "value"):
            await storages.kv.set("k", bytes(16 * 1024 * 1024 + 1))

        assert await nothing_written(storages)

    @pytest.mark.parametrize("text", [NUL, SURROGATE, 1], ids=ascii)
    async def test_a_prefix_that_is_no_text_is_refused(self, backend: Backend, text: Any) -> None:
        kv = (await open_tenant(backend)).kv

        async with refused(InvalidText, "prefix"):
            await kv.list_keys(text)
        async with refused(InvalidText, "after"):
            await kv.list_keys(after=text)

    # --- limits -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("limit", BAD_LIMITS, ids=repr)
    async def test_a_limit_out_of_range_is_refused(self, backend: Backend, limit: Any) -> None:
        storages = await open_tenant(backend)
        memories, graph = storages.memories, storages.graph

        calls: list[Callable[[], Any]] = [
            lambda: storages.vectors.search(random_vector(1), limit=limit),
            lambda: memories.list(limit=limit),
            lambda: memories.list_paginated(limit=limit),
            lambda: memories.pending(limit=limit),
            lambda: memories.unprocessed_sessions(limit=limit),
            lambda: memories.delete_before(day(1), limit=limit),
            lambda: graph.list_entities(limit=limit),
            lambda: graph.facts(subject="a", limit=limit),
            lambda: graph.neighbours("a", limit=limit),
            lambda: graph.traverse("a", limit=limit),
            lambda: graph.paths("a", "b", limit=limit),
            lambda: graph.mentioned(["a"], limit=limit),
            lambda: graph.delete_before(day(1), limit=limit),
        ]
        for call in calls:
            async with refused(InvalidLimit, "limit"):
                await call()

    @pytest.mark.parametrize("limit", [0, -1, 1_000_001, True, 1.0, "10"], ids=repr)
    async def test_a_limit_of_keys_out_of_range_is_refused(self, backend: Backend, limit: Any) -> None:
        kv = (await open_tenant(backend)).kv

        async with refused(InvalidLimit, "limit"):
            await kv.list_keys(limit=limit)

    @pytest.mark.parametrize("number", [-1, 1_000_001, True, 1.0, "1", None], ids=repr)
    async def test_other_numbers_out_of_range_are_refused(self, backend: Backend, number: Any) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidLimit, "offset"):
            await storages.memories.list_paginated(offset=number)
        async with refused(InvalidLimit, "candidates"):
            await storages.memories.search(MemoryQuery(text="a", candidates=number))
        async with refused(InvalidLimit, "max_depth"):
            await storages.graph.traverse("a", max_depth=number)
        async with refused(InvalidLimit, "max_depth"):
            await storages.graph.paths("a", "b", max_depth=number)

    @pytest.mark.parametrize("score", [1.01, -1.01, math.nan, math.inf, True, "0.5"], ids=repr)
    async def test_a_score_out_of_range_is_refused(self, backend: Backend, score: Any) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidLimit, "min_score"):
            await storages.vectors.search(random_vector(1), min_score=score)

    async def test_batches_are_bounded(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        ids = [uuid4()] * 1_001

        async with refused(InvalidLimit, "keys"):
            await storages.kv.get_batch(["k"] * 10_001)
        async with refused(InvalidLimit, "keys"):
            await storages.kv.delete_batch(["k"] * 10_001)
        async with refused(InvalidLimit, "items"):
            await storages.kv.set_batch({f"k{n}": b"" for n in range(10_001)})
        async with refused(InvalidLimit, "memories"):
            await storages.memories.add([memory(clock, "x")] * 1_001)
        for call in (storages.memories.get_batch, storages.memories.touch, storages.memories.mark_processed):
            async with refused(InvalidLimit, "ids"):
                await call(ids)
        async with refused(InvalidLimit, "names"):
            await storages.graph.mentioned(["n"] * 201)
        assert await nothing_written(storages)

    # --- vectors ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("vector", "where"), labelled(BAD_VECTORS))
    async def test_a_vector_that_cannot_be_compared_is_refused(self, backend: Backend, vector: Any, where: str) -> None:
        storages = await open_tenant(backend)
        good = VectorEntry(embedding=random_vector(1))

        async with refused(InvalidVector, f"entries[1].embedding{where}"):
            await storages.vectors.insert([good, VectorEntry(embedding=vector)])
        async with refused(InvalidVector, f"embedding{where}"):
            await storages.vectors.search(vector)

        assert await nothing_written(storages)

    async def test_a_score_does_not_depend_on_how_long_vectors_are(self, backend: Backend) -> None:
        storage = (await open_tenant(backend)).vectors
        base, query = list(random_vector(1)), list(random_vector(2))
        # Powers of two change no bit of a mantissa. These reach both ends of what is accepted.
        length = math.sqrt(math.fsum(c * c for c in base) / math.fsum(c * c for c in query))
        shortest, longest = (math.floor(math.log2(math.sqrt(limit / math.fsum(c * c for c in base)))) for limit in ENDS)
        assert 0.5 < length < 2
        for exponent in (shortest + 2, -20, 0, 20, longest - 1):
            await storage.insert([VectorEntry(embedding=[c * 2.0**exponent for c in base])])

        for exponent in (shortest + 2, 0, longest - 1):
            hits = await storage.search([c * 2.0**exponent for c in query], limit=10)
            assert len(hits) == 5
            assert max(hit.score for hit in hits) - min(hit.score for hit in hits) <= 1e-6
            assert abs(hits[0].score - _cosine(base, query)) <= 2e-6

    @pytest.mark.parametrize(
        "window",
        [
            b"",
            b"abc",
            bytes(384 * 4),
            packed(random_vector(1, 768)),
            b"\x00\x00\xc0\x7f" * 384,
            b"\x00\x00\x80\x7f" * 384,
        ],
        ids=["empty", "torn", "zero", "dimension", "NaN", "infinite"],
    )
    async def test_a_window_that_cannot_be_compared_is_refused(
        self, backend: Backend, clock: ManualClock, window: bytes
    ) -> None:
        storages = await open_tenant(backend)
        await storages.memories.ensure_space(SPACE)
        good = memory(clock, "good", embeddings=(packed(random_vector(1)),))

        with pytest.raises(InvalidVector):
            await storages.memories.add([good, memory(clock, "bad", embeddings=(window,))], space_id=SPACE.space_id)
        with pytest.raises(InvalidVector):
            await storages.memories.search(MemoryQuery(embedding=window, space_id=SPACE.space_id))

        assert await nothing_written(storages)

    @pytest.mark.parametrize(
        ("changes", "error", "field"),
        [
            ({"space_id": ""}, InvalidKey, "space_id"),
            ({"space_id": NUL}, InvalidKey, "space_id"),
            ({"space_id": "s" * 129}, InvalidKey, "space_id"),
            ({"model": ""}, InvalidKey, "model"),
            ({"model": SURROGATE}, InvalidKey, "model"),
            ({"dimension": 100}, InvalidVector, "dimension"),
            ({"dimension": 0}, InvalidVector, "dimension"),
        ],
        ids=str,
    )
    async def test_a_space_that_cannot_be_is_refused(
        self, backend: Backend, changes: dict[str, Any], error: type[InvalidInput], field: str
    ) -> None:
        storages = await open_tenant(backend)

        async with refused(error, field):
            await storages.memories.ensure_space(
                EmbeddingSpace(**{"space_id": "s", "model": "m", "dimension": 384, **changes})
            )

    # --- metadata -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("metadata", "where"), labelled(BAD_METADATA))
    async def test_metadata_that_not_every_backend_keeps_is_refused(
        self, backend: Backend, clock: ManualClock, metadata: Any, where: str
    ) -> None:
        storages = await open_tenant(backend)
        vector = random_vector(1)

        async with refused(InvalidMetadata, f"entries[1].metadata{where}"):
            await storages.vectors.insert(
                [VectorEntry(embedding=vector), VectorEntry(embedding=vector, metadata=metadata)]
            )
        async with refused(InvalidMetadata, f"memories[1].metadata{where}"):
            await storages.memories.add([memory(clock, "good"), memory(clock, "bad", metadata=metadata)])
        async with refused(InvalidMetadata, f"properties{where}"):
            await storages.graph.assert_fact(NewFact(subject="a", predicate="p", object="b", properties=metadata))
        async with refused(InvalidMetadata, f"properties{where}"):
            await storages.graph.upsert_entity("a", properties=metadata)
        assert await nothing_written(storages)

        (id,) = await storages.vectors.insert([VectorEntry(embedding=vector, metadata={"a": 1})])
        added = await add_one(storages, memory(clock, "good", metadata={"a": 1}))
        async with refused(InvalidMetadata, f"metadata{where}"):
            await storages.vectors.update_metadata(id, metadata)
        async with refused(InvalidMetadata, f"metadata{where}"):
            await storages.memories.update(added.id, MemoryChange(metadata=metadata))
        record = await storages.vectors.get(id)
        assert record is not None
        assert record.metadata == {"a": 1}
        assert await storages.memories.get(added.id) == added

    async def test_metadata_at_the_edge_comes_back_with_its_types(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)

        (id,) = await storages.vectors.insert([VectorEntry(embedding=random_vector(1), metadata=KEPT)])
        added = await add_one(storages, memory(clock, "x", metadata=KEPT))
        fact = await storages.graph.assert_fact(NewFact(subject="a", predicate="p", object="b", properties=KEPT))

        record, stored = await storages.vectors.get(id), await storages.memories.get(added.id)
        (believed,) = await storages.graph.facts(subject="a")
        (version,) = await storages.memories.history(added.id)
        for name, kept in (
            ("vector", record.metadata if record else None),
            ("memory", stored.metadata if stored else None),
            ("version", version.metadata),
            ("fact", fact.properties),
            ("believed fact", believed.properties),
        ):
            assert typed(kept) == typed(KEPT), name

    async def test_keys_of_metadata_come_back_in_order(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        metadata = {"b": {"z": 1, "a": 2, "aa": 3}, "é": 1, "a": 2, "B": 3, "aa": 4, "～": 5, "😀": 6}

        added = await add_one(storages, memory(clock, "x", metadata=metadata))

        stored = await storages.memories.get(added.id)
        for record in (added, stored):
            assert record is not None
            assert list(record.metadata) == sorted(metadata)
            assert list(record.metadata["b"]) == ["a", "aa", "z"]

    @pytest.mark.parametrize(
        ("operand", "matches"),
        [(1e22, "1e22"), (1e308, "1e308"), (2**53 + 1, "beyond doubles"), (2**63 - 1, "largest integer")],
    )
    async def test_numbers_at_the_edge_are_found_by_their_value(
        self, backend: Backend, clock: ManualClock, operand: float, matches: str
    ) -> None:
        storages = await open_tenant(backend)
        await storages.memories.add([memory(clock, key, metadata={"v": value}) for key, value in KEPT.items()])

        found = await storages.memories.list(filters={"metadata.v": operand})

        assert [one.content for one in found] == [matches]
