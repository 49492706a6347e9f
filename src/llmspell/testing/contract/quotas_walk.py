"""Random changes of everything that a quota counts: what the contract of quotas compares counters and rows after."""

from __future__ import annotations

import random
from uuid import UUID, uuid4

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.memories import MemoryChange
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.tenant import TenantId
from llmspell.testing.contract import SPACE, memory, packed, random_vector

STEPS = 60


class Left(Exception):
    """Leaves a transaction."""


def vector(seed: int = 1) -> VectorEntry:
    """Return a vector that the seed alone decides."""
    return VectorEntry(embedding=random_vector(seed))


def noise(size_bytes: int, seed: int = 1) -> bytes:
    """Return content that does not compress."""
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - test data


async def wander(backend: Backend, tenant: TenantId, clock: ManualClock, choice: random.Random) -> list[str]:
    """Do what changes a use, in any order, some of it in transactions that fail; return what was done."""
    storages = backend.storages(tenant)
    await storages.memories.ensure_space(SPACE)
    walk = Walk(clock, choice)
    for _ in range(STEPS):
        step = choice.choice(Walk.STEPS)
        clock.advance(seconds=1)
        if choice.random() < 0.7:
            await walk.take(step, storages)
            continue
        fails = choice.random() < 0.5
        try:
            async with backend.transaction(tenant) as tx:
                await walk.take(step, tx)
                await walk.take(choice.choice(Walk.STEPS), tx)
                if fails:
                    raise Left
        except Left:
            walk.done.append("rolled back")
    return walk.done


class Walk:
    """Random changes; what they refer to may be gone, which is an error of ours and nothing else."""

    STEPS = ("set", "unset", "remember", "reword", "drop", "insert", "delete", "put", "discard", "leave", "embed")

    def __init__(self, clock: ManualClock, choice: random.Random) -> None:
        self._clock = clock
        self._choice = choice
        self._memories: list[UUID] = [uuid4()]
        self._vectors: list[UUID] = [uuid4()]
        self._sessions: list[UUID] = [uuid4()]
        self._artifacts: list[str] = []
        self.done: list[str] = []

    async def take(self, step: str, storages: Storages) -> None:
        self.done.append(step)
        try:
            await getattr(self, f"_{step}")(storages)
        except LlmspellError as error:
            self.done.append(type(error).__name__)

    def _text(self) -> str:
        return "ä" * self._choice.randrange(1, 50)

    async def _set(self, storages: Storages) -> None:
        names = self._choice.sample("abcdef", 2)
        await storages.kv.set_batch({name: bytes(self._choice.randrange(100)) for name in names})

    async def _unset(self, storages: Storages) -> None:
        await storages.kv.delete_batch(self._choice.sample("abcdef", 3))

    async def _remember(self, storages: Storages) -> None:
        new = [memory(self._clock, self._text()) for _ in range(self._choice.randrange(1, 4))]
        self._memories += [one.id for one in new]
        await storages.memories.add(new)

    async def _reword(self, storages: Storages) -> None:
        await storages.memories.update(self._choice.choice(self._memories), MemoryChange(content=self._text()))

    async def _drop(self, storages: Storages) -> None:
        id = self._choice.choice(self._memories)
        await (storages.memories.forget(id) if self._choice.random() < 0.3 else storages.memories.delete(id))

    async def _insert(self, storages: Storages) -> None:
        self._vectors += await storages.vectors.insert([vector(self._choice.randrange(99)) for _ in range(2)])

    async def _delete(self, storages: Storages) -> None:
        await storages.vectors.delete(self._choice.sample(self._vectors, min(3, len(self._vectors))))

    async def _put(self, storages: Storages) -> None:
        if self._choice.random() < 0.3:
            self._sessions.append((await storages.sessions.create()).id)
        content = noise(self._choice.choice((10, 20_000, 1_100_000)), self._choice.randrange(3))
        put = await storages.artifacts.put(self._choice.choice(self._sessions), "a", content)
        self._artifacts.append(put.id)

    async def _discard(self, storages: Storages) -> None:
        if self._artifacts:
            await storages.artifacts.delete(self._choice.choice(self._artifacts))

    async def _leave(self, storages: Storages) -> None:
        await storages.sessions.delete(self._choice.choice(self._sessions))

    async def _embed(self, storages: Storages) -> None:
        waiting = await storages.memories.pending(space_id=SPACE.space_id, limit=2)
        windows = tuple(packed(random_vector(seed)) for seed in range(self._choice.randrange(1, 3)))
        await storages.memories.attach_embeddings(SPACE.space_id, [(one.id, one.version, windows) for one in waiting])
