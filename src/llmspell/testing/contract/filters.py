"""What filters mean: a table of conditions over rows of every type, and the ids that each selects."""

from __future__ import annotations

from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidFilter
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.memories import MemoryQuery
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.testing.contract import SPACE, day, memory, open_tenant, packed, random_vector

ROWS: dict[str, dict[str, Any]] = {
    "missing": {},
    "null": {"v": None},
    "true": {"v": True},
    "false": {"v": False},
    "zero": {"v": 0},
    "one": {"v": 1},
    "one float": {"v": 1.0},
    "two and a half": {"v": 2.5},
    "ten": {"v": 10},
    "minus": {"v": -3},
    "beyond doubles": {"v": 2**53 + 1},
    "text one": {"v": "1"},
    "text ten": {"v": "10"},
    "text true": {"v": "true"},
    "text null": {"v": "null"},
    "empty text": {"v": ""},
    "upper": {"v": "B"},
    "lower": {"v": "b"},
    "accent": {"v": "é"},
    "beyond the plane": {"v": "😀"},
    "full width": {"v": "～"},
    "list": {"v": [1, 2]},
    "list float": {"v": [1.0, 2.0]},
    "list reversed": {"v": [2, 1]},
    "list of text": {"v": ["1", "b"]},
    "list of lists": {"v": [[1, 2], None, {"a": 1}]},
    "list of booleans": {"v": [True]},
    "empty list": {"v": []},
    "object": {"v": {"a": 1, "b": [True]}},
    "empty object": {"v": {}},
    "nested": {"v": {"w": {"x": 3}}},
    "nested null": {"v": {"w": None}},
    "nested text": {"v": {"w": {"x": "3"}}},
    "dotted key": {"v.w": 1},
}
PRESENT = set(ROWS) - {"missing", "dotted key"}
ONES = {"one", "one float"}
NUMBERS = {"zero", *ONES, "two and a half", "ten", "minus", "beyond doubles"}
TEXTS = {
    "text one", "text ten", "text true", "text null", "empty text", "upper", "lower", "accent", "beyond the plane",
    "full width",
}  # fmt: skip
NESTED = {"nested", "nested null", "nested text"}

