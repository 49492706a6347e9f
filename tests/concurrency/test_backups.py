"""Backups beside writers of other processes: each is of one instant, and nobody waits for long."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from tests.fixtures.backups import backups_of, fill
from tests.fixtures.soak import size, tell

from llmspell.ops.backup import Backups
from llmspell.ops.backup.records import Record

PAIRS = size(ci=3, soak=60)
LIMIT_S = 60
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA synchronous = OFF")
number = 0
print("ready", flush=True)
while sys.stdin.readable() and number < 200_000:
    number += 1
    connection.execute("BEGIN IMMEDIATE")
    for side in ("left", "right"):
        connection.execute(
            "INSERT INTO kv_store (tenant_id, key, value, metadata, created_at, updated_at) VALUES (?, ?, ?, '{}', 0, 0)",
            (sys.argv[2], f"{side}-{number}", b"x" * 400),
        )
    connection.execute("COMMIT")
"""


def sides(path: Path) -> set[tuple[int, int]]:
    query = """SELECT sum(key LIKE 'left-%'), sum(key LIKE 'right-%') FROM kv_store WHERE tenant_id LIKE 'writer%'
        GROUP BY tenant_id"""
    with sqlite3.connect(path) as file:
        found = set(file.execute(query).fetchall())
    file.close()
    return found


async def test_backups_beside_two_writing_processes_are_each_of_one_instant(tmp_path: Path) -> None:
    """Both halves of each pair were written in one transaction: a backup has both or none."""
    store = tmp_path / "s.db"
    await fill(f"sqlite:///{store}", "Ada moved to Zurich.")
    command = [sys.executable, "-c", WRITER, str(store)]
    writers = [
        subprocess.Popen([*command, f"writer{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in "12"
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        records = await asyncio.to_thread(taken_by_two, store, tmp_path / "b")
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=LIMIT_S)

    backups = backups_of(store, tmp_path / "b")
    rows = []
    for number, record in enumerate(records):
        copy = tmp_path / f"{number}.db"
        backups.restore(record.id, into=str(copy))
        found = sides(copy)
        assert all(left == right for left, right in found)
        rows.append(sum(left for left, _ in found))
    tell(backups_beside_writers=len(rows))
    assert len({record.id for record in records}) == 2 * PAIRS
    assert max(rows) > min(rows) > 0
    assert all(record.state == "verified" for record in records)


def taken_by_two(store: Path, folder: Path) -> list[Record]:
    """Take backups on two threads at once."""
    records: list[Record] = []

    def take(backups: Backups) -> None:
        for _ in range(PAIRS):
            records.append(backups.create())

    threads = [threading.Thread(target=take, args=(backups_of(store, folder),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(records, key=lambda record: record.created_at)
