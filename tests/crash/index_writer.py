"""A process that writes vectors until it is killed, while its index is built behind it, and says what it is at.

    python index_writer.py PATH          then one line on stdin for each life: its number

The imports are made once; each life is a fork, which opens the store anew. Lines go to stdout in one system call each: `begin N`
and `end N` around each write of vectors; `build`, `file`, `note`, `idle` when the builder makes a graph, began a file, notes it
in the database, and has ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.index import builder, files, native, planner, recall
from llmspell.storage.index.graph import Graph
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

TENANT, OTHER = TenantId("acme"), TenantId("other")
DIMENSION = 384
ROWS = 30
"""Vectors of one write."""
WRITES_MAX = 100_000


def make_small() -> None:
    """Some hundred rows are worth a graph, and each write worth being taken in."""
    planner.SCAN_COMPONENTS = 100 * DIMENSION  # type: ignore[misc]
    planner.TAIL_ROWS = ROWS // 2  # type: ignore[misc]
    planner.TAIL_SHARE = 0.0  # type: ignore[misc]
    planner.BEAM = 0.5  # type: ignore[misc]
    recall.QUESTIONS = 20  # type: ignore[misc]
    recall.BEAMS = (16, 64)  # type: ignore[misc]


def vector(seed: int) -> list[float]:
    source = np.random.default_rng(seed)
    centre = np.random.default_rng(seed % 10).normal(size=DIMENSION)
    made: list[float] = (centre + source.normal(size=DIMENSION)).astype(np.float32).tolist()
    return made


def inserted(life: int, write: int) -> list[int]:
    """The vectors that a write inserts."""
    first = (life * WRITES_MAX + write) * ROWS
    return list(range(first + 1, first + 1 + ROWS))


def deleted(life: int, write: int) -> list[int]:
    """Those that it deletes: some of the writes before it in the same life."""
    choose = random.Random(life * WRITES_MAX + write)
    return choose.sample(inserted(life, write - 1), ROWS // 2) if write and choose.random() < 0.6 else []


async def write(backend: SqliteBackend, life: int, number: int) -> None:
    """Both in one transaction, so a write is there or is not."""
    new = [VectorEntry(id=UUID(int=n), embedding=vector(n), metadata={"n": n}) for n in inserted(life, number)]
    async with backend.transaction(TENANT) as inside:
        await inside.vectors.insert(new)
        if deleted(life, number):
            await inside.vectors.delete([UUID(int=n) for n in deleted(life, number)])


def say(word: str, *numbers: int) -> None:
    os.write(1, f"{' '.join([word, *map(str, numbers)])}\n".encode())


def told(word: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def saying(*args: Any, **options: Any) -> Any:
        say(word)
        return work(*args, **options)

    return saying


def report() -> None:
    """Say what the builder is at."""
    Graph.build = told("build", Graph.build)  # type: ignore[method-assign]
    Graph.extended = told("build", Graph.extended)  # type: ignore[method-assign]
    made = files.tempfile.mkstemp

    def mkstemp(**options: Any) -> tuple[int, str]:
        file: tuple[int, str] = made(**options)
        say("file")
        return file

    files.tempfile.mkstemp = mkstemp
    real = builder.Builder._build

    def build(self: builder.Builder, name: files.Name) -> None:
        real(self, name)
        say("idle")

    builder.Builder._build = build  # type: ignore[method-assign]


async def live(path: str, life: int) -> None:
    backend = await open_sqlite(path)
    options = backend._runtime.nearest.search_in_process()._builder
    noted = options._options.commit
    options._options = type(options._options)(
        **{
            **{name: getattr(options._options, name) for name in options._options.__struct_fields__},
            "commit": told("note", noted),
        }
    )
    vectors = backend.storages(TENANT).vectors
    for number in range(WRITES_MAX):
        say("begin", number)
        await write(backend, life, number)
        say("end", number)
        await vectors.search(vector(number), limit=5)


def main(path: str) -> None:
    make_small()
    report()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(live(path, int(line)))
            except BaseException:  # noqa: BLE001 - the parent sees that it ended, and here is why
                traceback.print_exc()
            finally:
                os._exit(1)  # it was to be killed
        say("pid", child)
        _, status = os.waitpid(child, 0)
        say("dead", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    native.cdist(), native.index_type()  # what a life would load, and take longer for than it lives
    main(sys.argv[1])
