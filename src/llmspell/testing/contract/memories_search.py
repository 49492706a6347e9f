"""What searching `Memories` promises: by words, and by meaning."""

from __future__ import annotations

from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidVector, NotFound
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.memories import (
    EmbeddingSpace,
    MemoryChange,
    MemoryQuery,
)
from llmspell.testing.contract import (
    OTHER_SPACE,
    SPACE,
    add_one,
    day,
    ids_of,
    memory,
    open_tenant,
    packed,
    random_vector,
    turned_vector,
)
from llmspell.testing.contract.memories import embedded, search_text, search_vector, with_space

LONG_QUESTION = (
    "please tell me what you remember about the old zeppelin "
    "that somebody once described to you during some long evening"
)
"""Twenty words, of which one is rare and tells."""


class MemoriesSearchContract:
    """Subclass it in a test module; see the package."""

    # --- words --------------------------------------------------------------------------------------------------------

    async def test_a_memory_is_found_by_its_words_while_its_embedding_is_pending(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        added = await add_one(storages, memory(clock, "The harbour has a red lighthouse."))

        found = await search_text(storages, "lighthouses")

        assert added.embedding_state == "pending"
        assert ids_of(found.text) == [added.id]
        assert found.text[0].score > 0
        assert found.records == {added.id: added}
        assert found.dense == []
        assert found.unembedded == 1

    async def test_who_said_it_and_when_are_found_by_word(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        caroline = await add_one(storages, memory(clock, "I moved.", role="Caroline", at=day(130)))
        await add_one(storages, memory(clock, "I moved.", role="Melanie", at=day(20)))

        assert ids_of((await search_text(storages, "Caroline")).text) == [caroline.id]
        assert ids_of((await search_text(storages, "in May")).text) == [caroline.id]

    async def test_a_rare_word_is_found_from_a_question_of_twenty_words(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        told = "please remember what somebody once described during some long old evening"
        await storages.memories.add([memory(clock, f"{told} {n}") for n in range(80)])
        wanted = await add_one(storages, memory(clock, "The zeppelin landed."))

        found = await search_text(storages, LONG_QUESTION)

        assert len(LONG_QUESTION.split()) == 20
        assert found.text[0].id == wanted.id

    async def test_words_that_nothing_has_find_nothing(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        await add_one(storages, memory(clock, "a lighthouse"))

        for text in ("zeppelin", "", "?!", "   "):
            assert (await search_text(storages, text)).text == []

    async def test_a_search_by_words_follows_the_formula(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        texts = ["red red house", "a red house by the sea", "blue house", "green sea"]
        added = await storages.memories.add([memory(clock, text) for text in texts])

        found = await search_text(storages, "red house")

        # ln(1 + (4 - df + 0.5) / (df + 0.5)) is 0.693147 for "red" (df 2) and 0.356675 for "house" (df 3). With "1",
        # "january" and "2026" the texts have 6, 9, 5 and 5 terms, 6.25 on average; k1 is 1.5 and b 0.75.
        def weight(idf: float, tf: int, length: int) -> float:
            return idf * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * length / 6.25))

        expected = {
            added[0].id: weight(0.693147181, 2, 6) + weight(0.356674944, 1, 6),
            added[1].id: weight(0.693147181, 1, 9) + weight(0.356674944, 1, 9),
            added[2].id: weight(0.356674944, 1, 5),
        }
        assert {one.id: one.score for one in found.text} == pytest.approx(expected, abs=1e-6)
        assert ids_of(found.text) == sorted(expected, key=lambda id: -expected[id])
        assert all(one.score == round(one.score, 6) for one in found.text)

    async def test_equal_scores_are_in_order_of_id(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = await storages.memories.add([memory(clock, "the same lighthouse") for _ in range(12)])

        assert ids_of((await search_text(storages, "lighthouse")).text) == sorted(ids_of(added))

    async def test_another_tenants_rows_never_change_a_score(self, backend: Backend, clock: ManualClock) -> None:
        ours, theirs = await open_tenant(backend), await open_tenant(backend)
        await ours.memories.add([memory(clock, f"a lighthouse and {word}") for word in ("fog", "sun", "rain", "sand")])
        before = await search_text(ours, "lighthouse fog")

        await theirs.memories.add([memory(clock, f"fog fog fog {n}") for n in range(60)])

        assert (await search_text(ours, "lighthouse fog")).text == before.text

    async def test_a_filter_does_not_change_what_a_word_weighs(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        texts = ["lighthouse fog", "lighthouse sun", "fog and a longer text", "rain"]
        added = await storages.memories.add(
            [memory(clock, text, session="s1" if n == 0 else "s2") for n, text in enumerate(texts)]
        )
        unfiltered = {one.id: one.score for one in (await search_text(storages, "lighthouse fog")).text}

        query = MemoryQuery(text="lighthouse fog", filters={"session": "s1"})
        filtered = (await storages.memories.search(query)).text

        assert [(one.id, one.score) for one in filtered] == [(added[0].id, unfiltered[added[0].id])]

    async def test_candidates_limit_each_ranking_to_its_best(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        await storages.memories.add(
            [embedded(clock, f"lighthouse {'fog ' * n}", n * 10) for n in range(1, 9)], space_id=SPACE.space_id
        )

        def query(candidates: int) -> MemoryQuery:
            return MemoryQuery(
                text="lighthouse fog",
                embedding=packed(turned_vector(0)),
                space_id=SPACE.space_id,
                candidates=candidates,
            )

        all_found, best = await storages.memories.search(query(100)), await storages.memories.search(query(3))

        assert best.text == all_found.text[:3]
        assert best.dense == all_found.dense[:3]
        assert set(best.records) == {one.id for one in (*best.text, *best.dense)}

    # --- meaning ------------------------------------------------------------------------------------------------------

    async def test_a_memory_with_an_embedding_is_ready_and_found_by_meaning(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await with_space(backend)
        near, far = await storages.memories.add(
            [embedded(clock, "near", 10), embedded(clock, "far", 80)], space_id=SPACE.space_id
        )

        found = await search_vector(storages, 0)

        assert near.embedding_state == "ready"
        assert ids_of(found.dense) == [near.id, far.id]
        assert [one.score for one in found.dense] == pytest.approx([0.984808, 0.173648], abs=1e-6)
        assert set(found.records) == {near.id, far.id}
        assert found.unembedded == 0

    async def test_a_space_that_was_searched_while_it_was_empty_is_searched_when_it_is_not(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """Before anything was in it, and after everything was deleted."""
        storages = await with_space(backend)
        for _ in range(2):
            assert (await search_vector(storages, 0)).dense == []
            (added,) = await storages.memories.add([embedded(clock, "near", 10)], space_id=SPACE.space_id)
            assert ids_of((await search_vector(storages, 0)).dense) == [added.id]
            await storages.memories.delete(added.id)

    async def test_a_memory_counts_by_its_best_window(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        long, short = await storages.memories.add(
            [embedded(clock, "long", 90, 20, 170), embedded(clock, "short", 30)], space_id=SPACE.space_id
        )

        found = await search_vector(storages, 0)

        assert ids_of(found.dense) == [long.id, short.id]
        assert [one.score for one in found.dense] == pytest.approx([0.939693, 0.866025], abs=1e-6)

    async def test_windows_of_few_memories_do_not_crowd_out_the_rest(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await with_space(backend)
        crowd = embedded(clock, "crowd", *[n / 10 for n in range(30)])
        others = [embedded(clock, f"other {n}", 40 + n) for n in range(3)]
        await storages.memories.add([crowd, *others], space_id=SPACE.space_id)

        assert ids_of((await search_vector(storages, 0, candidates=3)).dense) == [crowd.id, others[0].id, others[1].id]

    async def test_equally_near_memories_are_in_order_of_id(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        added = await storages.memories.add([embedded(clock, "x", 45) for _ in range(9)], space_id=SPACE.space_id)

        assert ids_of((await search_vector(storages, 0)).dense) == sorted(ids_of(added))

    async def test_a_space_that_is_not_registered_is_not_found(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        new = embedded(clock, "x", 0)

        with pytest.raises(NotFound):
            await storages.memories.add([new], space_id=SPACE.space_id)
        with pytest.raises(NotFound):
            await search_vector(storages, 0)
        with pytest.raises(NotFound):
            await storages.memories.attach_embeddings(SPACE.space_id, [(new.id, 1, new.embeddings)])

        assert await storages.memories.count() == 0

    async def test_a_space_is_registered_once_and_otherwise_conflicts(self, backend: Backend) -> None:
        storages = await with_space(backend)

        await storages.memories.ensure_space(SPACE)
        for model, dimension in (("another", 384), ("model-a", 768)):
            other = EmbeddingSpace(space_id=SPACE.space_id, model=model, dimension=dimension)
            with pytest.raises(Conflict):
                await storages.memories.ensure_space(other)

    async def test_an_embedding_of_another_dimension_is_refused(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        wrong = packed(random_vector(1, 768))
        good = await add_one(storages, memory(clock, "good"))

        with pytest.raises(InvalidVector):
            await storages.memories.add(
                [memory(clock, "fine"), memory(clock, "wrong", embeddings=(wrong,))], space_id=SPACE.space_id
            )
        with pytest.raises(InvalidVector):
            await storages.memories.attach_embeddings(SPACE.space_id, [(good.id, 1, (wrong,))])
        with pytest.raises(InvalidVector):
            await storages.memories.search(MemoryQuery(embedding=wrong, space_id=SPACE.space_id))
        with pytest.raises(InvalidVector):
            await storages.memories.update(good.id, MemoryChange(embeddings=(wrong,)), space_id=SPACE.space_id)

        assert await storages.memories.count() == 1
        assert await storages.memories.get(good.id) == good

    async def test_embeddings_without_a_space_are_refused(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)

        with pytest.raises(InvalidVector) as caught:
            await storages.memories.add([embedded(clock, "x", 0)])

        assert caught.value.field == "space_id"
        assert await storages.memories.count() == 0

    async def test_two_spaces_are_never_compared(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        await storages.memories.ensure_space(OTHER_SPACE)
        first = await add_one(storages, embedded(clock, "first", 0), space_id=SPACE.space_id)
        other = memory(clock, "second", embeddings=(packed(turned_vector(0, 768)),))
        second = await add_one(storages, other, space_id=OTHER_SPACE.space_id)

        in_other = MemoryQuery(embedding=packed(turned_vector(0, 768)), space_id=OTHER_SPACE.space_id)

        assert ids_of((await search_vector(storages, 0)).dense) == [first.id]
        assert ids_of((await storages.memories.search(in_other)).dense) == [second.id]

    async def test_attached_embeddings_make_pending_memories_ready(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        added = await storages.memories.add([memory(clock, f"n {n}") for n in range(3)])

        items = [(one.id, one.version, (packed(turned_vector(n * 30)),)) for n, one in enumerate(added[:2])]
        attached = await storages.memories.attach_embeddings(SPACE.space_id, items)
        found = await search_vector(storages, 0)

        assert attached == 2
        assert ids_of(found.dense) == ids_of(added[:2])
        assert found.unembedded == 1
        assert ids_of(await storages.memories.pending()) == [added[2].id]
        assert [one.version for one in found.records.values()] == [1, 1]
        assert {one.embedding_state for one in found.records.values()} == {"ready"}

    async def test_an_embedding_of_a_text_that_has_changed_is_not_attached(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await with_space(backend)
        changed, deleted, fresh = await storages.memories.add([memory(clock, word) for word in ("a", "b", "c")])
        await storages.memories.update(changed.id, MemoryChange(content="other"))
        await storages.memories.delete(deleted.id)

        window = (packed(turned_vector(0)),)
        items = [(id, 1, window) for id in (changed.id, deleted.id, fresh.id, uuid4())]

        assert await storages.memories.attach_embeddings(SPACE.space_id, items) == 1
        assert ids_of((await search_vector(storages, 0)).dense) == [fresh.id]
        assert ids_of(await storages.memories.pending()) == [changed.id]

    async def test_pending_memories_are_given_oldest_first(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        added = []
        for n in range(4):
            clock.advance(seconds=1)
            added.append(await add_one(storages, memory(clock, f"n {n}", at=day(9 - n))))

        assert ids_of(await storages.memories.pending(limit=3)) == ids_of(added[:3])

    async def test_a_failed_embedding_is_no_longer_pending(self, backend: Backend, clock: ManualClock) -> None:
        storages = await with_space(backend)
        failed, pending = await storages.memories.add([memory(clock, "a"), memory(clock, "b")])
        ready = await add_one(storages, embedded(clock, "c", 0), space_id=SPACE.space_id)

        assert await storages.memories.mark_embedding_failed([failed.id, ready.id, uuid4()]) == 1

        assert ids_of(await storages.memories.pending()) == [pending.id]
        records = await storages.memories.get_batch([failed.id, ready.id])
        assert records[failed.id].embedding_state == "failed"
        assert records[ready.id].embedding_state == "ready"
        assert ids_of((await search_text(storages, "a")).text)[:1] == [failed.id]
