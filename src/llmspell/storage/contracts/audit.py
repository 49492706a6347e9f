"""The audit log: who did what, and what was decided, as one chain of hashes per tenant (AUD-01, AUD-02, AMB-086).

Not here: which operations are privileged (each concern records its own, in the transaction of the action).

Rule 1: an entry is written once. Its hash covers its tenant, its number, all of its fields and the hash before it, so that an
entry that is edited, removed or moved no longer fits.
Rule 2: the head of the chain is kept apart from the entries, so a tail that is cut off is missed; who can rewrite the head too is
found by a head that was noted elsewhere (an anchor).
Rule 3: an action and its entry are one transaction: when the entry cannot be written, the action fails.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

Decision: TypeAlias = Literal["allow", "deny", "allow_with_filters"]
"""What was decided about the operation (TEN-10)."""
Problem: TypeAlias = Literal["edited", "missing", "reordered", "cut", "head"]

GENESIS = "0" * 64
"""What the first entry of a chain follows."""
OPERATION_MAX_BYTES = 128
PRINCIPAL_MAX_BYTES = 500
RESOURCE_MAX_BYTES = 1_024
REASON_MAX_BYTES = 4_096
LATENCY_MAX_MS = 1e12
ENTRIES_MAX = 1_000


class NewAuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recorded. Nothing in it is redacted: it must hold no secret."""

    operation: str
    """What was done, such as `api_keys.create`."""
    principal: str
    """Who did it."""
    resource: str
    """What it was done to."""
    decision: Decision = "allow"
    reason: str | None = None
    details: dict[str, Any] = {}
    latency_ms: float | None = None
    at: datetime | None = None
    """When it happened; None is now."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a tenant's chain."""

    sequence: int
    """Its number: 1, 2, 3, … without gaps."""
    id: UUID
    at: datetime
    operation: str
    principal: str
    resource: str
    decision: Decision
    reason: str | None
    details: dict[str, Any]
    latency_ms: float | None
    prev_hash: str
    """The hash of the entry before; of the first, 64 zeros."""
    entry_hash: str
    """SHA-256 in hexadecimal over the tenant, `prev_hash` and every field above."""


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chain ends. Noted outside of the store, it proves later that nothing up to here was changed or cut off."""

    sequence: int
    """The number of the last entry; 0 when there is none."""
    entry_hash: str


class AuditVerification(msgspec.Struct, frozen=True, kw_only=True):
    """What the verification of a chain found."""

    intact: bool
    checked: int
    """Entries that were read and found right."""
    head: AuditHead
    """The last of them."""
    broken_at: int | None = None
    """The first number at which the chain does not hold."""
    problem: Problem | None = None
    """`edited`: an entry was rewritten. `missing`: one was removed. `reordered`: it stands elsewhere. `cut`: the last ones were
    removed. `head`: the head is not that of the entries."""
    explanation: str | None = None


class Audit(Protocol):
    """A tenant's audit log."""

    async def record(
        self,
        operation: str,
        *,
        principal: str,
        resource: str,
        decision: Decision = "allow",
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        latency_ms: float | None = None,
    ) -> AuditEntry:
        """Add an entry to the chain, and return it with its number and its hash. In a transaction it stands or falls with it."""
        ...

    async def record_many(self, entries: Sequence[NewAuditEntry]) -> builtins.list[AuditEntry]:
        """Add entries in their order, all or none; at most 1,000."""
        ...

    async def get(self, sequence: int) -> AuditEntry | None:
        """Return the entry of that number, or None."""
        ...

    async def list(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        operation: str | None = None,
        principal: str | None = None,
        decision: Decision | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[AuditEntry]:
        """Return entries, latest first: from `since` on and before `until`, of an operation, a principal, a decision."""
        ...

    async def head(self) -> AuditHead:
        """Return the end of the chain, to be noted outside of the store."""
        ...

    async def verify(self, *, anchor: AuditHead | None = None) -> AuditVerification:
        """Read the whole chain and check every hash; with an earlier `head()`, also that the chain still leads through it.

        It names the first number at which the chain does not hold, and why. It reads one snapshot in bounded pages.
        """
        ...
