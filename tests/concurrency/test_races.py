"""Eight at a time on the same few rows, each with a store opened by itself: every count ends at exactly what it must (B2, B3, B9).

References of contents, leases of jobs, beliefs of which one may hold at a time, versions that are compared, counters of sessions,
and calls under a key. Racers meet after each of their first steps and go on at once, however busy the machine is: a race in which
nobody came between anybody has shown nothing.

Not here: quotas.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.concurrency.racers import HOT, TRIES_MAX, insisting, put_and_delete
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import DATABASES, operator_url_of, url_of

import llmspell
from llmspell.blocking import BlockingSpell, BlockingTenant
from llmspell.clock import ManualClock
from llmspell.errors import LeaseLost, VersionConflict
from llmspell.settings import PostgresSettings, Settings, SqliteSettings, StorageSettings
from llmspell.storage.contracts.jobs import LeasedJob
from llmspell.tenant import TenantId

RACERS = 8
MEETINGS = 10
"""After so many steps they run freely."""
SUBJECTS = ("Ada", "Grace")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_S = 240


class Race(msgspec.Struct):
    """A store, and the tenant whose rows are fought for."""

    url: str
    settings: Settings
    tenant: str
    inspection_url: str
    turns: list[int] = []
    place: threading.Barrier = msgspec.field(default_factory=lambda: threading.Barrier(RACERS))

    def opened(self, clock: ManualClock | None = None) -> BlockingSpell:
        return llmspell.connect_blocking(self.url, settings=self.settings, embedder="hashing", clock=clock)

    def run(self, racer: Callable[[BlockingTenant, random.Random, Callable[[], None]], Any]) -> list[Any]:
        """Let eight threads go at once, each with a connection, a chance and a way to note its steps; return what they return."""

        def one(number: int) -> Any:
            steps = 0

            def step() -> None:
                nonlocal steps
                steps += 1
                self.turns.append(number)
                if steps <= MEETINGS:
                    self.meet()

            try:
                with self.opened() as spell:
                    tenant = spell.tenant(self.tenant)
                    tenant.kv.get("warm")
                    self.meet()
                    return racer(tenant, random.Random(SEED + number), step)
            except BaseException:
                self.place.abort()  # nobody waits for one that will not come
                raise

        with ThreadPoolExecutor(RACERS) as threads:
            done = [threads.submit(one, number) for number in range(RACERS)]
        errors = [error for each in done if (error := each.exception(LIMIT_S)) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [each.result() for each in done]

    def meet(self) -> None:
        """Wait until all racers are here."""
        self.place.wait(LIMIT_S)

    @property
    def interleaved(self) -> bool:
        """Whether they came between each other: in each of the first rounds all of them made a step."""
        rounds = [self.turns[start : start + RACERS] for start in range(0, MEETINGS * RACERS, RACERS)]
        return all(sorted(turns) == list(range(RACERS)) for turns in rounds)

    def rows(self, query: str) -> list[Any]:
        """What lies in the tables of the tenant, behind the store's back. `{schema}` and `{mine}` are filled in."""
        mine = f"tenant_id = '{self.tenant}'"
        if self.inspection_url.startswith("sqlite:///"):
            connection = sqlite3.connect(self.inspection_url.removeprefix("sqlite:///"))
            found = connection.execute(query.format(schema="", mine=mine)).fetchall()
            connection.close()
            return found
        import psycopg

        with psycopg.connect(self.inspection_url) as superuser:
            return superuser.execute(query.format(schema="llmspell.", mine=mine).encode()).fetchall()


@pytest.fixture(params=DATABASES)
def race(request: pytest.FixtureRequest, tmp_path: Path) -> Race:
    backend = request.param
    settings = Settings(
        storage=StorageSettings(
            postgres=PostgresSettings(pool_size=1, operator_url=operator_url_of(backend, request)),
            sqlite=SqliteSettings(readers=1),
        )
    )
    url = url_of(backend, request, tmp_path)
    inspection = (
        str(request.getfixturevalue("postgres_shared_database").superuser_url) if backend == "postgres" else url
    )
    made = Race(url, settings, f"race-{uuid4()}", inspection)
    with made.opened() as spell:
        spell.tenants.create(made.tenant)
    return made


