"""Artifacts in memory.

Rule: nothing is counted ahead: whether a content is referred to is looked up among the artifacts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, BinaryIO
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from llmspell.clock import Clock, from_microseconds, to_microseconds
from llmspell.codec import require_limit
from llmspell.errors import CorruptStore, NotFound, VersionConflict
from llmspell.ids import parse_id
from llmspell.storage.content.incoming import CHUNK_BYTES, ContentSource, checksum, received
from llmspell.storage.content.outgoing import Head, opened, written
from llmspell.storage.contracts import artifacts_checks as checks
from llmspell.storage.contracts.artifacts import (
    CONTENT_MAX_BYTES,
    GARBAGE_MAX,
    ArtifactRecord,
    ArtifactStats,
    ArtifactSummary,
    ArtifactType,
)
from llmspell.storage.contracts.artifacts_checks import ArtifactKey, parse_artifact_id
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.sessions import drop_unreferenced, live_session
from llmspell.storage.inmemory.store import Row, State, Unit


class StoredContent(msgspec.Struct, frozen=True, kw_only=True):
    """A content as it is stored."""

    data: bytes
    is_compressed: bool
    size_bytes: int
    created_at: datetime
    last_accessed_at: datetime


class InMemoryArtifacts:
    """`Artifacts` over dictionaries."""

    def __init__(self, unit: Unit, clock: Clock, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._cursors = cursors

    async def put(
        self,
        session: UUID | str,
        name: str,
        data: ContentSource,
        *,
        type: ArtifactType = "custom",
        mime_type: str = "application/octet-stream",
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        created_by: str | None = None,
        parent: str | None = None,
    ) -> ArtifactRecord:
        details = checks.require_details(
            session=session,
            name=name,
            type=type,
            mime_type=mime_type,
            metadata=metadata,
            tags=tags,
            created_by=created_by,
            parent=parent,
        )
        async with received(data, limit_bytes=CONTENT_MAX_BYTES) as content:
            packed = await content.packed()
            now = self._clock.now()
            stored = StoredContent(
                data=packed.whole(),
                is_compressed=packed.is_compressed,
                size_bytes=content.size_bytes,
                created_at=now,
                last_accessed_at=now,
            )
            content_hash = content.content_hash

        def work(state: State) -> ArtifactRecord:
            owner = live_session(state, details.session, now)
            if owner is None:
                raise NotFound("There is no such session.", session=details.session)
            before = None if details.parent is None else _live(state, details.parent, now)
            if details.parent is not None and before is None:
                raise NotFound("There is no such parent.", parent=str(details.parent))
            number = state.artifact_numbers.get(owner.id) or 0
            record = ArtifactRecord(
                id=str(ArtifactKey(owner.id, number, content_hash)),
                session=owner.id,
                sequence=number,
                content_hash=content_hash,
                name=details.name,
                type=details.type,
                mime_type=details.mime_type,
                size_bytes=stored.size_bytes,
                metadata=details.metadata,
                tags=details.tags,
                created_by=details.created_by,
                parent=None if before is None else before.id,
                version=1 if before is None else before.version + 1,
                revision=1,
                created_at=now,
                updated_at=now,
            )
            state.artifact_numbers.put(owner.id, number + 1)
            state.sessions.put(owner.id, replace(owner, last_accessed_at=now))
            there = state.contents.get(content_hash)
            kept = stored if there is None else replace(there, last_accessed_at=now)
            state.contents.put(content_hash, kept)
            state.artifacts.put(record.id, record)
            return _copy(record)

        return await self._unit.write(work)

    async def get(self, id: str) -> ArtifactRecord | None:
        key, now = parse_artifact_id(id), self._clock.now()
        record = await self._unit.read(lambda state: _live(state, key, now))
        return None if record is None else _copy(record)

    async def read(self, id: str) -> bytes | None:
        key = parse_artifact_id(id)
        found = await self._content(key)
        if found is None:
            return None
        return b"".join([piece async for piece in _pieces(key, found)])

    async def stream(self, id: str) -> AsyncIterator[bytes]:
        key = parse_artifact_id(id)
        found = await self._content(key)
        if found is None:
            raise _absent(key)
        async for piece in _pieces(key, found):
            yield piece

    async def download(self, id: str, into: BinaryIO) -> int:
        return await written(self.stream(id), into)

    async def _content(self, key: ArtifactKey) -> StoredContent | None:
        now = self._clock.now()

        def work(state: State) -> StoredContent | None:
            record = _live(state, key, now)
            return None if record is None else state.contents.get(record.content_hash)

        return await self._unit.read(work)

    async def list(
        self,
        *,
        session: UUID | str | None = None,
        type: ArtifactType | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[ArtifactSummary]:
        within = None if session is None else parse_id(session, field="session")
        kind = None if type is None else checks.require_type(type)
        require_limit(limit)
        query = ["artifacts", None if within is None else str(within), kind]
        position = await self._cursors.read(cursor, query=query)
        now = self._clock.now()
        rows = await self._unit.read(
            lambda state: [one for one in state.artifacts.rows() if live_session(state, one.session, now) is not None]
        )
        rows = [one for one in rows if within in (None, one.session) and kind in (None, one.type)]
        if within is not None:
            rows.sort(key=lambda one: one.sequence, reverse=True)
            if position is not None:
                last = parse_artifact_id(position["id"], field="cursor").sequence
                rows = [one for one in rows if one.sequence < last]
        else:
            rows.sort(key=lambda one: (one.created_at, one.id), reverse=True)
            if position is not None:
                edge = (from_microseconds(position["at"]), position["id"])
                rows = [one for one in rows if (one.created_at, one.id) < edge]
        summaries = [_summary(one) for one in rows[: limit + 1]]
        return await self._cursors.page(summaries, limit=limit, query=query, position=_position)

    async def update(
        self,
        id: str,
        *,
        name: str | msgspec.UnsetType = UNSET,
        tags: Sequence[str] | msgspec.UnsetType = UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType = UNSET,
        expected_revision: int | None = None,
    ) -> ArtifactRecord:
        key, now = parse_artifact_id(id), self._clock.now()
        change = checks.require_change(name=name, tags=tags, metadata=metadata)
        expected = checks.require_expected(expected_revision)
        given = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}

        def work(state: State) -> ArtifactRecord:
            record = _live(state, key, now)
            if record is None:
                raise _absent(key)
            if expected is not None and record.revision != expected:
                raise VersionConflict(id=id, expected=expected, current=record.revision)
            changed = replace(record, **given, updated_at=now, revision=record.revision + 1)
            state.artifacts.put(changed.id, changed)
            return _copy(changed)

        return await self._unit.write(work)

    async def delete(self, id: str) -> bool:
        key, now = parse_artifact_id(id), self._clock.now()

        def work(state: State) -> bool:
            record = _live(state, key, now)
            if record is None:
                return False
            state.artifacts.remove(record.id)
            drop_unreferenced(state)
            return True

        return await self._unit.write(work)

    async def stats(self, *, session: UUID | str | None = None) -> ArtifactStats:
        within = None if session is None else parse_id(session, field="session")

        def work(state: State) -> ArtifactStats:
            artifacts = [one for one in state.artifacts.rows() if within in (None, one.session)]
            hashes = {one.content_hash for one in artifacts}
            contents = [content for key, content in state.contents.items() if key in hashes]
            logical = sum(one.size_bytes for one in artifacts)
            size = sum(one.size_bytes for one in contents)
            stored = sum(len(one.data) for one in contents)
            return ArtifactStats(
                artifacts=len(artifacts),
                contents=len(contents),
                logical_bytes=logical,
                stored_bytes=stored,
                saved_by_deduplication_bytes=logical - size,
                saved_by_compression_bytes=size - stored,
            )

        return await self._unit.read(work)

    async def verify(self, id: str) -> bool:
        try:
            async for _ in self.stream(id):
                pass
        except CorruptStore:
            return False
        return True

    async def collect_garbage(self, *, limit: int = 1_000) -> int:
        """There is none: a content goes in the very call that takes its last reference."""
        require_limit(limit, maximum=GARBAGE_MAX)
        return 0


def _live(state: State, key: ArtifactKey, now: datetime) -> ArtifactRecord | None:
    """Return an artifact whose session has not expired."""
    record = state.artifacts.get(str(key))
    return record if record is not None and live_session(state, record.session, now) is not None else None


def _pieces(key: ArtifactKey, content: StoredContent) -> AsyncIterator[bytes]:
    async def stored() -> AsyncIterator[bytes]:
        yield content.data

    head = Head(
        content_hash=key.content_hash,
        is_compressed=content.is_compressed,
        size_bytes=content.size_bytes,
        stored_bytes=len(content.data),
    )
    return opened(head, stored())


def _absent(key: ArtifactKey) -> NotFound:
    return NotFound("There is no such artifact.", id=str(key))


def _copy(record: ArtifactRecord) -> ArtifactRecord:
    return replace(record, metadata=deepcopy(record.metadata), tags=[*record.tags])


def _summary(record: ArtifactRecord) -> ArtifactSummary:
    return ArtifactSummary(
        **{name: getattr(record, name) for name in ArtifactSummary.__struct_fields__},
    )


def _position(summary: ArtifactSummary) -> dict[str, Any]:
    return {"at": to_microseconds(summary.created_at), "id": summary.id}


COLUMNS = {
    "artifact_id": "id",
    "session_id": "session",
    "artifact_type": "type",
    "parent_artifact_id": "parent",
} | {
    name: name
    for name in (
        *("sequence", "content_hash", "metadata", "name", "mime_type", "size_bytes", "created_at", "created_by"),
        *("version", "tags", "updated_at", "revision"),
    )
}
"""Columns of `artifacts` with the fields of their records."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `artifacts`."""
    for record in state.artifacts.rows():
        columns = {column: getattr(record, field) for column, field in COLUMNS.items()}
        yield columns | {"stored_at": record.created_at}


