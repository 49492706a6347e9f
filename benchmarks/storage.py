"""What does every concern of the storage cost, on every backend, beside the figures that are required?

    python benchmarks/storage.py [--json] [--small] [--backends memory sqlite postgres]

Each line is one call through the public API, one caller after another: p50, p95 and p99 in milliseconds, calls per second,
round trips to the database, and the required figure with its row. 24 other tenants have rows in every table, and a server is asked
as the role that serves. Nothing is embedded: memories come with ready vectors. Throughput is that of concurrent callers, or of
batches: of vectors, 256 at once, given as rows of a float32 matrix of numpy and as lists of floats, with metadata of two keys. What
was written is read back and counted, and each of those vectors compared byte by byte: a wrong answer ends the run. The unit of work
against plain autocommit is that of `units_of_work.py`.

A file is written with synchronous=FULL where the temporary folder is. The temporary server does not wait for a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import timed
from llmspell import observe
from llmspell.spell import Spell, Tenant
from machine import described
from stores import BACKENDS, Opened, opened

CALLS, CALLS_SMALL = 1_000, 200
OTHERS, OTHERS_ROWS = 24, 12
CONCURRENT = 16
EVENTS, EVENTS_SMALL = 60_000, 12_000
EVENT_BATCH = 1_000
DIMENSION = 384
CONTENT = bytes(range(256)) * 40  # 10 KiB
BLOCKS, BLOCKS_SMALL = 40, 20
VECTOR_BATCH, VECTOR_BATCHES, VECTOR_BATCHES_SMALL = 256, 40, 8
MISSING = "error: {} has another answer"


class Required(msgspec.Struct, frozen=True):
    """A figure of the requirements: p50, p95 and p99 in milliseconds, or calls per second."""

    row: str
    figure: str


LATENCY = {
    "vectors.insert": Required("PF-063", "0.5 / 2 / 5 ms"),
    "vectors.search": Required("PF-064", "1 / 5 / 15 ms"),
    "graph.assert_fact": Required("PF-065", "0.8 / 3 / 8 ms"),
    "graph.neighbours as of": Required("PF-066", "2 / 10 / 25 ms"),
    "sessions.create": Required("PF-067", "0.5 / 2 / 5 ms, ours 0.4"),
    "sessions.get": Required("PF-067", "0.5 / 2 / 5 ms, ours 0.4"),
    "sessions.update": Required("PF-067", "0.5 / 2 / 5 ms, ours 0.4"),
    "sessions.delete": Required("PF-067", "0.5 / 2 / 5 ms, ours 0.4"),
    "artifacts.put 10 KiB": Required("PF-068", "1 / 5 / 15 ms"),
    "event_log.append": Required("PF-069", "0.1 / 1 / 3 ms"),
    "kv.get": Required("PF-094", "memory 0.001, file 0.05, server 0.5 ms"),
    "kv.set": Required("PF-095", "memory 0.002, file 0.2, server 1 ms"),
}
THROUGHPUT = {
    "vectors inserted, 256 at once, rows of numpy": Required("PF-071, VEC-09", "1,000/s, ours 20,000"),
    "vectors inserted, 256 at once, lists of floats": Required("PF-071, VEC-09", "1,000/s, ours 20,000"),
    "vector searches": Required("PF-072", "500/s"),
    "events appended, 1,000 at once": Required("PF-073", "5,000/s, ours 30,000"),
    "sessions created": Required("PF-074", "1,000/s"),
    "callers at once, each in a transaction": Required("PF-075", "100 connections"),
}


def vector(seed: int) -> list[float]:
    """Return a vector that the seed alone decides."""
    source = random.Random(seed)
    return [source.gauss(0, 1) for _ in range(DIMENSION)]


class Calls:
    """The calls of one tenant; what they made is kept for those that need it, and for the check at the end."""

    def __init__(self, tenant: Tenant, vectors: Sequence[list[float]]) -> None:
        self.tenant = tenant
        self.vectors = vectors
        self.made: dict[str, list[Any]] = {}

    def made_by(self, call: str, number: int) -> Any:
        """What a call made when its turn was `number`."""
        return self.made[call][number]

    def every(self) -> dict[str, Callable[[int], Awaitable[Any]]]:
        """Return every call by its name, in an order in which each finds what it needs."""
        t, made = self.tenant, self.made_by
        return {
            "kv.set": lambda n: t.kv.set(f"k{n}", b"v" * 100),
            "kv.get": lambda n: t.kv.get(f"k{n}"),
            "vectors.insert": lambda n: t.vectors.insert({"embedding": self.vectors[n], "metadata": {"n": n}}),
            "vectors.search": lambda n: t.vectors.search(self.vectors[n], limit=10),
            "memory.add": lambda n: t.memory.add(f"note {n} of {n % 7}", session="s", embedding=self.vectors[n]),
            "memory.get": lambda n: t.memory.get(made("memory.add", n).id),
            "graph.assert_fact": lambda n: t.graph.assert_fact(f"person-{n}", "knows", f"person-{n + 1}"),
            "graph.neighbours as of": lambda n: t.graph.neighbours(f"person-{n}", as_of="2099-01-01"),
            "procedures.record": lambda n: t.procedures.record("scope", f"key-{n % 50}", f"value-{n % 5}"),
            "agent_state.save": lambda n: t.agent_state.save(f"agent-{n}", {"step": n, "plan": ["a", "b"]}),
            "agent_state.get": lambda n: t.agent_state.get(f"agent-{n}"),
            "workflow_state.create": lambda n: t.workflow_state.create(f"flow-{n}", {"step": 0}),
            "workflow_state.transition": lambda n: t.workflow_state.transition(f"flow-{n}", "running"),
            "sessions.create": lambda n: t.sessions.create(data={"user": "ada", "n": n}),
            "sessions.get": lambda n: t.sessions.get(made("sessions.create", n).id),
            "sessions.update": lambda n: t.sessions.update(made("sessions.create", n).id, data={"n": n + 1}),
            "artifacts.put 10 KiB": lambda n: t.artifacts.put(
                made("sessions.create", n % 20).id, f"report-{n}", n.to_bytes(8, "big") + CONTENT
            ),
            "artifacts.read 10 KiB": lambda n: t.artifacts.read(made("artifacts.put 10 KiB", n).id),
            "sessions.delete": lambda n: t.sessions.delete(made("sessions.create", n).id),
            "event_log.append": lambda n: t.event_log.append("agent.step", {"n": n}),
            "event_log.list, a page of 100": lambda n: t.event_log.list(limit=100),
            "hook_history.record": lambda n: t.hook_history.record(self.execution(n)),
            "jobs.enqueue": lambda n: t.jobs.enqueue("bench.kind", {"n": n}),
            "audit.record": lambda n: t.audit.record("bench", principal="ada", resource=f"thing-{n}"),
            "once.kv.set": lambda n: t.once(f"key-{n}").kv.set(f"o{n}", b"v"),
            "a transaction of three writes": self.transaction,
        }

    def execution(self, number: int) -> Any:
        """A hook execution."""
        from llmspell.storage.contracts.hook_history import NewHookExecution

        return NewHookExecution(
            hook_id="guard",
            hook_type="BeforeToolExecution",
            context={"n": number},
            result="continue",
            duration_ms=1,
            triggering_component="agent",
            component_id="a-1",
        )

    async def transaction(self, number: int) -> None:
        """Three writes that are kept together."""
        async with self.tenant.transaction() as tx:
            await tx.kv.set(f"t{number}", b"v")
            await tx.agent_state.save(f"tx-{number}", {"n": number})
            await tx.event_log.append("agent.step", {"n": number})


async def timed_call(calls: Calls, name: str, call: Callable[[int], Awaitable[Any]], count: int) -> dict[str, Any]:
    """Time `count` calls, count the round trips of one more kind, and keep what they made."""
    made: list[Any] = []

    async def keep(number: int) -> None:
        made.append(await call(number))

    await keep(0)  # whatever happens only once, such as asking whether the tenant is active
    with observe.counting_queries() as counts:
        await keep(1)
    round_trips = sum(counts.round_trips.values())
    seconds = sorted(await timed(keep, count - 2, first=2))
    calls.made[name] = made
    found: dict[str, Any] = {
        **{f"p{p}_ms": round(statistics.quantiles(seconds, n=100)[p - 1] * 1e3, 4) for p in (50, 95, 99)},
        "per_s": round(len(seconds) / sum(seconds)),
        "round_trips": round_trips,
    }
    if name in LATENCY:
        found["required"] = f"{LATENCY[name].figure} ({LATENCY[name].row})"
    return found


async def check(calls: Calls, count: int) -> None:
    """Compare what is there with what was written.

    Raises:
        SystemExit: something else is there.
    """
    t, made = calls.tenant, calls.made
    answers = {
        "kv.get": made["kv.get"] == [b"v" * 100] * count,
        "vectors.search": all(hits[0].metadata == {"n": n} for n, hits in enumerate(made["vectors.search"])),
        "memory": await t.memory.count() == count,
        "graph": all(reached for reached in made["graph.neighbours as of"]),
        "procedures": sum([one.frequency for one in (await t.procedures.learned(min_frequency=1, limit=1_000)).items])
        == count,
        "agent_state": [one.data["step"] for one in made["agent_state.get"]] == list(range(count)),
        "workflow_state": (await t.workflow_state.counts())["running"] == count,
        "sessions": await t.sessions.count() == 0 and made["sessions.delete"] == [True] * count,
        "artifacts": [content[:8] for content in made["artifacts.read 10 KiB"]]
        == [n.to_bytes(8, "big") for n in range(count)],
        "artifacts after their sessions": (await t.artifacts.stats()).artifacts == 0,
        "event_log": await t.event_log.count() == 2 * count,
        "hook_history": (await t.hook_history.statistics()).executions == count,
        "jobs": (await t.jobs.counts())["queued"] == count,
        "audit": (await t.audit.verify()).intact,
        "transactions": len(await t.kv.list_keys("t")) == count,
    }
    wrong = [name for name, right in answers.items() if not right]
    if wrong:
        raise SystemExit(MISSING.format(", ".join(wrong)))


async def per_second(work: Callable[[int], Awaitable[object]], count: int, *, callers: int, each: int = 1) -> int:
    """Run `count` calls by concurrent callers, and return how many things, `each` per call, were done in a second."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await work(number)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return round(count * each / (time.perf_counter() - started))


