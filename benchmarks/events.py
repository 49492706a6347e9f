"""How fast does the event log take events, on every backend, with the shipped indexes?

    python benchmarks/events.py [--json] [--small] [--backends memory sqlite postgres]

Batches: events per second of one and of several callers at once, each for a tenant of its own, in batches of 100 and of 1,000,
through the public API: arguments checked, encoded, and on a server under row-level security into the partition of the month.
Single: `append`, one caller after another. Pages: 100 events of a type, out of all. Counts and numbers are compared at the end,
and on a server that no event missed its month.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import quantiles, show, timed
from llmspell.spell import Tenant
from llmspell.storage.contracts.event_log import NewEvent
from machine import described
from stores import BACKENDS, Opened, opened

EVENTS, EVENTS_SMALL = 60_000, 6_000
CALLS, CALLS_SMALL = 2_000, 300
BATCHES = (100, 1_000)
CALLERS = (1, 2, 4)
TYPES = 20
MISPLACED = "SELECT count(*) FROM llmspell.event_log_default"


def events(count: int, first: int) -> list[NewEvent]:
    """Return events as an agent emits them: a few types, small payloads."""
    return [
        NewEvent(
            type=f"agent.step_{number % TYPES}",
            payload={"step": number, "tool": "search", "ok": True, "ms": 12.5, "query": "where does Ada live now?" * 3},
        )
        for number in range(first, first + count)
    ]


async def tenants(store: Opened, count: int, name: str) -> list[Tenant]:
    """Register tenants that nobody has used."""
    found = []
    for number in range(count):
        await store.spell.tenants.create(f"{name}-{number}")
        found.append(store.spell.tenant(f"{name}-{number}"))
    return found


async def ingest(store: Opened, *, callers: int, batch: int, total: int) -> dict[str, Any]:
    """Append so many events in batches, and check what is there then."""
    each = total // callers
    served = await tenants(store, callers, f"batch-{batch}-{callers}")
    work = [[events(batch, first) for first in range(0, each, batch)] for _ in served]

    async def append(tenant: Tenant, batches: list[list[NewEvent]]) -> None:
        for one in batches:
            await tenant.event_log.append_many(one)

    started = time.perf_counter()
    await asyncio.gather(*(append(tenant, batches) for tenant, batches in zip(served, work, strict=True)))
    seconds = time.perf_counter() - started
    for tenant in served:
        stats = await tenant.event_log.stats()
        if (stats.events, stats.last_sequence, len(stats.types)) != (each, each, TYPES):
            raise SystemExit(f"error: {stats.events} events are there, numbered to {stats.last_sequence}, not {each}")
        if [one.payload["step"] for one in await tenant.event_log.tail(after_sequence=each - 3)] != [
            *range(each - 3, each)
        ]:
            raise SystemExit("error: events are not numbered in the order in which they were given")
    return {"events": each * callers, "per_s": round(each * callers / seconds)}


async def singles(store: Opened, calls: int) -> dict[str, Any]:
    """Time single appends, and pages of what was appended."""
    (tenant,) = await tenants(store, 1, "single")

    async def append(number: int) -> None:
        event = await tenant.event_log.append(f"agent.step_{number % TYPES}", {"step": number})
        if event.sequence != number + 1:
            raise SystemExit("error: a number is missing")

    async def page(number: int) -> None:
        found = (await tenant.event_log.list(type=f"agent.step_{number % TYPES}", limit=10)).items
        if len(found) != 10 or any(one.payload["step"] % TYPES != number % TYPES for one in found):
            raise SystemExit("error: a page has other events")

    return {"append": quantiles(await timed(append, calls)), "page_by_type": quantiles(await timed(page, calls))}


async def run(backends: list[str], *, small: bool) -> dict[str, Any]:
    """Measure every backend, and return one document."""
    total, calls = (EVENTS_SMALL, CALLS_SMALL) if small else (EVENTS, CALLS)
    figures: dict[str, Any] = {}
    for backend in backends:
        async with opened(backend) as store:
            found: dict[str, Any] = await singles(store, calls)
            for batch in BATCHES:
                for callers in CALLERS:
                    found[f"batch_{batch}_callers_{callers}"] = await ingest(
                        store, callers=callers, batch=batch, total=total
                    )
            if store.superuser_url:
                import psycopg

                with psycopg.connect(store.superuser_url) as superuser:
                    if superuser.execute(MISPLACED).fetchone() != (0,):
                        raise SystemExit("error: events are not in the partition of their month")
            figures[backend] = found
    return {"benchmark": "events", "small": small, "figures": figures, **described()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--small", action="store_true", help="fewer calls, for a quick look")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    show(asyncio.run(run(arguments.backends, small=arguments.small)), as_json=arguments.json)


if __name__ == "__main__":
    main()
