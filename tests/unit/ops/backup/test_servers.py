"""Backups of a store in a server: every row of every tenant, and a restore that has happened whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from tests.fixtures.backups import MASTER_KEY, fill, settings_of, texts
from tests.fixtures.postgres import PostgresDatabase
from tests.migrations.samples import insert_sample, tenant_tables

import llmspell
from llmspell.errors import (
    AccessRefused,
    Conflict,
    InvalidSetting,
    SealBroken,
    SignatureRefused,
    StorageError,
    UnsafeRole,
    Unsupported,
)
from llmspell.ops.backup import Backups
from llmspell.ops.backup.places import CONTENT
from llmspell.ops.backup.records import Record
from llmspell.ops.isolation import examine
from llmspell.settings import BackupSettings, PostgresSettings, Settings
from llmspell.spell import Tenant
from llmspell.storage.postgres import restoring, schema_verify
from llmspell.storage.postgres.signing import LOCK_ATTEMPTS
from llmspell.tenant import tenant_id

TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind = 'r' ORDER BY 1
"""
STRUCTURE = """
    SELECT 'policy', schemaname || '.' || tablename || '.' || policyname, roles::text || qual FROM pg_policies
    WHERE schemaname LIKE 'llmspell%'
    UNION ALL SELECT 'table', c.oid::regclass::text,
      concat(c.relrowsecurity, c.relforcerowsecurity, c.relacl::text, pg_get_userbyid(c.relowner),
        pg_get_expr(c.relpartbound, c.oid))
    FROM pg_class c WHERE c.relnamespace::regnamespace::text IN ('llmspell', 'llmspell_archive')
    UNION ALL SELECT 'function', p.oid::regprocedure::text, concat(p.proacl::text, p.prosecdef, md5(p.prosrc))
    FROM pg_proc p WHERE p.pronamespace = 'llmspell'::regnamespace
    UNION ALL SELECT 'trigger', t.tgrelid::regclass::text || t.tgname, t.tgenabled::text FROM pg_trigger t
    WHERE NOT t.tgisinternal AND t.tgrelid::regclass::text LIKE 'llmspell%'
    UNION ALL SELECT 'default', '', string_agg(a.defaclacl::text, ',' ORDER BY a.defaclobjtype) FROM pg_default_acl a
    ORDER BY 1, 2
"""


def settings_for(database: PostgresDatabase, folder: Path, **changed: Any) -> Settings:
    server = PostgresSettings(
        url=database.app_url,
        admin_url=database.admin_url,
        operator_url=changed.pop("operator_url", database.operator_url),
        tenant_key=database.tenant_key,
    )
    chosen = BackupSettings(folder=str(folder), verify_url=changed.pop("verify_url", database.superuser_url), **changed)
    return settings_of(database.app_url, folder, server=server, backup=chosen)


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def counts_of(database: PostgresDatabase) -> dict[str, int]:
    """The rows of every table, asked as one who sees them all."""
    tables = [name for (name,) in ask(database.superuser_url, TABLES)]
    query = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM ONLY {name}" for name in tables)
    return dict(ask(database.superuser_url, query))  # type: ignore[arg-type]


def make_samples(database: PostgresDatabase) -> None:
    """A row in every table, for two tenants, and a month of events that was archived."""
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute("SET session_replication_role = replica")
        for table in tenant_tables(superuser):  # type: ignore[arg-type]
            for tenant in ("acme", "other"):
                insert_sample(superuser, table, tenant)  # type: ignore[arg-type]
    with psycopg.connect(database.operator_url, autocommit=True) as operator:
        operator.execute("SELECT llmspell.create_event_log_partition('2019-03-01', '2019-04-01')")
        operator.execute(
            "INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)"
            " VALUES ('acme', gen_random_uuid(), 'test.event', gen_random_uuid(), '2019-03-05', 77, '{}')"
        )
        operator.execute("SELECT llmspell.archive_event_log_partitions('2019-04-01')")


