"""What `WorkflowStates` promises."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    IllegalTransition,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    NotFound,
    VersionConflict,
)
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.workflow_state import (
    STATUSES,
    TRANSITIONS,
    WorkflowState,
    WorkflowStates,
    WorkflowStatus,
    WorkflowSummary,
)
from llmspell.testing.contract import new_tenant, open_tenant
from llmspell.testing.contract.hostile_values import KEPT, typed

CALLERS = 8
NUL, SURROGATE = "a\0b", "a\ud800b"
WAYS: dict[WorkflowStatus, tuple[WorkflowStatus, ...]] = {
    "pending": (),
    "running": ("running",),
    "completed": ("running", "completed"),
    "failed": ("running", "failed"),
    "cancelled": ("cancelled",),
}


async def brought_to(workflows: WorkflowStates, id: str, status: WorkflowStatus) -> WorkflowState:
    """Make a workflow and lead it to a status."""
    state = await workflows.create(id, {"n": 0})
    for step in WAYS[status]:
        state = await workflows.transition(id, step)
    return state


class WorkflowStateContract:
    """Subclass it in a test module; see the package. Rows WFS-01…03."""

    async def test_a_new_workflow_is_pending(self, backend: Backend, clock: ManualClock) -> None:
        workflows = (await open_tenant(backend)).workflow_state

        made = await workflows.create("w", {"input": [1, 2.0]}, name="Nightly report", current_step=2)

        assert (made.status, made.current_step, made.version, made.name) == ("pending", 2, 1, "Nightly report")
        assert made.created_at == made.updated_at == clock.now()
        assert (made.started_at, made.completed_at) == (None, None)
        assert await workflows.get("w") == made
        assert await workflows.get("absent") is None

    async def test_an_id_is_taken_once(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        made = await workflows.create("w", {"n": 1})

        with pytest.raises(AlreadyExists):
            await workflows.create("w", {"n": 2})

        assert await workflows.get("w") == made

    async def test_a_life_cycle_is_stamped_by_the_clock(self, backend: Backend, clock: ManualClock) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        await workflows.create("w", {})
        clock.advance(seconds=1)
        started = await workflows.transition("w", "running")
        begin = clock.now()
        clock.advance(seconds=1)

        done = await workflows.transition("w", "completed", data={"result": 1}, current_step=9)

        assert (started.started_at, started.completed_at, started.version) == (begin, None, 2)
        assert (done.started_at, done.completed_at, done.updated_at) == (begin, clock.now(), clock.now())
        assert (done.version, done.data, done.current_step) == (3, {"result": 1}, 9)
        assert await workflows.get("w") == done

    async def test_a_failed_workflow_runs_again_and_keeps_when_it_first_started(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        await workflows.create("w", {"n": 1})
        begin = (await workflows.transition("w", "running")).started_at
        clock.advance(seconds=1)
        failed = await workflows.transition("w", "failed")
        assert failed.completed_at == clock.now()
        clock.advance(seconds=1)

        again = await workflows.transition("w", "running")

        assert (again.status, again.started_at, again.completed_at, again.data) == ("running", begin, None, {"n": 1})
        assert await workflows.get("w") == again
        clock.advance(seconds=1)
        done = await workflows.transition("w", "completed")
        assert done.completed_at == clock.now()
        assert await workflows.get("w") == done

    async def test_what_was_cancelled_before_it_started_has_no_start(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state

        cancelled = await brought_to(workflows, "w", "cancelled")

        assert cancelled.started_at is None
        assert cancelled.completed_at is not None
        assert await workflows.get("w") == cancelled

    @pytest.mark.parametrize("source", STATUSES)
    async def test_only_legal_transitions_take_place(self, backend: Backend, source: WorkflowStatus) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        for target in STATUSES:
            id = f"{source}-{target}"
            before = await brought_to(workflows, id, source)
            if target in TRANSITIONS[source]:
                assert (await workflows.transition(id, target)).status == target
                continue

            with pytest.raises(IllegalTransition) as caught:
                await workflows.transition(id, target, data={"n": 1})

            text = str(caught.value)
            assert source in text
            assert target in text
            assert all(legal in text for legal in TRANSITIONS[source])
            assert await workflows.get(id) == before

    @pytest.mark.parametrize(("source", "targets"), [("pending", ["running"]), ("running", ["completed", "failed"])])
    async def test_of_callers_who_move_it_at_once_exactly_one_wins(
        self, backend: Backend, source: WorkflowStatus, targets: list[WorkflowStatus]
    ) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        before = await brought_to(workflows, "w", source)

        results = await asyncio.gather(
            *(
                workflows.transition("w", targets[number % len(targets)], expected_version=before.version)
                for number in range(CALLERS)
            ),
            return_exceptions=True,
        )

        (winner,) = [result for result in results if isinstance(result, WorkflowState)]
        losers = [result for result in results if isinstance(result, (IllegalTransition, VersionConflict))]
        assert len(losers) == CALLERS - 1
        assert await workflows.get("w") == winner

    async def test_of_callers_who_start_it_without_a_version_exactly_one_wins(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        await workflows.create("w", {})

        results = await asyncio.gather(
            *(workflows.transition("w", "running") for _ in range(CALLERS)), return_exceptions=True
        )

        assert sum(isinstance(result, WorkflowState) for result in results) == 1
        assert sum(isinstance(result, IllegalTransition) for result in results) == CALLERS - 1

    async def test_an_absent_workflow_is_not_moved(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state

        for call in (
            workflows.transition("w", "running"),
            workflows.advance("w", 1),
            workflows.save("w", {}, expected_version=1),
        ):
            with pytest.raises(NotFound):
                await call
        assert await workflows.get("w") is None

    async def test_an_expected_version_guards_every_change(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        before = await brought_to(workflows, "w", "running")
        calls: list[Any] = [
            workflows.transition("w", "completed", expected_version=1),
            workflows.advance("w", 1, expected_version=9),
            workflows.save("w", {}, expected_version=1),
            workflows.delete("w", expected_version=1),
        ]
        for call in calls:
            with pytest.raises(VersionConflict) as caught:
                await call
            assert caught.value.fields["current"] == 2
            assert caught.value.fields["expected"] in (1, 9)
        assert await workflows.get("w") == before

        assert (await workflows.save("w", {"n": 1}, expected_version=2)).version == 3
        assert (await workflows.advance("w", 1, expected_version=3)).version == 4
        assert (await workflows.transition("w", "completed", expected_version=4)).version == 5
        assert await workflows.delete("w", expected_version=5)

    async def test_save_makes_or_replaces_and_leaves_the_status(self, backend: Backend, clock: ManualClock) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        made = await workflows.save("w", {"n": 1}, name="first", current_step=3)
        await workflows.transition("w", "running")
        clock.advance(seconds=1)

        kept = await workflows.save("w", {"n": 2})
        renamed = await workflows.save("w", {"n": 3}, name="second", current_step=1)

        assert (made.status, made.version, made.current_step) == ("pending", 1, 3)
        assert (kept.status, kept.name, kept.current_step, kept.data, kept.version) == (
            "running",
            "first",
            3,
            {"n": 2},
            3,
        )
        assert (renamed.name, renamed.current_step, renamed.version) == ("second", 1, 4)
        assert (renamed.created_at, renamed.updated_at) == (made.created_at, clock.now())
        assert await workflows.get("w") == renamed

    async def test_a_running_workflow_advances_and_never_goes_back(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        await brought_to(workflows, "w", "running")

        moved = await workflows.advance("w", 2, data={"n": 2})
        again = await workflows.advance("w", 2)
        with pytest.raises(IllegalTransition, match=r"step 2.*step 1"):
            await workflows.advance("w", 1)

        assert (moved.current_step, moved.data, moved.version) == (2, {"n": 2}, 3)
        assert (again.current_step, again.data, again.version) == (2, {"n": 2}, 4)
        assert await workflows.get("w") == again

    @pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
    async def test_a_workflow_that_does_not_run_does_not_advance(
        self, backend: Backend, status: WorkflowStatus
    ) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        before = await brought_to(workflows, "w", status)

        with pytest.raises(IllegalTransition, match=status):
            await workflows.advance("w", 1)

        assert await workflows.get("w") == before

    @pytest.mark.parametrize("name", KEPT)
    async def test_every_value_that_is_accepted_comes_back_the_same(self, backend: Backend, name: str) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        data = {"value": KEPT[name]}
        await workflows.create("w", data)

        moved = await workflows.transition("w", "running")

        assert typed(moved.data) == typed(data)

    async def test_a_list_has_the_newest_first_and_no_data(self, backend: Backend, clock: ManualClock) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        for number in range(5):
            await workflows.create(f"w{number}", {"n": number})
            clock.advance(seconds=number % 2)
        for number in (0, 2, 4):
            await workflows.transition(f"w{number}", "running")

        first = await workflows.list(limit=3)
        second = await workflows.list(limit=3, cursor=first.next_cursor)
        running = await workflows.list(status="running", limit=2)
        rest = await workflows.list(status="running", limit=2, cursor=running.next_cursor)

        assert [one.workflow_id for one in [*first.items, *second.items]] == ["w4", "w3", "w2", "w1", "w0"]
        assert second.next_cursor is None
        assert [one.workflow_id for one in [*running.items, *rest.items]] == ["w4", "w2", "w0"]
        assert (await workflows.list(status="failed")).items == []
        assert type(first.items[0]) is WorkflowSummary

    async def test_ids_of_one_instant_are_listed_in_byte_order_from_the_end(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        ids = ["A", "a", "á", "中", "～", "😀", "\U0010ffff" * 63]
        for id in ids:
            await workflows.create(id, {})

        found: list[str] = []
        cursor = None
        for _ in ids:
            page = await workflows.list(limit=1, cursor=cursor)
            found += [one.workflow_id for one in page.items]
            cursor = page.next_cursor

        assert cursor is None
        assert found == sorted(ids, key=str.encode, reverse=True)

    async def test_a_cursor_belongs_to_its_tenant_and_its_question(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).workflow_state, (await open_tenant(backend)).workflow_state
        for id in "ab":
            await ours.create(id, {})
        cursor = (await ours.list(limit=1)).next_cursor
        assert cursor is not None

        with pytest.raises(InvalidCursor):
            await theirs.list(limit=1, cursor=cursor)
        with pytest.raises(InvalidCursor):
            await ours.list(limit=1, status="pending", cursor=cursor)

    async def test_every_status_is_counted(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        assert await workflows.counts() == dict.fromkeys(STATUSES, 0)
        for status in STATUSES[:4]:
            await brought_to(workflows, status, status)
        await workflows.create("another", {})

        assert await workflows.counts() == {"pending": 2, "running": 1, "completed": 1, "failed": 1, "cancelled": 0}

    async def test_prune_deletes_what_ended_long_ago(self, backend: Backend, clock: ManualClock) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        for status in STATUSES:
            await brought_to(workflows, f"old-{status}", status)
            clock.advance(seconds=1)
        clock.advance(days=2)
        await brought_to(workflows, "new", "completed")
        cut = clock.now() - timedelta(days=1)

        assert await workflows.prune(before=cut, limit=2) == 2
        assert await workflows.get("old-completed") is None
        assert await workflows.get("old-failed") is None
        assert await workflows.prune(before=cut) == 1
        assert await workflows.prune(before=cut) == 0
        assert [one.workflow_id for one in (await workflows.list()).items] == ["new", "old-running", "old-pending"]

    async def test_sweeps_at_the_same_time_share_the_work(self, backend: Backend, clock: ManualClock) -> None:
        """One that finds rows in the hands of another goes on to the next: fewer than `limit` means that none is left."""
        workflows = (await open_tenant(backend)).workflow_state
        for number in range(CALLERS * 3):
            await brought_to(workflows, f"w{number:02}", ("completed", "failed", "cancelled")[number % 3])
        clock.advance(seconds=1)

        swept = await asyncio.gather(*(workflows.prune(before=clock.now(), limit=3) for _ in range(CALLERS)))

        assert swept == [3] * CALLERS
        assert (await workflows.list()).items == []

    async def test_delete_says_whether_it_was_there(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        await workflows.create("w", {})

        assert await workflows.delete("w")
        assert not await workflows.delete("w")
        assert not await workflows.delete("w", expected_version=1)

    async def test_another_tenant_sees_and_moves_nothing(self, backend: Backend, clock: ManualClock) -> None:
        ours, theirs = (await open_tenant(backend)).workflow_state, (await open_tenant(backend)).workflow_state
        before = await brought_to(ours, "w", "failed")
        clock.advance(days=1)

        assert await theirs.get("w") is None
        assert (await theirs.list()).items == []
        assert await theirs.counts() == dict.fromkeys(STATUSES, 0)
        assert not await theirs.delete("w")
        assert await theirs.prune(before=clock.now()) == 0
        with pytest.raises(NotFound):
            await theirs.transition("w", "running")
        with pytest.raises(NotFound):
            await theirs.advance("w", 1)
        assert (await theirs.create("w", {})).version == 1
        assert await ours.get("w") == before

    async def test_what_was_rolled_back_did_not_happen(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        workflows = backend.storages(tenant).workflow_state
        before = await brought_to(workflows, "w", "running")

        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the transaction
            async with backend.transaction(tenant) as tx:
                await tx.workflow_state.advance("w", 5)
                await tx.workflow_state.transition("w", "completed")
                await tx.workflow_state.create("x", {})
                raise ZeroDivisionError

        assert await workflows.get("w") == before
        assert await workflows.get("x") is None

    async def test_a_failed_call_inside_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            await tx.workflow_state.create("w", {})
            with pytest.raises(IllegalTransition):
                await tx.workflow_state.transition("w", "completed")
            with pytest.raises(AlreadyExists):
                await tx.workflow_state.create("w", {})
            await tx.workflow_state.transition("w", "running")

        found = await backend.storages(tenant).workflow_state.get("w")
        assert found is not None
        assert found.status == "running"

    @pytest.mark.parametrize("bad", ["", NUL, SURROGATE, "x" * 256, 1, None])
    async def test_a_bad_id_is_refused(self, backend: Backend, bad: Any) -> None:
        workflows = (await open_tenant(backend)).workflow_state

        for call in (
            workflows.create(bad, {}),
            workflows.save(bad, {}),
            workflows.get(bad),
            workflows.transition(bad, "running"),
            workflows.advance(bad, 1),
            workflows.delete(bad),
        ):
            with pytest.raises(InvalidKey) as caught:
                await call
            assert caught.value.field == "workflow_id"

    async def test_arguments_out_of_range_are_refused(self, backend: Backend) -> None:
        workflows = (await open_tenant(backend)).workflow_state
        before = await brought_to(workflows, "w", "running")
        calls: list[tuple[Any, type[InvalidInput], str]] = [
            (workflows.create("x", [1]), InvalidMetadata, "data"),  # type: ignore[arg-type]
            (workflows.create("x", {"a": -0.0}), InvalidMetadata, "data.a"),
            (workflows.create("x", {}, name="n" * 501), InvalidKey, "name"),
            (workflows.create("x", {}, name=""), InvalidKey, "name"),
            (workflows.create("x", {}, current_step=-1), InvalidLimit, "current_step"),
            (workflows.create("x", {}, current_step=2**31), InvalidLimit, "current_step"),
            (workflows.save("x", {}, current_step=True), InvalidLimit, "current_step"),
            (workflows.transition("w", "done"), InvalidInput, "status"),  # type: ignore[arg-type]
            (workflows.transition("w", "completed", data={"a": NUL}), InvalidMetadata, "data.a"),
            (workflows.transition("w", "completed", current_step=-1), InvalidLimit, "current_step"),
            (workflows.transition("w", "completed", expected_version=0), InvalidLimit, "expected_version"),
            (workflows.advance("w", -1), InvalidLimit, "step"),
            (workflows.list(status="done"), InvalidInput, "status"),  # type: ignore[arg-type]
            (workflows.list(limit=0), InvalidLimit, "limit"),
            (workflows.prune(before="2026-01-01", limit=1_001), InvalidLimit, "limit"),  # type: ignore[arg-type]
        ]
        for call, error, field in calls:
            with pytest.raises(error) as caught:
                await call
            assert caught.value.field == field
        assert await workflows.get("w") == before
        assert await workflows.get("x") is None
