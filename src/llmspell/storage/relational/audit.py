"""The audit log on a database.

Other storages record what they do through `record`, inside of their own `unit.write(work)`: the entry then stands or falls with
the action.

Rule: the head of the tenant is locked before an entry is numbered, so that concurrent writers make one chain.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from llmspell.clock import optional_instant
from llmspell.codec import require_limit
from llmspell.errors import CorruptStore
from llmspell.storage.contracts import audit_checks as checks
from llmspell.storage.contracts.audit import (
    GENESIS,
    AuditEntry,
    AuditHead,
    AuditVerification,
    Decision,
    NewAuditEntry,
)
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.relational.catalog import NO_FILTER
from llmspell.storage.relational.database import Executor, Row, Unit
from llmspell.storage.relational.runtime import Runtime

VERIFY_PAGE = 500
"""Entries that a verification holds at a time."""


async def record(executor: Executor, runtime: Runtime, entry: NewAuditEntry) -> AuditEntry:
    """Add an entry to the chain of the executor's tenant, in the transaction of the executor.

    Raises:
        InvalidInput: names the field; the transaction must not go on without its entry.
    """
    return (await _append(executor, runtime, [checks.require_entry(entry)]))[0]


async def _append(executor: Executor, runtime: Runtime, entries: Sequence[NewAuditEntry]) -> builtins.list[AuditEntry]:
    """Add checked entries; at least one."""
    queries, rows = runtime.catalog.audit, AuditRows(runtime)
    end, previous = await _advanced(executor, runtime, len(entries))
    head = AuditHead(sequence=end - len(entries), entry_hash=previous)
    link = checks.Link(tenant=executor.tenant, head=head, now=runtime.clock.now())
    added = checks.chained([(runtime.ids.new(), entry) for entry in entries], link)
    last = bytes.fromhex(added[-1].entry_hash)
    await executor.batch(
        [(queries.append, [rows.parameters(entry) for entry in added]), (queries.settle, {"entry_hash": last})]
    )
    return added


async def _advanced(executor: Executor, runtime: Runtime, count: int) -> tuple[int, str]:
    row = await executor.row(runtime.catalog.audit.advance, count=count, genesis=bytes.fromhex(GENESIS))
    assert row is not None  # noqa: S101 - an upsert with RETURNING answers
    return row[0], bytes(row[1]).hex()


class AuditRows:
    """Entries to and from rows."""

    def __init__(self, runtime: Runtime) -> None:
        self._dialect = runtime.dialect

    def parameters(self, entry: AuditEntry) -> dict[str, Any]:
        """Return an entry as the parameters of `append`."""
        return {
            "sequence": entry.sequence,
            "entry_id": self._dialect.id(entry.id),
            "at": self._dialect.instant(entry.at),
            "operation": entry.operation,
            "principal": entry.principal,
            "resource": entry.resource,
            "decision": entry.decision,
            "reason": entry.reason,
            "details": self._dialect.json(entry.details),
            "latency_ms": entry.latency_ms,
            "prev_hash": bytes.fromhex(entry.prev_hash),
            "entry_hash": bytes.fromhex(entry.entry_hash),
        }

    def entry(self, row: Row) -> AuditEntry:
        """Return the entry of a row."""
        sequence, id, at, operation, principal, resource, decision, reason, details, latency_ms, previous, hashed = row
        return AuditEntry(
            sequence=sequence,
            id=self._dialect.to_id(id),
            at=self._dialect.to_instant(at),
            operation=operation,
            principal=principal,
            resource=resource,
            decision=decision,
            reason=reason,
            details=self._dialect.to_json(details),
            latency_ms=latency_ms,
            prev_hash=bytes(previous).hex(),
            entry_hash=bytes(hashed).hex(),
        )

    def readable(self, row: Row) -> AuditEntry | None:
        """Return the entry of a row that somebody may have tampered with, or None when it is none any more."""
        try:
            return self.entry(row)
        except (ValueError, TypeError, OverflowError, RecursionError, CorruptStore):
            return None


class RelationalAudit:
    """`Audit` by the queries of `audit.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.audit
        self._rows = AuditRows(runtime)
        self._cursors = Cursors(unit.tenant, runtime.cursor_key)

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

        async def work(executor: Executor) -> builtins.list[AuditEntry]:
            return await _append(executor, self._runtime, checked)

        return await self._unit.write(work)

    async def get(self, sequence: int) -> AuditEntry | None:
        row = await self._unit.row(self._queries.get, sequence=checks.require_sequence(sequence))
        return None if row is None else self._rows.entry(row)

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
        at, sequence = checks.start_of(await self._cursors.read(cursor, query=query), end)
        fragment, values = _filter(conditions)
        rows = await self._unit.rows(
            self._queries.list.filtered(fragment),
            since=self._dialect.instant(start or checks.EARLIEST),
            instant=self._dialect.instant(at),
            sequence=sequence,
            limit=limit + 1,
            **values,
        )
        found = [self._rows.entry(row) for row in rows]
        return await self._cursors.page(found, limit=limit, query=query, position=checks.position_of)

    async def head(self) -> AuditHead:
        return self._head(await self._unit.row(self._queries.head)) or checks.START

    async def verify(self, *, anchor: AuditHead | None = None) -> AuditVerification:
        checks.require_anchor(anchor)

        async def work(executor: Executor) -> AuditVerification:
            head = self._head(await executor.row(self._queries.head))
            check = checks.ChainCheck(executor.tenant, head=head, anchor=anchor)
            after, full = 0, True
            while full:
                rows = await executor.rows(self._queries.chain, behind=after, limit=VERIFY_PAGE)
                for row in rows:
                    sequence, entry = row[0], self._rows.readable(row)
                    if not check.take(sequence, entry):
                        following = bytes.fromhex(check.last_hash)
                        elsewhere = await executor.value(self._queries.successor, prev_hash=following)
                        check.explain(sequence, entry, elsewhere=elsewhere)
                        return check.end()
                    after = sequence
                full = len(rows) == VERIFY_PAGE
            return check.end()

        return await self._unit.read(work, heavy=True)

    def _head(self, row: Row | None) -> AuditHead | None:
        return None if row is None else AuditHead(sequence=row[0], entry_hash=bytes(row[1]).hex())


def _filter(conditions: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return a condition over columns, and its parameters."""
    parts, values = [], {}
    for number, (column, value) in enumerate(conditions.items()):
        parts.append(f"a.{column} = :f{number}")
        values[f"f{number}"] = value
    return " AND ".join(parts) or NO_FILTER, values
