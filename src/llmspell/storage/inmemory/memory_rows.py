"""Memories in memory as they are kept, as rows of databases, and back.

Not here: what is done with them (`memories`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryRecord, MemoryVersion, NewMemory
from llmspell.storage.inmemory.store import Row, State
from llmspell.storage.inmemory.vectors import Window
from llmspell.storage.text.analyser import Analyser
from llmspell.storage.text.memory_text import memory_text


class StoredMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The current row of a memory, its terms, and its windows in each embedding space, the one written last at the end."""

    record: MemoryRecord
    terms: dict[str, int]
    embeddings: dict[str, tuple[Window, ...]]

    @property
    def length(self) -> int:
        """How many terms the text has."""
        return sum(self.terms.values())

    def waits(self, space_id: str | None) -> bool:
        """Whether its embedding is pending, or in another space than this one."""
        if self.record.embedding_state == "ready" and space_id is not None:
            return self.space_id != space_id
        return self.record.embedding_state == "pending"

    @property
    def space_id(self) -> str:
        """The space of its embedding; empty without one."""
        return next(reversed(self.embeddings), "")


def new_record(one: NewMemory, now: datetime) -> MemoryRecord:
    """Return the first state of a memory."""
    return MemoryRecord(
        id=one.id,
        content=one.content,
        session=one.session,
        role=one.role,
        kind=one.kind,
        metadata=one.metadata,
        at=one.at,
        created_at=now,
        updated_at=now,
        last_accessed_at=None,
        version=1,
        processed=False,
        embedding_state="ready" if one.embeddings else "pending",
        token_count=one.token_count,
        expires_at=one.expires_at,
    )


def restored(versions: tuple[MemoryVersion, ...], now: datetime) -> MemoryRecord:
    """Return the state of a deleted memory after it came back."""
    last = versions[-1]
    return MemoryRecord(
        id=last.id,
        content=last.content or "",
        session=last.session,
        role=last.role,
        kind=last.kind,
        metadata=last.metadata or {},
        at=last.at,
        created_at=versions[0].recorded_at,
        updated_at=now,
        last_accessed_at=None,
        version=last.version + 1,
        processed=False,
        embedding_state="pending",
        token_count=None,
        expires_at=last.expires_at,
    )


SHARED = {"memory_id": "id", "memory_type": "kind", "event_at": "at"} | {
    name: name for name in ("session", "role", "content", "metadata", "expires_at", "version")
}
COLUMNS = SHARED | {
    name: name
    for name in (*("created_at", "updated_at", "last_accessed_at", "processed", "embedding_state", "token_count"),)
}
"""Columns of `memories` with the fields of their records."""
VERSION_COLUMNS = SHARED | {name: name for name in ("operation", "recorded_at", "actor", "reason")}


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `memories`."""
    for stored in state.memories.rows():
        columns = {column: getattr(stored.record, field) for column, field in COLUMNS.items()}
        yield columns | {"space_id": stored.space_id or None}


def load(state: State, row: Row, *, analyser: Analyser, windows: Mapping[str, Mapping[int, Window]]) -> None:
    """Keep a row of `memories`, with its windows by space and part; its text is analysed anew."""
    record = MemoryRecord(**{field: row[column] for column, field in COLUMNS.items()})
    terms = analyser.counts(memory_text(record.content, record.role or "", record.at))
    latest = sorted(windows, key=lambda space_id: (space_id == row["space_id"], space_id))
    embeddings = {space_id: tuple(one for _, one in sorted(windows[space_id].items())) for space_id in latest}
    state.memories.put(record.id, StoredMemory(record=record, terms=terms, embeddings=embeddings))


def version_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `memory_versions`."""
    for versions in state.memory_versions.rows():
        for version in versions:
            yield {column: getattr(version, field) for column, field in VERSION_COLUMNS.items()}


def load_version(state: State, row: Row) -> None:
    """Keep a row of `memory_versions`."""
    version = MemoryVersion(**{field: row[column] for column, field in VERSION_COLUMNS.items()})
    known = state.memory_versions.get(version.id) or ()
    state.memory_versions.put(version.id, tuple(sorted((*known, version), key=lambda one: one.version)))


def space_rows(state: State) -> Iterator[Row]:
    """Yield the rows of `embedding_spaces`."""
    for space_id, space in state.spaces.items():
        named = {name: getattr(space, name) for name in space.__struct_fields__}
        yield {"state": "active", **named, **state.spaces.carried(space_id)}


def load_space(state: State, row: Row) -> None:
    """Keep a row of `embedding_spaces`."""
    space = EmbeddingSpace(**{name: row[name] for name in EmbeddingSpace.__struct_fields__})
    state.spaces.put(space.space_id, space)
    state.spaces.carry(space.space_id, {name: row[name] for name in ("state", "created_at", "updated_at")})
