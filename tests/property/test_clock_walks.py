"""Clocks that jump: an hour forward and back, over a leap day, over the year 2038, by a microsecond.

Whatever the clock does, on every backend: what was recorded of a tenant never goes back, numbers have no gaps and no repetition,
ids of one source rise, a lease is nobody else's before its end, and what has expired by the clock is absent by it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

from llmspell.clock import ManualClock
from llmspell.ids import IdSource
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.graph import NewFact
from llmspell.storage.contracts.jobs import LeasedJob
from llmspell.tenant import TenantId

SEED = usual(1)
WALKS = size(ci=1_000, soak=50_000)
JUMPS = 8
WALKS_OF_A_TENANT = 50
LEASE_S = 1_800.0
BEGINNINGS = [
    "2026-01-01T00:00:00Z",
    "2028-02-28T23:59:59.999999Z",
    "2028-03-01T00:00:00Z",
    "2038-01-19T03:14:07Z",
    "2038-01-19T03:14:07.999999Z",
    "2026-03-29T00:59:59Z",
    "2016-12-31T23:59:59.999999Z",
    "1969-12-31T23:59:59.999999Z",
]
SECONDS = [3_600, -3_600, 86_400, -86_400, 1, -1, 0.000_001, -0.000_001, 0, 1_800, -1_800, 0.5]
KINDS = ["set", "set", "session", "session", "lease", "lease", "fact", "fact", "event", "audit", "ids"]


class Walk:
    """What one tenant on one store has shown so far."""

    def __init__(self, name: str, backend: Backend, clock: ManualClock) -> None:
        self.name, self.backend, self.clock = name, backend, clock
        self.tenant = TenantId(f"walk-{uuid4().hex}")
        self.on = backend.storages(self.tenant)
        self.kind = f"kind-{uuid4().hex}"
        self.recorded: datetime | None = None
        self.events = self.entries = self.asserted = 0
        self.keys: dict[str, datetime] = {}
        self.sessions: dict[UUID, datetime] = {}
        self.held: LeasedJob | None = None
        self.ids = IdSource(clock)
        self.last_id = UUID(int=0)

    async def begin(self) -> None:
        await self.backend.tenants.create(self.tenant)
        self.entries = 1  # of its creation
        await self.on.jobs.enqueue(self.kind, max_attempts=100)

    async def look(self, kind: str, number: int, seconds: float) -> None:
        """Do one thing at the time that it is now, and check what the jump before must not have done."""
        await getattr(self, f"_{kind}")(number, seconds)

    async def _set(self, number: int, seconds: float) -> None:
        for key, until in self.keys.items():
            present = self.clock.now() < until
            assert await self.on.kv.exists(key) == present, (self.name, key, until)
        key = f"k{number % 4}"
        await self.on.kv.set(key, b"v", ttl_s=seconds)
        self.keys[key] = self.clock.now() + timedelta(seconds=seconds)

    async def _session(self, number: int, seconds: float) -> None:
        for id, until in list(self.sessions.items())[-4:]:
            found = await self.on.sessions.get(id)
            assert (found is not None) == (self.clock.now() < until), (self.name, id, until)
        made = await self.on.sessions.create(ttl_s=seconds)
        assert made.expires_at is not None
        self.sessions[made.id] = made.expires_at

    async def _lease(self, number: int, seconds: float) -> None:
        """The one job of this walk: whoever holds it keeps it until its lease has passed, and each lease has a higher token."""
        found = await self.backend.job_queue.lease(
            worker="w", kinds=[self.kind], lease_s=LEASE_S, tenants=[self.tenant]
        )
        before, now = self.held, self.clock.now()
        if before is None or (before.job.leased_until is not None and before.job.leased_until <= now):
            assert len(found) == 1, (self.name, before)
            assert before is None or found[0].token > before.token
            self.held = found[0]
        else:
            assert found == [], (self.name, before, found)
        if self.held is not None and self.held.job.attempt > 90:
            await self.backend.job_queue.release(self.held)
            self.held = None
            self.kind = f"kind-{uuid4().hex}"
            await self.on.jobs.enqueue(self.kind, max_attempts=100)

    async def _fact(self, number: int, seconds: float) -> None:
        self.asserted += 1  # each says something new
        new = NewFact(subject="s", predicate="p", object=f"o{number % 3}", confidence=self.asserted / 1e6)
        fact = await self.on.graph.assert_fact(new)
        assert fact.recorded_from >= self.clock.now()
        assert self.recorded is None or fact.recorded_from > self.recorded, (self.name, fact, self.recorded)
        versions = await self.on.graph.history(fact.id)
        begun = [one.recorded_from for one in versions]
        assert begun == sorted(begun)
        assert all(one.recorded_to is None or one.recorded_from < one.recorded_to for one in versions)
        self.recorded = fact.recorded_from

    async def _event(self, number: int, seconds: float) -> None:
        event = await self.on.event_log.append("walk.on", {"n": number})
        self.events += 1
        assert event.sequence == self.events, self.name
        tail = await self.on.event_log.tail(after_sequence=max(0, self.events - 5))
        assert [one.sequence for one in tail] == list(range(max(0, self.events - 5) + 1, self.events + 1))

    async def _audit(self, number: int, seconds: float) -> None:
        entry = await self.on.audit.record("walk", principal="p", resource="r")
        self.entries += 1
        assert entry.sequence == self.entries, self.name
        if number % 16 == 0:
            assert (await self.on.audit.verify()).intact

    async def _ids(self, number: int, seconds: float) -> None:
        for _ in range(8):
            id = self.ids.new()
            assert id > self.last_id
            self.last_id = id


@pytest.mark.timeout(size(ci=600, soak=7_200))
def test_nothing_recorded_goes_back_and_no_limit_opens_when_the_clock_jumps(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock
) -> None:
    draw = random.Random(SEED)
    jumps: Counter[str] = Counter()
    walks: list[Walk] = []
    trail: list[Any] = []
    for number in range(WALKS):
        clock.set(draw.choice(BEGINNINGS))
        if number % WALKS_OF_A_TENANT == 0:
            walks = [Walk(name, backend, clock) for name, backend in stores.items()]
            trail = []
            for walk in walks:
                loop.run(walk.begin())
        for _ in range(JUMPS):
            seconds, kind, ttl_s = draw.choice(SECONDS), draw.choice(KINDS), draw.choice([0.000_001, 1, 1_800, 7_200])
            clock.advance(seconds=seconds)
            jumps["back" if seconds < 0 else "forward" if seconds else "still"] += 1
            trail.append((clock.now().isoformat(), kind, ttl_s))
            try:
                for walk in walks:
                    loop.run(walk.look(kind, len(trail), ttl_s))
            except AssertionError as error:
                error.add_note(f"LLMSPELL_TEST_SEED={SEED}, walk {number}: {trail[-20:]}")
                raise

    tell(clock_walks=WALKS)
    assert min(jumps.values()) > WALKS // 4, jumps
