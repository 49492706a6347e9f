"""How many queries and round trips an operation takes. A clock depends on the machine; these numbers do not.

A limit that falls is lowered here with the change that lowers it; one that rises needs a reason beside the number.
"""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.stores import DATABASES, fresh_tenant, opened

from llmspell.clock import EPOCH, ManualClock
from llmspell.ids import IdSource
from llmspell.memory.state import StateScope
from llmspell.observe import QueryCounts, counting_queries
from llmspell.security.keyring import new_master_key
from llmspell.settings import SecuritySettings
from llmspell.spell import Tenant
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.contracts.hook_history import NewHookExecution
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
    security = SecuritySettings(master_keys=new_master_key())
    async with opened(backend, request, tmp_path, clock=ManualClock(), security=security) as spell:
        warm = await fresh_tenant(spell)
        await warm.kv.set("k", b"v")
        await warm.api_keys.set("openai", "sk-key")
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


# Each call, after the tenant has done it once, is one query in one round trip.
SIMPLE: dict[str, Callable[[Tenant], Awaitable[object]]] = {
    "state.get": lambda tenant: tenant.state.get(StateScope.Global(), "k"),
    "state.set": lambda tenant: tenant.state.set(StateScope.Global(), "k", 1),
    "state.list_keys": lambda tenant: tenant.state.list_keys(StateScope.Global()),
    "procedures.record": lambda tenant: tenant.procedures.record("s", "k", "v"),
    "procedures.learned": lambda tenant: tenant.procedures.learned(scope="s"),
    "procedures.predict": lambda tenant: tenant.procedures.predict("s", "k"),
    "procedures.prune": lambda tenant: tenant.procedures.prune(before=datetime(2020, 1, 1, tzinfo=UTC)),
    "agent_state.save": lambda tenant: tenant.agent_state.save("a", {"n": 1}),
    "agent_state.save, expecting": lambda tenant: tenant.agent_state.save("a", {"n": 2}, expected_version=1),
    "agent_state.get": lambda tenant: tenant.agent_state.get("a"),
    "agent_state.list": lambda tenant: tenant.agent_state.list(),
    "agent_state.delete": lambda tenant: tenant.agent_state.delete("a"),
    "workflow_state.save": lambda tenant: tenant.workflow_state.save("w", {"n": 1}),
    "workflow_state.transition": lambda tenant: tenant.workflow_state.transition("w", "running", data={"n": 2}),
    "workflow_state.get": lambda tenant: tenant.workflow_state.get("w"),
    "workflow_state.list": lambda tenant: tenant.workflow_state.list(status="pending"),
    "workflow_state.counts": lambda tenant: tenant.workflow_state.counts(),
    "workflow_state.delete": lambda tenant: tenant.workflow_state.delete("w"),
}


@pytest.mark.parametrize("name", SIMPLE)
async def test_a_simple_call_is_one_query_in_one_round_trip(name: str, tenant: Tenant) -> None:
    await tenant.agent_state.save("a", {"n": 1})
    await tenant.workflow_state.create("w", {"n": 1})

    assert totals(await counted(SIMPLE[name](tenant))) == (1, 1)


async def test_many_keys_are_written_in_one_round_trip(tenant: Tenant) -> None:
    counts = await counted(tenant.kv.set_batch({f"k{number}": b"v" for number in range(MANY)}))

    assert totals(counts)[1] == 1


async def test_vectors_are_kept_in_one_round_trip_by_one_query_each(tenant: Tenant) -> None:
    await tenant.vectors.insert({"embedding": [1.0] * 384})

    for many in (1, MANY):
        entries = [{"embedding": [1.0] * 384, "metadata": {"n": n}} for n in range(many)]
        counts = await counted(tenant.vectors.insert(entries))

        assert counts.queries["vectors.insert_384"] in (1, many)  # one statement that runs for each
        assert set(counts.queries) <= {"vectors.insert_384", "vectors.space_changed"}
        assert totals(counts)[1] == 1


async def test_only_ids_that_are_given_are_looked_for(tenant: Tenant) -> None:
    counts = await counted(
        tenant.vectors.insert([{"embedding": [1.0] * 384, "id": uuid4()}, {"embedding": [1.0] * 384}])
    )

    assert counts.queries["vectors.taken"] == 1


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


