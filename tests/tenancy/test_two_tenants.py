"""The same program, alone in a store and beside somebody who has the same names, ids and words: every answer is the same (C7).

What an answer could be confused by is kept for several calls or tenants: handles, gates, embeddings, vectors in memory, answers
under a key, uses of keys, reads that wait to be written. So the neighbour has used all of it before, under the same names and ids.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import STORES, operator_url_of, url_of
from tests.tenancy.attacks import ATTACKS
from tests.tenancy.belongings import LATER_S, Belongings, Marks, fill, invented, same_ids
from tests.tenancy.observation import Told, told

import llmspell
from llmspell.clock import ManualClock
from llmspell.providers.cache import CacheConfig, CachedEmbedder, EmbeddingCache
from llmspell.providers.embedder import Embedder
from llmspell.providers.hashing import HashingEmbedder
from llmspell.security.keyring import new_master_key
from llmspell.settings import PostgresSettings, SecuritySettings, Settings, StorageSettings
from llmspell.spell import Spell

"""Printed with every failure; set it here to replay one."""
MARKS = 1_000
ROWS = 16


class Asked(HashingEmbedder):
    """An embedder that notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        self.texts += texts
        return await super().embed(texts)


@asynccontextmanager
async def store(
    backend: str,
    request: pytest.FixtureRequest,
    folder: Path,
    clock: ManualClock,
    *,
    embedder: Embedder | str = "hashing",
    **security: Any,
) -> AsyncIterator[Spell]:
    settings = Settings(
        security=SecuritySettings(master_keys=new_master_key(), **security),
        storage=StorageSettings(postgres=PostgresSettings(pool_size=2, operator_url=operator_url_of(backend, request))),
    )
    url = url_of(backend, request, folder)
    async with llmspell.connect(url, settings=settings, embedder=embedder, clock=clock) as spell:
        yield spell


