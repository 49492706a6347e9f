"""What a search in a file costs in queries and round trips, and what is loaded before the first one."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from llmspell.observe import QueryCounts, counting_queries
from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.index import planner
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite
from llmspell.tenant import TenantId

TENANT = TenantId("acme")
COUNT, DIMENSION = 2_000, 384
ARRAYS = ("numpy", "usearch", "numkong")
STORE = """
import asyncio, sys
from llmspell.storage.sqlite.backend import open_sqlite
async def main():
    backend = await open_sqlite(sys.argv[1])
    await backend.storages("t").kv.set("k", b"v")
    await backend.storages("t").kv.get("k")
    {more}
    await backend.close()
asyncio.run(main())
print(*sorted(name for name in sys.modules if name.partition(".")[0] in {arrays}))
"""


def vector(seed: int) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(0, 1) for _ in range(DIMENSION)]


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand rows are worth a graph, and it is worth being asked."""
    monkeypatch.setattr(planner, "SCAN_COMPONENTS", COUNT // 2 * DIMENSION)
    monkeypatch.setattr(planner, "BEAM", 1.0)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    opened = await open_sqlite(tmp_path / "store.db")
    entries = [
        VectorEntry(id=UUID(int=n), embedding=vector(n), metadata={"n": n}, scope="ab"[n % 2])
        for n in range(1, COUNT + 1)
    ]
    await opened.storages(TENANT).vectors.insert(entries)
    yield opened
    await opened.close()


async def cost(backend: SqliteBackend, **options: object) -> QueryCounts:
    vectors = backend.storages(TENANT).vectors
    await vectors.search(vector(1), **options)  # type: ignore[arg-type]
    with counting_queries() as counts:
        assert len(await vectors.search(vector(2), **options)) == 10  # type: ignore[arg-type]
    return counts


CASES = {
    "of-all": ({}, {"nearest.state": 1, "nearest.embeddings_at_384": 1}),
    "in-a-scope": ({"scope": "a"}, {"nearest.state": 1, "nearest.embeddings_at_384": 1}),
    "filtered": ({"filters": {"metadata.n": {"$gt": 900}}}, {"nearest.state": 1, "nearest.embeddings_at_384": 1}),
    "exact": ({"effort": Effort(exact=True)}, {"nearest.state": 1, "nearest.embeddings_at_384": 1}),
    "with-embeddings": (
        {"include_embedding": True},
        {"nearest.state": 1, "nearest.embeddings_at_384": 1, "vectors.hydrate_384": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("graph", [False, True], ids=["one-by-one", "by-a-graph"])
async def test_a_search_reads_the_state_and_the_candidates_in_one_round_trip(
    request: pytest.FixtureRequest, backend: SqliteBackend, graph: bool, case: str
) -> None:
    if graph:
        request.getfixturevalue("indexed")
        (status,) = await backend.storages(TENANT).vectors.build_index()
        assert status.indexed == COUNT
    options, queries = CASES[case]

    counts = await cost(backend, **options)

    assert dict(counts.queries) == queries
    assert sum(counts.round_trips.values()) == 1
    assert counts.rows <= (10 + (10 if case == "with-embeddings" else 0) + 60), "candidates, not the space, are read"


async def test_a_search_behind_writes_reads_what_is_new_and_what_went_alone(backend: SqliteBackend) -> None:
    vectors = backend.storages(TENANT).vectors
    await vectors.search(vector(1))
    await vectors.insert([VectorEntry(embedding=vector(9_000 + n)) for n in range(5)])
    await vectors.delete([UUID(int=1), UUID(int=2)])

    with counting_queries() as counts:
        await vectors.search(vector(2))

    assert dict(counts.queries) == {
        "nearest.state": 2,  # asked on the thread that wants to know, which leaves the reading to another
        "nearest.changes": 1,
        "nearest.load_384": 1,
        "nearest.embeddings_at_384": 1,
    }
    assert counts.rows < 100


@pytest.mark.usefixtures("indexed")
async def test_a_process_that_finds_a_file_reads_no_row_but_candidates(backend: SqliteBackend, tmp_path: Path) -> None:
    await backend.storages(TENANT).vectors.build_index()
    other = await open_sqlite(tmp_path / "store.db")

    with counting_queries() as counts:
        assert len(await other.storages(TENANT).vectors.search(vector(2))) == 10

    await other.close()
    assert dict(counts.queries) == {"nearest.state": 1, "nearest.embeddings_at_384": 1}
    assert counts.rows <= 100


@pytest.mark.parametrize(
    ("more", "loaded"),
    [("", False), ("await backend.storages('t').vectors.search([1.0] * 384)", True)],
    ids=["without-a-search", "with-one"],
)
def test_opening_a_store_loads_no_array_library(tmp_path: Path, more: str, loaded: bool) -> None:
    script = STORE.replace("{more}", more).replace("{arrays}", repr(ARRAYS))
    command = [sys.executable, "-c", script, str(tmp_path / "other.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert ("numpy" in done.stdout.split()) is loaded
    assert "usearch" not in done.stdout.split(), "a graph is loaded when there is one"
