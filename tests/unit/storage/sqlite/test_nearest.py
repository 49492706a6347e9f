"""Nearest neighbours of stored vectors: exact, filtered, and current in every connection and process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import pytest

from llmspell.clock import ManualClock
from llmspell.codec import pack_vector
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryQuery, NewMemory
from llmspell.storage.contracts.vector_index import IndexChoice
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.index import exact, files, planner
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

TENANT = TenantId("t1")
DIMENSION = 384


def vector(seed: int) -> list[float]:
    source = random.Random(seed)
    return [source.uniform(-1, 1) for _ in range(DIMENSION)]


def number(n: int) -> UUID:
    return UUID(int=n)


def entry(n: int, *, seed: int | None = None, scope: str = "default") -> VectorEntry:
    return VectorEntry(id=number(n), embedding=vector(n if seed is None else seed), scope=scope, metadata={"n": n})


async def found(backend: SqliteBackend, seed: int, **options: object) -> list[int]:
    hits = await backend.storages(TENANT).vectors.search(vector(seed), **options)  # type: ignore[arg-type]
    return [hit.id.int for hit in hits]


async def test_the_vector_itself_comes_first(backend: SqliteBackend) -> None:
    await backend.storages(TENANT).vectors.insert([entry(n) for n in range(1, 30)])

    hits = await backend.storages(TENANT).vectors.search(vector(7), limit=3)

    assert (hits[0].id, hits[0].score, len(hits)) == (number(7), 1.0, 3)


async def test_ties_go_by_id(backend: SqliteBackend) -> None:
    await backend.storages(TENANT).vectors.insert([entry(n, seed=1) for n in (5, 3, 9, 1, 7)])

    assert await found(backend, 1, limit=3) == [1, 3, 5]


async def test_scopes_and_filters_restrict_before_the_cut(backend: SqliteBackend) -> None:
    entries = [entry(n, seed=1, scope="a" if n % 2 else "b") for n in range(1, 41)]
    await backend.storages(TENANT).vectors.insert(entries)

    assert await found(backend, 1, limit=3, scope="b") == [2, 4, 6]
    assert await found(backend, 1, limit=2, filters={"metadata.n": {"$gte": 30}}) == [30, 31]
    assert await found(backend, 1, limit=5, scope="a", filters={"metadata.n": {"$in": [4, 5]}}) == [5]
    assert await found(backend, 1, filters={"metadata.n": 99}) == []


async def test_changes_are_seen_by_the_next_search(backend: SqliteBackend) -> None:
    vectors = backend.storages(TENANT).vectors
    await vectors.insert([entry(n, seed=1) for n in range(1, 5)])
    assert await found(backend, 1) == [1, 2, 3, 4]

    await vectors.insert([entry(9, seed=1)])
    assert await found(backend, 1) == [1, 2, 3, 4, 9]
    await vectors.delete([number(2)])
    assert await found(backend, 1) == [1, 3, 4, 9]
    await vectors.delete([number(3)])
    await vectors.insert([entry(3, seed=500), entry(2, seed=1)])
    assert await found(backend, 1) == [1, 2, 4, 9, 3]


async def test_changes_of_another_connection_are_seen(backend: SqliteBackend, path: Path) -> None:
    other = await open_sqlite(path)
    await backend.storages(TENANT).vectors.insert([entry(1, seed=1)])
    assert await found(other, 1) == [1]

    await backend.storages(TENANT).vectors.insert([entry(2, seed=1)])
    assert await found(other, 1) == [1, 2]
    await backend.storages(TENANT).vectors.delete([number(1)])
    assert await found(other, 1) == [2]
    await other.close()


async def test_changes_of_another_process_are_seen(backend: SqliteBackend, path: Path) -> None:
    await backend.storages(TENANT).vectors.insert([entry(1, seed=1)])
    assert await found(backend, 1) == [1]
    script = (
        "import asyncio, sys\n"
        "from uuid import UUID\n"
        "from llmspell.storage.contracts.vectors import VectorEntry\n"
        "from llmspell.storage.sqlite.backend import open_sqlite\n"
        "async def main():\n"
        "    backend = await open_sqlite(sys.argv[1])\n"
        "    vectors = backend.storages('t1').vectors\n"
        "    await vectors.insert([VectorEntry(id=UUID(int=2), embedding=[1.0] * 384)])\n"
        "    await vectors.delete([UUID(int=1)])\n"
        "    await backend.close()\n"
        "asyncio.run(main())\n"
    )

    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)

    assert await found(backend, 1) == [2]


async def test_rows_that_were_moved_within_their_table_are_found_all_the_same(
    backend: SqliteBackend, path: Path
) -> None:
    """VACUUM may give rows other rowids: then a place that was remembered holds nothing, or another row."""
    await backend.storages(TENANT).vectors.insert([entry(n) for n in range(1, 30)])
    before = await backend.storages(TENANT).vectors.search(vector(7), limit=29)

    # First nothing stands where they stood; then another one does.
    for moved in ("1000 - rowid", "rowid - 970"):
        with contextlib.closing(apsw.Connection(str(path))) as other:
            other.execute(f"UPDATE vector_embeddings_384 SET rowid = {moved}")
        assert await backend.storages(TENANT).vectors.search(vector(7), limit=29) == before


async def test_a_transaction_finds_what_it_wrote_and_leaves_no_trace_when_rolled_back(backend: SqliteBackend) -> None:
    vectors = backend.storages(TENANT).vectors
    await vectors.insert([entry(1, seed=1), entry(2, seed=1)])
    assert await found(backend, 1) == [1, 2]

    async def block() -> None:
        async with backend.transaction(TENANT) as inside:
            await inside.vectors.delete([number(1)])
            await inside.vectors.insert([entry(3, seed=1)])
            hits = await inside.vectors.search(vector(1))
            assert [hit.id.int for hit in hits] == [2, 3]
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await block()

    assert await found(backend, 1) == [1, 2]
    await vectors.insert([entry(4, seed=1)])
    assert await found(backend, 1) == [1, 2, 4]


async def test_what_a_rolled_back_transaction_saw_is_not_taken_for_what_was_committed_next(
    backend: SqliteBackend,
) -> None:
    vectors = backend.storages(TENANT).vectors
    await vectors.insert([entry(1, seed=1)])

    async def block() -> None:
        async with backend.transaction(TENANT) as inside:
            await inside.vectors.insert([entry(3, seed=1)])
            assert [hit.id.int for hit in await inside.vectors.search(vector(1))] == [1, 3]
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await block()
    await vectors.insert([entry(4, seed=1)])  # takes the very change number that was rolled back

    assert await found(backend, 1) == [1, 4]


async def test_another_tenants_vectors_are_never_found(backend: SqliteBackend) -> None:
    await backend.storages(TenantId("other")).vectors.insert([entry(1, seed=1)])
    await backend.storages(TENANT).vectors.insert([entry(2, seed=1)])

    assert await found(backend, 1) == [2]


async def test_a_space_larger_than_the_cache_is_searched_all_the_same(backend: SqliteBackend) -> None:
    backend._runtime.nearest.search_in_process()._cache.max_bytes = 1  # type: ignore[attr-defined]
    await backend.storages(TENANT).vectors.insert([entry(n, seed=n % 3) for n in range(1, 20)])

    assert await found(backend, 1, limit=4) == [1, 4, 7, 10]


async def test_random_histories_agree_with_a_fresh_search(backend: SqliteBackend, path: Path) -> None:
    choose = random.Random(11)
    vectors = backend.storages(TENANT).vectors
    living: set[int] = set()
    for step in range(60):
        absent = [n for n in range(1, 40) if n not in living]
        if living and choose.random() < 0.4:
            gone = choose.sample(sorted(living), k=min(2, len(living)))
            await vectors.delete([number(n) for n in gone])
            living.difference_update(gone)
        elif absent:
            added = choose.sample(absent, k=min(3, len(absent)))
            await vectors.insert([entry(n, seed=n % 5) for n in added])
            living.update(added)
        if step % 3 == 0:
            assert set(await found(backend, 1, limit=100)) == living
    other = await open_sqlite(path)
    assert await found(other, 1, limit=7) == await found(backend, 1, limit=7)
    await other.close()


async def test_memories_count_by_their_best_window_and_only_while_they_live(
    backend: SqliteBackend, clock: ManualClock
) -> None:
    memories = backend.storages(TENANT).memories
    await memories.ensure_space(EmbeddingSpace(space_id="s", model="m", dimension=DIMENSION))

    def memory(n: int, *seeds: int, ttl_s: float | None = None) -> NewMemory:
        return NewMemory(
            id=number(n),
            content=f"text {n}",
            session="even" if n % 2 == 0 else "odd",
            at=clock.now(),
            expires_at=None if ttl_s is None else clock.now() + timedelta(seconds=ttl_s),
            embeddings=tuple(pack_vector(vector(seed)) for seed in seeds),
        )

    await memories.add([memory(1, 10, 1), memory(2, 1), memory(3, 1, 1, ttl_s=60), memory(4, 20)], space_id="s")
    question = MemoryQuery(embedding=pack_vector(vector(1)), space_id="s", candidates=3)

    async def dense(asked: MemoryQuery) -> list[int]:
        return [scored.id.int for scored in (await memories.search(asked)).dense]

    assert await dense(question) == [1, 2, 3]
    odd = MemoryQuery(embedding=question.embedding, space_id="s", candidates=9, filters={"session": "odd"})
    assert await dense(odd) == [1, 3]
    clock.advance(seconds=61)
    assert await dense(question) == [1, 2, 4]
    assert await dense(odd) == [1]
    await memories.delete(number(1))
    assert await dense(question) == [2, 4]


async def test_what_was_erased_is_in_no_index_file(
    backend: SqliteBackend, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SCAN_COMPONENTS", 100 * DIMENSION)
    storages = backend.storages(TENANT)
    await storages.memories.ensure_space(EmbeddingSpace(space_id="s", model="m", dimension=DIMENSION))
    embedded = [
        NewMemory(id=number(n), content=f"text {n}", at=clock.now(), embeddings=(pack_vector(vector(n)),))
        for n in range(1, 200)
    ]
    await storages.memories.add(embedded, space_id="s")
    await storages.vectors.insert([entry(n) for n in range(1, 200)])
    await storages.vectors.build_index()
    files = sorted(path.parent.glob("*.vectors/*.vectors"))
    assert len(files) == 2

    assert await storages.memories.forget(number(7))

    (kept,) = path.parent.glob("*.vectors/*.vectors")
    assert kept in files
    query = MemoryQuery(embedding=pack_vector(vector(7)), space_id="s", candidates=3)
    assert number(7) not in [one.id for one in (await storages.memories.search(query)).dense]
    assert {one.state for one in await storages.vectors.build_index()} == {"ready"}
    assert len(list(path.parent.glob("*.vectors/*.vectors"))) == 2


@pytest.mark.parametrize("during", ["before-the-build", "during-the-build"])
async def test_another_process_writes_nothing_into_an_index_file_that_was_erased_in_a_transaction(
    backend: SqliteBackend, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    monkeypatch.setattr(planner, "SCAN_COMPONENTS", 100 * DIMENSION)
    monkeypatch.setattr(planner, "TAIL_ROWS", 10)
    other = await open_sqlite(path, clock=clock)
    memories, elsewhere = backend.storages(TENANT).memories, other.storages(TENANT)
    await memories.ensure_space(EmbeddingSpace(space_id="s", model="m", dimension=DIMENSION))

    ids = {n: UUID(bytes=random.Random(n).randbytes(16)) for n in range(1, 2_100)}

    def new(first: int, count: int) -> list[NewMemory]:
        return [
            NewMemory(id=ids[n], content=f"text {n}", at=clock.now(), embeddings=(pack_vector(vector(n)),))
            for n in range(first, first + count)
        ]

    await memories.add(new(1, 200), space_id="s")
    await elsewhere.vectors.build_index()
    await memories.add(new(1_000, 50), space_id="s")
    reached, go = threading.Event(), threading.Event()
    write = files.write

    def held(*args: Any) -> None:
        reached.set()
        assert go.wait(60)
        write(*args)

    building = None
    if during == "during-the-build":
        monkeypatch.setattr(files, "write", held)
        building = asyncio.create_task(elsewhere.vectors.build_index())
        assert await asyncio.to_thread(reached.wait, 60)
    async with backend.transaction(TENANT) as inside:
        assert await inside.memories.forget(ids[7])
    go.set()
    if building is not None:
        await building
    for file in path.parent.glob("*.vectors/*.vectors"):
        assert exact.owner_words([ids[7].bytes]).tobytes() not in file.read_bytes()
    await memories.add(new(2_000, 50), space_id="s")
    await elsewhere.vectors.build_index()

    (file,) = path.parent.glob("*.vectors/*.vectors")
    assert exact.owner_words([ids[7].bytes]).tobytes() not in file.read_bytes()
    assert exact.owner_words([ids[8].bytes]).tobytes() in file.read_bytes()
    await other.close()


async def test_a_changed_parameter_makes_another_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SCAN_COMPONENTS", 100 * DIMENSION)
    first = await open_sqlite(path, vector_index=IndexChoice(m=8))
    await first.storages(TENANT).vectors.insert([entry(n) for n in range(1, 200)])
    (built,) = await first.storages(TENANT).vectors.build_index()
    await first.close()

    second = await open_sqlite(path, vector_index=IndexChoice(m=12))
    assert await found(second, 7, limit=1) == [7]
    (again,) = await second.storages(TENANT).vectors.build_index()
    await second.close()

    assert (built.m, again.m, again.state) == (8, 12, "ready")
