"""How many queries and round trips an operation takes. A clock depends on the machine; these numbers do not.

A limit that falls is lowered here with the change that lowers it; one that rises needs a reason beside the number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.stores import DATABASES, fresh_tenant, opened

from llmspell.clock import EPOCH, ManualClock
from llmspell.ids import IdSource
from llmspell.observe import QueryCounts, counting_queries
from llmspell.spell import Tenant
from llmspell.storage.contracts.memories import NewMemory
from llmspell.storage.relational import postings

MANY = 40


@pytest.fixture(params=DATABASES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def tenant(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Tenant]:
    """A tenant that has done everything once: spaces are registered, the gate is open, entities and predicates are there.

    The clock stands, so the gate stays open; the statistics of words are never folded, for that comes by chance.
    """
    monkeypatch.setattr(postings, "FOLD_EVERY", 2**200)
    async with opened(backend, request, tmp_path, clock=ManualClock()) as spell:
        warm = await fresh_tenant(spell)
        await warm.kv.set("k", b"v")
        await warm.memory.add("Ada moved to Zurich in May.", session="s")
        await warm.memory.add("Ada likes tea.", session="s")
        await warm.graph.assert_fact("Ada", "lives_in", "Zurich", cardinality="one")
        await warm.graph.assert_fact("Ada", "likes", "Tea")
        await warm.memory.search("Where does Ada live?")
        yield warm


async def counted(call: Awaitable[object]) -> QueryCounts:
    with counting_queries() as counts:
        await call
    return counts


def totals(counts: QueryCounts) -> tuple[int, int]:
    return sum(counts.queries.values()), sum(counts.round_trips.values())


async def test_a_key_is_read_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    assert totals(await counted(tenant.kv.get("k"))) == (1, 1)


async def test_a_key_is_written_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    assert totals(await counted(tenant.kv.set("k", b"w"))) == (1, 1)


async def test_many_keys_are_written_in_one_round_trip(tenant: Tenant) -> None:
    counts = await counted(tenant.kv.set_batch({f"k{number}": b"v" for number in range(MANY)}))

    assert totals(counts)[1] == 1


async def test_a_memory_is_kept_in_one_round_trip_after_the_first(tenant: Tenant) -> None:
    for text in ("Ada moved to Bern.", "Ada moved to Basel."):
        queries, round_trips = totals(await counted(tenant.memory.add(text)))

        assert round_trips == 1
        assert queries <= 6


async def test_many_memories_are_kept_in_one_round_trip(tenant: Tenant) -> None:
    counts = await counted(tenant.memory.add_many([{"text": f"note {number}"} for number in range(MANY)]))

    assert totals(counts)[1] == 1


async def test_a_memory_is_read_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    id = (await tenant.memory.list()).items[0].id

    assert totals(await counted(tenant.memory.get(id))) == (1, 1)


async def test_a_job_is_enqueued_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    assert totals(await counted(tenant.jobs.enqueue("send", {"n": 1}))) == (1, 1)


async def test_a_pending_memory_and_its_job_are_kept_in_one_round_trip(tenant: Tenant) -> None:
    async def keep() -> None:
        await tenant._backend.storages(tenant.id).memories.add([NewMemory(id=uuid4(), content="x", at=EPOCH)])

    queries, round_trips = totals(await counted(keep()))

    assert (queries, round_trips) == (5, 1)


async def test_looking_for_work_in_vain_takes_one_round_trip_and_finding_some_two(tenant: Tenant) -> None:
    queue = tenant._backend.job_queue
    assert totals(await counted(queue.lease(worker="w", kinds=["none"], tenants=[tenant.id]))) == (3, 1)
    await tenant.jobs.enqueue("send")

    assert totals(await counted(queue.lease(worker="w", kinds=["send"], tenants=[tenant.id]))) == (4, 2)


# (queries, round trips) at most. A file answers a whole snapshot in one hand-over to its thread; a server one by one.
LIMITS: dict[str, tuple[Callable[[Tenant], Awaitable[object]], dict[str, tuple[int, int]]]] = {
    "memory.search": (
        lambda tenant: tenant.memory.search("Who likes tea?"),
        {"sqlite": (7, 1), "postgres": (6, 7)},
    ),
    "context": (
        lambda tenant: tenant.context("Where does Ada live?"),
        {"sqlite": (10, 4), "postgres": (9, 10)},
    ),
    "graph.assert_fact": (
        lambda tenant: tenant.graph.assert_fact("Ada", "likes", "Zurich"),
        {"sqlite": (4, 1), "postgres": (4, 5)},
    ),
    "graph.neighbours": (
        lambda tenant: tenant.graph.neighbours("Ada"),
        {"sqlite": (1, 1), "postgres": (1, 1)},
    ),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_an_operation_takes_no_more_queries_and_round_trips_than_it_did(
    name: str, backend: str, tenant: Tenant
) -> None:
    call, limits = LIMITS[name]
    counts = await counted(call(tenant))

    queries, round_trips = totals(counts)
    most_queries, most_round_trips = limits[backend]
    assert queries <= most_queries, dict(counts.queries)
    assert round_trips <= most_round_trips, dict(counts.round_trips)


@pytest.mark.parametrize("name", LIMITS)
async def test_the_number_of_queries_does_not_grow_with_what_is_stored(name: str, tenant: Tenant) -> None:
    call, _ = LIMITS[name]
    before = totals(await counted(call(tenant)))
    await tenant.memory.add_many([{"text": f"Ada likes tea number {number}", "session": "s"} for number in range(MANY)])
    for number in range(MANY):
        await tenant.graph.assert_fact("Ada", "likes", f"Thing {number}")
    if name == "graph.assert_fact":
        await tenant.graph.retract("Ada", "likes", "Zurich")
    await tenant.memory.search("tea")  # the index in process catches up with what was written

    after = totals(await counted(call(tenant)))

    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


def test_the_counted_writes_do_not_fold_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture's constant must be larger than any id: then no id is a multiple of it."""
    monkeypatch.setattr(postings, "FOLD_EVERY", 2**200)

    assert 0 < IdSource(ManualClock()).new().int < postings.FOLD_EVERY
