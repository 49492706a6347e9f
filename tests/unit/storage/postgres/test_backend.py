"""Opening a store, and what is refused at the door."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from llmspell.errors import (
    InvalidSetting,
    InvalidUrl,
    MigrationFailed,
    MigrationModified,
    MissingExtension,
    MissingExtra,
    SchemaOutdated,
    SchemaTooNew,
    StorageError,
    Unavailable,
    UnsafeRole,
)
from llmspell.storage.postgres import migrate as migrator
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres, queries
from llmspell.storage.postgres.roles import Facts, require_suitable
from llmspell.tenant import NO_TENANT, TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

ACME = TenantId("acme")


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresBackend]:
    backend = await open_postgres(url, **options)
    try:
        yield backend
    finally:
        await backend.close()


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


async def test_a_current_store_opens_and_answers(postgres_shared_database: PostgresDatabase) -> None:
    async with opened(postgres_shared_database.app_url) as backend:
        await backend.check()
        assert (await backend.migration_status()).pending == ()
        assert len(await backend.cursor_key()) == 32
        assert (backend.pool_status().size, backend.pool_status().available) == (1, 1)


async def test_a_superuser_is_refused(postgres_shared_database: PostgresDatabase) -> None:
    with pytest.raises(UnsafeRole, match="is a superuser"):
        await open_postgres(postgres_shared_database.superuser_url)


async def test_the_owner_is_refused(postgres_shared_database: PostgresDatabase) -> None:
    with pytest.raises(UnsafeRole, match="owns the tables"):
        await open_postgres(postgres_shared_database.admin_url)


async def test_the_owner_is_admitted_when_that_is_asked_for_in_so_many_words(
    postgres_shared_database: PostgresDatabase,
) -> None:
    async with opened(postgres_shared_database.admin_url, enforce_tenant_isolation=False) as backend:
        await backend.check()


async def test_the_operator_is_refused(postgres_shared_database: PostgresDatabase) -> None:
    with pytest.raises(UnsafeRole, match=r"rows of all tenants.*Serve as `llmspell_app`"):
        await open_postgres(postgres_shared_database.operator_url)


@pytest.mark.parametrize(
    ("role", "why"), [("app", "bound to single tenants"), ("admin", "owns the tables"), ("superuser", "is a superuser")]
)
async def test_only_the_operator_works_on_all_tenants(
    postgres_shared_database: PostgresDatabase, role: str, why: str
) -> None:
    database = postgres_shared_database
    async with opened(database.app_url, operator_url=getattr(database, f"{role}_url")) as backend:
        with pytest.raises(UnsafeRole, match=why):
            await backend.operator_unit(NO_TENANT).value(queries().store.meta, name="cursor_key")


async def test_a_store_without_the_operators_url_says_how_to_get_it(postgres_shared_database: PostgresDatabase) -> None:
    async with opened(postgres_shared_database.app_url) as backend:
        with pytest.raises(InvalidSetting, match="DATABASE_OPERATOR_URL"):
            backend.operator_unit(NO_TENANT)


@pytest.mark.parametrize(
    ("granted", "why"), [("llmspell", "owns the tables"), ("llmspell_operator", "rows of all tenants")]
)
async def test_a_role_that_could_become_an_unsafe_one_is_refused(
    postgres_shared_database: PostgresDatabase, granted: str, why: str
) -> None:
    database = postgres_shared_database
    password = urlsplit(database.app_url).password
    role = f"llmspell_member_{uuid4().hex}"
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN NOINHERIT" + (f" PASSWORD '{password}'" if password else ""))
        try:
            superuser.execute(f"GRANT {granted} TO {role}")
            with pytest.raises(UnsafeRole, match=why):
                await open_postgres(database.app_url.replace("llmspell_app", role, 1))
        finally:
            superuser.execute(f"DROP ROLE {role}")


async def test_a_connection_that_starts_with_a_tenant_is_refused(postgres_shared_database: PostgresDatabase) -> None:
    url = postgres_shared_database.app_url
    preset = f"{url}{'&' if '?' in url else '?'}options=-c%20app.current_tenant_id%3Dacme"
    with pytest.raises(UnsafeRole, match=r"starts with a tenant.*RESET app.current_tenant_id.*ALTER SYSTEM RESET"):
        await open_postgres(preset)
    async with opened(preset, enforce_tenant_isolation=False) as backend:
        await backend.check()


def test_a_role_that_bypasses_row_level_security_is_refused() -> None:
    facts = Facts("r", False, True, 180_000, "0.8.1", 1, False)
    with pytest.raises(UnsafeRole, match="has BYPASSRLS"):
        require_suitable(facts)


def test_an_old_server_is_refused() -> None:
    with pytest.raises(StorageError, match="too old"):
        require_suitable(Facts("r", False, False, 140_009, "0.8.1", 1, False))


@pytest.mark.parametrize(("version", "oid"), [(None, None), ("0.7.4", 1)])
def test_a_missing_or_old_extension_is_named_with_the_command_that_mends_it(
    version: str | None, oid: int | None
) -> None:
    with pytest.raises(MissingExtension, match=r"As an administrator, run in this database: .* EXTENSION vector"):
        require_suitable(Facts("r", False, False, 180_000, version, oid, False))


async def test_an_unmigrated_store_is_refused(postgres_empty_database: PostgresDatabase) -> None:
    with pytest.raises(SchemaOutdated, match="llmspell database migrate"):
        await open_postgres(postgres_empty_database.app_url)


async def test_an_unmigrated_store_is_migrated_when_asked(postgres_empty_database: PostgresDatabase) -> None:
    database = postgres_empty_database
    async with opened(database.app_url, admin_url=database.admin_url, auto_migrate=True) as backend:
        assert (await backend.migrate()).pending == ()
        await backend.storages(ACME).kv.set("k", b"v")
        assert await backend.storages(ACME).kv.get("k") == b"v"


async def test_migrating_without_the_owner_is_refused_while_something_is_pending(
    postgres_database: PostgresDatabase,
) -> None:
    async with opened(postgres_database.app_url) as backend:
        last = migrator.load(migrator.PACKAGE)[-1].version
        run(postgres_database.superuser_url, f"DELETE FROM llmspell.schema_migrations WHERE version = {last}")
        with pytest.raises(SchemaOutdated):
            await backend.migrate()


async def test_a_store_of_a_newer_release_is_left_alone(postgres_database: PostgresDatabase) -> None:
    statement = (
        f"INSERT INTO llmspell.schema_migrations (version, name, sha256) VALUES (999, 'V999__later', '{'0' * 64}')"
    )
    run(postgres_database.superuser_url, statement)
    with pytest.raises(SchemaTooNew, match="V999__later"):
        await open_postgres(postgres_database.app_url)


async def test_an_edited_migration_is_noticed(postgres_database: PostgresDatabase) -> None:
    run(
        postgres_database.superuser_url,
        f"UPDATE llmspell.schema_migrations SET sha256 = '{'0' * 64}' WHERE version = 3",
    )
    with pytest.raises(MigrationModified, match="V003"):
        await open_postgres(postgres_database.app_url)


async def test_an_unreachable_server_is_reported_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        started = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await open_postgres(f"postgresql://app:hunter2@127.0.0.1:{taken.getsockname()[1]}/db")
        assert time.monotonic() - started < 5
        assert "hunter2" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Unavailable):
            await open_postgres(
                f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=2&sslmode=disable"
            )


async def test_a_missing_database_is_not_called_unreachable(postgres_shared_database: PostgresDatabase) -> None:
    url = postgres_shared_database.app_url.replace(postgres_shared_database.name, "no_such_database")
    with pytest.raises(StorageError, match="does not exist") as caught:
        await open_postgres(url)
    assert not isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("url", ["mysql://x", "postgresql://u:sec%zzret@h/db", "postgresql://u:secret@h/db?nonsense=1"])
async def test_an_unreadable_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        await open_postgres(url)
    assert "sec" not in str(caught.value)


async def test_a_pool_needs_room(postgres_shared_database: PostgresDatabase) -> None:
    with pytest.raises(InvalidSetting):
        await open_postgres(postgres_shared_database.app_url, pool_size=0)


async def test_behind_a_transaction_pooler_nothing_is_prepared(postgres_shared_database: PostgresDatabase) -> None:
    async with opened(postgres_shared_database.app_url, pooler="transaction", pool_size=1) as backend:
        for _ in range(5):
            await backend.storages(ACME).kv.get("k")
        async with backend._database.pool.link() as link:
            cursor = await link._connection.execute("SELECT count(*) FROM pg_prepared_statements")
            assert await cursor.fetchone() == (0,)


async def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"llmspell\[postgres\]"):
        await open_postgres("postgresql://h/db")


def test_migrating_twice_changes_nothing(postgres_empty_database: PostgresDatabase) -> None:
    heard: list[str] = []
    first = migrator.migrate(postgres_empty_database.admin_url, announce=heard.append)
    second = migrator.migrate(postgres_empty_database.admin_url, announce=heard.append)
    assert first == second
    assert heard == list(first.applied)
    assert migrator.status(postgres_empty_database.app_url) == first


def test_a_serving_role_cannot_migrate_and_is_told_which_can(postgres_empty_database: PostgresDatabase) -> None:
    with pytest.raises(MigrationFailed, match=r"llmspell_app.*lacks the rights.*DATABASE_ADMIN_URL"):
        migrator.migrate(postgres_empty_database.app_url)


def test_a_superuser_cannot_migrate_and_is_told_who_can(postgres_empty_database: PostgresDatabase) -> None:
    with pytest.raises(UnsafeRole, match=r"is a superuser.*Migrate as `llmspell`"):
        migrator.migrate(postgres_empty_database.superuser_url)
    assert migrator.status(postgres_empty_database.admin_url).version == 0


def test_a_migration_that_could_not_take_temporary_tables_away_is_refused(
    postgres_empty_database: PostgresDatabase,
) -> None:
    database = postgres_empty_database
    run(database.superuser_url, f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")
    run(database.superuser_url, f"GRANT CREATE ON DATABASE {database.name} TO llmspell")
    with pytest.raises(UnsafeRole, match=r"temporary tables.*REVOKE TEMPORARY ON DATABASE"):
        migrator.migrate(database.admin_url)


def test_a_migration_gives_way_to_a_reader_and_tries_again(
    postgres_empty_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = migrator.load(migrator.PACKAGE)[:2]
    table = migrator.Migration(2, "V002__table", "CREATE TABLE llmspell.busy (a int)", "0" * 64)
    column = migrator.Migration(3, "V003__column", "ALTER TABLE llmspell.busy ADD COLUMN b int", "0" * 64)
    monkeypatch.setattr(migrator, "load", lambda _: (first, table))
    monkeypatch.setattr(migrator, "LOCK_TIMEOUT_S", 0.01)
    migrator.migrate(postgres_empty_database.admin_url)
    monkeypatch.setattr(migrator, "load", lambda _: (first, table, column))
    heard: list[str] = []
    with psycopg.connect(postgres_empty_database.admin_url) as reader:
        reader.execute("SELECT * FROM llmspell.busy")
        monkeypatch.setattr(migrator.time, "sleep", lambda _: reader.rollback())
        assert migrator.migrate(postgres_empty_database.admin_url, announce=heard.append).version == 3
    assert heard == ["V003__column"]


def test_a_table_that_stays_locked_ends_the_migration_with_a_hint(
    postgres_empty_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = migrator.load(migrator.PACKAGE)[:2]
    change = migrator.Migration(2, "V002__change", "ALTER TABLE llmspell.schema_migrations ADD b int", "0" * 64)
    pauses: list[float] = []
    monkeypatch.setattr(migrator, "load", lambda _: (first,))
    migrator.migrate(postgres_empty_database.admin_url)
    monkeypatch.setattr(migrator, "load", lambda _: (first, change))
    monkeypatch.setattr(migrator, "LOCK_TIMEOUT_S", 0.01)
    monkeypatch.setattr(migrator.time, "sleep", pauses.append)
    with psycopg.connect(postgres_empty_database.admin_url) as reader:
        reader.execute("SELECT * FROM llmspell.schema_migrations")
        with pytest.raises(MigrationFailed, match=r"for too long.*V002__change.*pg_stat_activity"):
            migrator.migrate(postgres_empty_database.admin_url)
    assert len(pauses) == migrator.LOCK_ATTEMPTS - 1


def test_a_failing_migration_is_named_and_leaves_nothing(
    postgres_empty_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = migrator.load(migrator.PACKAGE)[:1]
    bad = migrator.Migration(2, "V002__bad", "CREATE TABLE llmspell.half (); SELECT 1 / 0", "0" * 64)
    monkeypatch.setattr(migrator, "load", lambda _: (*good, bad))
    with pytest.raises(MigrationFailed, match="V002__bad did not run: division by zero"):
        migrator.migrate(postgres_empty_database.admin_url)
    with psycopg.connect(postgres_empty_database.admin_url) as connection:
        assert connection.execute("SELECT to_regclass('llmspell.half')").fetchone() == (None,)
    assert migrator.status(postgres_empty_database.admin_url).version == 1


def test_a_database_without_the_extension_is_told_so(postgres_empty_database: PostgresDatabase) -> None:
    run(postgres_empty_database.superuser_url, "DROP EXTENSION vector")
    with pytest.raises(MissingExtension, match="CREATE EXTENSION vector"):
        migrator.migrate(postgres_empty_database.admin_url)
