"""What `Artifacts` promises of lists, references and what is left over: each content once, and gone with its last reference."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidCursor, InvalidInput, InvalidLimit, NotFound
from llmspell.storage.contracts.artifacts import ArtifactRecord, Artifacts, ArtifactStats, ArtifactSummary, ArtifactType
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.testing.contract import new_tenant, open_tenant, refused
from llmspell.testing.contract.artifacts import MEBIBYTE, NOTHING, noise, open_session

WRITERS = 8
ROUNDS = 25
SHARED = 60
"""Enough that deletions which begin together overlap."""
RETRIES_MAX = 20


async def walked(
    artifacts: Artifacts, *, limit: int, session: UUID | None = None, type: ArtifactType | None = None
) -> list[str]:
    """Return the ids of all pages."""
    page = await artifacts.list(limit=limit, session=session, type=type)
    found = list(page.items)
    while page.next_cursor is not None:
        assert len(page.items) == limit
        page = await artifacts.list(limit=limit, session=session, type=type, cursor=page.next_cursor)
        found += page.items
    return [one.id for one in found]


async def count_of(storages: Storages, session: UUID) -> int:
    """Return how many artifacts a session says it has."""
    record = await storages.sessions.get(session)
    assert record is not None
    return record.artifact_count


class ArtifactReferencesContract:
    """Subclass it in a test module; see the package."""

    async def test_the_same_content_of_two_sessions_is_stored_once(self, backend: Backend) -> None:
        storages, first = await open_session(backend)
        second = (await storages.sessions.create()).id
        content = noise(2 * MEBIBYTE)

        one = await storages.artifacts.put(first, "one", content)
        two = await storages.artifacts.put(second, "two", content)

        assert await storages.artifacts.stats() == ArtifactStats(
            artifacts=2,
            contents=1,
            logical_bytes=2 * len(content),
            stored_bytes=len(content),
            saved_by_deduplication_bytes=len(content),
            saved_by_compression_bytes=0,
        )
        assert await storages.artifacts.delete(one.id)
        assert await storages.artifacts.read(two.id) == content
        assert await storages.artifacts.delete(two.id)
        assert await storages.artifacts.stats() == NOTHING
        assert await storages.artifacts.collect_garbage() == 0

    @pytest.mark.parametrize("size", [10, 2 * MEBIBYTE])
    async def test_deleting_both_sessions_leaves_nothing(self, backend: Backend, size: int) -> None:
        storages, first = await open_session(backend)
        second = (await storages.sessions.create()).id
        shared, own = noise(size, 1), noise(size, 2)
        for session in (first, second):
            await storages.artifacts.put(session, "shared", shared)
            await storages.artifacts.put(session, "again", shared)
        await storages.artifacts.put(first, "own", own)
        kept = (await storages.artifacts.list(session=second)).items[0].id

        assert await storages.sessions.delete(first)
        assert await storages.artifacts.read(kept) == shared
        assert (await storages.artifacts.stats()).contents == 1
        assert await storages.sessions.delete(second)

        assert await storages.artifacts.stats() == NOTHING
        assert (await storages.artifacts.list()).items == []
        assert await storages.artifacts.collect_garbage() == 0

    async def test_a_content_that_was_deleted_is_stored_anew(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        content = noise(2 * MEBIBYTE)
        first = await storages.artifacts.put(session, "n", content)
        await storages.artifacts.delete(first.id)

        again = await storages.artifacts.put(session, "n", content)

        assert await storages.artifacts.read(again.id) == content
        assert await storages.artifacts.read(first.id) is None

    async def test_the_number_of_a_deleted_artifact_is_never_given_again(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        first = await storages.artifacts.put(session, "n", b"same")
        await storages.artifacts.delete(first.id)

        again = await storages.artifacts.put(session, "n", b"same")

        assert (first.sequence, again.sequence) == (0, 1)
        assert await storages.artifacts.get(first.id) is None

    async def test_a_session_that_is_made_again_under_its_id_counts_from_0(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        first = await storages.artifacts.put(session, "n", b"same")
        await storages.sessions.delete(session)

        await storages.sessions.create(id=session)

        assert await storages.artifacts.get(first.id) is None
        assert (await storages.artifacts.put(session, "n", b"same")).id == first.id

    @pytest.mark.parametrize("size", [3, 2 * MEBIBYTE])
    async def test_a_put_that_failed_has_taken_no_number_and_is_no_look_at_its_session(
        self, backend: Backend, clock: ManualClock, size: int
    ) -> None:
        storages, session = await open_session(backend)
        other = (await storages.sessions.create()).id
        before = await storages.sessions.get(session)
        deleted = await storages.artifacts.put(other, "n", b"deleted")
        await storages.artifacts.delete(deleted.id)
        clock.advance(seconds=5)

        for parent in (f"{session}:7:{'a' * 64}", f"{uuid4()}:0:{'a' * 64}", deleted.id):
            with pytest.raises(NotFound):
                await storages.artifacts.put(session, "n", noise(size), parent=parent)

        assert await storages.sessions.get(session) == before
        assert await storages.artifacts.stats() == NOTHING
        assert (await storages.artifacts.put(session, "n", noise(size))).sequence == 0

    async def test_puts_whose_parent_is_deleted_at_once_leave_no_gap(self, backend: Backend) -> None:
        """Each deletion meets puts that depend on what it deletes; a number is taken by who succeeds, and by nobody else."""
        storages, session = await open_session(backend)
        numbers = []
        for _ in range(ROUNDS):
            parent = await storages.artifacts.put(session, "n", b"parent")
            numbers.append(parent.sequence)
            done = await asyncio.gather(
                *(storages.artifacts.put(session, "n", bytes([one]), parent=parent.id) for one in range(WRITERS // 2)),
                storages.artifacts.delete(parent.id),
                *(storages.artifacts.put(session, "n", bytes([one]), parent=parent.id) for one in range(WRITERS // 2)),
                return_exceptions=True,
            )
            numbers += sorted(one.sequence for one in done if isinstance(one, ArtifactRecord))
            assert all(one is True or isinstance(one, (ArtifactRecord, NotFound)) for one in done), done

        assert numbers == list(range(len(numbers)))

    async def test_a_session_counts_its_artifacts(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        put = [await storages.artifacts.put(session, "n", bytes([number])) for number in range(3)]

        assert await count_of(storages, session) == 3
        await storages.artifacts.delete(put[1].id)

        assert await count_of(storages, session) == 2
        assert (await storages.sessions.list()).items[0].artifact_count == 2
        assert (await storages.sessions.update(session, data={})).artifact_count == 2

    async def test_an_artifact_is_no_new_version_of_its_session_and_counts_as_a_look(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages, session = await open_session(backend)
        clock.advance(seconds=5)

        await storages.artifacts.put(session, "n", b"x")

        found = await storages.sessions.get(session)
        assert found is not None
        assert (found.version, found.last_accessed_at) == (1, clock.now())
        assert found.updated_at == found.created_at

    async def test_artifacts_of_an_expired_session_are_absent_and_go_with_it(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)
        session = (await storages.sessions.create(ttl_s=10)).id
        lasting = (await storages.sessions.create()).id
        content = noise(2 * MEBIBYTE)
        put = await storages.artifacts.put(session, "n", content)
        kept = await storages.artifacts.put(lasting, "n", content)

        clock.advance(seconds=10)

        assert await storages.artifacts.get(put.id) is None
        assert await storages.artifacts.read(put.id) is None
        assert not await storages.artifacts.delete(put.id)
        assert await walked(storages.artifacts, limit=5) == [kept.id]
        assert await walked(storages.artifacts, limit=5, type="custom") == [kept.id]
        assert await walked(storages.artifacts, limit=5, session=session) == []
        for call in (
            storages.artifacts.update(put.id, name="m"),
            storages.artifacts.put(session, "n", b""),
            storages.artifacts.put(lasting, "n", b"", parent=put.id),
        ):
            with pytest.raises(NotFound):
                await call
        assert (await storages.artifacts.stats()).artifacts == 2
        assert await storages.sessions.delete_expired() == 1
        assert (await storages.artifacts.stats()).artifacts == 1
        assert await storages.artifacts.read(kept.id) == content

    async def test_expired_sessions_take_their_artifacts_with_them(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        for number in range(4):
            session = (await storages.sessions.create(ttl_s=10)).id
            for content in (b"shared", noise(2 * MEBIBYTE), bytes([number])):
                await storages.artifacts.put(session, "n", content)
        clock.advance(seconds=10)

        assert await storages.sessions.delete_expired(limit=3) == 3
        assert (await storages.artifacts.stats()).contents == 3
        assert await storages.sessions.delete_expired(limit=3) == 1

        assert await storages.artifacts.stats() == NOTHING

    async def test_artifacts_of_two_sessions_do_not_mix(self, backend: Backend) -> None:
        """SAA-01: what one user's session holds does not show in another's, although the content is shared."""
        storages, ada = await open_session(backend)
        bob = (await storages.sessions.create()).id
        hers = await storages.artifacts.put(ada, "hers", b"same content")
        his = await storages.artifacts.put(bob, "his", b"same content")

        assert await walked(storages.artifacts, limit=5, session=ada) == [hers.id]
        assert await walked(storages.artifacts, limit=5, session=bob) == [his.id]
        assert (await storages.artifacts.stats(session=ada)).artifacts == 1
        assert (await storages.artifacts.get(hers.id), hers.session) == (hers, ada)

    async def test_pages_show_every_artifact_once_newest_first(self, backend: Backend, clock: ManualClock) -> None:
        storages, session = await open_session(backend)
        other = (await storages.sessions.create()).id
        put = []
        for number in range(9):
            kind: ArtifactType = "tool_result" if number % 2 else "user_input"
            put.append(await storages.artifacts.put((session, other)[number % 3 == 0], f"n{number}", b"", type=kind))
            clock.advance(seconds=number % 4 == 3)  # some share an instant: then the greater id comes first
        everything = [one.id for one in sorted(put, key=lambda one: (one.created_at, one.id), reverse=True)]

        for limit in (1, 4, 9, 100):
            assert await walked(storages.artifacts, limit=limit) == everything
            assert await walked(storages.artifacts, limit=limit, type="tool_result") == [
                id for id in everything if id in {one.id for one in put[1::2]}
            ]
            assert await walked(storages.artifacts, limit=limit, session=other) == [one.id for one in put[::3][::-1]]
            assert await walked(storages.artifacts, limit=limit, session=other, type="tool_result") == [put[3].id]
        assert await walked(storages.artifacts, limit=5, type="custom") == []

    async def test_the_tenth_artifact_of_a_session_comes_after_the_second(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        put = [await storages.artifacts.put(session, "n", b"") for _ in range(12)]

        assert await walked(storages.artifacts, limit=5, session=session) == [one.id for one in put[::-1]]

    async def test_a_summary_says_what_a_list_needs(self, backend: Backend, clock: ManualClock) -> None:
        storages, session = await open_session(backend)
        put = await storages.artifacts.put(session, "n", b"12345", type="tool_result")

        (listed,) = (await storages.artifacts.list(type="tool_result")).items

        assert listed == ArtifactSummary(
            id=put.id,
            session=session,
            sequence=0,
            content_hash=put.content_hash,
            name="n",
            type="tool_result",
            size_bytes=5,
            created_at=clock.now(),
        )

    async def test_a_cursor_serves_its_own_list_alone(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        other = (await storages.sessions.create()).id
        theirs, _ = await open_session(backend)
        for _ in range(3):
            await storages.artifacts.put(session, "n", b"")
        cursor = (await storages.artifacts.list(session=session, limit=1)).next_cursor
        assert cursor is not None

        for call in (
            theirs.artifacts.list(cursor=cursor, session=session),
            storages.artifacts.list(cursor=cursor),
            storages.artifacts.list(cursor=cursor, session=other),
            storages.artifacts.list(cursor=cursor, session=session, type="custom"),
            storages.sessions.list(cursor=cursor),
        ):
            async with refused(InvalidCursor, "cursor"):
                await call

    @pytest.mark.parametrize("limit", [0, -1, 1_001, True, 1.5, "1", None])
    async def test_a_limit_out_of_range_is_refused(self, backend: Backend, limit: Any) -> None:
        artifacts = (await open_tenant(backend)).artifacts

        async with refused(InvalidLimit, "limit"):
            await artifacts.list(limit=limit)
        async with refused(InvalidLimit, "limit"):
            await artifacts.collect_garbage(limit=limit)
        async with refused(InvalidInput, "type"):
            await artifacts.list(type="picture")  # type: ignore[arg-type]

    async def test_compression_is_used_above_10_kib_and_only_when_it_pays(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        for content in (b"a" * 10_240, noise(10_241), b"b" * 10_241):
            await storages.artifacts.put(session, "n", content)

        stats = await storages.artifacts.stats()

        assert stats.logical_bytes == 10_240 + 10_241 + 10_241
        assert 10_240 + 10_241 < stats.stored_bytes < 10_240 + 10_241 + 200
        assert stats.saved_by_compression_bytes == stats.logical_bytes - stats.stored_bytes
        assert stats.saved_by_deduplication_bytes == 0

    async def test_stats_of_a_session_count_what_it_refers_to(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        other = (await storages.sessions.create()).id
        for content in (b"12345", b"12345", b"678"):
            await storages.artifacts.put(session, "n", content)
        await storages.artifacts.put(other, "n", b"12345")

        found = await storages.artifacts.stats(session=str(session))

        assert (found.artifacts, found.contents, found.logical_bytes, found.stored_bytes) == (3, 2, 13, 8)
        assert found.saved_by_deduplication_bytes == 5
        assert (await storages.artifacts.stats()).artifacts == 4

    async def test_concurrent_puts_into_one_session_never_share_a_number(self, backend: Backend) -> None:
        storages, session = await open_session(backend)

        put = await asyncio.gather(
            *(storages.artifacts.put(session, "n", bytes([number % 3])) for number in range(WRITERS * 4))
        )

        assert sorted(one.sequence for one in put) == list(range(WRITERS * 4))
        assert await count_of(storages, session) == WRITERS * 4
        assert (await storages.artifacts.stats()).contents == 3

    @pytest.mark.parametrize("size", [100, MEBIBYTE + 1])
    async def test_puts_and_deletions_of_one_content_at_once_end_exact(self, backend: Backend, size: int) -> None:
        """Eight writers put and delete the same few contents in two sessions; nothing is lost, and nothing is left."""
        storages, first = await open_session(backend)
        second = (await storages.sessions.create()).id
        contents = [noise(size, seed) for seed in range(2)]
        rounds = ROUNDS if size == 100 else 3

        async def work(number: int) -> list[tuple[str, bytes]]:
            choose, mine = random.Random(number), []  # noqa: S311 - test data
            for _ in range(rounds):
                content = choose.choice(contents)
                put = await storages.artifacts.put(choose.choice((first, second)), "n", content)
                mine.append((put.id, content))
                if choose.random() < 0.7:
                    assert await storages.artifacts.delete(mine.pop(choose.randrange(len(mine)))[0])
            return mine

        kept = [one for mine in await asyncio.gather(*map(work, range(WRITERS))) for one in mine]

        stats = await storages.artifacts.stats()
        assert stats.artifacts == len(kept)
        assert stats.contents == len({content for _, content in kept})
        for id, content in kept:
            assert await storages.artifacts.read(id) == content
        assert await count_of(storages, first) + await count_of(storages, second) == len(kept)
        assert await storages.artifacts.collect_garbage() == 0
        await asyncio.gather(*(storages.artifacts.delete(id) for id, _ in kept))
        assert await storages.artifacts.stats() == NOTHING

    async def test_sessions_that_share_contents_are_deleted_at_once(self, backend: Backend) -> None:
        """Each has the same contents in another order: whoever deletes them waits for the others, and for nobody twice."""
        storages = await open_tenant(backend)
        sessions = [(await storages.sessions.create()).id for _ in range(WRITERS)]
        kept = (await storages.sessions.create()).id
        for number, session in enumerate(sessions):
            for content in random.Random(number).sample(range(SHARED), SHARED):  # noqa: S311 - test data
                await storages.artifacts.put(session, "n", bytes([content]))

        async def put() -> None:
            for content in range(SHARED):
                await storages.artifacts.put(kept, "n", bytes([content]))

        deleted = await asyncio.gather(put(), *map(storages.sessions.delete, sessions))

        assert deleted[1:] == [True] * WRITERS
        assert (await storages.artifacts.stats()).contents == await count_of(storages, kept) == SHARED
        assert await storages.sessions.delete(kept)
        assert await storages.artifacts.stats() == NOTHING

    async def test_puts_into_a_session_that_is_deleted_meanwhile_are_kept_nowhere(self, backend: Backend) -> None:
        storages = await open_tenant(backend)
        for number in range(6):
            session = (await storages.sessions.create()).id
            for content in range(SHARED // 2):
                await storages.artifacts.put(session, "n", bytes([content]))

            async def put(first: int, session: UUID = session) -> int:
                done = 0
                for content in range(SHARED):
                    try:
                        await storages.artifacts.put(session, "n", bytes([(first + content) % SHARED]))
                    except NotFound:
                        return done
                    done += 1
                return done

            async def delete(after: int = number, session: UUID = session) -> bool:
                for _ in range(after * 3):
                    await storages.sessions.get(session)
                return await storages.sessions.delete(session)

            *_, deleted = await asyncio.gather(*(put(7 * writer) for writer in range(WRITERS)), delete())

            assert deleted
            assert await storages.artifacts.stats() == NOTHING
            assert await storages.artifacts.collect_garbage() == 0

    async def test_transactions_that_race_for_a_content_end_exact(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)
        sessions = [(await storages.sessions.create()).id for _ in range(WRITERS)]

        async def put(session: UUID) -> None:
            for _ in range(RETRIES_MAX):
                try:
                    async with backend.transaction(tenant) as tx:
                        put = await tx.artifacts.put(session, "n", b"shared")
                        await asyncio.sleep(0)
                        await tx.artifacts.delete(put.id)
                        await tx.artifacts.put(session, "n", b"shared")
                except Conflict:
                    continue
                return
            raise AssertionError("the transaction conflicted every time")

        await asyncio.gather(*map(put, sessions))

        stats = await storages.artifacts.stats()
        assert (stats.artifacts, stats.contents) == (WRITERS, 1)
        for session in sessions:
            assert await count_of(storages, session) == 1
            await storages.sessions.delete(session)
        assert await storages.artifacts.stats() == NOTHING

    async def test_a_stream_whose_artifact_is_deleted_ends_with_an_error(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        content = noise(4 * MEBIBYTE)
        put = await storages.artifacts.put(session, "n", content)
        stream = storages.artifacts.stream(put.id)
        read = [await anext(stream)]
        await storages.artifacts.delete(put.id)

        try:
            read += [piece async for piece in stream]
        except NotFound:
            assert b"".join(read) == content[: sum(map(len, read))]
        else:  # a backend may have had all of it at hand
            assert b"".join(read) == content
