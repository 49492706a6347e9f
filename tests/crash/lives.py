"""Writers as the one who kills them sees them: what each said, and when it dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.crash.writer import TENANT
from tests.crash.writes import KINDS, NAMES, Call, key_of, kind_of

from llmspell.spell import Spell, Tenant
from llmspell.storage.contracts.tenants import QUOTA_MAX, QuotaLimits

LEAD_MAX = 6
"""Writes that a life has acknowledged, at most, before the one that it is to die in."""
MOMENT_S = 0.002  # about as long as a write takes, until the writer says how long its kind does
LIMIT_S = 60
COUNTED = QuotaLimits.only(max_documents=QUOTA_MAX, max_storage_mb=QUOTA_MAX, max_vectors=QUOTA_MAX)
"""What a tenant is granted whose writers are killed: more than it ever has, so that all is counted and nothing is refused."""


class Life:
    """What one writer said before it was killed."""

    def __init__(self, number: int, start: int) -> None:
        self.number = number
        self.start = start
        self.acknowledged: list[int] = []
        self.open: int | None = None
        self.exit_code: int | None = None
        self.took_s: dict[str, float] = {}

    def hear(self, line: str) -> None:
        word, *numbers = line.split()
        if word == "begin":
            self.open = int(numbers[0])
        elif word == "end":
            self.acknowledged.append(int(numbers[0]))
            self.took_s[kind_of(self.start, int(numbers[0]))] = int(numbers[1]) / 1e6
            self.open = None
        elif word == "dead":
            self.exit_code = int(numbers[0])

    def call(self, spell: Spell, write: int) -> tuple[str, Call]:
        """One of its writes again: its kind, and the same call under the same key."""
        kind = kind_of(self.start, write)
        return kind, Call(spell.tenant(TENANT), f"{self.number}-{write}", key_of(self.number, write, kind))


@contextmanager
def writer(url: str) -> Iterator[subprocess.Popen[str]]:
    """The process that forks writers; gone at the end."""
    command = [sys.executable, str(Path(__file__).parent / "writer.py"), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(LIMIT_S) == 0


def live_and_die(
    process: subprocess.Popen[str], number: int, *, doomed: str, choose: random.Random, took_s: Mapping[str, float]
) -> Life:
    """Let a writer acknowledge a few writes, and kill it a random moment into one of the kind that is doomed."""
    assert process.stdin is not None
    assert process.stdout is not None
    last = choose.randrange(LEAD_MAX + 1)
    life = Life(number, (NAMES.index(doomed) - last) % len(NAMES))
    process.stdin.write(f"{number} {life.start}\n")
    process.stdin.flush()
    pid = int(process.stdout.readline().split()[1])
    while life.open != last and life.exit_code is None:
        life.hear(process.stdout.readline())
    moment = time.perf_counter() + choose.random() * took_s.get(doomed, MOMENT_S)
    while time.perf_counter() < moment:  # no pause of the operating system's is this short
        pass
    assert life.exit_code is None, "the writer ended by itself"
    os.kill(pid, signal.SIGKILL)
    while life.exit_code is None:
        life.hear(process.stdout.readline())
    assert life.exit_code == -signal.SIGKILL
    return life


def lives_until(
    process: subprocess.Popen[str], kills: int, choose: random.Random, *, tries_each: int = 4
) -> Iterator[Life]:
    """Yield lives until so many were killed inside of a write, as many in each kind of write as in any other."""
    took_s: dict[str, float] = {}
    inside: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
    for number in range(kills * tries_each):
        rarest = min(inside.values())
        doomed = choose.choice([name for name in NAMES if inside[name] == rarest])
        life = live_and_die(process, number, doomed=doomed, choose=choose, took_s=took_s)
        took_s.update(life.took_s)
        if life.open is not None:
            inside[kind_of(life.start, life.open)] += 1
        yield life
        if inside.total() == kills:
            return
    raise AssertionError(f"too few kills landed inside of a write: {inside.total()} of {kills}")


def spread(lives: list[Life]) -> Counter[str]:
    """How many kills landed inside of a write of each kind."""
    return Counter(kind_of(life.start, life.open) for life in lives if life.open is not None)


async def lost(spell: Spell, lives: list[Life]) -> AsyncIterator[str]:
    """Name every acknowledged write that is not there; one that is half there raises."""
    for life in lives:
        for write in life.acknowledged:
            kind, call = life.call(spell, write)
            if not await KINDS[kind].trace(call):
                yield f"{kind} {call.name}"


async def repeat_what_was_open(spell: Spell, lives: list[Life]) -> tuple[int, int]:
    """Send what was not acknowledged again under its key; return how many writes had happened all the same, and how many
    were sent again.

    Each is there whole or not at all before, and whole, once, after; sent a third time it gives the same answer.
    """
    landed = repeated = 0
    for life in lives:
        if life.open is None:
            continue
        kind, call = life.call(spell, life.open)
        landed += await KINDS[kind].trace(call)
        if call.key is not None:
            await repeat(kind, call)
            repeated += 1
    return landed, repeated


async def repeat(kind: str, call: Call) -> None:
    """Send a call twice more under its key: it has one effect and one answer."""
    answer = await KINDS[kind].act(call)
    assert await KINDS[kind].trace(call), (kind, call.name)
    assert await KINDS[kind].act(call) == answer, (kind, call.name)
    assert await KINDS[kind].trace(call), (kind, call.name)


class Sums(msgspec.Struct, frozen=True):
    """What the checks of a store's own say."""

    audit_entries: int
    agent_states: int
    artifacts: int


async def verify(tenant: Tenant) -> Sums:
    """Verify a tenant's audit chain, every state by its checksum and every content by its hash."""
    chain = await tenant.audit.verify()
    assert chain.intact, chain
    states = await tenant.agent_state.verify()
    assert not states.damaged, states
    artifacts, cursor = 0, None
    while True:
        page = await tenant.artifacts.list(cursor=cursor, limit=1_000)
        for one in page.items:
            assert await tenant.artifacts.verify(one.id)
        artifacts, cursor = artifacts + len(page.items), page.next_cursor
        if cursor is None:
            return Sums(audit_entries=chain.checked, agent_states=states.checked, artifacts=artifacts)