REFERENCES = (
    "SELECT c.content_hash, c.reference_count, (SELECT count(*) FROM {schema}artifacts a WHERE a.tenant_id = c.tenant_id"
    " AND a.content_hash = c.content_hash) FROM {schema}artifact_content c WHERE c.{mine} ORDER BY 1"
)


def check_references(race: Race, held: Counter[int]) -> None:
    """What is counted is what is held; what nobody holds is gone; what is held can be read."""
    rows = race.rows(REFERENCES)
    assert [count for _, count, _ in rows] == [holders for _, _, holders in rows], f"seed {SEED}"
    assert sorted(holders for _, _, holders in rows) == sorted(held.values()), f"seed {SEED}"
    with race.opened() as spell:
        tenant = spell.tenant(race.tenant)
        for item in tenant.artifacts.list().items:
            assert tenant.artifacts.read(item.id) in HOT
        for session in tenant.sessions.list().items:
            assert tenant.sessions.delete(session.id)
        assert tenant.artifacts.stats().contents == 0
    assert race.rows(REFERENCES) == []


@pytest.mark.timeout(LIMIT_S)
def test_a_content_is_there_as_long_as_somebody_holds_it_and_gone_with_the_last(race: Race) -> None:
    steps = size(ci=60, soak=1_000)

    results = race.run(lambda tenant, chance, step: put_and_delete(tenant, chance, step, steps=steps))

    assert race.interleaved
    check_references(race, sum(results, Counter()))
    tell(operations=RACERS * steps)


PROCESS = """
import json, random, sys
import llmspell
from tests.concurrency.racers import put_and_delete
url, tenant, number, steps = sys.argv[1:]
settings = llmspell.Settings()
with llmspell.connect_blocking(url, settings=settings, embedder="hashing") as spell:
    handle = spell.tenant(tenant)
    handle.kv.get("warm")
    print("ready", flush=True)
    sys.stdin.readline()
    held = put_and_delete(handle, random.Random(int(number)), lambda: None, steps=int(steps))
print(json.dumps(dict(held)))
"""


@pytest.mark.timeout(LIMIT_S)
def test_eight_processes_count_references_as_one_would(race: Race) -> None:
    steps = size(ci=20, soak=500)
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, race.url, race.tenant, str(SEED + number), str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for number in range(RACERS)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    held: Counter[int] = Counter()
    for process in started:
        output, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, errors
        held += Counter({int(number): count for number, count in json.loads(output).items()})

    check_references(race, held)


@pytest.mark.timeout(LIMIT_S)
def test_the_artifacts_of_one_session_are_counted_and_numbered_exactly(race: Race) -> None:
    steps = size(ci=25, soak=500)
    with race.opened() as spell:
        session = spell.tenant(race.tenant).sessions.create().id

    def racer(tenant: BlockingTenant, chance: random.Random, step: Callable[[], None]) -> tuple[list[int], int]:
        numbers, mine = [], []
        for _ in range(steps):
            made, _ = insisting(lambda: tenant.artifacts.put(session, "one", chance.randbytes(20)))
            numbers.append(made.sequence)
            mine.append(made.id)
            if chance.random() < 0.4:
                insisting(lambda: tenant.artifacts.delete(mine.pop()))
            step()
        return numbers, len(mine)

    results = race.run(racer)

    assert race.interleaved
    numbers = sorted(number for given, _ in results for number in given)
    assert numbers == list(range(RACERS * steps)), f"seed {SEED}"
    with race.opened() as spell:
        record = spell.tenant(race.tenant).sessions.get(session)
        assert record is not None
        assert record.artifact_count == sum(kept for _, kept in results)
        assert spell.tenant(race.tenant).artifacts.stats(session=session).artifacts == record.artifact_count


