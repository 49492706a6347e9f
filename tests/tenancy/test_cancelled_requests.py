"""Requests of several tenants on one pool, half of them cancelled or failing at random: what they leave behind is nothing.

After each, the very connection that it used is asked without a tenant, and must show none and no row. At the end every
acknowledged write is there, every refused one is not, every cancelled one is whole or absent, and no connection is missing.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import msgspec
import pytest
from tests.fixtures.marked_tenants import MARK, id_of, owners, seed
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import fresh_tenants, opened

from llmspell.errors import AlreadyExists, LlmspellError, OutcomeUnknown, StorageError, TransactionTimeout
from llmspell.spell import Spell, Tenant, Transaction
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.relational.catalog import parse

pytest.importorskip("psycopg")

from tests.tenancy.watched_pool import NOTHING, Request, WatchedPool, watching

REQUESTS = {"postgres": (7_000, 700_000), "pgbouncer": (3_000, 300_000)}
"""In continuous integration, and in a long run."""
ROUND = 10_000
TENANTS = 8
CONNECTIONS = 4
LANES = 8
PARTS = 3
PASSES_MAX = 10
"""How often the loop may go round between the beginning of an exchange and the cancellation: to beyond its answer."""
LIMIT_S = 1_200
SEED = int(os.environ.get("CANCELLED_REQUESTS_SEED", "4"))
READS = (
    "kv.get",
    "kv.get_batch",
    "graph.neighbours",
    "sessions.list",
    "event_log.list",
    "vectors.search",
    "transaction",
)
QUERIES = parse(
    "sample",
    """
-- name: insert -> count
-- A plain insert.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (:tenant_id, :key, gen_random_uuid(), '\\x00', now(), now());

-- name: break -> rows
-- It fails.
SELECT 1 / (count(*) - count(*)) FROM llmspell.kv_store;
""",
)


class Broken(Exception):
    """What a user's block raises."""


class Done(msgspec.Struct):
    """What became of a request that writes."""

    tenant: str
    where: str
    """Where its rows are: "kv", "events" or "vectors"."""
    rows: int = PARTS
    outcome: str = "open"
    """"kept", "refused", or "either"."""


def part_names(number: int) -> list[str]:
    return [f"w{number}-{part}" for part in range(PARTS)]


def correlation(number: int) -> UUID:
    return uuid5(NAMESPACE_OID, f"correlation {number}")


class Requests:
    """The requests of one round: what each does is decided by the seed and its number alone."""

    def __init__(self, spell: Spell, tenants: list[Tenant], round: int) -> None:
        self.spell = spell
        self.tenants = tenants
        self.round = round
        self.written: dict[int, Done] = {}
        self.transactions: dict[int, Transaction] = {}
        self.foreign: list[tuple[str, object]] = []

    def dice(self, number: int) -> random.Random:
        return random.Random(f"{SEED}/{self.round}/{number}")

    def writes(self, tenant: Tenant, number: int, where: str = "kv", rows: int = PARTS) -> None:
        self.written[number] = Done(tenant.id, where, rows)

    async def read(self, tenant: Tenant, number: int) -> None:
        question = self.dice(number).choice(READS)
        marks = await owners(tenant, question)
        if marks != {tenant.id}:
            self.foreign.append((question, marks))

    async def one_key(self, tenant: Tenant, number: int) -> None:
        self.writes(tenant, number, rows=1)
        await tenant.kv.set(part_names(number)[0], tenant.id.encode())

    async def batch(self, tenant: Tenant, number: int) -> None:
        self.writes(tenant, number)
        await tenant.kv.set_batch(dict.fromkeys(part_names(number), tenant.id.encode()))

    async def events(self, tenant: Tenant, number: int) -> None:
        self.writes(tenant, number, "events")
        marked = {MARK: tenant.id}
        await tenant.event_log.append_many(
            [NewEvent(type="test.part", payload=marked, correlation_id=correlation(number)) for _ in range(PARTS)]
        )

    async def vectors(self, tenant: Tenant, number: int) -> None:
        self.writes(tenant, number, "vectors")
        ones = [1.0] * 384
        marked = {MARK: tenant.id}
        await tenant.vectors.insert(
            [{"embedding": ones, "scope": f"w{number}", "metadata": marked} for _ in range(PARTS)]
        )

    async def transaction(
        self, tenant: Tenant, number: int, *, timeout_s: float | None = None, end: Any = None
    ) -> None:
        self.writes(tenant, number)
        async with tenant.transaction(timeout_s=timeout_s) as tx:
            self.transactions[number] = tx
            for name in part_names(number):
                await tx.kv.set(name, tenant.id.encode())
            found = [await tx.kv.get("name"), await tx.kv.get(part_names(number)[0])]
            if found != [tenant.id.encode()] * 2:
                self.foreign.append(("in a transaction", found))
            if end is not None:
                await end(tx)

    async def savepoint(self, tenant: Tenant, number: int) -> None:
        """A statement of an inner block fails, and the rest is kept."""
        self.writes(tenant, number)
        async with tenant.transaction() as tx:
            self.transactions[number] = tx
            await tx.kv.set(part_names(number)[0], tenant.id.encode())
            with pytest.raises(AlreadyExists):
                async with tx.savepoint():
                    await tx.kv.set(f"x{number}", tenant.id.encode())
                    await tx.sessions.create(id=id_of(tenant))
            for name in part_names(number)[1:]:
                await tx.kv.set(name, tenant.id.encode())

    # --- those that fail ---

    async def constraint(self, tenant: Tenant, number: int) -> None:
        await tenant.sessions.create(id=id_of(tenant))

    async def constraint_in_a_batch(self, tenant: Tenant, number: int) -> None:
        self.writes(tenant, number, "vectors")
        new = {"embedding": [1.0] * 384, "scope": f"w{number}", "metadata": {MARK: tenant.id}}
        await tenant.vectors.insert([new, {**new, "id": id_of(tenant)}, new])

    async def error_in_a_pipeline(self, tenant: Tenant, number: int) -> None:
        self.writes(tenant, number)
        unit = self.spell._backend.unit(tenant.id)  # type: ignore[attr-defined]
        first, *rest = [{"key": name} for name in part_names(number)]
        await unit.batch([(QUERIES["insert"], [first]), (QUERIES["break"], {}), (QUERIES["insert"], rest)])

    async def exception(self, tenant: Tenant, number: int) -> None:
        async def end(tx: Transaction) -> None:
            raise Broken

        await self.transaction(tenant, number, end=end)

    async def timeout(self, tenant: Tenant, number: int) -> None:
        async def end(tx: Transaction) -> None:
            await asyncio.Event().wait()

        await self.transaction(tenant, number, timeout_s=0.02, end=end)

    async def error_in_a_transaction(self, tenant: Tenant, number: int) -> None:
        async def end(tx: Transaction) -> None:
            await tx.sessions.create(id=id_of(tenant))

        await self.transaction(tenant, number, end=end)


