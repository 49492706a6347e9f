"""A store on a server that demands signed tenants: what it needs to open, and how it signs over a long time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.fixtures.postgres import TENANT_KEY, PostgresDatabase, migrate
from tests.tenancy.two_tenants import KEY, Pair, fill

from llmspell.clock import ManualClock, SystemClock
from llmspell.errors import SignatureRefused, StorageError, TenantKeyMissing
from llmspell.settings import Secret
from llmspell.storage.postgres import signing
from llmspell.storage.postgres.address import read_url
from llmspell.storage.postgres.backend import open_postgres
from llmspell.storage.postgres.database import Connector, Database
from llmspell.storage.postgres.link import bind_signed_tenant
from llmspell.storage.postgres.pool import PoolSettings
from llmspell.storage.postgres.roles import require_suitable
from llmspell.storage.postgres.statements import bind_texts, fixed
from llmspell.storage.postgres.tenant_key import (
    SIGNATURE_LIFETIME_S,
    SIGNATURE_RENEWED_S,
    Signer,
    new_tenant_key,
    read_tenant_key,
)
from llmspell.storage.relational.catalog import parse
from llmspell.tenant import TenantId

if TYPE_CHECKING:
    from llmspell.storage.relational.database import Executor


@pytest.fixture
def pair(postgres_strict_shared: PostgresDatabase) -> Pair:
    return fill(postgres_strict_shared)


QUERIES = parse(
    "sample",
    """
-- name: signature -> value
-- The signature that is bound.
SELECT current_setting('app.tenant_signature', true) FROM (SELECT :tenant_id) AS asked;

-- name: break -> rows
-- It fails.
SELECT 1 / 0 FROM (SELECT :tenant_id) AS asked;

-- name: mine -> value
-- How many keys the tenant sees.
SELECT count(*) FROM llmspell.kv_store WHERE tenant_id = :tenant_id;

