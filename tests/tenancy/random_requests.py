"""Requests of several tenants, chosen and disturbed at random, and the account of what each has to have left.

    requests = Requests(spell, tenants, seed="4/0")
    played = Round(requests, watch)
    await played.run(range(1_000))
    await played.require_whole()

Every second request is cancelled at a random moment, or fails: at a constraint, in the middle of a pipeline, by its time limit, by
an exception of its own. What a request does follows from the seed and its number alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

import msgspec
import pytest
from tests.fixtures.marked_tenants import MARK, id_of, owners
from tests.fixtures.soak import tell

from llmspell.errors import AlreadyExists, LlmspellError, OutcomeUnknown, StorageError, TransactionTimeout
from llmspell.spell import Spell, Tenant, Transaction
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.relational.catalog import parse

T = TypeVar("T")
LANES = 8
"""Requests at a time."""
PARTS = 3
PASSES_MAX = 10
"""How often the loop may go round between the beginning of an exchange and the cancellation: to beyond its answer."""
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


class Request:
    """What is known of a request while it runs."""

    def __init__(self) -> None:
        self.exchanges = 0
        """How often it has asked the store something, up to now."""
        self.waits: Callable[[], bool] = lambda: False
        """Whether the store has been handed something that it has not answered."""


class Watch(Protocol):
    """Sees what requests ask of a store."""

    async def run(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` as a request."""
        ...

    async def probe(self, request: Request) -> None:
        """Look behind a request that has ended."""
        ...


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

    def __init__(self, spell: Spell, tenants: list[Tenant], seed: str, *, server: bool = True) -> None:
        """`server`: statements of its dialect may be sent below the API."""
        self.failing = [(call, error) for call, error in FAILING if server or call is not Requests.error_in_a_pipeline]
        self.spell = spell
        self.tenants = tenants
        self.seed = seed
        self.written: dict[int, Done] = {}
        self.transactions: dict[int, Transaction] = {}
        self.foreign: list[tuple[str, object]] = []

    def dice(self, number: int) -> random.Random:
        return random.Random(f"{self.seed}/{number}")

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
            with pytest.raises(AlreadyExists):  # noqa: PT012 - the block is what fails
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
        """It never ends by itself: wherever its limit finds it, waiting for a connection or for an answer too, it is timed out."""

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

    def __init__(self, requests: Requests, watch: Watch, *, cancelled: float = 0.7) -> None:
        """`cancelled`: the share of the disturbed requests that is cancelled; the others fail."""
        self.requests = requests
        self.watch = watch
        self.cancelled = cancelled
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, numbers: Iterable[int]) -> None:
        """Run requests, some at a time, and require that each ended as it should."""
        waiting = iter(numbers)

        async def lane() -> None:
            for number in waiting:
                await self.one(number)

        await asyncio.gather(*(lane() for _ in range(LANES)))
        assert not self.wrong, f"seed {self.requests.seed}: {self.wrong[:5]}"

    async def one(self, number: int) -> None:
        """Run a request, cancelled or failing if its number is odd, and have its connection probed."""
        dice = self.requests.dice(number)
        tenant = self.requests.tenants[number % len(self.requests.tenants)]
        request, expected, cancels = Request(), None, False
        call, exchanges, _ = dice.choices(GOOD, [weight for *_, weight in GOOD])[0]
        if number % 2:
            cancels = dice.random() < self.cancelled
            if not cancels:
                call, expected = dice.choice(self.requests.failing)
        task = asyncio.create_task(self.watch.run(request, lambda: call(self.requests, tenant, number)))
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
        await self.watch.probe(request)

    async def _cancel(self, task: asyncio.Task[None], request: Request, dice: random.Random, *, exchange: int) -> None:
        """Cancel at a random moment, from the beginning of this exchange with the server on."""
        passes = dice.randrange(PASSES_MAX)
        while request.exchanges < exchange and not task.done():
            await asyncio.sleep(0)
        for _ in range(passes):
            await asyncio.sleep(0)
        if not task.done():
            self.counts["in_flight"] += request.waits()
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
                tenant = self.requests.tenants[number % len(self.requests.tenants)]
                found["vectors"][f"w{number}"] = (await tenant.vectors.stats(scope=f"w{number}")).total_vectors
        return found

    async def require_whole(self) -> None:
        """Every acknowledged write is there, every refused one is not, and every other is whole or absent."""
        found = await self.rows()
        bad = []
        for number, done in self.requests.written.items():
            name = str(correlation(number)) if done.where == "events" else f"w{number}"
            kept = found[done.where][name]
            self.counts[f"{done.outcome}, {'there' if kept else 'absent'}"] += 1
            allowed = {"kept": {done.rows}, "refused": {0}, "either": {0, done.rows}}.get(done.outcome, set())
            if kept not in allowed:
                bad.append((number, done, kept))
        undone = [name for name in found["kv"] if name.startswith("x")]
        lost = sum(done.outcome == "kept" for _, done, _ in bad)
        tell(lost_writes=lost, refused_writes_there=len(bad) - lost + len(undone), leaks=len(self.requests.foreign))
        assert not bad, f"seed {self.requests.seed}: {bad[:5]}"
        assert not undone, "a savepoint that was undone left something"
        assert not self.requests.foreign, f"seed {self.requests.seed}: {self.requests.foreign[:5]}"
