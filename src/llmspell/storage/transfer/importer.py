"""A file → a store, and a store → a store, in one transaction.

Rule 1: nothing is kept unless all of it was read, checked against the digests, and written.
Rule 2: tables are written in the order that they need, whatever the order of the file: what comes too early waits for another pass.
Rule 3: an error says of which record it is, and where that stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Final

from llmspell.clock import Clock
from llmspell.errors import ExportDamaged, LlmspellError, TenantUnknown, TransferError
from llmspell.storage.contracts.transfer import (
    OnConflict,
    OnProgress,
    Progress,
    Record,
    Table,
    TableCount,
    Transferable,
    TransferTarget,
    require_on_conflict,
)
from llmspell.storage.contracts.transfer_tables import BY_NAME, TABLES
from llmspell.storage.transfer.exporter import header_of, require_known
from llmspell.storage.transfer.format import Header, Summary
from llmspell.storage.transfer.reader import Batch, ExportReader
from llmspell.storage.transfer.records import Digests
from llmspell.storage.transfer.reports import Report, TableReport
from llmspell.storage.transfer.streams import Input
from llmspell.storage.transfer.subset import Subset
from llmspell.storage.transfer.threads import ahead, on_thread, stepped
from llmspell.tenant import TenantId

_PARTS: Final[dict[str, frozenset[str]]] = {
    "artifact_chunks": frozenset({"artifact_content"}),
    "artifacts": frozenset({"sessions", "artifact_content"}),
    "memory_versions": frozenset({"memories"}),
    **{table.name: frozenset({"embedding_spaces", "memories"}) for table in TABLES if table.dimension is not None},
    "relationships": frozenset({"entities"}),
    "event_log": frozenset({"event_sequences"}),
    "audit_log": frozenset({"audit_heads"}),
    "tenants": frozenset(table.name for table in TABLES if table.name != "tenants"),
}
"""Which tables must have been written before one."""
PASSES_MAX: Final = 8
TENANTS_SHOWN: Final = 10
OTHER_DIGEST: Final = "There are as many records in the export as its summary says, and they are not the same."


async def import_(
    given: Input,
    target: Transferable,
    *,
    on_conflict: OnConflict = "error",
    dry_run: bool = False,
    tenant: TenantId | None = None,
    only: Iterable[str] = (),
    limit: int | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Write what a file holds into a store, in one transaction; `only` and `limit` as in `Subset`.

    Args:
        on_conflict: what happens to records that are there: "error" ends the import, "skip" keeps them, "replace" removes them.
        dry_run: do all of it, and keep nothing.
        tenant: take only this tenant's records. A file of one tenant is imported for that one, as its own role may do; a file of
            several by the operator.

    Raises:
        TransferError, ExportTooNew, ExportDamaged: the file; with the table, the number of the record, from 1, and its byte.
        TenantUnknown: the file holds nothing of `tenant`.
        AlreadyExists, QuotaExceeded, StorageError: the target refuses a record, with the same fields.
        OutcomeUnknown: the answer to the commit was lost; otherwise an error means that nothing was written.
    """
    require_on_conflict(on_conflict)
    subset = Subset(only, limit)
    reader = ExportReader(given)
    feed = _FileFeed(reader, tenant)
    with contextlib.closing(reader):
        await feed.begin(subset)
        scope = tenant or _only_tenant(reader.header)
        async with target.transfer_target(scope, on_conflict=on_conflict) as opened:
            work = _Import(
                opened, subset, progress, reader.header.counts if subset.everything and tenant is None else None
            )
            await feed.write_to(work)
            _require_held(reader, tenant)
            require_digests(reader)
            notes = [*await opened.finish(), *subset.notes()]
            if reader.summary is None:
                notes.append("The export has no summary, so its digests were not checked.")
            if not dry_run:
                await opened.commit()
    return work.report(reader.header, reader.counts, notes, dry_run=dry_run, checked=reader.summary is not None)


