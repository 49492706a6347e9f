"""What `AccessKeys` promises."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import NAME_MAX_BYTES
from llmspell.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidText,
    LlmspellError,
    NotFound,
)
from llmspell.storage.contracts.access_keys import (
    NOTED_EVERY_S,
    OVERLAP_MAX_S,
    REASON_MAX_BYTES,
    SCOPE_MAX_BYTES,
    SCOPES_MAX,
    AccessKey,
    KeyHash,
    NewAccessKey,
    Successor,
)
from llmspell.storage.contracts.audit import AuditEntry
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.testing.contract import new_tenant, open_tenant, refused

CALLERS = 8


def hashed(pepper: str = "store") -> KeyHash:
    """Return a hash like no other."""
    return KeyHash(key_hash=uuid4().bytes * 2, pepper=pepper)


def new_key(**fields: Any) -> NewAccessKey:
    """Return a key about to be kept."""
    given = {"key_id": uuid4(), "name": "ci", "principal": "robot", "scopes": ["read"], "hashed": hashed(), **fields}
    return NewAccessKey(**given)


def successor(**fields: Any) -> Successor:
    """Return the successor of any key."""
    return Successor(**{"key_id": uuid4(), "hashed": hashed(), **fields})


async def recorded(storages: Storages) -> list[AuditEntry]:
    """Return what the audit log has of keys, oldest first."""
    entries = (await storages.audit.list()).items[::-1]
    return [one for one in entries if one.operation.startswith("access_keys.")]


class AccessKeysContract:
    """Subclass it in a test module; see the package."""

    async def test_a_key_is_found_with_its_hash(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        ends = clock.now() + timedelta(days=1)
        new = new_key(scopes=["write", "graph:read"], expires_at=ends)

        key = await keys.add(new)
        found = await keys.find(str(new.key_id))

        assert found is not None
        assert found.key_hash == new.hashed.key_hash
        assert found.key == key == await keys.get(new.key_id) == (await keys.list()).items[0]
        assert key == AccessKey(
            key_id=new.key_id,
            name="ci",
            principal="robot",
            scopes=["graph:read", "write"],
            status="active",
            created_at=clock.now(),
            expires_at=ends,
            last_used_at=None,
            revoked_at=None,
            revoked_reason=None,
            rotated_from=None,
            rotated_to=None,
            pepper="store",
        )

    async def test_an_absent_key_is_none(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys

        assert await keys.find(uuid4()) is None
        assert await keys.get(uuid4()) is None
        assert not await keys.note_use(uuid4())
        assert not await keys.rehash(uuid4(), hashed(), expected_pepper="store")
        with pytest.raises(NotFound):
            await keys.revoke(uuid4())
        with pytest.raises(NotFound):
            await keys.rotate(uuid4(), successor())

    async def test_an_id_that_is_taken_is_refused(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys
        new = new_key()
        await keys.add(new)

        with pytest.raises(AlreadyExists):
            await keys.add(new_key(key_id=new.key_id))

        found = await keys.find(new.key_id)
        assert found is not None
        assert found.key_hash == new.hashed.key_hash

    async def test_a_foreign_key_is_as_absent_as_none(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).access_keys, (await open_tenant(backend)).access_keys
        new = new_key()
        await mine.add(new)

        assert await theirs.find(new.key_id) is None
        assert await theirs.get(new.key_id) is None
        assert (await theirs.list()).items == []
        assert not await theirs.note_use(new.key_id)
        assert not await theirs.rehash(new.key_id, hashed(), expected_pepper="store")
        for call in (theirs.revoke(new.key_id), theirs.rotate(new.key_id, successor())):
            with pytest.raises(NotFound):
                await call
        await theirs.add(new_key(key_id=new.key_id))  # not even its id is known to be taken

    async def test_the_status_follows_the_clock_and_revocation(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        one = await keys.add(new_key(expires_at=clock.now() + timedelta(seconds=10)))
        other = await keys.add(new_key())

        clock.advance(seconds=10)
        revoked = await keys.revoke(other.key_id, reason="left")

        assert (revoked.status, revoked.revoked_at, revoked.revoked_reason) == ("revoked", clock.now(), "left")
        expired = await keys.get(one.key_id)
        assert expired is not None
        assert (expired.status, expired.revoked_at) == ("expired", None)
        for status, id in (("expired", one.key_id), ("revoked", other.key_id)):
            assert [key.key_id for key in (await keys.list(status=status)).items] == [id]  # type: ignore[arg-type]
        assert (await keys.list(status="active")).items == []

    async def test_revoking_again_changes_nothing(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        id = (await keys.add(new_key())).key_id
        first = await keys.revoke(id, reason="first")
        clock.advance(seconds=1)

        assert await keys.revoke(id, reason="second") == first

    async def test_a_use_is_noted_once_in_a_minute(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        id = (await keys.add(new_key())).key_id

        noted = await asyncio.gather(*(keys.note_use(id) for _ in range(CALLERS)))
        clock.advance(seconds=NOTED_EVERY_S - 1)
        early = await keys.note_use(id)
        clock.advance(seconds=1)
        late = await keys.note_use(id)

        assert (sum(noted), early, late) == (1, False, True)
        key = await keys.get(id)
        assert key is not None
        assert key.last_used_at == clock.now()

    async def test_a_hash_is_replaced_only_under_the_pepper_that_was_read(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys
        id = (await keys.add(new_key())).key_id
        anew = hashed("0123456789abcdef")

        assert await keys.rehash(id, anew, expected_pepper="store")
        assert not await keys.rehash(id, hashed(), expected_pepper="store")

        found = await keys.find(id)
        assert found is not None
        assert (found.key_hash, found.key.pepper) == (anew.key_hash, anew.pepper)

    async def test_a_successor_is_what_its_predecessor_was(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        old = await keys.add(new_key(scopes=["admin"], expires_at=clock.now() + timedelta(days=30)))
        clock.advance(days=10)

        new = await keys.rotate(old.key_id, successor(), overlap_s=60)

        assert (new.name, new.principal, new.scopes) == (old.name, old.principal, old.scopes)
        assert (new.rotated_from, new.expires_at) == (old.key_id, clock.now() + timedelta(days=30))
        retired = await keys.get(old.key_id)
        assert retired is not None
        assert (retired.rotated_to, retired.status) == (new.key_id, "active")
        assert retired.expires_at == clock.now() + timedelta(seconds=60)

    async def test_without_overlap_the_predecessor_ends_at_once(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys
        old = await keys.add(new_key())

        new = await keys.rotate(old.key_id, successor())

        retired = await keys.get(old.key_id)
        assert retired is not None
        assert (retired.status, new.status, new.expires_at) == ("expired", "active", None)

    async def test_an_overlap_does_not_lengthen_a_life(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        ends = clock.now() + timedelta(seconds=5)
        old = await keys.add(new_key(expires_at=ends))

        await keys.rotate(old.key_id, successor(expires_at=clock.now() + timedelta(days=1)), overlap_s=60)

        retired = await keys.get(old.key_id)
        assert retired is not None
        assert retired.expires_at == ends

    async def test_a_key_that_is_not_active_is_not_rotated(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        expired = await keys.add(new_key(expires_at=clock.now() + timedelta(seconds=1)))
        revoked = await keys.add(new_key())
        await keys.revoke(revoked.key_id)
        clock.advance(seconds=1)

        for key in (expired, revoked):
            with pytest.raises(NotFound):
                await keys.rotate(key.key_id, successor())
        assert len((await keys.list()).items) == 2

    async def test_of_eight_rotations_at_once_one_succeeds(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys
        old = await keys.add(new_key())

        results = await asyncio.gather(
            *(keys.rotate(old.key_id, successor(), overlap_s=60) for _ in range(CALLERS)), return_exceptions=True
        )

        assert Counter(type(one) for one in results) == {AccessKey: 1, AlreadyExists: CALLERS - 1}
        assert len((await keys.list()).items) == 2

    async def test_a_successor_whose_id_is_taken_leaves_its_predecessor(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys
        old, other = await keys.add(new_key()), await keys.add(new_key())

        with pytest.raises(AlreadyExists):
            await keys.rotate(old.key_id, successor(key_id=other.key_id))

        assert await keys.get(old.key_id) == old

    async def test_expiring_and_pruning_go_in_bounded_steps(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        for number in range(5):
            await keys.add(new_key(expires_at=clock.now() + timedelta(seconds=number)))
        kept = await keys.add(new_key())
        clock.advance(seconds=3)

        assert [await keys.expire(limit=3) for _ in range(3)] == [3, 1, 0]
        assert {key.revoked_reason for key in (await keys.list(status="revoked")).items} == {"expired"}
        assert await keys.prune(before=clock.now()) == 0
        clock.advance(days=1)
        assert [await keys.prune(before=clock.now(), limit=3) for _ in range(3)] == [3, 1, 0]
        assert {key.key_id for key in (await keys.list(status="active")).items} == {kept.key_id}

    async def test_pages_walk_over_all_keys_once_newest_first(self, backend: Backend, clock: ManualClock) -> None:
        keys = (await open_tenant(backend)).access_keys
        made = []
        for number in range(7):
            clock.advance(seconds=number % 2)
            made.append(await keys.add(new_key()))

        walked: list[AccessKey] = []
        page = await keys.list(limit=3, status="active")
        while True:
            walked += page.items
            if page.next_cursor is None:
                break
            page = await keys.list(limit=3, status="active", cursor=page.next_cursor)

        assert walked == sorted(made, key=lambda key: (key.created_at, key.key_id), reverse=True)

    async def test_a_cursor_of_another_tenant_or_status_is_refused(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).access_keys, (await open_tenant(backend)).access_keys
        for _ in range(2):
            await mine.add(new_key())
        cursor = (await mine.list(limit=1)).next_cursor

        for call in (theirs.list(cursor=cursor), mine.list(status="active", cursor=cursor)):
            with pytest.raises(InvalidCursor):
                await call

    async def test_the_pepper_of_a_store_is_one_and_does_not_change(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).access_keys, (await open_tenant(backend)).access_keys

        pepper = await mine.pepper()

        assert len(pepper) == 32
        assert pepper == await theirs.pepper()
        assert pepper != await backend.cursor_key()

    async def test_privileged_actions_are_in_the_audit_log(self, backend: Backend) -> None:
        tenant = await open_tenant(backend)
        keys = tenant.access_keys
        old = await keys.add(new_key(), actor="ada")
        new = await keys.rotate(old.key_id, successor())
        await keys.revoke(new.key_id, reason="leaked", actor="bob")
        for call in (keys.revoke(uuid4()), keys.rotate(uuid4(), successor())):
            with pytest.raises(NotFound):
                await call

        entries = await recorded(tenant)

        assert [(one.operation, one.principal, one.resource, one.reason, one.details) for one in entries] == [
            ("access_keys.issue", "ada", f"access_keys/{old.key_id}", None, {"scopes": ["read"]}),
            (
                "access_keys.rotate",
                "system",
                f"access_keys/{old.key_id}",
                None,
                {"rotated_to": str(new.key_id), "overlap_s": 0.0},
            ),
            ("access_keys.revoke", "bob", f"access_keys/{new.key_id}", "leaked", {}),
        ]

    async def test_a_transaction_that_is_rolled_back_leaves_nothing(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        new = new_key()

        async def fail() -> None:
            async with backend.transaction(tenant) as storages:
                await storages.access_keys.add(new)
                assert await storages.access_keys.find(new.key_id) is not None
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert await backend.storages(tenant).access_keys.find(new.key_id) is None
        assert await recorded(backend.storages(tenant)) == []

    async def test_a_call_that_fails_in_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        new = new_key()

        async with backend.transaction(tenant) as storages:
            await storages.access_keys.add(new)
            with pytest.raises(AlreadyExists):
                await storages.access_keys.rotate(new.key_id, successor(key_id=new.key_id))

        assert (await backend.storages(tenant).access_keys.list()).items[0].rotated_to is None
        assert len(await recorded(backend.storages(tenant))) == 1

    @pytest.mark.parametrize(
        ("fields", "error", "field"),
        [
            ({"name": ""}, InvalidKey, "name"),
            ({"name": "a\0b"}, InvalidKey, "name"),
            ({"name": "x" * (NAME_MAX_BYTES + 1)}, InvalidKey, "name"),
            ({"principal": "\ud800"}, InvalidKey, "principal"),
            ({"scopes": []}, InvalidKey, "scopes"),
            ({"scopes": "read"}, InvalidKey, "scopes"),
            ({"scopes": ["reed"]}, InvalidKey, "scopes"),
            ({"scopes": ["graph:"]}, InvalidKey, "scopes"),
            ({"scopes": ["graph:read:all"]}, InvalidKey, "scopes"),
            ({"scopes": ["Graph:read"]}, InvalidKey, "scopes"),
            ({"scopes": ["*"]}, InvalidKey, "scopes"),
            ({"scopes": ["a:" + "b" * SCOPE_MAX_BYTES]}, InvalidKey, "scopes"),
            ({"scopes": [f"a:b{n}" for n in range(SCOPES_MAX + 1)]}, InvalidLimit, "scopes"),
            ({"hashed": KeyHash(key_hash=b"x" * 31, pepper="store")}, InvalidInput, "key_hash"),
            ({"hashed": KeyHash(key_hash=b"x" * 32, pepper="")}, InvalidKey, "pepper"),
            ({"key_id": "no id"}, InvalidKey, "key_id"),
        ],
    )
    async def test_values_beyond_their_limits_are_refused(
        self, backend: Backend, fields: dict[str, Any], error: type[InvalidInput], field: str
    ) -> None:
        keys = (await open_tenant(backend)).access_keys

        async with refused(error, field):
            await keys.add(new_key(**fields))
        assert (await keys.list()).items == []

    async def test_arguments_beyond_their_limits_are_refused(self, backend: Backend) -> None:
        tenant = await open_tenant(backend)
        keys = tenant.access_keys
        id = (await keys.add(new_key(scopes=[f"a:b{n}" for n in range(SCOPES_MAX)]))).key_id

        async with refused(InvalidKey, "expected_pepper"):
            await keys.rehash(uuid4(), hashed(), expected_pepper="a\0b")
        async with refused(InvalidText, "reason"):
            await keys.revoke(id, reason="x" * (REASON_MAX_BYTES + 1))
        for overlap_s in (-1, OVERLAP_MAX_S + 1, float("nan"), True, "1"):
            async with refused(InvalidLimit, "overlap_s"):
                await keys.rotate(id, successor(), overlap_s=overlap_s)  # type: ignore[arg-type]
        async with refused(InvalidInput, "status"):
            await keys.list(status="asleep")  # type: ignore[arg-type]
        async with refused(InvalidLimit, "limit"):
            await keys.expire(limit=0)
        for call in (keys.find("x"), keys.get("x"), keys.revoke("x")):
            with pytest.raises(InvalidKey):
                await call
        assert (await keys.list()).items[0].status == "active"
        assert len(await recorded(tenant)) == 1

    async def test_no_error_shows_a_hash(self, backend: Backend) -> None:
        keys = (await open_tenant(backend)).access_keys
        marker = b"m" * 31

        with pytest.raises(LlmspellError) as caught:
            await keys.add(new_key(hashed=KeyHash(key_hash=marker, pepper="store")))

        assert "mmm" not in str(caught.value)
