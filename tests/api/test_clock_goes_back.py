"""A clock that is set back, forward and back again under a running store: nothing recorded goes back with it, nothing that has a
term opens or closes twice, and ids and numbers stay in their order."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import STORES, fresh_tenant, opened

from llmspell.clock import ManualClock
from llmspell.errors import LeaseLost
from llmspell.spell import Tenant

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
WALKS = size(ci=20, soak=1_000)
STEPS = 25
JUMPS_S = (-HOUR_S, -1, 0, 1, HOUR_S, -40 * DAY_S, 40 * DAY_S, -DAY_S, DAY_S)
SEED = usual(20_265)


@pytest.mark.parametrize("backend", STORES)
@pytest.mark.parametrize("start", ["2026-03-01T00:30:00Z", "2038-01-19T03:14:07Z", "2016-12-31T23:59:59Z"])
async def test_whatever_the_clock_does_what_was_recorded_keeps_its_order_and_its_answers(
    backend: str, start: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock(start)
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        for walk in range(-(-WALKS // 3)):
            clock.set(start)
            await walk_through_time(await fresh_tenant(spell), clock, random.Random(f"{SEED} {start} {walk}"))
    tell(clock_walks=-(-WALKS // 3))


async def walk_through_time(tenant: Tenant, clock: ManualClock, choose: random.Random) -> None:
    """Do one thing after each jump, and ask at the end what was asked at each."""
    ids, recorded, numbers, known = list[Any](), list[Any](), list[int](), dict[Any, Any]()
    backwards = 0
    for step in range(STEPS):
        jump = choose.choice(JUMPS_S)
        backwards += jump < 0
        clock.advance(seconds=jump)
        ids.append((await tenant.memory.add(f"Step {step}.", embedding=[1.0] + [0.0] * 383)).id)
        fact = await tenant.graph.assert_fact("Ada", "lives_in", f"city {step}", cardinality="one")
        recorded.append(fact.recorded_from)
        known[fact.recorded_from] = await believed(tenant, fact.recorded_from)
        numbers.append((await tenant.event_log.append("test.event", {"step": step})).sequence)
        await tenant.audit.record("export", principal="ada", resource=str(step))

    assert backwards > STEPS // 10
    assert ids == sorted(set(ids)), "ids are out of their order"
    assert recorded == sorted(set(recorded)), "a recorded instant went back"
    assert numbers == list(range(1, STEPS + 1))
    for instant, answer in known.items():
        assert await believed(tenant, instant) == answer, "what was known has changed"
    assert [one.payload["step"] for one in await tenant.event_log.tail(limit=100)] == list(range(STEPS))
    assert len((await tenant.event_log.list(limit=100)).items) == STEPS
    chain = await tenant.audit.verify()
    assert (chain.intact, chain.checked) == (True, 1 + STEPS), "the first entry is that of the tenant"


async def believed(tenant: Tenant, known_at: Any) -> list[tuple[Any, ...]]:
    facts = await tenant.graph.facts(subject="Ada", any_time=True, known_at=known_at)
    return sorted((one.object, one.valid_from, str(one.valid_to), str(one.id)) for one in facts)


@pytest.mark.parametrize("backend", STORES)
async def test_a_lease_outlives_a_clock_that_goes_back_and_passes_when_it_has_caught_up(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme, queue = await fresh_tenant(spell), spell._backend.job_queue
        await acme.jobs.enqueue("send")
        (first,) = await queue.lease(worker="a", lease_s=60, tenants=[acme.id])

        clock.advance(seconds=-HOUR_S)
        assert await queue.lease(worker="b", lease_s=60, tenants=[acme.id]) == []
        assert await queue.heartbeat(first, lease_s=60), "whoever holds it goes on"
        clock.advance(seconds=HOUR_S)
        clock.advance(seconds=-HOUR_S)
        clock.advance(seconds=HOUR_S + 61)
        (second,) = await queue.lease(worker="b", lease_s=60, tenants=[acme.id])

        assert (second.token, second.job.id) == (first.token + 1, first.job.id)
        clock.advance(seconds=-2 * HOUR_S)
        with pytest.raises(LeaseLost):
            await queue.complete(first, {})
        assert (await queue.complete(second, {})).state == "succeeded"
        assert await queue.lease(worker="c", lease_s=60, tenants=[acme.id]) == []


@pytest.mark.parametrize("backend", STORES)
async def test_terms_are_neither_opened_nor_doubled_by_a_clock_that_goes_back(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme = await fresh_tenant(spell)
        session = await acme.sessions.create(ttl_s=60)
        await acme.kv.set("k", b"v", ttl_s=60)
        memory = await acme.memory.add("Ada likes tea.", ttl_s=60)
        first = await acme.once("key").procedures.record("s", "k", "v")

        clock.advance(seconds=-HOUR_S)
        assert await acme.sessions.get(session.id) is not None
        assert await acme.kv.get("k") == b"v"
        assert await acme.memory.get(memory.id) is not None
        assert await acme.kv.delete_expired() == 0
        assert await acme.sessions.delete_expired() == 0
        assert await acme.once("key").procedures.record("s", "k", "v") == first
        assert await acme.procedures.frequency("s", "k", "v") == 1

        clock.advance(seconds=HOUR_S + 61)
        assert await acme.sessions.get(session.id) is None
        assert await acme.kv.get("k") is None
        assert await acme.memory.get(memory.id) is None
        assert await acme.once("key").procedures.record("s", "k", "v") == first
        assert await acme.sessions.expire() == 1
        clock.advance(seconds=-30)
        assert await acme.sessions.get(session.id) is None, "what has been marked stays marked"


@pytest.mark.parametrize("backend", STORES)
async def test_a_transaction_is_neither_cut_off_nor_prolonged_by_a_clock_that_goes_back(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme = await fresh_tenant(spell)
        async with acme.transaction(timeout_s=20) as tx:
            await tx.kv.set("before", b"v")
            clock.advance(seconds=-HOUR_S)
            await tx.kv.set("after", b"v")
            await tx.graph.assert_fact("Ada", "knows", "Bob")
        assert tx.outcome == "committed"

        assert await acme.kv.list_keys() == ["after", "before"]
        (fact,) = await acme.graph.facts(subject="Ada")
        clock.advance(seconds=-HOUR_S)
        again = await acme.graph.assert_fact("Ada", "knows", "Cy")
        assert again.recorded_from > fact.recorded_from
        assert again.recorded_from - fact.recorded_from < timedelta(seconds=1)
