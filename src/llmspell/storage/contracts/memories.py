"""Memories: what was said or learned, versioned, found by meaning and by word (EPI-01…02, JAM-01…10).

Not here: embedders and tokenisers (`providers`), how two rankings become one (`retrieval`).

Rule 1: an acknowledged memory is found by text at once; its embedding may still be pending, and that shows.
Rule 2: every change appends a version; only `forget` rewrites history, and leaves a redacted tombstone.
Rule 3: word ranking is BM25 over the tenant's own statistics: no other tenant can change an order.
Rule 4: rankings are by score rounded to 1e-6, descending, then id ascending, so backends agree.
Rule 5: a memory whose `expires_at` has passed is absent for every reader but `history`.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, get_args
from uuid import UUID

import msgspec

from llmspell.storage.contracts.filters import Field, Fields

MemoryKind: TypeAlias = Literal["conversation", "knowledge", "experience", "skill", "preference"]
MEMORY_KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)
EmbeddingState: TypeAlias = Literal["ready", "pending", "failed"]
Operation: TypeAlias = Literal["add", "update", "delete", "restore", "forget"]
ListOrder: TypeAlias = Literal["at", "created_at"]

CONTENT_MAX_CHARACTERS = 32_768  # C16
ADD_MAX = 1_000
CANDIDATES_MAX = 1_000
QUERY_MAX_CHARACTERS = 8_192
EXPIRED = "expired"
"""The reason that the history of a memory gives when its time was over."""
TEXT_COLLECTION = "memories"
"""The collection of text postings that memories live in."""

FILTER_FIELDS = Fields(
    {
        "session": Field("text"),
        "role": Field("text"),
        "kind": Field("text"),
        "at": Field("time"),
        "created_at": Field("time"),
        "updated_at": Field("time"),
        "processed": Field("boolean"),
        "version": Field("number"),
    }
)


class EmbeddingSpace(msgspec.Struct, frozen=True, kw_only=True):
    """Where embeddings of one model live. Vectors of two spaces are never compared."""

    space_id: str
    model: str
    dimension: int


class NewMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A checked memory to add. `embeddings`: one packed float32 vector per window; empty means pending."""

    id: UUID
    content: str
    session: str | None = None
    role: str | None = None
    kind: MemoryKind = "conversation"
    metadata: dict[str, Any] = {}
    at: datetime
    token_count: int | None = None
    expires_at: datetime | None = None
    embeddings: tuple[bytes, ...] = ()


class MemoryChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an update replaces; UNSET leaves a field as it is. New content drops the old embeddings.

    `embedded_text` is the searchable text that the embeddings were made from. When the memory turns out to say something else
    (another writer was faster), they are not kept, and the memory is pending.
    """

    content: str | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    session: str | msgspec.UnsetType | None = msgspec.UNSET
    role: str | msgspec.UnsetType | None = msgspec.UNSET
    kind: MemoryKind | msgspec.UnsetType = msgspec.UNSET
    at: datetime | msgspec.UnsetType = msgspec.UNSET
    token_count: int | msgspec.UnsetType | None = msgspec.UNSET
    embeddings: tuple[bytes, ...] = ()
    embedded_text: str | None = None


class MemoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a memory."""

    id: UUID
    content: str
    session: str | None
    role: str | None
    kind: MemoryKind
    metadata: dict[str, Any]
    at: datetime
    created_at: datetime
    updated_at: datetime
    last_accessed_at: datetime | None
    version: int
    processed: bool
    embedding_state: EmbeddingState
    token_count: int | None
    expires_at: datetime | None


class MemoryVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a memory's history. A forgotten one has no content, metadata, session, role or expiry."""

    id: UUID
    version: int
    operation: Operation
    content: str | None
    session: str | None
    role: str | None
    kind: MemoryKind
    metadata: dict[str, Any] | None
    at: datetime
    recorded_at: datetime
    actor: str | None
    reason: str | None
    expires_at: datetime | None


class Scored(msgspec.Struct, frozen=True):
    """One place in a ranking."""

    id: UUID
    score: float


class MemoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A search: by words when `text` is given, by meaning when `embedding` and `space_id` are."""

    text: str | None = None
    embedding: bytes | None = None
    space_id: str | None = None
    candidates: int = 100
    filters: Mapping[str, Any] | None = None


class MemoryRankings(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found: a ranking by meaning, one by words, and every record that either names.

    `unembedded` counts the tenant's memories that meaning cannot find yet: their embedding is pending, or in another space than the
    query's.
    """

    dense: list[Scored]
    text: list[Scored]
    records: dict[UUID, MemoryRecord]
    unembedded: int


class MemoryPosition(msgspec.Struct, frozen=True):
    """Where a page ended: the ordering instant and the id of its last record."""

    instant: datetime
    id: UUID