def load(state: State, row: Row) -> None:
    """Keep a row of `artifacts`."""
    record = ArtifactRecord(**{field: row[column] for column, field in COLUMNS.items()})
    state.artifacts.put(record.id, record)


def content_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `artifact_content`; of a content of several chunks without its bytes."""
    references = Counter(record.content_hash for record in state.artifacts.rows())
    for content_hash, content in state.contents.items():
        in_one_value = len(content.data) < CHUNK_BYTES
        yield {
            "content_hash": content_hash,
            "storage_type": "bytea" if in_one_value else "chunks",
            "data": content.data if in_one_value else None,
            "size_bytes": len(content.data),
            "is_compressed": content.is_compressed,
            "original_size_bytes": content.size_bytes,
            "reference_count": references[content_hash],
            "created_at": content.created_at,
            "last_accessed_at": content.last_accessed_at,
        }


def load_content(state: State, row: Row) -> None:
    """Keep a row of `artifact_content`, with all of its bytes."""
    original = row["original_size_bytes"]
    content = StoredContent(
        data=row["data"],
        is_compressed=row["is_compressed"],
        size_bytes=row["size_bytes"] if original is None else original,
        created_at=row["created_at"],
        last_accessed_at=row["last_accessed_at"],
    )
    state.contents.put(row["content_hash"], content)


def chunk_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `artifact_chunks`."""
    for content_hash, content in state.contents.items():
        if len(content.data) < CHUNK_BYTES:
            continue
        for number, start in enumerate(range(0, len(content.data), CHUNK_BYTES)):
            data = content.data[start : start + CHUNK_BYTES]
            row = {"content_hash": content_hash, "chunk_no": number, "data": data}
            yield row | {"checksum": checksum(number, data)}
