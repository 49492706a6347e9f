"""Memories on a database: the current row, its history, its terms and its embeddings, always changed together.

Not here: how words are ranked (`postings`), how vectors are (`runtime.nearest`).
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import parse_instant
from llmspell.codec import DIMENSIONS, require_limit, require_size
from llmspell.errors import AlreadyExists, Conflict, CorruptStore, NotFound, VersionConflict
from llmspell.ids import HIGHEST_ID, LOWEST_ID, parse_id
from llmspell.storage.contracts import memories_checks as checks
from llmspell.storage.contracts.filters import parse
from llmspell.storage.contracts.jobs import EMBED_KIND
from llmspell.storage.contracts.memories import (
    ADD_MAX,
    EXPIRED,
    FILTER_FIELDS,
    EmbeddingSpace,
    ListOrder,
    MemoryChange,
    MemoryPosition,
    MemoryQuery,
    MemoryRankings,
    MemoryRecord,
    MemoryVersion,
    NewMemory,
    Scored,
)
from llmspell.storage.relational.catalog import NO_FILTER, Query
from llmspell.storage.relational.database import Executor, Row, Statement, T, Unit
from llmspell.storage.relational.filters import Columns, Compiled, compile_filter
from llmspell.storage.relational.jobs import WaitingJobs
from llmspell.storage.relational.memory_rows import MemoryRows, Stored
from llmspell.storage.relational.postings import Postings
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.text.memory_text import memory_text

COLUMNS = Columns(
    {
        "session": "m.session",
        "role": "m.role",
        "kind": "m.memory_type",
        "at": "m.event_at",
        "created_at": "m.created_at",
        "updated_at": "m.updated_at",
        "processed": "m.processed",
        "version": "m.version",
    },
    "m.metadata",
)
"""Where filters on memories look; the queries call the table `m`."""
OFFSET_MAX = 1_000_000
EARLIEST = datetime.min.replace(tzinfo=UTC)


class RelationalMemories:
    """`Memories` by the queries of `memories.sql`, `postings.sql` and `vectors.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.memories
        self._vectors = runtime.catalog.vectors
        self._rows = MemoryRows(runtime)
        self._postings = Postings(runtime)
        self._embedding_job = WaitingJobs(unit, runtime, EMBED_KIND)
        self._dimensions: dict[str, int] = {}  # of registered spaces, which never change

    async def ensure_space(self, space: EmbeddingSpace) -> None:
        checks.require_space(space)
        new = {"space_id": space.space_id, "model": space.model, "dimension": space.dimension, "now": self._now()}
        found = await self._unit.rows_after(
            [(self._vectors.register_space, new)], self._vectors.space, space_id=space.space_id
        )
        registered = tuple(found[0]) if found else None
        if registered != (space.model, space.dimension):
            raise Conflict(
                "The embedding space is registered with another model or dimension.",
                space_id=space.space_id,
                registered=registered,
                hint="Use another space id for another model.",
            )
        self._dimensions[space.space_id] = space.dimension

    async def add(
        self, memories: Sequence[NewMemory], *, space_id: str | None = None, actor: str | None = None
    ) -> list[MemoryRecord]:
        require_size(memories, field="memories", maximum=ADD_MAX)
        memories = [
            checks.require_memory(memory, where=f"memories[{position}]", space_id=space_id)
            for position, memory in enumerate(memories)
        ]
        checks.require_author(actor)
        if not memories:
            return []
        dimension = await self._dimension(self._unit, space_id)
        now = self._runtime.clock.now()
        texts: dict[UUID, dict[str, int]] = {}
        records: list[Stored] = []
        for memory in memories:
            if memory.id in texts:
                raise AlreadyExists("Two memories have the same id.", id=memory.id)
            self._check_embeddings(memory.embeddings, dimension)
            texts[memory.id], length = self._postings.counts(memory_text(memory.content, memory.role or "", memory.at))
            records.append(self._rows.new(memory, now=now, space_id=space_id, text_length=length))
        vectors = [(memory.id, memory.embeddings) for memory in memories if memory.embeddings]
        await self._insert(
            records,
            [
                # In the order of ids: two batches with the same ids then wait for each other's end, and not for each other.
                (self._queries.insert, [self._rows.parameters(stored) for stored in sorted(records, key=_by_id)]),
                (self._queries.insert_version, [self._rows.version(stored, "add", actor, None) for stored in records]),
                *self._postings.added(texts),
                *self._embedding_statements(vectors, space_id, dimension),
                *self._job_for(records),
            ],
        )
        await self._postings.fold_sometimes(self._unit)
        await self._note_vectors(space_id, dimension, sum(len(windows) for _, windows in vectors))
        return [stored.record for stored in records]

    async def _note_vectors(self, space_id: str | None, dimension: int | None, count: int) -> None:
        if space_id is not None and dimension is not None and count:
            await self._runtime.nearest.inserted_rows(self._unit, space_id=space_id, dimension=dimension, count=count)

    async def _insert(self, records: Sequence[Stored], statements: Sequence[Statement]) -> None:
        """Run the statements that store new memories.

        Raises:
            AlreadyExists: names the first of them whose id is taken.
        """
        try:
            await self._unit.batch(statements)
        except AlreadyExists as exc:
            ids = [stored.record.id for stored in records]
            taken = await self.taken(ids)
            for id in ids:
                if id in taken:
                    raise AlreadyExists("A memory has this id already.", id=id) from exc
            raise

    async def get(self, id: UUID) -> MemoryRecord | None:
        wanted = parse_id(id)
        return (await self._records(self._unit, [wanted])).get(wanted)

    async def get_batch(self, ids: Sequence[UUID]) -> dict[UUID, MemoryRecord]:
        require_size(ids, field="ids")
        wanted = [parse_id(id, field="ids") for id in ids]
        return await self._records(self._unit, wanted)

    async def _records(self, executor: Executor, ids: Sequence[UUID]) -> dict[UUID, MemoryRecord]:
        if not ids:
            return {}
        rows = await executor.rows(self._queries.get_batch, ids=self._dialect.array(list(ids)), now=self._now())
        records = map(self._rows.record, rows)
        return {record.id: record for record in records}

    async def update(
        self,
        id: UUID,
        change: MemoryChange,
        *,
        space_id: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> MemoryRecord:
        identity = parse_id(id)
        changes = checks.require_change(change, space_id=space_id)
        checks.require_expected(expected_version)
        checks.require_author(actor, reason)
        dimension = await self._dimension(self._unit, space_id)
        self._check_embeddings(change.embeddings, dimension)

        async def work(executor: Executor) -> MemoryRecord:
            old = await self._current(executor, identity, expected_version)
            if old is None:
                raise NotFound("There is no such memory.", id=id)
            fits = self._rows.says(old, changes, change.embedded_text)
            windows = change.embeddings if fits else ()
            wanted = changes if fits else {name: value for name, value in changes.items() if name != "token_count"}
            embedded_in = space_id if windows else None
            new = self._rows.changed(old, wanted, now=self._runtime.clock.now(), embedded_in=embedded_in)
            if new is None:
                return old.record
            reworded = self._text(old.record) != self._text(new.record)
            counts, length = self._postings.counts(self._text(new.record)) if reworded else ({}, old.text_length)
            new = msgspec.structs.replace(new, text_length=length)
            statements: list[Statement] = [
                (self._queries.update, self._rows.parameters(new)),
                (self._queries.insert_version, self._rows.version(new, "update", actor, reason)),
            ]
            if reworded:
                statements += self._postings.removed({old.record.id: old.text_length})
                statements += self._postings.added({old.record.id: counts})
            if reworded or windows:
                statements += self._unembedding_statements([old.record.id])
                vectors = [(old.record.id, windows)] if windows else []
                statements += self._embedding_statements(vectors, space_id, dimension)
            if reworded:
                statements += self._job_for([new])
            await executor.batch(statements)
            return new.record

        return await self._folding(work)

    async def delete(
        self, id: UUID, *, expected_version: int | None = None, actor: str | None = None, reason: str | None = None
    ) -> bool:
        identity = parse_id(id)
        checks.require_expected(expected_version)
        checks.require_author(actor, reason)

        async def work(executor: Executor) -> bool:
            old = await self._current(executor, identity, expected_version)
            if old is None:
                return False
            await executor.batch(self._deletion([old], "delete", actor, reason))
            return True

        return await self._folding(work)

    def _deletion(
        self, gone: Sequence[Stored], operation: str, actor: str | None, reason: str | None
    ) -> list[Statement]:
        now = self._runtime.clock.now()
        ended = [self._rows.ended(stored, now=now) for stored in gone]
        versions = [self._rows.version(stored, operation, actor, reason) for stored in ended]
        return [(self._queries.insert_version, versions), *self._removal(gone)]

    def _removal(self, gone: Sequence[Stored]) -> builtins.list[Statement]:
        """Return the statements that remove current rows with their terms and embeddings."""
        ids = [stored.record.id for stored in gone]
        return [
            (self._queries.delete, {"ids": self._dialect.array(ids)}),
            *self._postings.removed({stored.record.id: stored.text_length for stored in gone}),
            *self._unembedding_statements(ids),
        ]

    async def restore(self, id: UUID, *, actor: str | None = None, reason: str | None = None) -> MemoryRecord:
        identity = parse_id(id)
        checks.require_author(actor, reason)

        async def work(executor: Executor) -> MemoryRecord:
            versions = await self._history(executor, identity)
            if not versions or versions[-1].operation == "forget":
                raise NotFound("There is no deleted memory with this id.", id=id)
            if versions[-1].operation != "delete":
                raise AlreadyExists("The memory is not deleted.", id=id)
            now = self._runtime.clock.now()
            checks.require_time_left(versions[-1].expires_at, now=now, id=identity)
            stored = self._rows.restored(versions, now=now)
            counts, length = self._postings.counts(self._text(stored.record))
            stored = msgspec.structs.replace(stored, text_length=length)
            await executor.batch(
                [
                    (self._queries.insert, self._rows.parameters(stored)),
                    (self._queries.insert_version, self._rows.version(stored, "restore", actor, reason)),
                    *self._postings.added({stored.record.id: counts}),
                    *self._job_for([stored]),
                ]
            )
            return stored.record

        return await self._folding(work)

    async def forget(self, id: UUID, *, actor: str | None = None, reason: str | None = None) -> bool:
        identity = parse_id(id)
        checks.require_author(actor, reason)

        async def work(executor: Executor) -> bool:
            old = await self._current(executor, identity, None, expired=True)
            versions = await self._history(executor, identity)
            if not versions or versions[-1].operation == "forget":
                return False
            tombstone = self._rows.tombstone(versions[-1], now=self._runtime.clock.now(), actor=actor, reason=reason)
            await executor.batch(
                [
                    *(self._removal([old]) if old is not None else ()),
                    (self._queries.redact_versions, {"id": self._dialect.id(identity)}),
                    (self._queries.insert_version, tombstone),
                    *self._runtime.nearest.erased(),
                ]
            )
            return True

        forgotten = await self._folding(work)
        if forgotten:
            await self._runtime.nearest.forgotten(self._unit)
        return forgotten

    async def history(self, id: UUID) -> list[MemoryVersion]:
        return await self._history(self._unit, parse_id(id))

    async def _history(self, executor: Executor, id: UUID) -> list[MemoryVersion]:
        rows = await executor.rows(self._queries.history, id=self._dialect.id(id))
        return [self._rows.to_version(row) for row in rows]

    async def list(
        self,
        *,
        filters: Mapping[str, Any] | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        after: MemoryPosition | None = None,
        limit: int = 100,
    ) -> builtins.list[MemoryRecord]:
        where = self._compiled(filters)
        checks.require_order(order)
        after = checks.require_position(after)
        require_limit(limit)
        query = getattr(self._queries, f"page_by_{order}_{'desc' if descending else 'asc'}")
        if after is not None:
            start, last = self._dialect.instant(after.instant), after.id
        elif descending:
            start, last = self._dialect.open_end(None), HIGHEST_ID
        else:
            start, last = self._dialect.instant(EARLIEST), LOWEST_ID
        rows = await self._matching(
            query,
            where,
            instant=start,
            id=self._dialect.id(last),
            now=self._now(),
            limit=limit,
        )
        return [self._rows.record(row) for row in rows]

    async def _matching(self, query: Query, where: Compiled, **parameters: Any) -> Sequence[Row]:
        """Run a query with a filter: one that filters may look at every memory, so it runs off the caller's thread."""
        filtered, parameters = query.filtered(where.fragment), {**parameters, **where.parameters}
        if where.fragment == NO_FILTER:
            return await self._unit.rows(filtered, **parameters)

        async def work(executor: Executor) -> Sequence[Row]:
            return await executor.rows(filtered, **parameters)

        return await self._unit.read(work, heavy=True)

    async def list_paginated(
        self, *, filters: Mapping[str, Any] | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[builtins.list[MemoryRecord], int]:
        where = self._compiled(filters)
        require_limit(limit)
        require_limit(offset, field="offset", maximum=OFFSET_MAX, minimum=0)
        parameters = {"now": self._now(), **where.parameters}
        page, count = (query.filtered(where.fragment) for query in (self._queries.page_by_offset, self._queries.count))

        async def work(executor: Executor) -> tuple[Sequence[tuple[Any, ...]], int]:
            rows = await executor.rows(page, limit=limit, offset=offset, **parameters)
            return rows, int(await executor.value(count, **parameters))

        heavy = where.fragment != NO_FILTER
        rows, total = await self._unit.read(work, heavy=heavy)
        return [self._rows.record(row) for row in rows], total

    async def count(self, *, filters: Mapping[str, Any] | None = None) -> int:
        where = self._compiled(filters)
        ((total,),) = await self._matching(self._queries.count, where, now=self._now())
        return int(total)

    async def search(self, query: MemoryQuery) -> MemoryRankings:
        checks.require_query(query)
        limit = query.candidates
        tree = parse(query.filters, FILTER_FIELDS)
        where = compile_filter(tree, COLUMNS, self._dialect, self._runtime.filters)
        now = self._now()

        async def work(executor: Executor) -> MemoryRankings:
            dense: builtins.list[Scored] = []
            if query.embedding is not None and query.space_id is not None:
                dimension = await self._dimension(executor, query.space_id)
                self._check_embeddings((query.embedding,), dimension)
                dense = await self._runtime.nearest.memories(
                    executor, space_id=query.space_id, query=query.embedding, limit=limit, where=tree, now=now
                )
            text: builtins.list[Scored] = []
            if query.text:
                text = await self._postings.rank_memories(executor, query.text, limit=limit, where=where, now=now)
            named = dict.fromkeys(scored.id for scored in (*dense, *text))
            records = await self._records(executor, list(named))
            for scored in text:
                if scored.id not in records:  # in one snapshot only damage parts them
                    raise CorruptStore(
                        "Words lead to a memory that is not there.", id=scored.id, hint="Restore a backup."
                    )
            unembedded = int(await executor.value(self._queries.count_pending, space_id=query.space_id, now=now))
            return MemoryRankings(
                dense=[scored for scored in dense if scored.id in records],  # what ranked them may be behind the rows
                text=text,
                records=records,
                unembedded=unembedded,
            )

        return await self._unit.read(work, heavy=True)

    async def adjacent(
        self, ids: Sequence[UUID], *, filters: Mapping[str, Any] | None = None
    ) -> dict[UUID, tuple[UUID | None, UUID | None]]:
        require_size(ids, field="ids")
        where = self._compiled(filters)
        if not ids:
            return {}
        wanted = self._dialect.array([parse_id(id, field="ids") for id in ids])
        query = self._queries.adjacent.filtered(where.fragment)
        rows = await self._unit.rows(query, ids=wanted, now=self._now(), **where.parameters)
        to_id = self._dialect.to_id
        return {
            to_id(id): (None if before is None else to_id(before), None if after is None else to_id(after))
            for id, before, after in rows
        }

    async def pending(self, *, space_id: str | None = None, limit: int = 100) -> builtins.list[MemoryRecord]:
        require_limit(limit)
        if space_id is not None:
            checks.require_space_id(space_id)
        now = self._now()

        async def work(executor: Executor) -> builtins.list[Row]:
            rows = await executor.rows(self._queries.pending, now=now, limit=limit)
            if space_id is not None and len(rows) < limit:
                left = limit - len(rows)
                rows += await executor.rows(self._queries.embedded_elsewhere, space_id=space_id, now=now, limit=left)
            return rows

        return [self._rows.record(row) for row in await self._unit.read(work)]

    async def taken(self, ids: Sequence[UUID]) -> set[UUID]:
        require_size(ids, field="ids")
        wanted = self._dialect.array(sorted({parse_id(id, field="ids") for id in ids}))
        rows = await self._unit.rows(self._queries.taken, ids=wanted) if ids else []
        return {self._dialect.to_id(row[0]) for row in rows}

    async def attach_embeddings(self, space_id: str, items: Sequence[tuple[UUID, int, tuple[bytes, ...]]]) -> int:
        checks.require_space_id(space_id)
        require_size(items, field="items", maximum=ADD_MAX)
        dimension = await self._dimension(self._unit, space_id)
        wanted = {}  # of one memory, the last
        for position, (id, version, windows) in enumerate(items):
            identity = parse_id(id, field=f"items[{position}].id")
            self._check_embeddings(windows, dimension)
            if windows:
                wanted[identity] = version, windows

        async def work(executor: Executor) -> int:
            ids = self._dialect.array(sorted(wanted))  # sorted: two drains lock their rows in the same order
            locked = await executor.rows(self._queries.lock_versions, ids=ids, now=self._now()) if wanted else []
            current = {self._dialect.to_id(row[0]): row[1] for row in locked}
            attached = [(id, windows) for id, (version, windows) in wanted.items() if current.get(id) == version]
            if attached:
                owners = {"space_id": space_id, "ids": self._dialect.array(sorted(id for id, _ in attached))}
                marked = (self._queries.mark_embedded, owners)
                replaced = (self._vectors.of("delete_owners_in", dimension), owners)
                if (await executor.batch([marked, replaced]))[-1]:
                    await executor.batch(self._runtime.nearest.deleted(space_id=space_id))
                await executor.batch(self._embedding_statements(attached, space_id, dimension))
            return len(attached)

        attached = await self._unit.write(work)
        await self._note_vectors(space_id, dimension, attached)
        return attached

    async def mark_embedding_failed(self, ids: Sequence[UUID], *, space_id: str | None = None) -> int:
        if space_id is not None:
            checks.require_space_id(space_id)
        return await self._mark(self._queries.mark_failed, ids, space_id=space_id, now=self._now())

    async def touch(self, ids: Sequence[UUID]) -> int:
        return await self._mark(self._queries.touch, ids, now=self._now())

    async def mark_processed(self, ids: Sequence[UUID]) -> int:
        return await self._mark(self._queries.mark_processed, ids, now=self._now())

    async def _mark(self, query: Any, ids: Sequence[UUID], **parameters: Any) -> int:
        require_size(ids, field="ids")
        wanted = self._dialect.array(sorted({parse_id(id, field="ids") for id in ids}))
        return await self._unit.execute(query, ids=wanted, **parameters) if ids else 0

    async def unprocessed_sessions(self, *, limit: int = 100) -> builtins.list[str]:
        rows = await self._unit.rows(self._queries.unprocessed_sessions, now=self._now(), limit=require_limit(limit))
        return [row[0] for row in rows]

    async def delete_before(self, instant: datetime, *, limit: int = 1_000) -> int:
        require_limit(limit)
        before = self._dialect.instant(parse_instant(instant, field="instant"))
        now = self._now()
        return await self._delete_found(now, None, self._queries.said_before, before=before, now=now, limit=limit)

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        require_limit(limit)
        ever = self._dialect.instant(EARLIEST)
        return await self._delete_found(ever, EXPIRED, self._queries.past_expiry, now=self._now(), limit=limit)

    async def _delete_found(self, alive_at: Any, reason: str | None, query: Query, **parameters: Any) -> int:
        """Delete what a query names, as far as it is alive at an instant."""

        async def work(executor: Executor) -> int:
            rows = await executor.rows(query, **parameters)
            ids = self._dialect.array([self._dialect.to_id(row[0]) for row in rows])
            current = await executor.rows(self._queries.current, ids=ids, now=alive_at) if rows else []
            if current:
                gone = [self._rows.stored(row) for row in current]
                await executor.batch(self._deletion(gone, "delete", None, reason))
            return len(current)

        return await self._folding(work)

    async def _folding(self, work: Callable[[Executor], Awaitable[T]]) -> T:
        """Write, and tidy the statistics of words now and then."""
        done = await self._unit.write(work)
        await self._postings.fold_sometimes(self._unit)
        return done

    async def _current(
        self, executor: Executor, id: UUID, expected_version: int | None, *, expired: bool = False
    ) -> Stored | None:
        """Return a memory about to be changed; `expired` finds one that readers no longer see."""
        now = self._dialect.instant(EARLIEST) if expired else self._now()
        rows = await executor.rows(self._queries.current, ids=self._dialect.array([id]), now=now)
        stored = self._rows.stored(rows[0]) if rows else None
        if stored is not None and expected_version is not None and stored.record.version != expected_version:
            raise VersionConflict(id=id, expected=expected_version, current=stored.record.version)
        return stored

    async def _dimension(self, executor: Executor, space_id: str | None) -> int:
        if space_id is None:
            return 0
        if space_id not in self._dimensions:
            row = await executor.row(self._vectors.space, space_id=space_id)
            if row is None:
                raise NotFound("The embedding space is not registered.", space_id=space_id)
            self._dimensions[space_id] = int(row[1])
        return self._dimensions[space_id]

    def _check_embeddings(self, windows: Iterable[bytes], dimension: int) -> None:
        for window in windows:
            checks.require_packed(window, field="embeddings", dimension=dimension)

    def _embedding_statements(
        self, vectors: Sequence[tuple[UUID, tuple[bytes, ...]]], space_id: str | None, dimension: int
    ) -> builtins.list[Statement]:
        if not vectors or space_id is None:
            return []
        rows = [
            {
                "id": self._dialect.id(self._runtime.ids.new()),
                "owner_id": self._dialect.id(owner),
                "part_no": part,
                "space_id": space_id,
                "scope": "memories",
                "embedding": self._dialect.vector(window),
                "metadata": self._dialect.json({}),
                "now": self._now(),
            }
            for owner, windows in vectors
            for part, window in enumerate(windows)
        ]
        before = self._runtime.nearest.inserted(space_id=space_id, dimension=dimension)
        return [*before, (self._vectors.of("insert", dimension), rows)]

    def _job_for(self, written: Iterable[Stored]) -> builtins.list[Statement]:
        """Keep the job that embeds, in the unit of work that leaves a memory pending: it cannot be forgotten."""
        pending = any(stored.record.embedding_state == "pending" for stored in written)
        return [self._embedding_job.ensure()] if pending else []

    def _unembedding_statements(self, ids: Sequence[UUID]) -> builtins.list[Statement]:
        """Drop the embeddings of memories in every space: an old generation must not outlive the text it was made from."""
        owners = {"ids": self._dialect.array(list(ids))}
        statements: list[Statement] = []
        for dimension in DIMENSIONS:
            statements.append((self._vectors.of("delete_owners", dimension), owners))
            statements += self._runtime.nearest.owners_deleted(dimension=dimension)
        return statements

    def _compiled(self, filters: Mapping[str, Any] | None) -> Compiled:
        return compile_filter(parse(filters, FILTER_FIELDS), COLUMNS, self._dialect, self._runtime.filters)

    def _text(self, record: MemoryRecord) -> str:
        return memory_text(record.content, record.role or "", record.at)

    def _now(self) -> Any:
        return self._dialect.instant(self._runtime.clock.now())


def _by_id(stored: Stored) -> UUID:
    return stored.record.id
