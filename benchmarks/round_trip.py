"""A store that goes from a file to a server and back: the exports on its way must hold the same bytes, and how fast each leg is.

Not here: the rows (`transfer`).
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import llmspell
from llmspell.clock import ManualClock
from llmspell.settings import Settings
from llmspell.storage.contracts.transfer import Transferable
from llmspell.storage.sqlite.backend import open_sqlite
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.reports import Report
from llmspell.storage.transfer.streams import Input, Output
from llmspell.tenant import TenantId

ARTIFACT_BYTES = (1_000, 64_000, 1_000_000, 5_000_000, 20_000_000)
SEED = 2
PIECE_BYTES = 1024 * 1024


async def round_trip(source: Transferable, tenant: TenantId) -> dict[str, Any]:
    """Fill a file from `source`, take it to a server and back, and return records per second of each leg.

    Raises:
        SystemExit: the exports are not the same.
    """
    legs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exports = [folder / f"{number}.json" for number in (1, 2, 3)]
        async with _file(folder / "first.db") as first:
            await _timed(legs, "fill a file", transfer(source, first, clock=ManualClock(), tenant=tenant))
        await _put_artifacts(folder / "first.db", tenant)
        async with _file(folder / "first.db") as first:
            await _timed(legs, "sqlite -> file", _exported(first, exports[0], tenant))
        async with _server() as server:
            await _timed(legs, "file -> postgresql", import_(Input(exports[0]), server))
            await _timed(legs, "postgresql -> file", _exported(server, exports[1], tenant))
        async with _file(folder / "last.db") as last:
            await _timed(legs, "file -> sqlite", import_(Input(exports[1]), last))
            report = await _timed(legs, "sqlite -> file again", _exported(last, exports[2], tenant))
        digests = [_digest_of_data(path) for path in exports]
        sizes = [path.stat().st_size for path in exports]
    if len(set(digests)) != 1:
        raise SystemExit("error: the data of the three exports are not the same")
    rows = {name: table.read for name, table in report.tables.items() if table.read}
    return {"records": report.total, "rows": rows, "file_bytes": sizes[0], "data_sha256": digests[0], "legs": legs}


async def _timed(legs: dict[str, Any], name: str, work: Awaitable[Report]) -> Report:
    started = time.perf_counter()
    report = await work
    seconds = time.perf_counter() - started
    legs[name] = {"per_s": round(report.total / seconds), "seconds": round(seconds, 1)}
    return report


def _exported(store: Transferable, path: Path, tenant: TenantId) -> Awaitable[Report]:
    return export(store, Output(path), clock=ManualClock(), tenant=tenant)


@asynccontextmanager
async def _file(path: Path) -> AsyncIterator[Transferable]:
    store = await open_sqlite(path)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _server() -> AsyncIterator[Transferable]:
    """A server whose data are on a disk, for they may be more than there is memory."""
    from llmspell.ops.embedded_postgres import APP_ROLE, DEV_DATABASE, OWNER_ROLE, EmbeddedCluster
    from llmspell.storage.postgres.backend import open_postgres
    from llmspell.storage.postgres.migrate import migrate

    with EmbeddedCluster.temporary(durable=True) as cluster:
        migrate(cluster.url(role=OWNER_ROLE, database=DEV_DATABASE))
        store = await open_postgres(cluster.url(role=APP_ROLE, database=DEV_DATABASE))
        try:
            yield store
        finally:
            await store.close()


async def _put_artifacts(path: Path, tenant: TenantId) -> None:
    """Put artifacts of all sizes into a session, as an agent does."""
    chance = random.Random(SEED)
    async with llmspell.connect(f"sqlite:///{path}", settings=Settings(), embedder="hashing") as spell:
        acme = spell.tenant(tenant)
        session = await acme.sessions.create()
        for size in ARTIFACT_BYTES:
            await acme.artifacts.put(session.id, f"{size}.bin", chance.randbytes(size))


def _digest_of_data(path: Path) -> str:
    """Return the digest of all between the header, which is the first line, and the summary, which is the last one."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.readline()
        before = b""
        for line in file:
            digest.update(before)
            before = line
    return digest.hexdigest()
