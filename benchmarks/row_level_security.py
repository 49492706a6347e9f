"""What does row-level security cost, and what does the strict mode cost on top (RLS-09, RLS-14)?

    python benchmarks/row_level_security.py [--json] [--small]

One table, with 24 other tenants in it, and three roles that run the same prepared statements over the same rows and the same
index: one that policies do not bind (BYPASSRLS), one that is bound by the policies of every table, and `llmspell_app` on a server
in the strict mode, which must besides prove its tenant by a signature. So nothing differs but the policies, and no table is
changed between. Statements: a read by key, a page of 20, an insert. In a block the roles take turns every ten calls; each block
has connections of its own, so that no luck of one server process lasts, and gives one ratio of lower quartiles. The figure is
the median of the ratios with its interval (see `interleaved`). The plans must use the same index, every row that is read is
compared, and rows are counted as each role sees them.

Last, the whole way through the public API, `kv.get` and `kv.set`: three databases, one without row-level security on that table,
one with the policies, one strict.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
import llmspell
from interleaved import interval, quantiles, show, timed
from llmspell.ops.embedded_postgres import APP_ROLE, DEV_DATABASE, OWNER_ROLE, SUPERUSER, EmbeddedCluster
from llmspell.settings import PostgresSettings, Settings, StorageSettings
from llmspell.spell import Tenant
from llmspell.storage.postgres import signing
from llmspell.storage.postgres.migrate import migrate
from llmspell.storage.postgres.tenant_key import TenantKey, new_tenant_key, read_tenant_key
from machine import described

TENANTS = 25
KEYS = 400
PAGE = 20
BLOCKS, BLOCKS_SMALL = 60, 24
PER_BLOCK, PER_BLOCK_SMALL = 300, 120
WARM = 30
"""Untimed calls at the start of a block: the statement is prepared, and its generic plan made."""
CHUNK = 10
"""Calls of one role before the next one has its turn: whatever else the machine does hits all of them alike."""
VALUE = b"v" * 100
FAR = 4_000_000_000
TENANT = f"tenant-{TENANTS // 2:02}"
MAKE = f"""
CREATE ROLE bench_free LOGIN BYPASSRLS;
CREATE ROLE bench_bound LOGIN;
GRANT USAGE ON SCHEMA llmspell TO bench_free, bench_bound;
CREATE TABLE llmspell.bench_rows (LIKE llmspell.kv_store INCLUDING ALL);
GRANT SELECT, INSERT, DELETE ON llmspell.bench_rows TO bench_free, bench_bound, llmspell_app;
ALTER TABLE llmspell.bench_rows OWNER TO llmspell;
INSERT INTO llmspell.bench_rows (tenant_id, key, kv_id, value, created_at, updated_at)
SELECT format('tenant-%s', to_char(t, 'FM00')), format('key-%s', to_char(k, 'FM00000')), gen_random_uuid(),
  convert_to(repeat('v', {len(VALUE)}), 'UTF8'), now(), now()
