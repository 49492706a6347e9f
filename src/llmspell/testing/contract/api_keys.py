"""What `ApiKeys` promises (SCR-05, SCR-06, AMB-083)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import METADATA_MAX_BYTES
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    NotFound,
)
from llmspell.storage.contracts.api_keys import (
    RESEAL_MAX,
    SEALED_MAX_BYTES,
    SERVICE_MAX_BYTES,
    ApiKeyInfo,
    NewApiKey,
    ResealedApiKey,
)
from llmspell.storage.contracts.audit import AuditEntry
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.testing.contract import new_tenant, open_tenant, refused

CALLERS = 8
ATTEMPTS_MAX = 50


def new_key(service: str = "openai", **fields: Any) -> NewApiKey:
    """Return a key about to be kept, with sealed bytes of its own."""
    return NewApiKey(**{"key_id": uuid4(), "service": service, "sealed": uuid4().bytes, **fields})


async def recorded(storages: Storages) -> list[AuditEntry]:
    """Return what the audit log has of keys, oldest first."""
    entries = (await storages.audit.list()).items[::-1]
    return [one for one in entries if one.operation.startswith("api_keys.")]


class ApiKeysContract:
    """Subclass it in a test module; see the package."""

    async def test_a_key_that_was_set_is_found_sealed_as_it_was_given(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        new = new_key(sealed=bytes(range(256)))

        await keys.set(new)
        found = await keys.find_sealed("openai")

        assert found is not None
        assert (found.key_id, found.service, found.sealed, found.last_used_at) == (
            new.key_id,
            "openai",
            new.sealed,
            None,
        )

    async def test_what_is_known_of_a_key_does_not_hold_it(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).api_keys
        ends = clock.now() + timedelta(days=1)
        new = new_key(metadata={"team": "a", "ratio": 1e22, "big": 2**62}, expires_at=ends)

        info = await keys.set(new)

        assert info == await keys.get("openai") == (await keys.list()).items[0]
        assert info == ApiKeyInfo(
            key_id=new.key_id,
            service="openai",
            status="active",
            metadata={"team": "a", "ratio": 1e22, "big": 2**62},
            created_at=clock.now(),
            expires_at=ends,
            last_used_at=None,
            usage_count=0,
            rotated_from=None,
            deactivated_at=None,
        )
        assert new.sealed.hex() not in repr(info)

    async def test_a_service_without_a_key_has_none(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys

        assert await keys.get("openai") is None
        assert await keys.find_sealed("openai") is None
        assert (await keys.list()).items == []

    async def test_a_service_is_rotated_again_and_again(self, backend: Backend, clock: ManualClock) -> None:
        """A third key after a second: AMB-083."""
        keys = (await open_tenant(backend)).api_keys
        chain = [await keys.set(new_key(metadata={"n": 1}))]
        for _ in range(3):
            clock.advance(seconds=1)
            chain.append(await keys.rotate(new_key()))

        listed = (await keys.list(service="openai")).items

        assert [info.key_id for info in listed] == [info.key_id for info in reversed(chain)]
        assert [info.rotated_from for info in listed] == [*(info.key_id for info in chain[2::-1]), None]
        assert [info.status for info in listed] == ["active", "inactive", "inactive", "inactive"]
        assert listed[1].deactivated_at == listed[0].created_at
        assert {info.metadata["n"] for info in listed} == {1}
        found = await keys.find_sealed("openai")
        assert found is not None
        assert found.key_id == chain[-1].key_id

    async def test_setting_again_retires_the_key_before_and_takes_nothing_from_it(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        first = await keys.set(new_key(metadata={"n": 1}))

        second = await keys.set(new_key())

        assert (second.rotated_from, second.metadata) == (first.key_id, {})
        assert [info.status for info in (await keys.list()).items] in (["active", "inactive"], ["inactive", "active"])

    async def test_what_is_not_there_cannot_be_rotated_deactivated_or_deleted(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys

        for call in (keys.rotate(new_key()), keys.deactivate("openai"), keys.delete("openai")):
            with pytest.raises(NotFound):
                await call
        assert (await keys.list()).items == []

    async def test_an_id_that_is_taken_is_refused_and_changes_nothing(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        first = new_key()
        await keys.set(first)

        for again in (new_key(key_id=first.key_id), new_key("other", key_id=first.key_id)):
            with pytest.raises(AlreadyExists):
                await keys.set(again)

        assert [(info.key_id, info.status) for info in (await keys.list()).items] == [(first.key_id, "active")]

    async def test_an_expired_key_is_not_handed_out_before_it_is_deactivated(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        keys = (await open_tenant(backend)).api_keys
        await keys.set(new_key(expires_at=clock.now() + timedelta(seconds=10)))

        clock.advance(seconds=9)
        assert await keys.find_sealed("openai") is not None
        clock.advance(seconds=1)

        assert await keys.find_sealed("openai") is None
        info = await keys.get("openai")
        assert info is not None
        assert (info.status, info.deactivated_at) == ("expired", None)

    async def test_an_expired_key_can_be_rotated(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).api_keys
        old = await keys.set(new_key(expires_at=clock.now() + timedelta(seconds=1)))
        clock.advance(seconds=2)

        new = await keys.rotate(new_key())

        assert (new.status, new.rotated_from, new.expires_at) == ("active", old.key_id, None)

    async def test_expiring_deactivates_what_is_due_in_bounded_steps(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        keys = (await open_tenant(backend)).api_keys
        for number in range(5):
            await keys.set(new_key(f"s{number}", expires_at=clock.now() + timedelta(seconds=number + 1)))
        await keys.set(new_key("forever"))
        clock.advance(seconds=4)

        counts = [await keys.expire(limit=3), await keys.expire(limit=3), await keys.expire(limit=3)]

        assert counts == [3, 1, 0]
        status = {info.service: (info.status, info.deactivated_at) for info in (await keys.list()).items}
        assert status["s0"] == status["s3"] == ("inactive", clock.now())
        assert status["s4"] == status["forever"] == ("active", None)

    async def test_pruning_deletes_keys_that_were_deactivated_before_an_instant(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        keys = (await open_tenant(backend)).api_keys
        for _ in range(4):
            clock.advance(days=1)
            await keys.set(new_key())
        cut = clock.now()

        assert await keys.prune(before=cut, limit=1) == 1
        assert await keys.prune(before=cut) == 1
        assert await keys.prune(before=cut) == 0
        assert [info.status for info in (await keys.list()).items] == ["active", "inactive"]

    async def test_uses_are_counted_exactly_by_many_callers(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).api_keys
        id = (await keys.set(new_key())).key_id
        clock.advance(seconds=5)

        await asyncio.gather(*(keys.note_use(id, uses=3) for _ in range(CALLERS)))

        info = await keys.get("openai")
        assert info is not None
        assert (info.usage_count, info.last_used_at) == (3 * CALLERS, clock.now())
        assert not await keys.note_use(uuid4())

    async def test_eight_rotations_at_once_make_one_chain(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        first = await keys.set(new_key())

        made = await asyncio.gather(*(keys.rotate(new_key()) for _ in range(CALLERS)))

        every = (await keys.list()).items
        assert len(every) == CALLERS + 1
        assert sum(info.status == "active" for info in every) == 1
        assert {info.rotated_from for info in made} <= {first.key_id, *(info.key_id for info in made)}
        assert len({info.rotated_from for info in made}) == CALLERS

    async def test_deactivating_leaves_the_service_without_a_key(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).api_keys
        await keys.set(new_key())

        info = await keys.deactivate("openai")

        assert (info.status, info.deactivated_at) == ("inactive", clock.now())
        assert await keys.get("openai") is None
        assert await keys.find_sealed("openai") is None
        assert len((await keys.list()).items) == 1

    async def test_deleting_leaves_no_key_of_the_service(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        for service in ("openai", "openai", "other"):
            await keys.set(new_key(service))

        assert await keys.delete("openai") == 2
        assert [info.service for info in (await keys.list()).items] == ["other"]
        assert len(await keys.list_sealed()) == 1

    async def test_pages_walk_over_all_keys_once_newest_first(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).api_keys
        made = []
        for number in range(7):
            clock.advance(seconds=number % 2)  # some at the same instant
            made.append(await keys.set(new_key(f"s{number}")))

        walked: list[ApiKeyInfo] = []
        page = await keys.list(limit=3)
        while True:
            walked += page.items
            if page.next_cursor is None:
                break
            page = await keys.list(limit=3, cursor=page.next_cursor)

        assert walked == sorted(made, key=lambda info: (info.created_at, info.key_id), reverse=True)

    async def test_a_cursor_of_another_tenant_or_service_is_refused(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).api_keys, (await open_tenant(backend)).api_keys
        for number in range(3):
            await mine.set(new_key(f"s{number}"))
        cursor = (await mine.list(limit=1)).next_cursor

        for call in (theirs.list(cursor=cursor), mine.list(service="s1", cursor=cursor), mine.list(cursor="x")):
            with pytest.raises(InvalidCursor):
                await call

    async def test_a_foreign_key_is_as_absent_as_none(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).api_keys, (await open_tenant(backend)).api_keys
        new = new_key()
        await mine.set(new)

        assert await theirs.get("openai") is None
        assert await theirs.find_sealed("openai") is None
        assert not await theirs.note_use(new.key_id)
        assert await theirs.list_sealed() == []
        replacement = ResealedApiKey(key_id=new.key_id, expected=new.sealed, sealed=b"theirs")
        assert await theirs.reseal([replacement]) == 0
        await theirs.set(new_key(key_id=new.key_id))  # not even its id is known to be taken
        found = await mine.find_sealed("openai")
        assert found is not None
        assert found.sealed == new.sealed

    async def test_sealed_keys_are_walked_in_the_order_of_their_ids(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        ids = sorted([(await keys.set(new_key(f"s{number}"))).key_id for number in range(5)])

        first = await keys.list_sealed(limit=2)
        rest = await keys.list_sealed(after=str(first[-1].key_id))

        assert [one.key_id for one in [*first, *rest]] == ids

    async def test_a_key_is_resealed_only_while_it_is_what_was_read(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        one, other = new_key("one"), new_key("other")
        await keys.set(one)
        await keys.set(other)

        done = await keys.reseal(
            [
                ResealedApiKey(key_id=one.key_id, expected=one.sealed, sealed=b"new"),
                ResealedApiKey(key_id=other.key_id, expected=b"stale", sealed=b"new"),
                ResealedApiKey(key_id=uuid4(), expected=b"none", sealed=b"new"),
            ]
        )

        assert done == 1
        assert {found.service: found.sealed for found in await keys.list_sealed()} == {
            "one": b"new",
            "other": other.sealed,
        }
        assert await keys.reseal([]) == 0

    async def test_statistics_count_every_key(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).api_keys
        empty = await keys.stats()
        await keys.set(new_key("a"))
        rotated = await keys.rotate(new_key("a"))
        await keys.set(new_key("b", expires_at=clock.now() + timedelta(seconds=1)))
        await keys.note_use(rotated.key_id, uses=4)
        noted = clock.now()
        clock.advance(seconds=2)

        stats = await keys.stats()

        assert (empty.total_keys, empty.total_usage, empty.last_used_at) == (0, 0, None)
        assert (stats.total_keys, stats.active_keys, stats.expired_keys) == (3, 1, 1)
        assert (stats.rotated_keys, stats.services, stats.total_usage) == (1, 2, 4)
        assert stats.last_used_at == noted

    async def test_privileged_actions_are_in_the_audit_log(self, backend: Backend) -> None:
        tenant = await open_tenant(backend)
        keys = tenant.api_keys
        first = await keys.set(new_key(), actor="ada")
        second = await keys.rotate(new_key())
        sealed = (await keys.list_sealed())[0]
        await keys.reseal([ResealedApiKey(key_id=sealed.key_id, expected=sealed.sealed, sealed=b"new")])
        await keys.deactivate("openai", actor="bob")
        await keys.delete("openai", actor="bob")

        entries = await recorded(tenant)

        assert [(one.operation, one.principal, one.resource) for one in entries] == [
            ("api_keys.set", "ada", "api_keys/openai"),
            ("api_keys.rotate", "system", "api_keys/openai"),
            ("api_keys.reseal", "system", "api_keys/*"),
            ("api_keys.deactivate", "bob", "api_keys/openai"),
            ("api_keys.delete", "bob", "api_keys/openai"),
        ]
        assert [one.details for one in entries[:3]] == [
            {"key_id": str(first.key_id)},
            {"key_id": str(second.key_id)},
            {"keys": 1},
        ]

    async def test_an_action_that_fails_leaves_no_entry(self, backend: Backend) -> None:
        tenant = await open_tenant(backend)

        with pytest.raises(NotFound):
            await tenant.api_keys.delete("openai")

        assert await recorded(tenant) == []

    async def test_a_transaction_that_is_rolled_back_leaves_nothing(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async def fail() -> None:
            async with backend.transaction(tenant) as storages:
                await storages.api_keys.set(new_key())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        storages = backend.storages(tenant)
        assert (await storages.api_keys.list()).items == []
        assert await recorded(storages) == []

    async def test_a_call_that_fails_in_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        new = new_key()

        async with backend.transaction(tenant) as storages:
            await storages.api_keys.set(new)
            with pytest.raises(AlreadyExists):
                await storages.api_keys.set(new_key("openai", key_id=new.key_id))
            await storages.kv.set("k", b"v")

        found = await backend.storages(tenant).api_keys.find_sealed("openai")
        assert found is not None
        assert found.sealed == new.sealed
        assert await backend.storages(tenant).kv.get("k") == b"v"

    async def test_rotations_in_transactions_conflict_or_follow_each_other(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        await backend.storages(tenant).api_keys.set(new_key())

        async def rotate() -> None:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with backend.transaction(tenant) as storages:
                        await storages.api_keys.get("openai")
                        await storages.api_keys.rotate(new_key())
                    return
                except Conflict:
                    continue
            raise AssertionError("a caller never came to its turn")

        await asyncio.gather(*(rotate() for _ in range(CALLERS)))

        every = (await backend.storages(tenant).api_keys.list()).items
        assert len({info.rotated_from for info in every}) == len(every) == CALLERS + 1

    @pytest.mark.parametrize("service", ["", "a\0b", "\ud800", "x" * (SERVICE_MAX_BYTES + 1), "é" * 65, 7])
    async def test_a_bad_service_is_refused(self, backend: Backend, service: Any) -> None:
        keys = (await open_tenant(backend)).api_keys

        for call in (keys.get(service), keys.delete(service), keys.set(new_key(service))):
            async with refused(InvalidKey, "service"):
                await call

    async def test_the_longest_values_are_kept(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        service = "é" * (SERVICE_MAX_BYTES // 2)

        await keys.set(new_key(service, sealed=b"x" * SEALED_MAX_BYTES))

        found = await keys.find_sealed(service)
        assert found is not None
        assert len(found.sealed) == SEALED_MAX_BYTES

    async def test_values_beyond_their_limits_are_refused(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys

        async with refused(InvalidInput, "sealed"):
            await keys.set(new_key(sealed=b"x" * (SEALED_MAX_BYTES + 1)))
        async with refused(InvalidInput, "sealed"):
            await keys.set(new_key(sealed=b""))
        async with refused(InvalidMetadata, "metadata"):
            await keys.set(new_key(metadata={"k": "x" * METADATA_MAX_BYTES}))
        async with refused(InvalidKey, "actor"):
            await keys.set(new_key(), actor="")
        async with refused(InvalidLimit, "limit"):
            await keys.list(limit=0)
        async with refused(InvalidLimit, "uses"):
            await keys.note_use(uuid4(), uses=0)
        async with refused(InvalidKey, "key_id"):
            await keys.note_use("no id")
        async with refused(InvalidLimit, "items"):
            item = ResealedApiKey(key_id=UUID(int=1), expected=b"a", sealed=b"b")
            await keys.reseal([item] * (RESEAL_MAX + 1))
        assert (await keys.list()).items == []

    async def test_services_that_differ_in_case_or_normal_form_are_different(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).api_keys
        names = ["a", "A", "á", "a\u0301"]

        ids = {name: (await keys.set(new_key(name))).key_id for name in names}

        for name in names:
            info = await keys.get(name)
            assert info is not None
            assert info.key_id == ids[name]
