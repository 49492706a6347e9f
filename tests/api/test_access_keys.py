"""Access keys through the handles: shown once, told apart by nobody who may not, for what they are for (D1)."""

from __future__ import annotations

import asyncio
import hmac
import pickle
import random
import traceback
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, fresh_tenants, opened

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, InvalidInput, InvalidTime, NotFound, StorageError
from llmspell.observe import QueryCounts, counting_queries
from llmspell.security import access_keys
from llmspell.security.access_keys import IssuedKey, public_part, read_key
from llmspell.security.keyring import new_master_key, read_keyring
from llmspell.settings import Secret, SecuritySettings
from llmspell.spell import Spell, Tenant
from llmspell.tenant import TenantId, tenant_id

ROUNDS = 300
Open = Callable[..., AbstractAsyncContextManager[Spell]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Open:
    return partial(opened, request.param, request, tmp_path, clock=clock)


@pytest.fixture
async def spell(store: Open) -> AsyncIterator[Spell]:
    async with store() as opened_spell:
        yield opened_spell


def forged(key: str, *, tenant: str | None = None, key_id: UUID | None = None, secret: bytes | None = None) -> str:
    """The key with one part replaced and a checksum that is right."""
    read = read_key(key)
    assert read is not None
    raw = access_keys._from_base32(key.split("_")[3])[:32]
    return access_keys._key_text(tenant_id(tenant or read.tenant), key_id or read.key_id, secret or raw)


async def test_an_issued_key_is_a_principal_of_its_tenant(spell: Spell, clock: ManualClock) -> None:
    acme = await fresh_tenant(spell)

    issued = await acme.access_keys.issue(name="ci", scopes=["read", "graph:write"], principal="robot", ttl_s=60)
    principal = await spell.authenticate(issued.key)

    assert principal is not None
    assert (principal.tenant, principal.subject, principal.name) == (acme.id, "robot", "ci")
    assert (principal.key_id, principal.scopes) == (issued.info.key_id, ["graph:write", "read"])
    assert principal.allows("memories:read")
    assert not principal.allows("memories:write")
    assert principal == await spell.authenticate(issued.key.reveal())


async def test_a_key_in_place_of_its_id_is_refused_and_not_shown(spell: Spell) -> None:
    acme = await fresh_tenant(spell)
    key = (await acme.access_keys.issue(name="ci", scopes=["read"])).key.reveal()
    keys = acme.access_keys

    for given, said in ((key, "this is a whole key"), (key.rpartition("_")[2], "must be a UUID"), (None, "UUID")):
        for call in (keys.get(given), keys.revoke(given), keys.rotate(given)):  # type: ignore[arg-type]
            with pytest.raises(InvalidInput, match=said) as caught:
                await call
            shown = "".join(traceback.format_exception(caught.value))
            assert (caught.value.field, caught.value.__cause__, caught.value.__context__) == ("key_id", None, None)
            assert given is None or given not in shown


async def test_a_key_ends_in_the_future(spell: Spell, clock: ManualClock) -> None:
    acme = await fresh_tenant(spell)
    first = await acme.access_keys.issue(name="ci", scopes=["read"])

    for past in (clock.now(), "2020-01-01"):
        for call in (
            acme.access_keys.issue(name="late", scopes=["read"], expires_at=past),
            acme.access_keys.rotate(first.info.key_id, expires_at=past),
        ):
            with pytest.raises(InvalidTime, match="`expires_at` must be in the future"):
                await call
    assert await spell.authenticate(first.key) is not None
    assert len((await acme.access_keys.list()).items) == 1


async def test_a_key_is_shown_once_and_kept_nowhere(spell: Spell, tmp_path: Path) -> None:
    acme = await fresh_tenant(spell)
    issued = await acme.access_keys.issue(name="ci", scopes=["read"])
    secret = issued.key.reveal().rpartition("_")[2]
    principal = await spell.authenticate(issued.key)

    shown = f"{issued} {issued!r} {principal!r} {await acme.access_keys.list()} {(await acme.audit.list()).items}"
    assert secret not in shown
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(issued)
    for file in tmp_path.glob("store.db*"):
        assert secret.encode() not in file.read_bytes()


def test_a_key_has_256_random_bits_a_public_part_and_a_checksum() -> None:
    id = uuid4()
    key = access_keys._key_text(TenantId("acme"), id, bytes(range(32)))

    head, _, secret = key.rpartition("_")
    raw = access_keys._from_base32(secret)

    assert head == public_part(TenantId("acme"), id)
    assert raw == bytes(range(32)) + zlib.crc32(head.encode() + bytes(range(32))).to_bytes(4, "big")
    assert len({access_keys.secrets.token_bytes(access_keys.SECRET_BYTES) for _ in range(ROUNDS)}) == ROUNDS


@pytest.mark.parametrize("id", ["a", "acme", "Müller & Söhne", "租户", "x" * 128, "a_b-c.d", "🔑" * 32])
def test_every_tenant_can_be_part_of_a_key(id: str) -> None:
    key = access_keys._key_text(tenant_id(id), uuid4(), bytes(32))

    read = read_key(key)

    assert read is not None
    assert read.tenant == id
    assert len(key) <= access_keys.KEY_MAX_CHARACTERS
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz234567_")


def test_a_typing_error_is_seen_without_a_store() -> None:
    source = random.Random(1)
    key = access_keys._key_text(TenantId("acme"), uuid4(), source.randbytes(32))
    for _ in range(ROUNDS):
        position = source.randrange(len(key))
        other = source.choice([one for one in "abcdefgh234567_A=é" if one != key[position]])
        for damaged in (
            key[:position] + other + key[position + 1 :],
            key[:position] + key[position + 1 :],
            key[:position] + other + key[position:],
            key.upper(),
            f" {key}",
        ):
            assert read_key(damaged) is None, damaged
    for nothing in ("", "lsk___", "lsk_a_b_c", "\0", "\ud800", "x" * 10_000, None, 7, b"lsk"):
        assert read_key(nothing) is None


class Refusals:
    """Keys that are refused, each for a reason of its own."""

    def __init__(self, spell: Spell, clock: ManualClock) -> None:
        self.spell = spell
        self.clock = clock

    async def keys(self, acme: Tenant, globex: Tenant, closed: Tenant) -> dict[str, str]:
        suspended = await closed.access_keys.issue(name="suspended", scopes=["admin"])
        await self.spell.tenants.suspend(closed.id)
        issued = {
            name: await acme.access_keys.issue(name=name, scopes=["admin"], ttl_s=10 if name == "expired" else None)
            for name in ("expired", "revoked", "good")
        }
        good = issued["good"].key.reveal()
        await acme.access_keys.revoke(issued["revoked"].info.key_id)
        self.clock.advance(seconds=20)
        return {
            "another secret": forged(good, secret=bytes(32)),
            "an unknown id": forged(good, key_id=uuid4()),
            "a foreign tenant": forged(good, tenant=globex.id),
            "an unknown tenant": forged(good, tenant=f"nobody-{uuid4()}"),
            "expired": issued["expired"].key.reveal(),
            "revoked": issued["revoked"].key.reveal(),
            "of a suspended tenant": suspended.key.reveal(),
        }


async def test_every_refusal_is_the_same_answer_after_the_same_work(
    spell: Spell, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex, closed = await fresh_tenants(spell, 3)
    keys = await Refusals(spell, clock).keys(acme, globex, closed)
    warm = await globex.access_keys.issue(name="warm", scopes=["read"])
    await spell.authenticate(warm.key)
    await spell._authenticator.settle()
    hashed, compared = 0, 0

    def digest(*arguments: object) -> bytes:
        nonlocal hashed
        hashed += 1
        return original_digest(*arguments)  # type: ignore[arg-type]

    def compare(*arguments: object) -> bool:
        nonlocal compared
        compared += 1
        return original_compare(*arguments)  # type: ignore[arg-type]

    original_digest, original_compare = hmac.digest, hmac.compare_digest
    monkeypatch.setattr(hmac, "digest", digest)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    work = {}
    for reason, key in keys.items():
        hashed, compared = 0, 0
        with counting_queries() as counts:
            assert await spell.authenticate(key) is None, reason
        work[reason] = (seen(counts), hashed, compared)

    assert len(set(work.values())) == 1, work
    assert next(iter(work.values()))[1:] == (1, 1)


def seen(counts: QueryCounts) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.queries.items()))


