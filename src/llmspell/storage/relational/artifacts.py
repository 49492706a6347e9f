"""Artifacts on a database.

Not here: how a content is received, packed and verified (`storage.content`).

Rule 1: a content is received to its end before a statement runs; what is written is read from where it waits.
Rule 2: a put or a deletion holds the session first and the content then, as `sessions` does. So a content that is about to be
referred to is not deleted, and one whose last reference goes is deleted with it.
Rule 3: one value, and a deletion, is one round trip. Chunks are written one by one in one transaction, and read one by one in none.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from typing import Any, BinaryIO
from uuid import UUID

import msgspec
from msgspec import UNSET

from llmspell.clock import from_microseconds, to_microseconds
from llmspell.codec import require_limit
from llmspell.errors import Conflict, CorruptStore, LlmspellError, NotFound, VersionConflict
from llmspell.ids import parse_id
from llmspell.storage.content.incoming import CHUNK_BYTES, ContentSource, Incoming, Packed, checksum, received
from llmspell.storage.content.outgoing import Head, damaged, opened, require_chunk, written
from llmspell.storage.contracts import artifacts_checks as checks
from llmspell.storage.contracts.artifacts import (
    CONTENT_MAX_BYTES,
    GARBAGE_MAX,
    ArtifactRecord,
    ArtifactStats,
    ArtifactSummary,
    ArtifactType,
)
from llmspell.storage.contracts.artifacts_checks import ArtifactKey, Details, parse_artifact_id
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.database import Executor, Row, Statement, Unit
from llmspell.storage.relational.runtime import Runtime

ATTEMPTS_MAX = 20
"""How often a content may vanish between the look whether it is there and the hold on it."""
BEYOND_IDS = "g"
"""Greater than every id of an artifact, which begins with a hexadecimal digit."""
BEYOND_SEQUENCES = 2**63 - 1


class _Vanished(Exception):
    """A content that was there is deleted by now."""


class RelationalArtifacts:
    """`Artifacts` by the queries of `artifacts.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.artifacts
        self._lock = runtime.catalog.sessions.lock
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

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
            now = self._runtime.clock.now()
            row = await self._put(details, content, self._parameters(details, content, now))
        if row is None:
            raise await self._not_put(details)
        return _new_record(details, content, now=now, id=row[0], version=row[1])

    async def _put(self, details: Details, content: Incoming, parameters: dict[str, Any]) -> Row | None:
        """Write, and return the id and the version; None when the session or the parent is not there."""
        first = self._first(details, parameters)
        if content.size_bytes >= CHUNK_BYTES:
            # What is stored already is neither compressed nor sent again.
            ready = await self._unit.row(self._queries.ready, **parameters)
            if ready is None or not (ready[0] and ready[1]):
                return None
            if ready[2]:
                hold = (self._queries.hold_content, parameters)
                rows = await self._unit.rows_after([*first, hold], self._queries.insert, **parameters)
                if rows:
                    return rows[0]
        packed = await content.packed()
        parameters |= {"stored_bytes": packed.size_bytes, "is_compressed": packed.is_compressed}
        if not packed.in_one_value:
            return await self._put_large(first, packed, parameters)
        keep = (self._queries.keep_content, {**parameters, "data": packed.whole()})
        rows = await self._unit.rows_after([*first, keep], self._queries.insert, **parameters)
        return rows[0] if rows else None

    def _first(self, details: Details, parameters: dict[str, Any]) -> builtins.list[Statement]:
        """Return what holds the sessions that a put depends on, and takes the number of the artifact.

        With a parent they are held before that: whether it is there must not change from one statement to the next.
        """
        first: builtins.list[Statement] = [(self._queries.take_number, parameters)]
        if details.parent is not None:
            both = self._dialect.array([details.session, details.parent.session])
            first.insert(0, (self._queries.lock_sessions, {"ids": both}))
        return first

    async def _put_large(self, first: Sequence[Statement], packed: Packed, parameters: dict[str, Any]) -> Row | None:
        """Write a content of several chunks. One that vanishes is stored from the beginning, with nothing held: whoever waits for
        another's insertion of it must not hold the session which that one needs next."""
        for _ in range(ATTEMPTS_MAX):
            with suppress(_Vanished):
                return await self._unit.write(
                    lambda executor: self._put_chunks(executor, first, packed, parameters), large=True
                )
        raise Conflict("The same content is stored and deleted all the time.", content_hash=parameters["hash"])

    async def _put_chunks(
        self, executor: Executor, first: Sequence[Statement], packed: Packed, parameters: dict[str, Any]
    ) -> Row | None:
        # A content that nobody else can see yet comes before the session, which others need meanwhile.
        if await self._begun(executor, packed, parameters):
            await executor.batch(first)
        else:
            await executor.batch(first)
            if not await executor.execute(self._queries.hold_content, **parameters):
                raise _Vanished
        row = await executor.row(self._queries.insert, **parameters)
        if row is None:
            # Raised, for what was written must be rolled back.
            raise NotFound("The session, or the parent, is gone.", session=parameters["session_text"])
        return row

    async def _begun(self, executor: Executor, packed: Packed, parameters: dict[str, Any]) -> bool:
        """Store a content unless it is there, and say which."""
        if not await executor.execute(self._queries.begin_content, **parameters):
            return False
        for number in range(packed.chunks()):
            data = packed.chunk(number)
            # One by one: a batch would hold several of them in memory, and costs a savepoint.
            await executor.execute(
                self._queries.add_chunk,
                hash=parameters["hash"],
                number=number,
                data=data,
                checksum=checksum(number, data),
            )
        return True

    async def _not_put(self, details: Details) -> LlmspellError:
        now = self._dialect.instant(self._runtime.clock.now())
        parent = None if details.parent is None else str(details.parent)
        session = self._dialect.id(details.session)
        ready = await self._unit.row(self._queries.ready, session=session, parent=parent, hash="", now=now)
        if ready is not None and ready[0]:
            return NotFound("There is no such parent.", parent=parent)
        return NotFound("There is no such session.", session=details.session)

    def _parameters(self, details: Details, content: Incoming, now: datetime) -> dict[str, Any]:
        return {
            "session": self._dialect.id(details.session),
            "session_text": str(details.session),
            "hash": content.content_hash,
            "size_bytes": content.size_bytes,
            "name": details.name,
            "type": details.type,
            "mime_type": details.mime_type,
            "metadata": self._dialect.json(details.metadata),
            "tags": self._dialect.array(details.tags),
            "created_by": details.created_by,
            "parent": None if details.parent is None else str(details.parent),
            "now": self._dialect.instant(now),
        }

    async def get(self, id: str) -> ArtifactRecord | None:
        key = parse_artifact_id(id)
        row = await self._unit.row(self._queries.get, id=str(key), now=self._now())
        return None if row is None else self._record(row)

    async def read(self, id: str) -> bytes | None:
        key = parse_artifact_id(id)
        row = await self._unit.row(self._queries.open, id=str(key), now=self._now())
        if row is None:
            return None
        whole = BytesIO()
        async for piece in self._opened(key, row):
            whole.write(piece)
        return whole.getvalue()

    async def stream(self, id: str) -> AsyncIterator[bytes]:
        key = parse_artifact_id(id)
        row = await self._unit.row(self._queries.open, id=str(key), now=self._now())
        if row is None:
            raise _absent(key)
        async for piece in self._opened(key, row):
            yield piece

    async def download(self, id: str, into: BinaryIO) -> int:
        return await written(self.stream(id), into)

    def _opened(self, key: ArtifactKey, row: Row) -> AsyncIterator[bytes]:
        content_hash, is_compressed, size_bytes, stored_bytes, data = row
        if content_hash != key.content_hash:  # whole, but another's: its row or an index is damaged
            raise damaged(key.content_hash)
        head = Head(
            content_hash=content_hash,
            is_compressed=bool(is_compressed),
            size_bytes=size_bytes,
            stored_bytes=stored_bytes,
        )
        return opened(head, self._chunks(head) if data is None else _one(bytes(data)))

    async def _chunks(self, head: Head) -> AsyncIterator[bytes]:
        for number in range(-(-head.stored_bytes // CHUNK_BYTES)):
            row = await self._unit.row(self._queries.chunk, hash=head.content_hash, number=number)
            if row is None:
                if await self._unit.value(self._queries.content_is_there, hash=head.content_hash) is None:
                    raise NotFound("The artifact was deleted while it was read.", content_hash=head.content_hash)
                raise damaged(head.content_hash)
            yield require_chunk(head, number, bytes(row[0]), bytes(row[1]))

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
        last = await self._cursors.read(cursor, query=query)
        key = None if last is None else parse_artifact_id(last["id"], field="cursor")
        shared = {"limit": limit + 1, "now": self._now()}
        if within is not None:
            rows = await self._unit.rows(
                self._queries.page_of_session,
                session=self._dialect.id(within),
                sequence=BEYOND_SEQUENCES if key is None else key.sequence,
                type=kind,
                **shared,
            )
        else:
            place = {
                "at": self._dialect.open_end(None if last is None else from_microseconds(last["at"])),
                "id": BEYOND_IDS if key is None else str(key),
            }
            if kind is None:
                rows = await self._unit.rows(self._queries.page, **place, **shared)
            else:
                rows = await self._unit.rows(self._queries.page_by_type, type=kind, **place, **shared)
        summaries = [self._summary(row) for row in rows]
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
        key = parse_artifact_id(id)
        change = checks.require_change(name=name, tags=tags, metadata=metadata)
        expected = checks.require_expected(expected_revision)
        row = await self._unit.row(
            self._queries.update,
            id=str(key),
            name=None if change.name is UNSET else change.name,
            tags=None if change.tags is UNSET else self._dialect.array(change.tags),
            metadata=None if change.metadata is UNSET else self._dialect.json(change.metadata),
            expected_revision=expected,
            now=self._now(),
        )
        if row is not None:
            return self._record(row)
        current = await self.get(id)
        if current is None:
            raise _absent(key)
        if expected is None:
            raise Conflict("The artifact changed at the same time.", id=id)
        raise VersionConflict(id=id, expected=expected, current=current.revision)

    async def delete(self, id: str) -> bool:
        key = parse_artifact_id(id)
        _, deleted, _ = await self._unit.batch(
            [
                (self._lock, {"id": self._dialect.id(key.session)}),
                (self._queries.delete, {"id": str(key), "now": self._now()}),
                (self._queries.drop_content, {"hash": key.content_hash}),
            ]
        )
        return deleted == 1

    async def stats(self, *, session: UUID | str | None = None) -> ArtifactStats:
        within = None if session is None else self._dialect.id(parse_id(session, field="session"))

        async def work(executor: Executor) -> Row | None:
            if within is None:
                return await executor.row(self._queries.stats)
            return await executor.row(self._queries.stats_of_session, session=within)

        row = await self._unit.read(work, heavy=True)
        artifacts, logical, contents, size, stored = map(int, row or (0, 0, 0, 0, 0))
        return ArtifactStats(
            artifacts=artifacts,
            contents=contents,
            logical_bytes=logical,
            stored_bytes=stored,
            saved_by_deduplication_bytes=logical - size,
            saved_by_compression_bytes=size - stored,
        )

    async def verify(self, id: str) -> bool:
        try:
            async for _ in self.stream(id):
                pass
        except CorruptStore:
            return False
        return True

    async def collect_garbage(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=GARBAGE_MAX)
        return await self._unit.execute(self._queries.drop_unreferenced, limit=limit)

    def _now(self) -> Any:
        return self._dialect.instant(self._runtime.clock.now())

    def _record(self, row: Row) -> ArtifactRecord:
        id, metadata, name, kind, mime_type, size, created, created_by, version, parent, tags, updated, revision = row
        key = parse_artifact_id(id)
        return ArtifactRecord(
            id=id,
            session=key.session,
            sequence=key.sequence,
            content_hash=key.content_hash,
            name=name,
            type=kind,
            mime_type=mime_type,
            size_bytes=size,
            metadata=self._dialect.to_json(metadata),
            tags=self._dialect.to_json(tags),
            created_by=created_by,
            parent=parent,
            version=version,
            revision=revision,
            created_at=self._dialect.to_instant(created),
            updated_at=self._dialect.to_instant(updated),
        )

    def _summary(self, row: Row) -> ArtifactSummary:
        id, name, kind, size_bytes, created = row
        key = parse_artifact_id(id)
        return ArtifactSummary(
            id=id,
            session=key.session,
            sequence=key.sequence,
            content_hash=key.content_hash,
            name=name,
            type=kind,
            size_bytes=size_bytes,
            created_at=self._dialect.to_instant(created),
        )


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _absent(key: ArtifactKey) -> NotFound:
    return NotFound("There is no such artifact.", id=str(key))


def _position(summary: ArtifactSummary) -> dict[str, Any]:
    return {"at": to_microseconds(summary.created_at), "id": summary.id}


def _new_record(details: Details, content: Incoming, *, now: datetime, id: str, version: int) -> ArtifactRecord:
    key = parse_artifact_id(id)
    return ArtifactRecord(
        id=id,
        session=key.session,
        sequence=key.sequence,
        content_hash=key.content_hash,
        name=details.name,
        type=details.type,
        mime_type=details.mime_type,
        size_bytes=content.size_bytes,
        metadata=details.metadata,
        tags=details.tags,
        created_by=details.created_by,
        parent=None if details.parent is None else str(details.parent),
        version=version,
        revision=1,
        created_at=now,
        updated_at=now,
    )
