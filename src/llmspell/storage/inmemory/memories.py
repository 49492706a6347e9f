"""Memories in memory: searched by looking at every one of them.

Not here: what a term is and what it weighs (`text.analyser`, `text.bm25`), shared by all backends so that they rank alike.

Rule 1: terms are stored with the memory they came from; the statistics of a search are counted from them, every time.
Rule 2: a deleted memory is its history and nothing else; `restore` rebuilds it from there.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock, parse_instant
from llmspell.codec import encode_json, require_limit, require_size
from llmspell.errors import AlreadyExists, Conflict, NotFound, VersionConflict
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts import memories_checks as checks
from llmspell.storage.contracts.filters import Node, parse
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
    Operation,
    Scored,
)
from llmspell.storage.inmemory.filters import matches
from llmspell.storage.inmemory.jobs import ensure_waiting
from llmspell.storage.inmemory.memory_rows import StoredMemory, new_record, restored
from llmspell.storage.inmemory.store import State, Unit
from llmspell.storage.inmemory.vectors import Embedding, Window, embedding_of, similarity
from llmspell.storage.text import bm25
from llmspell.storage.text.analyser import Analyser
from llmspell.storage.text.memory_text import memory_text

OFFSET_MAX = 1_000_000


class InMemoryMemories:
    """`Memories` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, analyser: Analyser, ids: IdSource) -> None:
        self._unit = unit
        self._clock = clock
        self._analyser = analyser
        self._ids = ids

    async def ensure_space(self, space: EmbeddingSpace) -> None:
        checks.require_space(space)
        now = self._clock.now()

        def work(state: State) -> None:
            known = state.spaces.get(space.space_id)
            if known is None:
                state.spaces.put(space.space_id, space)
                state.spaces.carry(space.space_id, {"created_at": now, "updated_at": now})
            elif known != space:
                raise Conflict(
                    "The embedding space is registered otherwise.",
                    space_id=space.space_id,
                    model=known.model,
                    dimension=known.dimension,
                    hint="Use another space id for another model.",
                )

        await self._unit.write(work)

    async def add(
        self, memories: Sequence[NewMemory], *, space_id: str | None = None, actor: str | None = None
    ) -> list[MemoryRecord]:
        require_size(memories, field="memories", maximum=ADD_MAX)
        checked = [
            checks.require_memory(one, where=f"memories[{n}]", space_id=space_id) for n, one in enumerate(memories)
        ]
        checks.require_author(actor)
        if not checked:
            return []

        def work(state: State) -> list[MemoryRecord]:
            dimension = None if space_id is None else _space(state, space_id).dimension
            embedded: dict[UUID, tuple[Window, ...]] = {}
            for one in checked:
                if one.id in embedded:
                    raise AlreadyExists("Two memories have the same id.", id=one.id)
                embedded[one.id] = self._windows(one.embeddings, dimension)
            records = []
            for one in checked:
                windows = embedded[one.id]
                if one.id in state.memory_versions:
                    raise AlreadyExists("A memory has this id already.", id=one.id)
                record = new_record(one, self._clock.now())
                self._store(state, record, {space_id: windows} if space_id is not None and windows else {})
                _append(state, record, "add", actor=actor, reason=None, now=record.created_at)
                records.append(record)
            return _copies(records)

        return await self._unit.write(work) if checked else []

    async def get(self, id: UUID) -> MemoryRecord | None:
        wanted = parse_id(id)
        return (await self.get_batch([wanted])).get(wanted)

    async def get_batch(self, ids: Sequence[UUID]) -> dict[UUID, MemoryRecord]:
        wanted = _ids(ids)
        now = self._clock.now()

        def work(state: State) -> dict[UUID, MemoryRecord]:
            found = {id: _live(state, id, now) for id in wanted}
            return {id: _copy(stored.record) for id, stored in found.items() if stored is not None}

        return await self._unit.read(work)

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
        wanted = parse_id(id)
        changes = checks.require_change(change, space_id=space_id)
        checks.require_expected(expected_version)
        checks.require_author(actor, reason)
        now = self._clock.now()

        def work(state: State) -> MemoryRecord:
            dimension = None if space_id is None else _space(state, space_id).dimension
            windows = self._windows(change.embeddings, dimension)
            stored = _live(state, wanted, now)
            if stored is None:
                raise NotFound("There is no such memory.", id=wanted)
            _require_version(stored.record, expected_version)
            before = stored.record
            changed = replace(before, **changes)
            if change.embedded_text is not None and _text(changed) != change.embedded_text:
                windows, changed = (), replace(changed, token_count=before.token_count)
            if _text(changed) != _text(before) and not windows and changed.token_count == before.token_count:
                changed = replace(changed, token_count=None)
            if _same(changed, before) and not windows:
                return _copy(before)
            embeddings = stored.embeddings if _text(changed) == _text(before) else {}
            if space_id is not None and windows:
                embeddings = {space_id: windows}
            changed = replace(changed, version=before.version + 1, updated_at=now)
            _append(state, changed, "update", actor=actor, reason=reason, now=now)
            return _copy(self._store(state, changed, embeddings))

        return await self._unit.write(work)

    async def delete(
        self, id: UUID, *, expected_version: int | None = None, actor: str | None = None, reason: str | None = None
    ) -> bool:
        wanted = parse_id(id)
        checks.require_expected(expected_version)
        checks.require_author(actor, reason)
        now = self._clock.now()

        def work(state: State) -> bool:
            stored = _live(state, wanted, now)
            if stored is None:
                return False
            _require_version(stored.record, expected_version)
            _delete(state, stored.record, actor=actor, reason=reason, now=now)
            return True

        return await self._unit.write(work)

    async def restore(self, id: UUID, *, actor: str | None = None, reason: str | None = None) -> MemoryRecord:
        wanted = parse_id(id)
        checks.require_author(actor, reason)
        now = self._clock.now()

        def work(state: State) -> MemoryRecord:
            if wanted in state.memories:
                raise AlreadyExists("The memory is not deleted.", id=wanted)
            versions = state.memory_versions.get(wanted)
            if versions is None or versions[-1].operation == "forget":
                raise NotFound("There is no deleted memory with this id.", id=wanted)
            checks.require_time_left(versions[-1].expires_at, now=now, id=wanted)
            record = restored(versions, now)
            self._store(state, record, {})
            _append(state, record, "restore", actor=actor, reason=reason, now=now)
            return _copy(record)

        return await self._unit.write(work)

    async def forget(self, id: UUID, *, actor: str | None = None, reason: str | None = None) -> bool:
        wanted = parse_id(id)
        checks.require_author(actor, reason)
        now = self._clock.now()

        def work(state: State) -> bool:
            versions = state.memory_versions.get(wanted)
            if versions is None or versions[-1].operation == "forget":
                return False
            redacted = tuple(
                replace(one, content=None, session=None, role=None, metadata=None, reason=None, expires_at=None)
                for one in versions
            )
            tombstone = replace(
                redacted[-1],
                version=redacted[-1].version + 1,
                operation="forget",
                recorded_at=now,
                actor=actor,
                reason=reason,
            )
            state.memory_versions.put(wanted, (*redacted, tombstone))
            state.memories.remove(wanted)
            return True

        return await self._unit.write(work)

    async def history(self, id: UUID) -> list[MemoryVersion]:
        wanted = parse_id(id)
        versions = await self._unit.read(lambda state: state.memory_versions.get(wanted))
        return [replace(one, metadata=deepcopy(one.metadata)) for one in versions or ()]

    async def list(
        self,
        *,
        filters: Mapping[str, Any] | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        after: MemoryPosition | None = None,
        limit: int = 100,
    ) -> builtins.list[MemoryRecord]:
        where = parse(filters, FILTER_FIELDS)
        checks.require_order(order)
        checks.require_position(after)
        require_limit(limit)

        def place(record: MemoryRecord) -> tuple[datetime, UUID]:
            return (record.at if order == "at" else record.created_at, record.id)

        records = sorted(await self._records(where), key=place, reverse=descending)
        if after is not None:
            edge = (after.instant, after.id)
            records = [one for one in records if (place(one) < edge if descending else place(one) > edge)]
        return _copies(records[:limit])

    async def list_paginated(
        self, *, filters: Mapping[str, Any] | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[builtins.list[MemoryRecord], int]:
        where = parse(filters, FILTER_FIELDS)
        require_limit(limit)
        require_limit(offset, field="offset", maximum=OFFSET_MAX, minimum=0)
        records = sorted(await self._records(where), key=lambda one: (one.created_at, one.id), reverse=True)
        return _copies(records[offset : offset + limit]), len(records)

    async def count(self, *, filters: Mapping[str, Any] | None = None) -> int:
        return len(await self._records(parse(filters, FILTER_FIELDS)))

    async def search(self, query: MemoryQuery) -> MemoryRankings:
        checks.require_query(query)
        where = parse(query.filters, FILTER_FIELDS)
        now = self._clock.now()

        def snapshot(state: State) -> tuple[builtins.list[StoredMemory], EmbeddingSpace | None]:
            space = None if query.space_id is None else _space(state, query.space_id)
            return state.memories.rows(), space

        stored, space = await self._unit.read(snapshot)
        live = [one for one in stored if _is_live(one.record, now) and _matches(one.record, where)]
        dense: builtins.list[Scored] = []
        text: builtins.list[Scored] = []
        if query.embedding is not None and space is not None:
            (window,) = _packed((query.embedding,), space.dimension)
            dense = _by_meaning(live, window, space.space_id)[: query.candidates]
        if query.text is not None:
            # The statistics are those of everything the tenant has stored; a filter does not change what a term weighs.
            text = _by_words(live, stored, list(self._analyser.query_counts(query.text)))[: query.candidates]
        named = {one.id for one in (*dense, *text)}
        return MemoryRankings(
            dense=dense,
            text=text,
            records={one.record.id: _copy(one.record) for one in live if one.record.id in named},
            unembedded=sum(_is_live(one.record, now) and one.waits(query.space_id) for one in stored),
        )

    async def adjacent(
        self, ids: Sequence[UUID], *, filters: Mapping[str, Any] | None = None
    ) -> dict[UUID, tuple[UUID | None, UUID | None]]:
        wanted = set(_ids(ids))
        matching = await self._records(parse(filters, FILTER_FIELDS))
        found: dict[UUID, tuple[UUID | None, UUID | None]] = {}
        for record in await self._records(None):
            if record.id in wanted:
                place = (record.at, record.id)
                same = [one for one in matching if one.session == record.session and record.session is not None]
                before = max((one for one in same if (one.at, one.id) < place), key=_place, default=None)
                after = min((one for one in same if (one.at, one.id) > place), key=_place, default=None)
                found[record.id] = (None if before is None else before.id, None if after is None else after.id)
        return found

    async def pending(self, *, space_id: str | None = None, limit: int = 100) -> builtins.list[MemoryRecord]:
        require_limit(limit)
        if space_id is not None:
            checks.require_space_id(space_id)
        now = self._clock.now()
        stored = await self._unit.read(lambda state: state.memories.rows())
        waiting = [one for one in stored if _is_live(one.record, now) and one.waits(space_id)]
        waiting.sort(key=lambda one: (one.space_id, one.record.created_at, one.record.id))
        return _copies([one.record for one in waiting[:limit]])

    async def taken(self, ids: Sequence[UUID]) -> set[UUID]:
        wanted = _ids(ids)
        return await self._unit.read(lambda state: {id for id in wanted if id in state.memory_versions})

    async def attach_embeddings(self, space_id: str, items: Sequence[tuple[UUID, int, tuple[bytes, ...]]]) -> int:
        checks.require_space_id(space_id)
        require_size(items, field="items", maximum=ADD_MAX)
        now = self._clock.now()

        def work(state: State) -> int:
            space, attached = _space(state, space_id), 0
            wanted = {}  # of one memory, the last
            for position, (id, version, embeddings) in enumerate(items):
                identity = parse_id(id, field=f"items[{position}].id")
                if windows := self._windows(embeddings, space.dimension):
                    wanted[identity] = version, windows
            for identity, (version, windows) in wanted.items():
                stored = _live(state, identity, now)
                if stored is not None and stored.record.version == version:
                    others = {id: kept for id, kept in stored.embeddings.items() if id != space_id}
                    self._store(state, stored.record, {**others, space_id: windows})
                    attached += 1
            return attached

        return await self._unit.write(work)

    async def mark_embedding_failed(self, ids: Sequence[UUID], *, space_id: str | None = None) -> int:
        if space_id is not None:
            checks.require_space_id(space_id)
        return await self._mark(ids, lambda one: one.waits(space_id), embedding_state="failed")

    async def touch(self, ids: Sequence[UUID]) -> int:
        return await self._mark(ids, lambda _: True, last_accessed_at=self._clock.now())

    async def mark_processed(self, ids: Sequence[UUID]) -> int:
        return await self._mark(ids, lambda _: True, processed=True)

    async def _mark(self, ids: Sequence[UUID], chosen: Callable[[StoredMemory], bool], **marks: Any) -> int:
        wanted = _ids(ids)
        now = self._clock.now()

        def work(state: State) -> int:
            found = [stored for id in wanted if (stored := _live(state, id, now)) is not None and chosen(stored)]
            for stored in found:
                state.memories.put(stored.record.id, replace(stored, record=replace(stored.record, **marks)))
            return len(found)

        return await self._unit.write(work) if wanted else 0

    async def unprocessed_sessions(self, *, limit: int = 100) -> builtins.list[str]:
        require_limit(limit)
        records = await self._records(None)
        return sorted({one.session for one in records if one.session is not None and not one.processed})[:limit]

    async def delete_before(self, instant: datetime, *, limit: int = 1_000) -> int:
        before = parse_instant(instant, field="instant")
        require_limit(limit)
        now = self._clock.now()

        def work(state: State) -> int:
            records = [one.record for one in state.memories.rows() if _is_live(one.record, now)]
            said = sorted((one for one in records if one.at < before), key=_place)[:limit]
            for record in said:
                _delete(state, record, actor=None, reason=None, now=now)
            return len(said)

        return await self._unit.write(work)

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        require_limit(limit)
        now = self._clock.now()

        def work(state: State) -> int:
            records = [one.record for one in state.memories.rows() if not _is_live(one.record, now)]
            gone = sorted(records, key=lambda one: (one.expires_at or now, one.id))[:limit]
            for record in gone:
                _delete(state, record, actor=None, reason=EXPIRED, now=now)
            return len(gone)

        return await self._unit.write(work)

    async def _records(self, where: Node | None) -> builtins.list[MemoryRecord]:
        """Return the records of all live memories that match."""
        now = self._clock.now()
        stored = await self._unit.read(lambda state: state.memories.rows())
        return [one.record for one in stored if _is_live(one.record, now) and _matches(one.record, where)]

    def _windows(self, packed: Sequence[bytes], dimension: int | None) -> tuple[Window, ...]:
        """Return embeddings as the store keeps them, each in a row of its own."""
        now = self._clock.now()
        return tuple(Window(*one, self._ids.new(), now, now) for one in _packed(packed, dimension))

    def _store(self, state: State, record: MemoryRecord, embeddings: dict[str, tuple[Window, ...]]) -> MemoryRecord:
        """Put a row with the terms of its text; its state says whether it has an embedding."""
        before = state.memories.get(record.id)
        if embeddings:
            record = replace(record, embedding_state="ready")
        elif before is None or before.embeddings or _text(before.record) != _text(record):
            record = replace(record, embedding_state="pending")
            ensure_waiting(state, self._ids.new(), now=self._clock.now())
        terms = self._analyser.counts(_text(record))
        state.memories.put(record.id, StoredMemory(record=record, terms=terms, embeddings=embeddings))
        return record


def _place(record: MemoryRecord) -> tuple[datetime, UUID]:
    return record.at, record.id


def _text(record: MemoryRecord) -> str:
    return memory_text(record.content, record.role or "", record.at)


def _append(
    state: State, record: MemoryRecord, operation: Operation, *, actor: str | None, reason: str | None, now: datetime
) -> None:
    """Add the record's state to its history."""
    version = MemoryVersion(
        id=record.id,
        version=record.version,
        operation=operation,
        content=record.content,
        session=record.session,
        role=record.role,
        kind=record.kind,
        metadata=record.metadata,
        at=record.at,
        recorded_at=now,
        actor=actor,
        reason=reason,
        expires_at=record.expires_at,
    )
    state.memory_versions.put(record.id, (*(state.memory_versions.get(record.id) or ()), version))


def _delete(state: State, record: MemoryRecord, *, actor: str | None, reason: str | None, now: datetime) -> None:
    _append(state, replace(record, version=record.version + 1), "delete", actor=actor, reason=reason, now=now)
    state.memories.remove(record.id)


def _same(left: MemoryRecord, right: MemoryRecord) -> bool:
    """Compare two states; 1 and true are equal in Python, and differ in metadata."""
    return left == right and encode_json(left.metadata) == encode_json(right.metadata)


def _require_version(record: MemoryRecord, expected: int | None) -> None:
    if expected is not None and record.version != expected:
        raise VersionConflict(id=record.id, expected=expected, current=record.version)


def _space(state: State, space_id: str) -> EmbeddingSpace:
    space = state.spaces.get(space_id)
    if space is None:
        raise NotFound("The embedding space is not registered.", space_id=space_id)
    return space


def _packed(packed: Sequence[bytes], dimension: int | None) -> tuple[Embedding, ...]:
    return tuple(embedding_of(checks.require_packed(one, field="embeddings", dimension=dimension)) for one in packed)


def _is_live(record: MemoryRecord, now: datetime) -> bool:
    return record.expires_at is None or record.expires_at > now


def _live(state: State, id: UUID, now: datetime) -> StoredMemory | None:
    stored = state.memories.get(id)
    return stored if stored is not None and _is_live(stored.record, now) else None


def _matches(record: MemoryRecord, where: Node | None) -> bool:
    return where is None or matches(
        where, {name: getattr(record, name) for name in FILTER_FIELDS.by_name}, record.metadata
    )


def _by_meaning(live: Sequence[StoredMemory], query: Embedding, space_id: str) -> list[Scored]:
    """Rank by the best window of each memory."""
    scored = [
        Scored(one.record.id, max(similarity(query, window) for window in one.embeddings[space_id]))
        for one in live
        if space_id in one.embeddings
    ]
    return sorted(scored, key=lambda one: (-one.score, one.id))


def _by_words(live: Sequence[StoredMemory], stored: Sequence[StoredMemory], terms: Sequence[str]) -> list[Scored]:
    """Rank by BM25 over the statistics of `stored`."""
    if not stored:
        return []
    df = {term: sum(term in one.terms for one in stored) for term in terms}
    average = sum(one.length for one in stored) / len(stored)
    plan = bm25.plan_terms(terms, df, len(stored))
    scored = []
    for one in live:
        if any(term in one.terms for term in plan.generating):
            total = sum(
                bm25.score(one.terms[term.term], one.length, average, term.idf)
                for term in plan.scoring
                if term.term in one.terms
            )
            scored.append(Scored(one.record.id, bm25.rounded(total)))
    return sorted(scored, key=lambda one: (-one.score, one.id))


def _ids(ids: Sequence[UUID]) -> list[UUID]:
    require_size(ids, field="ids", maximum=ADD_MAX)
    return sorted({parse_id(id, field="ids") for id in ids})


def _copy(record: MemoryRecord) -> MemoryRecord:
    return replace(record, metadata=deepcopy(record.metadata))


def _copies(records: Sequence[MemoryRecord]) -> list[MemoryRecord]:
    return [_copy(record) for record in records]
