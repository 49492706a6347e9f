"""The history of hooks: what each execution was given, decided and cost, for audit and replay (HOK-01, -02, -03, -08).

Not here: running hooks and their circuit breakers (`hooks`).

Rule 1: an execution is recorded once and never changed; retention deletes it.
Rule 2: a context is compressed when that pays; what is read back is what was given, and never more than its limit.
Rule 3: lists are ordered by (instant, id). They leave contexts out unless asked, for a page of them may be large.
Rule 4: percentiles are nearest-rank over whole milliseconds: the same numbers on every backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

HookResult: TypeAlias = Literal[
    "continue", "modified", "cancel", "redirect", "replace", "retry", "fork", "cache", "skipped"
]
HOOK_ID_MAX_BYTES = 255
HOOK_TYPE_MAX_BYTES = 100
COMPONENT_MAX_BYTES = 255
CONTEXT_MAX_BYTES = 1_048_576
RESULT_MAX_BYTES = 65_536
TAGS_MAX = 50
TAG_MAX_BYTES = 64
DURATION_MAX_MS = 2**31 - 1
PRIORITY_MIN, PRIORITY_MAX = -(2**31), 2**31 - 1
BATCH_MAX = 1_000
BATCH_MAX_BYTES = 16_777_216
"""All contexts and results of one batch together."""
PRUNE_MAX = 10_000
KEEP_MAX = 100_000


class NewHookExecution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution to record. What is None is filled in: a new id, the id as its own correlation, now."""

    hook_id: str
    hook_type: str
    triggering_component: str
    component_id: str | None = None
    context: Mapping[str, Any] | bytes = b""
    result: HookResult = "continue"
    result_data: Mapping[str, Any] | None = None
    """What belongs to the result. `retry` says `delay_ms` and `max_attempts`, `cache` says `key` and `ttl_s`."""
    duration_ms: int = 0
    correlation_id: UUID | str | None = None
    at: datetime | date | str | None = None
    modified_operation: bool | None = None
    """Whether it changed the operation; None: as the result says (`modified`, `redirect`, `replace`, `cancel`)."""
    tags: Sequence[str] = ()
    retention_priority: int = 0
    contains_sensitive_data: bool = False
    metadata: Mapping[str, Any] | None = None
    id: UUID | str | None = None


class HookExecution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution as it is kept. `context` is None where it was not asked for."""

    id: UUID
    hook_id: str
    hook_type: str
    correlation_id: UUID
    at: datetime
    duration_ms: int
    triggering_component: str
    component_id: str | None
    context: dict[str, Any] | bytes | None
    context_size_bytes: int
    result: HookResult
    result_data: dict[str, Any]
    modified_operation: bool
    tags: list[str]
    retention_priority: int
    contains_sensitive_data: bool
    metadata: dict[str, Any]
    created_at: datetime


class HookStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What executions cost and decided. Durations are None without executions. `stored_bytes`: contexts as they are kept,
    `context_bytes`: before they were compressed."""

    executions: int
    modified: int
    sensitive: int
    results: dict[str, int]
    total_ms: int
    average_ms: float | None
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    max_ms: int | None
    context_bytes: int
    stored_bytes: int
    first_at: datetime | None
    last_at: datetime | None


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long executions are kept (C6): 7 days, 14 from priority 5 on, and the latest 100 of a tenant whatever their age."""

    max_age_days: float = 7
    executions_min: int = 100
    priority_threshold: int = 5
    priority_extra_days: float = 7

    def kept_until(self, at: datetime, priority: int) -> datetime:
        """Return when an execution has reached its age, the latest ones apart."""
        extra = self.priority_extra_days if priority >= self.priority_threshold else 0
        try:
            return at + timedelta(days=self.max_age_days) + timedelta(days=extra)
        except OverflowError:
            return datetime.max.replace(tzinfo=at.tzinfo)


SHORT_RETENTION = RetentionPolicy(max_age_days=1)
DEFAULT_RETENTION = RetentionPolicy()
LONG_RETENTION = RetentionPolicy(max_age_days=30)


class HookHistory(Protocol):
    """A tenant's hook executions."""

    async def record(self, execution: NewHookExecution) -> HookExecution:
        """Record one execution and return it.

        Raises:
            AlreadyExists: the id is taken.
        """
        ...

    async def record_many(self, executions: Sequence[NewHookExecution]) -> int:
        """Record at most 1,000 executions, all or none, in one round trip, and return how many.

        Raises:
            AlreadyExists: an id is taken, or two are the same; nothing was recorded.
        """
        ...

    async def get(self, id: UUID | str) -> HookExecution | None:
        """Return an execution with its context, or None."""
        ...

    async def list(
        self,
        *,
        hook_id: str | None = None,
        hook_type: str | None = None,
        correlation_id: UUID | str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        include_context: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[HookExecution]:
        """Return a page of executions from `since` until before `until`, latest first; with contexts at most 100 at a time."""
        ...

    async def delete(self, id: UUID | str) -> bool:
        """Delete an execution, and say whether it was there."""
        ...

    async def statistics(
        self,
        *,
        hook_id: str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
    ) -> HookStatistics:
        """Sum up executions: counts by result, durations with percentiles, sizes. It reads all of them."""
        ...

    async def prune(
        self, *, before: datetime | date | str, below_priority: int | None = None, limit: int = 1_000
    ) -> int:
        """Delete at most `limit` (to 10,000) of the earliest executions before an instant, and return how many.

        With `below_priority` those of that priority and above stay. Call it again while it returns `limit`.
        """
        ...

    async def apply_retention(self, policy: RetentionPolicy | None = None, *, limit: int = 1_000) -> int:
        """Delete at most `limit` (to 10,000) executions that a policy keeps no longer, earliest first, and return how many.

        Without a policy: 7 days, from priority 5 on 14, and always the latest 100.
        """
        ...
