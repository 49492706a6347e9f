"""Memories between records and rows: what each change makes of a memory, decided without touching a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from llmspell.codec import encode_json
from llmspell.storage.contracts.memories import (
    EmbeddingState,
    MemoryRecord,
    MemoryVersion,
    NewMemory,
    Operation,
)
from llmspell.storage.relational.database import Row
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.text.memory_text import memory_text


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A memory with what only the store needs to know: where its embedding is, and how many terms its text has."""

    record: MemoryRecord
    space_id: str | None
    text_length: int


class MemoryRows:
    """The conversions, bound to a dialect."""

    def __init__(self, runtime: Runtime) -> None:
        self._dialect = runtime.dialect

    def new(self, memory: NewMemory, *, now: datetime, space_id: str | None, text_length: int) -> Stored:
        """Return the first state of a memory."""
        state: EmbeddingState = "ready" if memory.embeddings else "pending"
        record = MemoryRecord(
            id=memory.id,
            content=memory.content,
            session=memory.session,
            role=memory.role,
            kind=memory.kind,
            metadata=memory.metadata,
            at=memory.at,
            created_at=now,
            updated_at=now,
            last_accessed_at=None,
            version=1,
            processed=False,
            embedding_state=state,
            token_count=memory.token_count,
            expires_at=memory.expires_at,
        )
        return Stored(record=record, space_id=space_id if memory.embeddings else None, text_length=text_length)

    def says(self, old: Stored, changes: Mapping[str, Any], text: str | None) -> bool:
        """Say whether the memory will have the searchable text that embeddings were made from (None: whatever it is)."""
        return text is None or _text(msgspec.structs.replace(old.record, **changes)) == text

    def changed(
        self, old: Stored, changes: Mapping[str, Any], *, now: datetime, embedded_in: str | None
    ) -> Stored | None:
        """Return the state after a change, or None when it changes nothing. The caller counts the terms of a new text.

        `embedded_in` is the space of the embeddings that come with the change, None without any.
        """
        fields = {name: value for name, value in changes.items() if not _same(value, getattr(old.record, name))}
        if not fields and embedded_in is None:
            return None
        new = msgspec.structs.replace(old.record, **fields, updated_at=now, version=old.record.version + 1)
        if embedded_in is not None:
            ready = msgspec.structs.replace(new, embedding_state="ready")
            return Stored(record=ready, space_id=embedded_in, text_length=old.text_length)
        if _text(new) != _text(old.record):
            # The number of tokens was that of the old text; nobody has counted those of the new one.
            tokens = fields.get("token_count")
            pending = msgspec.structs.replace(new, embedding_state="pending", token_count=tokens)
            return Stored(record=pending, space_id=None, text_length=old.text_length)
        return Stored(record=new, space_id=old.space_id, text_length=old.text_length)

    def ended(self, old: Stored, *, now: datetime) -> Stored:
        """Return a memory as its last version records it."""
        record = msgspec.structs.replace(old.record, updated_at=now, version=old.record.version + 1)
        return msgspec.structs.replace(old, record=record)

    def restored(self, versions: Sequence[MemoryVersion], *, now: datetime) -> Stored:
        """Return the state of a deleted memory after it came back."""
        first, last = versions[0], versions[-1]
        record = MemoryRecord(
            id=last.id,
            content=last.content or "",
            session=last.session,
            role=last.role,
            kind=last.kind,
            metadata=last.metadata or {},
            at=last.at,
            created_at=first.recorded_at,
            updated_at=now,
            last_accessed_at=None,
            version=last.version + 1,
            processed=False,
            embedding_state="pending",
            token_count=None,
            expires_at=last.expires_at,
        )
        return Stored(record=record, space_id=None, text_length=0)

    def parameters(self, stored: Stored) -> dict[str, Any]:
        """Return the parameters of `insert` and `update`."""
        record, dialect = stored.record, self._dialect
        return {
            "id": dialect.id(record.id),
            "session": record.session,
            "role": record.role,
            "kind": record.kind,
            "content": record.content,
            "metadata": dialect.json(record.metadata),
            "at": dialect.instant(record.at),
            "created_at": dialect.instant(record.created_at),
            "now": dialect.instant(record.updated_at),
            "version": record.version,
            "embedding_state": record.embedding_state,
            "space_id": stored.space_id,
            "token_count": record.token_count,
            "expires_at": self._optional(record.expires_at),
            "text_length": stored.text_length,
        }

    def version(self, stored: Stored, operation: str, actor: str | None, reason: str | None) -> dict[str, Any]:
        """Return the parameters of `insert_version`."""
        record, dialect = stored.record, self._dialect
        return {
            "id": dialect.id(record.id),
            "version": record.version,
            "operation": operation,
            "content": record.content,
            "metadata": dialect.json(record.metadata),
            "session": record.session,
            "role": record.role,
            "kind": record.kind,
            "at": dialect.instant(record.at),
            "now": dialect.instant(record.updated_at),
            "actor": actor,
            "reason": reason,
            "expires_at": self._optional(record.expires_at),
        }

    def tombstone(self, last: MemoryVersion, *, now: datetime, actor: str | None, reason: str | None) -> dict[str, Any]:
        """Return the parameters of the version that says a memory was forgotten, and nothing else."""
        operation: Operation = "forget"
        return {
            "id": self._dialect.id(last.id),
            "version": last.version + 1,
            "operation": operation,
            "content": None,
            "metadata": None,
            "session": None,
            "role": None,
            "kind": last.kind,
            "at": self._dialect.instant(last.at),
            "now": self._dialect.instant(now),
            "actor": actor,
            "reason": reason,
            "expires_at": None,
        }

    def _optional(self, instant: datetime | None) -> Any:
        return None if instant is None else self._dialect.instant(instant)

    def record(self, row: Row) -> MemoryRecord:
        """Return the record of a row; further columns are ignored."""
        dialect = self._dialect
        (id, content, session, role, kind, metadata, at, created, updated, accessed, version, processed, state) = row[
            :13
        ]
        token_count, expires = row[13:15]
        return MemoryRecord(
            id=dialect.to_id(id),
            content=content,
            session=session,
            role=role,
            kind=kind,
            metadata=dialect.to_json(metadata),
            at=dialect.to_instant(at),
            created_at=dialect.to_instant(created),
            updated_at=dialect.to_instant(updated),
            last_accessed_at=None if accessed is None else dialect.to_instant(accessed),
            version=version,
            processed=bool(processed),
            embedding_state=state,
            token_count=token_count,
            expires_at=None if expires is None else dialect.to_instant(expires),
        )

    def stored(self, row: Row) -> Stored:
        """Return a row of `current`."""
        return Stored(record=self.record(row), space_id=row[15], text_length=row[16])

    def to_version(self, row: Row) -> MemoryVersion:
        """Return a row of `history`."""
        dialect = self._dialect
        id, version, operation, content, session, role, kind, metadata, at, recorded_at, actor, reason, expires = row
        return MemoryVersion(
            id=dialect.to_id(id),
            version=version,
            operation=operation,
            content=content,
            session=session,
            role=role,
            kind=kind,
            metadata=None if metadata is None else dialect.to_json(metadata),
            at=dialect.to_instant(at),
            recorded_at=dialect.to_instant(recorded_at),
            actor=actor,
            reason=reason,
            expires_at=None if expires is None else dialect.to_instant(expires),
        )


def _same(new: object, old: object) -> bool:
    """Compare two field values as they are stored: in JSON, 1, 1.0 and true are three values."""
    return encode_json(new) == encode_json(old) if isinstance(new, dict) else new == old


def _text(record: MemoryRecord) -> str:
    return memory_text(record.content, record.role or "", record.at)
