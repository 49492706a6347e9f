"""What `vectors.py` compares: the table of engines, and those of them that are libraries without a store.

An engine is built once in a folder, opened from it by other processes, aimed (how much effort a search spends) and asked one
question at a time. A peer is imported when it is first used; one that is not installed is skipped by name, with the command that
installs it.
Graphs have the same shape everywhere: 16 links to a node, 128 candidates while building. The libraries know neither tenants nor
metadata: they get an index for each tenant, and filters as each can (hnswlib by a callback, faiss by a bitmap of rows, usearch by
fetching more than is wanted and keeping what matches).
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vector_data import DIMENSION, FILTERS, Data, K, Question

LINKS, BUILD_CANDIDATES = 16, 128
THREADS = 2
LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048, 4_096, 8_192, 16_384)
RESCORED = 50
"""Candidates of an int8 graph that are scored again in float32."""
OURS = "llmspell"
RAW_LIBRARY = ("usearch", "usearch-i8")
"""The library that llmspell's index uses, asked directly: in half precision, and as llmspell does it."""


class NotInstalled(Exception):
    """A peer is not here; the text says how to get it."""


class Engine:
    """One engine. What is slow and does not belong to a search happens in `build`, `open`, `aim` and `found`."""

    name: ClassVar[str]
    package: ClassVar[str]
    module: ClassVar[str]
    ladder: ClassVar[Sequence[int]] = LADDER
    effort: ClassVar[str] = "ef"
    persists: ClassVar[bool] = False
    build_batch: ClassVar[int] = 5_000

    def build(self, folder: Path, data: Data) -> Any:
        """Store the rows in a folder, index them, and stay open."""
        raise NotImplementedError

    def open(self, folder: Path) -> Any:
        """Open what another process has built."""
        raise NotImplementedError

    def aim(self, effort: int) -> Any:
        """Set how much effort the next searches spend."""

    def search(self, question: Question) -> Any:
        """Answer as the engine answers."""
        raise NotImplementedError

    def found(self, answer: Any, question: Question) -> list[int]:
        """Return the rows of an answer, and check what else is in it."""
        return [int(row) for row in answer]

    def close(self) -> Any:
        """Let go of everything."""

    def measure(self, questions: Sequence[Question]) -> Any:
        """Ask one question after the other; return the seconds and the answer of each."""
        measured = []
        for question in questions:
            started = time.perf_counter()
            answer = self.search(question)
            measured.append((time.perf_counter() - started, answer))
        return measured


class NumpyExact(Engine):
    """One matrix in float32 (for each tenant), multiplied by the question; a filter gathers its rows first."""

    name, package, module = "numpy", "numpy", "numpy"
    ladder, effort = (0,), "exact"

    def build(self, folder: Path, data: Data) -> None:
        np.save(folder / "vectors.npy", data.vectors)
        self._parts = [
            (data.of(tenant).start, data.vectors[data.of(tenant)]) for tenant in range(len(data.tenants) - 1)
        ]
        self._selected = {
            (field, value): np.flatnonzero(data.field(field) == value)
            for field, values in FILTERS.items()
            for value in range(values)
        }

    def open(self, folder: Path) -> None:
        self._parts = [(0, np.load(folder / "vectors.npy"))]

    def search(self, question: Question) -> Any:
        first, matrix = self._parts[question.tenant]
        if question.where is None:
            return first + _best(matrix @ question.vector)
        rows = self._selected[question.where]
        return rows[_best(matrix[rows] @ question.vector)]


def _best(scores: Any) -> Any:
    if len(scores) <= K:
        return np.argsort(-scores)
    near = np.argpartition(scores, -K)[-K:]
    return near[np.argsort(-scores[near])]


class Graphs(Engine):
    """Libraries that hold one graph for each tenant. A key is the number of a row."""

    def build(self, folder: Path, data: Data) -> None:
        self._data = data
        self._indexes = []
        for tenant in range(len(data.tenants) - 1):
            rows = data.of(tenant)
            self._indexes.append(self._made(data.vectors[rows], np.arange(rows.start, rows.stop)))
        self._save(folder)

    def _made(self, vectors: Any, keys: Any) -> Any:
        raise NotImplementedError

    def _save(self, folder: Path) -> None:
        raise NotImplementedError


class Hnswlib(Graphs):
    """Float32 vectors and their inner product."""

    name, package, module = "hnswlib", "hnswlib", "hnswlib"

    def _made(self, vectors: Any, keys: Any) -> Any:
        import hnswlib

        index = hnswlib.Index("ip", DIMENSION)
        index.init_index(len(vectors), M=LINKS, ef_construction=BUILD_CANDIDATES)
        index.add_items(vectors, keys, num_threads=THREADS)
        return index

    def _save(self, folder: Path) -> None:
        self._indexes[0].save_index(str(folder / "graph"))

    def open(self, folder: Path) -> None:
        import hnswlib

        index = hnswlib.Index("ip", DIMENSION)
        index.load_index(str(folder / "graph"))
        self._indexes = [index]

    def aim(self, effort: int) -> None:
        for index in self._indexes:
            index.set_ef(effort)

    def search(self, question: Question) -> Any:
        index = self._indexes[question.tenant]
        if question.where is None:
            return index.knn_query(question.vector, K, num_threads=1)[0][0]
        field, value = question.where
        values = self._data.field(field)
        try:
            return index.knn_query(question.vector, K, num_threads=1, filter=lambda row: values[row] == value)[0][0]
        except RuntimeError:  # it found fewer than k, and gives nothing then
            return ()


