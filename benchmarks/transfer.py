"""How fast does a store go into a file and come back, and in how much memory?

    python benchmarks/transfer.py [--json] [--small] [--backends sqlite postgres] [--gigabytes N]
    python benchmarks/transfer.py --each-dimension [--vectors 10000] [--json]

The set of PF-041…046: 10,000 free vectors of 384 dimensions and 1,000 entities in one tenant. Records per second of an export (to a
file, synced), of an import into a fresh store (one transaction, committed), and of a transfer without a file, each the best and the
median of some rounds, and the processor time that this process took for a record, on all of its threads; beside what is required
(PF-041…044), and JSON alone (PF-045, 046). The digests of every export, and of the store after every import, are compared.

`--gigabytes N` writes a file of so many, reads it into a store, and exports that again, each in a process of its own, and reports
the most memory that each had; the target is 200 MB for 2.

`--each-dimension` fills a file with `--vectors` vectors of each of the four dimensions, a thousand entities of five versions each,
and artifacts up to 20 MB, and takes it file → export → server → export → file → export (`round_trip`). The `data` of the three
exports must be the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import show
from llmspell.clock import ManualClock, SystemClock
from llmspell.codec import DIMENSIONS
from llmspell.storage.contracts.transfer import INFINITY, Record, Table, json_value, open_instant
from llmspell.storage.contracts.transfer_tables import BY_NAME, SCHEMA_VERSION
from llmspell.storage.sqlite.backend import open_sqlite
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.reports import Report
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.verifier import verify
from llmspell.tenant import TenantId
from machine import described
from stores import DATABASES, opened

VECTORS, ENTITIES = 10_000, 1_000
DIMENSION = 384
VERSIONS = 5
ROUNDS, ROUNDS_SMALL = 7, 2
SEED = 1
TENANT = TenantId("acme")
AT = datetime(2026, 5, 1, tzinfo=UTC)
REQUIRED = {
    ("sqlite", "export"): 2_200,
    ("postgres", "export"): 1_400,
    ("sqlite", "import"): 1_800,
    ("postgres", "import"): 1_100,
    ("json", "write"): 5_000,
    ("json", "read"): 3_300,
}
"""PF-041…046, in records per second."""
TARGETS = {("sqlite", "export"): 50_000, ("sqlite", "import"): 30_000}
MEMORY_TARGET_MB = 200
GIGABYTE = 1_000_000_000
RECORD_BYTES = 2_500
"""About what a vector of 384 dimensions takes in a file."""


class Taken(msgspec.Struct, frozen=True):
    """How long something took, and how much of it this process was at work, on all of its threads."""

    seconds: float
    cpu_seconds: float


class Rows:
    """A store that exists only while it is read: so many vectors and entities, the same for the same seed."""

    backend = "memory"
    migrations = ("V001__initial_setup",)
    schema_version = SCHEMA_VERSION

    def __init__(
        self, vectors: int, entities: int, *, dimensions: Sequence[int] = (DIMENSION,), versions: int = 1
    ) -> None:
        self._versions = versions
        self._counts = {f"vector_embeddings_{dimension}": vectors for dimension in dimensions}
        self._counts["entities"] = entities * versions

    @asynccontextmanager
    async def transfer_source(self, tenant: TenantId | None) -> AsyncIterator[Rows]:
        yield self

    async def count(self, table: Table) -> int:
        return self._counts.get(table.name, 0)

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Record]]:
        for start in range(0, self._counts.get(table.name, 0), 250):
            numbers = range(start, min(start + 250, self._counts[table.name]))
            if table.dimension:
                yield [vector(number, table.dimension) for number in numbers]
            else:
                yield [entity(*divmod(number, self._versions), self._versions) for number in numbers]


def vector(number: int, dimension: int = DIMENSION) -> Record:
    """Return a vector as an agent stores it: random, with a little metadata."""
    identity = UUID(int=number << 64 | 0x7000_8000)
    pool = _pool()
    start = number * 4 % (len(pool) - dimension * 4) // 4 * 4
    packed = pool[start : start + dimension * 4]
    metadata = json_value({"source": f"file-{number % 97}.md", "page": number % 31})
    table = BY_NAME[f"vector_embeddings_{dimension}"]
    at = AT + timedelta(microseconds=number)
    return table.record(TENANT, identity, "docs", packed, metadata, at, at, f"free-{dimension}", identity, 0)


def entity(number: int, version: int = 0, versions: int = 1) -> Record:
    """Return a version of an entity: each is true for a day, and the last one from then on."""
    begun = AT + timedelta(seconds=number)
    at = begun + timedelta(days=version)
    end = INFINITY if version == versions - 1 else open_instant(at + timedelta(days=1))
    return BY_NAME["entities"].record(
        *(TENANT, UUID(int=number << 64 | 0x7000_9000), "person", f"Person {number}", json_value({"age": version})),
        *(at, end, begun, INFINITY, begun, "agent", None, f"person {number}"),
    )


_POOL: list[bytes] = []


def _pool() -> bytes:
    """A million bytes of plausible components; vectors are windows of it, so that making them costs next to nothing."""
    if not _POOL:
        import array

        chance = random.Random(SEED)
        _POOL.append(array.array("f", (chance.gauss(0, 1) for _ in range(250_000))).tobytes())
    return _POOL[0]


def require(report: Report, wanted: Report) -> None:
    """Stop unless every table has the digest that it must have."""
    for name, table in wanted.tables.items():
        if report.tables[name].sha256 != table.sha256:
            raise SystemExit(f"error: {name} has another digest")


async def measure(backend: str, made: Path, wanted: Report, rounds: int, folder: Path) -> dict[str, Any]:
    """Import into fresh stores, export and transfer from them; return records per second."""
    times: dict[str, list[Taken]] = {"import": [], "export": [], "transfer": []}
    for number in range(rounds):
        async with opened(backend) as store, opened("sqlite") as other:
            backing, second = store.spell._backend, other.spell._backend
            times["import"].append(await _timed(import_(Input(made), backing)))
            out = folder / f"{backend}-{number}.json"
            exported: list[Report] = []
            writing = export(backing, Output(out), clock=ManualClock(), tenant=TENANT)
            times["export"].append(await _timed(writing, exported))
            require(exported[0], wanted)
            times["transfer"].append(await _timed(transfer(backing, second, clock=ManualClock(), tenant=TENANT)))
            if not (await verify(second, Input(out), tenant=TENANT)).equal:
                raise SystemExit("error: what was transferred differs from what was exported")
            out.unlink()
    total = wanted.total
    return {
        name: {
            "per_s_best": round(total / min(one.seconds for one in taken)),
            "per_s_median": round(total / statistics.median(one.seconds for one in taken)),
            "cpu_us_each": round(min(one.cpu_seconds for one in taken) / total * 1e6, 1),
            **_beside(backend, name),
        }
        for name, taken in times.items()
    }


def _beside(backend: str, name: str) -> dict[str, int]:
    required, target = REQUIRED.get((backend, name)), TARGETS.get((backend, name))
    return {**({"required": required} if required else {}), **({"target": target} if target else {})}


async def _timed(work: Any, into: list[Any] | None = None) -> Taken:
    cpu, started = time.process_time(), time.perf_counter()
    result = await work
    if into is not None:
        into.append(result)
    return Taken(time.perf_counter() - started, time.process_time() - cpu)


def json_alone(rounds: int) -> dict[str, Any]:
    """Encode and decode 10,000 records, without a store."""
    table = BY_NAME[f"vector_embeddings_{DIMENSION}"]
    rows = [vector(number) for number in range(VECTORS)]
    encoder, decoder = msgspec.json.Encoder(), msgspec.json.Decoder(table.record)
    writing, reading = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        encoded = [encoder.encode(row) for row in rows]
        writing.append(time.perf_counter() - started)
        started = time.perf_counter()
        decoded = [decoder.decode(line) for line in encoded]
        reading.append(time.perf_counter() - started)
        if [encoder.encode(row) for row in decoded] != encoded:
            raise SystemExit("error: JSON does not give back what it was given")
    return {
        "write": {"per_s_best": round(len(rows) / min(writing)), "required": REQUIRED["json", "write"]},
        "read": {"per_s_best": round(len(rows) / min(reading)), "required": REQUIRED["json", "read"]},
    }


async def run(backends: list[str], *, small: bool) -> dict[str, Any]:
    """Measure, and return one document."""
    rounds = ROUNDS_SMALL if small else ROUNDS
    share = 10 if small else 1
    figures: dict[str, Any] = {"json": json_alone(rounds)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "made.json"
        source = Rows(VECTORS // share, ENTITIES // share)
        wanted = await export(source, Output(made), clock=ManualClock(), tenant=TENANT)  # type: ignore[arg-type]
        for backend in backends:
            figures[backend] = await measure(backend, made, wanted, rounds, folder)
    return {
        "benchmark": "transfer",
        "small": small,
        "records": wanted.total,
        "figures": figures,
        **described(),
    }


# --- memory -----------------------------------------------------------------------------------------------------------


def child(step: str, records: int, folder: Path) -> None:
    """One step in this process; prints what it took."""
    before = _peak_mb()
    started = time.perf_counter()
    report = asyncio.run(_step(step, records, folder))
    seconds = time.perf_counter() - started
    digests = {name: table.sha256 for name, table in report.tables.items()}
    print(
        json.dumps(
            {
                "step": step,
                "records": report.total,
                "seconds": round(seconds, 1),
                "peak_mb": _peak_mb(),
                "started_with_mb": before,
                "digests": digests,
            }
        )
    )


async def _step(step: str, records: int, folder: Path) -> Report:
    made, again = folder / "made.json", folder / "again.json"
    if step == "write":
        return await export(Rows(records, records // 10), Output(made), clock=SystemClock(), tenant=TENANT)  # type: ignore[arg-type]
    store = await open_sqlite(folder / "store.db")
    try:
        if step == "import":
            return await import_(Input(made), store)
        return await export(store, Output(again), clock=SystemClock(), tenant=TENANT)
    finally:
        await store.close()


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)


def memory(gigabytes: float) -> dict[str, Any]:
    """Run each step in a process of its own, and compare the digests."""
    records = round(gigabytes * GIGABYTE / RECORD_BYTES)
    steps: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in ("write", "import", "export"):
            asked = [sys.executable, __file__, "--child", step, "--records", str(records), "--folder", folder]
            found = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
            digests = found.pop("digests")
            if digests != steps.setdefault("digests", digests):
                raise SystemExit(f"error: {step} has other digests")
            steps[step] = found
        steps["file_bytes"] = (Path(folder) / "made.json").stat().st_size
    steps.pop("digests")
    steps["target_mb"] = MEMORY_TARGET_MB
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--small", action="store_true", help="a tenth of the records, fewer rounds")
    parser.add_argument("--gigabytes", type=float, help="measure memory with a file of so many gigabytes instead")
    parser.add_argument(
        "--each-dimension", action="store_true", help="a round trip with vectors of all dimensions instead"
    )
    parser.add_argument(
        "--vectors", type=int, default=VECTORS, help="how many of each dimension (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--child", choices=("write", "import", "export"), help=argparse.SUPPRESS)
    parser.add_argument("--records", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.records, arguments.folder)
    elif arguments.each_dimension:
        from round_trip import round_trip

        source = Rows(arguments.vectors, ENTITIES, dimensions=DIMENSIONS, versions=VERSIONS)
        document = asyncio.run(round_trip(source, TENANT))  # type: ignore[arg-type]
        show({"benchmark": "transfer", "round_trip": document, **described()}, as_json=arguments.json)
    elif arguments.gigabytes:
        document = {"benchmark": "transfer", "memory": memory(arguments.gigabytes), **described()}
        show(document, as_json=arguments.json)
    else:
        show(asyncio.run(run(arguments.backends, small=arguments.small)), as_json=arguments.json)


if __name__ == "__main__":
    main()
