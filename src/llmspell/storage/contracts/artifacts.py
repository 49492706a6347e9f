"""Artifacts: named contents of a session, each content kept once for a tenant (ARS-01…11, SAA-04).

Not here: the session itself (`sessions`), how a content is packed (`storage.content`).

Rule 1: a content is addressed by its blake3 hash. References are counted in the transaction that changes them, and a content
that nothing refers to is gone with the last reference, in the same transaction.
Rule 2: what is read is verified; a content that does not fit its hash is reported by it and never handed out.
Rule 3: an artifact of an expired session is absent, as its session is.
Rule 4: a content never changes; name, tags and metadata do, and each change is a new `revision`. `version` counts contents
along a line of parents.
Rule 5: the number of an artifact is never given again as long as its session is there, so neither is its id.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, get_args
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

ArtifactType: TypeAlias = Literal["agent_output", "tool_result", "user_input", "system_generated", "custom"]
ARTIFACT_TYPES: tuple[ArtifactType, ...] = get_args(ArtifactType)

CONTENT_MAX_BYTES = 104_857_600  # C10
NAME_MAX_CHARACTERS = 255
MIME_TYPE_MAX_CHARACTERS = 255
CREATED_BY_MAX_CHARACTERS = 255
TAG_MAX_BYTES = 64
TAGS_MAX = 50
GARBAGE_MAX = 1_000


class ArtifactRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact without its content. `id` is session:sequence:hash; `size_bytes` is the size of the content."""

    id: str
    session: UUID
    sequence: int
    content_hash: str
    name: str
    type: ArtifactType
    mime_type: str
    size_bytes: int
    metadata: dict[str, Any]
    tags: list[str]
    created_by: str | None
    parent: str | None
    version: int
    revision: int
    created_at: datetime
    updated_at: datetime


class ArtifactSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a list shows of an artifact."""

    id: str
    session: UUID
    sequence: int
    content_hash: str
    name: str
    type: ArtifactType
    size_bytes: int
    created_at: datetime


class ArtifactStats(msgspec.Struct, frozen=True, kw_only=True):
    """What artifacts take: `logical_bytes` is what they would take if each were stored by itself, as it is."""

    artifacts: int
    contents: int
    logical_bytes: int
    stored_bytes: int
    saved_by_deduplication_bytes: int
    saved_by_compression_bytes: int


class Artifacts(Protocol):
    """A tenant's artifacts."""

    async def put(
        self,
        session: UUID | str,
        name: str,
        data: bytes | bytearray | memoryview | BinaryIO | AsyncIterable[bytes],
        *,
        type: ArtifactType = "custom",
        mime_type: str = "application/octet-stream",
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        created_by: str | None = None,
        parent: str | None = None,
    ) -> ArtifactRecord:
        """Store a content as an artifact of a session, and return the artifact.

        `data` may be bytes, a file opened in binary mode (read from where it stands to its end, and left where it stood if it can
        be rewound), or an asynchronous iterable of bytes; up to 100 MiB, of which only a few are in memory at a time. With
        `parent`, the id of an artifact, this is its next version.

        Raises:
            NotFound: the session or the parent is absent or expired.
        """
        ...

    async def get(self, id: str) -> ArtifactRecord | None:
        """Return an artifact without its content, or None when it is absent."""
        ...

    async def read(self, id: str) -> bytes | None:
        """Return the content of an artifact, verified, or None when it is absent.

        Raises:
            CorruptStore: the content is damaged.
        """
        ...

    def stream(self, id: str) -> AsyncIterator[bytes]:
        """Yield the content in pieces of at most 1 MiB, each fetched and verified by itself; nothing is held in between.

        Raises:
            NotFound: the artifact is absent, or was deleted meanwhile.
            CorruptStore: the content is damaged; the rest was not handed out.
        """
        ...

    async def download(self, id: str, into: BinaryIO) -> int:
        """Write the content into a binary file, as `stream` gives it, and return how many bytes those were.

        Raises:
            NotFound, CorruptStore: as `stream` does; a part may be written.
            InvalidInput: the file takes nothing of what it is given.
        """
        ...

    async def list(
        self,
        *,
        session: UUID | str | None = None,
        type: ArtifactType | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[ArtifactSummary]:
        """Return a page of summaries, newest first; of a session, of a type, or of all."""
        ...

    async def update(
        self,
        id: str,
        *,
        name: str | msgspec.UnsetType = msgspec.UNSET,
        tags: Sequence[str] | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        expected_revision: int | None = None,
    ) -> ArtifactRecord:
        """Replace what is given, as a new revision, and return the artifact; its content and version stay.

        Raises:
            NotFound: it is absent.
            VersionConflict: it has changed since `expected_revision`.
        """
        ...

    async def delete(self, id: str) -> bool:
        """Delete an artifact, and its content when nothing else refers to it; say whether it was there."""
        ...

    async def stats(self, *, session: UUID | str | None = None) -> ArtifactStats:
        """Sum up what is stored for the tenant or one session, expired ones included until they are deleted."""
        ...

    async def verify(self, id: str) -> bool:
        """Read the whole content, and say whether it is what was stored.

        Raises:
            NotFound: the artifact is absent.
        """
        ...

    async def collect_garbage(self, *, limit: int = 1_000) -> int:
        """Delete at most `limit` contents that nothing refers to, and return how many.

        Deleting leaves none behind; this is for stores that were written by other hands.
        """
        ...
