"""Batches that touch the same rows in opposite orders: nobody waits for somebody who waits for them, and the counts are exact."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.fixtures.stores import DATABASES, STORES, fresh_tenant, opened, url_of

import llmspell
from llmspell.errors import AlreadyExists, Conflict
from llmspell.providers.hashing import HashingEmbedder
from llmspell.spell import Tenant

WRITERS = 8
ROUNDS = 6
KEYS = [f"key-{number:03}" for number in range(60)]
SUBJECTS = [f"Subject {number}" for number in range(6)]
IDENTICAL, IDENTICAL_WRITERS, IDENTICAL_ROUNDS = 200, 4, 3
ATTEMPTS_MAX = 500
LIMIT_S = 60


class MeetingEmbedder(HashingEmbedder):
    """Waits with a batch until every writer has come with theirs, so that they are written at the same time."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__()
        self._meeting = meeting

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        if len(texts) > 1:
            self._meeting.wait()  # it blocks the loop of this writer, which has nothing else to do
        return [self._vector("Ada said it")] * len(texts)


async def together(calls: Sequence[Coroutine[Any, Any, object]]) -> list[object]:
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*calls, return_exceptions=True)


def require_no_deadlock(outcomes: Sequence[object]) -> None:
    assert not [str(one) for one in outcomes if "waited for each other" in str(one)]


def directed(items: Sequence[str], writer: int) -> list[str]:
    """The items forwards for one half of the writers, and backwards for the other."""
    return list(items if writer % 2 else reversed(items))


@pytest.mark.parametrize("backend", STORES)
async def test_batches_of_the_same_keys_leave_the_values_of_one_batch(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=WRITERS) as spell:
        tenant = await fresh_tenant(spell)

        async def write(writer: int) -> None:
            for number in range(ROUNDS):
                value = f"{writer}/{number}".encode()
                await tenant.kv.set_batch(dict.fromkeys(directed(KEYS, writer), value))

        outcomes = await together([write(writer) for writer in range(WRITERS)])

        assert outcomes == [None] * WRITERS
        values = await tenant.kv.get_batch(KEYS)
        assert len(values) == len(KEYS)
        assert len(set(values.values())) == 1


@pytest.mark.parametrize("backend", DATABASES)
async def test_batches_of_memories_with_the_same_ids_are_kept_once_and_whole(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each writer has a thread, a loop and a store of its own: on one loop, one batch is sent before the next is made."""
    async with opened(backend, request, tmp_path, embedder=HashingEmbedder()) as spell:
        tenant = await fresh_tenant(spell)
        await tenant.memory.search("warm")  # registers the space
        url, meeting = url_of(backend, request, tmp_path), threading.Barrier(IDENTICAL_WRITERS, timeout=LIMIT_S)

        async def write(ids: list[str], writer: int) -> str:
            items = [{"id": id, "text": "Ada said it", "session": f"s{writer}"} for id in directed(ids, writer)]
            embedder = MeetingEmbedder(meeting)
            async with llmspell.connect(url, settings=llmspell.Settings(), embedder=embedder) as own:
                await own.tenant(tenant.id).memory.search("warm")
                await own.tenant(tenant.id).memory.add_many(items)
            return f"s{writer}"

        for number in range(IDENTICAL_ROUNDS):
            ids = sorted(str(uuid4()) for _ in range(IDENTICAL))
            outcomes = await together(
                [asyncio.to_thread(asyncio.run, write(ids, writer)) for writer in range(IDENTICAL_WRITERS)]
            )

            require_no_deadlock(outcomes)
            (session,) = [one for one in outcomes if isinstance(one, str)]
            assert all(isinstance(one, (str, AlreadyExists)) for one in outcomes), outcomes
            assert await tenant.memory.count() == IDENTICAL * (number + 1)
            kept = [await tenant.memory.get(id) for id in ids]
            assert {memory.session for memory in kept if memory is not None} == {session}


@pytest.mark.parametrize("backend", STORES)
async def test_batches_of_memories_that_share_their_words_are_all_kept(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=WRITERS) as spell:
        tenant = await fresh_tenant(spell)

        async def write(writer: int) -> None:
            for number in range(ROUNDS):
                words = [{"text": f"{word} of {writer} in {number}"} for word in directed(KEYS[:10], writer)]
                await tenant.memory.add_many(words)

        outcomes = await together([write(writer) for writer in range(WRITERS)])

        assert outcomes == [None] * WRITERS
        assert await tenant.memory.count() == WRITERS * ROUNDS * 10


async def assert_all(tenant: Tenant, writer: int) -> None:
    for subject in directed(SUBJECTS, writer):
        await tenant.graph.assert_fact(subject, "knows", f"Writer {writer}")


@pytest.mark.parametrize("backend", STORES)
async def test_facts_about_the_same_subjects_are_all_kept(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=WRITERS) as spell:
        tenant = await fresh_tenant(spell)

        outcomes = await together([assert_all(tenant, writer) for writer in range(WRITERS)])

        assert outcomes == [None] * WRITERS
        await require_every_fact(tenant)


@pytest.mark.parametrize("backend", STORES)
async def test_facts_of_transactions_in_opposite_orders_are_all_kept(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, connections=WRITERS) as spell:
        tenant = await fresh_tenant(spell)

        async def write(writer: int) -> None:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with tenant.transaction() as tx:
                        for subject in directed(SUBJECTS, writer):
                            await tx.graph.assert_fact(subject, "knows", f"Writer {writer}")
                except Conflict as exc:
                    require_no_deadlock([exc])
                else:
                    return
            raise AssertionError("somebody else was always first")

        outcomes = await together([write(writer) for writer in range(WRITERS)])

        assert outcomes == [None] * WRITERS
        await require_every_fact(tenant)


async def require_every_fact(tenant: Tenant) -> None:
    facts = await tenant.graph.facts(predicate="knows", limit=1_000)
    found = sorted((fact.subject, fact.object) for fact in facts)
    assert found == sorted((subject, f"Writer {writer}") for subject in SUBJECTS for writer in range(WRITERS))
    stats = await tenant.graph.stats()
    assert stats.entities == len(SUBJECTS) + WRITERS
