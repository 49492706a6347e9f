"""A writer killed in the middle of a write, hundreds of times, in every kind of write: what was acknowledged is there, nothing
is half there, and what was not acknowledged can be sent again under its key."""

from __future__ import annotations

import random
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import apsw
import pytest
from tests.crash.lives import COUNTED, Life, lives_until, lost, repeat, repeat_what_was_open, spread, verify, writer
from tests.crash.torn import torn_in_file
from tests.crash.writer import TENANT
from tests.crash.writes import KINDS, NAMES, VECTOR, Call
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

import llmspell
from llmspell.spell import Spell

KILLS = size(ci=300, soak=10_000)
LOOK_EVERY = 10
STORE_LIVES_MAX = 1_000
"""Lives in one file; a soak begins another then, so that a look at all of it stays short."""
SEED = usual(20_261)


def opened(url: str) -> AbstractAsyncContextManager[Spell]:
    return llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing")


@pytest.mark.timeout(size(ci=300, soak=7_200))
async def test_kills_inside_of_every_kind_of_write_lose_nothing_acknowledged_and_leave_nothing_half_done(
    tmp_path: Path,
) -> None:
    left, part = KILLS, 0
    while left:
        kills = min(left, STORE_LIVES_MAX)
        await kill_and_look(tmp_path / f"store-{part}.db", kills, random.Random(SEED + part))
        left, part = left - kills, part + 1


async def kill_and_look(path: Path, kills: int, choose: random.Random) -> None:
    url, lives = f"sqlite:///{path}", list[Life]()
    async with opened(url) as spell:
        await spell.tenants.create(TENANT, quotas=COUNTED)
    with writer(url) as process:
        for life in lives_until(process, kills, choose):
            lives.append(life)
            if len(lives) % LOOK_EVERY == 0:
                assert torn_in_file(path) == [], f"seed {SEED}, life {life.number}"

    landed = spread(lives)
    assert landed.total() == kills, "too few kills landed inside of a write"
    assert set(landed) == set(NAMES), "some kinds of write were never killed"
    assert min(landed.values()) >= kills // len(NAMES) - 1, landed
    assert torn_in_file(path) == []
    async with opened(url) as spell:
        gone = [one async for one in lost(spell, lives)]
        tell(kills=kills, acknowledged_writes=sum(len(life.acknowledged) for life in lives), lost_writes=len(gone))
        assert gone == [], f"seed {SEED}"
        unknown, repeated = await repeat_what_was_open(spell, lives)
        assert repeated >= kills // 3, "too few calls were sent again under their key"
        await repeat_some_acknowledged(spell, lives)
        sums = await verify(spell.tenant(TENANT))
        assert min(sums.audit_entries, sums.agent_states, sums.artifacts) > 0
        usage = await spell.tenant(TENANT).usage()
        assert min(usage.documents.used, usage.storage_bytes.used, usage.vectors.used) > 0
    assert torn_in_file(path) == []
    tell(unknown_that_had_happened=unknown)


async def repeat_some_acknowledged(spell: Spell, lives: list[Life]) -> None:
    """What was acknowledged, sent again: the writer died, and whoever comes after does not know how far it was."""
    for life in lives:
        for kind, call in (life.call(spell, write) for write in life.acknowledged[-1:]):
            if call.key is not None:
                await repeat(kind, call)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        ("DELETE FROM text_postings", "a memory whose terms are not as many as its row says"),
        ("DELETE FROM memories WHERE session = 'tx'", "terms without a memory"),
        ("DELETE FROM memory_versions", "a memory without the version that it is at"),
        ("DELETE FROM memory_versions WHERE version = 1", "versions with a gap between them"),
        ("DELETE FROM vector_embeddings_384", "a memory without its vector"),
        ("DELETE FROM text_stats", "statistics that count other memories"),
        ("DELETE FROM kv_store WHERE key >= 'tx-'", "a transaction of which only a part is there"),
        ("DELETE FROM entities WHERE name = 'Bob'", "a fact about an entity that is not there"),
        ("DELETE FROM event_log", "events whose numbers are not those that were given"),
        ("UPDATE event_log SET sequence = 7", "events whose numbers are not those that were given"),
        ("DELETE FROM audit_log", "an audit chain that does not end at its head"),
        ("UPDATE idempotency_keys SET result = NULL", "an idempotency key whose call has no answer"),
        ("DELETE FROM artifact_chunks WHERE chunk_no = 1", "a content without its chunks"),
        ("UPDATE artifact_content SET reference_count = 7", "references that are not those of the artifacts"),
        ("UPDATE sessions SET artifact_count = 7", "a session that counts other artifacts"),
        (
            "UPDATE tenant_usage SET documents = documents - 1",
            "a tenant whose counter of memories says something else than its rows",
        ),
        (
            "UPDATE tenant_usage SET storage_bytes = storage_bytes + 1",
            "a tenant whose counter of bytes says something else than its rows",
        ),
        (
            "UPDATE tenant_usage SET vectors = 0",
            "a tenant whose counter of vectors says something else than its rows",
        ),
    ],
)
async def test_the_check_sees_what_is_half_there(tmp_path: Path, harm: str, what: str) -> None:
    path = tmp_path / "store.db"
    async with opened(f"sqlite:///{path}") as spell:
        await spell.tenants.create(TENANT, quotas=COUNTED)
        tenant = spell.tenant(TENANT)
        for number, name in enumerate(("run", "memory.update", "artifacts.put/large", "event_log.append_many")):
            call = Call(tenant, f"1-{number}", f"key-{number}")
            await KINDS[name].prepare(call)
            await KINDS[name].act(call)
        await tenant.memory.add("one", embedding=VECTOR)
    assert torn_in_file(path) == []
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(harm)

    assert what in torn_in_file(path)
