"""Backups of a store in a file: what comes back is what was there, and nothing half-done counts."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.fixtures.backups import MASTER_KEY, OTHER_KEY, backups_of, fill, settings_of, texts

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import (
    Conflict,
    CorruptStore,
    JobStopped,
    MasterKeyMissing,
    NotADatabase,
    NotFound,
    SealBroken,
    Unsupported,
)
from llmspell.ops.backup import Backups
from llmspell.ops.backup.container import Packing, pack
from llmspell.ops.backup.places import CONTENT, RECORD
from llmspell.security.keyring import read_keyring
from llmspell.settings import BackupSettings, Settings, StorageSettings
from llmspell.storage.contracts.snapshot import TableDigest


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "s.db"

    async def make() -> None:
        await fill(f"sqlite:///{path}", "Ada moved to Zurich.", "Ben likes tea.")
        await fill(f"sqlite:///{path}", "Cleo sings.", tenant="other")

    asyncio.run(make())
    return path


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    """A store with two memories of one tenant and one of another."""
    path = tmp_path / "store" / "s.db"
    path.parent.mkdir()
    shutil.copy(filled, path)
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".vectors", "-wal", "-shm")))


async def test_a_lost_store_comes_back_with_every_tenant(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    record = backups.create()
    store.unlink()

    done = backups.restore("latest")

    assert (done.backup.id, done.safety, done.target) == (record.id, None, str(store))
    assert await texts(f"sqlite:///{store}") == ["Ada moved to Zurich.", "Ben likes tea."]
    assert await texts(f"sqlite:///{store}", tenant="other") == ["Cleo sings."]
    assert (record.state, record.tenants, record.schema_version) == ("verified", 2, 35)
    assert (record.key_id, record.compressed) == (read_keyring(MASTER_KEY).active, True)
    assert left_in(store.parent) == ["s.db"]
    assert left_in(tmp_path / "b") == [record.id + RECORD, record.id + CONTENT]


@pytest.mark.parametrize(("keys", "level"), [(None, 0), (None, 19), (MASTER_KEY, 0)])
async def test_every_packing_comes_back(store: Path, tmp_path: Path, keys: object, level: int) -> None:
    backups = backups_of(store, tmp_path / "b", keys=MASTER_KEY if keys else None)
    record = backups.create(level=level)

    backups.restore(record.id, into=str(tmp_path / "copy.db"))

    assert await texts(f"sqlite:///{tmp_path / 'copy.db'}") == await texts(f"sqlite:///{store}")
    assert (record.stored_bytes < record.content_bytes / 5) is (level > 0)


async def test_a_store_is_replaced_after_it_was_backed_up(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    first = backups.create()
    await fill(f"sqlite:///{store}", "Dora came later.")

    done = backups.restore(first.id)

    assert await texts(f"sqlite:///{store}") == ["Ada moved to Zurich.", "Ben likes tea."]
    assert done.safety is not None
    assert done.safety.state == "verified"
    backups.restore(done.safety.id)
    assert "Dora came later." in await texts(f"sqlite:///{store}")
    assert len(backups.list()) == 3


async def test_who_has_the_store_open_goes_on_with_what_was_restored(store: Path, tmp_path: Path) -> None:
    """Vectors too, whose cache in the process knows changes that the restored store never had."""
    backups = backups_of(store, tmp_path / "b")
    async with llmspell.connect(f"sqlite:///{store}", embedder="hashing") as spell:
        memory = spell.tenant("acme").memory
        kept = [await memory.add(f"Number {number} of the tea.") for number in range(40)]
        assert await memory.search("number 3 of the tea", limit=5)
        record = backups.create()
        for one in kept[:20]:
            await memory.delete(one.id)
        for number in range(30):
            await memory.add(f"Number {number} of the coffee.")
        assert await memory.search("number 3 of the coffee", limit=5)

        backups.restore(record.id)

        found = await memory.search("number 3 of the tea", limit=50)
        assert {hit.text for hit in found} >= {f"Number {number} of the tea." for number in range(40)}
        assert not any("coffee" in hit.text for hit in found)
        await memory.add("Number 99 of the tea.")
        again = await memory.search("number 99 of the tea", limit=60)
    async with llmspell.connect(f"sqlite:///{store}", embedder="hashing") as fresh:
        hits = await fresh.tenant("acme").memory.search("number 99 of the tea", limit=60)
    assert [(hit.id, hit.score) for hit in again] == [(hit.id, hit.score) for hit in hits]
    assert len(again) == 43


async def test_a_backup_that_was_restored_twice_is_as_new_to_caches_each_time(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    first = backups.create()
    changes = "SELECT max(change_seq), min(logged_from) FROM embedding_spaces"
    seen = [0]
    for _ in range(3):
        backups.restore(first.id)
        with sqlite3.connect(store) as file:
            ((change, logged),) = file.execute(changes).fetchall()
        assert change > seen[-1]
        assert logged > seen[-1]
        seen.append(change)


async def test_a_damaged_store_is_moved_aside_and_nothing_of_its_log_is_applied(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    record = backups.create()
    store.write_bytes(b"\0" * 4_096 + store.read_bytes()[4_096:])
    store.with_name("s.db-wal").write_bytes(b"a log of the damaged one")

    with pytest.raises((CorruptStore, NotADatabase)):
        backups.restore(record.id)
    backups.restore(record.id, backup_current=False)

    assert await texts(f"sqlite:///{store}") == ["Ada moved to Zurich.", "Ben likes tea."]
    names = left_in(store.parent)
    assert len([name for name in names if ".damaged-" in name]) >= 1


async def test_a_log_that_a_lost_file_left_behind_is_not_applied(store: Path, tmp_path: Path) -> None:
    """The database would take it for the new file's."""
    backups = backups_of(store, tmp_path / "b")
    with sqlite3.connect(store) as file:
        file.execute("PRAGMA wal_autocheckpoint = 0")
        record = backups.create()
        file.execute("DELETE FROM memories")
        file.commit()
        log = store.with_name("s.db-wal").read_bytes()
    file.close()
    for part in store.parent.glob("s.db*"):
        if part.is_file():
            part.unlink()
    store.with_name("s.db-wal").write_bytes(log)

    backups.restore(record.id)

    assert await texts(f"sqlite:///{store}") == ["Ada moved to Zurich.", "Ben likes tea."]


