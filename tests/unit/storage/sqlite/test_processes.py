"""Several processes on one file, and processes that die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw

from llmspell.storage.sqlite.backend import open_sqlite
from llmspell.tenant import TenantId

TENANT = TenantId("t1")
ROUNDS = 20
PROCESSES = 8
WRITES = 40

# Each acknowledged write is a line on stdout, written in one system call after the answer came.
WRITER = textwrap.dedent("""
    import asyncio, os, sys
    from llmspell.storage.sqlite.backend import open_sqlite
    from llmspell.tenant import TenantId

    async def main(path, name, count):
        backend = await open_sqlite(path, busy_timeout_s=60)
        storages = backend.storages(TenantId("t1"))
        async def write(task):
            for number in range(count):
                key = f"{name}-{task}-{number}"
                if number % 5 == 4:
                    async with backend.transaction(TenantId("t1")) as inside:
                        await inside.kv.set(key, b"v" * 500)
                        await inside.kv.set(key + "-twin", b"v" * 500)
                else:
                    await storages.kv.set(key, b"v" * 500)
                os.write(1, (key + "\\n").encode())
        await asyncio.gather(*(write(task) for task in range(4)))
        await backend.close()

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
""")


def start(path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def test_processes_that_open_and_write_one_fresh_file_lose_nothing_and_meet_no_error(path: Path) -> None:
    started = [start(path, f"p{number}", WRITES) for number in range(PROCESSES)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()

    backend = await open_sqlite(path)
    keys = await backend.storages(TENANT).kv.list_keys()
    await backend.close()
    twins = PROCESSES * 4 * (WRITES // 5)
    assert len(keys) == PROCESSES * 4 * WRITES + twins


async def test_every_acknowledged_write_survives_a_kill_in_the_middle_of_writing(path: Path) -> None:
    acknowledged: set[str] = set()
    choose = random.Random(7)
    for number in range(ROUNDS):
        process = start(path, f"r{number}", 1_000_000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(choose.randrange(1, 200))]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL  # it was writing: its story has a million more
        whole = (b"".join(lines) + rest).decode().split("\n")[:-1]
        assert whole
        acknowledged.update(whole)

    backend = await open_sqlite(path)
    keys = set(await backend.storages(TENANT).kv.list_keys())
    await backend.close()
    assert acknowledged <= keys
    assert all(key[: -len("-twin")] in keys for key in keys if key.endswith("-twin"))
    check = apsw.Connection(os.fspath(path))
    assert check.pragma("integrity_check") == "ok"
    check.close()
