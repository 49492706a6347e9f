"""Scoped state through the handles, on every backend (STA-01…03, STA-06, TEN-05)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, opened

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import (
    ConfigError,
    CorruptStore,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    MasterKeyMissing,
    SealBroken,
)
from llmspell.memory.state import ScopedState, StateScope, encode_key
from llmspell.security.keyring import new_master_key
from llmspell.settings import Secret, SecuritySettings, Settings, StateSettings
from llmspell.spell import Spell, Tenant
from llmspell.storage.contracts.checks import DATA_MAX_BYTES
from llmspell.testing.contract.hostile_values import KEPT, typed

CALLERS = 8
ADA = StateScope.User("ada")
SCOPES = [
    StateScope.Global(),
    *(kind("x") for kind in (StateScope.User, StateScope.Session, StateScope.Agent, StateScope.Tool)),
    *(kind("x") for kind in (StateScope.Workflow, StateScope.Hook, StateScope.Custom)),
    *(StateScope.Custom(id) for id in ("tenant", "tenant:", "tenant:id", "tenant%3Aid", "%", ":", "é:😀", " ")),
]


class ToySealer:
    """Encrypts by a key stream, and authenticates what it is bound to. For tests: the same value is sealed the same each time."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, plaintext: bytes, *, bound_to: Sequence[str]) -> bytes:
        hidden = bytes(a ^ b for a, b in zip(plaintext, self._stream(len(plaintext)), strict=True))
        return self._mark(hidden, bound_to) + hidden

    def open(self, sealed: bytes, *, bound_to: Sequence[str]) -> bytes:
        mark, hidden = sealed[:32], sealed[32:]
        if not hmac.compare_digest(mark, self._mark(hidden, bound_to)):
            raise PermissionError
        return bytes(a ^ b for a, b in zip(hidden, self._stream(len(hidden)), strict=True))

    def _stream(self, length: int) -> bytes:
        return hashlib.shake_256(self._key).digest(length)

    def _mark(self, hidden: bytes, bound_to: Sequence[str]) -> bytes:
        return hmac.digest(self._key, repr((hidden, tuple(bound_to))).encode(), "sha256")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
async def spell(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Spell]:
    async with opened(request.param, request, tmp_path, clock=clock) as spell:
        yield spell


@pytest.fixture
async def acme(spell: Spell) -> Tenant:
    return await fresh_tenant(spell)


async def test_every_scope_has_its_own_value_of_a_key(acme: Tenant) -> None:
    for number, scope in enumerate(SCOPES):
        await acme.state.set(scope, "k", number)

    assert [await acme.state.get(scope, "k") for scope in SCOPES] == list(range(len(SCOPES)))
    assert [await acme.state.list_keys(scope) for scope in SCOPES] == [["k"]] * len(SCOPES)


async def test_a_text_in_place_of_keys_is_refused(acme: Tenant) -> None:
    for keys in ("abc", None, (key for key in "abc")):
        with pytest.raises(InvalidInput) as caught:
            await acme.state.get_many(StateScope.Global(), keys)  # type: ignore[arg-type]
        assert caught.value.field == "keys"
    with pytest.raises(InvalidLimit, match="`keys` must be at most 10,000; got 10,001"):
        await acme.state.get_many(StateScope.Global(), ["k"] * 10_001)
    with pytest.raises(InvalidKey) as scope:
        StateScope.User("")
    assert scope.value.field == "scope.id"


async def test_a_colon_in_an_id_is_not_a_colon_in_a_key(acme: Tenant) -> None:
    await acme.state.set(StateScope.Custom("tenant:id"), "k", "theirs")

    assert await acme.state.get(StateScope.Custom("tenant"), "id:k") is None
    assert await acme.state.list_keys(StateScope.Custom("tenant")) == []


async def test_clear_empties_one_scope_and_no_other(acme: Tenant) -> None:
    for scope in SCOPES:
        await acme.state.set_many(scope, {"a": 1, "b:c": 2})
    await acme.kv.set("custom", b"bytes of somebody else")

    for cleared, scope in enumerate(SCOPES, 1):
        assert await acme.state.clear(scope) == 2
        left = [await acme.state.list_keys(other) for other in SCOPES[cleared:]]
        assert left == [["a", "b:c"]] * (len(SCOPES) - cleared)
    assert await acme.state.clear(ADA) == 0
    assert await acme.kv.list_keys() == ["custom"]