class Faiss(Graphs):
    """`IndexHNSWFlat`: float32 vectors and their inner product."""

    name, package, module = "faiss", "faiss-cpu", "faiss"

    def build(self, folder: Path, data: Data) -> None:
        super().build(folder, data)
        self._first = data.tenants
        self._selectors = self._bitmaps(data)

    def _made(self, vectors: Any, keys: Any) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(DIMENSION, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_CANDIDATES
        index.add(vectors)
        return index

    def _save(self, folder: Path) -> None:
        import faiss

        faiss.write_index(self._indexes[0], str(folder / "graph"))

    def _bitmaps(self, data: Data) -> dict[tuple[str, int], Any]:
        import faiss

        found = {}
        for field, values in FILTERS.items():
            for value in range(values):
                bits = np.packbits(data.field(field) == value, bitorder="little")
                found[field, value] = (faiss.IDSelectorBitmap(data.rows, faiss.swig_ptr(bits)), bits)
        return found

    def open(self, folder: Path) -> None:
        import faiss

        self._indexes, self._first = [faiss.read_index(str(folder / "graph"))], [0]

    def aim(self, effort: int) -> None:
        import faiss

        self._effort = effort
        self._plain = faiss.SearchParametersHNSW(efSearch=effort)

    def search(self, question: Question) -> Any:
        import faiss

        parameters = self._plain
        if question.where is not None:
            selector = self._selectors[question.where][0]
            parameters = faiss.SearchParametersHNSW(efSearch=self._effort, sel=selector)
        return self._indexes[question.tenant].search(question.vector[None], K, params=parameters)[1][0]

    def found(self, answer: Any, question: Question) -> list[int]:
        return [int(row) + self._first[question.tenant] for row in answer if row >= 0]


class Usearch(Graphs):
    """Half precision, cosine. Its Python has no filters: a filtered search fetches `effort` rows, and keeps what matches."""

    name, package, module = "usearch", "usearch", "usearch"
    kind = "f16"

    def _made(self, vectors: Any, keys: Any) -> Any:
        from usearch.index import Index

        index = Index(ndim=DIMENSION, metric="cos", dtype=self.kind, connectivity=LINKS, expansion_add=BUILD_CANDIDATES)
        index.add(keys, vectors, threads=THREADS)
        return index

    def _save(self, folder: Path) -> None:
        self._indexes[0].save(str(folder / "graph"))

    def open(self, folder: Path) -> None:
        from usearch.index import Index

        self._indexes = [Index.restore(str(folder / "graph"))]

    def aim(self, effort: int) -> None:
        self._effort = effort
        for index in self._indexes:
            index.expansion_search = effort

    def search(self, question: Question) -> Any:
        index = self._indexes[question.tenant]
        if question.where is None:
            return index.search(question.vector, K, threads=1).keys
        return self._matching(index.search(question.vector, self._effort, threads=1).keys, question.where)[:K]

    def _matching(self, rows: Any, where: tuple[str, int]) -> Any:
        field, value = where
        return rows[self._data.field(field)[rows] == value]


class UsearchInt8(Usearch):
    """A graph of int8, whose best candidates are scored again in float32: what llmspell asks of the library."""

    name, kind = "usearch-i8", "i8"

    def build(self, folder: Path, data: Data) -> None:
        np.save(folder / "vectors.npy", data.vectors)
        super().build(folder, data)
        self._vectors = data.vectors

    def open(self, folder: Path) -> None:
        super().open(folder)
        self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")

    def search(self, question: Question) -> Any:
        index = self._indexes[question.tenant]
        if question.where is None:
            rows = index.search(question.vector, min(RESCORED, max(K, self._effort)), threads=1).keys
        else:
            rows = index.search(question.vector, self._effort, threads=1).keys
            rows = self._matching(rows, question.where)[:RESCORED]
        return rows[_best(self._vectors[rows] @ question.vector)]


PLACES = {
    OURS: ("vector_ours", "Llmspell"),
    "numpy": ("vector_engines", "NumpyExact"),
    "hnswlib": ("vector_engines", "Hnswlib"),
    "faiss": ("vector_engines", "Faiss"),
    "usearch": ("vector_engines", "Usearch"),
    "usearch-i8": ("vector_engines", "UsearchInt8"),
    "chroma": ("vector_stores", "Chroma"),
    "lancedb": ("vector_stores", "LanceDB"),
    "sqlite-vec": ("vector_stores", "SqliteVec"),
}
PEERS = tuple(name for name in PLACES if name != OURS)


def engine(name: str) -> Any:
    """Return a fresh engine; nothing of it is imported before it is built or opened.

    Raises:
        NotInstalled: its package is missing.
    """
    module, made = PLACES[name]
    kind = getattr(importlib.import_module(module), made)
    if importlib.util.find_spec(kind.module) is None:
        raise NotInstalled(f"{name}: not installed; pip install {kind.package} -c benchmarks/peers.txt")
    return kind()
