"""What `Sessions` promises."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import UNSET

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    NotFound,
    VersionConflict,
)
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.sessions import DATA_MAX_BYTES, LIST_MAX, SessionRecord, Sessions, SessionStatus
from llmspell.testing.contract import memory, new_tenant, open_tenant, refused

WRITERS = 8
ATTEMPTS_MAX = 50
HOSTILE = {
    "": 1,
    "nul": "a\0b",
    "surrogate": "\ud800",
    "nan": float("nan"),
    "infinite": float("inf"),
    "negative zero": -0.0,
    "beyond 64 bits": 2**63,
    "no JSON": object(),
}
AWKWARD: dict[str, Any] = {
    "whole float": 1.0,
    "large floats": [1e22, 1e308, -1e16, 5e-324],
    "edges": [2**63 - 1, -(2**63), 0, True, False, None],
    "unicode": {"😀": "𐀀", "～": "é", "e\u0301": ""},
    "nested": [[], {}, [{"b": 1, "a": 2}]],
}


async def walked(sessions: Sessions, *, limit: int, status: SessionStatus | None = None) -> list[UUID]:
    """Return the ids of all pages."""
    page = await sessions.list(limit=limit, status=status)
    found = list(page.items)
    while page.next_cursor is not None:
        assert len(page.items) == limit
        page = await sessions.list(limit=limit, status=status, cursor=page.next_cursor)
        found += page.items
    return [one.id for one in found]


async def required(sessions: Sessions, id: UUID) -> SessionRecord:
    """Return a session that must be there."""
    record = await sessions.get(id)
    assert record is not None
    return record


class SessionsContract:
    """Subclass it in a test module; see the package."""

    async def test_a_session_comes_back_as_it_was_created(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions

        created = await sessions.create(data={"user": "ada"}, ttl_s=90)

        assert await sessions.get(created.id) == created
        assert created.data == {"user": "ada"}
        assert (created.status, created.version, created.artifact_count) == ("active", 1, 0)
        assert created.created_at == created.updated_at == created.last_accessed_at == clock.now()
        assert created.expires_at == clock.now() + timedelta(seconds=90)

    async def test_a_session_needs_nothing_and_then_never_expires(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create()

        clock.advance(days=36_500)

        found = await required(sessions, created.id)
        assert (found.data, found.expires_at) == ({}, None)

    async def test_an_id_may_be_chosen_and_is_then_taken(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = uuid4()
        created = await sessions.create(id=str(id), data={"n": 1})

        with pytest.raises(AlreadyExists):
            await sessions.create(id=id, data={"n": 2})

        assert created.id == id
        assert (await required(sessions, id)).data == {"n": 1}

    async def test_the_id_of_an_expired_session_is_taken_until_it_is_deleted(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create(ttl_s=1)).id
        clock.advance(seconds=1)

        with pytest.raises(AlreadyExists, match="keeps its own until it is deleted"):
            await sessions.create(id=id)
        assert await sessions.delete_expired() == 1

        assert (await sessions.create(id=id)).version == 1

    @pytest.mark.parametrize("ttl_s", [1e-9, 5e-7, 5e-324])
    async def test_the_shortest_life_is_a_microsecond(self, backend: Backend, clock: ManualClock, ttl_s: float) -> None:
        sessions = (await open_tenant(backend)).sessions

        created = await sessions.create(ttl_s=ttl_s)

        assert (created.status, created.expires_at) == ("active", clock.now() + timedelta(microseconds=1))
        assert await sessions.get(created.id) == created
        clock.set(clock.now() + timedelta(microseconds=1))
        assert await sessions.get(created.id) is None

    async def test_data_comes_back_value_for_value(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions

        created = await sessions.create(data=AWKWARD)

        found = await required(sessions, created.id)
        assert repr(found.data) == repr(created.data)
        assert found.data == AWKWARD
        assert [type(one) for one in found.data["edges"]] == [type(one) for one in AWKWARD["edges"]]

    @pytest.mark.parametrize("name", HOSTILE)
    async def test_data_that_not_every_backend_keeps_is_refused_and_nothing_is_written(
        self, backend: Backend, name: str
    ) -> None:
        sessions = (await open_tenant(backend)).sessions
        kept = await sessions.create(data={"n": 1})

        for call in (sessions.create(data={name: HOSTILE[name]}), sessions.update(kept.id, data={name: HOSTILE[name]})):
            with pytest.raises(InvalidMetadata) as caught:
                await call
            assert caught.value.field.startswith("data")

        assert await walked(sessions, limit=10) == [kept.id]
        assert await sessions.get(kept.id) == kept

    @pytest.mark.parametrize("data", [[], "text", 1, [("a", 1)]])
    async def test_data_that_is_no_object_is_refused(self, backend: Backend, data: Any) -> None:
        sessions = (await open_tenant(backend)).sessions

        async with refused(InvalidMetadata, "data"):
            await sessions.create(data=data)

    async def test_data_may_have_a_mebibyte_and_no_byte_more(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        room = DATA_MAX_BYTES - len('{"d":""}')

        created = await sessions.create(data={"d": "x" * room})
        assert len((await required(sessions, created.id)).data["d"]) == room

        async with refused(InvalidMetadata, "data"):
            await sessions.create(data={"d": "x" * (room + 1)})
        async with refused(InvalidMetadata, "data"):
            await sessions.create(data={"d": "é" * (room // 2 + 1)})

    async def test_what_the_caller_does_to_data_afterwards_changes_nothing(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        data = {"steps": [1]}

        created = await sessions.create(data=data)
        data["steps"].append(2)
        created.data["steps"].append(3)

        assert (await required(sessions, created.id)).data == {"steps": [1]}

    @pytest.mark.parametrize("id", ["", "x", "1234", 5, None])
    async def test_what_is_no_uuid_is_refused(self, backend: Backend, id: Any) -> None:
        sessions = (await open_tenant(backend)).sessions

        for call in (sessions.get(id), sessions.update(id, data={}), sessions.delete(id)):
            async with refused(InvalidKey, "id"):
                await call

    async def test_an_absent_session_is_none(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions

        assert await sessions.get(uuid4()) is None
        assert not await sessions.delete(uuid4())
        with pytest.raises(NotFound):
            await sessions.update(uuid4(), data={})

    async def test_a_session_is_there_until_the_instant_at_which_it_expires(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create(ttl_s=10)).id

        clock.advance(seconds=9.999999)
        assert await sessions.get(id) is not None
        clock.advance(seconds=0.000001)

        assert await sessions.get(id) is None
        with pytest.raises(NotFound):
            await sessions.update(id, ttl_s=None)
        assert (await sessions.list()).items == []
        assert await sessions.count() == 0
        assert not await sessions.delete(id)

    async def test_deleting_an_expired_session_frees_its_id(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create(ttl_s=10)).id
        clock.advance(seconds=10)

        assert not await sessions.delete(id)

        assert await sessions.count(status="expired") == 0
        await sessions.create(id=id)

    async def test_a_look_is_noted_at_most_once_a_minute(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create()

        clock.advance(seconds=59.999999)
        assert (await required(sessions, created.id)).last_accessed_at == created.created_at
        clock.advance(seconds=0.000001)
        noted = clock.now()
        assert (await required(sessions, created.id)).last_accessed_at == noted
        clock.advance(seconds=59)

        found = await required(sessions, created.id)
        assert found.last_accessed_at == noted
        assert (found.version, found.updated_at) == (1, created.updated_at)

    async def test_a_look_inside_a_transaction_notes_nothing(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        created = await backend.storages(tenant).sessions.create()
        clock.advance(seconds=61)

        async with backend.transaction(tenant) as tx:
            found = await tx.sessions.get(created.id)
            listed = (await tx.sessions.list()).items

        assert found == created
        assert listed == [created]

    async def test_an_update_replaces_what_is_given_and_counts_the_version(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create(data={"a": 1}, ttl_s=1_000)
        clock.advance(seconds=5)

        updated = await sessions.update(created.id, data={"b": 2})

        assert await sessions.get(created.id) == updated
        assert (updated.data, updated.version, updated.status) == ({"b": 2}, 2, "active")
        assert updated.updated_at == updated.last_accessed_at == clock.now()
        assert (updated.created_at, updated.expires_at) == (created.created_at, created.expires_at)

    async def test_an_update_can_archive_and_leave_the_rest(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create(data={"a": 1}, ttl_s=1_000)

        archived = await sessions.update(created.id, status="archived")

        assert (archived.status, archived.data, archived.expires_at) == ("archived", {"a": 1}, created.expires_at)
        assert (await sessions.update(created.id, status="active")).version == 3

    async def test_an_update_moves_the_end_or_takes_it_away(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create(ttl_s=10)).id
        clock.advance(seconds=9)

        assert (await sessions.update(id, ttl_s=10)).expires_at == clock.now() + timedelta(seconds=10)
        clock.advance(seconds=9)
        assert (await sessions.update(id, ttl_s=None)).expires_at is None
        clock.advance(days=1)

        assert await sessions.get(id) is not None

    async def test_the_status_expired_ends_a_session_at_once(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create()).id

        ended = await sessions.update(id, status="expired")

        assert (ended.status, ended.expires_at) == ("expired", clock.now())
        assert await sessions.get(id) is None
        assert await walked(sessions, limit=5, status="expired") == [id]
        assert await sessions.delete_expired() == 1

    async def test_an_update_that_contradicts_itself_is_refused(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create()

        async with refused(InvalidInput, "ttl_s"):
            await sessions.update(created.id, status="expired", ttl_s=10)
        async with refused(InvalidMetadata, "data"):
            await sessions.update(created.id, data=None)  # type: ignore[arg-type]
        async with refused(InvalidInput, "status"):
            await sessions.update(created.id, status="suspended")  # type: ignore[arg-type]
        async with refused(InvalidLimit, "expected_version"):
            await sessions.update(created.id, data={}, expected_version=0)

        assert await sessions.get(created.id) == created

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), True, "10", 1e12])
    async def test_a_ttl_that_is_no_number_of_seconds_is_refused(self, backend: Backend, ttl_s: Any) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create()

        for call in (sessions.create(ttl_s=ttl_s), sessions.update(created.id, ttl_s=ttl_s)):
            async with refused(InvalidLimit, "ttl_s"):
                await call

        assert await walked(sessions, limit=5) == [created.id]

    async def test_an_update_at_another_version_is_a_conflict_with_both(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create(data={"n": 1})
        await sessions.update(created.id, data={"n": 2}, expected_version=1)

        with pytest.raises(VersionConflict) as caught:
            await sessions.update(created.id, data={"n": 3}, expected_version=1)

        assert caught.value.fields["expected"] == 1
        assert caught.value.fields["current"] == 2
        assert (await required(sessions, created.id)).data == {"n": 2}

    async def test_no_concurrent_update_under_an_expected_version_is_lost(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create(data={"n": 0})).id

        async def increment() -> None:
            for _ in range(ATTEMPTS_MAX):
                seen = await required(sessions, id)
                await asyncio.sleep(0)
                try:
                    await sessions.update(id, data={"n": seen.data["n"] + 1}, expected_version=seen.version)
                except VersionConflict:
                    continue
                return
            raise AssertionError("every attempt was beaten")

        await asyncio.gather(*(increment() for _ in range(WRITERS)))

        found = await required(sessions, id)
        assert (found.data, found.version) == ({"n": WRITERS}, WRITERS + 1)

    async def test_no_concurrent_update_in_a_transaction_is_lost(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        id = (await backend.storages(tenant).sessions.create(data={"n": 0})).id

        async def increment() -> None:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with backend.transaction(tenant) as tx:
                        seen = await required(tx.sessions, id)
                        await asyncio.sleep(0)
                        await tx.sessions.update(id, data={"n": seen.data["n"] + 1})
                except Conflict:
                    continue
                return
            raise AssertionError("the transaction conflicted every time")

        await asyncio.gather(*(increment() for _ in range(WRITERS)))

        assert (await required(backend.storages(tenant).sessions, id)).data == {"n": WRITERS}

    async def test_of_many_that_create_one_id_a_single_one_does(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = uuid4()

        results = await asyncio.gather(
            *(sessions.create(id=id, data={"n": number}) for number in range(WRITERS)), return_exceptions=True
        )

        assert sum(isinstance(result, AlreadyExists) for result in results) == WRITERS - 1
        assert await walked(sessions, limit=5) == [id]

    async def test_delete_says_whether_the_session_was_there(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create()).id

        assert await sessions.delete(str(id))
        assert not await sessions.delete(id)
        assert await sessions.get(id) is None

    async def test_of_many_that_delete_one_session_a_single_one_was_first(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create()).id

        results = await asyncio.gather(*(sessions.delete(id) for _ in range(WRITERS)))

        assert sorted(results) == [False] * (WRITERS - 1) + [True]

    async def test_pages_show_every_session_once_newest_first(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        ids = []
        for number in range(9):
            ids.append((await sessions.create()).id)
            clock.advance(seconds=number % 3 == 0)  # some share an instant: then the greater id comes first

        assert await walked(sessions, limit=4) == ids[::-1]
        assert await walked(sessions, limit=9) == ids[::-1]
        assert await walked(sessions, limit=1) == ids[::-1]

    async def test_a_walk_is_not_disturbed_by_what_comes_and_goes(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        ids = []
        for _ in range(6):
            ids.append((await sessions.create()).id)
            clock.advance(seconds=1)
        page = await sessions.list(limit=3)
        await sessions.create()
        await sessions.delete(page.items[-1].id)

        rest = await sessions.list(limit=3, cursor=page.next_cursor)

        assert [one.id for one in (*page.items, *rest.items)] == ids[::-1]
        assert rest.next_cursor is None

    async def test_a_list_shows_a_status_or_what_has_not_expired(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        active, archived, over = [(await sessions.create(ttl_s=ttl_s)).id for ttl_s in (None, 50, 10)]
        await sessions.update(archived, status="archived")
        clock.advance(seconds=10)

        assert await walked(sessions, limit=5) == [archived, active]
        assert await walked(sessions, limit=5, status="active") == [active]
        assert await walked(sessions, limit=5, status="archived") == [archived]
        assert await walked(sessions, limit=5, status="expired") == [over]
        assert (await sessions.list(status="expired")).items[0].status == "expired"
        assert await sessions.count() == 2
        assert await sessions.count(status="archived") == await sessions.count(status="expired") == 1
        clock.advance(seconds=40)
        assert await walked(sessions, limit=1, status="expired") == [over, archived]
        assert await sessions.count(status="archived") == 0

    async def test_a_cursor_serves_its_own_list_alone(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).sessions, (await open_tenant(backend)).sessions
        for sessions in (ours, theirs):
            for _ in range(3):
                await sessions.create()
        cursor = (await ours.list(limit=1)).next_cursor
        assert cursor is not None

        for call in (
            theirs.list(cursor=cursor),
            ours.list(cursor=cursor, status="active"),
            ours.list(cursor=cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")),
            ours.list(cursor="nonsense"),
        ):
            async with refused(InvalidCursor, "cursor"):
                await call

    @pytest.mark.parametrize("limit", [0, -1, LIST_MAX + 1, True, 1.5, "1", None])
    async def test_a_limit_out_of_range_is_refused(self, backend: Backend, limit: Any) -> None:
        sessions = (await open_tenant(backend)).sessions

        async with refused(InvalidLimit, "limit"):
            await sessions.list(limit=limit)

    async def test_expire_marks_a_batch_and_says_how_many(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        for ttl_s in (10, 10, 10, 20, None):
            await sessions.create(ttl_s=ttl_s)
        clock.advance(seconds=10)

        assert await sessions.expire(limit=2) == 2
        assert await sessions.expire(limit=2) == 1
        assert await sessions.expire(limit=2) == 0

        marked = (await sessions.list(status="expired")).items
        assert [(one.status, one.version, one.updated_at) for one in marked] == [("expired", 2, clock.now())] * 3
        assert await sessions.count() == 2

    async def test_delete_expired_deletes_a_batch_marked_or_not(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        for ttl_s in (10, 10, 10, 20, None):
            await sessions.create(ttl_s=ttl_s)
        clock.advance(seconds=10)
        await sessions.expire(limit=1)

        assert await sessions.delete_expired(limit=2) == 2
        assert await sessions.delete_expired(limit=2) == 1
        assert await sessions.delete_expired(limit=2) == 0

        assert await sessions.count(status="expired") == 0
        assert await sessions.count() == 2

    async def test_sweepers_at_once_never_count_a_session_twice(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        for _ in range(40):
            await sessions.create(ttl_s=1)
        clock.advance(seconds=1)

        marked = await asyncio.gather(*(sessions.expire(limit=10) for _ in range(WRITERS)))
        deleted = await asyncio.gather(*(sessions.delete_expired(limit=10) for _ in range(WRITERS)))

        assert sum(marked) + await sessions.expire(limit=40) == 40
        assert sum(deleted) + await sessions.delete_expired(limit=40) == 40
        assert await sessions.count(status="expired") == 0

    async def test_a_session_expires_while_its_clock_goes_back(self, backend: Backend, clock: ManualClock) -> None:
        sessions = (await open_tenant(backend)).sessions
        id = (await sessions.create(ttl_s=10)).id
        clock.advance(seconds=11)
        await sessions.expire()
        clock.advance(seconds=-5)

        assert await sessions.get(id) is None
        assert await sessions.count() == 0

    async def test_another_tenant_sees_and_changes_nothing(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).sessions, (await open_tenant(backend)).sessions
        created = await ours.create(data={"whose": "ours"})

        assert await theirs.get(created.id) is None
        assert not await theirs.delete(created.id)
        with pytest.raises(NotFound):
            await theirs.update(created.id, data={})
        with pytest.raises(NotFound):
            await theirs.update(created.id, data={}, expected_version=1)
        assert await walked(theirs, limit=5) == []
        assert (await theirs.create(id=created.id)).version == 1

        assert await ours.get(created.id) == created

    async def test_what_is_rolled_back_was_never_there(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        sessions = backend.storages(tenant).sessions
        kept = await sessions.create(data={"n": 1})

        async def fail() -> None:
            async with backend.transaction(tenant) as tx:
                await tx.sessions.create()
                await tx.sessions.update(kept.id, data={"n": 2})
                await tx.sessions.delete(kept.id)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert (await sessions.list()).items == [kept]

    async def test_a_call_that_fails_in_a_transaction_undoes_itself_alone(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            first = await tx.sessions.create()
            with pytest.raises(AlreadyExists):
                await tx.sessions.create(id=first.id)
            with pytest.raises(VersionConflict):
                await tx.sessions.update(first.id, data={}, expected_version=7)
            second = await tx.sessions.create()

        assert set(await walked(backend.storages(tenant).sessions, limit=5)) == {first.id, second.id}

    async def test_memories_of_two_sessions_do_not_mix(self, backend: Backend, clock: ManualClock) -> None:
        """SAA-01: a session keeps its user's things apart, in what it lists and counts."""
        storages = await open_tenant(backend)
        ada, bob = [(await storages.sessions.create(data={"user": name})).id for name in ("ada", "bob")]
        await storages.memories.add(
            [memory(clock, f"{name} said this", session=str(id)) for name, id in (("ada", ada), ("bob", bob))]
        )

        listed = await storages.memories.list(filters={"session": str(ada)})
        paged, total = await storages.memories.list_paginated(filters={"session": str(ada)})

        assert [one.content for one in listed] == ["ada said this"]
        assert ([one.content for one in paged], total) == (["ada said this"], 1)

    async def test_nothing_given_to_an_update_is_a_new_version_too(self, backend: Backend) -> None:
        sessions = (await open_tenant(backend)).sessions
        created = await sessions.create(data={"n": 1})

        updated = await sessions.update(created.id, data=UNSET, status=UNSET, ttl_s=UNSET)

        assert (updated.version, updated.data) == (2, {"n": 1})