@pytest.mark.parametrize("name", KEPT)
async def test_every_value_that_is_accepted_comes_back_the_same(acme: Tenant, name: str) -> None:
    await acme.state.set(ADA, "k", KEPT[name])

    assert typed(await acme.state.get(ADA, "k", default="absent")) == typed(KEPT[name])


async def test_null_is_a_value_and_absent_is_the_default(acme: Tenant) -> None:
    await acme.state.set(ADA, "null", None)

    assert await acme.state.get(ADA, "null", default=1) is None
    assert await acme.state.get(ADA, "absent", default=1) == 1
    assert await acme.state.get_many(ADA, ["null", "absent"]) == {"null": None}


async def test_a_value_expires(acme: Tenant, clock: ManualClock) -> None:
    await acme.state.set(ADA, "short", 1, ttl_s=10)
    await acme.state.set_many(ADA, {"also": 2}, ttl_s=10)
    await acme.state.update(ADA, "kept", lambda _: 3)
    clock.advance(seconds=10)

    assert await acme.state.items(ADA) == {"kept": 3}
    assert not await acme.state.delete(ADA, "short")
    assert await acme.state.initialize_scope(ADA, {"short": 4, "kept": 5}) == ["short"]


async def test_keys_are_listed_by_prefix_in_byte_order_page_by_page(acme: Tenant) -> None:
    keys = ["a", "a:1", "a:2", "aé", "b", "~", "😀"]
    await acme.state.set_many(ADA, {key: key for key in reversed(keys)})

    assert await acme.state.list_keys(ADA) == sorted(keys, key=str.encode)
    assert await acme.state.list_keys(ADA, "a:") == ["a:1", "a:2"]
    assert await acme.state.list_keys(ADA, after="a:1", limit=2) == ["a:2", "aé"]
    assert list(await acme.state.items(ADA, "a", limit=2)) == ["a", "a:1"]
    assert await acme.state.items(ADA, after="b") == {"~": "~", "😀": "😀"}


async def test_a_scope_is_initialized_once(acme: Tenant) -> None:
    await acme.state.set(ADA, "b", "before")

    assert await acme.state.initialize_scope(ADA, {"c": 1, "a": 2, "b": 3}) == ["a", "c"]
    assert await acme.state.initialize_scope(ADA, {"c": 4, "a": 5, "b": 6}) == []
    assert await acme.state.items(ADA) == {"a": 2, "b": "before", "c": 1}


async def test_of_callers_who_initialize_at_once_one_sets_each_key(acme: Tenant) -> None:
    done = await asyncio.gather(*(acme.state.initialize_scope(ADA, {"k": number}) for number in range(CALLERS)))

    (winner,) = [number for number, keys in enumerate(done) if keys == ["k"]]
    assert sum(len(keys) for keys in done) == 1
    assert await acme.state.get(ADA, "k") == winner


async def test_no_concurrent_update_is_lost(acme: Tenant) -> None:
    await asyncio.gather(*(acme.state.update(ADA, "n", lambda n: n + 1, default=0) for _ in range(CALLERS)))

    assert await acme.state.get(ADA, "n") == CALLERS


async def test_an_update_returns_what_is_read_afterwards(acme: Tenant) -> None:
    assert await acme.state.update(ADA, "k", lambda old: (old, 1)) == [None, 1]
    assert await acme.state.get(ADA, "k") == [None, 1]


