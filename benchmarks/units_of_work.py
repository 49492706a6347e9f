"""What does one unit of work cost, on every backend, and what do tenants cost on a server?

    python benchmarks/units_of_work.py [--json] [--small] [--backends memory sqlite postgres]

Keys: `kv.get` and `kv.set` through the public API, one caller after another. Writers: durable writes per second of a file from 16
and from 256 concurrent callers. Server, as the role that serves, with 24 other tenants in the table: a unit of work (tenant and
statement) against the statement alone on a plain autocommit connection of the driver, over a copy of the table without policies;
and the policy itself: the same prepared statement on the same table, while a superuser turns row-level security on and off. Both
plans must use the same index, and both pairs are measured in turns (see `interleaved`). Every value that is read is compared, and
rows are counted at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import compare, quantiles, show, timed
from llmspell.spell import Spell, Tenant
from machine import described
from stores import BACKENDS, Opened, opened

CALLS, CALLS_SMALL = 5_000, 1_000
WRITES, WRITES_SMALL = 20_000, 4_096
CALLERS = (16, 256)
TENANTS = 25
KEYS = 400
BLOCKS, BLOCKS_SMALL = 60, 24
PER_BLOCK = 50
POLICY_ROWS = 10_000  # RLS-09: 1,000 SELECTs on 10K rows
POLICY_PER_BLOCK = 250
VALUE = b"v" * 100
COPY = """
CREATE TABLE llmspell.bench_plain (LIKE llmspell.kv_store INCLUDING ALL);
INSERT INTO llmspell.bench_plain SELECT * FROM llmspell.kv_store;
GRANT SELECT, INSERT, UPDATE ON llmspell.bench_plain TO llmspell_app;
CREATE TABLE llmspell.bench_rows (LIKE llmspell.kv_store INCLUDING ALL);
INSERT INTO llmspell.bench_rows SELECT * FROM llmspell.kv_store;
GRANT SELECT ON llmspell.bench_rows TO llmspell_app;
SELECT llmspell.apply_tenant_rls('llmspell.bench_rows');
ANALYZE llmspell.kv_store, llmspell.bench_plain, llmspell.bench_rows;
"""
PLAIN_READ = """
SELECT value FROM llmspell.bench_plain
WHERE tenant_id = %s AND key = %s AND (expires_at IS NULL OR expires_at > now())
"""
PLAIN_WRITE = """
INSERT INTO llmspell.bench_plain (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (%s, %s, gen_random_uuid(), %s, now(), now())
ON CONFLICT (tenant_id, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
"""
PAGE = 100
POLICY_READS = {
    "one_row": ("SELECT value FROM llmspell.bench_rows WHERE tenant_id = %s AND key = %s", 1),
    "page_of_100": (
        "SELECT value FROM llmspell.bench_rows WHERE tenant_id = %s AND key >= %s ORDER BY key LIMIT 100",
        PAGE,
    ),
}


def key(number: int) -> str:
    return f"key-{number % KEYS:05}"


async def keys(tenant: Tenant, calls: int) -> dict[str, Any]:
    """Time single reads and writes."""

    async def write(number: int) -> None:
        await tenant.kv.set(f"new-{number}", VALUE)

    async def read(number: int) -> None:
        if await tenant.kv.get(f"new-{number}") != VALUE:
            raise SystemExit("error: a key has another value")

    written = await timed(write, calls)
    found = {"set": quantiles(written), "get": quantiles(await timed(read, calls))}
    if len(await tenant.kv.list_keys("new-")) != calls:
        raise SystemExit("error: keys are missing")
    return found


async def writers(tenant: Tenant, callers: int, writes: int) -> dict[str, Any]:
    """Count durable writes per second of many callers."""
    each = writes // callers

    async def call(caller: int) -> None:
        for number in range(each):
            await tenant.kv.set(f"w{callers}-{caller}-{number}", VALUE)

    started = time.perf_counter()
    await asyncio.gather(*map(call, range(callers)))
    seconds = time.perf_counter() - started
    if len(await tenant.kv.list_keys(f"w{callers}-")) != each * callers:
        raise SystemExit("error: writes are missing")
    return {"writes": each * callers, "per_s": round(each * callers / seconds)}


async def filled(spell: Spell) -> Tenant:
    """Make 25 tenants with 400 keys each, and return one in the middle."""
    tenants = []
    for number in range(TENANTS):
        await spell.tenants.create(f"tenant-{number:02}", exist_ok=True)
        tenant = spell.tenant(f"tenant-{number:02}")
        await tenant.kv.set_batch({key(one): VALUE for one in range(KEYS)})
        tenants.append(tenant)
    return tenants[TENANTS // 2]


async def units(tenant: Tenant, url: str, blocks: int) -> dict[str, Any]:
    """Compare a unit of work with the statement alone."""
    import psycopg

    plain = await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0)

    async def our_read(number: int) -> None:
        if await tenant.kv.get(key(number)) != VALUE:
            raise SystemExit("error: a key has another value")

    async def plain_read(number: int) -> None:
        cursor = await plain.execute(PLAIN_READ, (tenant.id, key(number)), binary=True)
        row = await cursor.fetchone()
        if row is None or row[0] != VALUE:
            raise SystemExit("error: the copy has another value")

    async def our_write(number: int) -> None:
        await tenant.kv.set(key(number), VALUE)

    async def plain_write(number: int) -> None:
        await plain.execute(PLAIN_WRITE, (tenant.id, key(number), VALUE), binary=True)

    async with plain:
        for call in (our_read, plain_read, our_write, plain_write):
            await timed(call, PER_BLOCK)  # prepared, and the pool has its connection
        return {
            "read": await compare(
                lambda: timed(our_read, PER_BLOCK), lambda: timed(plain_read, PER_BLOCK), blocks=blocks
            ),
            "write": await compare(
                lambda: timed(our_write, PER_BLOCK), lambda: timed(plain_write, PER_BLOCK), blocks=blocks
            ),
        }


async def policy(store: Opened, tenant: Tenant, blocks: int, read: tuple[str, int]) -> dict[str, Any]:
    """Compare a prepared statement with itself, with and without the policy."""
    import psycopg

    statement, expected = read
    plans: dict[str, set[str]] = {"ENABLE": set(), "DISABLE": set()}
    with (
        psycopg.connect(store.superuser_url, autocommit=True) as superuser,
        psycopg.connect(store.url, autocommit=True, prepare_threshold=0) as app,
    ):
        app.execute("SELECT set_config('app.current_tenant_id', %s, false)", (tenant.id,))
        app.execute("SET plan_cache_mode = force_generic_plan")

        def measure(state: str) -> list[float]:
            superuser.execute(f"ALTER TABLE llmspell.bench_rows {state} ROW LEVEL SECURITY".encode())
            plan = app.execute("EXPLAIN (FORMAT JSON) " + statement, (tenant.id, key(0))).fetchone()
            plans[state].add(index_of(plan[0] if plan else []))
            seconds = []
            for number in range(POLICY_PER_BLOCK + 10):
                started = time.perf_counter()
                rows = app.execute(statement, (tenant.id, key(number % (KEYS - PAGE))), binary=True).fetchall()
                seconds.append(time.perf_counter() - started)
                if rows != [(VALUE,)] * expected:
                    raise SystemExit("error: a row is missing or wrong")
            return seconds[10:]  # the first ones plan anew, for the table has changed

        async def with_policy() -> list[float]:
            return measure("ENABLE")

        async def without_policy() -> list[float]:
            return measure("DISABLE")

        compared = await compare(with_policy, without_policy, blocks=blocks)
        counted = superuser.execute("SELECT count(*) FROM llmspell.bench_rows").fetchone()
    if counted != (POLICY_ROWS,):
        raise SystemExit("error: the table has other rows")
    if plans["ENABLE"] != plans["DISABLE"] or len(plans["ENABLE"]) != 1:
        raise SystemExit(f"error: the plans differ: {plans}")
    cost_us = (compared["ours"]["p50_ms"] - compared["baseline"]["p50_ms"]) * 1e3
    cost = {"cost_percent": round((compared["ratio"] - 1) * 100, 2), "cost_us": round(cost_us, 1)}
    return {**cost, "plan": plans["ENABLE"].pop(), **compared}


def index_of(plan: Any) -> str:
    """Name the scans of a plan: node and index of each."""
    found = json.loads(plan) if isinstance(plan, str) else plan
    waiting, scans = [one["Plan"] for one in found], []
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            scans.append(f"{node['Node Type']} {node.get('Index Name', '')}".strip())
    return ", ".join(sorted(scans))


async def server(store: Opened, blocks: int) -> dict[str, Any]:
    """Everything that only a server has."""
    import psycopg

    tenant = await filled(store.spell)
    with psycopg.connect(store.superuser_url, autocommit=True) as superuser:
        superuser.execute(COPY.encode())
    costs = {name: await policy(store, tenant, blocks, read) for name, read in POLICY_READS.items()}
    return {"unit_of_work": await units(tenant, store.url, blocks), "policy": costs}


async def run(backends: list[str], *, small: bool) -> dict[str, Any]:
    """Measure every backend, and return one document."""
    blocks = BLOCKS_SMALL if small else BLOCKS
    figures: dict[str, Any] = {}
    for backend in backends:
        async with opened(backend) as store:
            found: dict[str, Any] = await server(store, blocks) if backend == "postgres" else {}
            await store.spell.tenants.create("bench", exist_ok=True)
            tenant = store.spell.tenant("bench")
            found["keys"] = await keys(tenant, CALLS_SMALL if small else CALLS)
            if backend == "sqlite":
                writes = WRITES_SMALL if small else WRITES
                found["writers"] = {str(callers): await writers(tenant, callers, writes) for callers in CALLERS}
            figures[backend] = found
    return {"benchmark": "units_of_work", "small": small, "tenants": TENANTS, "figures": figures, **described()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--small", action="store_true", help="fewer calls, for a quick look")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    show(asyncio.run(run(arguments.backends, small=arguments.small)), as_json=arguments.json)


if __name__ == "__main__":
    main()
