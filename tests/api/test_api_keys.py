"""Provider keys through the handles: sealed in the store, shown nowhere, moved by nobody (SCR-01…06, G2)."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.stores import DATABASES, STORES, fresh_tenant, opened

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import InvalidInput, InvalidLimit, InvalidTime, MasterKeyMissing, NotFound, SealBroken
from llmspell.observe import counting_queries
from llmspell.security.keyring import new_master_key, read_keyring
from llmspell.security.secrets import MountedSecrets
from llmspell.settings import Secret, SecuritySettings, Settings
from llmspell.spell import Spell, Tenant

KEY = "sk-" + "a1B2" * 12
Open = Callable[..., AbstractAsyncContextManager[Spell]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def master() -> Secret:
    return new_master_key()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Open:
    """Opens a store of the test's own; a second time the same one, unless it lives in memory."""
    return partial(opened, request.param, request, tmp_path, clock=clock)


@pytest.fixture
async def acme(store: Open, master: Secret) -> AsyncIterator[Tenant]:
    async with store(security=SecuritySettings(master_keys=master)) as spell:
        yield await fresh_tenant(spell)


async def test_a_key_comes_back_as_it_was_and_nothing_shows_it(acme: Tenant) -> None:
    info = await acme.api_keys.set("openai", KEY, metadata={"team": "a"})
    revealed = await acme.api_keys.reveal("openai")

    assert revealed is not None
    assert revealed.reveal() == KEY
    shown = f"{info!r} {revealed!r} {revealed} {await acme.api_keys.list()} {await acme.api_keys.stats()}"
    assert KEY not in shown
    assert "••••" in shown
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(revealed)


@pytest.mark.parametrize("key", [KEY, Secret(KEY), "ключ-🔑", "x" * 16_384])
async def test_every_key_within_the_limits_comes_back(acme: Tenant, key: str | Secret) -> None:
    await acme.api_keys.set("openai", key)

    revealed = await acme.api_keys.reveal("openai")

    assert revealed == (key if isinstance(key, Secret) else Secret(key))