async def run(spell: Spell, clock: ManualClock, tenant: str, names: Belongings, steps: int) -> list[tuple[str, Told]]:
    """Fill a tenant and make random calls with its own names, the same ones for the same seed; then it is as early as before."""
    await spell.tenants.create(tenant)
    with same_ids(spell, SEED):
        mine = await fill(spell, msgspec.structs.replace(names, tenant=tenant), Marks(SEED + 7), rows=3)
    clock.advance(seconds=LATER_S)
    chance = random.Random(SEED)
    calls = [(f"{label}[{n}]", one) for label, attacks in ATTACKS.items() for n, one in enumerate(attacks)]
    calls = [call for call in calls if not call[0].startswith("transaction.")]
    given = []
    for label, attack in (chance.choice(calls) for _ in range(steps)):
        given.append((label, await told(attack, spell.tenant(tenant), mine, me=tenant)))
        clock.advance(seconds=1)
    clock.advance(seconds=-LATER_S - steps)
    return given


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", STORES)
async def test_every_answer_is_the_same_alone_and_beside_a_neighbour_of_the_same_names(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    steps = size(ci=500, soak=20_000)
    clock = ManualClock()
    names, test = invented(SEED, Marks(SEED)), f"{SEED}-{zlib.crc32(request.node.name.encode()):08x}"
    neighbours = Marks(SEED + 1)
    wrong: list[str] = []
    async with store(backend, request, tmp_path, clock) as spell:
        alone = await run(spell, clock, f"b-alone-{test}", names, steps)

        neighbour = f"a-other-{test}"
        await spell.tenants.create(neighbour)
        with same_ids(spell, SEED):
            theirs = await fill(spell, msgspec.structs.replace(names, tenant=neighbour), neighbours, rows=ROWS)
        for attacks in ATTACKS.values():  # whatever can be kept of the neighbour's calls, is
            await told(attacks[0], spell.tenant(neighbour), theirs, me=neighbour)
        beside = await run(spell, clock, f"b-beside-{test}", names, steps)

    for (label, first), (_, then) in zip(alone, beside, strict=True):
        if first.outcome != then.outcome:
            same = next(
                (n for n, pair in enumerate(zip(first.outcome, then.outcome, strict=False)) if len({*pair}) > 1), 0
            )
            wrong.append(f"{label}: alone {first.outcome[same:][:150]!r}, beside {then.outcome[same:][:150]!r}")
        if revealed := neighbours.found_in(then.everything):
            wrong.append(f"{label} reveals {revealed}")
    tell(probes=steps, leaks=len(wrong))
    assert len(neighbours.given) >= MARKS
    assert not wrong, "\n".join([f"seed {SEED}", *wrong[:20]])
    assert len({label for label, _ in alone}) > steps / 4, "many different calls were made"


@pytest.mark.parametrize("backend", STORES)
async def test_an_embedding_that_a_neighbour_had_made_is_made_again(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Else the time of an answer, or a bill, would tell that somebody has said the same."""
    clock, asked = ManualClock(), Asked()
    embedder = CachedEmbedder(asked, EmbeddingCache(CacheConfig(per_tenant=True), clock=clock))
    test = f"{SEED}-{zlib.crc32(request.node.name.encode()):08x}"
    async with store(backend, request, tmp_path, clock, embedder=embedder) as spell:
        for tenant in ("a", "b"):
            await spell.tenants.create(f"{tenant}-{test}")
            await spell.tenant(f"{tenant}-{test}").memory.add("The same words.", at=clock.now())
            await spell.tenant(f"{tenant}-{test}").memory.search("the same question")
        keys = set(embedder.cache._memory)

    assert Counter(asked.texts).most_common()[-1][1] == 2, "each text was asked for once by each tenant"
    assert Settings().embedding.cache.per_tenant, "that is the default"
    assert len({namespace for namespace, _ in keys}) == 2


async def test_vectors_in_memory_are_kept_by_tenant(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with store("sqlite", request, tmp_path, ManualClock()) as spell:
        for tenant, vector in (("a", [1.0] * 384), ("b", [1.0, -1.0] * 192)):
            await spell.tenants.create(tenant)
            await spell.tenant(tenant).vectors.insert({"embedding": vector})
            assert len(await spell.tenant(tenant).vectors.search([1.0] * 384)) == 1
        spaces = spell._backend._runtime.nearest.search_in_process()._cache._spaces  # type: ignore[attr-defined]

    assert {key.tenant for key in spaces} == {"a", "b"}


@pytest.mark.parametrize("backend", STORES)
async def test_uses_of_keys_of_one_id_are_counted_for_whose_they_are(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two tenants may have keys of one id: after a copy of one's data, for example."""
    clock = ManualClock()
    test = f"{SEED}-{zlib.crc32(request.node.name.encode()):08x}"
    async with store(backend, request, tmp_path, clock) as spell:
        tenants, presented = [], []
        for name in ("a", "b"):
            await spell.tenants.create(f"{name}-{test}")
            tenants.append(spell.tenant(f"{name}-{test}"))
        for tenant in tenants:
            with same_ids(spell, SEED):
                await tenant.api_keys.set("openai", f"sk-{tenant.id}")
                presented.append((await tenant.access_keys.issue(name="ci", scopes=["read"])).key)
        infos = [await tenant.api_keys.get("openai") for tenant in tenants]
        assert len({info.key_id for info in infos if info is not None}) == 1, "both have the id"

        for tenant, uses in zip(tenants, (5, 2), strict=True):
            for _ in range(uses):
                await tenant.api_keys.reveal("openai")
        clock.advance(seconds=3_600)
        for tenant in tenants:
            await tenant.api_keys.reveal("openai")
        counted = [await tenant.api_keys.get("openai") for tenant in tenants]

        # At once: the note of the one is under way while the other comes.
        for key, tenant in zip(presented, tenants, strict=True):
            principal = await spell.authenticate(key)
            assert principal is not None
            assert principal.tenant == tenant.id
        await spell._authenticator.settle()
        noted = [(await tenant.access_keys.list()).items[0].last_used_at for tenant in tenants]

    assert [info.usage_count for info in counted if info is not None] == [6, 3]
    assert noted == [clock.now(), clock.now()]


@pytest.mark.parametrize("backend", STORES)
async def test_reads_that_wait_to_be_recorded_are_recorded_for_whoever_read(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    test = f"{SEED}-{zlib.crc32(request.node.name.encode()):08x}"
    async with store(backend, request, tmp_path, ManualClock(), audit_reads=True) as spell:
        tenants = []
        for name in ("a", "b"):
            await spell.tenants.create(f"{name}-{test}")
            tenants.append(spell.tenant(f"{name}-{test}"))
        for number in range(20):
            await tenants[number % 2].kv.get(f"key-{number}")
            if number % 4 == 0:
                await tenants[0].sessions.count()
        assert spell._reads is not None
        await spell._reads.flush()
        recorded = [
            Counter(entry.operation for entry in (await spell.tenants.audit(tenant.id).list()).items)
            for tenant in tenants
        ]

    assert recorded[0] == {"tenants.create": 1, "kv.get": 10, "sessions.count": 5}
    assert recorded[1] == {"tenants.create": 1, "kv.get": 10}
