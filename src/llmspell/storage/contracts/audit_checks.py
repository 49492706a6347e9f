"""What may be recorded, how an entry is hashed, and how a chain is checked: pure, and the same on every backend.

The hash of an entry is SHA-256 over `llmspell.audit.v1`, a NUL, and the canonical JSON (keys in order, no spaces, UTF-8) of

    {"at": "2026-01-01T00:00:00.000000+00:00", "decision": …, "details": {…}, "id": "…", "latency_ms": …, "operation": …,
     "prev_hash": …, "principal": …, "reason": …, "resource": …, "sequence": 1, "tenant": …}

so that whoever has the entries can check them without us. The version in the domain changes when this text does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

import msgspec

from llmspell.clock import from_microseconds, parse_instant, to_microseconds
from llmspell.codec import encode_json, require_key, require_limit, require_metadata, require_size, require_text
from llmspell.errors import InvalidInput, InvalidLimit
from llmspell.storage.contracts.audit import (
    ENTRIES_MAX,
    GENESIS,
    LATENCY_MAX_MS,
    OPERATION_MAX_BYTES,
    PRINCIPAL_MAX_BYTES,
    REASON_MAX_BYTES,
    RESOURCE_MAX_BYTES,
    AuditEntry,
    AuditHead,
    AuditVerification,
    Decision,
    NewAuditEntry,
    Problem,
)
from llmspell.tenant import TenantId

DOMAIN = b"llmspell.audit.v1\0"
SEQUENCE_MAX = 2**63 - 1
START = AuditHead(sequence=0, entry_hash=GENESIS)
"""The head of a chain without entries."""
WHOSE_ANCHOR = "(Is it this tenant's anchor?)"
"""A head names no tenant, so that of another one cannot be told from one that was cut off."""
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
_HEX = frozenset("0123456789abcdef")


def require_entry(entry: NewAuditEntry) -> NewAuditEntry:
    """Return a checked entry, ready to be recorded.

    Raises:
        InvalidInput: names the field.
    """
    if not isinstance(entry, NewAuditEntry):
        raise InvalidInput("entry", "must be a NewAuditEntry", given=type(entry).__name__)
    latency = entry.latency_ms
    return NewAuditEntry(
        operation=require_operation(entry.operation),
        principal=require_principal(entry.principal),
        resource=require_key(entry.resource, field="resource", max_bytes=RESOURCE_MAX_BYTES),
        decision=require_decision(entry.decision),
        reason=None if entry.reason is None else require_text(entry.reason, field="reason", max_bytes=REASON_MAX_BYTES),
        details=require_metadata(entry.details, field="details"),
        latency_ms=None if latency is None else _require_latency(latency),
        at=None if entry.at is None else parse_instant(entry.at, field="at"),
    )


def require_entries(entries: Sequence[NewAuditEntry]) -> list[NewAuditEntry]:
    """Return checked entries; at most 1,000.

    Raises:
        InvalidInput: names the field.
    """
    require_size(entries, field="entries", maximum=ENTRIES_MAX)
    return [require_entry(entry) for entry in entries]


def require_operation(value: object) -> str:
    """Return the name of an operation.

    Raises:
        InvalidKey: not text of 1 to 128 bytes.
    """
    return require_key(value, field="operation", max_bytes=OPERATION_MAX_BYTES)


def require_principal(value: object, *, field: str = "principal") -> str:
    """Return who did something.

    Raises:
        InvalidKey: not text of 1 to 500 bytes.
    """
    return require_key(value, field=field, max_bytes=PRINCIPAL_MAX_BYTES)


def require_decision(value: Decision) -> Decision:
    """Return a decision.

    Raises:
        InvalidInput: none of the three.
    """
    if value not in get_args(Decision):
        raise InvalidInput("decision", f"must be one of {', '.join(get_args(Decision))}", given=value)
    return value


def require_conditions(operation: str | None, principal: str | None, decision: Decision | None) -> dict[str, str]:
    """Return what a list is restricted to, by the name of the field.

    Raises:
        InvalidInput: names the field.
    """
    conditions: dict[str, str] = {}
    if operation is not None:
        conditions["operation"] = require_operation(operation)
    if principal is not None:
        conditions["principal"] = require_principal(principal)
    if decision is not None:
        conditions["decision"] = require_decision(decision)
    return conditions


def list_query(since: datetime | None, until: datetime | None, conditions: Mapping[str, str]) -> list[Any]:
    """Return what must not change between two pages of a list."""
    return ["audit", since and since.isoformat(), until and until.isoformat(), dict(conditions)]


def start_of(position: Mapping[str, Any] | None, until: datetime | None) -> tuple[datetime, int]:
    """Return the instant and the number before which a page begins."""
    if position is not None:
        return from_microseconds(position["at"]), position["sequence"]
    return (LATEST, SEQUENCE_MAX) if until is None else (until, 0)


def position_of(entry: AuditEntry) -> dict[str, Any]:
    """Return the position of an entry, for the cursor of the page that it ends."""
    return {"at": to_microseconds(entry.at), "sequence": entry.sequence}


def require_sequence(value: object) -> int:
    """Return the number of an entry.

    Raises:
        InvalidLimit: not a whole number from 1.
    """
    return require_limit(value, field="sequence", maximum=SEQUENCE_MAX)


def require_anchor(anchor: AuditHead | None) -> AuditHead | None:
    """Return a head that was noted elsewhere.

    Raises:
        InvalidInput: it cannot have been one.
    """
    if anchor is None:
        return None
    if not isinstance(anchor, AuditHead):
        raise InvalidInput("anchor", "must be an AuditHead", given=type(anchor).__name__)
    require_limit(anchor.sequence, field="anchor.sequence", maximum=SEQUENCE_MAX, minimum=0)
    hashed = anchor.entry_hash
    if not isinstance(hashed, str) or len(hashed) != len(GENESIS) or not set(hashed) <= _HEX:
        raise InvalidInput("anchor.entry_hash", "must be 64 hexadecimal digits in lower case", given=hashed)
    if not anchor.sequence and hashed != GENESIS:
        raise InvalidInput("anchor.entry_hash", "must be 64 zeros where `anchor.sequence` is 0", given=hashed)
    return anchor


def _require_latency(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LATENCY_MAX_MS:
        raise InvalidLimit("latency_ms", f"must be a number from 0 to {LATENCY_MAX_MS:.0e}", given=value)
    return abs(float(value))  # -0.0 is 0.0 on one backend and itself on another


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Where the next entries join a chain, and what they are stamped with."""

    tenant: TenantId
    head: AuditHead
    now: datetime


