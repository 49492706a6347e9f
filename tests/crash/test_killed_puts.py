"""A put killed by SIGKILL while it writes its chunks: nothing of it is there, and all that was acknowledged is."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from tests.crash.artifact_writer import TENANT
from tests.crash.torn import torn_in_file, torn_on_server
from tests.fixtures.postgres import PostgresDatabase

import llmspell

SIZE_BYTES = 24 * 1_048_576
KILLS = 8
LIVES_MAX = 40
MOMENT_MAX_S = 0.25  # a put of this size takes about as long
LIMIT_S = 60


class Life:
    """What one writer said before it was killed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.acknowledged: list[str] = []
        self.open = False

    def hear(self, line: str) -> None:
        word, number = line.split()
        self.open = word == "put"
        if word == "done":
            self.acknowledged.append(f"{self.pid}-{number}")


@contextmanager
def writer(url: str, session: UUID) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).parent / "artifact_writer.py"), url, str(session), str(SIZE_BYTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait(LIMIT_S)


def live_and_die(url: str, session: UUID, choose: random.Random) -> Life:
    """Let a writer put something, and kill it a random moment into the first or second put."""
    with writer(url, session) as process:
        assert process.stdout is not None
        life = Life(process.pid)
        puts = choose.randrange(1, 3)
        while puts:
            line = process.stdout.readline()
            life.hear(line)
            puts -= line.startswith("put")
        moment = time.perf_counter() + choose.random() * MOMENT_MAX_S
        while time.perf_counter() < moment:
            pass
        process.kill()
        for line in process.stdout:
            life.hear(line)
        return life


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_a_killed_put_leaves_nothing_and_an_acknowledged_one_stays(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    if backend == "sqlite":
        url = f"sqlite:///{path}"
    else:
        database: PostgresDatabase = request.getfixturevalue("postgres_database")
        url = database.app_url
    choose, lives, before = random.Random(5), [], temporary_files()
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        await spell.tenants.create(TENANT)
        tenant = spell.tenant(TENANT)
        session = (await tenant.sessions.create()).id
        while sum(life.open for life in lives) < KILLS and len(lives) < LIVES_MAX:
            lives.append(live_and_die(url, session, choose))

        assert sum(life.open for life in lives) == KILLS, "too few kills landed inside a put"
        # What was not acknowledged is there whole or not at all: the kill may have come between the commit and the line.
        names = {one.name: one.id for one in (await tenant.artifacts.list(session=session, limit=1_000)).items}
        assert {name for life in lives for name in life.acknowledged} <= names.keys()
        for id in names.values():
            assert await tenant.artifacts.verify(id)
        assert (torn_in_file(path) if backend == "sqlite" else torn_on_server(database.superuser_url)) == []
        assert len(names) < sum(len(life.acknowledged) + life.open for life in lives), "no kill came before its commit"
    assert temporary_files() <= before


def temporary_files() -> set[str]:
    """Names in the folder of temporary files that the writers could have left there."""
    return {
        path.name for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith("tmp") and path.is_file()
    }