FROM generate_series(0, {TENANTS - 1}) AS t, generate_series(0, {KEYS - 1}) AS k;
"""
READ = "SELECT value FROM llmspell.bench_rows WHERE tenant_id = %s AND key = %s"
LIST = f"SELECT key, value FROM llmspell.bench_rows WHERE tenant_id = %s AND key >= %s ORDER BY key LIMIT {PAGE}"
INSERT = """
INSERT INTO llmspell.bench_rows (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (%s, %s, gen_random_uuid(), convert_to(repeat('v', 100), 'UTF8'), now(), now())
"""


class Block(NamedTuple):
    """The seconds of each role's calls, and the plans that were taken."""

    seconds: dict[str, list[float]]
    plans: set[str]


def key(number: int) -> str:
    return f"key-{number % (KEYS - PAGE):05}"


class Work(NamedTuple):
    """A statement, the key it is asked with the n-th time, and what it must answer; None: it answers nothing."""

    statement: str
    key: Callable[[int], str]
    answer: Callable[[int], list[tuple[Any, ...]]] | None


WORKS = {
    "read": Work(READ, key, lambda _: [(VALUE,)]),
    "list_20": Work(LIST, key, lambda n: [(f"key-{n % (KEYS - PAGE) + i:05}", VALUE) for i in range(PAGE)]),
    "insert": Work(INSERT, lambda n: f"new-{n:06}", None),
}


def bound(url: str, tenant_key: TenantKey) -> Any:
    """Connect, with the tenant and its signature for the whole session: here the policies are measured, not the binding."""
    import psycopg

    connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
    connection.execute(
        "SELECT set_config('app.current_tenant_id', %s, false), set_config('app.tenant_signature', %s, false),"
        " set_config('plan_cache_mode', 'force_generic_plan', false)",
        (TENANT, tenant_key.sign(TENANT.encode(), until=FAR).decode()),
    )
    return connection


def call(connection: Any, work: Work, number: int) -> float:
    """Run a statement, check its answer, and return its seconds."""
    asked = (TENANT, work.key(number))
    started = time.perf_counter()
    cursor = connection.execute(work.statement, asked, binary=True)
    rows = cursor.fetchall() if work.answer is not None else []
    seconds = time.perf_counter() - started
    if (work.answer is not None and rows != work.answer(number)) or cursor.rowcount != max(1, len(rows)):
        raise SystemExit("error: a row is missing or wrong")
    return seconds


def measure(urls: dict[str, str], tenant_key: TenantKey, work: Work, *, calls: int, turn: int) -> Block:
    """Time one block: the roles take turns every few calls, each on a connection of the block. What it inserts is deleted again."""
    seconds: dict[str, list[float]] = {name: [] for name in urls}
    plans = set()
    with ExitStack() as stack:
        connections = {name: stack.enter_context(bound(url, tenant_key)) for name, url in urls.items()}
        for at, connection in enumerate(connections.values()):
            plan = connection.execute("EXPLAIN (FORMAT JSON) " + work.statement, (TENANT, work.key(0))).fetchone()
            plans.add(scans(plan[0]))
            for number in range(WARM):
                call(connection, work, number * len(urls) + at)
        number = WARM * len(urls)
        names = list(urls)
        for chunk in range(0, calls, CHUNK):
            first = (turn + chunk // CHUNK) % len(names)
            for name in names[first:] + names[:first]:
                seconds[name] += [call(connections[name], work, number + one) for one in range(CHUNK)]
                number += CHUNK
        if work.answer is None:
            delete = "DELETE FROM llmspell.bench_rows WHERE tenant_id = %s AND key >= 'new-'"
            if connections[names[0]].execute(delete, (TENANT,)).rowcount != number:
                raise SystemExit("error: inserted rows are missing")
    return Block(seconds, plans)


def scans(plan: Any) -> str:
    """Name the scans and writes of a plan: node and index of each."""
    waiting, found = [one["Plan"] for one in (json.loads(plan) if isinstance(plan, str) else plan)], []
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        if "Scan" in node["Node Type"] or node["Node Type"] == "ModifyTable":
            found.append(f"{node['Node Type']} {node.get('Index Name', '')}".strip())
    return ", ".join(sorted(found))


def policies(urls: dict[str, str], tenant_key: TenantKey, work: Work, *, blocks: int, calls: int) -> dict[str, Any]:
    """Run the three roles in turns, and compare two of them with the one that nothing binds."""
    names = list(urls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names[1:]}
    plans: set[str] = set()
    for block in range(blocks):
        found = measure(urls, tenant_key, work, calls=calls, turn=block)
        plans |= found.plans
        typical = {name: lower_quartile(seconds) for name, seconds in found.seconds.items()}
        for name, seconds in found.seconds.items():
            samples[name] += seconds
        for name, values in ratios.items():
            values.append(typical[name] / typical[names[0]])
    if len(plans) != 1:
        raise SystemExit(f"error: the plans differ: {plans}")
    return {**costs(samples, ratios), "plan": plans.pop(), "blocks": blocks}


def costs(samples: dict[str, list[float]], ratios: dict[str, list[float]]) -> dict[str, Any]:
    """Say what each way costs more than the first one, and how long calls took."""
    us = {name: lower_quartile(seconds) * 1e6 for name, seconds in samples.items()}
    found: dict[str, Any] = {
        name: {
            "cost_percent": _percent(statistics.median(values)),
            "interval_95_percent": [_percent(edge) for edge in interval(values)],
            "cost_us": round(us[name] - us[next(iter(us))], 1),
        }
        for name, values in ratios.items()
    }
    return {**found, **{f"{name}_calls": quantiles(seconds) for name, seconds in samples.items()}}


def lower_quartile(seconds: list[float]) -> float:
    """Return what a call takes that nothing else got in the way of: other programs make calls slower, never faster."""
    return statistics.quantiles(seconds, n=4)[0]


def _percent(ratio: float) -> float:
    return round((ratio - 1) * 100, 2)


def check_rows(urls: dict[str, str], tenant_key: TenantKey) -> None:
    """See that the policies bind whom they should, before and after: without that no figure means anything."""
    for name, expected in zip(urls, (TENANTS * KEYS, KEYS, KEYS), strict=True):
        with bound(urls[name], tenant_key) as connection:
            counted = connection.execute("SELECT count(*) FROM llmspell.bench_rows").fetchone()
        if counted != (expected,):
            raise SystemExit(f"error: {name} sees {counted} rows, not {expected}")


async def api(tenants: dict[str, Tenant], *, blocks: int, calls: int) -> dict[str, Any]:
    """Do the same through the public API: a whole unit of work, on databases without policies, with them, and strict."""

    async def get(tenant: Tenant, number: int) -> None:
        if await tenant.kv.get(key(number)) != VALUE:
            raise SystemExit("error: a key has another value")

    async def put(tenant: Tenant, number: int) -> None:
        await tenant.kv.set(key(number), VALUE)

    names = list(tenants)
    for tenant in tenants.values():
        await tenant.kv.set_batch({f"key-{number:05}": VALUE for number in range(KEYS)})
        for number in range(WARM):
            await get(tenant, number)
            await put(tenant, number)
    found = {}
    for called, verb in (("get", get), ("set", put)):
        samples: dict[str, list[float]] = {name: [] for name in names}
        ratios: dict[str, list[float]] = {name: [] for name in names[1:]}
        for block in range(blocks):
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for chunk in range(0, calls, CHUNK):
                first = (block + chunk // CHUNK) % len(names)
                for name in names[first:] + names[:first]:
                    seconds[name] += await timed(partial(verb, tenants[name]), CHUNK, first=chunk)
            for name in names:
                samples[name] += seconds[name]
            for name, values in ratios.items():
                values.append(lower_quartile(seconds[name]) / lower_quartile(seconds[names[0]]))
        found[called] = {**costs(samples, ratios), "blocks": blocks}
    return found


def make_database(url: Callable[[str, str], str], name: str, after: str = "") -> None:
    """Make and migrate another database, and change it as a superuser."""
    import psycopg

    with psycopg.connect(url(SUPERUSER, DEV_DATABASE), autocommit=True) as superuser:
        superuser.execute(f"CREATE DATABASE {name} OWNER {OWNER_ROLE} TEMPLATE template0".encode())
    with psycopg.connect(url(SUPERUSER, name), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION vector")
    migrate(url(OWNER_ROLE, name))
    with psycopg.connect(url(SUPERUSER, name), autocommit=True) as superuser:
        superuser.execute(after.encode())


async def run(*, small: bool) -> dict[str, Any]:
    """Measure on a temporary server, and return one document."""
    import psycopg

    blocks, calls = (BLOCKS_SMALL, PER_BLOCK_SMALL) if small else (BLOCKS, PER_BLOCK)
    secret = new_tenant_key()
    tenant_key = read_tenant_key(secret)
    with EmbeddedCluster.temporary() as cluster:

        def url(role: str, database: str = DEV_DATABASE) -> str:
            return cluster.url(role=role, database=database)

        migrate(url(OWNER_ROLE))
        with psycopg.connect(url(SUPERUSER), autocommit=True) as superuser:
            superuser.execute(MAKE.encode())
        make_database(url, "free", "ALTER TABLE llmspell.kv_store DISABLE ROW LEVEL SECURITY")
        make_database(url, "policies")
        signing.enable(url(OWNER_ROLE), tenant_key)  # it also isolates the new table
        with psycopg.connect(url(SUPERUSER), autocommit=True) as superuser:
            superuser.execute("VACUUM ANALYZE llmspell.bench_rows")
        urls = {"free": url("bench_free"), "policies": url("bench_bound"), "strict": url(APP_ROLE)}
        check_rows(urls, tenant_key)
        found = {name: policies(urls, tenant_key, work, blocks=blocks, calls=calls) for name, work in WORKS.items()}
        check_rows(urls, tenant_key)
        async with AsyncExitStack() as stack:
            tenants = {}
            for name, database, held in (
                ("free", "free", None),
                ("policies", "policies", None),
                ("strict", DEV_DATABASE, secret),
            ):
                settings = Settings(storage=StorageSettings(postgres=PostgresSettings(tenant_key=held)))
                connecting = llmspell.connect(url(APP_ROLE, database), settings=settings, embedder="hashing")
                spell = await stack.enter_async_context(connecting)
                await spell.tenants.create("bench", exist_ok=True)
                tenants[name] = spell.tenant("bench")
            found["api"] = await api(tenants, blocks=blocks, calls=calls)
    return {"benchmark": "row_level_security", "small": small, "tenants": TENANTS, "figures": found, **described()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer calls, for a quick look")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    show(asyncio.run(run(small=arguments.small)), as_json=arguments.json)


if __name__ == "__main__":
    main()
