"""What `AgentStates` promises."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import encode_json
from llmspell.errors import (
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    NotFound,
    VersionConflict,
)
from llmspell.storage.contracts.agent_state import AgentStateSummary
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.checks import DATA_MAX_BYTES, DATA_MAX_DEPTH
from llmspell.testing.contract import new_tenant, open_tenant
from llmspell.testing.contract.hostile_values import KEPT, typed

CALLERS = 8
ATTEMPTS_MAX = 50
NUL, SURROGATE = "a\0b", "a\ud800b"


def nested(levels: int) -> Any:
    """Return an object with so many levels of objects and lists."""
    value: Any = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"k": value}
    return {"k": value}


class AgentStateContract:
    """Subclass it in a test module; see the package. Rows AGS-01…03."""

    async def test_a_saved_state_comes_back(self, backend: Backend, clock: ManualClock) -> None:
        agents = (await open_tenant(backend)).agent_state

        saved = await agents.save("planner", {"goal": "tea", "tried": [1, 2.0]}, agent_type="llm", schema_version=3)

        assert (saved.agent_type, saved.schema_version, saved.data_version, saved.version) == ("llm", 3, 1, 1)
        assert saved.created_at == saved.updated_at == clock.now()
        assert await agents.get("planner") == saved
        assert await agents.get("absent") is None

    async def test_the_checksum_is_the_sha_256_of_the_canonical_json(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state

        saved = await agents.save("a", {"b": 1, "a": "é"})

        assert saved.checksum == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()

    @pytest.mark.parametrize("name", KEPT)
    async def test_every_value_that_is_accepted_comes_back_the_same_and_verified(
        self, backend: Backend, name: str
    ) -> None:
        agents = (await open_tenant(backend)).agent_state
        data = {"value": KEPT[name], "nested": [{"v": KEPT[name]}]}

        await agents.save("a", data)

        found = await agents.get("a")
        assert found is not None
        assert typed(found.data) == typed(data)
        assert encode_json(found.data) == encode_json(data)

    async def test_the_data_version_grows_with_each_change_of_the_data_only(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        agents = (await open_tenant(backend)).agent_state
        first = await agents.save("a", {"n": 1})
        clock.advance(seconds=1)

        same = await agents.save("a", {"n": 1}, agent_type="other", schema_version=2)
        changed = await agents.save("a", {"n": 2})

        assert (first.data_version, same.data_version, changed.data_version) == (1, 1, 2)
        assert (first.version, same.version, changed.version) == (1, 2, 3)
        assert (changed.agent_type, changed.schema_version) == ("other", 2)
        assert changed.id == first.id
        assert (same.created_at, same.updated_at) == (first.created_at, clock.now())
        assert await agents.get("a") == changed

    async def test_numbers_that_are_equal_but_not_the_same_are_a_change(self, backend: Backend) -> None:
        """One database compares 1 and 1.0 as equal numbers; the checksum does not."""
        agents = (await open_tenant(backend)).agent_state
        await agents.save("a", {"n": 1})

        changed = await agents.save("a", {"n": 1.0})
        again = await agents.save("a", {"n": 1}, expected_version=2)

        assert (changed.data_version, again.data_version) == (2, 3)
        assert await agents.get("a") == again

    async def test_the_order_of_keys_is_no_change(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        await agents.save("a", {"x": 1, "aa": {"q": 1, "b": 2}})

        assert (await agents.save("a", {"aa": {"b": 2, "q": 1}, "x": 1})).data_version == 1

    async def test_what_the_caller_changes_afterwards_is_not_stored(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        data: dict[str, Any] = {"list": [1]}
        saved = await agents.save("a", data)
        data["list"].append(2)
        saved.data["list"].append(3)

        found = await agents.get("a")

        assert found is not None
        assert found.data == {"list": [1]}

    async def test_an_expected_version_guards_a_save(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        with pytest.raises(NotFound):
            await agents.save("a", {"n": 0}, expected_version=1)
        await agents.save("a", {"n": 1}, expected_version=0)

        with pytest.raises(VersionConflict) as created:
            await agents.save("a", {"n": 9}, expected_version=0)
        with pytest.raises(VersionConflict) as replaced:
            await agents.save("a", {"n": 9}, expected_version=7)

        assert (created.value.fields["expected"], created.value.fields["current"]) == (0, 1)
        assert (replaced.value.fields["expected"], replaced.value.fields["current"]) == (7, 1)
        assert (await agents.save("a", {"n": 2}, expected_version=1)).data_version == 2

    async def test_of_callers_who_expect_the_same_version_one_wins(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        await agents.save("a", {"n": 0})

        results = await asyncio.gather(
            *(agents.save("a", {"n": number + 1}, expected_version=1) for number in range(CALLERS)),
            return_exceptions=True,
        )

        assert sum(isinstance(result, VersionConflict) for result in results) == CALLERS - 1
        found = await agents.get("a")
        assert found is not None
        assert (found.version, found.data_version) == (2, 2)

    async def test_of_callers_who_save_what_is_stored_already_one_wins(self, backend: Backend) -> None:
        """A save of equal data is a save: who expects the version before it comes too late."""
        agents = (await open_tenant(backend)).agent_state
        await agents.save("a", {"n": 0})

        results = await asyncio.gather(
            *(agents.save("a", {"n": 0}, expected_version=1) for _ in range(CALLERS)), return_exceptions=True
        )

        assert sum(isinstance(result, VersionConflict) for result in results) == CALLERS - 1
        found = await agents.get("a")
        assert found is not None
        assert (found.version, found.data_version) == (2, 1)
        with pytest.raises(VersionConflict):
            await agents.delete("a", expected_version=1)
        assert [one.version for one in (await agents.list()).items] == [2]

    async def test_no_concurrent_update_is_lost(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        await agents.save("a", {"n": 0})

        async def increment() -> None:
            for _ in range(ATTEMPTS_MAX):
                state = await agents.get("a")
                assert state is not None
                try:
                    await agents.save("a", {"n": state.data["n"] + 1}, expected_version=state.version)
                except VersionConflict:
                    continue
                return
            raise AssertionError("every attempt conflicted")

        await asyncio.gather(*(increment() for _ in range(CALLERS)))

        found = await agents.get("a")
        assert found is not None
        assert (found.data, found.data_version) == ({"n": CALLERS}, CALLERS + 1)

    async def test_concurrent_first_saves_make_one_state(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state

        saved = await asyncio.gather(*(agents.save("a", {"n": number}) for number in range(CALLERS)))

        assert len({state.id for state in saved}) == 1
        assert sorted(state.data_version for state in saved) == list(range(1, CALLERS + 1))

    async def test_a_list_has_the_newest_agents_first_and_no_data(self, backend: Backend, clock: ManualClock) -> None:
        agents = (await open_tenant(backend)).agent_state
        for number in range(5):
            await agents.save(f"a{number}", {"n": number}, agent_type="odd" if number % 2 else "even")
            clock.advance(seconds=number % 2)
        await agents.save("a0", {"n": "later"})

        first = await agents.list(limit=3)
        second = await agents.list(limit=3, cursor=first.next_cursor)
        even = await agents.list(agent_type="even", limit=2)
        rest = await agents.list(agent_type="even", limit=2, cursor=even.next_cursor)

        assert [one.agent_id for one in [*first.items, *second.items]] == ["a4", "a3", "a2", "a1", "a0"]
        assert second.next_cursor is None
        assert [one.agent_id for one in [*even.items, *rest.items]] == ["a4", "a2", "a0"]
        assert (await agents.list(agent_type="none")).items == []
        assert type(first.items[0]) is AgentStateSummary

    async def test_a_cursor_belongs_to_its_tenant_and_its_question(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).agent_state, (await open_tenant(backend)).agent_state
        for id in "ab":
            await ours.save(id, {})
        cursor = (await ours.list(limit=1)).next_cursor
        assert cursor is not None

        with pytest.raises(InvalidCursor):
            await theirs.list(limit=1, cursor=cursor)
        with pytest.raises(InvalidCursor):
            await ours.list(limit=1, agent_type="agent", cursor=cursor)
        with pytest.raises(InvalidCursor):
            await ours.verify(limit=1, cursor=cursor)

    async def test_delete_says_whether_there_was_a_state(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        await agents.save("a", {})

        with pytest.raises(VersionConflict) as caught:
            await agents.delete("a", expected_version=2)
        assert (caught.value.fields["expected"], caught.value.fields["current"]) == (2, 1)
        assert await agents.delete("a", expected_version=1)
        assert not await agents.delete("a")
        assert not await agents.delete("a", expected_version=1)
        assert (await agents.save("a", {})).data_version == 1

    async def test_verify_reads_every_state_once(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        for id in ("b", "😀", "a", "Ä"):
            await agents.save(id, {"id": id})

        first = await agents.verify(limit=3)
        second = await agents.verify(limit=3, cursor=first.next_cursor)

        assert (first.checked, second.checked) == (3, 1)
        assert first.damaged == second.damaged == []
        assert second.next_cursor is None

    async def test_another_tenant_sees_and_loses_nothing(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).agent_state, (await open_tenant(backend)).agent_state
        await ours.save("a", {"n": 1})

        assert await theirs.get("a") is None
        assert (await theirs.list()).items == []
        assert (await theirs.verify()).checked == 0
        assert not await theirs.delete("a")
        with pytest.raises(NotFound):
            await theirs.save("a", {}, expected_version=1)
        assert (await theirs.save("a", {"n": 2}, expected_version=0)).data_version == 1
        found = await ours.get("a")
        assert found is not None
        assert found.data == {"n": 1}

    async def test_what_was_rolled_back_was_never_saved(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        agents = backend.storages(tenant).agent_state
        await agents.save("a", {"n": 1})

        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the transaction
            async with backend.transaction(tenant) as tx:
                await tx.agent_state.save("a", {"n": 2})
                await tx.agent_state.save("b", {})
                raise ZeroDivisionError

        found = await agents.get("a")
        assert found is not None
        assert (found.data, found.data_version) == ({"n": 1}, 1)
        assert await agents.get("b") is None

    async def test_a_failed_save_inside_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            await tx.agent_state.save("a", {"n": 1})
            with pytest.raises(VersionConflict):
                await tx.agent_state.save("a", {"n": 2}, expected_version=5)

        found = await backend.storages(tenant).agent_state.get("a")
        assert found is not None
        assert found.data == {"n": 1}

    async def test_data_up_to_its_limits_is_kept_and_beyond_them_refused(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        room = DATA_MAX_BYTES - len('{"k":""}')
        longest, deepest = {"k": "x" * room}, nested(DATA_MAX_DEPTH)

        await agents.save("long", longest)
        await agents.save("deep", deepest)

        long, deep = await agents.get("long"), await agents.get("deep")
        assert long is not None
        assert deep is not None
        assert long.data == longest
        assert deep.data == deepest
        with pytest.raises(InvalidMetadata, match="4,194,304") as caught:
            await agents.save("long", {"k": "x" * (room + 1)})
        assert caught.value.field == "data"
        with pytest.raises(InvalidMetadata, match="64 deep"):
            await agents.save("deep", nested(DATA_MAX_DEPTH + 1))

    @pytest.mark.parametrize(
        "data",
        [
            *(None, [1], "{}", 1),
            *(
                {"a": float("nan")},
                {"a": -0.0},
                {"a": 2**63},
                {"a": NUL},
                {"a": SURROGATE},
                {"": 1},
                {1: 1},
                {"a": b""},
            ),
        ],
    )
    async def test_data_that_not_every_backend_keeps_is_refused(self, backend: Backend, data: Any) -> None:
        agents = (await open_tenant(backend)).agent_state

        with pytest.raises(InvalidMetadata):
            await agents.save("a", data)

        assert await agents.get("a") is None

    @pytest.mark.parametrize("bad", ["", NUL, SURROGATE, "x" * 256, "ä" * 128, 1, None])
    async def test_a_bad_agent_id_is_refused(self, backend: Backend, bad: Any) -> None:
        agents = (await open_tenant(backend)).agent_state

        for call in (agents.save(bad, {}), agents.get(bad), agents.delete(bad)):
            with pytest.raises(InvalidKey) as caught:
                await call
            assert caught.value.field == "agent_id"

    async def test_the_longest_ids_and_types_are_kept(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        await agents.save("é" * 127 + "x", {}, agent_type="ä" * 50, schema_version=2**31 - 1)
        await agents.save("\x01" * 255, {})

        assert len((await agents.list(limit=1)).items) == 1
        assert await agents.get("é" * 127 + "x") is not None

    async def test_arguments_out_of_range_are_refused(self, backend: Backend) -> None:
        agents = (await open_tenant(backend)).agent_state
        calls: list[tuple[Any, type[InvalidInput], str]] = [
            (agents.save("a", {}, agent_type="x" * 101), InvalidKey, "agent_type"),
            (agents.save("a", {}, agent_type=""), InvalidKey, "agent_type"),
            (agents.save("a", {}, schema_version=0), InvalidLimit, "schema_version"),
            (agents.save("a", {}, schema_version=2**31), InvalidLimit, "schema_version"),
            (agents.save("a", {}, expected_version=-1), InvalidLimit, "expected_version"),
            (agents.save("a", {}, expected_version=2**31), InvalidLimit, "expected_version"),
            (agents.delete("a", expected_version=0), InvalidLimit, "expected_version"),
            (agents.list(limit=0), InvalidLimit, "limit"),
            (agents.list(limit=1_001), InvalidLimit, "limit"),
            (agents.verify(limit=101), InvalidLimit, "limit"),
        ]
        for call, error, field in calls:
            with pytest.raises(error) as caught:
                await call
            assert caught.value.field == field
        assert (await agents.list()).items == []