Call = Callable[[Requests, Tenant, int], Awaitable[None]]
GOOD: list[tuple[Call, int, int]] = [
    (Requests.read, 1, 6),
    (Requests.one_key, 1, 3),
    (Requests.batch, 1, 3),
    (Requests.transaction, 6, 4),
    (Requests.events, 1, 1),
    (Requests.vectors, 1, 1),
    (Requests.savepoint, 5, 2),
]
"""What is asked, in how many exchanges at least, and how often."""
FAILING: list[tuple[Call, type[Exception]]] = [
    (Requests.constraint, AlreadyExists),
    (Requests.constraint_in_a_batch, AlreadyExists),
    (Requests.error_in_a_pipeline, StorageError),
    (Requests.exception, Broken),
    (Requests.timeout, TransactionTimeout),
    (Requests.error_in_a_transaction, AlreadyExists),
]


class Round:
    """One round of requests on one pool."""

    def __init__(self, requests: Requests, pool: WatchedPool) -> None:
        self.requests = requests
        self.pool = pool
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def one(self, number: int) -> None:
        """Run a request, cancelled or failing if its number is odd, and have its connection probed."""
        dice = self.requests.dice(number)
        tenant = self.requests.tenants[number % TENANTS]
        request, expected, cancels = Request(), None, False
        call, exchanges, _ = dice.choices(GOOD, [weight for *_, weight in GOOD])[0]
        if number % 2:
            cancels = dice.random() < 0.7
            if not cancels:
                call, expected = dice.choice(FAILING)
        task = asyncio.create_task(self.pool.run(request, lambda: call(self.requests, tenant, number)))
        if cancels:
            await self._cancel(task, request, dice, exchange=dice.randint(1, exchanges) * (dice.random() < 0.85))
        try:
            await task
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            self._became(number, "either")
        except OutcomeUnknown:
            self.counts["unknown"] += 1
            self._became(number, "either" if cancels else "wrong")
        except (LlmspellError, Broken) as error:
            self.counts["failed"] += 1
            self._became(number, "refused")
            if expected is None or not isinstance(error, expected):
                self.wrong.append(f"{number} {call.__name__}: {error!r}")
        else:
            self.counts["finished"] += 1
            self._became(number, "kept")
            if expected is not None:
                self.wrong.append(f"{number} {call.__name__} did not fail")
        if not request.exchanges:
            await self.pool.probe_one()

    async def _cancel(self, task: asyncio.Task[None], request: Request, dice: random.Random, *, exchange: int) -> None:
        """Cancel at a random moment, from the beginning of this exchange with the server on."""
        passes = dice.randrange(PASSES_MAX)
        while request.exchanges < exchange and not task.done():
            await asyncio.sleep(0)
        for _ in range(passes):
            await asyncio.sleep(0)
        if not task.done():
            self.counts["in_flight"] += request.in_flight()
            self.counts["sent"] += 1
            task.cancel()

    def _became(self, number: int, outcome: str) -> None:
        done = self.requests.written.get(number)
        if done is None:
            return
        done.outcome = outcome
        tx = self.requests.transactions.get(number)
        if tx is not None and outcome == "either" and tx.outcome != "unknown":
            done.outcome = {"committed": "kept", "rolled_back": "refused"}[tx.outcome]

    async def rows(self) -> dict[str, Counter[str]]:
        """How many rows there are of each request, by place; foreign ones are noted."""
        found: dict[str, Counter[str]] = {"kv": Counter(), "events": Counter(), "vectors": Counter()}
        for tenant in self.requests.tenants:
            after = None
            while names := await tenant.kv.list_keys("", after=after, limit=1_000):
                values = await tenant.kv.get_batch(names)
                others = [(name, one) for name, one in values.items() if one != tenant.id.encode()]
                self.requests.foreign += [(name, one) for name, one in others if name[:1] in "wx"]
                found["kv"].update(name.partition("-")[0] for name in names)
                after = names[-1]
            cursor = None
            while True:  # ends: with the last page
                page = await tenant.event_log.list(type="test.part", cursor=cursor, limit=1_000)
                self.requests.foreign += [("event", one.id) for one in page.items if one.payload[MARK] != tenant.id]
                found["events"].update(str(one.correlation_id) for one in page.items)
                if (cursor := page.next_cursor) is None:
                    break
        for number, done in self.requests.written.items():
            if done.where == "vectors":
                tenant = self.requests.tenants[number % TENANTS]
                found["vectors"][f"w{number}"] = (await tenant.vectors.stats(scope=f"w{number}")).total_vectors
        return found

    async def require_whole(self) -> None:
        """Every acknowledged write is there, every refused one is not, and every other is whole or absent."""
        found = await self.rows()
        bad = []
        for number, done in self.requests.written.items():
            name = str(correlation(number)) if done.where == "events" else f"w{number}"
            kept = found[done.where][name]
            allowed = {"kept": {done.rows}, "refused": {0}, "either": {0, done.rows}}.get(done.outcome, set())
            if kept not in allowed:
                bad.append((number, done, kept))
        undone = [name for name in found["kv"] if name.startswith("x")]
        assert not bad, f"seed {SEED}: {bad[:5]}"
        assert not undone, "a savepoint that was undone left something"


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("backend", sorted(REQUESTS, reverse=True))
async def test_nothing_is_left_by_requests_that_are_cancelled_or_fail_at_random(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = REQUESTS[backend]
    total, counts = size(ci=few, soak=many), Counter[str]()
    for start in range(0, total, ROUND):
        async with opened(backend, request, tmp_path, connections=CONNECTIONS) as spell:
            counts += await play(spell, start // ROUND, min(ROUND, total - start), monkeypatch)

    assert counts["in_flight"] >= total // 6, f"too few cancels landed between question and answer: {counts}"
    assert counts["failed"] >= total // 10
    assert counts["probes"] >= total
    tell(cancelled_requests=total, cancels_landed=counts["in_flight"], probes=counts["probes"], leaks=0, lost_writes=0)


async def play(spell: Spell, round: int, total: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Play a round, and check it."""
    tenants = list(await fresh_tenants(spell, TENANTS, "cancelled"))
    await asyncio.gather(*map(seed, tenants))
    requests = Requests(spell, tenants, round)
    with watching(spell, monkeypatch) as pool:
        played, numbers = Round(requests, pool), iter(range(total))

        async def lane() -> None:
            for number in numbers:
                await played.one(number)

        await asyncio.gather(*(lane() for _ in range(LANES)))
        await pool.settle()
        assert not played.wrong, f"seed {SEED}: {played.wrong[:5]}"
        assert set(pool.seen) == {NOTHING}, f"seed {SEED}: {pool.seen}"
        await played.require_whole()
        await pool.settle()
    assert not requests.foreign, f"seed {SEED}: {requests.foreign[:5]}"
    await require_every_connection(spell)
    return played.counts + Counter(probes=pool.seen.total(), dropped=pool.dropped)


async def require_every_connection(spell: Spell) -> None:
    """None is lost: as many as the pool may have can be had at once, and all come back."""
    pool = spell._backend._database.pool  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        links = [await pool.acquire() for _ in range(CONNECTIONS)]
    assert len(set(links)) == CONNECTIONS == pool.status().size
    for link in links:
        pool.release(link)
    status = pool.status()
    assert (status.size, status.available, status.waiting) == (CONNECTIONS, CONNECTIONS, 0)
