"""An import, or a transfer, whose process is killed: the target is as it was, or complete, and never between."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, file_store, server_store

from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.transfer_tables import TABLES
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_
from llmspell.storage.transfer.streams import Input, Output

FILE_KILLS, SERVER_KILLS = size(ci=102, soak=2_000), size(ci=12, soak=400)
Asked = dict[str, Any]


@contextmanager
def mortal() -> Iterator[Any]:
    """A program that runs what it is asked for in a child, and says how that ended."""
    script = str(Path(__file__).parent / "mortal.py")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(**asked: Any) -> dict[str, Any]:
            process.stdin.write(json.dumps(asked) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            found: dict[str, Any] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return found

        yield ask
        process.stdin.close()


async def state(store: Backend) -> dict[str, tuple[int, str]]:
    """What a store holds, by count and digest."""
    report = await export(store, Output("-", stream=io.BytesIO()), clock=CLOCK)
    return {name: (table.read, table.sha256) for name, table in report.tables.items()}


def rows_of(path: Path) -> dict[str, list[Any]]:
    """Every row of every table of a file, as it stands there."""
    with closing(apsw.Connection(str(path))) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}


def points(kills: int, whole: list[str]) -> list[int | str]:
    """Points spread over all batches that are written, and both sides of the commit."""
    batches = len(whole) - 1
    assert batches >= 100, "there are too few points"
    return [
        *dict.fromkeys(
            1 + batches * n // (kills - 2) for n in range(kills - 2) if batches * n // (kills - 2) < batches
        ),
        "before",
        "after",
    ]


def judge(found: dict[str, Any], point: int | str, now: object, before: object, after: object) -> None:
    """Compare what is there with what may be."""
    assert found["killed"], (point, found)
    written = [word for word in found["told"] if not word.endswith(" 0")]
    assert written, "the kill came before anything was written"
    committed = "committed" in found["told"]
    assert committed == (point == "after"), (point, found["told"][-1])
    assert now == (after if committed else before), (
        f"killed at {point}, after {found['told'][-1]!r}: neither as it was nor complete"
    )


@pytest.mark.timeout(size(ci=300, soak=7_200))
@pytest.mark.parametrize("kind", ["import", "transfer"])
async def test_a_kill_anywhere_leaves_a_file_as_it_was_or_complete(kind: str, tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    origin, empty, target = (tmp_path / f"{name}.db" for name in ("origin", "empty", "target"))
    async with file_store(origin) as store:
        await Drawn(SEED, ["acme", "globex"], each=2, vectors=2, artifact_bytes=100).load(store)
        await export(store, Output(made), clock=CLOCK)
    async with file_store(empty) as store:
        await Drawn(SEED + 1, ["before"], each=1, vectors=1, artifact_bytes=100).load(store)
        before = await state(store)
    untouched = rows_of(empty)
    shutil.copy(empty, target)
    async with file_store(target) as store:
        await import_(Input(made), store)
        after = await state(store)
    with mortal() as ask:
        asked: Asked = {
            "kind": kind,
            "given": str(made),
            "source": f"sqlite:///{origin}",
            "target": f"sqlite:///{target}",
        }
        shutil.copy(empty, _fresh(target))
        whole = ask(**asked, point=0)
        assert whole["told"][-1:] == ["committed"], whole
        chosen = points(FILE_KILLS, whole["told"])
        for point in chosen:
            shutil.copy(empty, _fresh(target))
            found = ask(**asked, point=point)
            if point == "after":
                async with file_store(target) as store:
                    judge(found, point, await state(store), before, after)
            else:
                judge(found, point, rows_of(target), untouched, after)
    assert len(chosen) >= 100
    tell(killed_transfers=len(chosen), torn_transfers=0)


@pytest.mark.timeout(size(ci=300, soak=7_200))
async def test_a_kill_anywhere_leaves_a_server_as_it_was_or_complete(
    tmp_path: Path, postgres_database: PostgresDatabase
) -> None:
    made = tmp_path / "made.json"
    async with file_store(tmp_path / "origin.db") as origin:
        await Drawn(SEED, ["acme", "globex"], each=2, vectors=2, artifact_bytes=100).load(origin)
        await export(origin, Output(made), clock=CLOCK)
        after = await state(origin)
    nothing = {table.shown: 0 for table in TABLES}
    async with server_store(postgres_database) as server:
        before = await state(server)
        assert {name: count for name, (count, _) in before.items()} == nothing
        with mortal() as ask:
            asked: Asked = {
                "kind": "import",
                "given": str(made),
                "target": postgres_database.app_url,
                "operator": postgres_database.operator_url,
            }
            # The last one commits: after it the database is not empty any more.
            for point in points(SERVER_KILLS, ["x"] * 120):
                found = ask(**asked, point=point)
                judge(found, point, await state(server), before, after)
    tell(killed_transfers=SERVER_KILLS, torn_transfers=0)


def _fresh(path: Path) -> Path:
    """Remove a store with its log."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return path