async def test_a_change_that_fails_leaves_the_value(acme: Tenant) -> None:
    await acme.state.set(ADA, "k", 1)

    with pytest.raises(ZeroDivisionError):
        await acme.state.update(ADA, "k", lambda n: n // 0)
    with pytest.raises(InvalidMetadata):
        await acme.state.update(ADA, "k", lambda n: float("nan"))

    async def waits(_: Any) -> int:
        return 1

    with pytest.raises(InvalidInput):
        await acme.state.update(ADA, "k", waits)
    assert await acme.state.get(ADA, "k") == 1


async def test_state_is_part_of_a_transaction(acme: Tenant) -> None:
    await acme.state.set(ADA, "n", 1)

    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the transaction
        async with acme.transaction() as tx:
            assert await tx.state.update(ADA, "n", lambda n: n + 1) == 2
            assert await tx.state.initialize_scope(ADA, {"m": 1}) == ["m"]
            await tx.state.clear(StateScope.Global())
            raise ZeroDivisionError

    assert await acme.state.items(ADA) == {"n": 1}


async def test_an_update_under_a_key_takes_place_once(acme: Tenant) -> None:
    for _ in range(3):
        assert await acme.once("turn-1").state.update(ADA, "n", lambda n: n + 1, default=0) == 1

    assert await acme.state.get(ADA, "n") == 1


async def test_another_tenant_sees_and_clears_nothing(spell: Spell, acme: Tenant) -> None:
    other = await fresh_tenant(spell)
    await acme.state.set(ADA, "k", 1)

    assert await other.state.get(ADA, "k") is None
    assert await other.state.items(ADA) == {}
    assert await other.state.clear(ADA) == 0
    assert await other.state.initialize_scope(ADA, {"k": 2}) == ["k"]
    assert await acme.state.get(ADA, "k") == 1


async def test_a_key_is_as_long_as_its_scope_leaves_room_for(acme: Tenant) -> None:
    scope = StateScope.Custom("a:%")
    room = 1_024 - len("state:custom:a%3A%25:")

    await acme.state.set(scope, "k" * room, 1)

    assert await acme.state.list_keys(scope) == ["k" * room]
    with pytest.raises(InvalidKey, match=r"with its scope, at most 1,024 bytes; got 1025"):
        await acme.state.set(scope, "k" * (room + 1), 1)


@pytest.mark.parametrize("bad", ["", "a\0b", "a\ud800b", 1, None])
async def test_a_bad_key_or_id_is_refused(acme: Tenant, bad: Any) -> None:
    calls: list[Any] = [
        acme.state.get(ADA, bad),
        acme.state.set(ADA, bad, 1),
        acme.state.set_many(ADA, {"good": 1, bad: 1}),
        acme.state.delete(ADA, bad),
        acme.state.get_many(ADA, [bad]),
        acme.state.update(ADA, bad, lambda n: n),
    ]
    for call in calls:
        with pytest.raises(InvalidKey) as caught:
            await call
        assert caught.value.field == "key"
    with pytest.raises(InvalidKey):
        StateScope.User(bad)
    assert await acme.state.items(ADA) == {}


async def test_what_is_no_scope_is_refused(acme: Tenant) -> None:
    with pytest.raises(InvalidInput, match="must be a StateScope"):
        await acme.state.get("user:ada", "k")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="must be one of global, user"):
        StateScope("team", "x")  # type: ignore[arg-type]
    with pytest.raises(InvalidKey, match="global"):
        StateScope("global", "x")


async def test_values_and_limits_out_of_range_are_refused(acme: Tenant) -> None:
    longest = "x" * (DATA_MAX_BYTES - 2)
    await acme.state.set(ADA, "long", longest)
    assert await acme.state.get(ADA, "long") == longest
    calls: list[tuple[Any, type[InvalidInput], str]] = [
        (acme.state.set(ADA, "k", longest + "x"), InvalidMetadata, "value"),
        (acme.state.set(ADA, "k", {"a": -0.0}), InvalidMetadata, "value.a"),
        (acme.state.set_many(ADA, {"ok": 1, "k": b""}), InvalidMetadata, "value"),
        (acme.state.set_many(ADA, [("k", 1)]), InvalidInput, "values"),  # type: ignore[arg-type]
        (acme.state.set(ADA, "k", 1, ttl_s=0), InvalidLimit, "ttl_s"),
        (acme.state.list_keys(ADA, limit=0), InvalidLimit, "limit"),
        (acme.state.items(ADA, limit=1_001), InvalidLimit, "limit"),
    ]
    for call, error, field in calls:
        with pytest.raises(error) as caught:
            await call
        assert caught.value.field == field
    assert await acme.state.list_keys(ADA) == ["long"]


