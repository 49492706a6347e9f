"""Random histories of vectors, on the model in memory and on a file that two stores have open at once.

The model is told everything the file is told. What searches find is compared in `Histories.search` and `.search_memories`; every
search in process is watched, so that a test can demand that graphs, tails, filters and files were really met.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import apsw
import numpy as np
import pytest

from llmspell.clock import ManualClock
from llmspell.codec import pack_vector
from llmspell.storage.contracts.filters import parse
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryQuery, NewMemory
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort, IndexChoice
from llmspell.storage.contracts.vectors import FILTER_FIELDS, VectorEntry
from llmspell.storage.index import planner, recall
from llmspell.storage.index.planner import Path as Way
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.sqlite import vector_rows, vector_search
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.storage.sqlite.connection import control, roll_back
from llmspell.storage.sqlite.database import run_work
from llmspell.tenant import TenantId

TENANT, SPACE = TenantId("t1"), "s"
DIMENSION = 384
ROWS_MAX = 700
SCOPES = 8
EVERYTHING = 1_000
CHOICE = IndexChoice(m=8, ef_construction=40, ef_search=16)
"""A poor graph, which takes more than the least number of candidates."""
EFFORTS = (CONFIGURED, CONFIGURED, Effort(recall=0.95), Effort(ef_search=20), Effort(recall=1.0))


def small(monkeypatch: pytest.MonkeyPatch, seen: Counter[str]) -> None:
    """Make some dozens of rows worth a graph and a few more worth being taken in, and count the ways that searches go."""
    monkeypatch.setattr(planner, "SCAN_COMPONENTS", 80 * DIMENSION)
    monkeypatch.setattr(planner, "TAIL_ROWS", 25)
    monkeypatch.setattr(planner, "BEAM", 0.5)
    monkeypatch.setattr(recall, "QUESTIONS", 40)
    monkeypatch.setattr(recall, "BEAMS", (16, 32, 64, 128))
    monkeypatch.setattr(vector_rows, "PAGE_BYTES", 60 * DIMENSION * 4)
    real = vector_search.search

    def watched(view: Any, question: Any, fetch: Any, *, chosen: Any = None) -> Any:
        answer = real(view, question, fetch, chosen=chosen)
        seen["searches in process"] += 1
        if answer.plan.path is Way.GRAPH:
            seen["by a graph"] += 1
            seen["by a graph with rows behind it"] += len(view.tail) > 0
            seen["by a graph with rows that were gone"] += view.alive is not None
            seen["by a graph under a filter"] += chosen is not None
            seen["by a graph from a file"] += view.indexed.file_bytes is not None
        elif view.indexed is not None:
            seen["exactly, beside a graph"] += 1
        return answer

    monkeypatch.setattr(vector_search, "search", watched)


class Undo(Exception):
    """Leaves a transaction that is not to be kept."""


class Older(NamedTuple):
    """A connection that stays at an earlier snapshot, with questions and their answers of then."""

    backend: SqliteBackend
    connection: apsw.Connection
    answers: list[tuple[list[float], dict[str, Any], list[tuple[UUID, float]]]]


class Histories:
    """One history."""

    def __init__(self, path: Path, seed: int, clock: ManualClock, seen: Counter[str]) -> None:
        self.path = path
        self.seen = seen
        self.clock = clock
        self.model = InMemoryBackend(clock=clock)
        self.files: list[SqliteBackend] = []
        self.recalls: list[float] = []
        self._choose = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._centres = self._numbers.normal(size=(12, DIMENSION))
        self._ids: dict[UUID, str] = {}
        self._memories: dict[UUID, int] = {}
        self._next = 1
        self._older: list[Older] = []

    async def open(self) -> None:
        self.files = [await self._opened() for _ in range(2)]
        for backend in (self.model, self.files[0]):
            await backend.storages(TENANT).memories.ensure_space(
                EmbeddingSpace(space_id=SPACE, model="m", dimension=DIMENSION)
            )

    async def _opened(self) -> SqliteBackend:
        return await open_sqlite(self.path, clock=self.clock, vector_index=CHOICE, memory_index=CHOICE)

    async def close(self) -> None:
        while self._older:
            self._leave(self._older.pop())
        for backend in self.files:
            await backend.close()

    # --- what happens -------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        crowded = len(self._ids) > ROWS_MAX
        steps: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.2 if crowded else 3, self.insert),
            (4 if crowded else 1.5, self.delete),
            (0.3, self.delete_scope),
            (1.5, self.rewrite),
            (0.2 if len(self._memories) > ROWS_MAX // 2 else 1.5, self.remember),
            (1, self.forget),
            (0.7, self.embed_again),
            (0.7, self.transact),
            (0.5, self.build),
            (0.25, self.reopen),
            (0.15, self.lose_the_log),
            (0.15, self.lose_the_files),
            (0.15, self.skip_numbers),
            (0.6, self.hold_a_snapshot),
            (1, self.ask_a_snapshot),
            (5, self.search),
            (2, self.search_memories),
        ]
        (chosen,) = self._choose.choices([step for _, step in steps], [weight for weight, _ in steps])
        self.clock.advance(seconds=1)
        self.seen[f"step {chosen.__name__}"] += 1
        await chosen()

    def _file(self) -> SqliteBackend:
        return self._choose.choice(self.files)

    async def _both(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do something in the model and in the file, which must say the same."""
        expected, got = await work(self.model.storages(TENANT)), await work(self._file().storages(TENANT))
        assert got == expected
        return got

    def vector(self) -> list[float]:
        if self._choose.random() < 0.05:
            return [1.0] * DIMENSION
        centre = self._centres[self._choose.randrange(len(self._centres))]
        drawn = centre + self._numbers.normal(size=DIMENSION) * self._choose.choice((1e-4, 0.3, 1.0))
        found: list[float] = drawn.astype(np.float32).tolist()
        return found

    def _id(self) -> UUID:
        self._next += 1
        return UUID(int=(self._next * 0x9E3779B97F4A7C15) % 2**64 << 64 | self._next)

    def _entries(self, most: int) -> list[VectorEntry]:
        return [
            VectorEntry(
                id=self._id(),
                embedding=self.vector(),
                scope=f"s{self._choose.randrange(SCOPES)}",
                metadata=self._metadata(),
            )
            for _ in range(self._choose.randint(1, most))
        ]

    def _metadata(self) -> dict[str, Any]:
        return {"n": self._choose.randrange(100), "kind": self._choose.choice(["a", "b", None, 7])}

    def _some(self, ids: dict[UUID, Any], most: int) -> list[UUID]:
        return self._choose.sample(sorted(ids), min(len(ids), self._choose.randint(1, most)))

    async def insert(self) -> None:
        entries = self._entries(40) if self._ids else [one for _ in range(20) for one in self._entries(40)]
        await self._both(lambda storages: storages.vectors.insert(entries))
        self._ids.update((one.id, one.scope) for one in entries if one.id is not None)

    async def delete(self) -> None:
        gone = [*self._some(self._ids, 30), UUID(int=1)]
        await self._both(lambda storages: storages.vectors.delete(gone))
        for id in gone:
            self._ids.pop(id, None)

    async def delete_scope(self) -> None:
        scope = f"s{self._choose.randrange(SCOPES)}"
        await self._both(lambda storages: storages.vectors.delete_scope(scope))
        self._ids = {id: other for id, other in self._ids.items() if other != scope}

    async def rewrite(self) -> None:
        for id in self._some(self._ids, 5):
            metadata = self._metadata()
            await self._both(lambda storages, id=id, metadata=metadata: storages.vectors.update_metadata(id, metadata))

    async def remember(self) -> None:
        now = self.clock.now()
        new = [
            NewMemory(
                id=self._id(),
                content="text",
                session=self._choose.choice(["x", "y"]),
                at=now,
                expires_at=now + timedelta(seconds=40) if self._choose.random() < 0.1 else None,
                embeddings=self._windows(),
            )
            for _ in range(self._choose.randint(1, 25))
        ]
        await self._both(lambda storages: storages.memories.add(new, space_id=SPACE))
        self._memories.update((one.id, 1) for one in new)

    def _windows(self) -> tuple[bytes, ...]:
        return tuple(pack_vector(self.vector()) for _ in range(self._choose.choice((1, 1, 1, 2, 4))))

    async def forget(self) -> None:
        for id in self._some(self._memories, 6):
            await self._both(lambda storages, id=id: storages.memories.delete(id))
            del self._memories[id]

    async def embed_again(self) -> None:
        items = [(id, self._memories[id], self._windows()) for id in self._some(self._memories, 6)]
        await self._both(lambda storages: storages.memories.attach_embeddings(SPACE, items))

    async def transact(self) -> None:
        """A transaction that is kept, or undone after it has found what it wrote."""
        keep, entries, gone = self._choose.random() < 0.5, self._entries(20), self._some(self._ids, 10)
        question, filters = self.vector(), self._filters()

        async def block(backend: Any) -> list[tuple[UUID, float]]:
            found: list[tuple[UUID, float]] = []
            try:
                async with backend.transaction(TENANT) as inside:
                    await inside.vectors.insert(entries)
                    await inside.vectors.delete(gone)
                    hits = await inside.vectors.search(question, limit=20, **filters)
                    found = [(hit.id, hit.score) for hit in hits]
                    if not keep:
                        raise Undo
            except Undo:
                pass
            return found

        assert await block(self._file()) == await block(self.model)
        if keep:
            self._ids.update((one.id, one.scope) for one in entries if one.id is not None)
            for id in gone:
                self._ids.pop(id, None)

    # --- to the index -------------------------------------------------------------------------------------------------

    async def build(self) -> None:
        for status in await self._file().storages(TENANT).vectors.build_index():
            self.seen["builds waited for"] += 1
            assert status.unindexed + status.indexed == status.vectors

    async def reopen(self) -> None:
        while self._older:
            self._leave(self._older.pop())
        which = self._choose.randrange(2)
        await self.files[which].close()
        self.files[which] = await self._opened()

    async def lose_the_log(self) -> None:
        """As after some thousands of changes."""
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.set_busy_timeout(10_000)
            connection.execute(
                "BEGIN IMMEDIATE; DELETE FROM vector_changes; UPDATE embedding_spaces SET logged_from = change_seq; COMMIT"
            )

    async def skip_numbers(self) -> None:
        """As if some thousands of changes had come between: the database then trims its log by itself."""
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.set_busy_timeout(10_000)
            connection.execute("UPDATE embedding_spaces SET change_seq = change_seq + 9000")

    async def lose_the_files(self) -> None:
        for file in Path(f"{self.path}.vectors").glob("*.vectors"):
            file.unlink()

    # --- what is found ------------------------------------------------------------------------------------------------

    def _filters(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self._choose.random() < 0.3:
            options["scope"] = f"s{self._choose.randrange(SCOPES)}"
        if self._choose.random() < 0.5:
            options["filters"] = self._choose.choice(
                [
                    {"metadata.n": {"$lt": self._choose.randrange(100)}},
                    {"metadata.kind": self._choose.choice(["a", "b", 7])},
                    {"metadata.kind": {"$ne": "a"}},
                    {"metadata.n": {"$gte": 20}, "metadata.kind": {"$in": ["a", 7]}},
                    {"updated_at": {"$lt": self.clock.now() - timedelta(seconds=self._choose.randrange(100))}},
                ]
            )
        return options

    async def search(self) -> None:
        question, options, limit = self.vector(), self._filters(), self._choose.choice((1, 5, 10, 10, 50))
        model, file = self.model.storages(TENANT).vectors, self._file().storages(TENANT).vectors
        everything = await model.search(question, limit=EVERYTHING, **options)
        exact = await file.search(question, limit=limit, effort=Effort(exact=True), **options)
        assert exact == everything[:limit]
        self._judge(
            [
                (hit.id, hit.score)
                for hit in await file.search(question, limit=limit, effort=self._choose.choice(EFFORTS), **options)
            ],
            [(hit.id, hit.score) for hit in everything],
            limit,
        )

    async def search_memories(self) -> None:
        limit = self._choose.choice((1, 10, 30))
        filters = self._choose.choice([None, None, {"session": "x"}])
        packed = pack_vector(self.vector())

        async def dense(backend: Any, candidates: int) -> list[tuple[UUID, float]]:
            query = MemoryQuery(embedding=packed, space_id=SPACE, candidates=candidates, filters=filters)
            return [(one.id, one.score) for one in (await backend.storages(TENANT).memories.search(query)).dense]

        self._judge(await dense(self._file(), limit), await dense(self.model, EVERYTHING), limit)

    def _judge(self, found: list[tuple[UUID, float]], everything: list[tuple[UUID, float]], limit: int) -> None:
        """Any answer has as many hits as there are, in order, each with its true score; a good one has the nearest."""
        assert len(found) == min(limit, len(everything))
        assert len(dict(found)) == len(found)
        scores = dict(everything)
        assert all(scores.get(id) == score for id, score in found)
        assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
        self.seen["answers compared"] += 1
        if found:
            # Whoever is as near as the last one that is wanted is right: which of equals comes is for ties to decide.
            least = everything[len(found) - 1][1]
            self.recalls.append(sum(score >= least for _, score in found) / len(found))

    # --- snapshots ----------------------------------------------------------------------------------------------------

    async def hold_a_snapshot(self) -> None:
        if len(self._older) >= 3:
            self._leave(self._older.pop(0))
        backend = self._file()
        connection = backend._database.borrow()
        control(connection, "BEGIN")
        connection.execute("SELECT count(*) FROM embedding_spaces").fetchall()
        answers = []
        for _ in range(3):
            question, options = self.vector(), self._filters()
            hits = await self.model.storages(TENANT).vectors.search(question, limit=15, **options)
            answers.append((question, options, [(hit.id, hit.score) for hit in hits]))
        self._older.append(Older(backend, connection, answers))

    async def ask_a_snapshot(self) -> None:
        if not self._older:
            return
        older = self._choose.choice(self._older)
        question, options, expected = self._choose.choice(older.answers)
        nearest = older.backend._runtime.nearest

        async def work(executor: Any) -> list[tuple[UUID, float]]:
            found = await nearest.free(
                executor,
                query=pack_vector(question),
                limit=15,
                scope=options.get("scope"),
                where=parse(options.get("filters"), FILTER_FIELDS),
                effort=Effort(exact=True),
            )
            return [(one.id, one.score) for one in found]

        got = await asyncio.to_thread(run_work, older.connection, TENANT, work, uncommitted=False)
        assert got == expected
        self.seen["older snapshots asked"] += 1

    def _leave(self, older: Older) -> None:
        roll_back(older.connection)
        older.backend._database.give_back(older.connection)


async def lived(path: Path, seed: int, steps: int, seen: Counter[str]) -> list[float]:
    """Live through a history; return the recall of each answer."""
    history = Histories(path, seed, ManualClock(), seen)
    await history.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(history.close)
        await history.insert()
        for number in range(steps):
            try:
                await history.step()
            except BaseException as error:
                error.add_note(f"seed {seed}, step {number}")
                raise
    return history.recalls
