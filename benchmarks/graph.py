"""How quickly are facts found as of an instant, as known at another, and are the answers right?

    python benchmarks/graph.py [--json] [--small] [--versions 100000] [--backends sqlite postgres]

People move from city to city, one move a round, and know a few others. The store records one round after the other, so a question
has two instants: the round that it asks about, and the round up to which the store knew. The answer is known beforehand:
where one lived is decided by the earlier of the two. Every answer of the run is compared with that; a wrong one makes the
script fail. `versions` counts rows of facts: a move ends one version and begins two.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmspell.clock import ManualClock
from llmspell.spell import Tenant

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import quantiles, show
from machine import described
from stores import DATABASES, opened

VERSIONS, VERSIONS_SMALL = 100_000, 3_000
ROUNDS = 10
FRIENDS = 3
CITIES = 50
PER_TRANSACTION = 500
TRANSACTION_S = 600.0
QUESTIONS, QUESTIONS_SMALL = 2_000, 300
BASE = datetime(2025, 1, 1, tzinfo=UTC)
VERSIONS_PER_PERSON = FRIENDS + 1 + 2 * (ROUNDS - 1)


def person(number: int) -> str:
    return f"Person {number}"


def city(number: int, round: int) -> str:  # noqa: A002 - the word of this model
    """Where somebody lives in a round: another city than the round before."""
    return f"City {(number * 7 + round) % CITIES}"


def friends(number: int, people: int) -> list[str]:
    return [person((number + step) % people) for step in range(1, FRIENDS + 1)]


def day(round: int) -> datetime:  # noqa: A002
    return BASE + timedelta(days=round)


async def fill(tenant: Tenant, clock: ManualClock, people: int) -> list[datetime]:
    """Record every round, and return an instant after each at which it was known and the next was not."""
    known = []
    await tenant.graph.declare("lives_in", "one")
    for number in range(ROUNDS):
        for start in range(0, people, PER_TRANSACTION):
            clock.advance(seconds=1)
            async with tenant.transaction(timeout_s=TRANSACTION_S) as tx:
                for one in range(start, min(start + PER_TRANSACTION, people)):
                    await tx.graph.assert_fact(person(one), "lives_in", city(one, number), valid_from=day(number))
                    for friend in friends(one, people) if number == 0 else ():
                        await tx.graph.assert_fact(person(one), "knows", friend, valid_from=day(0))
        clock.advance(seconds=1)
        known.append(clock.now())
        clock.advance(seconds=1)
    return known


async def ask(tenant: Tenant, known: list[datetime], people: int, questions: int) -> list[float]:
    """Ask where people lived and whom they knew, compare every answer, and return the seconds of each question."""
    choose, seconds = random.Random(17), []
    for _ in range(questions):
        one, asked, knew = choose.randrange(people), choose.randrange(ROUNDS), choose.randrange(ROUNDS)
        started = time.perf_counter()
        facts = await tenant.graph.neighbours(
            person(one), direction="out", as_of=day(asked) + timedelta(hours=12), known_at=known[knew]
        )
        seconds.append(time.perf_counter() - started)
        found = sorted((fact.predicate, fact.object) for fact in facts)
        expected = [("knows", friend) for friend in friends(one, people)] + [("lives_in", city(one, min(asked, knew)))]
        if found != sorted(expected):
            raise SystemExit(f"error: {person(one)} on day {asked} as known after {knew}: {found}, not {expected}")
    return seconds


async def run(backends: list[str], versions: int, questions: int) -> dict[str, Any]:
    """Fill and ask every backend, and return one document."""
    figures: dict[str, Any] = {}
    people = max(FRIENDS + 1, versions // VERSIONS_PER_PERSON)
    for backend in backends:
        clock = ManualClock()
        async with opened(backend, clock=clock) as store:
            await store.spell.tenants.create("bench", exist_ok=True)
            tenant = store.spell.tenant("bench")
            started = time.perf_counter()
            known = await fill(tenant, clock, people)
            spent = time.perf_counter() - started
            stats = await tenant.graph.stats()
            counted = (stats.facts, stats.fact_versions)
            if counted != (people * (FRIENDS + 1), people * VERSIONS_PER_PERSON):
                raise SystemExit(f"error: there are {counted} facts and versions for {people} people")
            await ask(tenant, known, people, 20)
            figures[backend] = {
                "neighbours": quantiles(await ask(tenant, known, people, questions)),
                "fact_versions": stats.fact_versions,
                "facts_recorded_per_s": round(people * (FRIENDS + ROUNDS) / spent),
            }
    return {"benchmark": "graph", "people": people, "rounds": ROUNDS, "figures": figures, **described()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--versions", type=int, help=f"versions of facts, about; {VERSIONS:,} unless --small")
    parser.add_argument("--small", action="store_true", help=f"{VERSIONS_SMALL:,} versions and fewer questions")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    versions = arguments.versions or (VERSIONS_SMALL if arguments.small else VERSIONS)
    questions = QUESTIONS_SMALL if arguments.small else QUESTIONS
    show(asyncio.run(run(arguments.backends, versions, questions)), as_json=arguments.json)


if __name__ == "__main__":
    main()
