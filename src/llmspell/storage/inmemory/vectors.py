"""Vectors in memory: every search compares with every vector, in float64 over the stored float32 values.

Not here: an index. This is what an index must agree with.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from operator import mul
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.codec import (
    VectorLike,
    pack_vector,
    require_key,
    require_limit,
    require_metadata,
    require_size,
    unpack_vector,
)
from llmspell.errors import AlreadyExists
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts.checks import require_score
from llmspell.storage.contracts.filters import Node, parse
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort, VectorIndexStatus, require_dimension
from llmspell.storage.contracts.vectors import (
    FILTER_FIELDS,
    FREE_SPACE,
    INSERT_MAX,
    SAMPLE_MAX,
    SCORE_DECIMALS,
    VectorEntry,
    VectorHit,
    VectorRecord,
    VectorStats,
)
from llmspell.storage.inmemory.filters import matches
from llmspell.storage.inmemory.store import Row, State, Unit

FLOAT32_BYTES = 4


class Embedding(NamedTuple):
    """A vector as stored, and its Euclidean norm."""

    values: array[float]
    norm: float


class Window(NamedTuple):
    """A vector of a window of a memory's text, as `Embedding` has it, with what else its row has."""

    values: array[float]
    norm: float
    id: UUID
    created_at: datetime
    updated_at: datetime
    scope: str = "memories"
    metadata: dict[str, Any] = {}  # noqa: RUF012 - never changed: whoever reads it gets a copy


def embedding_of(packed: bytes) -> Embedding:
    """Return packed float32 bytes, ready to be compared."""
    values = unpack_vector(packed)
    return Embedding(values, math.sqrt(sum(map(mul, values, values))))


def similarity(left: Embedding | Window, right: Embedding | Window) -> float:
    """Cosine similarity (1 - cosine distance) of two vectors of one dimension, rounded as rankings show it."""
    cosine: float = sum(map(mul, left.values, right.values)) / (left.norm * right.norm)
    return round(min(1.0, max(-1.0, cosine)), SCORE_DECIMALS)


