"""What `HookHistory` promises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    InvalidTime,
)
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.hook_history import (
    BATCH_MAX,
    CONTEXT_MAX_BYTES,
    DURATION_MAX_MS,
    LONG_RETENTION,
    PRUNE_MAX,
    SHORT_RETENTION,
    HookExecution,
    HookHistory,
    HookResult,
    NewHookExecution,
    RetentionPolicy,
)
from llmspell.testing.contract import DAY, new_tenant, open_tenant, refused

CALLERS = 8
# What belongs to each of the nine results (C6).
RESULT_DATA: dict[HookResult, dict[str, Any]] = {
    "continue": {},
    "modified": {"fields": ["prompt"]},
    "cancel": {"reason": "too large"},
    "redirect": {"target": "other-agent"},
    "replace": {"value": {"answer": 42}},
    "retry": {"delay_ms": 250, "max_attempts": 3},
    "fork": {"branches": [1, 2]},
    "cache": {"key": "k", "ttl_s": 2.5},
    "skipped": {"reason": None},
}
CONTEXT = {"prompt": "ünïcode 😀", "numbers": [2**63 - 1, 1e22, 0.1, 1.0], "nested": {"a": [None, True]}}


def execution(hook: str = "metrics", **fields: Any) -> NewHookExecution:
    """Return an execution to record."""
    return NewHookExecution(
        **{"hook_id": hook, "hook_type": "BeforeToolExecution", "triggering_component": "tool:search", **fields}
    )


async def walked(history: HookHistory, *, limit: int, **wanted: Any) -> list[HookExecution]:
    """Return every execution of a list, page by page."""
    found: list[HookExecution] = []
    cursor = None
    while True:
        page = await history.list(cursor=cursor, limit=limit, **wanted)
        found += page.items
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


def durations(records: list[HookExecution]) -> list[int]:
    """Return durations, by which tests know executions, in order."""
    return [one.duration_ms for one in records]


class HookHistoryContract:
    """Subclass it in a test module; see the package."""

    async def test_an_execution_comes_back_as_it_was_recorded(self, backend: Backend, clock: ManualClock) -> None:
        history = (await open_tenant(backend)).hook_history
        correlation = uuid4()

        recorded = await history.record(
            execution(
                component_id="search-1",
                context=CONTEXT,
                result="replace",
                result_data=RESULT_DATA["replace"],
                duration_ms=DURATION_MAX_MS,
                correlation_id=str(correlation),
                at="2025-05-06T07:08:09.000001Z",
                modified_operation=False,
                tags=["a", 'ü,"\\{}', "a"],
                retention_priority=-(2**31),
                contains_sensitive_data=True,
                metadata={"k": [1, 2.5]},
            )
        )

        assert (recorded.hook_id, recorded.hook_type) == ("metrics", "BeforeToolExecution")
        assert (recorded.triggering_component, recorded.component_id) == ("tool:search", "search-1")
        assert (recorded.context, recorded.result, recorded.result_data) == (CONTEXT, "replace", RESULT_DATA["replace"])
        assert (recorded.correlation_id, recorded.modified_operation) == (correlation, False)
        assert (recorded.tags, recorded.metadata) == (["a", 'ü,"\\{}', "a"], {"k": [1, 2.5]})
        assert (recorded.at, recorded.created_at) == (datetime(2025, 5, 6, 7, 8, 9, 1, tzinfo=UTC), clock.now())
        assert await history.get(recorded.id) == recorded
        assert await history.get(str(recorded.id)) == recorded
        assert (await history.list(include_context=True)).items == [recorded]

    async def test_what_is_not_given_is_filled_in(self, backend: Backend, clock: ManualClock) -> None:
        history = (await open_tenant(backend)).hook_history

        recorded = await history.record(execution())

        assert recorded.id.version == 7
        assert recorded.correlation_id == recorded.id
        assert (recorded.context, recorded.context_size_bytes) == (b"", 0)
        assert (recorded.component_id, recorded.tags, recorded.metadata) == (None, [], {})
        assert (recorded.result, recorded.result_data, recorded.modified_operation) == ("continue", {}, False)
        assert (recorded.at, recorded.retention_priority) == (clock.now(), 0)
        assert await history.get(recorded.id) == recorded

    @pytest.mark.parametrize("result", get_args(HookResult))
    async def test_each_of_the_nine_results_is_kept(self, backend: Backend, result: HookResult) -> None:
        history = (await open_tenant(backend)).hook_history

        recorded = await history.record(execution(result=result, result_data=RESULT_DATA[result]))

        assert recorded.modified_operation == (result in {"modified", "redirect", "replace", "cancel"})
        assert await history.get(recorded.id) == recorded
        assert (await history.statistics()).results == {result: 1}

    @pytest.mark.parametrize(
        "context",
        [b"", b"\0\xff", bytes(range(256)) * 40, os.urandom(4_096), b"x" * CONTEXT_MAX_BYTES, {}, {"x": "y" * 10_000}],
        ids=lambda value: f"{type(value).__name__}-{len(value)}",
    )
    async def test_a_context_is_compressed_when_that_pays_and_comes_back(self, backend: Backend, context: Any) -> None:
        """HOK-02."""
        history = (await open_tenant(backend)).hook_history

        recorded = await history.record(execution(context=context))

        assert recorded.context == context
        assert await history.get(recorded.id) == recorded
        statistics = await history.statistics()
        assert statistics.context_bytes == recorded.context_size_bytes
        assert statistics.stored_bytes <= recorded.context_size_bytes + 1
        if len(set(map(repr, context))) < recorded.context_size_bytes > 9_000:
            assert statistics.stored_bytes < recorded.context_size_bytes / 10

    async def test_a_list_leaves_contexts_out_unless_asked(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        recorded = await history.record(execution(context=CONTEXT))

        (listed,) = (await history.list()).items

        assert listed.context is None
        assert listed.context_size_bytes == recorded.context_size_bytes
        async with refused(InvalidLimit, "limit"):
            await history.list(include_context=True, limit=101)

    async def test_an_id_is_taken_once(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        first = await history.record(execution(duration_ms=1))

        with pytest.raises(AlreadyExists) as one:
            await history.record(execution(id=first.id))
        with pytest.raises(AlreadyExists) as many:
            await history.record_many([execution(), execution(id=str(first.id))])
        for caught in (one, many):
            assert str(caught.value) == (
                f"There is a hook execution of this id. (id='{first.id}') "
                "Executions are never changed: record it under another id, or under none."
            )
        with pytest.raises(AlreadyExists):
            await history.record_many([execution(id=UUID(int=1))] * 2)

        assert durations((await history.list()).items) == [1]

    async def test_a_batch_is_recorded_whole_or_not_at_all(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history

        assert await history.record_many([execution(duration_ms=n) for n in range(BATCH_MAX)]) == BATCH_MAX
        assert await history.record_many([]) == 0
        async with refused(InvalidKey, "executions[1].hook_id"):
            await history.record_many([execution(), execution("")])
        async with refused(InvalidInput, "executions[0]"):
            await history.record_many([{}])  # type: ignore[list-item]
        for nothing in (None, "x", (execution() for _ in range(2))):
            async with refused(InvalidInput, "executions"):
                await history.record_many(nothing)  # type: ignore[arg-type]
        async with refused(InvalidInput, "include_context"):
            await history.list(include_context="yes")  # type: ignore[arg-type]
        async with refused(InvalidLimit, "executions"):
            await history.record_many([execution()] * (BATCH_MAX + 1))
        async with refused(InvalidLimit, "executions"):
            await history.record_many([execution(context=b"x" * CONTEXT_MAX_BYTES)] * 17)

        assert sorted(durations(await walked(history, limit=400))) == list(range(BATCH_MAX))

    async def test_pages_neither_skip_nor_repeat_executions_of_one_instant(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        history = (await open_tenant(backend)).hook_history
        for instant in range(3):
            await history.record_many([execution(duration_ms=instant * 5 + n, id=uuid4()) for n in range(5)])
            clock.advance(seconds=1)
        everything = (await history.list()).items

        assert everything == sorted(everything, key=lambda one: (one.at, one.id), reverse=True)
        assert sorted(durations(everything)) == list(range(15))
        for limit in (1, 2, 5, 7):
            assert await walked(history, limit=limit) == everything

    async def test_lists_select_by_hook_type_correlation_and_time(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        correlation = uuid4()
        await history.record_many(
            [
                execution("a", duration_ms=1, at="2026-01-01"),
                execution("b", duration_ms=2, at="2026-01-02", correlation_id=correlation),
                execution("a", duration_ms=3, at="2026-01-03", hook_type="AgentError"),
                execution("a", duration_ms=4, at="2026-01-04", correlation_id=correlation),
            ]
        )

        assert durations((await history.list(hook_id="a")).items) == [4, 3, 1]
        assert durations((await history.list(hook_type="AgentError")).items) == [3]
        assert durations((await history.list(correlation_id=str(correlation))).items) == [4, 2]
        assert durations((await history.list(since="2026-01-02", until="2026-01-04")).items) == [3, 2]
        assert durations(await walked(history, limit=1, hook_id="a", since="2026-01-02")) == [4, 3]
        assert (await history.list(hook_id="a", hook_type="absent")).items == []

    async def test_a_cursor_belongs_to_its_tenant_and_its_query(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).hook_history, (await open_tenant(backend)).hook_history
        for history in (ours, theirs):
            await history.record_many([execution() for _ in range(3)])
        cursor = (await ours.list(limit=1)).next_cursor

        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: theirs.list(limit=1, cursor=cursor),
            lambda: ours.list(limit=1, cursor=cursor, hook_id="metrics"),
            lambda: ours.list(limit=1, cursor="x"),
        ]
        for call in calls:
            async with refused(InvalidCursor, "cursor"):
                await call()

    async def test_delete_says_whether_it_was_there(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        recorded = await history.record(execution())

        assert await history.delete(str(recorded.id))
        assert not await history.delete(recorded.id)
        assert await history.get(recorded.id) is None

    # --- statistics ---------------------------------------------------------------------------------------------------

    async def test_statistics_of_nothing_are_zero(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history

        statistics = await history.statistics()

        assert (statistics.executions, statistics.results, statistics.total_ms) == (0, {}, 0)
        assert (statistics.average_ms, statistics.p50_ms, statistics.p99_ms, statistics.first_at) == (None,) * 4

    @pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100, 101])
    async def test_percentiles_are_nearest_rank(self, backend: Backend, count: int) -> None:
        history = (await open_tenant(backend)).hook_history
        await history.record_many([execution(duration_ms=n * 10) for n in range(count, 0, -1)])

        found = await history.statistics()

        ranks = [-(-count * percent // 100) for percent in (50, 95, 99)]
        assert [found.p50_ms, found.p95_ms, found.p99_ms] == [rank * 10 for rank in ranks]
        assert (found.executions, found.max_ms, found.total_ms) == (count, count * 10, 5 * count * (count + 1))
        assert found.average_ms == found.total_ms / count

    async def test_statistics_sum_up_what_was_chosen(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        await history.record_many(
            [
                execution("a", duration_ms=DURATION_MAX_MS, at="2026-01-01", context=b"12345"),
                execution("a", duration_ms=DURATION_MAX_MS, at="2026-01-02", result="cancel"),
                execution("b", duration_ms=3, at="2026-01-03", contains_sensitive_data=True),
            ]
        )

        every, a = await history.statistics(), await history.statistics(hook_id="a", since="2026-01-02")

        assert (every.executions, every.modified, every.sensitive) == (3, 1, 1)
        assert every.results == {"cancel": 1, "continue": 2}
        assert (every.total_ms, every.context_bytes, every.stored_bytes) == (2 * DURATION_MAX_MS + 3, 5, 8)
        assert (every.first_at, every.last_at) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
        assert (a.executions, a.p50_ms, a.results) == (1, DURATION_MAX_MS, {"cancel": 1})

    # --- retention ----------------------------------------------------------------------------------------------------

    async def test_pruning_deletes_the_earliest_below_a_priority(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        for day, priority in ((1, 0), (2, 9), (3, 0), (4, 2**31 - 1)):
            await history.record(execution(duration_ms=day, at=f"2026-01-0{day}", retention_priority=priority))

        assert await history.prune(before="2026-01-04", below_priority=9, limit=1) == 1
        assert durations((await history.list()).items) == [4, 3, 2]
        assert await history.prune(before="2026-01-04", below_priority=9) == 1
        assert await history.prune(before="2026-01-04", below_priority=9) == 0
        assert await history.prune(before="2027-01-01") == 2
        assert (await history.list()).items == []

    async def test_retention_keeps_a_week_and_two_for_what_matters(self, backend: Backend, clock: ManualClock) -> None:
        """C6: 7 days, 14 from priority 5 on."""
        history = (await open_tenant(backend)).hook_history
        ages = [6.9, 7.0, 7.1, 13.9, 14.0, 14.1]
        for number, days in enumerate(ages):
            for priority in (4, 5):
                at = clock.now() - timedelta(days=days)
                await history.record(execution(duration_ms=number * 10 + priority, at=at, retention_priority=priority))
        policy = RetentionPolicy(executions_min=0)

        kept = [
            one
            for one in (await history.list()).items
            if policy.kept_until(one.at, one.retention_priority) >= clock.now()
        ]
        assert await history.apply_retention(policy, limit=3) == 3
        assert await history.apply_retention(policy) == 2
        assert await history.apply_retention(policy) == 0

        assert (await history.list()).items == kept
        assert sorted(durations(kept)) == [4, 5, 14, 15, 25, 35, 45]

    async def test_retention_keeps_the_latest_hundred_whatever_their_age(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        history = (await open_tenant(backend)).hook_history
        await history.record_many(
            [execution(duration_ms=n, at=clock.now() - 100 * DAY + timedelta(seconds=n)) for n in range(130)]
        )

        assert await history.apply_retention() == 30
        assert await history.apply_retention() == 0
        assert durations((await history.list()).items) == list(range(129, 29, -1))
        assert await history.apply_retention(RetentionPolicy(executions_min=7)) == 93

    async def test_the_presets_differ_in_age(self, backend: Backend, clock: ManualClock) -> None:
        history = (await open_tenant(backend)).hook_history
        at = clock.now() - 20 * DAY
        await history.record_many([execution(at=at) for _ in range(101)])

        assert await history.apply_retention(LONG_RETENTION) == 0
        assert await history.apply_retention(SHORT_RETENTION) == 1

    async def test_retention_at_the_beginning_of_time_does_nothing(self, backend: Backend, clock: ManualClock) -> None:
        history = (await open_tenant(backend)).hook_history
        await history.record(execution(at="0001-01-01"))
        long = RetentionPolicy(max_age_days=36_500, priority_extra_days=36_500, executions_min=0)
        clock.set("0050-01-01T00:00:00Z")

        assert await history.apply_retention(long) == 0
        assert await history.apply_retention(RetentionPolicy(executions_min=0)) == 1

    async def test_pruners_at_once_delete_each_execution_once(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        await history.record_many([execution(at="2026-01-01") for _ in range(100)])

        deleted = await asyncio.gather(*(history.prune(before="2026-02-01", limit=30) for _ in range(CALLERS)))

        assert sum(deleted) + (await history.statistics()).executions == 100

    # --- tenants, transactions, refusals ------------------------------------------------------------------------------

    async def test_another_tenant_sees_and_loses_nothing(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).hook_history, (await open_tenant(backend)).hook_history
        recorded = await ours.record(execution(context=CONTEXT))

        await theirs.record(execution(id=recorded.id))  # an id is no oracle

        assert await theirs.prune(before="9999-01-01") == 1
        assert await theirs.get(recorded.id) is None
        assert not await theirs.delete(recorded.id)
        assert (await theirs.list(correlation_id=recorded.correlation_id)).items == []
        assert (await theirs.statistics()).executions == 0
        assert await ours.get(recorded.id) == recorded

    async def test_a_transaction_keeps_all_or_nothing(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        history = backend.storages(tenant).hook_history

        async def fails() -> None:
            async with backend.transaction(tenant) as tx:
                await tx.hook_history.record(execution())
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fails()
        assert (await history.list()).items == []
        async with backend.transaction(tenant) as tx:
            first = await tx.hook_history.record(execution(duration_ms=1))
            with pytest.raises(AlreadyExists):
                await tx.hook_history.record_many([execution(duration_ms=2), execution(id=first.id)])
            await tx.hook_history.record(execution(duration_ms=3))
        assert sorted(durations((await history.list()).items)) == [1, 3]

    async def test_a_caller_cannot_change_what_is_kept(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        recorded = await history.record(execution(context={"a": [1]}, tags=["x"], metadata={"m": [1]}))

        for one in (recorded, await history.get(recorded.id)):
            assert one is not None
            assert isinstance(one.context, dict)
            one.context["a"].append(2)
            one.tags.append("y")
            one.metadata["m"].append(2)

        stored = await history.get(recorded.id)
        assert stored is not None
        assert (stored.context, stored.tags, stored.metadata) == ({"a": [1]}, ["x"], {"m": [1]})

    @pytest.mark.parametrize(
        ("field", "value", "error"),
        [
            ("hook_id", "", InvalidKey),
            ("hook_id", "x" * 256, InvalidKey),
            ("hook_id", "a\0", InvalidKey),
            ("hook_type", "x" * 101, InvalidKey),
            ("hook_type", "\ud800", InvalidKey),
            ("triggering_component", "", InvalidKey),
            ("component_id", "", InvalidKey),
            ("component_id", "é" * 128, InvalidKey),
            ("context", "text", InvalidInput),
            ("context", b"x" * (CONTEXT_MAX_BYTES + 1), InvalidInput),
            ("context", {"x": "y" * CONTEXT_MAX_BYTES}, InvalidInput),
            ("result", "explode", InvalidInput),
            ("result", None, InvalidInput),
            ("result_data", [], InvalidMetadata),
            ("result_data", {"x": "y" * 65_536}, InvalidMetadata),
            ("duration_ms", -1, InvalidLimit),
            ("duration_ms", 2**31, InvalidLimit),
            ("duration_ms", 1.5, InvalidLimit),
            ("correlation_id", "x", InvalidKey),
            ("id", "x", InvalidKey),
            ("at", "2026-01-01T00:00:00", InvalidTime),
            ("modified_operation", 1, InvalidInput),
            ("contains_sensitive_data", None, InvalidInput),
            ("tags", "text", InvalidInput),
            ("tags", ["x"] * 51, InvalidLimit),
            ("retention_priority", 2**31, InvalidLimit),
            ("retention_priority", True, InvalidLimit),
            ("metadata", {"x": "y" * 16_385}, InvalidMetadata),
        ],
        ids=lambda value: ascii(value)[:20],
    )
    async def test_a_field_that_cannot_be_kept_is_refused(
        self, backend: Backend, field: str, value: Any, error: type[InvalidInput]
    ) -> None:
        history = (await open_tenant(backend)).hook_history

        async with refused(error, field):
            await history.record(execution(**{field: value}) if field != "hook_id" else execution(value))
        assert (await history.list()).items == []

    async def test_what_a_result_must_say_is_checked(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        bad: list[tuple[type[InvalidInput], str, HookResult, dict[str, Any]]] = [
            (InvalidLimit, "result_data.delay_ms", "retry", {"max_attempts": 1}),
            (InvalidLimit, "result_data.max_attempts", "retry", {"delay_ms": 0, "max_attempts": 0}),
            (InvalidKey, "result_data.key", "cache", {"ttl_s": 1}),
            (InvalidLimit, "result_data.ttl_s", "cache", {"key": "k", "ttl_s": 0}),
            (InvalidKey, "tags[1]", "continue", {}),
            (InvalidMetadata, "context.x", "continue", {}),
        ]
        for error, field, result, data in bad:
            extra: dict[str, Any] = {"tags": ["x", "y" * 65]} if field == "tags[1]" else {}
            extra |= {"context": {"x": -0.0}} if field == "context.x" else {}
            async with refused(error, field):
                await history.record(execution(result=result, result_data=data, **extra))
        assert (await history.list()).items == []

    async def test_other_arguments_are_checked(self, backend: Backend) -> None:
        history = (await open_tenant(backend)).hook_history
        bad: list[tuple[type[InvalidInput], str, Callable[[], Awaitable[Any]]]] = [
            (InvalidInput, "execution", lambda: history.record({})),  # type: ignore[arg-type]
            (InvalidKey, "id", lambda: history.get("x")),
            (InvalidKey, "id", lambda: history.delete("x")),
            (InvalidKey, "hook_id", lambda: history.list(hook_id="")),
            (InvalidTime, "until", lambda: history.list(since="2026-01-02", until="2026-01-01")),
            (InvalidLimit, "limit", lambda: history.list(limit=0)),
            (InvalidTime, "since", lambda: history.statistics(since="x")),
            (InvalidTime, "before", lambda: history.prune(before="x")),
            (InvalidLimit, "below_priority", lambda: history.prune(before="2026-01-01", below_priority=2**31)),
            (InvalidLimit, "limit", lambda: history.prune(before="2026-01-01", limit=PRUNE_MAX + 1)),
            (InvalidInput, "policy", lambda: history.apply_retention("week")),  # type: ignore[arg-type]
            (
                InvalidLimit,
                "policy.max_age_days",
                lambda: history.apply_retention(RetentionPolicy(max_age_days=-1)),
            ),
            (
                InvalidLimit,
                "policy.executions_min",
                lambda: history.apply_retention(RetentionPolicy(executions_min=-1)),
            ),
            (InvalidLimit, "limit", lambda: history.apply_retention(limit=0)),
        ]
        for error, field, call in bad:
            async with refused(error, field):
                await call()