@pytest.mark.timeout(LIMIT_S)
def test_two_beliefs_of_which_one_may_hold_never_hold_at_one_instant(race: Race) -> None:
    """Facts at random times about the same two subjects; also later, as known at any instant in between."""
    steps = size(ci=15, soak=200)
    with race.opened() as spell:
        spell.tenant(race.tenant).graph.declare("lives_in", "one")

    def racer(tenant: BlockingTenant, chance: random.Random, step: Callable[[], None]) -> int:
        lost = 0
        for number in range(steps):
            begin = BEGIN + timedelta(days=chance.randrange(60))
            end = None if chance.random() < 0.3 else begin + timedelta(days=chance.randrange(1, 30))
            subject = chance.choice(SUBJECTS)
            city = f"city {chance.randrange(5)}"
            told = partial(tenant.graph.assert_fact, subject, "lives_in", city, valid_from=begin, valid_to=end)
            lost += insisting(told)[1]
            step()
            if number % 4 == 3:
                insisting(partial(tenant.graph.retract, subject, "lives_in", valid_from=begin))
        return lost

    race.run(racer)

    assert race.interleaved
    with race.opened() as spell:
        graph = spell.tenant(race.tenant).graph
        now = [fact for subject in SUBJECTS for fact in graph.facts(subject=subject, any_time=True, limit=1_000)]
        assert now
        versions = [version for fact in {fact.id for fact in now} for version in graph.history(fact)]
        recorded = sorted({version.recorded_from for version in versions})
        questions = 0
        for known in random.Random(SEED).sample(recorded, min(len(recorded), size(ci=25, soak=500))):
            for subject in SUBJECTS:
                questions += 1
                believed = graph.facts(subject=subject, known_at=known, any_time=True, limit=1_000)
                assert overlapping(believed) == [], f"seed {SEED}, known at {known}"
    tell(questions=questions)


def overlapping(facts: list[Any]) -> list[tuple[Any, Any]]:
    """Pairs of which both hold at some instant."""
    ordered = sorted(facts, key=lambda fact: fact.valid_from)
    return [(a, b) for a, b in pairwise(ordered) if a.valid_to is None or b.valid_from < a.valid_to]


@pytest.mark.timeout(LIMIT_S)
def test_a_version_that_is_compared_lets_one_of_eight_through_each_time(race: Race) -> None:
    steps = size(ci=15, soak=300)
    with race.opened() as spell:
        tenant = spell.tenant(race.tenant)
        tenant.agent_state.save("agent", {"count": 0})
        tenant.workflow_state.create("flow", {"count": 0})
        session = tenant.sessions.create(data={"count": 0}).id

    def racer(tenant: BlockingTenant, chance: random.Random, step: Callable[[], None]) -> int:
        lost = 0
        for number in range(steps):
            for read, write in (
                (
                    lambda: tenant.agent_state.get("agent"),
                    lambda data, version: tenant.agent_state.save("agent", data, expected_version=version),
                ),
                (
                    lambda: tenant.workflow_state.get("flow"),
                    lambda data, version: tenant.workflow_state.save("flow", data, expected_version=version),
                ),
                (
                    lambda: tenant.sessions.get(session),
                    lambda data, version: tenant.sessions.update(session, data=data, expected_version=version),
                ),
            ):
                lost += compare_and_set(read, write, between=race.meet if number == 0 else lambda: None)
            step()
        return lost

    lost = sum(race.run(racer))

    assert race.interleaved
    assert lost >= 3 * (RACERS - 1), "all have read before anybody wrote, and all but one were too late"
    with race.opened() as spell:
        tenant = spell.tenant(race.tenant)
        for record in (
            tenant.agent_state.get("agent"),
            tenant.workflow_state.get("flow"),
            tenant.sessions.get(session),
        ):
            assert record is not None
            assert record.data == {"count": RACERS * steps}, f"seed {SEED}"
            assert record.version == RACERS * steps + 1


def compare_and_set(
    read: Callable[[], Any], write: Callable[[dict[str, int], int], Any], *, between: Callable[[], None]
) -> int:
    """Count up by one, and return how often another was first. `between` is called when it has been read for the first time."""
    for lost in range(TRIES_MAX):
        record = read()
        if lost == 0:
            between()
        try:
            insisting(lambda record=record: write({"count": record.data["count"] + 1}, record.version))
        except VersionConflict:
            continue
        return lost
    raise AssertionError(f"another was first {TRIES_MAX} times")