@contextmanager
def unchanged(database: PostgresDatabase) -> Iterator[None]:
    before = counts_of(database), ask(database.superuser_url, STRUCTURE)
    yield
    assert (counts_of(database), ask(database.superuser_url, STRUCTURE)) == before


def test_a_row_of_every_table_comes_back_with_policies_partitions_and_rights(
    postgres_database: PostgresDatabase, postgres_empty_database: PostgresDatabase, tmp_path: Path
) -> None:
    make_samples(postgres_database)
    backups = Backups(settings_for(postgres_database, tmp_path / "b"))

    record = backups.create()
    backups.restore(record.id, into=postgres_empty_database.name)

    counts = counts_of(postgres_database)
    assert counts_of(postgres_empty_database) == counts
    assert ask(postgres_empty_database.superuser_url, STRUCTURE) == ask(postgres_database.superuser_url, STRUCTURE)
    assert counts["llmspell_archive.event_log_2019_03"] == 1
    assert (
        min(counts[f"llmspell.{table}"] for table in ("memories", "vector_embeddings_3072", "audit_log", "jobs")) >= 2
    )
    assert sum(counts.values()) == record.rows
    assert (record.state, record.tenants, record.kind) == ("verified", 2, "postgresql")
    assert ask(postgres_database.superuser_url, "SELECT 1 FROM pg_database WHERE datname LIKE 'llmspell_verify%'") == []