def chained(entries: Sequence[tuple[UUID, NewAuditEntry]], link: Link) -> list[AuditEntry]:
    """Return checked entries with their ids as the next ones of a chain."""
    sequence, previous, done = link.head.sequence, link.head.entry_hash, []
    for id, new in entries:
        sequence += 1
        entry = AuditEntry(
            sequence=sequence,
            id=id,
            at=new.at or link.now,
            operation=new.operation,
            principal=new.principal,
            resource=new.resource,
            decision=new.decision,
            reason=new.reason,
            details=new.details,
            latency_ms=new.latency_ms,
            prev_hash=previous,
            entry_hash="",
        )
        previous = entry_hash(link.tenant, entry, previous)
        done.append(msgspec.structs.replace(entry, entry_hash=previous))
    return done


def entry_hash(tenant: TenantId, entry: AuditEntry, prev_hash: str) -> str:
    """Return the hash that an entry has after another one."""
    content: Mapping[str, Any] = {
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "decision": entry.decision,
        "details": entry.details,
        "id": str(entry.id),
        "latency_ms": entry.latency_ms,
        "operation": entry.operation,
        "prev_hash": prev_hash,
        "principal": entry.principal,
        "reason": entry.reason,
        "resource": entry.resource,
        "sequence": entry.sequence,
        "tenant": tenant,
    }
    return hashlib.sha256(DOMAIN + encode_json(content).encode()).hexdigest()