@pytest.mark.timeout(LIMIT_S)
def test_a_call_under_one_key_has_its_effect_once_and_one_answer_for_all(race: Race) -> None:
    keys = size(ci=20, soak=200)

    def racer(tenant: BlockingTenant, chance: random.Random, step: Callable[[], None]) -> dict[int, tuple[int, UUID]]:
        def work(tx: Any) -> int:
            count = int(tx.kv.get("count") or b"0") + 1
            tx.kv.set("count", str(count).encode())
            return count

        answers = {}
        for key in chance.sample(range(keys), keys):
            counted, _ = insisting(lambda key=key: tenant.run(work, idempotency_key=f"run-{key}"))
            created, _ = insisting(lambda key=key: tenant.once(f"session-{key}").sessions.create())
            answers[key] = (counted, created.id)
            step()
        return answers

    results = race.run(racer)

    assert race.interleaved
    assert all(result == results[0] for result in results), f"seed {SEED}"
    with race.opened() as spell:
        tenant = spell.tenant(race.tenant)
        assert tenant.kv.get("count") == str(keys).encode()
        assert tenant.sessions.count() == keys
        assert {session.id for session in tenant.sessions.list(limit=100).items} >= {
            id for _, id in results[0].values()
        } or keys > 100
    assert sorted(counted for counted, _ in results[0].values()) == list(range(1, keys + 1))


@pytest.mark.timeout(LIMIT_S)
def test_a_job_is_done_once_and_a_lease_that_passed_on_does_nothing(race: Race) -> None:
    """Eight workers, some of whom fall asleep over a job until its lease has passed to another."""
    jobs = size(ci=150, soak=3_000)
    clock = ManualClock()
    tenant = TenantId(race.tenant)

    async def enqueue() -> None:
        async with connected() as spell:
            for number in range(jobs):
                await spell.tenant(tenant).jobs.enqueue("count", {"n": number}, max_attempts=100)

    def connected() -> Any:
        return llmspell.connect(race.url, settings=race.settings, embedder="hashing", clock=clock)

    async def work(number: int) -> tuple[list[int], int, list[tuple[UUID, int]]]:
        chance = random.Random(SEED + number)
        done: list[int] = []
        refused = 0
        tokens: list[tuple[UUID, int]] = []
        async with connected() as spell:
            queue = spell._backend.job_queue
            idle = 0
            while idle < 3:
                leases: list[LeasedJob] = await queue.lease(worker=f"w{number}", limit=3, lease_s=60, tenants=[tenant])
                if not tokens and number < RACERS:
                    assert leases, "there are jobs for everybody"
                    race.meet()  # each has some in its hands, and nobody has ended one
                idle = 0 if leases else idle + 1
                tokens += [(lease.job.id, lease.token) for lease in leases]
                for lease in leases:
                    asleep = chance.random() < 0.15
                    if asleep:
                        clock.advance(seconds=61)
                        others = await queue.lease(worker=f"w{number}", limit=1, lease_s=60, tenants=[tenant])
                        tokens += [(other.job.id, other.token) for other in others]
                        for other in others:
                            done += await ended(queue, other)
                    counted = await ended(queue, lease)
                    done += counted
                    refused += not counted
                    race.turns.append(number)
        return done, refused, tokens

    async def ended(queue: Any, lease: LeasedJob) -> list[int]:
        try:
            await queue.complete(lease, {})
        except LeaseLost:
            return []
        return [lease.job.payload["n"]]

    asyncio.run(enqueue())
    with ThreadPoolExecutor(RACERS) as threads:
        results = list(threads.map(lambda number: asyncio.run(work(number)), range(RACERS)))
    # Whoever fell asleep last may have left jobs in hands that nobody has: their leases pass, and one goes through the rest.
    clock.advance(seconds=61)
    results.append(asyncio.run(work(RACERS)))

    assert {*race.turns} >= {*range(RACERS)}
    done = Counter(number for finished, _, _ in results for number in finished)
    assert done == dict.fromkeys(range(jobs), 1), f"seed {SEED}"
    assert sum(refused for _, refused, _ in results) > 0, "no lease ever passed on: this shows nothing"
    given = Counter(token for _, _, tokens in results for token in tokens)
    assert max(given.values()) == 1, "no two leases of a job have the same token"
    assert race.rows("SELECT state, count(*) FROM {schema}jobs WHERE {mine} GROUP BY 1") == [("succeeded", jobs)]
