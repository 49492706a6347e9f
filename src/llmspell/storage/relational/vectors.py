"""Vectors on a database: one table per dimension.

Rule: every write tells `nearest` about itself in its own transaction, so that a cache of vectors knows what it has missed.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any
from uuid import UUID

from llmspell.codec import (
    DIMENSIONS,
    VectorLike,
    pack_vector,
    require_key,
    require_limit,
    require_metadata,
    require_size,
    unpack_vector,
)
from llmspell.errors import AlreadyExists
from llmspell.ids import parse_id
from llmspell.storage.contracts.checks import require_score
from llmspell.storage.contracts.filters import parse
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort, VectorIndexStatus, require_dimension
from llmspell.storage.contracts.vectors import (
    FILTER_FIELDS,
    FREE_SPACE,
    INSERT_MAX,
    SAMPLE_MAX,
    VectorEntry,
    VectorHit,
    VectorRecord,
    VectorStats,
)
from llmspell.storage.relational.database import Executor, Row, Statement, Unit
from llmspell.storage.relational.filters import Columns
from llmspell.storage.relational.runtime import Runtime, SpaceCount, TooMuch

COLUMNS = Columns({"scope": "v.scope", "created_at": "v.created_at", "updated_at": "v.updated_at"}, "v.metadata")
"""Where filters on free vectors look; the queries call the vector table `v`."""
FLOAT32_BYTES = 4


def free_space(dimension: int) -> str:
    """Return the id of the space that holds a tenant's free vectors of one dimension."""
    return f"{FREE_SPACE}-{dimension}"


