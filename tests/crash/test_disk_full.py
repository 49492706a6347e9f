"""No space left, of three kinds: one error that says what to do, nothing acknowledged is lost, reads go on, and writes return with
the space."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from tests.crash.filler import BIG, TENANT, Filled, fill_file, require_clear
from tests.crash.small_disk import make_room, small_disk
from tests.crash.torn import torn_on_server
from tests.crash.writes import NAMES
from tests.fixtures.postgres import ADMIN_URL_VARIABLE, PostgresDatabase
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import tell
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, contents, file_store, server_store

import llmspell
from llmspell.errors import DiskFull
from llmspell.ops.postgres_installation import server_account
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.verifier import verify
from llmspell.tenant import TenantId

LIMIT_S = 120
FILE_LIMIT_BYTES = 1_500_000
VALUE_BYTES = 100_000
VALUES_MAX = 200
MOVED = ("kv_store", "artifact_chunks")


@pytest.fixture
def temporary_files_here(tmp_path: Path) -> Iterator[Path]:
    """Temporary files go to a folder that nobody else uses, which is empty again afterwards."""
    folder, before = tmp_path / "temporary", tempfile.tempdir
    folder.mkdir()
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("temporary", ["beside the store", "elsewhere"])
async def test_a_file_on_a_full_disk_refuses_writes_by_one_error_keeps_what_it_has_and_goes_on_with_the_space(
    temporary: str, tmp_path: Path, temporary_files_here: Path
) -> None:
    with small_disk(tmp_path / "small", "4m") as disk:
        if temporary == "beside the store":
            tempfile.tempdir = str(disk)
        filled = await fill_file(disk, lambda: make_room(disk))
        tempfile.tempdir = str(temporary_files_here)
    tell(full_disks=1, acknowledged_writes=filled.acknowledged, lost_writes=len(filled.lost))
    assert filled.lost == []
    assert filled.kinds_refused > len(NAMES) // 2, filled


def test_a_file_that_may_not_grow_refuses_writes_by_the_same_error(tmp_path: Path) -> None:
    script = str(Path(__file__).parent / "filler.py")
    command = [sys.executable, script, str(tmp_path), str(FILE_LIMIT_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)

    assert done.returncode == 0, done.stderr
    filled = msgspec.json.decode(done.stdout, type=Filled)
    tell(full_disks=1, acknowledged_writes=filled.acknowledged, lost_writes=len(filled.lost))
    assert filled.lost == []
    assert filled.kinds_refused > len(NAMES) // 2, filled


def test_a_disk_that_cannot_be_mounted_fails_continuous_integration_and_is_skipped_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no `mount` is found
    for ci, outcome in (("true", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("CI", ci)
        with (
            pytest.raises(outcome, match="needs the right to mount a file system"),
            small_disk(tmp_path / "small", "1m"),
        ):
            pass


@pytest.fixture
def local_database(request: pytest.FixtureRequest) -> PostgresDatabase:
    if os.environ.get(ADMIN_URL_VARIABLE):
        pytest.skip(f"{ADMIN_URL_VARIABLE} names a server that may be on another machine: its disk is not filled")
    database: PostgresDatabase = request.getfixturevalue("postgres_database")
    return database


async def test_a_server_on_a_full_disk_refuses_writes_by_the_same_error(local_database: PostgresDatabase) -> None:
    with on_a_small_disk(local_database) as disk:
        await fill_server(local_database, disk)


async def test_an_import_into_a_server_on_a_full_disk_leaves_it_as_it_was(
    local_database: PostgresDatabase, tmp_path: Path
) -> None:
    made = tmp_path / "a.json"
    async with file_store(tmp_path / "a.db") as origin:
        await Drawn(SEED, ["acme"], each=2, vectors=5, artifact_bytes=10_000_000).load(origin)
        await export(origin, Output(made), clock=CLOCK)
    async with server_store(local_database) as target:
        await Drawn(SEED, ["globex"], each=1, vectors=1, artifact_bytes=10).load(target)
        before = await contents(target)
        with on_a_small_disk(local_database) as disk:
            with pytest.raises(DiskFull) as caught:
                await import_(Input(made), target)
            assert await contents(target) == before
            make_room(disk)
            await import_(Input(made), target)
        assert (await verify(target, Input(made), tenant=TenantId("acme"))).equal
    tell(full_disks=1)
    assert caught.value.fields["table"] == "artifact_chunks"
    assert caught.value.fields["path"] == str(made)


@contextmanager
def on_a_small_disk(database: PostgresDatabase) -> Iterator[Path]:
    """Have the large tables of a database on a file system of a few mebibytes."""
    folder = Path(tempfile.mkdtemp(prefix="llmspell-small-", dir="/var/tmp"))
    try:
        with small_disk(folder, "8m") as disk, psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            disk.chmod(0o700)
            os.chown(disk, server_account().uid, server_account().gid)
            superuser.execute(f"CREATE TABLESPACE {database.name} LOCATION '{disk}'".encode())
            try:
                move(superuser, database.name)
                yield disk
            finally:
                move(superuser, "pg_default")
                superuser.execute(f"DROP TABLESPACE {database.name}".encode())
    finally:
        folder.rmdir()


def move(superuser: psycopg.Connection[tuple[object, ...]], tablespace: str) -> None:
    for table in MOVED:
        superuser.execute(f"ALTER TABLE llmspell.{table} SET TABLESPACE {tablespace}".encode())


async def fill_server(database: PostgresDatabase, disk: Path) -> None:
    async with llmspell.connect(database.app_url, settings=llmspell.Settings(), embedder="hashing") as spell:
        await spell.tenants.create(TENANT)
        tenant, kept, refused = spell.tenant(TENANT), list[str](), list[str]()
        session = await tenant.sessions.create()
        for number in range(VALUES_MAX):
            try:
                await tenant.kv.set(f"k-{number}", os.urandom(VALUE_BYTES))
                kept.append(f"k-{number}")
            except DiskFull as error:
                require_clear(error)
                refused.append(f"k-{number}")
            if len(refused) > 3:
                break
        assert kept
        assert refused, "the space never ran out"
        before = await tenant.artifacts.stats()
        with pytest.raises(DiskFull):
            await tenant.artifacts.put(session.id, "big", os.urandom(len(BIG)))
        assert await tenant.artifacts.stats() == before
        lost = set(kept) - set(await tenant.kv.list_keys())
        tell(full_disks=1, acknowledged_writes=len(kept), lost_writes=len(lost))
        assert sorted(await tenant.kv.list_keys()) == sorted(kept)

        make_room(disk)

        for key in refused:
            await tenant.kv.set(key, b"v")
        artifact = await tenant.artifacts.put(session.id, "big", BIG)
        assert await tenant.artifacts.verify(artifact.id)
        assert sorted(await tenant.kv.list_keys()) == sorted(kept + refused)
    assert torn_on_server(database.superuser_url) == []
