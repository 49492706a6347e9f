"""Two stores, or a store and a file, compared: counts and digests of every table and tenant, then the first rows that differ.

Rule: both sides are read in full; nothing is believed from a summary.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypeAlias

from llmspell.codec import require_limit
from llmspell.errors import TenantUnknown
from llmspell.storage.contracts.transfer import (
    OnProgress,
    Progress,
    Record,
    Table,
    TableCount,
    TenantCount,
    Transferable,
    TransferSource,
)
from llmspell.storage.contracts.transfer_tables import TABLES
from llmspell.storage.transfer.exporter import TENANT_HINT
from llmspell.storage.transfer.importer import require_digests
from llmspell.storage.transfer.reader import ExportReader
from llmspell.storage.transfer.records import ENCODER, Digests
from llmspell.storage.transfer.reports import Difference, SideDifference, Verification
from llmspell.storage.transfer.streams import Input
from llmspell.storage.transfer.threads import ahead, on_thread, stepped
from llmspell.tenant import TenantId

Side: TypeAlias = "Transferable | Input"
_NOTHING = TenantCount(0, "")


async def verify(
    first: Side,
    second: Side,
    *,
    tenant: TenantId | None = None,
    limit: int = 10,
    progress: OnProgress | None = None,
) -> Verification:
    """Compare what two sides hold of a tenant, or with None of all tenants, and return where they differ.

    Args:
        limit: how many of the rows that differ are named, at most.

    Raises:
        TransferError, ExportDamaged: a file cannot be read, or contradicts its summary.
        InvalidInput: a file that can be read only once is given where it must be read again.
        TenantUnknown: neither side has anything of the tenant.
        InvalidSetting, StorageError: a store.
    """
    require_limit(limit, minimum=0)
    async with contextlib.AsyncExitStack() as stack:
        sides = [await _open(stack, side, tenant) for side in (first, second)]
        counts = [await side.counts(progress) for side in sides]
        if tenant is not None and not any(count.count for side in counts for count in side.values()):
            raise TenantUnknown("Neither side has anything of this tenant.", hint=TENANT_HINT, tenant=tenant)
        differing = [
            found for table in TABLES for found in _differing(table, counts[0][table.shown], counts[1][table.shown])
        ]
        differences: list[Difference] = []
        for one in differing:
            if len(differences) >= limit:
                break
            table = next(table for table in TABLES if table.shown == one.table)
            if all(side.again for side in sides):
                differences += await _rows_that_differ(sides, table, one.tenant, limit - len(differences))
    return Verification(
        tables=len(TABLES),
        rows=sum(table.count for table in counts[0].values()),
        differing=tuple(differing),
        differences=tuple(differences),
    )


def _differing(table: Table, one: TableCount, other: TableCount) -> list[SideDifference]:
    found = []
    for tenant in sorted({*one.tenants, *other.tenants}):
        here, there = one.tenants.get(tenant, _NOTHING), other.tenants.get(tenant, _NOTHING)
        if (here.count, here.sha256) != (there.count, there.sha256):
            found.append(
                SideDifference(
                    table=table.shown,
                    tenant=tenant,
                    first_count=here.count,
                    second_count=there.count,
                    first_sha256=here.sha256,
                    second_sha256=there.sha256,
                )
            )
    return found


class _StoreSide:
    """A snapshot of a store."""

    again = True

    def __init__(self, source: TransferSource) -> None:
        self._source = source

    async def counts(self, progress: OnProgress | None) -> dict[str, TableCount]:
        found = {}
        for table in TABLES:
            digests = Digests()
            total = await self._source.count(table) if progress is not None else None
            async with contextlib.aclosing(ahead(self._source.rows(table))) as batches:
                async for batch in batches:
                    await on_thread(digests.add_rows, batch)
                    if progress is not None:
                        progress(Progress(table.shown, digests.count, total))
            if progress is not None:
                progress(Progress(table.shown, digests.count, digests.count, ended=True))
            found[table.shown] = digests.result()
        return found

    async def rows(self, table: Table, tenant: str) -> AsyncGenerator[Record, None]:
        async with contextlib.aclosing(ahead(self._source.rows(table))) as batches:
            async for batch in batches:
                for row in batch:
                    if row.tenant_id == tenant:  # type: ignore[attr-defined]
                        yield row


class _FileSide:
    """A file."""

    def __init__(self, given: Input, tenant: TenantId | None) -> None:
        self._reader = ExportReader(given)
        self._tenant = tenant
        self.again = given.again

    async def counts(self, progress: OnProgress | None) -> dict[str, TableCount]:
        if not await on_thread(self._reader.start) and self.again:
            await on_thread(self._reader.find_header)
        totals = self._reader.header.counts or {}
        walk = self._reader.tables(lambda _table: True)
        try:
            async for table, batches in stepped(walk):
                done = 0
                async for batch in stepped(batches):
                    done += len(batch.records)
                    if progress is not None:
                        progress(Progress(table.shown, done, totals.get(table.shown)))
                if progress is not None:
                    progress(Progress(table.shown, done, done, ended=True))
        finally:
            await on_thread(walk.close)  # type: ignore[attr-defined]
        require_digests(self._reader)
        return {table.shown: self._of_tenant(self._reader.counts.get(table.shown)) for table in TABLES}

    def _of_tenant(self, count: TableCount | None) -> TableCount:
        if count is None:
            return Digests().result()
        if self._tenant is None:
            return count
        mine = {tenant: one for tenant, one in count.tenants.items() if tenant == self._tenant}
        return TableCount(sum(one.count for one in mine.values()), "", mine)

    async def rows(self, table: Table, tenant: str) -> AsyncGenerator[Record, None]:
        walk = self._reader.tables(lambda found: found.name == table.name)
        try:
            async for _, batches in stepped(walk):
                async for batch in stepped(batches):
                    for row in batch.records:
                        if row.tenant_id == tenant:  # type: ignore[attr-defined]
                            yield row
        finally:
            await on_thread(walk.close)  # type: ignore[attr-defined]


async def _open(stack: contextlib.AsyncExitStack, side: Side, tenant: TenantId | None) -> _StoreSide | _FileSide:
    if isinstance(side, Input):
        return _FileSide(side, tenant)
    return _StoreSide(await stack.enter_async_context(side.transfer_source(tenant)))


async def _rows_that_differ(
    sides: Sequence[_StoreSide | _FileSide], table: Table, tenant: str, limit: int
) -> list[Difference]:
    """Walk both sides in the order of keys, and return the first rows that are not equal."""
    found: list[Difference] = []
    async with (
        contextlib.aclosing(sides[0].rows(table, tenant)) as left,
        contextlib.aclosing(sides[1].rows(table, tenant)) as right,
    ):
        one, other = await anext(left, None), await anext(right, None)
        while (one is not None or other is not None) and len(found) < limit:
            order = _order(table, one, other)
            if order == 0:
                columns = _columns_that_differ(table, one, other)
                if columns:
                    found.append(_difference(table, tenant, one, None, columns))
                one, other = await anext(left, None), await anext(right, None)
            elif order < 0:
                found.append(_difference(table, tenant, one, "first", ()))
                one = await anext(left, None)
            else:
                found.append(_difference(table, tenant, other, "second", ()))
                other = await anext(right, None)
    return found


def _order(table: Table, one: Record | None, other: Record | None) -> int:
    if one is None or other is None:
        return 1 if one is None else -1
    here, there = (tuple(getattr(row, name) for name in table.key) for row in (one, other))
    return 0 if here == there else -1 if here < there else 1


def _columns_that_differ(table: Table, one: Any, other: Any) -> tuple[str, ...]:
    return tuple(
        name for name in table.names if ENCODER.encode(getattr(one, name)) != ENCODER.encode(getattr(other, name))
    )


def _difference(table: Table, tenant: str, row: Any, side: str | None, columns: tuple[str, ...]) -> Difference:
    key = {name: str(getattr(row, name)) for name in table.key if name != "tenant_id"}
    return Difference(table=table.shown, tenant=tenant, key=dict(key), side=side, columns=columns)
