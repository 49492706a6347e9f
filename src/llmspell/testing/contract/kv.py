"""What `KV` promises."""

from __future__ import annotations

import asyncio

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidInput, InvalidKey, InvalidLimit
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.capabilities import Capability
from llmspell.testing.contract import new_tenant, open_tenant, refused

WRITERS = 8
ATTEMPTS_MAX = 50
# In byte order of UTF-8, which no locale and no UTF-16 would give: "～" is U+FF5E, the last two lie beyond U+FFFF.
BYTE_ORDER = ["A", "Z", "a", "a\u0301", "z", "á", "ß", "я", "中", "～", "𐀀", "😀"]


class KvContract:
    """Subclass it in a test module; see the package."""

    async def test_a_batch_is_a_mapping(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv

        async with refused(InvalidInput, "items"):
            await kv.set_batch([("a", b"1")])  # type: ignore[arg-type]
        assert await kv.list_keys() == []

    async def test_a_value_comes_back_byte_for_byte(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        value = bytes(range(256)) * 4

        await kv.set("k", value)

        assert await kv.get("k") == value

    async def test_an_empty_value_is_a_value(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv

        await kv.set("k", b"")

        assert await kv.get("k") == b""
        assert await kv.exists("k")

    async def test_an_absent_key_is_none(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv

        assert await kv.get("k") is None
        assert not await kv.exists("k")

    async def test_setting_again_replaces_the_value(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set("k", b"1")

        await kv.set("k", b"2")

        assert await kv.get("k") == b"2"
        assert await kv.list_keys() == ["k"]

    async def test_delete_says_whether_the_key_was_there(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set("k", b"1")

        assert await kv.delete("k")
        assert not await kv.delete("k")
        assert await kv.get("k") is None

    async def test_keys_that_differ_in_case_or_normal_form_are_different(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv

        await kv.set_batch({"a": b"1", "A": b"2", "á": b"3", "a\u0301": b"4"})

        assert [await kv.get(key) for key in ("a", "A", "á", "a\u0301")] == [b"1", b"2", b"3", b"4"]

    async def test_keys_are_listed_in_byte_order(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv

        await kv.set_batch(dict.fromkeys(reversed(BYTE_ORDER), b""))

        assert await kv.list_keys() == sorted(BYTE_ORDER, key=str.encode)

    async def test_a_prefix_selects_the_keys_that_start_with_it(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch(dict.fromkeys(["user", "user:1", "user:2", "user;", "usex", "use", "User:1"], b""))

        assert await kv.list_keys("user:") == ["user:1", "user:2"]
        assert await kv.list_keys("user") == ["user", "user:1", "user:2", "user;"]

    async def test_a_prefix_is_no_pattern(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch(dict.fromkeys(["a%b", "axb", "a_b", "a*b", "a?b", "a[b"], b""))

        assert await kv.list_keys("a%") == ["a%b"]
        assert await kv.list_keys("a_") == ["a_b"]
        assert await kv.list_keys("a*") == ["a*b"]
        assert await kv.list_keys("a[") == ["a[b"]

    @pytest.mark.parametrize("prefix", ["\ud7ff", "\U0010ffff", "a\U0010ffff", "\uffff", "😀"])
    async def test_a_prefix_at_the_edge_of_the_code_space_finds_its_keys(self, backend: Backend, prefix: str) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch(dict.fromkeys([prefix, prefix + "x", "a", "b", "\ue000"], b""))

        assert await kv.list_keys(prefix) == [prefix, prefix + "x"]

    async def test_pages_of_keys_walk_over_all_of_them_once(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch(dict.fromkeys(BYTE_ORDER, b""))

        walked: list[str] = []
        while page := await kv.list_keys(after=walked[-1] if walked else None, limit=5):
            walked += page

        assert walked == sorted(BYTE_ORDER, key=str.encode)

    async def test_a_page_begins_after_a_key_that_is_gone(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch(dict.fromkeys(["a", "c"], b""))

        assert await kv.list_keys(after="b", limit=5) == ["c"]

    async def test_an_expired_key_is_absent_before_it_is_deleted(self, backend: Backend, clock: ManualClock) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch({"k": b"v"}, ttl_s=10)

        clock.advance(seconds=10)

        assert await kv.get("k") is None
        assert not await kv.exists("k")
        assert await kv.list_keys() == []
        assert await kv.get_batch(["k"]) == {}

    async def test_a_key_is_there_until_the_instant_at_which_it_expires(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set("k", b"v", ttl_s=10)

        clock.advance(seconds=9.999999)

        assert await kv.get("k") == b"v"

    async def test_an_expired_key_was_not_there_to_delete(self, backend: Backend, clock: ManualClock) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch({"a": b"", "b": b"", "c": b""}, ttl_s=10)
        await kv.set("kept", b"")

        clock.advance(seconds=11)

        assert not await kv.delete("a")
        assert await kv.delete_batch(["b", "kept"]) == 1
        assert await kv.clear() == 0

    async def test_setting_again_without_a_ttl_keeps_the_key_for_good(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set("k", b"1", ttl_s=10)
        await kv.set("k", b"2")

        clock.advance(days=1)

        assert await kv.get("k") == b"2"

    async def test_an_expired_key_can_be_set_again(self, backend: Backend, clock: ManualClock) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set("k", b"1", ttl_s=10)
        clock.advance(seconds=11)

        await kv.set("k", b"2", ttl_s=10)

        assert await kv.get("k") == b"2"

    async def test_a_batch_gives_the_keys_that_exist(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch({"a": b"1", "b": b"2"})

        assert await kv.get_batch(["b", "a", "absent", "a"]) == {"a": b"1", "b": b"2"}
        assert await kv.get_batch([]) == {}

    async def test_a_batch_delete_counts_what_was_there(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch({"a": b"", "b": b"", "c": b""})

        assert await kv.delete_batch(["a", "b", "a", "absent"]) == 2
        assert await kv.list_keys() == ["c"]
        assert await kv.delete_batch([]) == 0

    async def test_one_bad_item_and_the_batch_writes_nothing(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set("a", b"before")

        with pytest.raises(InvalidKey):
            await kv.set_batch({"a": b"after", "b": b"", "nul\0": b""})
        with pytest.raises(InvalidInput):
            await kv.set_batch({"a": b"after", "b": "text"})  # type: ignore[dict-item]
        with pytest.raises(InvalidKey):
            await kv.delete_batch(["a", "\ud800"])

        assert await kv.get_batch(["a", "b"]) == {"a": b"before"}

    async def test_clear_counts_and_deletes_every_key(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        await kv.set_batch({"a": b"", "b": b""})

        assert await kv.clear() == 2
        assert await kv.list_keys() == []

    async def test_another_tenant_sees_and_loses_nothing(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).kv, (await open_tenant(backend)).kv
        await ours.set("k", b"ours")
        await theirs.set("k", b"theirs")
        assert (await ours.get("k"), await theirs.get("k")) == (b"ours", b"theirs")

        assert await theirs.clear() == 1
        assert await theirs.get("k") is None
        assert not await theirs.exists("k")
        assert not await theirs.delete("k")
        assert await theirs.get_batch(["k"]) == {}
        assert await theirs.list_keys() == []
        assert await ours.get("k") == b"ours"

    async def test_no_concurrent_update_is_lost(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        await backend.storages(tenant).kv.set("n", b"0")

        async def increment() -> None:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with backend.transaction(tenant) as tx:
                        value = int(await tx.kv.get("n") or b"0")
                        await asyncio.sleep(0)
                        await tx.kv.set("n", str(value + 1).encode())
                except Conflict:
                    continue
                return
            raise AssertionError("the transaction conflicted every time")

        await asyncio.gather(*(increment() for _ in range(WRITERS)))

        assert await backend.storages(tenant).kv.get("n") == str(WRITERS).encode()

    async def test_concurrent_overlapping_batches_all_take_effect_whole(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv
        keys = [f"k{number}" for number in range(20)]

        async def write(number: int) -> None:
            order = keys if number % 2 else keys[::-1]
            await kv.set_batch({key: str(number).encode() for key in order})

        await asyncio.gather(*(write(number) for number in range(WRITERS)))

        assert len(set((await kv.get_batch(keys)).values())) == 1

    async def test_it_says_what_it_is(self, backend: Backend) -> None:
        kv = (await open_tenant(backend)).kv

        assert kv.backend_type() == backend.type
        assert kv.characteristics().backend == backend.type
        assert kv.characteristics().persistent == (Capability.PERSISTENT in backend.capabilities)
        assert kv.characteristics().multi_writer == (Capability.CONCURRENT_WRITERS in backend.capabilities)

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), True, "10", 1e12])
    async def test_a_ttl_that_is_no_number_of_seconds_is_refused(self, backend: Backend, ttl_s: float) -> None:
        kv = (await open_tenant(backend)).kv

        with pytest.raises(InvalidLimit) as caught:
            await kv.set("k", b"v", ttl_s=ttl_s)

        assert caught.value.field == "ttl_s"
        assert await kv.get("k") is None
