"""What `Memories` promises."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, Conflict, NotFound, VersionConflict
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.memories import (
    ListOrder,
    MemoryChange,
    MemoryPosition,
    MemoryQuery,
    MemoryRankings,
    MemoryRecord,
    NewMemory,
)
from llmspell.testing.contract import (
    DAY,
    SPACE,
    add_one,
    day,
    ids_of,
    memory,
    open_tenant,
    packed,
    turned_vector,
)


async def search_text(storages: Storages, text: str) -> MemoryRankings:
    """Search by words."""
    return await storages.memories.search(MemoryQuery(text=text))


async def search_vector(storages: Storages, degrees: float, candidates: int = 100) -> MemoryRankings:
    """Search by meaning in `SPACE`."""
    query = MemoryQuery(embedding=packed(turned_vector(degrees)), space_id=SPACE.space_id, candidates=candidates)
    return await storages.memories.search(query)


async def with_space(backend: Backend) -> Storages:
    """Return the storages of a new tenant that has `SPACE`."""
    storages = await open_tenant(backend)
    await storages.memories.ensure_space(SPACE)
    return storages


def embedded(clock: ManualClock, content: str, *degrees: float) -> NewMemory:
    """Return a memory with a window at each angle."""
    return memory(clock, content, embeddings=tuple(packed(turned_vector(one)) for one in degrees))


class MemoriesContract:
    """Subclass it in a test module; see the package."""

    # --- adding and reading -------------------------------------------------------------------------------------------

    async def test_a_memory_comes_back_as_it_was_given(self, backend: Backend, clock: ManualClock) -> None:
        memories = (await open_tenant(backend)).memories
        given = NewMemory(
            id=uuid4(),
            content="Ada moved to Zürich 🏔️.\n\tIn May.",
            session="s1",
            role="user",
            kind="knowledge",
            metadata={"b": [1, 2.5, None, {"x": "é"}], "a": True},
            at=day(3),
            token_count=7,
            expires_at=day(300),
        )

        (added,) = await memories.add([given])

        assert added == MemoryRecord(
            id=given.id,
            content=given.content,
            session="s1",
            role="user",
            kind="knowledge",
            metadata=given.metadata,
            at=day(3),
            created_at=clock.now(),
            updated_at=clock.now(),
            last_accessed_at=None,
            version=1,
            processed=False,
            embedding_state="pending",
            token_count=7,
            expires_at=day(300),
        )
        assert await memories.get(given.id) == added
        assert list((await memories.get(given.id) or added).metadata) == ["a", "b"]

    async def test_memories_are_returned_in_the_order_given(self, backend: Backend, clock: ManualClock) -> None:
        memories = (await open_tenant(backend)).memories
        given = [memory(clock, f"number {n}") for n in range(20)]

        assert ids_of(await memories.add(given)) == ids_of(given)
        assert await memories.add([]) == []

    async def test_a_batch_of_ids_gives_those_that_exist(self, backend: Backend, clock: ManualClock) -> None:
        memories = (await open_tenant(backend)).memories
        first, second = await memories.add([memory(clock, "a"), memory(clock, "b")])

        assert await memories.get_batch([second.id, uuid4(), first.id, first.id]) == {
            first.id: first,
            second.id: second,
        }
        assert await memories.get_batch([]) == {}
        assert await memories.get(uuid4()) is None

    async def test_a_taken_id_is_refused_and_the_batch_with_it(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        taken = await add_one(storages, memory(clock, "first lighthouse"))
        other = memory(clock, "second lighthouse")

        with pytest.raises(AlreadyExists):
            await storages.memories.add([other, memory(clock, "third lighthouse", id=taken.id)])
        with pytest.raises(AlreadyExists):
            await storages.memories.add([other, other])

        assert await storages.memories.get(other.id) is None
        assert ids_of((await search_text(storages, "lighthouse")).text) == [taken.id]

    async def test_the_id_of_a_deleted_memory_stays_taken(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        deleted, forgotten = await storages.memories.add([memory(clock, "a"), memory(clock, "b")])
        await storages.memories.delete(deleted.id)
        await storages.memories.forget(forgotten.id)

        for id in (deleted.id, forgotten.id):
            with pytest.raises(AlreadyExists):
                await storages.memories.add([memory(clock, "again", id=id)])

    async def test_an_expired_memory_is_absent_for_every_reader_but_history(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await with_space(backend)
        memories = storages.memories
        new = memory(clock, "a lighthouse", session="s1", expires_at=day(2), embeddings=(packed(turned_vector(0)),))
        await memories.add([new], space_id=SPACE.space_id)
        await memories.add([memory(clock, "a pending lighthouse", session="s2", expires_at=day(2))])
        assert await memories.count() == 2

        clock.set(day(2))

        assert await memories.get(new.id) is None
        assert await memories.get_batch([new.id]) == {}
        assert await memories.list() == []
        assert await memories.list_paginated() == ([], 0)
        assert await memories.count() == 0
        assert await memories.pending() == []
        assert await memories.unprocessed_sessions() == []
        assert (await search_text(storages, "lighthouse")).text == []
        assert (await search_vector(storages, 0)).dense == []
        assert await memories.touch([new.id]) == 0
        assert not await memories.delete(new.id)
        with pytest.raises(NotFound):
            await memories.update(new.id, MemoryChange(content="late"))
        assert [one.operation for one in await memories.history(new.id)] == ["add"]

    async def test_another_tenant_sees_and_changes_nothing(self, backend: Backend, clock: ManualClock) -> None:
        ours, theirs = await with_space(backend), await with_space(backend)
        mine = await add_one(ours, embedded(clock, "a lighthouse", 0), space_id=SPACE.space_id)

        assert await theirs.memories.get(mine.id) is None
        assert await theirs.memories.history(mine.id) == []
        assert await theirs.memories.list() == []
        assert (await search_text(theirs, "lighthouse")).text == []
        assert (await search_vector(theirs, 0)).dense == []
        assert not await theirs.memories.delete(mine.id)
        assert not await theirs.memories.forget(mine.id)
        assert await theirs.memories.touch([mine.id]) == 0
        assert await theirs.memories.attach_embeddings(SPACE.space_id, [(mine.id, 1, (packed(turned_vector(9)),))]) == 0
        with pytest.raises(NotFound):
            await theirs.memories.update(mine.id, MemoryChange(content="stolen"))
        await add_one(theirs, memory(clock, "an id of ours", id=mine.id))
        assert await ours.memories.get(mine.id) == mine

    # --- change -------------------------------------------------------------------------------------------------------

    async def test_an_update_replaces_what_it_names_and_appends_a_version(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        before = await add_one(storages, memory(clock, "old", session="s1", role="user", metadata={"a": 1}))
        clock.advance(seconds=5)

        after = await storages.memories.update(
            before.id, MemoryChange(content="new", session=None), actor="editor", reason="a typo"
        )

        assert (after.content, after.session, after.role, after.metadata) == ("new", None, "user", {"a": 1})
        assert (after.version, after.created_at, after.updated_at) == (2, before.created_at, clock.now())
        assert await storages.memories.get(before.id) == after
        first, second = await storages.memories.history(before.id)
        assert (first.operation, first.version, first.content, first.session) == ("add", 1, "old", "s1")
        assert (second.operation, second.version, second.content, second.session) == ("update", 2, "new", None)
        assert (second.recorded_at, second.actor, second.reason) == (clock.now(), "editor", "a typo")

    async def test_new_content_drops_the_old_words_and_the_old_embedding(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await with_space(backend)
        before = await add_one(storages, embedded(clock, "a lighthouse", 0), space_id=SPACE.space_id)

        after = await storages.memories.update(before.id, MemoryChange(content="a zeppelin"))

        assert after.embedding_state == "pending"
        assert (await search_text(storages, "lighthouse")).text == []
        assert ids_of((await search_text(storages, "zeppelin")).text) == [before.id]
        found = await search_vector(storages, 0)
        assert found.dense == []
        assert found.unembedded == 1

    async def test_new_content_may_bring_its_embedding(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        before = await add_one(storages, embedded(clock, "a lighthouse", 0), space_id=SPACE.space_id)

        change = MemoryChange(content="a zeppelin", embeddings=(packed(turned_vector(60)),))
        after = await storages.memories.update(before.id, change, space_id=SPACE.space_id)

        assert after.embedding_state == "ready"
        assert [one.score for one in (await search_vector(storages, 60)).dense] == [pytest.approx(1.0, abs=1e-6)]

    @pytest.mark.parametrize("change", [MemoryChange(role="Bob"), MemoryChange(at=day(200))], ids=["role", "time"])
    async def test_a_new_speaker_or_date_changes_the_searchable_text(
        self, backend: Backend, clock: ManualClock, change: MemoryChange
    ) -> None:
        storages = await with_space(backend)
        new = memory(clock, "hello", role="Ada", embeddings=(packed(turned_vector(0)),))
        added = await add_one(storages, new, space_id=SPACE.space_id)

        after = await storages.memories.update(added.id, change)

        assert after.embedding_state == "pending"
        assert (await search_vector(storages, 0)).dense == []
        assert ids_of((await search_text(storages, "Bob July")).text) == [added.id]

    async def test_a_change_of_metadata_keeps_the_embedding(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        added = await add_one(storages, embedded(clock, "a lighthouse", 0), space_id=SPACE.space_id)

        after = await storages.memories.update(added.id, MemoryChange(metadata={"topic": "sea"}, kind="knowledge"))

        assert (after.version, after.embedding_state, after.kind) == (2, "ready", "knowledge")
        assert ids_of((await search_vector(storages, 0)).dense) == [added.id]

    async def test_a_change_that_changes_nothing_appends_nothing(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "same", metadata={"a": 1}))
        clock.advance(seconds=5)

        assert await storages.memories.update(added.id, MemoryChange(content="same", metadata={"a": 1})) == added
        assert await storages.memories.update(added.id, MemoryChange()) == added
        assert len(await storages.memories.history(added.id)) == 1

    @pytest.mark.parametrize("value", [True, 1.0, "1"], ids=repr)
    async def test_metadata_of_another_type_is_a_change(
        self, backend: Backend, clock: ManualClock, value: object
    ) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "x", metadata={"a": 1}))

        after = await storages.memories.update(added.id, MemoryChange(metadata={"a": value}))

        assert after.version == 2
        stored = await storages.memories.get(added.id)
        assert stored is not None
        assert type(stored.metadata["a"]) is type(value)

    async def test_an_update_of_nothing_is_not_found(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        deleted = await add_one(storages, memory(clock, "x"))
        await storages.memories.delete(deleted.id)

        for id in (deleted.id, uuid4()):
            with pytest.raises(NotFound):
                await storages.memories.update(id, MemoryChange(content="y"))

    async def test_an_expected_version_must_be_the_current_one(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "one"))
        await storages.memories.update(added.id, MemoryChange(content="two"), expected_version=1)

        with pytest.raises(VersionConflict):
            await storages.memories.update(added.id, MemoryChange(content="three"), expected_version=1)
        with pytest.raises(VersionConflict):
            await storages.memories.delete(added.id, expected_version=1)

        stored = await storages.memories.get(added.id)
        assert stored is not None
        assert stored.content == "two"
        assert await storages.memories.delete(added.id, expected_version=2)

    async def test_of_many_concurrent_updates_each_gets_a_version_of_its_own(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "start"))

        async def change(number: int) -> None:
            for _ in range(50):
                try:
                    await storages.memories.update(added.id, MemoryChange(content=f"text {number}"))
                except Conflict:
                    continue
                return
            raise AssertionError("the update conflicted every time")

        await asyncio.gather(*(change(number) for number in range(8)))

        assert [one.version for one in await storages.memories.history(added.id)] == list(range(1, 10))

    async def test_a_deleted_memory_is_gone_but_for_its_history(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        added = await add_one(storages, embedded(clock, "a lighthouse", 0), space_id=SPACE.space_id)

        assert await storages.memories.delete(added.id, actor="ada", reason="wrong")
        assert not await storages.memories.delete(added.id)

        assert await storages.memories.get(added.id) is None
        assert (await search_text(storages, "lighthouse")).text == []
        assert (await search_vector(storages, 0)).dense == []
        assert await storages.memories.count() == 0
        last = (await storages.memories.history(added.id))[-1]
        assert (last.operation, last.version, last.content) == ("delete", 2, "a lighthouse")
        assert (last.actor, last.reason) == ("ada", "wrong")

    async def test_a_deleted_memory_no_longer_counts_in_the_statistics(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages, fresh = await open_tenant(backend), await open_tenant(backend)
        kept = [memory(clock, f"lighthouse {word}") for word in ("fog", "sun", "rain")]
        await fresh.memories.add(kept)
        await storages.memories.add(kept)
        extra = await storages.memories.add([memory(clock, f"lighthouse and a long text {n}") for n in range(5)])
        for one in extra:
            await storages.memories.delete(one.id)

        assert (await search_text(storages, "lighthouse fog")).text == (await search_text(fresh, "lighthouse fog")).text

    async def test_restore_brings_a_deleted_memory_back(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        new = memory(clock, "a lighthouse", session="s1", role="user", metadata={"a": [1]}, kind="skill", at=day(3))
        added = await add_one(storages, new)
        await storages.memories.delete(added.id)
        clock.advance(days=1)

        restored = await storages.memories.restore(added.id, actor="ada")

        for field in ("id", "content", "session", "role", "metadata", "kind", "at", "created_at"):
            assert getattr(restored, field) == getattr(added, field), field
        assert (restored.version, restored.embedding_state, restored.updated_at) == (3, "pending", clock.now())
        assert await storages.memories.get(added.id) == restored
        assert ids_of((await search_text(storages, "lighthouse")).text) == [added.id]
        assert [one.operation for one in await storages.memories.history(added.id)] == ["add", "delete", "restore"]

    async def test_only_a_deleted_memory_is_restored(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        live, forgotten = await storages.memories.add([memory(clock, "a"), memory(clock, "b")])
        await storages.memories.forget(forgotten.id)

        with pytest.raises(AlreadyExists):
            await storages.memories.restore(live.id)
        for id in (forgotten.id, uuid4()):
            with pytest.raises(NotFound):
                await storages.memories.restore(id)

    @pytest.mark.parametrize("deleted_before", [False, True])
    async def test_forget_leaves_a_tombstone_and_nothing_else(
        self, backend: Backend, clock: ManualClock, deleted_before: bool
    ) -> None:
        storages = await with_space(backend)
        new = memory(
            clock, "a lighthouse", session="s", role="Ada", metadata={"a": 1}, embeddings=(packed(turned_vector(0)),)
        )
        added = await add_one(storages, new, space_id=SPACE.space_id)
        await storages.memories.update(added.id, MemoryChange(metadata={"a": 2}), reason="because of the lighthouse")
        if deleted_before:
            await storages.memories.delete(added.id)

        assert await storages.memories.forget(added.id, actor="officer", reason="asked for")
        assert not await storages.memories.forget(added.id)
        assert not await storages.memories.forget(uuid4())

        assert await storages.memories.get(added.id) is None
        assert (await search_text(storages, "lighthouse Ada")).text == []
        assert (await search_vector(storages, 0)).dense == []
        history = await storages.memories.history(added.id)
        assert {(one.content, one.session, one.role, one.metadata) for one in history} == {(None, None, None, None)}
        assert (history[-1].operation, history[-1].actor, history[-1].reason) == ("forget", "officer", "asked for")
        assert [one.version for one in history] == list(range(1, len(history) + 1))

    async def test_an_expired_memory_can_be_forgotten(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "secret", expires_at=day(2)))
        clock.set(day(3))

        assert await storages.memories.forget(added.id)
        assert {one.content for one in await storages.memories.history(added.id)} == {None}

    # --- lists --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("order", ["at", "created_at"])
    @pytest.mark.parametrize("descending", [False, True])
    async def test_pages_walk_over_all_memories_once_while_others_are_added(
        self, backend: Backend, clock: ManualClock, order: ListOrder, descending: bool
    ) -> None:
        storages = await open_tenant(backend)
        given: list[NewMemory] = []
        for n in range(25):
            clock.advance(seconds=n % 3)
            # Several memories share an instant, on either axis.
            given.append(memory(clock, f"n {n}", at=day(10 + n // 4 * (-1) ** n)))
            await storages.memories.add([given[-1]])

        walked: list[MemoryRecord] = []
        position: MemoryPosition | None = None
        while page := await storages.memories.list(order=order, descending=descending, after=position, limit=4):
            walked += page
            position = MemoryPosition(getattr(page[-1], order), page[-1].id)
            if len(walked) < 12:
                # Behind the walk, so that the walk must not meet it and must not lose its place.
                clock.advance(seconds=1)
                behind = walked[0].at + DAY if descending else walked[0].at - DAY
                if order == "at" or descending:
                    await storages.memories.add([memory(clock, "late", at=behind)])

        assert sorted(ids_of(walked)) == sorted(ids_of(given))
        places = [(getattr(one, order), one.id) for one in walked]
        assert places == sorted(places, reverse=descending)

    async def test_a_page_of_what_matches_is_full(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await storages.memories.add(
            [memory(clock, f"n {n}", session="odd" if n % 2 else "even", at=day(1 + n)) for n in range(20)]
        )

        page = await storages.memories.list(filters={"session": "odd"}, descending=False, limit=4)

        assert ids_of(page) == [added[n].id for n in (1, 3, 5, 7)]

    async def test_an_offset_page_is_newest_first_and_knows_the_total(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        added = []
        for n in range(7):
            clock.advance(seconds=1)
            added.append(await add_one(storages, memory(clock, f"n {n}", at=day(100 - n))))

        assert await storages.memories.list_paginated(limit=3, offset=0) == (added[:3:-1], 7)
        assert await storages.memories.list_paginated(limit=3, offset=6) == ([added[0]], 7)
        assert await storages.memories.list_paginated(limit=3, offset=7) == ([], 7)

    async def test_counting_follows_the_filter(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        await storages.memories.add([memory(clock, f"n {n}", metadata={"n": n}) for n in range(5)])

        assert await storages.memories.count() == 5
        assert await storages.memories.count(filters={"metadata.n": {"$gte": 3}}) == 2

    # --- marks and upkeep ---------------------------------------------------------------------------------------------

    async def test_a_touch_sets_when_a_memory_was_read_and_makes_no_version(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "x"))
        clock.advance(seconds=5)

        assert await storages.memories.touch([added.id, uuid4()]) == 1
        assert await storages.memories.touch([]) == 0

        touched = await storages.memories.get(added.id)
        assert touched is not None
        assert touched.last_accessed_at == clock.now()
        assert (touched.version, touched.updated_at) == (1, added.updated_at)
        assert len(await storages.memories.history(added.id)) == 1

    async def test_sessions_with_unprocessed_memories_are_named_in_byte_order(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        sessions = ["b", "a", "B", "é", "😀", "～", "b"]
        added = await storages.memories.add([memory(clock, "x", session=session) for session in sessions])
        await storages.memories.add([memory(clock, "without a session")])

        assert await storages.memories.unprocessed_sessions() == ["B", "a", "b", "é", "～", "😀"]
        assert await storages.memories.unprocessed_sessions(limit=2) == ["B", "a"]
        assert await storages.memories.mark_processed([added[0].id, added[1].id, uuid4()]) == 2
        assert await storages.memories.unprocessed_sessions() == ["B", "b", "é", "～", "😀"]
        processed = await storages.memories.get(added[0].id)
        assert processed is not None
        assert (processed.processed, processed.version) == (True, 1)

    async def test_old_memories_are_deleted_in_bounded_steps(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await storages.memories.add([memory(clock, f"n {n}", at=day(1 + n)) for n in range(5)])

        assert await storages.memories.delete_before(day(4), limit=2) == 2
        assert await storages.memories.get(added[2].id) is not None
        assert await storages.memories.delete_before(day(4), limit=2) == 1
        assert await storages.memories.delete_before(day(4), limit=2) == 0

        assert ids_of(await storages.memories.list(descending=False)) == ids_of(added[3:])
        assert [one.operation for one in await storages.memories.history(added[0].id)] == ["add", "delete"]
        assert (await storages.memories.restore(added[0].id)).content == "n 0"

    async def test_what_a_caller_does_to_a_result_does_not_change_the_store(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        metadata = {"a": [1]}
        added = await add_one(storages, memory(clock, "x", metadata=metadata))

        metadata["a"].append(2)
        added.metadata["a"].append(3)
        (await storages.memories.list())[0].metadata.clear()

        stored = await storages.memories.get(added.id)
        assert stored is not None
        assert stored.metadata == {"a": [1]}
