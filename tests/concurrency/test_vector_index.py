"""An index that is built while everybody writes and searches: no error, no row missed, no foreign one, nothing built twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.concurrency import index_builder
from tests.crash.index_writer import DIMENSION, TENANT, make_small, vector
from tests.fixtures.soak import size, tell

from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.index import files, planner, recall
from llmspell.storage.index.graph import Graph
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

WRITERS, READERS = 4, 4
ROUNDS = size(ci=12, soak=600)
TENANTS = size(ci=100, soak=1_000)
LIMIT_S = 120
SPACE = f"free-{DIMENSION}"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred rows are worth a graph, and some dozens more being taken in."""
    for module, names in (
        (planner, ("SCAN_COMPONENTS", "TAIL_ROWS", "TAIL_SHARE", "BEAM")),
        (recall, ("QUESTIONS", "BEAMS")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    make_small()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each graph had that this process made or extended."""
    made: list[int] = []
    build, extended = Graph.build, Graph.extended

    def first(rows: Any, **options: Any) -> Graph:
        made.append(len(rows))
        return build(rows, **options)

    def more(self: Graph, rows: Any, **options: Any) -> Graph:
        made.append(len(rows))
        return extended(self, rows, **options)

    monkeypatch.setattr(Graph, "build", first)
    monkeypatch.setattr(Graph, "extended", more)
    return made


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    opened = await open_sqlite(tmp_path / "store.db")
    yield opened
    await opened.close()


def entries(first: int, count: int) -> list[VectorEntry]:
    return [VectorEntry(id=UUID(int=n), embedding=vector(n), metadata={"n": n}) for n in range(first, first + count)]


@pytest.mark.timeout(size(ci=300, soak=3_600))
async def test_every_acknowledged_row_is_found_at_once_while_graphs_are_built(
    backend: SqliteBackend, builds: list[int]
) -> None:
    vectors = backend.storages(TENANT).vectors
    searches = 0
    over = asyncio.Event()

    async def write(number: int) -> None:
        nonlocal searches
        for turn in range(ROUNDS):
            first = 1 + (number * ROUNDS + turn) * 20
            await vectors.insert(entries(first, 20))
            for n in (first, first + 19):
                hits = await vectors.search(vector(n), limit=3)
                assert (hits[0].id, hits[0].score) == (UUID(int=n), 1.0)
                filtered = await vectors.search(vector(n), limit=3, filters={"metadata.n": {"$in": [n, n + 1]}})
                assert filtered[0].id == UUID(int=n)
            await vectors.delete([UUID(int=first + 1)])
            hits = await vectors.search(vector(first + 1), limit=5)
            assert UUID(int=first + 1) not in {hit.id for hit in hits}
            searches += 5

    async def read(number: int) -> None:
        nonlocal searches
        while not over.is_set():
            limit = 7
            found = await vectors.search(vector(number), limit=limit, effort=Effort(exact=searches % 2 == 0))
            assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
            searches += 1
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read(number)) for number in range(READERS)]
    await asyncio.gather(*map(write, range(WRITERS)))
    over.set()
    await asyncio.gather(*readers)
    (status,) = await vectors.build_index()

    tell(searches_beside_builds=searches, graphs_built_beside_them=len(builds))
    assert status.vectors == WRITERS * ROUNDS * 19
    assert len(builds) > 2
    everything = {hit.id for hit in await vectors.search(vector(1), limit=1_000, effort=Effort(exact=True))}
    assert len(everything) == min(1_000, status.vectors)


async def test_threads_with_loops_of_their_own_search_one_store_while_it_grows(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path / "store.db")
    vectors = backend.storages(TENANT).vectors
    await vectors.insert(entries(1, 300))
    errors: list[BaseException] = []
    over = threading.Event()

    def search(number: int) -> None:
        async def again() -> None:
            while not over.is_set():
                hits = await backend.storages(TENANT).vectors.search(vector(number), limit=5)
                assert (hits[0].id, len(hits)) == (UUID(int=number), 5)

        try:
            asyncio.run(again())
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost
            errors.append(error)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for turn in range(8):
        await vectors.insert(entries(1_000 + turn * 40, 40))
        await vectors.build_index()
    over.set()
    for thread in threads:
        thread.join(LIMIT_S)

    assert errors == []
    await backend.close()


def other_process(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, index_builder.__file__, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


async def test_what_another_process_is_building_is_waited_for_and_taken_over(
    backend: SqliteBackend, tmp_path: Path, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    building = files.building

    @contextmanager
    def watched(path: Path) -> Iterator[bool]:
        with building(path) as mine:
            if not mine:
                waits.set()
            yield mine

    monkeypatch.setattr(files, "building", watched)
    vectors = backend.storages(TENANT).vectors
    await vectors.insert(entries(1, 400))
    with other_process(tmp_path / "store.db") as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert (await asyncio.to_thread(other.stdout.readline)).strip() == "begun"
        assert len(await vectors.search(vector(7))) == 10

        asked = asyncio.create_task(vectors.build_index())
        assert await asyncio.to_thread(waits.wait, LIMIT_S)
        other.stdin.write("go\n")
        (status,) = await asked

        said = (await asyncio.to_thread(other.stdout.read)).split()
    assert (status.indexed, status.state, builds) == (400, "ready", [])
    assert said == ["builds", "1"]
    hits = await vectors.search(vector(7), limit=3)
    assert hits[0].id == UUID(int=7)


async def test_a_builder_that_is_killed_leaves_the_work_to_another(
    backend: SqliteBackend, tmp_path: Path, builds: list[int]
) -> None:
    vectors = backend.storages(TENANT).vectors
    await vectors.insert(entries(1, 400))
    with other_process(tmp_path / "store.db") as other:
        assert other.stdout is not None
        assert (await asyncio.to_thread(other.stdout.readline)).strip() == "begun"
        other.kill()

    (status,) = await vectors.build_index()

    assert (status.indexed, builds) == (400, [400])


@pytest.mark.timeout(size(ci=300, soak=3_600))
async def test_a_hundred_tenants_have_each_an_index_of_its_own(
    backend: SqliteBackend, tmp_path: Path, builds: list[int]
) -> None:
    tenants = [TenantId(f"t{number}") for number in range(TENANTS)]

    async def fill(number: int) -> None:
        vectors = backend.storages(tenants[number]).vectors
        await vectors.insert(entries(1 + number * 1_000, 120))  # the same neighbourhoods as everybody's
        (status,) = await vectors.build_index()
        assert status.indexed == 120

    async def ask(number: int) -> int:
        vectors = backend.storages(tenants[number]).vectors
        hits = await vectors.search(vector(5 + number * 1_000), limit=120)
        assert (hits[0].id.int, hits[0].score) == (5 + number * 1_000, 1.0)
        assert len(hits) == 120
        return sum(hit.id.int // 1_000 != number for hit in hits)

    for start in range(0, TENANTS, 25):
        await asyncio.gather(*map(fill, range(start, min(TENANTS, start + 25))))
    foreign = sum(await asyncio.gather(*map(ask, range(TENANTS))))

    tell(tenants_with_an_index=TENANTS, foreign_vectors=foreign)
    assert foreign == 0
    assert len(list((tmp_path / "store.db.vectors").glob("*.vectors"))) == len(builds) == TENANTS