class Memories(Protocol):
    """A tenant's memories."""

    async def ensure_space(self, space: EmbeddingSpace) -> None:
        """Register an embedding space.

        Raises:
            Conflict: the id is registered with another model or dimension.
        """
        ...

    async def add(
        self, memories: Sequence[NewMemory], *, space_id: str | None = None, actor: str | None = None
    ) -> list[MemoryRecord]:
        """Store all memories or none, in order; at most 1,000. Memories with embeddings need `space_id`.

        Raises:
            AlreadyExists: an id is taken (also by a deleted memory, whose history goes on).
            NotFound: `space_id` is not registered.
            InvalidVector: an embedding has another dimension than the space.
        """
        ...

    async def get(self, id: UUID) -> MemoryRecord | None:
        """Return the memory, or None when it is absent, deleted or expired."""
        ...

    async def get_batch(self, ids: Sequence[UUID]) -> dict[UUID, MemoryRecord]:
        """Return those that exist, by id; at most 1,000 ids."""
        ...

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
        """Replace fields, append a version, and return the new state.

        When the searchable text changes (content, role or time), old embeddings go and the state is pending unless the
        change brings new ones. A change that changes nothing appends nothing.

        Raises:
            NotFound: no such memory.
            VersionConflict: `expected_version` is not the current version.
        """
        ...

    async def delete(
        self, id: UUID, *, expected_version: int | None = None, actor: str | None = None, reason: str | None = None
    ) -> bool:
        """Delete a memory and say whether it was there; its history stays, and `restore` brings it back."""
        ...

    async def restore(self, id: UUID, *, actor: str | None = None, reason: str | None = None) -> MemoryRecord:
        """Bring a deleted memory back as it was, with its embedding pending; it expires when it would have.

        Raises:
            NotFound: it never existed, was forgotten, or would have expired by now.
            AlreadyExists: it is not deleted.
        """
        ...

    async def forget(self, id: UUID, *, actor: str | None = None, reason: str | None = None) -> bool:
        """Erase a memory: row, embeddings, terms, and the contents of its history; a tombstone stays.

        Returns whether anything was erased (False when absent or already forgotten).
        """
        ...

    async def history(self, id: UUID) -> list[MemoryVersion]:
        """Return every version, oldest first; empty when the memory never existed."""
        ...

    async def list(
        self,
        *,
        filters: Mapping[str, Any] | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        after: MemoryPosition | None = None,
        limit: int = 100,
    ) -> builtins.list[MemoryRecord]:
        """Return a page in (time, id) order: the records beyond `after`; `limit` 1 to 1,000."""
        ...

    async def list_paginated(
        self, *, filters: Mapping[str, Any] | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[builtins.list[MemoryRecord], int]:
        """Return an offset page of what matches, newest first by creation, and the total (PAG-01); `offset` up to 1,000,000."""
        ...

    async def count(self, *, filters: Mapping[str, Any] | None = None) -> int:
        """Count the memories that match."""
        ...

    async def search(self, query: MemoryQuery) -> MemoryRankings:
        """Rank memories by meaning, by words, or both, over one snapshot.

        Raises:
            NotFound: the space is not registered.
            InvalidVector: the embedding has another dimension than the space.
        """
        ...

    async def adjacent(
        self, ids: Sequence[UUID], *, filters: Mapping[str, Any] | None = None
    ) -> dict[UUID, tuple[UUID | None, UUID | None]]:
        """Return the memories just before and just after each of these in its session, by (at, id); at most 1,000 ids.

        Only memories that match the filter count as neighbours; those in between are passed over.
        A memory without a session has no neighbours; one that does not exist is not in the answer.
        """
        ...

    async def pending(self, *, space_id: str | None = None, limit: int = 100) -> builtins.list[MemoryRecord]:
        """Return memories whose embedding is pending, oldest first.

        With `space_id` also those whose embedding is in another space: after the pending ones, by space, then oldest first. That is
        how the memories of one model are found when another comes into use.
        """
        ...

    async def taken(self, ids: Sequence[UUID]) -> set[UUID]:
        """Return those ids that `add` refuses: of live, expired, deleted and forgotten memories; at most 1,000 ids."""
        ...

    async def attach_embeddings(self, space_id: str, items: Sequence[tuple[UUID, int, tuple[bytes, ...]]]) -> int:
        """Store embeddings for (id, version, windows) and mark them ready; return how many were attached.

        An item whose memory has changed or gone since that version is skipped: the embedding would not be of its text.
        """
        ...

    async def mark_embedding_failed(self, ids: Sequence[UUID], *, space_id: str | None = None) -> int:
        """Mark pending memories as failed, and return how many; with `space_id`, those embedded in another space too."""
        ...

    async def touch(self, ids: Sequence[UUID]) -> int:
        """Set `last_accessed_at` to now (JAM-09), without a version, and return how many exist."""
        ...

    async def mark_processed(self, ids: Sequence[UUID]) -> int:
        """Mark memories as consolidated (C2), without a version, and return how many exist."""
        ...

    async def unprocessed_sessions(self, *, limit: int = 100) -> builtins.list[str]:
        """Return sessions with memories that are not consolidated, in byte order."""
        ...

    async def delete_before(self, instant: datetime, *, limit: int = 1_000) -> int:
        """Delete at most `limit` memories said before `instant`; call again while it returns `limit`."""
        ...

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        """Delete at most `limit` memories that have expired, for the reason "expired"; call again while it returns `limit`.

        Readers see no difference; it frees the rows, terms and embeddings. The history stays.
        """
        ...
