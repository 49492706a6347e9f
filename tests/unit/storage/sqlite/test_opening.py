"""Opening a file: what is created, what is refused, what is left alone."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import apsw
import pytest

from llmspell.errors import (
    InvalidUrl,
    MigrationFailed,
    MigrationModified,
    NotADatabase,
    SchemaOutdated,
    SchemaTooNew,
    StorageError,
    Unavailable,
    Unsupported,
)
from llmspell.storage.relational.migrations import Migration
from llmspell.storage.sqlite import migrator, pragmas
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

TENANT = TenantId("t1")


async def test_a_fresh_file_is_migrated_and_marked_as_ours(backend: SqliteBackend, path: Path) -> None:
    status = await backend.migration_status()

    assert status.pending == ()
    assert status.version == len(status.applied) == len(migrator.known())
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA application_id").fetchone() == (pragmas.APPLICATION_ID,)


async def test_acknowledged_writes_are_synced_by_default(backend: SqliteBackend) -> None:
    connection = backend._database._connection

    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2  # FULL
    assert connection.pragma("foreign_keys") == 1
    assert connection.pragma("trusted_schema") == 0


async def test_normal_durability_is_a_choice(path: Path) -> None:
    backend = await open_sqlite(path, synchronous="NORMAL")

    assert backend._database._connection.pragma("synchronous") == 1
    await backend.close()


async def test_what_was_written_is_there_when_the_file_is_opened_again(backend: SqliteBackend, path: Path) -> None:
    await backend.storages(TENANT).kv.set("k", b"v")
    key = await backend.cursor_key()
    await backend.close()

    again = await open_sqlite(path)

    assert await again.storages(TENANT).kv.get("k") == b"v"
    assert await again.cursor_key() == key
    assert len(key) == 32
    await again.close()


@pytest.mark.parametrize("content", [b"not a database at all", b"x" * 100_000, b"\0" * 4096])
async def test_a_file_that_is_something_else_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(NotADatabase, match=r"store\.db"):
        await open_sqlite(path)

    assert path.read_bytes() == content


async def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()

    with pytest.raises(NotADatabase, match="another program"):
        await open_sqlite(path)

    assert path.read_bytes() == before


async def test_an_empty_file_is_welcome(path: Path) -> None:
    path.touch()

    backend = await open_sqlite(path)

    await backend.check()
    await backend.close()


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="absent"):
        await open_sqlite(tmp_path / "absent" / "store.db")


async def test_folders_are_created_when_asked_for(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path / "a" / "b" / "store.db", create_folder=True)

    await backend.check()
    await backend.close()


async def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="folder"):
        await open_sqlite(tmp_path)


@pytest.mark.parametrize("path", ["", ":memory:"])
async def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidUrl):
        await open_sqlite(path)


async def test_a_damaged_file_is_reported(backend: SqliteBackend, path: Path) -> None:
    await backend.storages(TENANT).kv.set_batch({f"k{n}": b"v" * 2_000 for n in range(200)})
    await backend.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    with pytest.raises(StorageError) as caught:
        await open_sqlite(path)

    assert caught.value.code in ("LS-3005", "LS-3002")


async def test_a_file_of_a_newer_release_is_refused_and_left_alone(backend: SqliteBackend, path: Path) -> None:
    backend._database._connection.execute(
        "INSERT INTO schema_migrations VALUES (999, 'V999__from_the_future', ?, 0)", ("0" * 64,)
    )
    await backend.close()
    before = path.read_bytes()

    with pytest.raises(SchemaTooNew, match="V999"):
        await open_sqlite(path)

    assert path.read_bytes() == before


async def test_a_migration_edited_after_it_ran_is_noticed(backend: SqliteBackend, path: Path) -> None:
    backend._database._connection.execute("UPDATE schema_migrations SET sha256 = ? WHERE version = 3", ("0" * 64,))
    await backend.close()

    with pytest.raises(MigrationModified, match="V003"):
        await open_sqlite(path)


async def test_a_failing_migration_changes_nothing_and_keeps_those_before_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (
        Migration(1, "V001__good", "CREATE TABLE a (x)", "1" * 64),
        Migration(2, "V002__bad", "CREATE TABLE b (x); CREATE TABLE a (x)", "2" * 64),
    )
    monkeypatch.setattr(migrator, "known", lambda: steps)

    with pytest.raises(MigrationFailed, match="V002__bad"):
        await open_sqlite(path)

    with sqlite3.connect(path) as plain:
        tables = {name for (name,) in plain.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {"a", "schema_migrations"}


async def test_without_automatic_migration_a_store_says_what_is_pending_and_can_be_migrated(path: Path) -> None:
    backend = await open_sqlite(path, auto_migrate=False)
    assert len((await backend.migration_status()).pending) == len(migrator.known())
    with pytest.raises(SchemaOutdated, match="database migrate"):
        await backend.storages(TENANT).kv.get("k")

    status = await backend.migrate()

    assert status.pending == ()
    assert await backend.storages(TENANT).kv.get("k") is None
    await backend.close()


async def test_eight_openings_of_one_fresh_file_at_once_all_succeed(path: Path) -> None:
    backends = await asyncio.gather(*(open_sqlite(path) for _ in range(8)))

    for number, backend in enumerate(backends):
        await backend.storages(TENANT).kv.set(f"k{number}", b"v")
    assert len(await backends[0].storages(TENANT).kv.list_keys()) == 8
    for backend in backends:
        await backend.close()


async def test_a_lock_held_too_long_by_another_process_is_unavailable(backend: SqliteBackend, path: Path) -> None:
    await backend.close()
    impatient = await open_sqlite(path, busy_timeout_s=0.05)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable, match="locked"):
        await impatient.storages(TENANT).kv.set("k", b"v")

    other.execute("ROLLBACK")
    await impatient.storages(TENANT).kv.set("k", b"v")
    await impatient.close()
    other.close()


async def test_who_waits_behind_a_lock_is_told_with_the_first(backend: SqliteBackend, path: Path) -> None:
    await backend.close()
    impatient = await open_sqlite(path, busy_timeout_s=0.2)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")

    async def block() -> None:
        async with impatient.transaction(TENANT):
            pytest.fail("it must not begin")

    kv = impatient.storages(TENANT).kv
    waiting = asyncio.gather(kv.set("k", b"v"), block(), kv.set("l", b"v"), return_exceptions=True)
    results = await asyncio.wait_for(waiting, timeout=10)

    assert [type(result) for result in results] == [Unavailable] * 3
    other.close()
    await impatient.close()


async def test_promotion_is_not_offered(backend: SqliteBackend) -> None:
    with pytest.raises(Unsupported):
        await backend.promote(TENANT, "space", dimension=384)


async def test_closing_leaves_no_connection_and_no_side_file(backend: SqliteBackend, path: Path) -> None:
    await backend.storages(TENANT).kv.set("k", b"v")
    await backend.storages(TENANT).kv.get("k")

    await backend.close()

    assert [entry.name for entry in path.parent.iterdir()] == ["store.db"]