async def test_a_provider_key_is_revealed_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    await tenant.api_keys.reveal("openai")  # notes that it was used, once a minute

    assert totals(await counted(tenant.api_keys.reveal("openai"))) == (1, 1)


async def test_an_access_key_is_checked_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    issued = await tenant.access_keys.issue(name="ci", scopes=["read"])
    spell = tenant._spell
    await spell.authenticate(issued.key)
    await spell._authenticator.settle()

    assert totals(await counted(spell.authenticate(issued.key))) == (1, 1)


async def test_an_event_is_appended_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    assert totals(await counted(tenant.event_log.append("test.event", {"n": 1}))) == (1, 1)


async def test_many_events_are_appended_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    events = [NewEvent(type="test.event", payload={"n": number}) for number in range(MANY)]

    assert totals(await counted(tenant.event_log.append_many(events))) == (1, 1)


async def test_events_are_read_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    event = await tenant.event_log.append("test.event")
    await tenant.event_log.append("test.event")
    await tenant.event_log.list(limit=1)  # the key of cursors is read once

    for call in (
        tenant.event_log.get(event.id),
        tenant.event_log.list(),
        tenant.event_log.list(limit=1, type="test.event"),
        tenant.event_log.tail(after_sequence=1),
        tenant.event_log.prune("2020-01-01"),
    ):
        assert totals(await counted(call)) == (1, 1)


async def test_a_hook_execution_is_recorded_and_read_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    new = NewHookExecution(hook_id="h", hook_type="AgentError", triggering_component="agent")
    recorded = await tenant.hook_history.record(new)

    for call in (
        tenant.hook_history.record(new),
        tenant.hook_history.get(recorded.id),
        tenant.hook_history.list(),
        tenant.hook_history.delete(recorded.id),
        tenant.hook_history.apply_retention(),
    ):
        assert totals(await counted(call)) == (1, 1)
    assert totals(await counted(tenant.hook_history.record_many([new] * MANY)))[1] == 1


async def test_a_job_is_enqueued_by_one_query_in_one_round_trip(tenant: Tenant) -> None:
    assert totals(await counted(tenant.jobs.enqueue("send", {"n": 1}))) == (1, 1)


async def test_a_pending_memory_and_its_job_are_kept_in_one_round_trip(tenant: Tenant) -> None:
    async def keep() -> None:
        await tenant._backend.storages(tenant.id).memories.add([NewMemory(id=uuid4(), content="x", at=EPOCH)])

    queries, round_trips = totals(await counted(keep()))

    assert (queries, round_trips) == (5, 1)


async def test_jobs_are_taken_and_read_in_one_round_trip_after_another_that_asks_for_kinds_when_none_are_named(
    tenant: Tenant,
) -> None:
    """Also in vain it takes four queries: what was taken is asked for in the exchange that takes it, before its number is known."""
    queue = tenant._backend.job_queue
    for kinds, cost in ((["send"], (4, 1)), (None, (5, 2))):
        assert totals(await counted(queue.lease(worker="w", kinds=kinds, tenants=[tenant.id]))) == cost
        await tenant.jobs.enqueue("send")

        assert totals(await counted(queue.lease(worker="w", kinds=kinds, tenants=[tenant.id]))) == cost