TABLE: list[tuple[dict[str, Any], set[str]]] = [
    # Rule 1: a missing key matches nothing but `$exists: false`; null is a value.
    ({"metadata.v": None}, {"null"}),
    ({"metadata.v": {"$ne": None}}, PRESENT - {"null"}),
    ({"metadata.v": {"$exists": True}}, PRESENT),
    ({"metadata.v": {"$exists": False}}, {"missing", "dotted key"}),
    ({"metadata.v": {"$in": [None]}}, {"null"}),
    ({"metadata.v": {"$nin": [None]}}, PRESENT - {"null"}),
    ({"metadata.absent": {"$ne": 1}}, set()),
    ({"metadata.absent": {"$nin": [1]}}, set()),
    ({"metadata.absent": None}, set()),
    # Rule 2: numbers compare as numbers, texts by code points; nothing is coerced; true is not 1.
    ({"metadata.v": 1}, ONES),
    ({"metadata.v": 1.0}, ONES),
    ({"metadata.v": True}, {"true"}),
    ({"metadata.v": False}, {"false"}),
    ({"metadata.v": 0}, {"zero"}),
    ({"metadata.v": "1"}, {"text one"}),
    ({"metadata.v": "true"}, {"text true"}),
    ({"metadata.v": "null"}, {"text null"}),
    ({"metadata.v": ""}, {"empty text"}),
    ({"metadata.v": "b"}, {"lower"}),
    ({"metadata.v": "e\u0301"}, set()),
    ({"metadata.v": 2**53 + 1}, {"beyond doubles"}),
    ({"metadata.v": 2**53}, set()),
    ({"metadata.v": {"$gt": 1}}, {"two and a half", "ten", "beyond doubles"}),
    ({"metadata.v": {"$gte": 1}}, {*ONES, "two and a half", "ten", "beyond doubles"}),
    ({"metadata.v": {"$lt": 1}}, {"zero", "minus"}),
    ({"metadata.v": {"$lte": 1.0}}, {"zero", "minus", *ONES}),
    ({"metadata.v": {"$gt": 2.4, "$lt": 10}}, {"two and a half"}),
    ({"metadata.v": {"$gt": 2**53}}, {"beyond doubles"}),
    ({"metadata.v": {"$gte": ""}}, TEXTS),
    ({"metadata.v": {"$gt": "1"}}, TEXTS - {"text one", "empty text"}),
    ({"metadata.v": {"$lt": "B"}}, {"text one", "text ten", "empty text"}),
    ({"metadata.v": {"$gt": "b"}}, {"text true", "text null", "accent", "beyond the plane", "full width"}),
    ({"metadata.v": {"$gt": "～"}}, {"beyond the plane"}),
    # Rule 3: `$ne` and `$nin` match what exists and differs; another type differs.
    ({"metadata.v": {"$ne": 1}}, PRESENT - ONES),
    ({"metadata.v": {"$ne": "1"}}, PRESENT - {"text one"}),
    ({"metadata.v": {"$ne": True}}, PRESENT - {"true"}),
    ({"metadata.v": {"$in": [1, "b", True]}}, {*ONES, "lower", "true"}),
    ({"metadata.v": {"$nin": [1, "b", True]}}, PRESENT - ONES - {"lower", "true"}),
    ({"metadata.v": {"$in": []}}, set()),
    ({"metadata.v": {"$nin": []}}, PRESENT),
    # Rule 4: `$not` is the complement over rows in which every key it names exists.
    ({"metadata.v": {"$not": {"$gt": 1}}}, PRESENT - {"two and a half", "ten", "beyond doubles"}),
    ({"metadata.v": {"$not": {"$eq": None}}}, PRESENT - {"null"}),
    ({"$not": {"metadata.v": 1}}, PRESENT - ONES),
    ({"$not": {"metadata.v": 1, "metadata.absent": 1}}, set()),
    (
        {"$not": {"$or": [{"metadata.v": 1}, {"metadata.v": {"$gt": 1}}]}},
        PRESENT - ONES - {"two and a half", "ten", "beyond doubles"},
    ),
    ({"$not": {"$not": {"metadata.v": {"$in": ["b", None]}}}}, {"lower", "null"}),
    ({"$not": {"metadata.v.w.x": 3}}, {"nested text"}),
    # Rule 5: an operator holds for a list as a whole; `$contains` asks for a member.
    ({"metadata.v": [1, 2]}, {"list", "list float"}),
    ({"metadata.v": {"$eq": [2, 1]}}, {"list reversed"}),
    ({"metadata.v": {"$eq": []}}, {"empty list"}),
    ({"metadata.v": {"$ne": [1, 2]}}, PRESENT - {"list", "list float"}),
    ({"metadata.v": {"$in": [[1, 2], [True]]}}, {"list", "list float", "list of booleans"}),
    ({"metadata.v": {"$contains": 1}}, {"list", "list float", "list reversed"}),
    ({"metadata.v": {"$contains": "1"}}, {"list of text"}),
    ({"metadata.v": {"$contains": True}}, {"list of booleans"}),
    ({"metadata.v": {"$contains": None}}, {"list of lists"}),
    ({"metadata.v": {"$contains": [1, 2]}}, {"list of lists"}),
    ({"metadata.v": {"$contains": {"a": 1.0}}}, {"list of lists"}),
    ({"metadata.v": {"$contains": "b", "$ne": ["b"]}}, {"list of text"}),
    ({"metadata.v": {"$not": {"$contains": 1}}}, PRESENT - {"list", "list float", "list reversed"}),
    # Objects are equal member by member, whatever the order of their keys.
    ({"metadata.v": {"$eq": {"b": [True], "a": 1.0}}}, {"object"}),
    ({"metadata.v": {"$eq": {"b": [1], "a": 1}}}, set()),
    ({"metadata.v": {"$eq": {}}}, {"empty object"}),
    # Rule 6: a dot is always nesting.
    ({"metadata.v.w.x": 3}, {"nested"}),
    ({"metadata.v.w": None}, {"nested null"}),
    ({"metadata.v.w": {"$exists": True}}, NESTED),
    ({"metadata.v.w": {"$exists": False}}, set(ROWS) - NESTED),
    ({"metadata.v.w": {"$ne": 1}}, NESTED),
    ({"metadata.v.0": 1}, set()),
    # Several conditions are joined by and.
    ({"$or": [{"metadata.v": 1}, {"metadata.v": "b"}]}, {*ONES, "lower"}),
    ({"$and": [{"metadata.v": {"$gte": 0}}, {"metadata.v": {"$lt": 2}}]}, {"zero", *ONES}),
    ({"metadata.v": {"$gte": 0}, "$or": [{"metadata.v": 1}, {"metadata.v": "b"}]}, ONES),
    ({}, set(ROWS)),
]


