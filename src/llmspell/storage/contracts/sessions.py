"""Sessions: what an agent keeps of one conversation or one run, until it expires (SST-01…07, SAA-01…03).

Not here: what a session's artifacts are (`artifacts`), what was said in it (`memories`, by the text of its id).

Rule 1: expiry is decided by the injected clock: an expired session is absent for every reader, with its artifacts, before
anything marks or deletes it. Only `list` and `count` of status "expired" show it.
Rule 2: a session goes with its artifacts, and with content that nothing else refers to, in one transaction.
Rule 3: every update is a new version; a look, or an artifact, is none.
Rule 4: lists are newest first, by (created_at, id).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, get_args
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

SessionStatus: TypeAlias = Literal["active", "archived", "expired"]
SESSION_STATUSES: tuple[SessionStatus, ...] = get_args(SessionStatus)

DATA_MAX_BYTES = 1_048_576
LIST_MAX = 100
"""Sessions of one page: each may carry a megabyte."""
SWEEP_MAX = 1_000
ACCESS_NOTED_EVERY_S = 60
"""How old `last_accessed_at` may be before a look at the session notes a new one."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a session."""

    id: UUID
    data: dict[str, Any]
    status: SessionStatus
    created_at: datetime
    updated_at: datetime
    last_accessed_at: datetime
    expires_at: datetime | None
    artifact_count: int
    version: int


class Sessions(Protocol):
    """A tenant's sessions."""

    async def create(
        self, *, id: UUID | str | None = None, data: Mapping[str, Any] | None = None, ttl_s: float | None = None
    ) -> SessionRecord:
        """Begin a session, active, and return it; with `ttl_s` it expires that many seconds from now.

        `data` is any JSON object of up to 1 MiB; `id` a UUID of the caller's, to make a repeated call an error.

        Raises:
            AlreadyExists: the id is taken, be it by a session that has expired and is not deleted yet.
        """
        ...

    async def get(self, id: UUID | str) -> SessionRecord | None:
        """Return the session, or None when it is absent or expired.

        Outside of a transaction the look is noted in `last_accessed_at`, at most once a minute.
        """
        ...

    async def update(
        self,
        id: UUID | str,
        *,
        data: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        status: SessionStatus | msgspec.UnsetType = msgspec.UNSET,
        ttl_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        expected_version: int | None = None,
    ) -> SessionRecord:
        """Replace what is given, as a new version, and return the session.

        `ttl_s` counts from now, and None means for good. The status "expired" ends the session at once.

        Raises:
            NotFound: it is absent or expired.
            VersionConflict: it has changed since `expected_version`.
        """
        ...

    async def delete(self, id: UUID | str) -> bool:
        """Delete a session with its artifacts, and say whether it was there (an expired one was not, and is deleted too)."""
        ...

    async def list(
        self, *, status: SessionStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[SessionRecord]:
        """Return a page of sessions, newest first: those that have not expired, or those of a status; `limit` 1 to 100."""
        ...

    async def count(self, *, status: SessionStatus | None = None) -> int:
        """Count the sessions that `list` would show."""
        ...

    async def expire(self, *, limit: int = 1_000) -> int:
        """Mark at most `limit` sessions whose time has passed as expired, and return how many.

        Readers see no difference; call again while it returns `limit`.
        """
        ...

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        """Delete at most `limit` sessions that have expired, with their artifacts; call again while it returns `limit`."""
        ...
