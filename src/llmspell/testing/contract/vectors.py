"""What `Vectors` promises."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import DIMENSIONS, pack_vector, unpack_vector
from llmspell.errors import AlreadyExists, InvalidKey, InvalidLimit, InvalidVector
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.contracts.vectors import DEFAULT_SCOPE, VectorEntry, VectorStats
from llmspell.testing.contract import SPACE, ids_of, open_tenant, random_vector, turned_vector
from llmspell.testing.contract.memories import embedded, with_space

FLOAT32_BYTES = 4


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the similarity of two vectors as stored, by the definition."""
    left, right = unpack_vector(pack_vector(left)), unpack_vector(pack_vector(right))
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / (math.hypot(*left) * math.hypot(*right))


class VectorsContract:
    """Subclass it in a test module; see the package."""

    @pytest.mark.parametrize("dimension", DIMENSIONS)
    async def test_a_vector_of_each_dimension_is_found_when_insert_returns(
        self, backend: Backend, clock: ManualClock, dimension: int
    ) -> None:
        vectors = (await open_tenant(backend)).vectors
        wanted = random_vector(1, dimension)

        (id,) = await vectors.insert([VectorEntry(embedding=wanted, scope="s", metadata={"a": [1, None]})])
        hits = await vectors.search(wanted, include_embedding=True)
        record = await vectors.get(id)

        assert [(hit.id, hit.score, hit.scope, hit.metadata) for hit in hits] == [(id, 1.0, "s", {"a": [1, None]})]
        assert record is not None
        assert record.embedding == hits[0].embedding == array("f", wanted)
        assert (record.scope, record.metadata) == ("s", {"a": [1, None]})
        assert record.created_at == record.updated_at == clock.now()

    async def test_ids_are_returned_in_order_and_made_where_none_is_given(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        given = uuid4()

        ids = await vectors.insert(
            [
                VectorEntry(embedding=random_vector(1)),
                VectorEntry(id=given, embedding=random_vector(2, 768)),
                VectorEntry(embedding=random_vector(3)),
            ]
        )

        assert ids[1] == given
        assert len(set(ids)) == 3
        records = [await vectors.get(id) for id in ids]
        assert [len(one.embedding) for one in records if one is not None] == [384, 768, 384]
        assert await vectors.insert([]) == []

    @pytest.mark.parametrize("dimension", [384, 3072])
    async def test_a_search_is_exact(self, backend: Backend, dimension: int) -> None:
        vectors = (await open_tenant(backend)).vectors
        stored = [random_vector(seed, dimension) for seed in range(60)]
        ids = await vectors.insert([VectorEntry(embedding=one) for one in stored])
        query = random_vector(1_000, dimension)

        hits = await vectors.search(query, limit=20)

        exact = {id: cosine(query, one) for id, one in zip(ids, stored, strict=True)}
        assert ids_of(hits) == sorted(exact, key=lambda id: (-round(exact[id], 6), id))[:20]
        assert [hit.score for hit in hits] == pytest.approx([exact[hit.id] for hit in hits], abs=1.5e-6)

    async def test_scores_are_rounded_and_run_from_one_to_minus_one(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        angles = {0: 1.0, 60: 0.5, 90: 0.0, 180: -1.0}
        ids = await vectors.insert([VectorEntry(embedding=turned_vector(angle)) for angle in angles])

        hits = await vectors.search(turned_vector(0))

        assert ids_of(hits) == ids
        assert [hit.score for hit in hits] == pytest.approx(list(angles.values()), abs=1e-6)
        assert all(hit.score == round(hit.score, 6) for hit in hits)
        assert hits[1].distance == pytest.approx(0.5, abs=1e-6)

    async def test_length_does_not_count(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        long = [value * 1e10 for value in random_vector(1)]
        short = [value * 1e-10 for value in random_vector(1)]
        await vectors.insert([VectorEntry(embedding=long), VectorEntry(embedding=short)])

        hits = await vectors.search(random_vector(1))

        assert [hit.score for hit in hits] == pytest.approx([1.0, 1.0], abs=1e-6)

    async def test_ties_are_in_order_of_id(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        ids = [uuid4() for _ in range(20)]
        await vectors.insert([VectorEntry(id=id, embedding=turned_vector(30)) for id in ids])

        assert ids_of(await vectors.search(turned_vector(0), limit=10)) == sorted(ids)[:10]

    async def test_differences_below_the_rounding_are_ties(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        lower, higher = sorted([uuid4(), uuid4()])
        await vectors.insert(
            [
                VectorEntry(id=higher, embedding=turned_vector(0)),
                VectorEntry(id=lower, embedding=turned_vector(0.01)),  # its cosine is 1 - 1.5e-8
            ]
        )

        assert ids_of(await vectors.search(turned_vector(0))) == [lower, higher]

    async def test_only_vectors_of_the_same_dimension_are_compared(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        ids = await vectors.insert([VectorEntry(embedding=random_vector(1, dimension)) for dimension in DIMENSIONS])

        for id, dimension in zip(ids, DIMENSIONS, strict=True):
            assert ids_of(await vectors.search(random_vector(2, dimension))) == [id]

    async def test_a_scope_and_a_filter_leave_as_many_hits_as_match(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        near = [VectorEntry(embedding=turned_vector(angle / 10), scope="crowd") for angle in range(50)]
        far = [
            VectorEntry(embedding=turned_vector(90 + n), scope="few", metadata={"even": n % 2 == 0}) for n in range(6)
        ]
        ids = await vectors.insert([*near, *far])

        assert ids_of(await vectors.search(turned_vector(0), limit=5, scope="few")) == ids[50:55]
        even = await vectors.search(turned_vector(0), limit=3, filters={"metadata.even": True})
        assert ids_of(even) == [ids[50], ids[52], ids[54]]
        assert await vectors.search(turned_vector(0), scope="absent") == []
        assert ids_of(await vectors.search(turned_vector(0), filters={"scope": {"$ne": "crowd"}})) == ids[50:]

    async def test_hits_below_the_least_score_are_left_out(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        ids = await vectors.insert([VectorEntry(embedding=turned_vector(angle)) for angle in (0, 59, 61, 120)])

        assert ids_of(await vectors.search(turned_vector(0), min_score=0.5)) == ids[:2]
        assert ids_of(await vectors.search(turned_vector(0), min_score=-1)) == ids
        assert ids_of(await vectors.search(turned_vector(0), min_score=1)) == ids[:1]

    async def test_another_tenant_is_never_searched_counted_or_deleted(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).vectors, (await open_tenant(backend)).vectors
        (id,) = await ours.insert([VectorEntry(embedding=random_vector(1))])

        assert await theirs.search(random_vector(1)) == []
        assert await theirs.get(id) is None
        assert not await theirs.update_metadata(id, {"a": 1})
        assert await theirs.delete([id]) == 0
        assert await theirs.delete_scope(DEFAULT_SCOPE) == 0
        assert (await theirs.stats()).total_vectors == 0
        assert await theirs.insert([VectorEntry(id=id, embedding=random_vector(2))]) == [id]
        assert ids_of(await ours.search(random_vector(1))) == [id]

    async def test_a_taken_id_is_refused_also_for_another_dimension(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        taken, free = uuid4(), uuid4()
        await vectors.insert([VectorEntry(id=taken, embedding=random_vector(1))])

        for dimension in (384, 1536):
            with pytest.raises(AlreadyExists):
                await vectors.insert(
                    [
                        VectorEntry(id=free, embedding=random_vector(2)),
                        VectorEntry(id=taken, embedding=random_vector(3, dimension)),
                    ]
                )

        assert await vectors.get(free) is None
        assert (await vectors.stats()).total_vectors == 1

    async def test_an_id_twice_in_one_batch_is_refused(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        id = uuid4()

        for dimension in (384, 768):
            with pytest.raises(AlreadyExists):
                await vectors.insert(
                    [
                        VectorEntry(id=id, embedding=random_vector(1)),
                        VectorEntry(id=id, embedding=random_vector(2, dimension)),
                    ]
                )

        assert await vectors.get(id) is None

    async def test_one_bad_vector_and_the_batch_writes_nothing(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        good = [VectorEntry(embedding=random_vector(n)) for n in range(3)]

        with pytest.raises(InvalidVector) as caught:
            await vectors.insert([*good, VectorEntry(embedding=[*random_vector(1)[:-1], math.nan])])

        assert caught.value.field == "entries[3].embedding[383]"
        assert await vectors.stats() == VectorStats(total_vectors=0, by_dimension={}, scopes=0, storage_bytes=0)
        assert await vectors.search(random_vector(0)) == []

    async def test_new_metadata_replaces_the_old_and_moves_the_time_of_the_update(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        vectors = (await open_tenant(backend)).vectors
        created = clock.now()
        (id,) = await vectors.insert([VectorEntry(embedding=random_vector(1, 768), metadata={"a": 1, "b": 1})])
        clock.advance(seconds=5)

        assert await vectors.update_metadata(id, {"a": 2})
        assert not await vectors.update_metadata(uuid4(), {"a": 2})

        record = await vectors.get(id)
        assert record is not None
        assert record.metadata == {"a": 2}
        assert (record.created_at, record.updated_at) == (created, clock.now())
        assert await vectors.search(random_vector(1, 768), filters={"metadata.b": 1}) == []
        assert ids_of(await vectors.search(random_vector(1, 768), filters={"updated_at": {"$gt": created}})) == [id]

    async def test_deleted_vectors_are_gone_and_counted(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        ids = await vectors.insert(
            [VectorEntry(embedding=random_vector(n, dimension)) for n, dimension in enumerate(DIMENSIONS)]
        )

        assert await vectors.delete([ids[0], ids[1], ids[0], uuid4()]) == 2
        assert await vectors.delete([]) == 0

        assert [await vectors.get(id) is None for id in ids] == [True, True, False, False]
        assert await vectors.search(random_vector(0)) == []
        assert await vectors.insert([VectorEntry(id=ids[0], embedding=random_vector(9))]) == [ids[0]]

    async def test_a_scope_is_deleted_in_every_dimension(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        await vectors.insert([VectorEntry(embedding=random_vector(n, d), scope="a") for n, d in enumerate(DIMENSIONS)])
        (kept,) = await vectors.insert([VectorEntry(embedding=random_vector(9), scope="b")])

        assert await vectors.delete_scope("a") == 4
        assert await vectors.delete_scope("a") == 0

        assert ids_of(await vectors.search(random_vector(0))) == [kept]

    async def test_statistics_count_what_is_stored(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        await vectors.insert(
            [
                VectorEntry(embedding=random_vector(1), scope="a"),
                VectorEntry(embedding=random_vector(2), scope="b"),
                VectorEntry(embedding=random_vector(3, 768), scope="a"),
            ]
        )

        everything, one_scope = await vectors.stats(), await vectors.stats(scope="a")

        assert everything == VectorStats(
            total_vectors=3, by_dimension={384: 2, 768: 1}, scopes=2, storage_bytes=(384 + 384 + 768) * FLOAT32_BYTES
        )
        assert one_scope == VectorStats(
            total_vectors=2, by_dimension={384: 1, 768: 1}, scopes=1, storage_bytes=(384 + 768) * FLOAT32_BYTES
        )

    async def test_buffers_of_floats_are_vectors(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        doubles, floats = array("d", random_vector(1)), array("f", random_vector(1))

        ids = await vectors.insert([VectorEntry(embedding=doubles), VectorEntry(embedding=floats)])

        records = [await vectors.get(id) for id in ids]
        assert [one.embedding for one in records if one is not None] == [floats, floats]

    async def test_what_a_caller_does_to_a_result_does_not_change_the_store(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors
        (id,) = await vectors.insert([VectorEntry(embedding=random_vector(1), metadata={"a": [1]})])

        record = await vectors.get(id)
        assert record is not None
        record.metadata["a"].append(2)
        record.embedding[0] = 99.0
        (hit,) = await vectors.search(random_vector(1), include_embedding=True)
        hit.metadata.clear()

        stored = await vectors.get(id)
        assert stored is not None
        assert stored.metadata == {"a": [1]}
        assert stored.embedding == array("f", random_vector(1))

    async def test_a_search_is_exact_when_that_is_asked_for_and_says_the_same_however_hard_it_tries(
        self, backend: Backend
    ) -> None:
        vectors = (await open_tenant(backend)).vectors
        await vectors.insert([VectorEntry(embedding=random_vector(n)) for n in range(40)])
        expected = await vectors.search(random_vector(7), limit=5)

        for effort in (Effort(exact=True), Effort(recall=0.5), Effort(recall=1.0), Effort(ef_search=1)):
            assert await vectors.search(random_vector(7), limit=5, effort=effort) == expected

    async def test_the_status_of_the_indexes_counts_every_vector_once(self, backend: Backend) -> None:
        storages = await open_tenant(backend)
        await storages.vectors.insert([VectorEntry(embedding=random_vector(n)) for n in range(3)])
        await storages.vectors.insert([VectorEntry(embedding=random_vector(3, 768))])

        found = await storages.vectors.build_index()

        assert found == await storages.vectors.index_status()
        assert [(one.dimension, one.vectors) for one in found] == [(384, 3), (768, 1)]
        assert all(one.indexed + one.unindexed == one.vectors for one in found)
        assert await storages.vectors.build_index(dimension=768) == found[1:]
        assert await (await open_tenant(backend)).vectors.index_status() == []

    async def test_only_dimensions_that_are_stored_have_an_index(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors

        with pytest.raises(InvalidLimit, match="`dimension` must be one of 384, 768, 1536, 3072"):
            await vectors.build_index(dimension=100)

    @pytest.mark.parametrize("dimension", DIMENSIONS)
    async def test_a_sample_is_spread_evenly_over_a_space(self, backend: Backend, dimension: int) -> None:
        vectors = (await open_tenant(backend)).vectors
        stored = [array("f", random_vector(n, dimension)) for n in range(10)]
        # Ids in the reverse order of insertion: a sample goes by the ids.
        await vectors.insert([VectorEntry(embedding=one, id=UUID(int=100 - n)) for n, one in enumerate(stored)])
        in_order = stored[::-1]

        assert await vectors.sample(f"free-{dimension}", limit=10) == in_order
        assert await vectors.sample(f"free-{dimension}") == in_order
        assert await vectors.sample(f"free-{dimension}", limit=4) == [in_order[n] for n in (2, 4, 7, 9)]
        assert await vectors.sample(f"free-{dimension}", limit=1) == in_order[-1:]

    async def test_a_sample_of_a_space_of_memories_has_every_window(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        await storages.memories.add([embedded(clock, "long", 90, 20)], space_id=SPACE.space_id)
        await storages.vectors.insert([VectorEntry(embedding=random_vector(1))])

        found = await storages.vectors.sample(SPACE.space_id)

        assert found == [array("f", turned_vector(angle)) for angle in (90, 20)]

    async def test_a_sample_holds_nothing_of_another_space_or_tenant(self, backend: Backend) -> None:
        first, second = await open_tenant(backend), await open_tenant(backend)
        await first.vectors.insert([VectorEntry(embedding=random_vector(1))])

        assert await second.vectors.sample("free-384") == []
        assert await first.vectors.sample("free-768") == []
        assert await first.vectors.sample("nobody's space") == []

    async def test_a_sample_has_its_limits(self, backend: Backend) -> None:
        vectors = (await open_tenant(backend)).vectors

        with pytest.raises(InvalidLimit, match="`limit`"):
            await vectors.sample("free-384", limit=20_001)
        with pytest.raises(InvalidKey, match="`space_id`"):
            await vectors.sample("", limit=1)
