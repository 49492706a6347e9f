"""The event log: what happened, appended once and never changed, numbered per tenant (EVT-01…11, EVT-13…17).

Not here: telling subscribers in this process (`events`), and the months themselves, which the operator makes ahead and
archives (`spell.admin`).

Rule 1: the key of an event is its instant and its id, so an id is taken within its instant; the same id at another
    instant is another event.
Rule 2: `sequence` counts a tenant's events in the order of their commits, without gaps: the counter's row is locked
    from the numbering to the commit. Whoever has read number n has missed nothing up to n, and finds what is new by
    `tail(after_sequence=n)`.
Rule 3: lists are ordered by (instant, id), so events of one instant are neither skipped nor repeated between pages.
Rule 4: every question about several events has a time range. Without `since` and `until` it is that of the tenant's own
    events, first to last: nothing is hidden, and months outside of it are not opened.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

Language: TypeAlias = Literal["python", "rust", "lua", "javascript", "unknown"]
TYPE_MAX_BYTES = 255
PAYLOAD_MAX_BYTES = 262_144
BATCH_MAX = 10_000
BATCH_MAX_BYTES = 16_777_216
"""All payloads of one batch together."""
PRUNE_MAX = 10_000
SEQUENCE_MAX = 2**63 - 1


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to append. What is None is filled in: a new id, the id as its own correlation, now."""

    type: str
    payload: Mapping[str, Any] | None = None
    correlation_id: UUID | str | None = None
    at: datetime | date | str | None = None
    language: Language = "python"
    id: UUID | str | None = None


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it is kept."""

    id: UUID
    type: str
    correlation_id: UUID
    at: datetime
    sequence: int
    language: Language
    payload: dict[str, Any]


class EventTypeStats(msgspec.Struct, frozen=True, kw_only=True):
    """How many events of one type there are, and when the first and the last of them happened."""

    type: str
    events: int
    first_at: datetime
    last_at: datetime


class EventStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a time range. `last_sequence` is the number of the last event ever appended, whatever the range."""

    events: int
    first_at: datetime | None
    last_at: datetime | None
    last_sequence: int
    types: builtins.list[EventTypeStats]


class EventPartition(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store that is partitioned keeps the events of one month; without bounds: those of all months that have none.

    `rows` is the server's estimate.
    """

    name: str
    starts_at: datetime | None
    ends_at: datetime | None
    rows: int
    size_bytes: int


class EventLog(Protocol):
    """A tenant's events. Types are dotted names (`agent.state_changed`); a payload is an object of at most 256 KiB."""

    async def append(
        self,
        event_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        correlation_id: UUID | str | None = None,
        at: datetime | date | str | None = None,
        language: Language = "python",
        id: UUID | str | None = None,
    ) -> EventRecord:
        """Append one event and return it with its number.

        `at` is kept as given, whatever the month; without it the event happened now. Without `correlation_id` the event
        begins a correlation of its own, named by its id.

        Raises:
            AlreadyExists: there is an event of this id at this very instant.
        """
        ...

    async def append_many(self, events: Sequence[NewEvent]) -> int:
        """Append at most 10,000 events in one statement, numbered in the order given, and return how many.

        Raises:
            AlreadyExists: one of them is there already, or two are the same; nothing was appended.
        """
        ...

    async def get(self, id: UUID | str, *, at: datetime | date | str | None = None) -> EventRecord | None:
        """Return an event, or None. Say when it happened and one month is looked at; else the latest of that id comes."""
        ...

    async def list(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
        descending: bool = True,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[EventRecord]:
        """Return a page of the events from `since` until before `until`, latest first unless `descending` is False.

        `type` is a type, the beginning of types with a star after it (`agent.*`), or `*`.
        """
        ...

    async def tail(
        self,
        *,
        after_sequence: int = 0,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
        limit: int = 100,
    ) -> builtins.list[EventRecord]:
        """Return the next events beyond a number, in the order of their commits: how a consumer follows the log."""
        ...

    async def count(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
    ) -> int:
        """Return how many events there are, chosen as in `list`."""
        ...

    async def stats(
        self, *, since: datetime | date | str | None = None, until: datetime | date | str | None = None
    ) -> EventStats:
        """Count the events of a time range by type. It reads all of them."""
        ...

    async def prune(self, before: datetime | date | str, *, limit: int = 1_000) -> int:
        """Delete at most `limit` (to 10,000) of the earliest events before an instant, and return how many.

        Call it again while it returns `limit`. Numbers are never given again.
        """
        ...