async def test_what_was_restored_keeps_tenants_apart_and_serves(
    postgres_database: PostgresDatabase, postgres_empty_database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = settings_for(postgres_database, tmp_path / "b")
    await fill(postgres_database.app_url, "Ada moved to Zurich.", settings=settings)
    backups = Backups(settings)
    backups.restore(backups.create().id, into=postgres_empty_database.admin_url)

    there = settings_for(postgres_empty_database, tmp_path / "b")
    assert await texts(postgres_empty_database.app_url, settings=there) == ["Ada moved to Zurich."]
    report = await examine(postgres_empty_database.app_url, tenant=tenant_id("acme"), tenant_key=None)
    assert report.holes == ()
    assert list(schema_verify.differences(postgres_empty_database.admin_url)) == []
    await fill(postgres_empty_database.app_url, "Ben likes tea.", settings=there)


async def test_the_live_store_is_replaced_in_one_transaction_after_it_was_backed_up(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = settings_for(postgres_database, tmp_path / "b")
    url = postgres_database.app_url
    await fill(url, "Ada moved to Zurich.", settings=settings)
    backups = Backups(settings)
    first = backups.create()
    structure = ask(postgres_database.superuser_url, STRUCTURE)
    await fill(url, "Ben likes tea.", settings=settings)

    done = backups.restore(first.id)

    assert await texts(url, settings=settings) == ["Ada moved to Zurich."]
    assert ask(postgres_database.superuser_url, STRUCTURE) == structure
    assert done.safety is not None
    backups.restore(done.safety.id)
    assert await texts(url, settings=settings) == ["Ada moved to Zurich.", "Ben likes tea."]


@pytest.mark.parametrize("role", ["admin_url", "app_url"])
def test_a_role_that_does_not_see_every_row_takes_no_empty_backup(
    postgres_database: PostgresDatabase, tmp_path: Path, role: str
) -> None:
    """`pg_dump --enable-row-security` as the owner, who is forced under the policies, succeeds and dumps nothing."""
    backups = Backups(settings_for(postgres_database, tmp_path / "b", operator_url=getattr(postgres_database, role)))

    with pytest.raises(UnsafeRole, match="does not see every row"):
        backups.create()

    assert backups.list() == []


def test_a_superuser_may_take_one_and_it_is_verified_in_an_embedded_server(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    make_samples(postgres_database)
    with psycopg.connect(postgres_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("DROP ROLE IF EXISTS reporting")
        superuser.execute("CREATE ROLE reporting NOLOGIN")
        superuser.execute("GRANT SELECT ON llmspell.kv_store TO reporting")
    url = postgres_database.superuser_url
    try:
        record = Backups(settings_for(postgres_database, tmp_path / "b", verify_url=None, operator_url=url)).create()
    finally:
        ask(postgres_database.superuser_url, "DROP OWNED BY reporting; DROP ROLE reporting")

    assert (record.state, record.tenants) == ("verified", 2)


def test_a_harmed_backup_changes_nothing(postgres_database: PostgresDatabase, tmp_path: Path) -> None:
    """It is found out while the transaction runs, which then does not commit."""
    make_samples(postgres_database)
    ask(
        postgres_database.operator_url,
        "INSERT INTO llmspell.kv_store (tenant_id, key, value) SELECT 'acme', 'k' || n, sha256(n::text::bytea)"
        " FROM generate_series(1, 60000) AS n",
    )
    settings = settings_for(postgres_database, tmp_path / "b")
    backups = Backups(settings)
    record = backups.create(level=0, verify=False)
    backups._write(msgspec.structs.replace(record, verified_at=record.created_at))  # so that it is not verified first
    file = tmp_path / "b" / (record.id + CONTENT)
    whole = file.read_bytes()
    assert len(whole) > 2_500_000
    for harmed in (whole[:-40], whole[:-500_000] + b"\0" + whole[-499_999:]):
        file.write_bytes(harmed)
        with unchanged(postgres_database), pytest.raises(SealBroken):
            backups.restore(record.id, backup_current=False)


def test_a_database_with_a_store_is_not_restored_into(postgres_database: PostgresDatabase, tmp_path: Path) -> None:
    backups = Backups(settings_for(postgres_database, tmp_path / "b"))
    record = backups.create(verify=False)

    with unchanged(postgres_database):
        for into in (postgres_database.name, postgres_database.admin_url):
            with pytest.raises(Conflict, match="a store in this database"):
                backups.plan_restore(record.id, into=into)


def test_what_others_have_built_upon_the_store_is_not_dropped(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    backups = Backups(settings_for(postgres_database, tmp_path / "b"))
    record = backups.create(verify=False)
    ask(postgres_database.superuser_url, "CREATE SCHEMA mine; CREATE VIEW mine.tenants AS TABLE llmspell.tenants")

    with unchanged(postgres_database), pytest.raises(Conflict, match="depend on it") as raised:
        backups.restore(record.id)

    assert raised.value.fields["objects"] == "mine.tenants"


async def test_a_strict_store_is_restored_with_the_keys_that_it_has(
    postgres_strict_database: PostgresDatabase, postgres_empty_database: PostgresDatabase, tmp_path: Path
) -> None:
    """A backup has none: where they stay they hold, and elsewhere no tenant is believed until they are given again."""
    url, settings = postgres_strict_database.app_url, settings_for(postgres_strict_database, tmp_path / "b")
    await fill(url, "Ada moved to Zurich.", settings=settings)
    backups = Backups(settings)
    record = backups.create()
    await fill(url, "Ben likes tea.", settings=settings)
    structure = ask(postgres_strict_database.superuser_url, STRUCTURE)

    backups.restore(record.id, backup_current=False)
    backups.restore(record.id, into=postgres_empty_database.name)

    assert await texts(url, settings=settings) == ["Ada moved to Zurich."]
    assert ask(postgres_strict_database.superuser_url, STRUCTURE) == structure
    elsewhere = msgspec.structs.replace(postgres_empty_database, tenant_key=postgres_strict_database.tenant_key)
    with pytest.raises(SignatureRefused, match="restored from a signed one"):
        await texts(elsewhere.app_url, settings=settings_for(elsewhere, tmp_path / "b"))


def test_programs_that_do_not_fit_are_refused_by_name(postgres_database: PostgresDatabase, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="programs_dir"):
        Backups(settings_for(postgres_database, tmp_path / "b", programs_dir=str(tmp_path))).create()


def test_roles_that_are_missing_or_may_not_are_told_what_to_do(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = settings_for(postgres_database, tmp_path / "b")
    record = Backups(settings).create(verify=False)
    without = msgspec.structs.replace(
        settings, storage=msgspec.structs.replace(settings.storage, postgres=PostgresSettings())
    )

    with pytest.raises(InvalidSetting, match="DATABASE_OPERATOR_URL"):
        Backups(without).create()
    with pytest.raises(InvalidSetting, match="DATABASE_ADMIN_URL"):
        Backups(without).plan_restore(record.id)
    as_app = msgspec.structs.replace(settings.storage.postgres, admin_url=postgres_database.app_url)
    storage = msgspec.structs.replace(settings.storage, postgres=as_app)
    serving = Backups(msgspec.structs.replace(settings, storage=storage))
    with unchanged(postgres_database), pytest.raises(AccessRefused, match="no member of it"):
        serving.restore(record.id, backup_current=False)


async def test_who_uses_the_store_meanwhile_is_made_to_wait_and_not_refused(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = settings_for(postgres_database, tmp_path / "b")
    async with llmspell.connect(postgres_database.app_url, settings=settings, embedder="hashing") as spell:
        await spell.tenants.create("acme")
        acme = spell.tenant("acme")
        await acme.memory.add("Ada moved to Zurich.")
        backups = Backups(settings)
        record = await asyncio.to_thread(backups.create)
        await acme.memory.add("Ben likes tea.")
        restore = asyncio.create_task(asyncio.to_thread(backups.restore, record.id, backup_current=False))
        calls = 0
        while not restore.done():
            await asyncio.gather(*(use(acme, f"k{calls}-{number}") for number in range(3)))
            calls += 1
        await restore

        assert [hit.text for hit in await acme.memory.search("tea")] == ["Ada moved to Zurich."]
        assert calls > 1


async def use(tenant: Tenant, key: str) -> None:
    """One reads and writes several tables, in one transaction and beside it."""
    async with tenant.transaction() as tx:
        await tx.kv.set(key, b"v")
        await tx.jobs.enqueue("test.kind")
    # A snapshot from before the restore finds the new tables empty: what PostgreSQL says of TRUNCATE holds for them too.
    assert len(await tenant.memory.search("Zurich")) in (0, 1, 2)


def test_a_store_that_stays_in_use_is_left_as_it_is(
    postgres_database: PostgresDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = restoring._LOCK.replace(f"1..{LOCK_ATTEMPTS}", "1..1").replace(f"= {LOCK_ATTEMPTS}", "= 1")
    monkeypatch.setattr(restoring, "_LOCK", once)
    backups = Backups(settings_for(postgres_database, tmp_path / "b"))
    record = backups.create(verify=False)
    backups._write(msgspec.structs.replace(record, verified_at=record.created_at))

    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute("SELECT count(*) FROM llmspell.memories")
        with pytest.raises(Conflict, match="in use for too long"):
            backups.restore(record.id, backup_current=False)


def test_a_backup_of_one_kind_does_not_replace_a_store_of_another(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    record: Record = Backups(settings_for(postgres_database, tmp_path / "b")).create(verify=False)

    with pytest.raises(Unsupported, match="storage transfer"):
        Backups(settings_of(f"sqlite:///{tmp_path / 's.db'}", tmp_path / "b", keys=MASTER_KEY)).restore(record.id)


def test_a_program_that_fails_says_why_without_rows(postgres_database: PostgresDatabase, tmp_path: Path) -> None:
    from llmspell.ops.backup.programs import find_programs, running
    from llmspell.storage.postgres.snapshot import program_environment

    programs, environment = find_programs(15), program_environment(postgres_database.admin_url)
    with running(programs, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", environment=environment, feeds=True) as psql:
        psql.feed([b"INSERT INTO llmspell.tenants (tenant_id, name) VALUES ('a', 'secret'), ('a', 'secret');"])
        psql.end_of_input()
        with pytest.raises(StorageError, match="psql failed") as raised:
            list(psql.output())

    assert "secret" not in str(raised.value)