class StoredVector(msgspec.Struct, frozen=True, kw_only=True):
    """One free vector. Nothing outside this module holds its metadata."""

    id: UUID
    embedding: Embedding
    scope: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime

    def matches(self, where: Node | None) -> bool:
        """Say whether a filter accepts it."""
        fields = {"scope": self.scope, "created_at": self.created_at, "updated_at": self.updated_at}
        return matches(where, fields, self.metadata)

    def record(self) -> VectorRecord:
        """Return it as callers see it: copies, so that they may change what they got."""
        return VectorRecord(
            id=self.id,
            embedding=self.embedding.values[:],
            scope=self.scope,
            metadata=deepcopy(self.metadata),
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def hit(self, score: float, *, include_embedding: bool) -> VectorHit:
        """Return it as a search result."""
        return VectorHit(
            id=self.id,
            score=score,
            scope=self.scope,
            metadata=deepcopy(self.metadata),
            embedding=self.embedding.values[:] if include_embedding else None,
        )


class InMemoryVectors:
    """`Vectors` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids

    async def insert(self, entries: Sequence[VectorEntry]) -> list[UUID]:
        require_size(entries, field="entries", maximum=INSERT_MAX)
        checked = [self._checked(entry, position) for position, entry in enumerate(entries)]
        if len({one.id for one in checked}) < len(checked):
            raise AlreadyExists("Two entries have the same id.")

        def work(state: State) -> None:
            for one in checked:
                if one.id in state.vectors:
                    raise AlreadyExists("A vector has this id already.", id=one.id)
                state.vectors.put(one.id, one)

        if checked:
            await self._unit.write(work)
        return [one.id for one in checked]

    def _checked(self, entry: VectorEntry, position: int) -> StoredVector:
        where = f"entries[{position}]"
        packed = pack_vector(entry.embedding, field=f"{where}.embedding")
        now = self._clock.now()
        return StoredVector(
            id=self._ids.new() if entry.id is None else parse_id(entry.id, field=f"{where}.id"),
            embedding=embedding_of(packed),
            scope=require_key(entry.scope, field=f"{where}.scope"),
            metadata=require_metadata(entry.metadata, field=f"{where}.metadata"),
            created_at=now,
            updated_at=now,
        )

    async def get(self, id: UUID) -> VectorRecord | None:
        wanted = parse_id(id)
        stored = await self._unit.read(lambda state: state.vectors.get(wanted))
        return None if stored is None else stored.record()

    async def search(
        self,
        embedding: VectorLike,
        *,
        limit: int = 10,
        scope: str | None = None,
        filters: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        include_embedding: bool = False,
        effort: Effort = CONFIGURED,
    ) -> list[VectorHit]:
        query = embedding_of(pack_vector(embedding))
        require_limit(limit)
        least = require_score(min_score)
        if scope is not None:
            require_key(scope, field="scope")
        where = parse(filters, FILTER_FIELDS)
        # The state is let go before the long part begins: what was read are immutable records.
        stored = await self._unit.read(lambda state: state.vectors.rows())
        scored = [
            (similarity(query, one.embedding), one)
            for one in stored
            if len(one.embedding.values) == len(query.values)
            and (scope is None or one.scope == scope)
            and one.matches(where)
        ]
        ranked = sorted(
            (pair for pair in scored if least is None or pair[0] >= least), key=lambda pair: (-pair[0], pair[1].id)
        )
        return [one.hit(score, include_embedding=include_embedding) for score, one in ranked[:limit]]

    async def update_metadata(self, id: UUID, metadata: Mapping[str, Any]) -> bool:
        wanted, replaced, now = parse_id(id), require_metadata(metadata), self._clock.now()

        def work(state: State) -> bool:
            stored = state.vectors.get(wanted)
            if stored is None:
                return False
            state.vectors.put(wanted, msgspec.structs.replace(stored, metadata=replaced, updated_at=now))
            return True

        return await self._unit.write(work)

    async def delete(self, ids: Sequence[UUID]) -> int:
        require_size(ids, field="ids", maximum=INSERT_MAX)
        wanted = {parse_id(id, field="ids") for id in ids}
        return await self._delete(lambda stored: stored.id in wanted) if wanted else 0

    async def delete_scope(self, scope: str) -> int:
        require_key(scope, field="scope")
        return await self._delete(lambda stored: stored.scope == scope)

    async def _delete(self, chosen: Callable[[StoredVector], bool]) -> int:
        def work(state: State) -> int:
            gone = [stored.id for stored in state.vectors.rows() if chosen(stored)]
            for id in gone:
                state.vectors.remove(id)
            return len(gone)

        return await self._unit.write(work)

    async def stats(self, *, scope: str | None = None) -> VectorStats:
        if scope is not None:
            require_key(scope, field="scope")
        rows = await self._unit.read(lambda state: state.vectors.rows())
        counted = [one for one in rows if scope is None or one.scope == scope]
        by_dimension: dict[int, int] = {}
        for one in counted:
            dimension = len(one.embedding.values)
            by_dimension[dimension] = by_dimension.get(dimension, 0) + 1
        return VectorStats(
            total_vectors=len(counted),
            by_dimension=by_dimension,
            scopes=len({one.scope for one in counted}),
            storage_bytes=sum(len(one.embedding.values) * FLOAT32_BYTES for one in counted),
        )

    async def sample(self, space_id: str, *, limit: int = 1_000) -> list[array[float]]:
        require_key(space_id, field="space_id")
        require_limit(limit, maximum=SAMPLE_MAX)
        found = await self._unit.read(lambda state: _space(state, space_id))
        kept = min(limit, len(found))
        return [
            values[:]
            for number, values in enumerate(found, start=1)
            if number * kept // len(found) > (number - 1) * kept // len(found)
        ]

    async def index_status(self) -> list[VectorIndexStatus]:
        counts = await self._unit.read(_count_spaces)
        return [
            VectorIndexStatus(space_id=space_id, dimension=dimension, state="exact", vectors=vectors, unindexed=vectors)
            for (space_id, dimension), vectors in sorted(counts.items())
        ]

    async def build_index(self, *, dimension: int | None = None) -> list[VectorIndexStatus]:
        only = require_dimension(dimension)
        return [status for status in await self.index_status() if only in (None, status.dimension)]


def _space(state: State, space_id: str) -> list[array[float]]:
    """The embeddings of one space, by their owners and parts."""
    free: dict[UUID, list[Embedding | Window]] = {
        one.id: [one.embedding] for one in state.vectors.rows() if free_space(len(one.embedding.values)) == space_id
    }
    owned: dict[UUID, list[Embedding | Window]] = {
        memory.record.id: list(memory.embeddings[space_id])
        for memory in state.memories.rows()
        if space_id in memory.embeddings
    }
    return [window.values for _, windows in sorted({**free, **owned}.items()) for window in windows]


def free_space(dimension: int) -> str:
    """Return the id of the space that holds free vectors of one dimension."""
    return f"{FREE_SPACE}-{dimension}"


def _count_spaces(state: State) -> Counter[tuple[str, int]]:
    counts: Counter[tuple[str, int]] = Counter()
    for one in state.vectors.rows():
        dimension = len(one.embedding.values)
        counts[free_space(dimension), dimension] += 1
    for memory in state.memories.rows():
        for space_id, windows in memory.embeddings.items():
            counts[space_id, len(windows[0].values)] += len(windows)
    return counts


COLUMNS = ("id", "scope", "metadata", "created_at", "updated_at")


def rows(state: State, dimension: int) -> Iterator[Row]:
    """Yield the rows of `vector_embeddings_…`: the free vectors of one dimension, and the windows of memories."""
    for one in state.vectors.rows():
        if len(one.embedding.values) == dimension:
            yield _row(one, one.embedding) | {"space_id": free_space(dimension), "owner_id": one.id, "part_no": 0}
    for memory in state.memories.rows():
        for space_id, windows in memory.embeddings.items():
            for part, window in enumerate(windows):
                if len(window.values) == dimension:
                    place = {"space_id": space_id, "owner_id": memory.record.id, "part_no": part}
                    yield _row(window, window) | place


def _row(one: StoredVector | Window, embedding: Embedding | Window) -> Row:
    return {name: getattr(one, name) for name in COLUMNS} | {"embedding": _packed(embedding)}


def _packed(embedding: Embedding | Window) -> bytes:
    values = embedding.values
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def load(state: State, row: Row) -> None:
    """Keep a row of a free vector."""
    stored = StoredVector(embedding=embedding_of(row["embedding"]), **{name: row[name] for name in COLUMNS})
    state.vectors.put(stored.id, stored)


def window_of(row: Row) -> Window:
    """Return a window of a memory from its row."""
    return Window(*embedding_of(row["embedding"]), **{name: row[name] for name in COLUMNS})
