"""What `Procedures` promises."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidCursor, InvalidInput, InvalidKey, InvalidLimit, InvalidTime
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.pages import Page
from llmspell.storage.contracts.procedures import FREQUENCY_MAX, Pattern, Procedures
from llmspell.testing.contract import new_tenant, open_tenant

CALLERS = 8
NUL, SURROGATE = "a\0b", "a\ud800b"
# In byte order of UTF-8.
BYTE_ORDER = ["A", "Z", "a", "z", "á", "中", "～", "😀", "\U0010ffff"]


async def walked(procedures: Procedures, **arguments: Any) -> list[Pattern]:
    """Return all items of all pages."""
    found: list[Pattern] = []
    cursor: str | None = None
    while True:
        page: Page[Pattern] = await procedures.learned(**arguments, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


class ProceduresContract:
    """Subclass it in a test module; see the package. Rows PRO-01…04, C2."""

    async def test_each_occurrence_raises_the_frequency(self, backend: Backend, clock: ManualClock) -> None:
        procedures = (await open_tenant(backend)).procedures
        first = await procedures.record("tools", "after:search", "open")
        started = clock.now()
        clock.advance(seconds=5)

        second = await procedures.record("tools", "after:search", "open")

        assert (first.frequency, second.frequency) == (1, 2)
        assert second.id == first.id
        assert (second.first_seen, second.last_seen) == (started, clock.now())
        assert await procedures.get("tools", "after:search", "open") == second
        assert await procedures.frequency("tools", "after:search", "open") == 2

    async def test_several_occurrences_are_counted_at_once(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures

        assert (await procedures.record("s", "k", "v", count=5)).frequency == 5
        assert (await procedures.record("s", "k", "v", count=2)).frequency == 7

    async def test_what_was_never_seen_has_frequency_zero(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures

        assert await procedures.frequency("s", "k", "v") == 0
        assert await procedures.get("s", "k", "v") is None
        assert await procedures.predict("s", "k") == []

    async def test_a_clock_that_goes_back_does_not_move_last_seen_back(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        procedures = (await open_tenant(backend)).procedures
        seen = (await procedures.record("s", "k", "v")).last_seen
        clock.advance(seconds=-60)

        assert (await procedures.record("s", "k", "v")).last_seen == seen

    async def test_no_concurrent_occurrence_is_lost(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures

        await asyncio.gather(*(procedures.record("s", "k", "v") for _ in range(CALLERS * 5)))

        assert await procedures.frequency("s", "k", "v") == CALLERS * 5

    async def test_a_frequency_stops_at_its_highest(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        procedures = backend.storages(tenant).procedures
        async with backend.transaction(tenant) as tx:
            for _ in range(FREQUENCY_MAX // 1_000_000 + 2):
                await tx.procedures.record("s", "k", "v", count=1_000_000)

        assert await procedures.frequency("s", "k", "v") == FREQUENCY_MAX
        assert (await procedures.predict("s", "k"))[0].frequency == FREQUENCY_MAX

    async def test_a_pattern_is_learned_from_its_third_occurrence(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        await procedures.record("s", "k", "twice", count=2)
        await procedures.record("s", "k", "thrice", count=2)
        assert (await procedures.learned()).items == []

        await procedures.record("s", "k", "thrice")

        assert [pattern.value for pattern in (await procedures.learned()).items] == ["thrice"]
        assert [pattern.value for pattern in (await procedures.learned(min_frequency=2)).items] == ["thrice", "twice"]
        assert (await procedures.learned(min_frequency=4)).items == []

    async def test_learned_patterns_are_found_by_scope_and_key(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        places = [
            ("s", "k", "1"),
            ("s", "k", "2"),
            ("s", "k2", "3"),
            ("s", "l", "4"),
            ("s2", "k", "5"),
            ("t", "k", "6"),
        ]
        for place in places:
            await procedures.record(*place, count=3)

        async def values(**where: Any) -> str:
            return "".join(pattern.value for pattern in (await procedures.learned(**where)).items)

        assert await values() == "123456"
        assert await values(scope="s") == "1234"
        assert await values(scope="s", key="k") == "12"
        assert await values(scope="s", key="k", min_frequency=1) == "12"
        assert await values(scope="S") == ""

    @pytest.mark.parametrize("min_frequency", [1, 3])
    async def test_pages_walk_over_all_patterns_once_in_byte_order(self, backend: Backend, min_frequency: int) -> None:
        procedures = (await open_tenant(backend)).procedures
        places = [(one, other, one) for one in BYTE_ORDER for other in ("k", "\U0010ffff")]
        for place in reversed(places):
            await procedures.record(*place, count=3)

        found = await walked(procedures, limit=4, min_frequency=min_frequency)

        expected = sorted(places, key=lambda place: [part.encode() for part in place])
        assert [(one.scope, one.key, one.value) for one in found] == expected

    async def test_pages_of_the_longest_patterns_walk_on(self, backend: Backend) -> None:
        """The position of a page is as long as scope, key and value are, with every character escaped in JSON."""
        procedures = (await open_tenant(backend)).procedures
        for first in "ab":
            await procedures.record("\x01" * 500, "\x01" * 500, first + "\x01" * 1_023, count=3)

        assert len(await walked(procedures, limit=1)) == 2

    async def test_a_page_goes_on_after_what_was_forgotten(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        for value in "abc":
            await procedures.record("s", "k", value, count=3)
        page = await procedures.learned(limit=1)
        await procedures.delete("s", "k", "a")

        rest = await procedures.learned(limit=5, cursor=page.next_cursor)

        assert [pattern.value for pattern in rest.items] == ["b", "c"]

    async def test_a_cursor_belongs_to_its_tenant_and_its_question(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).procedures, (await open_tenant(backend)).procedures
        for value in "ab":
            await ours.record("s", "k", value, count=3)
        cursor = (await ours.learned(limit=1)).next_cursor
        assert cursor is not None

        with pytest.raises(InvalidCursor):
            await theirs.learned(limit=1, cursor=cursor)
        with pytest.raises(InvalidCursor):
            await ours.learned(limit=1, scope="s", cursor=cursor)
        with pytest.raises(InvalidCursor):
            await ours.learned(limit=1, cursor=cursor[:-2])

    async def test_a_key_without_a_scope_is_refused(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures

        with pytest.raises(InvalidKey, match="`key` needs a `scope`"):
            await procedures.learned(key="k")

    async def test_predictions_are_the_most_frequent_values_with_their_shares(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        for value, count in (("open", 6), ("copy", 2), ("zip", 2), ("rest", 2)):
            await procedures.record("s", "k", value, count=count)
        await procedures.record("s", "other", "open", count=100)

        found = await procedures.predict("s", "k", limit=2)

        assert [(one.value, one.frequency, one.share) for one in found] == [("open", 6, 0.5), ("copy", 2, 1 / 6)]

    async def test_a_transition_is_counted_and_predicted(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        await procedures.record_transition("agent", "mode", None, "idle")
        for _ in range(3):
            learned = await procedures.record_transition("agent", "mode", "idle", "busy")
        await procedures.record_transition("agent", "mode", "idle", "off")
        await procedures.record_transition("agent", "mode", 'idle"', "never")

        assert (learned.value, learned.frequency) == ('["idle","busy"]', 3)
        assert await procedures.frequency("agent", "mode", '["idle","busy"]') == 3
        assert [(one.value, one.share) for one in await procedures.predict_next("agent", "mode", "idle")] == [
            ("busy", 0.75),
            ("off", 0.25),
        ]
        assert [one.value for one in await procedures.predict_next("agent", "mode", None)] == ["idle"]
        assert await procedures.predict_next("agent", "mode", "busy") == []

    async def test_two_transitions_are_never_taken_for_one(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        pairs = [('a","b', "c"), ("a", 'b","c'), ("a", "b"), (None, "b"), ("null", "b"), ("a\\", "b"), ("ä", "b")]

        for pair in pairs:
            assert (await procedures.record_transition("s", "k", *pair)).frequency == 1

        for start, end in pairs:
            assert end in [one.value for one in await procedures.predict_next("s", "k", start)]

    async def test_delete_forgets_one_pattern(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        await procedures.record("s", "k", "v")
        await procedures.record("s", "k", "w")

        assert await procedures.delete("s", "k", "v")
        assert not await procedures.delete("s", "k", "v")
        assert [one.value for one in await procedures.predict("s", "k")] == ["w"]

    async def test_forget_empties_a_scope_or_a_key_and_nothing_else(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        for scope in ("s", "s2"):
            for key in ("k", "k2"):
                await procedures.record(scope, key, "v")
                await procedures.record(scope, key, "w")

        assert await procedures.forget("s", "k") == 2
        assert await procedures.forget("s", limit=1) == 1
        assert await procedures.forget("s") == 1
        assert await procedures.forget("s") == 0
        assert len(await walked(procedures, min_frequency=1)) == 4

    async def test_prune_forgets_what_was_seen_rarely_and_long_ago(self, backend: Backend, clock: ManualClock) -> None:
        procedures = (await open_tenant(backend)).procedures
        for value, count in (("old", 1), ("older", 2), ("learned", 3), ("often", 9)):
            await procedures.record("s", "k", value, count=count)
        clock.advance(days=30)
        await procedures.record("s", "k", "new")
        cut = clock.now() - timedelta(days=1)

        assert await procedures.prune(before=cut, below_frequency=1) == 0
        assert await procedures.prune(before=cut, below_frequency=2) == 1
        assert await procedures.frequency("s", "k", "older") == 2
        await procedures.record("s", "k", "newer")
        assert await procedures.prune(before=cut, limit=1) == 1
        assert await procedures.prune(before=cut) == 0
        assert {one.value for one in await procedures.predict("s", "k")} == {"learned", "often", "new", "newer"}
        assert await procedures.prune(before=cut, below_frequency=4) == 1
        assert {one.value for one in await procedures.predict("s", "k")} == {"often", "new", "newer"}

    async def test_another_tenant_sees_and_loses_nothing(self, backend: Backend, clock: ManualClock) -> None:
        ours, theirs = (await open_tenant(backend)).procedures, (await open_tenant(backend)).procedures
        await ours.record("s", "k", "v", count=3)
        clock.advance(days=1)

        assert await theirs.frequency("s", "k", "v") == 0
        assert (await theirs.learned()).items == []
        assert await theirs.predict("s", "k") == []
        assert not await theirs.delete("s", "k", "v")
        assert await theirs.forget("s") == 0
        assert await theirs.prune(before=clock.now(), below_frequency=100) == 0
        assert (await theirs.record("s", "k", "v")).frequency == 1
        assert await ours.frequency("s", "k", "v") == 3

    async def test_what_was_rolled_back_was_never_seen(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        procedures = backend.storages(tenant).procedures
        await procedures.record("s", "k", "v")

        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the transaction
            async with backend.transaction(tenant) as tx:
                assert (await tx.procedures.record("s", "k", "v")).frequency == 2
                raise ZeroDivisionError

        assert await procedures.frequency("s", "k", "v") == 1

    async def test_a_refused_call_inside_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            await tx.procedures.record("s", "k", "v")
            with pytest.raises(InvalidKey):
                await tx.procedures.record("s", "k", "")

        assert await backend.storages(tenant).procedures.frequency("s", "k", "v") == 1

    async def test_texts_at_their_limit_are_kept_and_beyond_it_refused(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        longest = ("ä" * 250, "😀" * 125, "é" * 512)

        assert (await procedures.record(*longest)).frequency == 1
        assert await procedures.frequency(*longest) == 1
        for place, field, limit in (
            (("s" * 501, "k", "v"), "scope", "500"),
            (("s", "k" * 501, "v"), "key", "500"),
            (("s", "k", "v" * 1_025), "value", "1,024"),
        ):
            with pytest.raises(InvalidKey, match=limit) as caught:
                await procedures.record(*place)
            assert caught.value.field == field
        with pytest.raises(InvalidKey, match="1,024") as caught:
            await procedures.record_transition("s", "k", "a" * 510, "b" * 508)
        assert caught.value.field == "to_value"
        assert await procedures.record_transition("s", "k", "a" * 510, "b" * 507)

    @pytest.mark.parametrize("bad", ["", NUL, SURROGATE, 1, None])
    async def test_what_is_no_text_is_refused_and_nothing_is_written(self, backend: Backend, bad: Any) -> None:
        procedures = (await open_tenant(backend)).procedures

        for place in ((bad, "k", "v"), ("s", bad, "v"), ("s", "k", bad)):
            with pytest.raises(InvalidKey):
                await procedures.record(*place)
            with pytest.raises(InvalidKey):
                await procedures.get(*place)
        with pytest.raises(InvalidKey):
            await procedures.record_transition("s", "k", "a", bad)
        assert (await procedures.learned(min_frequency=1)).items == []

    async def test_numbers_out_of_range_are_refused(self, backend: Backend) -> None:
        procedures = (await open_tenant(backend)).procedures
        calls: list[tuple[Any, type[InvalidInput]]] = [
            (procedures.record("s", "k", "v", count=0), InvalidLimit),
            (procedures.record("s", "k", "v", count=1_000_001), InvalidLimit),
            (procedures.record("s", "k", "v", count=True), InvalidLimit),
            (procedures.learned(limit=0), InvalidLimit),
            (procedures.learned(limit=1_001), InvalidLimit),
            (procedures.learned(min_frequency=0), InvalidLimit),
            (procedures.learned(min_frequency=2**31), InvalidLimit),
            (procedures.predict("s", "k", limit=101), InvalidLimit),
            (procedures.forget("s", limit=0), InvalidLimit),
            (procedures.prune(before="2026-01-01T00:00:00"), InvalidTime),  # type: ignore[arg-type]
        ]
        for call, error in calls:
            with pytest.raises(error):
                await call