async def throughput(spell: Spell, vectors: Sequence[list[float]], *, small: bool) -> dict[str, Any]:
    """Measure what many callers, or batches, get done."""
    from llmspell.storage.contracts.event_log import NewEvent

    await spell.tenants.create("busy", exist_ok=True)
    t = spell.tenant("busy")
    calls = CALLS_SMALL if small else CALLS
    events = EVENTS_SMALL if small else EVENTS
    batch = [NewEvent(type="agent.step", payload={"tool": "search", "n": n}) for n in range(EVENT_BATCH)]
    done = {
        **await vectors_inserted(spell, small=small),
        "vector searches": await per_second(
            lambda n: t.vectors.search(vectors[n % len(vectors)], limit=10), calls, callers=CONCURRENT
        ),
        "events appended, 1,000 at once": await per_second(
            lambda _: t.event_log.append_many(batch), events // EVENT_BATCH, callers=2, each=EVENT_BATCH
        ),
        "sessions created": await per_second(lambda n: t.sessions.create(data={"n": n}), calls, callers=CONCURRENT),
        "callers at once, each in a transaction": await at_once(t, 150),
    }
    if await t.event_log.count() != events or await t.sessions.count() != calls:
        raise SystemExit(MISSING.format("throughput"))
    return {
        name: {"per_s" if "callers" not in name else "served": value, "required": f"{need.figure} ({need.row})"}
        for (name, value), need in zip(done.items(), THROUGHPUT.values(), strict=True)
    }


