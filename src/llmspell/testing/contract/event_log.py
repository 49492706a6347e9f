"""What `EventLog` promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
)
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.event_log import (
    BATCH_MAX,
    SEQUENCE_MAX,
    EventLog,
    EventRecord,
    NewEvent,
)
from llmspell.testing.contract import new_tenant, open_tenant, refused

WRITERS = 8
EACH = 10
ATTEMPTS_MAX = 200
TYPES = ("agent.started", "agent.state_changed", "agentic.started", "tool.executed")
# What JSON may hold and databases like to change.
PAYLOAD = {
    "text": 'ünïcode ～ 😀 \u2028 " \\ \n </script>',
    "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, 1e22, 1e308, 5e-324, 10000000000000000.0, 1.0, 2.5],
    "nested": {"z": {"b": [], "a": {}}, "n": None},
    "flags": [True, False, None],
    "é": "key",
}


async def walked(log: EventLog, *, limit: int, **wanted: Any) -> list[EventRecord]:
    """Return every event of a list, page by page."""
    found: list[EventRecord] = []
    cursor = None
    while True:
        page = await log.list(cursor=cursor, limit=limit, **wanted)
        assert len(page.items) <= limit
        found += page.items
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


def texts(records: list[EventRecord]) -> list[Any]:
    """Return what tests put into payloads, in order."""
    return [one.payload.get("n") for one in records]


class EventLogContract:
    """Subclass it in a test module; see the package."""

    async def test_an_event_comes_back_as_it_was_appended(self, backend: Backend, clock: ManualClock) -> None:
        log = (await open_tenant(backend)).event_log
        correlation = uuid4()

        event = await log.append("agent.state_changed", PAYLOAD, correlation_id=correlation, language="lua")

        assert event.type == "agent.state_changed"
        assert event.payload == PAYLOAD
        assert event.correlation_id == correlation
        assert event.at == clock.now()
        assert event.language == "lua"
        assert event.sequence == 1
        assert await log.get(event.id) == event
        assert await log.get(event.id, at=event.at) == event
        assert (await log.list()).items == [event]
        assert await log.tail() == [event]

    async def test_numbers_keep_their_kind(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log

        event = await log.append("test.event", PAYLOAD)

        stored = await log.get(event.id)
        assert stored is not None
        for record in (event, stored):
            assert [type(one) for one in record.payload["numbers"]] == [type(one) for one in PAYLOAD["numbers"]]
            assert list(record.payload) == sorted(PAYLOAD)

    async def test_what_is_not_given_is_filled_in(self, backend: Backend, clock: ManualClock) -> None:
        log = (await open_tenant(backend)).event_log

        event = await log.append("system.startup")

        assert event.payload == {}
        assert event.correlation_id == event.id
        assert event.id.version == 7
        assert (event.at, event.language) == (clock.now(), "python")

    async def test_ids_and_instants_may_be_texts(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        id, correlation = uuid4(), uuid4()

        event = await log.append(
            "test.event", at="2025-03-04T05:06:07.000008+02:00", id=str(id), correlation_id=str(correlation)
        )

        assert (event.id, event.correlation_id) == (id, correlation)
        assert event.at == datetime(2025, 3, 4, 3, 6, 7, 8, tzinfo=UTC)
        assert await log.get(str(id), at="2025-03-04T03:06:07.000008Z") == event
        assert (await log.list(since="2025-03-04", until="2025-03-05", correlation_id=str(correlation))).items == [
            event
        ]

    @pytest.mark.parametrize(
        "at",
        [
            "0001-01-01T00:00:00+00:00",
            "1969-12-31T23:59:59.999999+00:00",
            "2026-02-28T23:59:59.999999+00:00",
            "2031-07-01T00:00:00+00:00",
            "9999-12-31T23:59:59.999999+00:00",
        ],
    )
    async def test_an_event_of_any_month_is_kept_and_found(self, backend: Backend, at: str) -> None:
        log = (await open_tenant(backend)).event_log

        event = await log.append("test.event", at=at)

        assert event.at == datetime.fromisoformat(at)
        assert await log.get(event.id) == event
        assert (await log.list()).items == [event]
        assert (await log.list(descending=False)).items == [event]
        assert await log.tail() == [event]
        assert await log.count() == 1
        assert (await log.stats()).first_at == event.at

    async def test_an_absent_event_is_none(self, backend: Backend, clock: ManualClock) -> None:
        log = (await open_tenant(backend)).event_log
        event = await log.append("test.event")

        assert await log.get(uuid4()) is None
        assert await log.get(event.id, at=clock.now() + timedelta(microseconds=1)) is None

    async def test_an_id_is_taken_within_its_instant(self, backend: Backend, clock: ManualClock) -> None:
        log = (await open_tenant(backend)).event_log
        first = await log.append("test.event", {"n": 1}, id=uuid4())

        with pytest.raises(AlreadyExists) as one:
            await log.append("test.other", {"n": 2}, id=first.id)
        with pytest.raises(AlreadyExists) as many:
            await log.append_many([NewEvent(type="test.event"), NewEvent(type="test.event", id=first.id)])
        for caught in (one, many):
            assert str(caught.value) == (
                f"There is an event of this id at this instant. (id='{first.id}', at='{first.at.isoformat()}') "
                "Events are never changed: append it under another id, or under none."
            )
        with pytest.raises(AlreadyExists):
            await log.append_many([NewEvent(type="test.event", id=first.id, at="2025-01-01")] * 2)
        clock.advance(seconds=1)
        later = await log.append("test.event", {"n": 3}, id=first.id)

        assert later.sequence == 2  # what was refused took no number
        assert texts(await log.tail()) == [1, 3]
        assert await log.get(first.id) == later
        assert await log.get(first.id, at=first.at) == first

    async def test_a_batch_is_numbered_in_the_order_given(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        await log.append("test.event", {"n": -1})
        batch = [NewEvent(type="test.event", payload={"n": n}, at=f"2025-0{9 - n % 9}-01") for n in range(20)]

        assert await log.append_many(batch) == 20

        assert [(one.sequence, one.payload["n"]) for one in await log.tail()] == [(n + 2, n) for n in range(-1, 20)]

    async def test_an_empty_batch_appends_nothing(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log

        assert await log.append_many([]) == 0
        assert (await log.append("test.event")).sequence == 1

    async def test_a_large_batch_is_kept_whole(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log

        assert (
            await log.append_many([NewEvent(type="test.event", payload={"n": n}) for n in range(BATCH_MAX)])
            == BATCH_MAX
        )

        assert await log.count() == BATCH_MAX
        assert texts(await log.tail(after_sequence=BATCH_MAX - 3)) == [BATCH_MAX - 3, BATCH_MAX - 2, BATCH_MAX - 1]

    async def test_one_bad_event_and_the_batch_appends_nothing(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        good = NewEvent(type="test.event")

        async with refused(InvalidKey, "events[1].type"):
            await log.append_many([good, NewEvent(type="nodots")])
        async with refused(InvalidMetadata, "events[0].payload.x"):
            await log.append_many([NewEvent(type="test.event", payload={"x": float("nan")}), good])
        async with refused(InvalidInput, "events[0]"):
            await log.append_many([{"type": "test.event"}])  # type: ignore[list-item]
        async with refused(InvalidLimit, "events"):
            await log.append_many([good] * (BATCH_MAX + 1))

        assert await log.count() == 0
        assert (await log.append("test.event")).sequence == 1

    # --- lists --------------------------------------------------------------------------------------------------------

    async def test_pages_neither_skip_nor_repeat_events_of_one_instant(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """AMB-098: a position is an instant and an id."""
        log = (await open_tenant(backend)).event_log
        for instant in range(3):
            await log.append_many(
                [NewEvent(type="test.event", payload={"n": instant * 7 + n}, id=uuid4()) for n in range(7)]
            )
            clock.advance(seconds=1)
        in_order = sorted(await log.tail(), key=lambda one: (one.at, one.id))

        for limit in (1, 2, 5, 7, 100):
            assert await walked(log, limit=limit, descending=False) == in_order
            assert await walked(log, limit=limit) == in_order[::-1]

    @pytest.mark.parametrize("descending", [True, False])
    async def test_pages_work_at_both_ends_of_time_and_of_ids(self, backend: Backend, descending: bool) -> None:
        log = (await open_tenant(backend)).event_log
        for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
            for id in (UUID(int=0), UUID(int=2**128 - 1)):
                await log.append("test.event", at=at, id=id)

        found = await walked(log, limit=1, descending=descending)

        assert found == sorted(await log.tail(), key=lambda one: (one.at, one.id), reverse=descending)

    async def test_a_page_goes_on_where_it_was_while_events_come_and_go(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        log = (await open_tenant(backend)).event_log
        for n in range(6):
            await log.append("test.event", {"n": n}, at=clock.now() + timedelta(seconds=n))
        page = await log.list(limit=3)

        await log.append("test.event", {"n": 6}, at=clock.now() + timedelta(seconds=6))
        await log.prune(clock.now() + timedelta(seconds=1))

        assert texts(page.items) == [5, 4, 3]
        assert texts((await log.list(limit=3, cursor=page.next_cursor)).items) == [2, 1]

    async def test_a_time_range_is_half_open(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        for day in range(1, 6):
            await log.append("test.event", {"n": day}, at=f"2026-01-0{day}")

        assert texts((await log.list(since="2026-01-02", until="2026-01-04", descending=False)).items) == [2, 3]
        assert texts((await log.list(since="2026-01-04")).items) == [5, 4]
        assert texts((await log.list(until="2026-01-02")).items) == [1]
        assert await log.count(since="2026-01-02", until="2026-01-04") == 2
        assert (await log.list(since="2027-01-01")).items == []

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            (None, TYPES),
            ("*", TYPES),
            ("agent.started", ("agent.started",)),
            ("agent.*", ("agent.started", "agent.state_changed")),
            ("agent*", ("agent.started", "agent.state_changed", "agentic.started")),
            ("agent.sta*", ("agent.started", "agent.state_changed")),
            ("agent.started*", ("agent.started",)),
            ("agent.absent", ()),
            ("z*", ()),
        ],
    )
    async def test_a_pattern_selects_types(
        self, backend: Backend, pattern: str | None, expected: tuple[str, ...]
    ) -> None:
        """C7: exact, a star, or a beginning with a star after it."""
        log = (await open_tenant(backend)).event_log
        await log.append_many([NewEvent(type=type) for type in TYPES])

        assert {one.type for one in (await log.list(type=pattern)).items} == set(expected)
        assert {one.type for one in await log.tail(type=pattern)} == set(expected)
        assert await log.count(type=pattern) == len(expected)

    async def test_a_correlation_links_events(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        root = await log.append("workflow.started")
        await log.append("workflow.started")
        await log.append_many(
            [NewEvent(type="tool.executed", correlation_id=root.id, payload={"n": n}) for n in range(5)]
        )

        linked = await walked(log, limit=2, correlation_id=root.id, descending=False)

        assert {one.sequence for one in linked} == {1, 3, 4, 5, 6, 7}
        assert [one.sequence for one in await log.tail(correlation_id=root.id, type="tool.*")] == [3, 4, 5, 6, 7]
        assert await log.count(correlation_id=root.id, type="workflow.started") == 1

    async def test_a_cursor_belongs_to_its_tenant_and_its_query(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).event_log, (await open_tenant(backend)).event_log
        for log in (ours, theirs):
            await log.append_many([NewEvent(type="test.event") for _ in range(3)])
        cursor = (await ours.list(limit=1)).next_cursor
        assert cursor is not None

        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: theirs.list(limit=1, cursor=cursor),
            lambda: ours.list(limit=1, cursor=cursor, descending=False),
            lambda: ours.list(limit=1, cursor=cursor, type="test.event"),
            lambda: ours.list(limit=1, cursor=cursor, since="2020-01-01"),
            lambda: ours.list(limit=1, cursor=cursor[:-2] + "xx"),
            lambda: ours.list(limit=1, cursor=""),
        ]
        for call in calls:
            async with refused(InvalidCursor, "cursor"):
                await call()
        assert len((await ours.list(limit=2, cursor=cursor)).items) == 2

    # --- following ----------------------------------------------------------------------------------------------------

    async def test_a_consumer_follows_the_numbers(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        await log.append_many([NewEvent(type="test.event", payload={"n": n}, at=f"20{30 - n}-01-01") for n in range(5)])

        assert texts(await log.tail(limit=2)) == [0, 1]
        assert texts(await log.tail(after_sequence=2, limit=2)) == [2, 3]
        assert await log.tail(after_sequence=5) == []
        assert await log.tail(after_sequence=SEQUENCE_MAX) == []

    async def test_a_consumer_misses_nothing_that_commits_late(self, backend: Backend) -> None:
        """Whoever has read number n has read every number up to n, whatever is still under way."""
        tenant = await new_tenant(backend)
        log = backend.storages(tenant).event_log
        seen: list[int] = []
        writing = True

        async def write(number: int) -> None:
            for n in range(EACH):
                if number % 2:
                    await log.append_many([NewEvent(type="test.event"), NewEvent(type="test.event")])
                    continue
                await in_transaction(backend, tenant, n)

        async def follow() -> None:
            while writing:
                seen.extend(one.sequence for one in await log.tail(after_sequence=seen[-1] if seen else 0))
                assert seen == list(range(1, len(seen) + 1))
                await asyncio.sleep(0)

        following = asyncio.create_task(follow())
        await asyncio.gather(*(write(number) for number in range(WRITERS)))
        writing = False
        await following
        rest = [one.sequence for one in await log.tail(after_sequence=seen[-1] if seen else 0, limit=1_000)]

        assert seen + rest == list(range(1, WRITERS // 2 * EACH * 3 + 1))

    async def test_what_was_rolled_back_took_no_number(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        log = backend.storages(tenant).event_log
        await log.append("test.event", {"n": 1})

        async def fails() -> None:
            async with backend.transaction(tenant) as tx:
                assert (await tx.event_log.append("test.event", {"n": 2}, at="2020-01-01")).sequence == 2
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fails()

        assert (await log.append("test.event", {"n": 3})).sequence == 2
        assert texts(await log.tail()) == [1, 3]
        assert texts((await log.list(descending=False)).items) == [1, 3]

    async def test_a_call_that_fails_inside_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        taken = uuid4()

        async with backend.transaction(tenant) as tx:
            await tx.event_log.append("test.event", {"n": 1}, id=taken, at="2026-01-01")
            with pytest.raises(AlreadyExists):
                await tx.event_log.append_many(
                    [
                        NewEvent(type="test.event", payload={"n": 2}),
                        NewEvent(type="test.event", id=taken, at="2026-01-01"),
                    ]
                )
            assert (await tx.event_log.append("test.event", {"n": 3})).sequence == 2
            assert await tx.event_log.count() == 2

        assert texts(await backend.storages(tenant).event_log.tail()) == [1, 3]

    async def test_events_of_many_callers_are_all_kept_and_numbered_once(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log

        async def write(number: int) -> list[int]:
            return [(await log.append("test.event", {"n": number})).sequence for _ in range(EACH)]

        given = await asyncio.gather(*(write(number) for number in range(WRITERS)))

        assert all(one == sorted(one) for one in given)
        assert sorted(number for numbers in given for number in numbers) == list(range(1, WRITERS * EACH + 1))
        assert await log.count() == WRITERS * EACH

    # --- counts, retention, tenants -----------------------------------------------------------------------------------

    async def test_stats_count_by_type(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        assert (await log.stats()).events == 0
        assert (await log.stats()).first_at is None
        for day, type in ((1, "tool.executed"), (2, "agent.started"), (3, "tool.executed")):
            await log.append(type, at=f"2026-01-0{day}")

        stats = await log.stats()

        assert (stats.events, stats.last_sequence) == (3, 3)
        assert (stats.first_at, stats.last_at) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
        assert [(one.type, one.events) for one in stats.types] == [("agent.started", 1), ("tool.executed", 2)]
        later = await log.stats(since="2026-01-02")
        assert (later.events, later.last_sequence) == (2, 3)

    async def test_pruning_deletes_the_earliest_and_keeps_the_numbers(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        for day in (3, 1, 2, 4):
            await log.append("test.event", {"n": day}, at=f"2026-01-0{day}")

        assert await log.prune("2026-01-04", limit=2) == 2
        assert texts(await log.tail()) == [3, 4]
        assert await log.prune("2026-01-04", limit=2) == 1
        assert await log.prune("2026-01-04", limit=2) == 0
        assert texts((await log.list()).items) == [4]
        assert await log.prune("2027-01-01") == 1
        assert (await log.stats()).last_sequence == 4
        assert (await log.append("test.event", {"n": 5})).sequence == 5
        assert texts(await log.tail()) == [5]

    async def test_pruners_at_once_delete_each_event_once(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        await log.append_many([NewEvent(type="test.event", at="2026-01-01") for _ in range(100)])
        await log.append("test.event", at="2026-02-01")

        deleted = await asyncio.gather(*(log.prune("2026-02-01", limit=30) for _ in range(WRITERS)))

        assert sum(deleted) + await log.count() == 101
        while await log.prune("2026-02-01", limit=30):
            pass
        assert await log.count() == 1

    async def test_another_tenant_sees_and_loses_nothing(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).event_log, (await open_tenant(backend)).event_log
        event = await ours.append("test.event", {"n": 1})

        twin = await theirs.append("test.event", {"n": 2}, id=event.id, at=event.at)  # an id is no oracle

        assert twin.sequence == 1
        assert await theirs.prune("9999-01-01") == 1
        assert await theirs.get(event.id) is None
        assert await theirs.get(event.id, at=event.at) is None
        assert (await theirs.list(correlation_id=event.correlation_id)).items == []
        assert await theirs.tail() == []
        assert (await theirs.stats()).types == []
        assert await ours.get(event.id) == event

    async def test_a_caller_cannot_change_what_is_kept(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        payload = {"list": [1]}
        event = await log.append("test.event", payload)

        payload["list"].append(2)
        event.payload["list"].append(3)
        (await log.tail())[0].payload["list"].append(4)

        stored = await log.get(event.id)
        assert stored is not None
        assert stored.payload == {"list": [1]}


async def in_transaction(backend: Backend, tenant: Any, number: int) -> None:
    """Append one event in a transaction; when another is first, do it again."""
    for _ in range(ATTEMPTS_MAX):
        try:
            async with backend.transaction(tenant) as tx:
                await tx.event_log.append("test.event", {"n": number})
                await asyncio.sleep(0)
        except Conflict:
            continue
        return
    raise AssertionError("the transaction conflicted every time")
