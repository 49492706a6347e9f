"""What `Memories` promises about upkeep: another model comes into use, time runs out, ids stay taken."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import DIMENSIONS
from llmspell.errors import AlreadyExists, InvalidKey, NotFound
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryChange, MemoryQuery
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.testing.contract import (
    OTHER_SPACE,
    SPACE,
    add_one,
    day,
    ids_of,
    memory,
    open_tenant,
    packed,
    refused,
    turned_vector,
)

LOOKS_FREE = EmbeddingSpace(space_id="free-model", model="free-model", dimension=384)
IN_OTHER = (packed(turned_vector(0, 768)),)


async def with_spaces(backend: Backend) -> Storages:
    """Return the storages of a new tenant that has two spaces."""
    storages = await open_tenant(backend)
    for space in (SPACE, OTHER_SPACE):
        await storages.memories.ensure_space(space)
    return storages


class MemoriesUpkeepContract:
    """Subclass it in a test module; see the package."""

    # --- another model ------------------------------------------------------------------------------------------------

    async def test_memories_of_another_space_wait_for_an_embedding_in_this_one(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await with_spaces(backend)
        window = (packed(turned_vector(0)),)
        old = [await add_one(storages, memory(clock, "old", embeddings=window), space_id=SPACE.space_id)]
        clock.advance(seconds=1)
        old.append(await add_one(storages, memory(clock, "older", embeddings=window), space_id=SPACE.space_id))
        pending = await add_one(storages, memory(clock, "pending"))
        await add_one(storages, memory(clock, "new", embeddings=IN_OTHER), space_id=OTHER_SPACE.space_id)

        waiting = await storages.memories.pending(space_id=OTHER_SPACE.space_id)

        assert ids_of(waiting) == [pending.id, *ids_of(old)]
        assert ids_of(await storages.memories.pending(space_id=OTHER_SPACE.space_id, limit=2)) == ids_of(waiting)[:2]
        assert ids_of(await storages.memories.pending()) == [pending.id]

    async def test_a_space_on_either_side_of_this_one_waits(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        between = EmbeddingSpace(space_id="space-aa", model="m", dimension=384)
        await storages.memories.ensure_space(between)
        before = memory(clock, "before", embeddings=(packed(turned_vector(0)),))
        after = memory(clock, "after", embeddings=IN_OTHER)
        await add_one(storages, after, space_id=OTHER_SPACE.space_id)
        await add_one(storages, before, space_id=SPACE.space_id)

        assert ids_of(await storages.memories.pending(space_id=between.space_id)) == [before.id, after.id]

    async def test_a_search_counts_what_its_own_space_cannot_find(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        window = (packed(turned_vector(0)),)
        await add_one(storages, memory(clock, "old", embeddings=window), space_id=SPACE.space_id)
        await add_one(storages, memory(clock, "pending"))

        there = await storages.memories.search(MemoryQuery(embedding=window[0], space_id=SPACE.space_id))
        here = await storages.memories.search(MemoryQuery(embedding=IN_OTHER[0], space_id=OTHER_SPACE.space_id))

        assert (there.unembedded, here.unembedded) == (1, 2)

    async def test_a_ready_memory_moves_into_another_space(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        window = (packed(turned_vector(0)),)
        old = await add_one(storages, memory(clock, "old", embeddings=window), space_id=SPACE.space_id)

        assert await storages.memories.attach_embeddings(OTHER_SPACE.space_id, [(old.id, 1, IN_OTHER)]) == 1

        found = await storages.memories.search(MemoryQuery(embedding=IN_OTHER[0], space_id=OTHER_SPACE.space_id))
        assert ids_of(found.dense) == [old.id]
        assert found.unembedded == 0
        assert await storages.memories.pending(space_id=OTHER_SPACE.space_id) == []
        assert ids_of(await storages.memories.pending(space_id=SPACE.space_id)) == [old.id]

    async def test_what_another_model_refuses_waits_no_longer(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        old = memory(clock, "old", embeddings=(packed(turned_vector(0)),))
        await add_one(storages, old, space_id=SPACE.space_id)

        assert await storages.memories.mark_embedding_failed([old.id], space_id=SPACE.space_id) == 0
        assert await storages.memories.mark_embedding_failed([old.id]) == 0
        assert await storages.memories.mark_embedding_failed([old.id], space_id=OTHER_SPACE.space_id) == 1

        assert await storages.memories.pending(space_id=OTHER_SPACE.space_id) == []

    async def test_of_two_embeddings_for_one_memory_the_last_counts(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        added = await add_one(storages, memory(clock, "one"))
        items = [(added.id, 1, (packed(turned_vector(angle)),)) for angle in (90, 0)]

        assert await storages.memories.attach_embeddings(SPACE.space_id, items) == 1

        query = MemoryQuery(embedding=packed(turned_vector(0)), space_id=SPACE.space_id)
        assert [one.score for one in (await storages.memories.search(query)).dense] == [1.0]
        async with refused(InvalidKey, "items[0].id"):
            await storages.memories.attach_embeddings(SPACE.space_id, [("x", 1, items[0][2])])  # type: ignore[list-item]

    async def test_a_memory_that_has_expired_is_not_marked(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        brief = memory(clock, "brief", expires_at=clock.now() + timedelta(seconds=5))
        await add_one(storages, brief)
        clock.advance(seconds=5)

        assert await storages.memories.mark_embedding_failed([brief.id]) == 0

    @pytest.mark.parametrize("dimension", DIMENSIONS)
    async def test_the_space_of_free_vectors_is_not_for_memories(self, backend: Backend, dimension: int) -> None:
        storages = await open_tenant(backend)

        async with refused(InvalidKey, "space_id"):
            await storages.memories.ensure_space(
                EmbeddingSpace(space_id=f"free-{dimension}", model="m", dimension=dimension)
            )

    async def test_a_deleted_memory_of_a_model_named_free_takes_no_place_in_a_ranking(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        await storages.memories.ensure_space(LOOKS_FREE)
        windows = [packed(turned_vector(degrees)) for degrees in (0, 30)]
        nearest, next_best = await storages.memories.add(
            [memory(clock, "x", embeddings=(window,)) for window in windows], space_id=LOOKS_FREE.space_id
        )
        query = MemoryQuery(embedding=windows[0], space_id=LOOKS_FREE.space_id, candidates=1)
        assert ids_of((await storages.memories.search(query)).dense) == [nearest.id]

        await storages.memories.delete(nearest.id)

        found = await storages.memories.search(query)
        assert ids_of(found.dense) == list(found.records) == [next_best.id]

    async def test_free_vectors_stay_when_memories_go(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        (free,) = await storages.vectors.insert([VectorEntry(embedding=turned_vector(0))])
        added = memory(clock, "x", embeddings=(packed(turned_vector(0)),))
        await add_one(storages, added, space_id=SPACE.space_id)

        await storages.memories.delete(added.id)

        assert [hit.id for hit in await storages.vectors.search(turned_vector(0))] == [free]

    # --- ids ----------------------------------------------------------------------------------------------------------

    async def test_an_id_is_taken_by_whatever_ever_had_it(self, backend: Backend, clock: ManualClock) -> None:
        storages, others = await open_tenant(backend), await open_tenant(backend)
        given = [memory(clock, word) for word in ("live", "deleted", "forgotten")]
        given.append(memory(clock, "expired", expires_at=day(2)))
        await storages.memories.add(given)
        await storages.memories.delete(given[1].id)
        await storages.memories.forget(given[2].id)
        clock.set(day(3))
        ids = [one.id for one in given]

        assert await storages.memories.taken([*ids, uuid4(), ids[0]]) == set(ids)
        assert await storages.memories.taken([]) == set()
        assert await others.memories.taken(ids) == set()

    # --- time runs out ------------------------------------------------------------------------------------------------

    async def test_expired_memories_are_deleted_in_bounded_steps(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_spaces(backend)
        window = (packed(turned_vector(0)),)
        expiring = [memory(clock, f"n {n}", expires_at=day(2 + n), embeddings=window) for n in range(4)]
        kept = memory(clock, "n kept", embeddings=window)
        await storages.memories.add([*expiring, kept], space_id=SPACE.space_id)
        clock.set(day(4))

        assert await storages.memories.delete_expired(limit=2) == 2
        assert await storages.memories.delete_expired(limit=2) == 1
        assert await storages.memories.delete_expired(limit=2) == 0

        first = (await storages.memories.history(expiring[0].id))[-1]
        assert (first.operation, first.reason, first.actor) == ("delete", "expired", None)
        assert ids_of(await storages.memories.list()) == ids_of(
            sorted([expiring[3], kept], key=lambda one: one.id, reverse=True)
        )
        with pytest.raises(AlreadyExists):
            await storages.memories.add([memory(clock, "again", id=expiring[0].id)])

    async def test_a_deleted_expired_memory_no_longer_counts_in_the_statistics(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages, fresh = await open_tenant(backend), await open_tenant(backend)
        kept = [memory(clock, f"lighthouse {word}") for word in ("fog", "sun", "rain")]
        long = [memory(clock, f"lighthouse and a long text {n}", expires_at=day(2)) for n in range(5)]
        await storages.memories.add([*kept, *long])
        await fresh.memories.add(kept)
        clock.set(day(2))

        assert await storages.memories.delete_expired() == 5

        asked = MemoryQuery(text="lighthouse fog")
        assert (await storages.memories.search(asked)).text == (await fresh.memories.search(asked)).text

    async def test_an_expired_memory_that_is_not_deleted_yet_keeps_its_id(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "x", expires_at=day(2)))
        clock.set(day(2))

        with pytest.raises(AlreadyExists):
            await storages.memories.add([memory(clock, "again", id=added.id)])

    async def test_a_restored_memory_expires_when_it_would_have(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "x", expires_at=day(9)))
        await storages.memories.update(added.id, MemoryChange(content="y"))
        await storages.memories.delete(added.id)

        assert (await storages.memories.restore(added.id)).expires_at == day(9)
        stored = await storages.memories.get(added.id)
        assert stored is not None
        assert stored.expires_at == day(9)
        assert {one.expires_at for one in await storages.memories.history(added.id)} == {day(9)}

    async def test_what_would_have_expired_is_not_restored(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "x", expires_at=day(9)))
        await storages.memories.delete(added.id)
        clock.set(day(9))

        with pytest.raises(NotFound) as caught:
            await storages.memories.restore(added.id)

        assert "history" in str(caught.value)
        assert [one.operation for one in await storages.memories.history(added.id)] == ["add", "delete"]

    async def test_forgetting_erases_the_expiry_too(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "x", expires_at=day(9)))

        await storages.memories.forget(added.id)

        assert {one.expires_at for one in await storages.memories.history(added.id)} == {None}