async def test_bytes_that_are_no_state_are_reported(acme: Tenant) -> None:
    await acme.kv.set(encode_key(ADA, "k"), b'{"a":1}')

    with pytest.raises(CorruptStore):
        await acme.state.get(ADA, "k")


async def test_a_sealed_value_opens_for_its_tenant_scope_and_key_alone(spell: Spell, acme: Tenant) -> None:
    other = await fresh_tenant(spell)
    sealer = ToySealer(b"key")
    ours, theirs = (ScopedState(one.kv, one.id, sealer=sealer) for one in (acme, other))
    await ours.set(ADA, "k", "the secret")
    await ours.update(ADA, "n", lambda n: (n or 0) + 1)
    stored = await acme.kv.get(encode_key(ADA, "k"))
    assert stored is not None
    assert b"secret" not in stored
    await acme.kv.set(encode_key(ADA, "other"), stored)
    await acme.kv.set(encode_key(StateScope.User("bob"), "k"), stored)
    await other.kv.set(encode_key(ADA, "k"), stored)

    assert await ours.get(ADA, "k") == "the secret"
    assert await ours.get_many(ADA, ["k", "n"]) == {"k": "the secret", "n": 1}
    for state, scope, key in ((ours, ADA, "other"), (ours, StateScope.User("bob"), "k"), (theirs, ADA, "k")):
        with pytest.raises(PermissionError):
            await state.get(scope, key)


async def test_a_sealed_value_is_not_served_without_a_key(acme: Tenant) -> None:
    await ScopedState(acme.kv, acme.id, sealer=ToySealer(b"key")).set(ADA, "k", 1)

    with pytest.raises(ConfigError) as caught:
        await acme.state.get(ADA, "k")
    assert "security.master_keys" in caught.value.hint


async def test_values_from_before_sealing_stay_readable_and_are_sealed_when_they_are_set(acme: Tenant) -> None:
    await acme.state.set(ADA, "k", "plain")
    sealed = ScopedState(acme.kv, acme.id, sealer=ToySealer(b"key"))

    assert await sealed.get(ADA, "k") == "plain"
    await sealed.set(ADA, "k", "plain")
    stored = await acme.kv.get(encode_key(ADA, "k"))
    assert stored is not None
    assert b"plain" not in stored


def encrypted(master_key: Secret, *, encrypt: bool = True) -> Settings:
    return Settings(security=SecuritySettings(master_keys=master_key), state=StateSettings(encrypt=encrypt))


async def test_state_is_sealed_at_rest_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    """STA-06: the file does not hold what the value says, and who has the master key reads it, sealing or not."""
    url, master_key = f"sqlite:///{tmp_path / 'store.db'}", new_master_key()
    async with llmspell.connect(url, settings=encrypted(master_key), embedder="hashing") as sealing:
        await sealing.tenant("acme").state.set(ADA, "k", "the secret of Ada")
        async with sealing.tenant("acme").transaction() as tx:
            await tx.state.set(ADA, "in a transaction", "the secret of Ada")

    async with llmspell.connect(url, settings=encrypted(master_key, encrypt=False), embedder="hashing") as reading:
        state = reading.tenant("acme").state
        assert await state.items(ADA) == {"in a transaction": "the secret of Ada", "k": "the secret of Ada"}
        await state.set(ADA, "plain", "no longer sealed")
    async with llmspell.connect(url, settings=Settings(), embedder="hashing") as keyless:
        assert await keyless.tenant("acme").state.get(ADA, "plain") == "no longer sealed"
        with pytest.raises(ConfigError):
            await keyless.tenant("acme").state.get(ADA, "k")
    async with llmspell.connect(url, settings=encrypted(new_master_key()), embedder="hashing") as strange:
        with pytest.raises(SealBroken):
            await strange.tenant("acme").state.get(ADA, "k")
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"no longer sealed" in kept
    assert b"the secret of Ada" not in kept


async def test_a_store_that_is_to_seal_and_has_no_key_is_not_opened() -> None:
    with pytest.raises(MasterKeyMissing):
        await llmspell.connect("memory://", settings=Settings(state=StateSettings(encrypt=True)), embedder="hashing")