async def test_a_refusal_waits_for_its_tick_however_long_its_work_took(
    spell: Spell, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (await (await fresh_tenant(spell)).access_keys.issue(name="ci", scopes=["read"])).key.reveal()
    read = read_key(key)
    assert read is not None
    unknown = access_keys._key_text(read.tenant, uuid4(), bytes(access_keys.SECRET_BYTES))
    works_s, rests = [0.000_3, 0.001_9, 0.002_5, 0.000_3], []

    def compare(*arguments: object) -> bool:
        clock.advance(seconds=works_s.pop(0))
        return original_compare(*arguments)  # type: ignore[arg-type]

    original_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    monkeypatch.setattr(access_keys, "time", SimpleNamespace(sleep=rests.append))
    for _ in range(3):
        assert await spell.authenticate(unknown) is None
    assert await spell.authenticate(key) is not None

    assert rests == pytest.approx([0.001_7, 0.000_1, 0.001_5])


async def test_what_cannot_be_a_key_costs_no_query(spell: Spell) -> None:
    acme = await fresh_tenant(spell)
    good = (await acme.access_keys.issue(name="ci", scopes=["read"])).key.reveal()
    await spell.authenticate(good)
    await spell._authenticator.settle()

    with counting_queries() as counts:
        for nothing in ("", "hunter2", good[:-1], good.swapcase(), "lsk_" * 200):
            assert await spell.authenticate(nothing) is None

    assert not counts.queries


async def test_a_use_is_noted_behind_the_request_once_a_minute(spell: Spell, clock: ManualClock) -> None:
    acme = await fresh_tenant(spell)
    issued = await acme.access_keys.issue(name="ci", scopes=["read"])

    for _ in range(3):
        await spell.authenticate(issued.key)
    await spell._authenticator.settle()
    first = await acme.access_keys.get(issued.info.key_id)
    clock.advance(seconds=59)
    with counting_queries() as counts:
        await spell.authenticate(issued.key)
        await spell._authenticator.settle()
    clock.advance(seconds=1)
    await spell.authenticate(issued.key)
    await spell._authenticator.settle()
    last = await acme.access_keys.get(issued.info.key_id)

    assert first is not None
    assert last is not None
    assert last.last_used_at == clock.now() != first.last_used_at
    assert not counts.queries["access_keys.note_use"]


async def test_a_note_that_fails_does_not_fail_the_request(
    spell: Spell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    acme = await fresh_tenant(spell)
    issued = await acme.access_keys.issue(name="ci", scopes=["read"])
    storage = spell._backend.storages(acme.id).access_keys

    async def fail(self: object, key_id: object) -> bool:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(type(storage), "note_use", fail)

    assert await spell.authenticate(issued.key) is not None
    await spell._authenticator.settle()
    assert "was not noted" in caplog.text


async def test_a_rotated_key_is_accepted_for_the_overlap(spell: Spell, clock: ManualClock) -> None:
    acme = await fresh_tenant(spell)
    old = await acme.access_keys.issue(name="ci", scopes=["write"], principal="robot")

    new = await acme.access_keys.rotate(old.info.key_id, overlap_s=30)

    assert (new.info.name, new.info.principal, new.info.scopes) == ("ci", "robot", ["write"])
    assert await spell.authenticate(old.key) is not None
    clock.advance(seconds=30)
    assert await spell.authenticate(old.key) is None
    assert await spell.authenticate(new.key) is not None
    with pytest.raises(NotFound):
        await acme.access_keys.rotate(old.info.key_id)
    with pytest.raises(NotFound):
        await acme.access_keys.rotate(uuid4())


async def test_a_key_has_one_successor(spell: Spell) -> None:
    acme = await fresh_tenant(spell)
    old = await acme.access_keys.issue(name="ci", scopes=["write"])

    results = await asyncio.gather(
        *(acme.access_keys.rotate(old.info.key_id, overlap_s=30) for _ in range(8)), return_exceptions=True
    )

    assert sum(isinstance(one, IssuedKey) for one in results) == 1
    assert sum(isinstance(one, AlreadyExists) for one in results) == 7


async def test_a_revocation_takes_effect_at_once(spell: Spell) -> None:
    acme = await fresh_tenant(spell)
    issued = await acme.access_keys.issue(name="ci", scopes=["read"])
    assert await spell.authenticate(issued.key) is not None

    await acme.access_keys.revoke(issued.info.key_id, reason="leaked", actor="ada")

    assert await spell.authenticate(issued.key) is None


async def test_a_suspended_tenants_key_is_accepted_again_when_it_is_resumed(spell: Spell) -> None:
    acme = await fresh_tenant(spell)
    issued = await acme.access_keys.issue(name="ci", scopes=["read"])

    answers = [await spell.authenticate(issued.key) is not None]
    await spell.tenants.suspend(acme.id)
    answers.append(await spell.authenticate(issued.key) is not None)
    await spell.tenants.resume(acme.id)
    answers.append(await spell.authenticate(issued.key) is not None)

    assert answers == [True, False, True]


async def test_a_key_that_was_rolled_back_is_no_key(spell: Spell) -> None:
    acme = await fresh_tenant(spell)
    made: list[IssuedKey] = []

    async def fail() -> None:
        async with acme.transaction() as tx:
            made.append(await tx.access_keys.issue(name="ci", scopes=["read"]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await spell.authenticate(made[0].key) is None


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_keys_outlive_a_master_key_once_they_were_used_under_the_next(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> None:
    """From the store's pepper to one master key, and on to the next."""
    first, second = new_master_key(), new_master_key()
    open_store = partial(opened, backend, request, tmp_path, clock=clock)
    async with open_store() as spell:
        acme = await fresh_tenant(spell)
        used, unused = [await acme.access_keys.issue(name="ci", scopes=["read"]) for _ in range(2)]
        assert used.info.pepper == "store"
    for text in (first, Secret(f"{second.reveal()},{first.reveal()}"), second):
        async with open_store(security=SecuritySettings(master_keys=text)) as spell:
            assert await spell.authenticate(used.key) is not None
            await spell._authenticator.settle()
            key = await spell.tenant(acme.id).access_keys.get(used.info.key_id)
            assert key is not None
            assert key.pepper == read_keyring(text).active
            assert await spell.authenticate(used.key) is not None
    async with open_store() as spell:  # no master key at all: what was keyed with one is refused
        assert await spell.authenticate(used.key) is None
        assert await spell.authenticate(unused.key) is not None


async def test_arguments_are_checked_before_anything_is_kept(spell: Spell) -> None:
    acme = await fresh_tenant(spell)

    for arguments in (
        {"name": "", "scopes": ["read"]},
        {"name": "ci", "scopes": "read"},
        {"name": "ci", "scopes": []},
        {"name": "ci", "scopes": ["everything"]},
        {"name": "ci", "scopes": ["read"], "ttl_s": -1},
        {"name": "ci", "scopes": ["read"], "principal": "\0"},
    ):
        with pytest.raises(InvalidInput):
            await acme.access_keys.issue(**arguments)  # type: ignore[arg-type]

    assert (await acme.access_keys.list()).items == []
