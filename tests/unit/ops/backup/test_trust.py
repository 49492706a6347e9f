"""Backups that somebody else may have made: what no key proves is not taken, and what is tried gets no rights."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from tests.fixtures.backups import MASTER_KEY, backups_of, fill, settings_of, texts
from tests.fixtures.postgres import PostgresDatabase
from tests.unit.ops.backup.test_servers import ask, settings_for

from llmspell.errors import AccessRefused, StorageError
from llmspell.ops.backup import Backups
from llmspell.ops.backup.container import Packing, pack, unpack
from llmspell.ops.backup.places import CONTENT
from llmspell.ops.backup.programs import Programs
from llmspell.ops.backup.records import Record
from llmspell.ops.backup.server_store import ServerStore
from llmspell.ops.embedded_postgres import SUPERUSER
from llmspell.security.keyring import Keyring
from llmspell.settings import BackupSettings, Settings
from llmspell.storage.postgres import restoring
from llmspell.storage.postgres.address import on_database


def exchanged(backups: Backups, record: Record, change: Any = lambda content: content, **manifest: Any) -> Record:
    """Put a backup that anybody can make in the place of another one, its record included."""
    stored = b"".join(backups.place.read(record.id + CONTENT))
    opened = unpack(iter([stored]), keyring=backups._keyring)
    content = change(b"".join(opened.content))
    changed = msgspec.structs.replace(opened.manifest, **manifest)
    forged = b"".join(pack(changed, [content], keyring=Keyring(), packing=Packing(0, None)))
    backups.place.put(record.id + CONTENT, [forged])
    sha256 = hashlib.sha256(forged).hexdigest()
    new = msgspec.structs.replace(
        record, sha256=sha256, key_id=None, signed_by=None, stored_bytes=len(forged), verified_at=record.created_at
    )
    backups._write(new)
    return new


def readable(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, backup=msgspec.structs.replace(settings.backup, encryption=False))


async def test_where_there_is_a_key_only_what_it_sealed_or_signed_is_restored(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    await fill(f"sqlite:///{store}", "Ada moved to Zurich.")
    for encrypted in (True, False):
        chosen = BackupSettings(folder=str(tmp_path / "b"), encryption=encrypted)
        backups = Backups(settings_of(f"sqlite:///{store}", tmp_path, keys=MASTER_KEY, backup=chosen))
        record = backups.create()
        assert (record.key_id is None, record.signed_by is None) == (not encrypted, encrypted)
        backups.restore(record.id, into=str(tmp_path / f"genuine-{encrypted}.db"))
        exchanged(backups, record)
        with pytest.raises(AccessRefused, match="neither encrypted nor signed"):
            backups.restore(record.id)
        with pytest.raises(AccessRefused, match="Nothing proves who made"):
            backups.restore("latest", into=str(tmp_path / "none.db"))
        assert not (tmp_path / "none.db").exists()
        backups.restore(record.id, into=str(tmp_path / f"trusted-{encrypted}.db"), trust=True)
    without = backups_of(store, tmp_path / "without", keys=None)
    without.restore(without.create().id, into=str(tmp_path / "keyless.db"))
    assert await texts(f"sqlite:///{tmp_path / 'keyless.db'}") == ["Ada moved to Zurich."]


async def test_what_anybody_may_have_made_is_never_run_as_a_superuser(
    postgres_database: PostgresDatabase, postgres_empty_database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = readable(settings_for(postgres_database, tmp_path / "b"))
    settings = msgspec.structs.replace(settings, security=type(settings.security)())
    backups = Backups(settings)
    await fill(postgres_database.app_url, "Ada moved to Zurich.", settings=settings)
    record = backups.create()
    assert (record.state, record.key_id, record.signed_by) == ("verified", None, None)

    with pytest.raises(AccessRefused, match="which is a superuser"):
        backups.plan_restore(record.id, into=postgres_empty_database.superuser_url)
    with pytest.raises(AccessRefused, match="of the server that verifies it"):
        backups.verify(record.id)
    assert backups.get(record.id).state == "verified", "that it was not tried says nothing of it"
    backups.restore(record.id, into=postgres_empty_database.admin_url)
    assert await texts(postgres_empty_database.app_url, settings=settings) == ["Ada moved to Zurich."]


def test_a_backup_is_tried_by_a_role_that_may_do_nothing_else(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """In its place stands one that reads what only a superuser may, or whose manifest names a superuser as the owner."""
    backups = Backups(settings_for(postgres_database, tmp_path / "b", verify_url=None))
    record = backups.create(level=0, verify=False)
    assert backups.verify(record.id).state == "verified"
    genuine = b"".join(backups.place.read(record.id + CONTENT))

    def evil(content: bytes) -> bytes:
        """Put a statement that only a superuser may run in the place of another one, with the same length."""
        comment = re.search(rb"COMMENT ON SCHEMA llmspell IS '[^']*';", content)
        assert comment is not None
        return content.replace(comment[0], b"TABLE pg_authid;".ljust(len(comment[0])))

    for owner, said in (
        (SUPERUSER, "is a superuser of the server that verifies"),
        ("llmspell", "permission denied for table pg_authid"),
    ):
        forged = exchanged(backups, record, evil, owner=owner)
        with pytest.raises(StorageError, match=said):
            backups.verify(forged.id)
        backups.place.put(record.id + CONTENT, [genuine])


def test_what_killed_verifications_left_is_dropped_and_never_what_is_in_use(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    url = postgres_database.superuser_url
    settings = settings_for(postgres_database, tmp_path / "b")
    store = ServerStore(settings.backup, operator_url=None, admin_url=None)
    left, connected = "llmspell_verify_left", "llmspell_verify_connected"
    for name in (left, connected):
        restoring.create_database(url, name)
    with (
        psycopg.connect(on_database(url, connected)),
        restoring.scratch_database(url, owner=None) as used,
    ):
        assert restoring.leftovers(url) == [left]
        assert Backups(settings).prune(dry_run=True).databases == [left]
        assert Backups(settings).prune().databases == [left]
        assert ask(url, f"SELECT 1 FROM pg_database WHERE datname = '{used}'") == [(1,)]
    assert store.sweep() == [connected]
    assert restoring.leftovers(url) == []


@pytest.mark.parametrize(
    ("version", "restricted"),
    [
        ("18.4", True),
        ("18.0", True),
        ("19.1", True),
        ("17.6", True),
        ("17.5", False),
        ("15.14", True),
        ("12.22", False),
    ],
)
def test_which_programs_run_statements_alone_is_known(version: str, restricted: bool) -> None:
    assert Programs(Path(), int(version.partition(".")[0]), version).restricted is restricted
