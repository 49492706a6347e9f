"""The audit log in memory.

Other storages record what they do through `record`, inside of their own `unit.write(work)`: the entry then stands or falls with
the action.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from llmspell.clock import Clock, optional_instant
from llmspell.codec import require_limit
from llmspell.ids import IdSource
from llmspell.storage.contracts import audit_checks as checks
from llmspell.storage.contracts.audit import AuditEntry, AuditHead, AuditVerification, Decision, NewAuditEntry
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.store import Row, State, Unit
from llmspell.tenant import TenantId

HEAD = "head"
"""The key of the one head that a tenant has."""


def record(state: State, clock: Clock, ids: IdSource, entry: NewAuditEntry) -> AuditEntry:
    """Add an entry to the chain of the state's tenant.

    Raises:
        InvalidInput: names the field; the action must not go on without its entry.
    """
    return _append(state, clock, ids, [checks.require_entry(entry)])[0]


def _append(state: State, clock: Clock, ids: IdSource, entries: Sequence[NewAuditEntry]) -> builtins.list[AuditEntry]:
    head = state.audit_heads.get(HEAD) or checks.START
    link = checks.Link(tenant=state.tenant, head=head, now=clock.now())
    added = checks.chained([(ids.new(), entry) for entry in entries], link)
    for entry in added:
        state.audit.put(entry.sequence, entry)
    state.audit_heads.put(HEAD, AuditHead(sequence=added[-1].sequence, entry_hash=added[-1].entry_hash))
    return added


class InMemoryAudit:
    """`Audit` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

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
        entry = NewAuditEntry(
            operation=operation,
            principal=principal,
            resource=resource,
            decision=decision,
            reason=reason,
            details={} if details is None else details,
            latency_ms=latency_ms,
        )
        return (await self.record_many([entry]))[0]

    async def record_many(self, entries: Sequence[NewAuditEntry]) -> builtins.list[AuditEntry]:
        checked = checks.require_entries(entries)
        if not checked:
            return []
        return await self._unit.write(lambda state: _append(state, self._clock, self._ids, checked))

    async def get(self, sequence: int) -> AuditEntry | None:
        checks.require_sequence(sequence)
        return await self._unit.read(lambda state: state.audit.get(sequence))

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
        require_limit(limit)
        start, end = optional_instant(since, field="since"), optional_instant(until, field="until")
        conditions = checks.require_conditions(operation, principal, decision)
        query = checks.list_query(start, end, conditions)
        before = checks.start_of(await self._cursors.read(cursor, query=query), end)
        entries = await self._unit.read(lambda state: state.audit.rows())
        found = [
            entry
            for entry in entries
            if (entry.at, entry.sequence) < before
            and (start is None or entry.at >= start)
            and all(getattr(entry, name) == value for name, value in conditions.items())
        ]
        found.sort(key=lambda entry: (entry.at, entry.sequence), reverse=True)
        return await self._cursors.page(found[: limit + 1], limit=limit, query=query, position=checks.position_of)

    async def head(self) -> AuditHead:
        return await self._unit.read(lambda state: state.audit_heads.get(HEAD)) or checks.START

    async def verify(self, *, anchor: AuditHead | None = None) -> AuditVerification:
        checks.require_anchor(anchor)

        def chain(state: State) -> tuple[TenantId, AuditHead | None, builtins.list[tuple[int, AuditEntry]]]:
            return state.tenant, state.audit_heads.get(HEAD), state.audit.items()

        tenant, head, entries = await self._unit.read(chain)
        check = checks.ChainCheck(tenant, head=head, anchor=anchor)
        entries.sort(key=lambda numbered: numbered[0])
        for sequence, entry in entries:
            if not check.take(sequence, entry):
                following = (number for number, one in entries if one.prev_hash == check.last_hash)
                check.explain(sequence, entry, elsewhere=next(following, None))
                break
        return check.end()


COLUMNS = (*("sequence", "at", "operation", "principal", "resource", "decision", "reason", "details", "latency_ms"),)
HASHES = ("prev_hash", "entry_hash")
"""Hexadecimal in records, bytes in rows."""


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `audit_log`."""
    for entry in state.audit.rows():
        hashes = {name: bytes.fromhex(getattr(entry, name)) for name in HASHES}
        yield {name: getattr(entry, name) for name in COLUMNS} | hashes | {"entry_id": entry.id}


def load(state: State, row: Row) -> None:
    """Keep a row of `audit_log`, as it is: whether its hash fits is asked by `verify`."""
    hashes = {name: row[name].hex() for name in HASHES}
    entry = AuditEntry(id=row["entry_id"], **{name: row[name] for name in COLUMNS}, **hashes)
    state.audit.put(entry.sequence, entry)


def head_rows(state: State) -> Iterator[Row]:
    """Yield the row of `audit_heads`, if there is one."""
    for head in state.audit_heads.rows():
        yield {"sequence": head.sequence, "entry_hash": bytes.fromhex(head.entry_hash)}


def load_head(state: State, row: Row) -> None:
    """Keep the row of `audit_heads`."""
    state.audit_heads.put(HEAD, AuditHead(sequence=row["sequence"], entry_hash=row["entry_hash"].hex()))
