"""Who takes or restores a backup may be killed anywhere: no half backup is called good, and a store is the old or the new one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.backups import backups_of, fill
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

from llmspell.ops.backup import Backups
from llmspell.settings import BackupSettings, PostgresSettings, Settings, StorageSettings
from llmspell.storage.sqlite.snapshot import require_sound

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
ON_FILES = size(ci=20, soak=2_000)
"""Kills of each of creating, restoring over a live file, and restoring to a new one."""
ON_SERVERS = size(ci=4, soak=300)
LIMIT_S = 60


class Taker:
    """The process that forks those who are killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, settings: Settings, *, at: int, action: str, **more: Any) -> int:
        """Let one live until step `at`; return how many steps it passed, or 0 when it was killed."""
        plain = {
            "storage": {
                "url": settings.storage.url,
                "backend": settings.storage.backend,
                "postgres": {
                    "operator_url": settings.storage.postgres.operator_url,
                    "admin_url": settings.storage.postgres.admin_url,
                },
            },
            "backup": {"folder": settings.backup.folder, "encryption": False},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"at": at, "action": action, "settings": plain, **more}) + "\n")
        self._process.stdin.flush()
        passed = 0
        for line in self._process.stdout:
            word, number = line.split()
            if word == "dead":
                assert int(number) == (-signal.SIGKILL if at else 0)
                return passed
            passed = int(number)
        pytest.fail("the process that forks them has ended")


@pytest.fixture(scope="module")
def taker() -> Iterator[Taker]:
    command = [sys.executable, str(Path(__file__).parent / "backup_taker.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Taker(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0


def points(passed: int, count: int, seed: int) -> list[int]:
    """Steps to be killed at: the last one has already ended, so it is left out."""
    chance = random.Random(usual(seed))
    return sorted(chance.sample(range(1, passed), min(count, passed - 1)))


def memories(path: Path) -> int:
    require_sound(str(path))
    with sqlite3.connect(path) as file:
        ((count,),) = file.execute("SELECT count(*) FROM memories").fetchall()
    file.close()
    return int(count)


def plain_settings(path: Path, folder: Path) -> Settings:
    return Settings(
        storage=StorageSettings(url=f"sqlite:///{path}", backend="sqlite"),
        backup=BackupSettings(folder=str(folder), encryption=False),
    )


async def test_a_backup_that_was_killed_is_never_listed_as_good(taker: Taker, tmp_path: Path) -> None:
    store, folder = tmp_path / "store" / "s.db", tmp_path / "b"
    store.parent.mkdir()
    await fill(f"sqlite:///{store}", "Ada moved to Zurich.", "Ben likes tea.")
    settings = plain_settings(store, folder)
    passed = taker(settings, at=0, action="create", verify=True)
    backups = backups_of(store, folder, keys=None)
    assert [each.state for each in backups.list()] == ["verified"]

    seen = {"incomplete": 0, "unverified": 0, "verified": 0, "nothing": 0}
    for at in points(passed, ON_FILES, 31):
        shutil.rmtree(folder, ignore_errors=True)
        taker(settings, at=at, action="create", verify=True)
        found = backups.list()
        for each in found or [None]:
            seen["nothing" if each is None else each.state] += 1
        for each in found:
            if each.record is not None:  # what has a record is whole
                assert backups.verify(each.id).state == "verified"
    record = backups.create()

    assert backups.verify(record.id).state == "verified"
    assert [path.name for path in store.parent.iterdir() if path.name.startswith(".llmspell-backup")] == []
    tell(killed_backups=sum(seen.values()))
    assert seen["incomplete"] > 0
    assert seen["unverified"] > 0


@pytest.mark.parametrize("into", [False, True], ids=["live", "new"])
async def test_a_restore_that_was_killed_has_happened_whole_or_not_at_all(
    taker: Taker, tmp_path: Path, into: bool
) -> None:
    store, folder = tmp_path / "store" / "s.db", tmp_path / "b"
    store.parent.mkdir()
    await fill(f"sqlite:///{store}", *(f"Number {number}." for number in range(20)))
    backups = backups_of(store, folder, keys=None)
    record = backups.create()
    await fill(f"sqlite:///{store}", "One that came later.")
    settings, target = plain_settings(store, folder), tmp_path / "new" / "s.db" if into else store
    target.parent.mkdir(exist_ok=True)
    order = {"action": "restore", "id": record.id, **({"into": str(target)} if into else {})}
    shutil.copy(store, tmp_path / "later.db")

    def fresh() -> None:
        for part in target.parent.iterdir():
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        if not into:
            shutil.copy(tmp_path / "later.db", store)

    fresh()
    passed = taker(settings, at=0, **order)
    assert memories(target) == 20
    old = new = 0
    for at in points(passed, ON_FILES, 32):
        fresh()
        taker(settings, at=at, **order)
        there = memories(target) if target.exists() else 0
        assert there in (0 if into else 21, 20)
        new += there == 20
        old += there != 20
        if there != 20:  # it may be repeated, whatever the first has left
            taker(settings, at=0, **order)
            assert memories(target) == 20
            assert [path.name for path in target.parent.iterdir() if path.is_dir()] in ([], ["s.db.vectors"])

    tell(killed_restores=old + new)
    assert old > 0


def test_a_restore_of_a_server_that_was_killed_has_not_happened_or_has(
    taker: Taker, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    rows = "SELECT count(*) FROM llmspell.kv_store"
    insert = """INSERT INTO llmspell.kv_store (tenant_id, key, value)
        SELECT 'acme', 'k' || n, 'v' FROM generate_series(%s::int, %s::int) AS n"""
    settings = Settings(
        storage=StorageSettings(
            url=postgres_database.app_url,
            backend="postgresql",
            postgres=PostgresSettings(
                operator_url=postgres_database.operator_url, admin_url=postgres_database.admin_url
            ),
        ),
        backup=BackupSettings(folder=str(tmp_path / "b"), encryption=False, verify_url=postgres_database.superuser_url),
    )
    with psycopg.connect(postgres_database.operator_url, autocommit=True) as operator:
        operator.execute(insert, (1, 100))
        backups = Backups(settings)
        record = backups.create()
        old = new = 0
        passed = taker(settings, at=0, action="restore", id=record.id)
        for at in points(passed, ON_SERVERS, 33):
            operator.execute(insert, (101, 150))
            taker(settings, at=at, action="restore", id=record.id)
            ((there,),) = operator.execute(rows).fetchall()
            assert there in (100, 150)
            old, new = old + (there == 150), new + (there == 100)
            if there == 150:
                operator.execute("DELETE FROM llmspell.kv_store WHERE substr(key, 2)::int > 100")

    tell(killed_server_restores=old + new)
    assert old > 0