@pytest.mark.parametrize("key", ["", "a\n", "a\0", "\ud800", "x" * 16_385, "é" * 8_193, b"bytes", 7, None])
async def test_a_bad_key_is_refused_and_not_shown(acme: Tenant, key: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        await acme.api_keys.set("openai", key)

    assert caught.value.field == "key"
    assert "xxx" not in str(caught.value)
    assert (await acme.api_keys.list()).items == []


async def test_an_end_is_said_in_one_way(acme: Tenant, clock: ManualClock) -> None:
    info = await acme.api_keys.set("a", KEY, ttl_s=60)
    assert info.expires_at == clock.now() + timedelta(seconds=60)
    assert (await acme.api_keys.set("b", KEY, expires_at="2030-01-01")).expires_at is not None

    with pytest.raises(InvalidInput, match="together"):
        await acme.api_keys.set("c", KEY, ttl_s=1, expires_at="2030-01-01")
    with pytest.raises(InvalidTime):
        await acme.api_keys.set("c", KEY, expires_at="2030-01-01T00:00:00")
    with pytest.raises(InvalidLimit):
        await acme.api_keys.set("c", KEY, ttl_s=0)
    clock.advance(seconds=60)
    assert await acme.api_keys.reveal("a") is None
    assert await acme.api_keys.expire() == 1


async def test_an_end_that_has_passed_retires_no_key(acme: Tenant, clock: ManualClock) -> None:
    await acme.api_keys.set("a", KEY)

    for past in (clock.now(), "2020-01-01"):
        for call in (
            acme.api_keys.set("a", "sk-other", expires_at=past),
            acme.api_keys.rotate("a", "sk-other", expires_at=past),
        ):
            with pytest.raises(InvalidTime, match="`expires_at` must be in the future"):
                await call

    kept = await acme.api_keys.reveal("a")
    assert kept is not None
    assert kept.reveal() == KEY


async def test_what_is_no_reference_is_refused_and_not_shown(acme: Tenant, tmp_path: Path) -> None:
    for store in (acme.api_keys, MountedSecrets(tmp_path)):
        with pytest.raises(InvalidInput, match="must be a SecretRef") as caught:
            await store.get_secret(KEY)  # type: ignore[arg-type]
        assert KEY not in str(caught.value)


async def test_a_rotation_hands_out_the_new_key(acme: Tenant) -> None:
    await acme.api_keys.set("openai", KEY)
    for number in range(3):
        await acme.api_keys.rotate("openai", f"key-{number}")

    assert await acme.api_keys.reveal("openai") == Secret("key-2")
    await acme.api_keys.deactivate("openai")
    assert await acme.api_keys.reveal("openai") is None
    with pytest.raises(NotFound):
        await acme.api_keys.rotate("openai", KEY)
    assert await acme.api_keys.delete("openai") == 4


async def test_without_a_master_key_nothing_is_kept(store: Open) -> None:
    async with store() as spell:
        acme = await fresh_tenant(spell)

        with pytest.raises(MasterKeyMissing, match="llmspell keys new"):
            await acme.api_keys.set("openai", KEY)

        assert (await acme.api_keys.list()).items == []
        assert (await acme.audit.list(operation="api_keys.set")).items == []
        assert await acme.api_keys.reveal("openai") is None


async def test_a_transaction_that_is_rolled_back_keeps_no_key(acme: Tenant) -> None:
    async def fail() -> None:
        async with acme.transaction() as tx:
            await tx.api_keys.set("openai", KEY)
            assert await tx.api_keys.reveal("openai") == Secret(KEY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await acme.api_keys.reveal("openai") is None


async def test_uses_are_counted_and_written_at_most_once_a_minute(acme: Tenant, clock: ManualClock) -> None:
    await acme.api_keys.set("openai", KEY)
    first = clock.now()
    await acme.api_keys.reveal("openai")
    with counting_queries() as counts:
        for _ in range(5):
            clock.advance(seconds=10)
            await acme.api_keys.reveal("openai")
    assert not counts.queries["api_keys.note_use"]
    info = await acme.api_keys.get("openai")
    assert info is not None
    assert (info.usage_count, info.last_used_at) == (1, first)

    clock.advance(seconds=10)
    await acme.api_keys.reveal("openai")

    info = await acme.api_keys.get("openai")
    assert info is not None
    assert (info.usage_count, info.last_used_at) == (7, clock.now())


@pytest.mark.parametrize("backend", DATABASES)
async def test_a_row_that_is_copied_to_another_tenant_or_id_does_not_open(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, master: Secret
) -> None:
    async with opened(backend, request, tmp_path, security=SecuritySettings(master_keys=master)) as spell:
        acme, globex = await fresh_tenant(spell), await fresh_tenant(spell)
        await acme.api_keys.set("openai", KEY)
        for tenant, service in ((globex, "openai"), (acme, "other"), (acme, "third")):
            await tenant.api_keys.set(service, "victim")
        copy = (
            "UPDATE {schema}api_keys SET encrypted_key ="
            " (SELECT encrypted_key FROM {schema}api_keys WHERE tenant_id = '{acme}' AND service = 'openai')"
            " WHERE tenant_id = '{tenant}' AND service = '{service}'"
        )
        for tenant, service in ((globex.id, "openai"), (acme.id, "other")):
            tamper(backend, request, tmp_path, copy, acme=acme.id, tenant=tenant, service=service)
        move = (
            "UPDATE {schema}api_keys SET key_id = '019b0000-0000-7000-8000-000000000000'"
            " WHERE tenant_id = '{acme}' AND service = 'third'"
        )
        tamper(backend, request, tmp_path, move, acme=acme.id)

        for tenant, service in ((globex, "openai"), (acme, "other"), (acme, "third")):
            with pytest.raises(SealBroken):
                await tenant.api_keys.reveal(service)
        assert await acme.api_keys.reveal("openai") == Secret(KEY)


def tamper(backend: str, request: pytest.FixtureRequest, folder: Path, statement: str, **names: str) -> None:
    """Change rows as somebody does who has the database."""
    if backend == "sqlite":
        with sqlite3.connect(folder / "store.db") as file:
            changed = file.execute(statement.format(schema="", **names)).rowcount
        file.close()
    else:
        url = request.getfixturevalue("postgres_shared_database").superuser_url
        with psycopg.connect(url) as superuser:
            changed = superuser.execute(statement.format(schema="llmspell.", **names).encode()).rowcount
    assert changed == 1


async def test_after_a_new_master_key_everything_is_sealed_anew_in_steps(
    request: pytest.FixtureRequest, tmp_path: Path, master: Secret
) -> None:
    both = SecuritySettings(master_keys=Secret(f"{(new := new_master_key()).reveal()} {master.reveal()}"))
    async with opened("sqlite", request, tmp_path, security=SecuritySettings(master_keys=master)) as spell:
        for number in range(5):
            await spell.tenant().api_keys.set(f"s{number}", f"key-{number}")
    async with opened("sqlite", request, tmp_path, security=both) as spell:
        keys = spell.tenant().api_keys
        await keys.set("fresh", "key-fresh")

        tried = await keys.reseal_all(dry_run=True)
        assert (tried.examined, tried.resealed, tried.broken, tried.next_after) == (6, 5, [], None)
        first = await keys.reseal_all(limit=2)
        assert (first.examined, first.resealed) == (2, 2)
        again = await keys.reseal_all()  # as after a crash that forgot where it was
        assert (again.examined, again.resealed) == (6, 3)
        assert (await keys.reseal_all(after=first.next_after)).resealed == 0
    async with opened("sqlite", request, tmp_path, security=SecuritySettings(master_keys=new)) as spell:
        for number in range(5):
            assert await spell.tenant().api_keys.reveal(f"s{number}") == Secret(f"key-{number}")


async def test_keys_whose_master_key_is_lost_are_named_and_left(
    request: pytest.FixtureRequest, tmp_path: Path, master: Secret
) -> None:
    async with opened("sqlite", request, tmp_path, security=SecuritySettings(master_keys=master)) as spell:
        lost = await spell.tenant().api_keys.set("lost", KEY)
    async with opened("sqlite", request, tmp_path, security=SecuritySettings(master_keys=new_master_key())) as spell:
        keys = spell.tenant().api_keys

        report = await keys.reseal_all()

        assert (report.resealed, report.broken) == (0, [lost.key_id])
        with pytest.raises(SealBroken, match=str(read_keyring(master).active)):
            await keys.reveal("lost")


async def test_a_key_is_found_in_the_environment_then_in_files_then_in_the_store(
    store: Open, master: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACME_AI_API_KEY", raising=False)
    folder = tmp_path / "mounted"
    file = folder / "llmspell" / "acme-ai" / "api_key"
    async with store(security=SecuritySettings(master_keys=master, secrets_dir=str(folder))) as spell:
        keys = (await fresh_tenant(spell)).api_keys

        assert await keys.find("acme-ai") is None
        await keys.set("acme-ai", "of the store")
        assert await keys.find("acme-ai") == Secret("of the store")
        file.parent.mkdir(parents=True)
        file.write_text("of the file\n")
        assert await keys.find("acme-ai") == Secret("of the file")
        monkeypatch.setenv("ACME_AI_API_KEY", "of the environment")
        assert await keys.find("acme-ai") == Secret("of the environment")


def test_the_synchronous_twin_has_the_same(master: Secret, clock: ManualClock) -> None:
    settings = Settings(security=SecuritySettings(master_keys=master))
    with llmspell.connect_blocking("memory://", settings=settings, embedder="hashing", clock=clock) as spell:
        acme = spell.tenant("acme")
        acme.api_keys.set("openai", KEY)
        with acme.transaction() as tx:
            assert tx.api_keys.reveal("openai") == Secret(KEY)
        issued = acme.access_keys.issue(name="ci", scopes=["read"])

        principal = spell.authenticate(issued.key)

        assert principal is not None
        assert principal.tenant == "acme"