# (queries, round trips) at most. In process, the rows that may be among the best are read, to be scored in full.
# A file answers a whole snapshot in one hand-over to its thread; a server one by one.
LIMITS: dict[str, tuple[Callable[[Tenant], Awaitable[object]], dict[str, tuple[int, int]]]] = {
    "memory.search": (
        lambda tenant: tenant.memory.search("Who likes tea?"),
        {"sqlite": (8, 1), "postgres": (6, 7)},
    ),
    "context": (
        lambda tenant: tenant.context("Where does Ada live?"),
        {"sqlite": (11, 4), "postgres": (9, 10)},
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


# (queries, round trips). An entry locks the head of the chain, then adds itself and moves the head together.
AUDITED: dict[str, tuple[Callable[[Tenant], Awaitable[object]], dict[str, tuple[int, int]]]] = {
    "audit.record": (
        lambda tenant: tenant.audit.record("export", principal="ada", resource="memories"),
        {"sqlite": (3, 1), "postgres": (3, 3)},
    ),
    "audit.list": (lambda tenant: tenant.audit.list(), dict.fromkeys(DATABASES, (1, 1))),
    "audit.get": (lambda tenant: tenant.audit.get(1), dict.fromkeys(DATABASES, (1, 1))),
    "audit.head": (lambda tenant: tenant.audit.head(), dict.fromkeys(DATABASES, (1, 1))),
}


@pytest.mark.parametrize("operation", AUDITED)
async def test_the_audit_log_takes_no_more_queries_than_it_needs(tenant: Tenant, backend: str, operation: str) -> None:
    call, numbers = AUDITED[operation]

    assert totals(await counted(call(tenant))) == numbers[backend]


async def test_each_call_of_a_session_takes_one_round_trip(tenant: Tenant) -> None:
    session = await tenant.sessions.create(data={"n": 0})
    await tenant.artifacts.put(session.id, "n", b"warm")
    await tenant.sessions.create()
    await tenant.sessions.list(limit=1)  # the first cursor asks for the key of all cursors
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "create": lambda: tenant.sessions.create(data={"n": 1}, ttl_s=60),
        "get": lambda: tenant.sessions.get(session.id),
        "update": lambda: tenant.sessions.update(session.id, data={"n": 2}, expected_version=1),
        "list": lambda: tenant.sessions.list(limit=1),
        "count": lambda: tenant.sessions.count(),
        "expire": lambda: tenant.sessions.expire(),
        "delete": lambda: tenant.sessions.delete(session.id),
    }

    taken = {name: totals(await counted(call()))[1] for name, call in calls.items()}

    assert taken == dict.fromkeys(calls, 1)


async def test_each_call_of_an_artifact_in_one_value_takes_one_round_trip(tenant: Tenant) -> None:
    session = await tenant.sessions.create()
    other = await tenant.sessions.create()
    first = await tenant.artifacts.put(session.id, "n", b"first")
    await tenant.sessions.list(limit=1)  # the first cursor asks for the key of all cursors
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: tenant.artifacts.put(session.id, "n", b"x" * 100_000),
        "put again": lambda: tenant.artifacts.put(session.id, "n", b"x" * 100_000),
        "put a version": lambda: tenant.artifacts.put(session.id, "n", b"second", parent=first.id),
        "put a version elsewhere": lambda: tenant.artifacts.put(other.id, "n", b"third", parent=first.id),
        "get": lambda: tenant.artifacts.get(first.id),
        "read": lambda: tenant.artifacts.read(first.id),
        "list": lambda: tenant.artifacts.list(session=session.id, limit=1),
        "list by type": lambda: tenant.artifacts.list(type="custom"),
        "update": lambda: tenant.artifacts.update(first.id, tags=["t"], expected_revision=1),
        "delete": lambda: tenant.artifacts.delete(first.id),
        "collect_garbage": lambda: tenant.artifacts.collect_garbage(),
        "delete the session": lambda: tenant.sessions.delete(session.id),
    }

    taken = {name: totals(await counted(call()))[1] for name, call in calls.items()}

    assert taken == dict.fromkeys(calls, 1)


async def test_a_content_that_is_stored_is_not_sent_again(tenant: Tenant) -> None:
    """One look whether it is there, and one exchange that puts the artifact."""
    session = await tenant.sessions.create()
    content = random.Random(1).randbytes(5_000_000)
    first = await counted(tenant.artifacts.put(session.id, "n", content))

    again = await counted(tenant.artifacts.put(session.id, "n", content))

    assert first.queries["artifacts.add_chunk"] >= 1
    assert again.queries["artifacts.add_chunk"] == 0
    assert totals(again)[1] == 2


async def test_a_stream_fetches_each_chunk_by_itself(tenant: Tenant) -> None:
    session = await tenant.sessions.create()
    put = await tenant.artifacts.put(session.id, "n", random.Random(1).randbytes(5 * 1_048_576 + 1))

    counts = await counted(tenant.artifacts.download(put.id, into=io.BytesIO()))

    assert counts.queries == {"artifacts.open": 1, "artifacts.chunk": 6}
    assert totals(counts)[1] == 7