async def _memories(backend: Backend, clock: ManualClock) -> tuple[Storages, dict[object, str]]:
    storages = await open_tenant(backend)
    named = {name: memory(clock, f"a row: {name}", metadata=metadata) for name, metadata in ROWS.items()}
    await storages.memories.add(list(named.values()))
    return storages, {new.id: name for name, new in named.items()}


class FiltersContract:
    """Subclass it in a test module; see the package."""

    async def test_memories_are_selected_as_the_table_says(self, backend: Backend, clock: ManualClock) -> None:
        storages, names = await _memories(backend, clock)

        for condition, expected in TABLE:
            found = await storages.memories.list(filters=condition, limit=1_000)
            assert {names[one.id] for one in found} == expected, condition
            assert await storages.memories.count(filters=condition) == len(expected), condition

    async def test_vectors_are_selected_as_the_table_says(self, backend: Backend) -> None:
        storages = await open_tenant(backend)
        entries = [
            VectorEntry(embedding=random_vector(number), metadata=metadata)
            for number, metadata in enumerate(ROWS.values())
        ]
        names = dict(zip(await storages.vectors.insert(entries), ROWS, strict=True))

        for condition, expected in TABLE:
            found = await storages.vectors.search(random_vector(0), filters=condition, limit=1_000)
            assert {names[one.id] for one in found} == expected, condition

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            ({"session": "s1"}, {"a", "b"}),
            ({"session": None}, {"d"}),
            ({"session": {"$ne": "s1"}}, {"c", "d"}),
            ({"session": {"$nin": ["s1", None]}}, {"c"}),
            ({"session": {"$in": ["s1", None]}}, {"a", "b", "d"}),
            ({"session": {"$gt": "s1"}}, {"c"}),
            ({"session": {"$exists": True}}, {"a", "b", "c", "d"}),
            ({"session": {"$exists": False}}, set()),
            ({"$not": {"session": "s1"}}, {"c", "d"}),
            ({"$not": {"session": {"$gt": "s1"}}}, {"a", "b", "d"}),
            ({"role": "user"}, {"a", "c"}),
            ({"kind": "knowledge"}, {"b"}),
            ({"at": {"$gte": "2026-01-02"}}, {"b", "c", "d"}),
            ({"at": {"$gt": "2026-01-02T00:00:00+00:00"}}, {"c", "d"}),
            ({"at": {"$lt": "2026-01-02T01:00:00+01:00"}}, {"a"}),
            ({"at": day(3)}, {"c"}),
            ({"at": {"$in": [day(1), "2026-01-04"]}}, {"a", "d"}),
            ({"created_at": {"$gte": day(1)}}, {"a", "b", "c", "d"}),
            ({"updated_at": {"$gt": day(1)}}, set()),
            ({"processed": False}, {"a", "b", "c", "d"}),
            ({"processed": {"$ne": False}}, set()),
            ({"version": 1}, {"a", "b", "c", "d"}),
            ({"version": {"$gt": 0.5}}, {"a", "b", "c", "d"}),
            ({"version": {"$lt": 1}}, set()),
            ({"session": "s1", "metadata.topic": "travel"}, {"a"}),
        ],
        ids=lambda value: "".join(sorted(value)) if isinstance(value, set) else str(value),
    )
    async def test_built_in_fields_are_selected_by(
        self, backend: Backend, clock: ManualClock, condition: dict[str, Any], expected: set[str]
    ) -> None:
        storages = await open_tenant(backend)
        await storages.memories.add(
            [
                memory(clock, "a", session="s1", role="user", at=day(1), metadata={"topic": "travel", "session": "s2"}),
                memory(clock, "b", session="s1", role="tool", at=day(2), kind="knowledge", metadata={"topic": "work"}),
                memory(clock, "c", session="s2", role="user", at=day(3), metadata={"topic": "travel"}),
                memory(clock, "d", at=day(4)),
            ]
        )

        found = await storages.memories.list(filters=condition)

        assert {one.content for one in found} == expected

    async def test_the_search_of_memories_follows_the_same_filter(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        await storages.memories.ensure_space(SPACE)
        rows = [
            memory(clock, f"a lighthouse {n}", metadata={"n": n}, embeddings=(packed(random_vector(n)),))
            for n in range(6)
        ]
        await storages.memories.add(rows, space_id=SPACE.space_id)

        found = await storages.memories.search(
            MemoryQuery(
                text="lighthouse",
                embedding=packed(random_vector(0)),
                space_id=SPACE.space_id,
                filters={"metadata.n": {"$gte": 4}},
            )
        )

        assert {one.id for one in found.text} == {one.id for one in found.dense} == {one.id for one in rows[4:]}

    @pytest.mark.parametrize(
        "condition",
        [
            {"metadata.v": {"$regex": "a"}},
            {"metadata.v": {"$gt": None}},
            {"metadata.v": {"$gt": True}},
            {"metadata.v": {"$lt": [1]}},
            {"metadata.v": {"$in": "abc"}},
            {"metadata.v": {"$in": [float("nan")]}},
            {"metadata.v": {"$exists": 1}},
            {"metadata.v": {"$not": {"$exists": True}}},
            {"metadata.v": {}},
            {"metadata.v": float("inf")},
            {"metadata.v": -0.0},
            {"metadata.v": 2**63},
            {"metadata.v": "nul\0"},
            {"metadata.v": "\ud800"},
            {"metadata.": 1},
            {"metadata.a..b": 1},
            {'metadata.a"b': 1},
            {"metadata.a\\b": 1},
            {"metadata.\0": 1},
            {"v": 1},
            {"$and": []},
            {"$or": {}},
            {"$not": {}},
            {"$nor": [{"metadata.v": 1}]},
            {"at": "yesterday"},
            {"at": "2026-01-01T00:00:00"},
            {"session": 1},
            {"processed": "yes"},
            {"version": True},
            {"version": "1"},
            {"session": {"$contains": "s"}},
            {"$and": [{"metadata.v": n} for n in range(65)]},
            {"metadata.v": {"$in": list(range(1_001))}},
        ],
        ids=lambda condition: ascii(condition)[:60],
    )
    async def test_a_filter_without_a_meaning_is_refused(self, backend: Backend, condition: dict[str, Any]) -> None:
        storages = await open_tenant(backend)

        with pytest.raises(InvalidFilter):
            await storages.memories.list(filters=condition)
        with pytest.raises(InvalidFilter):
            await storages.memories.count(filters=condition)

    async def test_keys_that_look_like_paths_or_code_are_only_keys(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        keys = ["a b", "$x", "'", "a'b", "]", "[0]", "*", "?", "%s", ":p", "#>", "--", "1", "é", "😀", "null"]
        await storages.memories.add([memory(clock, "row", metadata=dict.fromkeys(keys, 1))])

        for key in keys:
            assert await storages.memories.count(filters={f"metadata.{key}": 1}) == 1, key
            assert await storages.memories.count(filters={f"metadata.{key}": 2}) == 0, key
