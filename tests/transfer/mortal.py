"""Imports and transfers that kill themselves at a given point: a program that forks one child for each, so that none has to start
Python anew.

It reads lines of JSON from its standard input, and answers each by a line: what the child had told before it ended, and how that
was.

    {"kind": "import", "given": "made.json", "target": "sqlite:///…", "point": 7}

A point is how many batches were written when the child kills itself; `before` and `after` are around the commit.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from llmspell.clock import ManualClock
from llmspell.ids import IdSource
from llmspell.settings import PostgresSettings, Settings, StorageSettings
from llmspell.storage.contracts import transfer as contract
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.transfer import Conflicting, OnConflict, Record, Table, TransferTarget
from llmspell.storage.open import open_backend
from llmspell.storage.postgres import backend as _servers
from llmspell.storage.sqlite import backend as _files
from llmspell.storage.sqlite import transfer as of_files
from llmspell.storage.text.analyser import Analyser
from llmspell.storage.transfer import importer, reader
from llmspell.storage.transfer.streams import Input
from llmspell.tenant import TenantId

BATCH_ROWS = 1
"""Small batches: many points."""


def tell(pipe: int, word: str) -> None:
    """Say how far it is, by one write that no kill cuts in two."""
    os.write(pipe, f"{word}\n".encode())


class MortalTarget:
    """A target that ends its process at a point."""

    def __init__(self, target: TransferTarget, point: int | str, pipe: int) -> None:
        self._target, self._point, self._pipe = target, point, pipe
        self._written = 0

    async def write(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        done = await self._target.write(table, rows)
        self._written += 1
        tell(self._pipe, f"{table.name} {done.inserted}")
        if self._written == self._point:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    async def finish(self) -> list[str]:
        return await self._target.finish()

    async def commit(self) -> None:
        if self._point == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await self._target.commit()
        tell(self._pipe, "committed")
        if self._point == "after":
            os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """A store whose target is mortal."""

    def __init__(self, store: Backend, point: int | str, pipe: int) -> None:
        self._store, self._point, self._pipe = store, point, pipe

    def transfer_source(self, tenant: TenantId | None) -> Any:
        return self._store.transfer_source(tenant)

    @asynccontextmanager
    async def transfer_target(
        self, tenant: TenantId | None, *, on_conflict: OnConflict
    ) -> AsyncIterator[TransferTarget]:
        async with self._store.transfer_target(tenant, on_conflict=on_conflict) as target:
            yield MortalTarget(target, self._point, self._pipe)


async def opened(url: str, operator_url: str | None) -> Backend:
    """Open a store as the program of a user does."""
    clock = ManualClock()
    server = PostgresSettings(operator_url=operator_url)
    settings = Settings(storage=StorageSettings(postgres=server))
    return await open_backend(url, settings=settings, clock=clock, ids=IdSource(clock))


async def run(asked: dict[str, Any], pipe: int) -> None:
    """Do what was asked, up to its point."""
    store = await opened(asked["target"], asked.get("operator"))
    target = Mortal(store, asked["point"], pipe)
    if asked["kind"] == "import":
        await importer.import_(Input(asked["given"]), target)
    else:
        source = await opened(asked["source"], None)
        await importer.transfer(source, target, clock=ManualClock())
        await source.close()
    await store.close()


def child(asked: dict[str, Any], pipe: int) -> None:
    """Run in a process that was just forked."""
    status = 1
    try:
        asyncio.run(run(asked, pipe))
        status = 0
    except Exception as exc:  # noqa: BLE001 - the parent reads it
        tell(pipe, f"error {exc}")
    finally:
        os._exit(status)


def main() -> None:
    """Fork a child for each line."""
    contract.BATCH_ROWS = reader.BATCH_ROWS = of_files.BATCH_ROWS = BATCH_ROWS  # type: ignore[attr-defined]
    for queries in (_files.queries(), _servers.queries()):
        assert len(list(queries.transfer)) > 100  # read once, for all children, as the stemmer below
    Analyser("english")
    for line in sys.stdin:
        heard, told = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(heard)
            child(json.loads(line), told)
        os.close(told)
        with os.fdopen(heard) as words:
            said = words.read().splitlines()
        _, status = os.waitpid(process, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"told": said, "killed": killed}), flush=True)


if __name__ == "__main__":
    main()