class ChainCheck:
    """Checks entries as they come, in the order of their numbers. The first that does not fit ends it: `finding` says why."""

    def __init__(self, tenant: TenantId, *, head: AuditHead | None, anchor: AuditHead | None) -> None:
        """`head` is what the store keeps of the end; None when it keeps nothing."""
        self._tenant = tenant
        self._head = head
        self._anchor = anchor
        self._last = START
        self.finding: AuditVerification | None = None

    @property
    def last_hash(self) -> str:
        """The hash of the last entry that was right: what the next one must follow."""
        return self._last.entry_hash

    def take(self, sequence: int, entry: AuditEntry | None) -> bool:
        """Check the next entry; None stands for a row that cannot be read. False: look for the cause with `explain`."""
        expected = self._last.sequence + 1
        if entry is None or sequence != expected or entry.sequence != expected:
            return False
        if entry.prev_hash != self.last_hash or not self._fits(entry, self.last_hash):
            return False
        anchor = self._anchor
        if anchor is not None and anchor.sequence == expected and anchor.entry_hash != entry.entry_hash:
            self._broken(
                expected,
                "edited",
                f"It has not the hash of the anchor: this entry, or one before, was rewritten. {WHOSE_ANCHOR}",
            )
            return False
        self._last = AuditHead(sequence=expected, entry_hash=entry.entry_hash)
        return True

    def explain(self, sequence: int, entry: AuditEntry | None, *, elsewhere: int | None) -> None:
        """Say why `take` refused an entry. `elsewhere`: the number under which the entry that should follow stands."""
        expected = self._last.sequence + 1
        if self.finding is not None:
            return
        if elsewhere is not None and elsewhere != expected:
            self._broken(expected, "reordered", f"The entry that follows here stands at {elsewhere}.")
        elif sequence != expected:
            self._broken(expected, "missing", f"There is no entry of this number; the next one is {sequence}.")
        elif entry is None:
            self._broken(expected, "edited", "The entry cannot be read any more.")
        elif entry.prev_hash == self.last_hash or self._fits(entry, self.last_hash):
            self._broken(expected, "edited", "The entry has not the hash that was computed when it was written.")
        elif expected > 1 and self._fits(entry, entry.prev_hash):
            before = expected - 1
            self._broken(
                before, "edited", f"The entry {expected} does not follow it: it was rewritten with a new hash."
            )
        else:
            self._broken(expected, "missing", "The entry that follows here is gone; another one has its number.")

    def end(self) -> AuditVerification:
        """Return the outcome after the last entry."""
        if self.finding is not None:
            return self.finding
        last, head, anchor = self._last, self._head, self._anchor
        if head is not None and head.sequence > last.sequence:
            self._broken(last.sequence + 1, "cut", f"The head is at {head.sequence}, and the entries end before.")
        elif anchor is not None and anchor.sequence > last.sequence:
            self._broken(
                last.sequence + 1,
                "cut",
                f"The anchor is at {anchor.sequence}, and the entries end before. {WHOSE_ANCHOR}",
            )
        elif head is None and last.sequence:
            self._broken(last.sequence, "head", "There are entries, and no head.")
        elif head is not None and head.sequence < last.sequence:
            self._broken(head.sequence + 1, "head", f"The head is at {head.sequence}, and there are entries beyond.")
        elif head is not None and head.entry_hash != last.entry_hash:
            self._broken(last.sequence, "edited", "The head has another hash: the last entry was rewritten.")
        return self.finding or AuditVerification(intact=True, checked=last.sequence, head=last)

    def _fits(self, entry: AuditEntry, prev_hash: str) -> bool:
        try:
            return entry_hash(self._tenant, entry, prev_hash) == entry.entry_hash
        except (ValueError, TypeError, OverflowError, RecursionError):  # JSON or instants that nobody can have recorded
            return False

    def _broken(self, sequence: int, problem: Problem, explanation: str) -> None:
        self.finding = AuditVerification(
            intact=False,
            checked=self._last.sequence,
            head=self._last,
            broken_at=sequence,
            problem=problem,
            explanation=explanation,
        )