async def transfer(
    source: Transferable,
    target: Transferable,
    *,
    clock: Clock,
    on_conflict: OnConflict = "error",
    dry_run: bool = False,
    tenant: TenantId | None = None,
    only: Iterable[str] = (),
    limit: int | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Write what one store holds into another, without a file: one snapshot of the source, one transaction of the target.

    Raises:
        As `import_`, and what an export raises.
    """
    require_on_conflict(on_conflict)
    subset = Subset(only, limit)
    async with (
        source.transfer_source(tenant) as snapshot,
        target.transfer_target(tenant, on_conflict=on_conflict) as opened,
    ):
        await require_known(snapshot, tenant)
        if subset.needs_artifacts_first:
            await subset.look(snapshot.rows)
        totals = {table.shown: await snapshot.count(table) for table in TABLES} if subset.everything else None
        header = header_of(snapshot, clock, subset, tenant=tenant, counts=totals)
        work = _Import(opened, subset, progress, totals)
        counts: dict[str, TableCount] = {}
        for table in TABLES:
            digests = Digests()
            if subset.has(table):
                await work.table(table, _digested(snapshot.rows(table), digests))
            counts[table.shown] = digests.result()
        notes = [*await opened.finish(), *subset.notes()]
        if not dry_run:
            await opened.commit()
    return work.report(header, counts, notes, dry_run=dry_run, checked=True)


def _require_held(reader: ExportReader, tenant: TenantId | None) -> None:
    """See that a file that was read has something of the tenant that was asked for.

    Raises:
        TenantUnknown: it has nothing.
    """
    if tenant is None or any(tenant in count.tenants for count in reader.counts.values()):
        return
    held = sorted({name for count in reader.counts.values() for name in count.tenants})
    shown = ", ".join(held[:TENANTS_SHOWN]) + (", …" if len(held) > TENANTS_SHOWN else "")
    raise TenantUnknown(
        "The export holds nothing of this tenant.",
        hint=f"It holds: {shown}." if held else "It holds no tenant at all.",
        tenant=tenant,
        path=reader.path,
    )


def _only_tenant(header: Header) -> TenantId | None:
    return TenantId(header.tenants[0]) if header.tenants is not None and len(header.tenants) == 1 else None


async def _digested(batches: AsyncIterator[object], digests: Digests) -> AsyncIterator[Batch]:
    """Count and digest the rows of a source as they go by."""

    async for rows in batches:
        found: list[Record] = list(rows)  # type: ignore[call-overload]
        first = digests.count + 1
        await on_thread(digests.add_rows, found)
        yield Batch(found, first)


class _Import:
    """Writes tables into an open target, and counts."""

    def __init__(
        self, target: TransferTarget, subset: Subset, progress: OnProgress | None, totals: dict[str, int] | None
    ) -> None:
        self._target = target
        self._subset = subset
        self._progress = progress
        self._totals = totals or {}
        self._tables: dict[str, TableReport] = {}

    async def table(
        self, table: Table, batches: AsyncIterator[Batch], *, tenant: TenantId | None = None, path: str | None = None
    ) -> None:
        """Write the batches of a table; with `tenant` only its rows."""
        report = self._tables.setdefault(table.shown, TableReport())
        async with contextlib.aclosing(ahead(batches)) as coming:
            async for batch in coming:
                rows = batch.records
                report.read += len(rows)
                if tenant is not None:
                    rows = [row for row in rows if row.tenant_id == tenant]  # type: ignore[attr-defined]
                kept = self._subset.kept(table, rows)
                report.dropped += len(batch.records) - len(kept)
                try:
                    done = await self._target.write(table, kept)
                except LlmspellError as exc:
                    _place(exc, table, batch, kept, path)
                    raise
                report.inserted += done.inserted
                report.skipped += done.skipped
                report.replaced += done.replaced
                self._tell(table, report, ended=False)
        self._tell(table, report, ended=True)

    def _tell(self, table: Table, report: TableReport, *, ended: bool) -> None:
        if self._progress is not None:
            total = report.read if ended else self._totals.get(table.shown)
            self._progress(Progress(table.shown, report.read, total, ended))

    def report(
        self, header: Header, counts: dict[str, TableCount], notes: list[str], *, dry_run: bool, checked: bool
    ) -> Report:
        """Return what was done."""
        for name, one in counts.items():
            report = self._tables.setdefault(name, TableReport())
            report.sha256 = one.sha256
            report.tenants = {tenant: each.count for tenant, each in one.tenants.items()}
        ordered = {table.shown: self._tables.get(table.shown, TableReport()) for table in TABLES}
        return Report(
            source_backend=header.source_backend,
            schema_version=header.schema_version,
            tenants=header.tenants,
            exported_at=header.exported_at,
            tables=ordered,
            notes=notes,
            dry_run=dry_run,
            digests_checked=checked,
        )


def _place(exc: LlmspellError, table: Table, batch: Batch, kept: object, path: str | None) -> None:
    """Say in an error of the target which record it is about."""
    place = exc.fields.pop("row", None)
    exc.fields["table"] = table.shown
    if not isinstance(place, int) or not isinstance(kept, (list, tuple)) or place >= len(kept):
        return
    wanted = kept[place]
    position = next((n for n, record in enumerate(batch.records) if record is wanted), None)
    if position is None:
        return
    exc.fields["record"] = batch.first + position
    if batch.byte_of is not None:
        exc.fields["byte"] = batch.byte_of(position)
    if path is not None:
        exc.fields["path"] = path


class _FileFeed:
    """The tables of a file, in as many passes as their order asks for."""

    def __init__(self, reader: ExportReader, tenant: TenantId | None) -> None:
        self._reader = reader
        self._tenant = tenant
        self._done: set[str] = set()
        self._absent: set[str] = set()
        self.path = reader.path

    async def begin(self, subset: Subset) -> None:
        """Read what must be known before the first record is written."""
        reader = self._reader
        if not await on_thread(reader.start):
            self._require_again("The header of the export stands behind its data")
            await on_thread(reader.find_header)
        if subset.needs_artifacts_first:
            self._require_again("A limit needs a look at the artifacts before")
            await subset.look(self._rows)

    async def _rows(self, table: Table) -> AsyncIterator[list[Record]]:
        walk = self._reader.tables(lambda found: found.name == table.name)
        try:
            async for _, batches in stepped(walk):
                async for batch in stepped(batches):
                    yield [
                        row
                        for row in batch.records
                        if self._tenant is None or row.tenant_id == self._tenant  # type: ignore[attr-defined]
                    ]
        finally:
            await on_thread(walk.close)  # type: ignore[attr-defined]

    async def write_to(self, work: _Import) -> None:
        """Write all tables, each when what it needs is there."""
        for _ in range(PASSES_MAX):
            before = len(self._done)
            walk = self._reader.tables(self._is_next)
            try:
                async for table, batches in stepped(walk):
                    await work.table(table, stepped(batches), tenant=self._tenant, path=self.path)
                    self._done.add(table.name)
            finally:
                await on_thread(walk.close)  # type: ignore[attr-defined]
            self._absent = set(BY_NAME) - self._reader.seen
            if self._reader.seen <= self._done:
                return
            self._require_again("Its tables stand in an order in which they cannot be written")
            if before == len(self._done) and not self._absent:
                break
        raise TransferError("The tables of the export cannot be written in any order.", path=self.path)

    def _is_next(self, table: Table) -> bool:
        needed = _PARTS.get(table.name, frozenset())
        return table.name not in self._done and needed <= self._done | self._absent

    def _require_again(self, why: str) -> None:
        if not self._reader.again:
            raise TransferError(
                f"{why}, and a stream cannot be read twice.",
                hint="Save it as a file, and import that.",
                path=self.path,
            )


def require_digests(reader: ExportReader) -> None:
    """Compare what was read with what the file says of itself.

    Raises:
        ExportDamaged: names the first table and tenant that differ.
    """
    summary: Summary | None = reader.summary
    path = reader.path
    if summary is None:
        return
    for name in dict.fromkeys([*summary.tables, *reader.counts]):
        said, read = summary.tables.get(name), reader.counts.get(name)
        if said is None or read is None:
            if (said is None or said.count == 0) and (read is None or read.count == 0):
                continue
            raise ExportDamaged(
                "A table of the export and its summary do not belong together.",
                path=path,
                table=name,
                said=0 if said is None else said.count,
                found=0 if read is None else read.count,
            )
        for tenant in dict.fromkeys([*said.tenants, *read.tenants]):
            one, other = said.tenants.get(tenant), read.tenants.get(tenant)
            if one is None or other is None or (one.count, one.sha256) != (other.count, other.sha256):
                same = one is not None and other is not None and one.count == other.count
                raise ExportDamaged(
                    OTHER_DIGEST if same else "",
                    path=path,
                    table=name,
                    tenant=tenant,
                    said=0 if one is None else one.count,
                    found=0 if other is None else other.count,
                )
        if (said.count, said.sha256) != (read.count, read.sha256):
            raise ExportDamaged(path=path, table=name, said=said.count, found=read.count)