class RelationalVectors:
    """`Vectors` by the queries of `vectors.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._queries = runtime.catalog.vectors

    async def insert(self, entries: Sequence[VectorEntry]) -> list[UUID]:
        size = require_size(entries, field="entries", maximum=INSERT_MAX)
        made = self._runtime.ids.new_many(size)
        now = self._runtime.dialect.instant(self._runtime.clock.now())
        checked = [self._checked(entry, id, now, at) for at, (entry, id) in enumerate(zip(entries, made, strict=True))]
        ids = [id for id, _, _ in checked]
        given = [id for id, entry in zip(ids, entries, strict=True) if entry.id is not None]
        if given and len(set(ids)) < len(ids):
            raise AlreadyExists("Two entries have the same id.")
        if not checked:
            return []
        by_dimension: dict[int, list[dict[str, Any]]] = {}
        # In the order of ids: two batches with the same ids then wait for each other's end, and not for each other.
        for _, dimension, row in sorted(checked, key=itemgetter(0)) if given else checked:
            by_dimension.setdefault(dimension, []).append(row)
        statements = [one for dim in sorted(by_dimension) for one in self._statements(dim, by_dimension[dim])]
        if not given:  # nobody has had an id that was made just now
            await self._unit.batch(statements)
            await self._note(by_dimension)
            return ids

        async def work(executor: Executor) -> None:
            taken = await executor.value(self._queries.taken, ids=self._runtime.dialect.array(given))
            if taken is not None:
                raise AlreadyExists("A vector has this id already.", id=self._runtime.dialect.to_id(taken))
            await executor.batch(statements)

        await self._unit.write(work)
        await self._note(by_dimension)
        return ids

    async def _note(self, inserted: Mapping[int, Sequence[Any]]) -> None:
        for dimension, rows in inserted.items():
            await self._runtime.nearest.inserted_rows(
                self._unit, space_id=free_space(dimension), dimension=dimension, count=len(rows)
            )

    def _statements(self, dimension: int, rows: list[dict[str, Any]]) -> list[Statement]:
        before = self._runtime.nearest.inserted(space_id=free_space(dimension), dimension=dimension)
        return [*before, (self._queries.of("insert", dimension), rows)]

    def _checked(self, entry: VectorEntry, made: UUID, now: Any, position: int) -> tuple[UUID, int, dict[str, Any]]:
        """Return the id of an entry, which is `made` where none is given, with its dimension and its row."""
        dialect, where = self._runtime.dialect, f"entries[{position}]"
        embedding = pack_vector(entry.embedding, field=f"{where}.embedding")
        id = made if entry.id is None else parse_id(entry.id, field=f"{where}.id")
        dimension, raw_id = len(embedding) // FLOAT32_BYTES, dialect.id(id)
        row = {
            "id": raw_id,
            "owner_id": raw_id,
            "part_no": 0,
            "space_id": free_space(dimension),
            "scope": require_key(entry.scope, field=f"{where}.scope"),
            "embedding": dialect.vector(embedding),
            "metadata": dialect.json(require_metadata(entry.metadata, field=f"{where}.metadata")),
            "now": now,
        }
        return id, dimension, row

    async def get(self, id: UUID) -> VectorRecord | None:
        row = await self._unit.row(self._queries.get, id=self._runtime.dialect.id(parse_id(id)))
        return None if row is None else self._record(row)

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
        packed = pack_vector(embedding)
        dimension = len(packed) // FLOAT32_BYTES
        require_limit(limit)
        least = require_score(min_score)
        if scope is not None:
            require_key(scope, field="scope")
        where = parse(filters, FILTER_FIELDS)
        to_json = self._runtime.dialect.to_json

        async def work(executor: Executor, *, light: bool = False) -> list[VectorHit]:
            found = await self._runtime.nearest.free(
                executor, query=packed, limit=limit, scope=scope, where=where, effort=effort, light=light
            )
            kept = [item for item in found if least is None or item.score >= least]
            if not include_embedding and all(item.scope is not None for item in kept):
                return [
                    VectorHit(id=item.id, score=item.score, scope=item.scope or "", metadata=to_json(item.metadata))
                    for item in kept
                ]
            ids = self._runtime.dialect.array([item.id for item in kept])
            rows = await executor.rows(self._queries.of("hydrate", dimension), ids=ids) if kept else []
            records = {record.id: record for record in map(self._record, rows)}
            return [
                VectorHit(
                    id=item.id,
                    score=item.score,
                    scope=records[item.id].scope,
                    metadata=records[item.id].metadata,
                    embedding=records[item.id].embedding if include_embedding else None,
                )
                for item in kept
                if item.id in records  # a hit whose row is gone is no hit
            ]

        if self._runtime.nearest.one_statement and not include_embedding:
            return await work(self._unit)  # in one round trip
        if not self._unit.in_transaction:
            with contextlib.suppress(TooMuch):
                return await self._unit.read(partial(work, light=True))
        return await self._unit.read(work, heavy=True)

    async def update_metadata(self, id: UUID, metadata: Mapping[str, Any]) -> bool:
        changes = {
            "id": self._runtime.dialect.id(parse_id(id)),
            "metadata": self._runtime.dialect.json(require_metadata(metadata)),
            "now": self._runtime.dialect.instant(self._runtime.clock.now()),
        }
        changed = await self._unit.batch([(self._queries.of("update_metadata", dim), changes) for dim in DIMENSIONS])
        return any(changed)

    async def delete(self, ids: Sequence[UUID]) -> int:
        require_size(ids, field="ids", maximum=INSERT_MAX)
        wanted = sorted({parse_id(id, field="ids") for id in ids})
        return await self._delete("delete", {"ids": self._runtime.dialect.array(wanted)}) if wanted else 0

    async def delete_scope(self, scope: str) -> int:
        return await self._delete("delete_scope", {"scope": require_key(scope, field="scope")})

    async def _delete(self, query: str, parameters: dict[str, Any]) -> int:
        async def work(executor: Executor) -> int:
            counts = await executor.batch([(self._queries.of(query, dim), parameters) for dim in DIMENSIONS])
            gone = [dim for dim, count in zip(DIMENSIONS, counts, strict=True) if count]
            notes = [self._runtime.nearest.deleted(space_id=free_space(dim)) for dim in gone]
            await executor.batch([statement for group in notes for statement in group])
            return sum(counts)

        return await self._unit.write(work)

    async def stats(self, *, scope: str | None = None) -> VectorStats:
        if scope is not None:
            require_key(scope, field="scope")
        rows = await self._unit.rows(self._queries.stats, scope=scope)
        by_dimension: dict[int, int] = {}
        for dimension, _, count in rows:
            by_dimension[dimension] = by_dimension.get(dimension, 0) + count
        return VectorStats(
            total_vectors=sum(by_dimension.values()),
            by_dimension=by_dimension,
            scopes=len({name for _, name, _ in rows}),
            storage_bytes=sum(dimension * count * FLOAT32_BYTES for dimension, count in by_dimension.items()),
        )

    async def sample(self, space_id: str, *, limit: int = 1_000) -> list[array[float]]:
        require_key(space_id, field="space_id")
        require_limit(limit, maximum=SAMPLE_MAX)

        async def work(executor: Executor) -> list[Row]:
            dimension = {free_space(free): free for free in DIMENSIONS}.get(space_id)
            if dimension is None:
                space = await executor.row(self._queries.space, space_id=space_id)
                if space is None:
                    return []
                dimension = int(space[1])
            return await executor.rows(self._queries.of("sample", dimension), space_id=space_id, wanted=limit)

        rows = await self._unit.read(work, heavy=True)
        return [unpack_vector(self._runtime.dialect.to_vector(row[0])) for row in rows]

    async def index_status(self) -> list[VectorIndexStatus]:
        return await self._runtime.nearest.index_status(self._unit, await self._spaces())

    async def build_index(self, *, dimension: int | None = None) -> list[VectorIndexStatus]:
        only = require_dimension(dimension)
        spaces = [space for space in await self._spaces() if only in (None, space.dimension)]
        for space in spaces:
            await self._runtime.nearest.build_index(self._unit, space)
        built = {space.id for space in spaces}
        return [status for status in await self.index_status() if status.space_id in built]

    async def _spaces(self) -> list[SpaceCount]:
        async def work(executor: Executor) -> list[SpaceCount]:
            return [SpaceCount(*row) for row in await executor.rows(self._queries.spaces)]

        return await self._unit.read(work, heavy=True)  # every row is counted

    def _record(self, row: Row) -> VectorRecord:
        dialect = self._runtime.dialect
        id, scope, embedding, metadata, created_at, updated_at = row
        return VectorRecord(
            id=dialect.to_id(id),
            scope=scope,
            embedding=unpack_vector(dialect.to_vector(embedding)),
            metadata=dialect.to_json(metadata),
            created_at=dialect.to_instant(created_at),
            updated_at=dialect.to_instant(updated_at),
        )
