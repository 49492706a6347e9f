"""The peers of `vectors.py` that store what they search: Chroma, LanceDB and sqlite-vec.

Each holds tenants as suits it best (a collection, a table, a partition), stores a tenant and metadata beside every vector, and
returns them with the score, as llmspell does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from vector_data import DIMENSION, Data, K, Question
from vector_engines import BUILD_CANDIDATES, LADDER, LINKS, Engine


class Store(Engine):
    """A store: rows come in batches, and `finish` does what a user has to do before the first search."""

    persists = True

    def build(self, folder: Path, data: Data) -> None:
        self.start(folder, data)
        for tenant in range(len(data.tenants) - 1):
            rows = data.of(tenant)
            for first in range(rows.start, rows.stop, self.build_batch):
                self.insert(self.prepared(data, range(first, min(rows.stop, first + self.build_batch)), tenant))
        self.finish(data)

    def start(self, folder: Path, data: Data) -> None:
        """Make an empty store."""
        raise NotImplementedError

    def prepared(self, data: Data, rows: range, tenant: int = 0) -> Any:
        """Return rows as the store wants them: what a caller would have in hand."""
        raise NotImplementedError

    def insert(self, batch: Any) -> None:
        """Store a prepared batch."""
        raise NotImplementedError

    def finish(self, data: Data) -> None:
        """Index what was stored, where that is a step of its own."""


class Chroma(Store):
    """`PersistentClient`, a collection for each tenant. How far a search looks is a property of the stored collection."""

    name, package, module = "chroma", "chromadb", "chromadb"

    def start(self, folder: Path, data: Data) -> None:
        self._folder = folder
        self._client = self._connected()
        graph = {"space": "cosine", "max_neighbors": LINKS, "ef_construction": BUILD_CANDIDATES, "ef_search": 100}
        self._collections = [
            self._client.create_collection(f"tenant-{tenant}", embedding_function=None, configuration={"hnsw": graph})
            for tenant in range(len(data.tenants) - 1)
        ]

    def _connected(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        return chromadb.PersistentClient(str(self._folder), settings=Settings(anonymized_telemetry=False))

    def _opened(self, count: int) -> None:
        self._client = self._connected()
        self._collections = [
            self._client.get_collection(f"tenant-{tenant}", embedding_function=None) for tenant in range(count)
        ]

    def open(self, folder: Path) -> None:
        self._folder = folder
        self._opened(1)

    def prepared(self, data: Data, rows: range, tenant: int = 0) -> Any:
        return tenant, {
            "ids": [str(row) for row in rows],
            "embeddings": data.vectors[rows.start : rows.stop],
            "metadatas": [{"tenant": tenant, **data.metadata(row)} for row in rows],
        }

    def insert(self, batch: Any) -> None:
        tenant, columns = batch
        self._collections[tenant].add(**columns)

    def aim(self, effort: int) -> None:
        if all(one.configuration_json["hnsw"]["ef_search"] == effort for one in self._collections):
            return
        # A client keeps the graph as it was opened, so the setting takes effect for the next one.
        for collection in self._collections:
            collection.modify(configuration={"hnsw": {"ef_search": effort}})
        self._client.close()
        self._opened(len(self._collections))

    def search(self, question: Question) -> Any:
        where = None if question.where is None else {question.where[0]: question.where[1]}
        return self._collections[question.tenant].query(
            query_embeddings=[question.vector], n_results=K, where=where, include=["metadatas", "distances"]
        )

    def found(self, answer: Any, question: Question) -> list[int]:
        return [one["n"] for one in answer["metadatas"][0]]

    def close(self) -> None:
        self._client.close()


class LanceDB(Store):
    """A table for each tenant. One HNSW over int8 (`IVF_HNSW_SQ`, one partition), re-scored; bitmaps for the filters.

    A table of a thousand rows is scanned: that is exact, and quicker than its index.
    """

    name, package, module = "lancedb", "lancedb", "lancedb"
    build_batch = 100_000
    ladder = tuple(effort for effort in LADDER if effort >= K * 3)  # it refuses less than it re-scores
    indexed_from: ClassVar[int] = 5_000
    refined: ClassVar[int] = 3
    columns: ClassVar[Sequence[str]] = ("n", "tenant", "group", "decile", "_distance")

    def __init__(self) -> None:
        self._effort = 64

    def start(self, folder: Path, data: Data) -> None:
        import lancedb

        self._database = lancedb.connect(str(folder))
        self._tables = [
            self._database.create_table(f"tenant-{tenant}", schema=self._schema())
            for tenant in range(len(data.tenants) - 1)
        ]

    @staticmethod
    def _schema() -> Any:
        import pyarrow

        numbers = [pyarrow.field(name, pyarrow.int64()) for name in ("n", "tenant", "group", "decile")]
        return pyarrow.schema([*numbers, pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), DIMENSION))])

    def open(self, folder: Path) -> None:
        import lancedb

        self._database = lancedb.connect(str(folder))
        self._tables = [self._database.open_table("tenant-0")]

    def prepared(self, data: Data, rows: range, tenant: int = 0) -> Any:
        import pyarrow

        part = slice(rows.start, rows.stop)
        flat = pyarrow.array(data.vectors[part].ravel())
        columns = {
            "n": pyarrow.array(rows),
            "tenant": pyarrow.array([tenant] * len(rows)),
            "group": pyarrow.array(data.group[part]),
            "decile": pyarrow.array(data.decile[part]),
            "vector": pyarrow.FixedSizeListArray.from_arrays(flat, DIMENSION),
        }
        return tenant, pyarrow.table(columns, schema=self._schema())

    def insert(self, batch: Any) -> None:
        tenant, table = batch
        self._tables[tenant].add(table)

    def finish(self, data: Data) -> None:
        from lancedb.index import Bitmap, HnswSq

        for table in self._tables:
            if table.count_rows() >= self.indexed_from:
                graph = HnswSq(distance_type="cosine", num_partitions=1, m=LINKS, ef_construction=BUILD_CANDIDATES)
                table.create_index("vector", config=graph)
                for name in ("group", "decile"):
                    table.create_index(name, config=Bitmap())

    def aim(self, effort: int) -> None:
        self._effort = effort

    def search(self, question: Question) -> Any:
        asked = self._tables[question.tenant].search(question.vector).distance_type("cosine")
        asked = asked.ef(self._effort).refine_factor(self.refined).limit(K).select(list(self.columns))
        if question.where is not None:
            asked = asked.where(f"`{question.where[0]}` = {question.where[1]}", prefilter=True)
        return asked.to_list()

    def found(self, answer: Any, question: Question) -> list[int]:
        return [one["n"] for one in answer]


class SqliteVec(Store):
    """A `vec0` table, partitioned by tenant, in a file in WAL mode with synchronous=FULL. Every search is a scan, and exact."""

    name, package, module = "sqlite-vec", "sqlite-vec", "sqlite_vec"
    ladder, effort = (0,), "exact"
    build_batch = 1_000
    columns: ClassVar[dict[str, str]] = {"group": "grp", "decile": "decile"}
    """It refuses a quoted name."""

    def start(self, folder: Path, data: Data) -> None:
        self.open(folder)
        self._connection.execute(
            f"CREATE VIRTUAL TABLE rows USING vec0(n INTEGER PRIMARY KEY, tenant INTEGER PARTITION KEY, "
            f"embedding float[{DIMENSION}] distance_metric=cosine, grp INTEGER, decile INTEGER)"
        )

    def open(self, folder: Path) -> None:
        import apsw
        import sqlite_vec

        self._connection = apsw.Connection(str(folder / "vectors.db"))
        self._connection.enable_load_extension(True)
        self._connection.load_extension(sqlite_vec.loadable_path())
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", 2)

    def prepared(self, data: Data, rows: range, tenant: int = 0) -> Any:
        return [(row, tenant, data.vectors[row].tobytes(), int(data.group[row]), int(data.decile[row])) for row in rows]

    def insert(self, batch: Any) -> None:
        with self._connection:
            self._connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", batch)

    def search(self, question: Question) -> Any:
        text = "SELECT n, tenant, grp, decile, distance FROM rows WHERE embedding MATCH ? AND k = ? AND tenant = ?"
        values = [question.vector.tobytes(), K, question.tenant]
        if question.where is not None:
            text += f" AND {self.columns[question.where[0]]} = ?"
            values.append(question.where[1])
        return self._connection.execute(text, values).fetchall()

    def found(self, answer: Any, question: Question) -> list[int]:
        return [one[0] for one in answer]

    def close(self) -> None:
        self._connection.close()