-- name: touch -> count
-- A write.
UPDATE llmspell.kv_store SET updated_at = now() WHERE tenant_id = :tenant_id;
""",
)


@contextmanager
def signing_store(database: PostgresDatabase, clock: ManualClock) -> Iterator[tuple[Database, Signer]]:
    signer = Signer(KEY, clock=clock)
    connect = Connector(read_url(database.app_url), statement_cache_size=10, require=require_suitable, signer=signer)
    store = Database(connect, PoolSettings(size=1, timeout_s=10), clock=SystemClock(), binder=signer)
    try:
        yield store, signer
    finally:
        store.pool.close()


async def test_a_store_without_the_key_does_not_open_and_the_error_names_the_setting(
    postgres_strict_shared: PostgresDatabase,
) -> None:
    with pytest.raises(TenantKeyMissing, match=r"LLMSPELL_TENANT_KEY.*storage\.postgres\.tenant_key"):
        await open_postgres(postgres_strict_shared.app_url)
    with pytest.raises(TenantKeyMissing):
        await open_postgres(postgres_strict_shared.app_url, enforce_tenant_isolation=False)


async def test_a_store_with_another_key_does_not_open_and_the_error_shows_neither(
    postgres_strict_shared: PostgresDatabase,
) -> None:
    other = new_tenant_key()
    with pytest.raises(SignatureRefused) as refused:
        await open_postgres(postgres_strict_shared.app_url, tenant_key=other)

    assert other.reveal() not in f"{refused.value} {refused.value.__cause__!r}"
    assert read_tenant_key(other).id in str(refused.value)


async def test_a_store_that_was_restored_without_its_keys_says_so_with_a_key_and_without(
    postgres_strict_database: PostgresDatabase,
) -> None:
    with psycopg.connect(postgres_strict_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("DROP SCHEMA llmspell_private CASCADE")  # what a backup without the keys gives

    assert signing.status(postgres_strict_database.admin_url).keys_lost
    for key in (TENANT_KEY, None):
        with pytest.raises(SignatureRefused, match=r"restored from a signed one.*signing enable --key-file"):
            await open_postgres(postgres_strict_database.app_url, tenant_key=key)
    signing.enable(postgres_strict_database.admin_url, read_tenant_key(TENANT_KEY))
    assert not signing.status(postgres_strict_database.admin_url).keys_lost
    backend = await open_postgres(postgres_strict_database.app_url, tenant_key=TENANT_KEY)
    await backend.close()


async def test_a_key_that_protects_nothing_is_said_so(
    postgres_empty_database: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    migrate(postgres_empty_database)
    backend = await open_postgres(postgres_empty_database.app_url, tenant_key=TENANT_KEY)
    await backend.close()

    assert "protects nothing" in caplog.text


async def test_the_clocks_of_this_machine_may_be_wrong_by_years(pair: Pair) -> None:
    with signing_store(pair.database, ManualClock()) as (store, _):
        assert await store.unit(TenantId(pair.a)).value(QUERIES["mine"]) == 1


async def test_nothing_is_left_on_the_connection(pair: Pair) -> None:
    with signing_store(pair.database, ManualClock()) as (store, _):
        await store.unit(TenantId(pair.a)).value(QUERIES["mine"])
        async with store.pool.link() as link:
            left = fixed(
                "left",
                "SELECT current_setting('app.tenant_signature', true), current_setting('app.current_tenant_id', true)",
            )
            (result,) = await link.exchange((bind_texts(left),), commits=False, name="left")
            assert link.rows(result) == [("", "")]


async def test_a_transaction_that_outlives_its_signature_is_signed_anew(pair: Pair) -> None:
    clock = ManualClock()
    with signing_store(pair.database, clock) as (store, _):

        async def work(unit: Executor) -> list[str]:
            first = await unit.value(QUERIES["signature"])
            again = await unit.value(QUERIES["signature"])
            clock.advance(seconds=SIGNATURE_RENEWED_S)
            return [first, again, await unit.value(QUERIES["signature"])]

        first, again, later = await store.unit(TenantId(pair.a)).read(work)

    assert first == again
    assert int(later.split(".")[1]) == int(first.split(".")[1]) + SIGNATURE_RENEWED_S


async def test_a_signature_that_was_renewed_in_a_savepoint_that_is_undone_is_bound_again(pair: Pair) -> None:
    clock = ManualClock()
    with signing_store(pair.database, clock) as (store, _):
        async with store.transaction(TenantId(pair.a), timeout_s=30) as unit:
            first = await unit.value(QUERIES["signature"])
            with suppress(StorageError):
                async with unit.savepoint():
                    clock.advance(seconds=SIGNATURE_RENEWED_S)
                    inside = await unit.value(QUERIES["signature"])
                    await unit.value(QUERIES["break"])
                    pytest.fail("it did not break")
            after = await unit.value(QUERIES["signature"])

    assert inside != first
    assert after == inside


async def test_a_savepoint_that_is_undone_before_anything_was_renewed_leaves_the_tenant_bound(pair: Pair) -> None:
    with signing_store(pair.database, ManualClock()) as (store, _):
        async with store.transaction(TenantId(pair.a), timeout_s=30) as unit:
            with suppress(ZeroDivisionError):
                async with unit.savepoint():
                    await unit.execute(QUERIES["touch"])
                    raise ZeroDivisionError
            assert await unit.value(QUERIES["mine"]) == 1


async def test_an_expired_signature_is_refused_in_the_middle_of_a_transaction(pair: Pair) -> None:
    clock = ManualClock()
    with signing_store(pair.database, clock) as (store, signer):
        now_s = SystemClock().now().timestamp()

        async def work(unit: Executor) -> None:
            assert await unit.value(QUERIES["mine"]) == 1
            signer.server_says(
                now_s - 2 * SIGNATURE_LIFETIME_S
            )  # the server's clock has jumped ahead of what we know of it
            await unit.value(QUERIES["mine"])

        with pytest.raises(SignatureRefused):
            await store.unit(TenantId(pair.a)).read(work)
        signer.server_says(now_s)
        assert await store.unit(TenantId(pair.a)).value(QUERIES["mine"]) == 1


def test_the_signature_travels_as_a_parameter() -> None:
    bound = bind_signed_tenant(b"acme", b"secret-signature")

    assert b"secret" not in bound.command.sql
    assert b"secret-signature" in bound.values


async def test_both_keys_are_accepted_while_a_rotation_lasts_and_one_when_it_is_finished(
    postgres_strict_database: PostgresDatabase,
) -> None:
    database, secret = postgres_strict_database, new_tenant_key()

    async def opens(key: Secret) -> bool:
        try:
            backend = await open_postgres(database.app_url, tenant_key=key)
        except SignatureRefused:
            return False
        await backend.close()
        return True

    assert [await opens(TENANT_KEY), await opens(secret)] == [True, False]
    signing.rotate(database.admin_url, read_tenant_key(secret))
    assert [await opens(TENANT_KEY), await opens(secret)] == [True, True]
    signing.finish(database.admin_url)
    assert [await opens(TENANT_KEY), await opens(secret)] == [False, True]


async def test_a_running_store_is_refused_once_its_key_is_not_accepted_any_more(
    postgres_strict_database: PostgresDatabase,
) -> None:
    pair = fill(postgres_strict_database)
    with signing_store(pair.database, ManualClock()) as (store, _):
        unit = store.unit(TenantId(pair.a))
        assert await unit.value(QUERIES["mine"]) == 1
        signing.rotate(pair.database.admin_url, read_tenant_key(new_tenant_key()))
        assert await unit.value(QUERIES["mine"]) == 1
        signing.finish(pair.database.admin_url)
        with pytest.raises(SignatureRefused):
            await unit.value(QUERIES["mine"])