async def test_a_file_of_another_program_is_left_as_it_is(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    record = backups.create()
    store.unlink()
    with sqlite3.connect(store) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = store.read_bytes()

    for backup_current in (True, False):
        with pytest.raises(NotADatabase):
            backups.restore(record.id, backup_current=backup_current)
    with pytest.raises(Conflict):
        backups.restore(record.id, into=str(store))

    assert store.read_bytes() == before


def test_what_the_backup_should_hold_and_does_not_makes_it_damaged(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    record = backups.create(verify=False)
    opened = backups._open(record, _counted(), "")
    content = b"".join(opened.content)
    tables = [
        TableDigest(table.name, table.rows + (table.name == "memories"), table.digest)
        for table in opened.manifest.tables
    ]
    false = msgspec.structs.replace(opened.manifest, tables=tables)
    packed = b"".join(pack(false, [content], keyring=read_keyring(MASTER_KEY), packing=Packing(3, record.key_id)))
    backups.place.put(record.id + CONTENT, [packed])

    with pytest.raises(CorruptStore, match="memories: 3 rows, and there should be 4"):
        backups.verify(record.id)

    (listed,) = backups.list()
    assert listed.state == "damaged"
    with pytest.raises(NotFound, match="no verified"):
        backups.restore("latest")
    with pytest.raises(CorruptStore):
        backups.restore(record.id, into=str(tmp_path / "copy.db"))
    assert not (tmp_path / "copy.db").exists()


def test_a_record_that_is_no_text_is_damage_and_hides_no_other(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    one, two = backups.create(), backups.create()
    record = tmp_path / "b" / f"{one.id}.json"
    record.write_bytes(record.read_bytes().replace(one.id.encode(), b"\xb2" + one.id[1:].encode()))

    assert {each.id: each.state for each in backups.list()} == {one.id: "damaged", two.id: "verified"}


def test_a_flipped_byte_and_an_exchanged_file_are_damage(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    one, two = backups.create(), backups.create()
    contents = [tmp_path / "b" / (record.id + CONTENT) for record in (one, two)]
    whole = contents[0].read_bytes()

    contents[0].write_bytes(contents[1].read_bytes())
    with pytest.raises(CorruptStore, match="belong together"):
        backups.verify(one.id)
    contents[0].write_bytes(whole)
    assert backups.verify(one.id).state == "verified"
    contents[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SealBroken):
        backups.verify(one.id)

    assert {each.id: each.state for each in backups.list()} == {one.id: "damaged", two.id: "verified"}
    assert backups.get("latest").id == two.id


def test_the_latest_is_that_of_the_configured_store_or_of_the_only_one(store: Path, tmp_path: Path) -> None:
    place, other = tmp_path / "b", tmp_path / "other.db"
    shutil.copy(store, other)
    with sqlite3.connect(other) as changed:
        changed.execute("UPDATE store_meta SET value = x'01' WHERE name = 'store_id'")
    mine = backups_of(store, place).create()
    moved = backups_of(tmp_path / "moved.db", place)

    assert moved.get("latest").id == mine.id
    theirs = backups_of(other, place).create()

    assert backups_of(store, place).get("latest").id == mine.id
    assert backups_of(other, place).get("latest").id == theirs.id
    with pytest.raises(Conflict, match="several stores"):
        moved.restore("latest")


def test_a_missing_key_says_nothing_of_the_backup(store: Path, tmp_path: Path) -> None:
    record = backups_of(store, tmp_path / "b").create()
    for keys, error in ((OTHER_KEY, SealBroken), (None, MasterKeyMissing)):
        with pytest.raises(error):
            backups_of(store, tmp_path / "b", keys=keys).verify(record.id)

    assert backups_of(store, tmp_path / "b").get("latest").id == record.id
    with pytest.raises(MasterKeyMissing, match="none is configured"):
        Backups(settings_of(f"sqlite:///{store}", tmp_path / "b", keys=None, backup=BackupSettings())).create()


@pytest.mark.parametrize("step", range(0, 40, 3))
def test_what_is_stopped_leaves_nothing(store: Path, tmp_path: Path, step: int) -> None:
    asked = 0

    def going_on() -> None:
        nonlocal asked
        asked += 1
        if asked > step:
            raise JobStopped("stop")

    backups = Backups(settings_of(f"sqlite:///{store}", tmp_path / "b"), going_on=going_on)
    try:
        backups.create(verify=False)
    except JobStopped:
        assert backups_of(store, tmp_path / "b").list() == []
    else:
        assert asked <= step
    assert left_in(store.parent) == ["s.db"]


def test_what_did_not_end_is_no_backup(store: Path, tmp_path: Path) -> None:
    backups = backups_of(store, tmp_path / "b")
    record = backups.create()
    backups.place.delete(record.id + RECORD)
    (tmp_path / "b" / "20260101T000000Z-aa.lsbk.0123.part").write_bytes(b"half")

    assert [each.state for each in backups.list()] == ["incomplete", "incomplete"]
    with pytest.raises(NotFound):
        backups.get(record.id)
    assert backups.prune().deleted == []
    assert backups.delete(record.id).state == "incomplete"
    assert len(backups.list()) == 1


def test_the_last_verified_one_is_deleted_only_on_purpose(store: Path, tmp_path: Path) -> None:
    clock = ManualClock("2026-01-01T00:00:00Z")
    backups = Backups(settings_of(f"sqlite:///{store}", tmp_path / "b"), clock=clock)
    records = []
    for _ in range(3):
        records.append(backups.create(verify=len(records) < 2))
        clock.advance(days=20)

    assert [each.id for each in backups.prune(count=1, dry_run=True).deleted] == [records[0].id]
    assert len(backups.list()) == 3
    pruned = backups.prune(count=1)
    assert (len(pruned.deleted), pruned.freed_bytes > 0) == (1, True)
    with pytest.raises(Conflict, match="last verified"):
        backups.delete(records[1].id)
    backups.delete(records[1].id, even_last=True)
    assert [each.id for each in backups.list()] == [records[2].id]
    with pytest.raises(NotFound):
        backups.delete(records[1].id)


@pytest.mark.parametrize("id", ["../s", "a/b", ".hidden", "nothing", "..\\x"])
def test_an_id_leads_nowhere_else(store: Path, tmp_path: Path, id: str) -> None:
    with pytest.raises(NotFound):
        backups_of(store, tmp_path / "b").get(id)


def test_there_must_be_something_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store"):
        backups_of(tmp_path / "none.db", tmp_path / "b").create()
    memory = Settings(storage=StorageSettings(url="memory://", backend="memory"))
    with pytest.raises(Unsupported, match="memory"):
        Backups(memory).create(encrypt=False)


@pytest.mark.skipif(sys.platform == "win32", reason="its locks end later than the process")
def test_what_a_killed_process_left_beside_the_store_is_removed_by_the_next(store: Path, tmp_path: Path) -> None:
    left = store.parent / ".llmspell-backup-0123"
    left.mkdir()
    (left / "lock").touch()
    (left / "copy.db").write_bytes(b"all the rows, in the clear")

    backups_of(store, tmp_path / "b").create()

    assert left_in(store.parent) == ["s.db"]


def _counted() -> Callable[..., object]:
    from llmspell.ops.backup.service import _Counted

    return _Counted()  # type: ignore[return-value]