async def vectors_inserted(spell: Spell, *, small: bool) -> dict[str, int]:
    """Insert vectors in batches, and return how many in a second, by what they were given as.

    Raises:
        SystemExit: other vectors are there, or more, or fewer.
    """
    count = VECTOR_BATCH * (VECTOR_BATCHES_SMALL if small else VECTOR_BATCHES)
    matrix = numpy.random.default_rng(0).normal(size=(count, DIMENSION)).astype("<f4")
    done: dict[str, int] = {}
    for kind, rows in {"rows of numpy": matrix, "lists of floats": matrix.tolist()}.items():
        tenant = await spell.tenants.create(f"inserts-{kind[:4]}", exist_ok=True)
        vectors = spell.tenant(tenant.tenant_id).vectors
        await vectors.insert({"embedding": rows[0], "scope": "warm"})
        ids: list[UUID] = []

        async def insert(batch: int, *, vectors: Any = vectors, rows: Any = rows, ids: list[UUID] = ids) -> None:
            numbers = range(batch * VECTOR_BATCH, (batch + 1) * VECTOR_BATCH)
            ids += await vectors.insert([{"embedding": rows[n], "metadata": {"n": n, "kind": "note"}} for n in numbers])

        name = f"vectors inserted, {VECTOR_BATCH} at once, {kind}"
        done[name] = await per_second(insert, count // VECTOR_BATCH, callers=1, each=VECTOR_BATCH)
        stored = await vectors.stats(scope="default")
        records = [await vectors.get(id) for id in ids]
        if (
            (stored.total_vectors, stored.storage_bytes) != (count, matrix.nbytes)
            or [record.embedding.tobytes() for record in records] != [row.tobytes() for row in matrix]
            or [record.metadata for record in records] != [{"kind": "note", "n": n} for n in range(count)]
        ):
            raise SystemExit(MISSING.format(name))
    return done


async def at_once(tenant: Tenant, callers: int) -> int:
    """Return how many of `callers`, who all come at once, had their transaction."""

    async def caller(number: int) -> bool:
        async with tenant.transaction() as tx:
            await tx.kv.set(f"c{number}", b"v")
        return True

    return sum(await asyncio.gather(*map(caller, range(callers))))


async def crowd(spell: Spell, vectors: Sequence[list[float]]) -> None:
    """Give 24 other tenants rows in every table."""
    for number in range(OTHERS):
        await spell.tenants.create(f"other-{number:02}", exist_ok=True)
        calls = Calls(spell.tenant(f"other-{number:02}"), vectors)
        for name, call in calls.every().items():
            if name != "sessions.delete":
                calls.made[name] = [await call(n) for n in range(OTHERS_ROWS)]


async def one_backend(store: Opened, *, small: bool) -> dict[str, Any]:
    """Measure one backend."""
    spell, count = store.spell, CALLS_SMALL if small else CALLS
    vectors = [vector(seed) for seed in range(max(count, 256))]
    await crowd(spell, vectors)
    await spell.tenants.create("bench", exist_ok=True)
    calls = Calls(spell.tenant("bench"), vectors)
    found = {name: await timed_call(calls, name, call, count) for name, call in calls.every().items()}
    await check(calls, count)
    return {"calls": found, "throughput": await throughput(spell, vectors, small=small)}


async def run(backends: list[str], *, small: bool) -> dict[str, Any]:
    """Measure every backend, and return one document."""
    figures: dict[str, Any] = {}
    for backend in backends:
        async with opened(backend) as store:
            figures[backend] = await one_backend(store, small=small)
            if backend == "postgres":
                import psycopg

                from units_of_work import COPY, filled, units

                keyed = await filled(store.spell)
                with psycopg.connect(store.superuser_url, autocommit=True) as superuser:
                    superuser.execute(COPY.encode())
                blocks = BLOCKS_SMALL if small else BLOCKS
                figures[backend]["unit_of_work_over_autocommit"] = await units(keyed, store.url, blocks)
    return {"benchmark": "storage", "small": small, "tenants": OTHERS + 2, "figures": figures, **described()}


def show(document: dict[str, Any]) -> None:
    """Print the tables for people."""
    for backend, found in document["figures"].items():
        print(
            f"\n{backend}: {'call':42}{'p50 ms':>9}{'p95':>9}{'p99':>9}{'per s':>9}{'trips':>7}  required (p50 / p95 / p99)"
        )
        for name, row in found["calls"].items():
            figures = "".join(f"{row[f'p{p}_ms']:>9.3f}" for p in (50, 95, 99))
            print(
                f"{'':{len(backend) + 2}}{name:42}{figures}{row['per_s']:>9,}{row['round_trips']:>7}  {row.get('required', '')}"
            )
        for name, row in found["throughput"].items():
            value = row.get("per_s", row.get("served"))
            print(
                f"{'':{len(backend) + 2}}{name:42}{value:>36,}{'/s' if 'per_s' in row else '  '}       {row['required']}"
            )
        for name, row in found.get("unit_of_work_over_autocommit", {}).items():
            print(
                f"{'':{len(backend) + 2}}unit of work / autocommit, {name:15} {row['ratio']:.2f}x {row['interval_95']}"
            )
    print(json.dumps({name: document[name] for name in ("versions", "hardware")}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--small", action="store_true", help="fewer calls, for a quick look")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    document = asyncio.run(run(arguments.backends, small=arguments.small))
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)


if __name__ == "__main__":
    main()
