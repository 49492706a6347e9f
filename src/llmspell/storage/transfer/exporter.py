"""A store → a file.

Rule: rows are encoded, digested and written on a thread, a batch at a time, while the next batch is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, BinaryIO, Final

from llmspell.clock import Clock
from llmspell.errors import TenantUnknown
from llmspell.storage.contracts.transfer import (
    OnProgress,
    Progress,
    Record,
    Table,
    TableCount,
    Transferable,
    TransferSource,
    shown_instant,
)
from llmspell.storage.contracts.transfer_tables import EXCLUDED, REBUILT, TABLES
from llmspell.storage.transfer.format import DATA, SUMMARY, VERSION, Header, nested, summary_of
from llmspell.storage.transfer.records import ENCODER, Digests
from llmspell.storage.transfer.reports import Report, TableReport
from llmspell.storage.transfer.streams import Output
from llmspell.storage.transfer.subset import Subset
from llmspell.storage.transfer.threads import ahead, on_thread
from llmspell.tenant import TenantId

TENANT_HINT: Final = "Look who there is: llmspell tenants list (`spell.tenants.list()`); --all-tenants takes every one."


async def export(
    source: Transferable,
    output: Output,
    *,
    clock: Clock,
    tenant: TenantId | None = None,
    only: Iterable[str] = (),
    limit: int | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Write what a store holds of a tenant, or with None of all tenants, into a file; `only` and `limit` as in `Subset`.

    The file appears under its name when it is complete. It is one snapshot: what is written meanwhile is not in it.

    Raises:
        InvalidInput: `only` or `limit`.
        InvalidSetting: all tenants are the operator's, and the store was opened without its role.
        TenantUnknown: the store has no such tenant, and nothing of it.
        DiskFull, StorageError: nothing has changed.
    """
    subset = Subset(only, limit)
    async with source.transfer_source(tenant) as snapshot:
        await require_known(snapshot, tenant)
        if subset.needs_artifacts_first:
            await subset.look(snapshot.rows)
        counts = {table.shown: await snapshot.count(table) for table in TABLES} if subset.everything else None
        header = header_of(snapshot, clock, subset, tenant=tenant, counts=counts)
        async with _opened(output) as file:
            written = await _write(snapshot, file, header, subset, progress)
    return report_of(header, written, subset.notes())


async def require_known(source: TransferSource, tenant: TenantId | None) -> None:
    """See that a store has a tenant: it is registered there, or has rows, as one whose registration was left out of an import.

    Raises:
        TenantUnknown: neither.
    """
    if tenant is None:
        return
    for table in reversed(TABLES):  # those that are registered come last, and are all that is asked of most
        if await source.count(table):
            return
    raise TenantUnknown(tenant=tenant, hint=TENANT_HINT)


def header_of(
    source: TransferSource, clock: Clock, subset: Subset, *, tenant: TenantId | None, counts: dict[str, int] | None
) -> Header:
    """Return the header of what a snapshot gives."""
    return Header(
        version=VERSION,
        exported_at=shown_instant(clock.now()),
        source_backend=source.backend,
        migrations=[_short(name) for name in source.migrations],
        schema_version=source.schema_version,
        tenants=None if tenant is None else [tenant],
        only=list(subset.only) or None,
        limit=subset.limit,
        counts=counts,
        excluded=EXCLUDED,
        rebuilt=REBUILT,
    )


def _short(name: str) -> str:
    """`V003__vector_embeddings` as EXP-02 has it: `V3`."""
    number = name.partition("__")[0].removeprefix("V")
    return f"V{int(number)}" if number.isdigit() else name


def report_of(header: Header, counts: dict[str, TableCount], notes: list[str]) -> Report:
    """Return the report of what was read and written."""
    return Report(
        source_backend=header.source_backend,
        schema_version=header.schema_version,
        tenants=header.tenants,
        exported_at=header.exported_at,
        tables={
            name: TableReport(
                read=one.count,
                inserted=one.count,
                sha256=one.sha256,
                tenants={tenant: each.count for tenant, each in one.tenants.items()},
            )
            for name, one in counts.items()
        },
        notes=notes,
    )


@contextlib.asynccontextmanager
async def _opened(output: Output) -> AsyncIterator[BinaryIO]:
    """Open and close an output on a thread: at the end it waits for the disk."""
    opened = output.open()
    file = await on_thread(opened.__enter__)

    async def leave(*error: Any) -> bool | None:
        return await on_thread(opened.__exit__, *error)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(leave)
        yield file


async def _write(
    snapshot: TransferSource, file: BinaryIO, header: Header, subset: Subset, progress: OnProgress | None
) -> dict[str, TableCount]:
    head = ENCODER.encode(header)[:-1]
    await on_thread(file.write, head + f',\n"{DATA}":{{'.encode())
    written: dict[str, TableCount] = {}
    for place, (table, opens, closes) in enumerate(nested(TABLES)):
        start = f"{',' if place else ''}\n"
        if opens:
            start += f'"{table.path[0]}":{{'
        elif len(table.path) > 1:
            start = ",\n"
        await on_thread(file.write, f'{start}"{table.path[-1]}":['.encode())
        total = header.counts.get(table.shown) if header.counts is not None else None
        written[table.shown] = await _write_table(snapshot, file, table, subset, progress, total)
        await on_thread(file.write, b"]}" if closes else b"]")
    summary = ENCODER.encode(summary_of(written))
    # No line feed behind it: the last character closes the object (EXP-13).
    await on_thread(file.write, f'\n}},\n"{SUMMARY}":'.encode() + summary + b"}")
    return written


async def _write_table(
    snapshot: TransferSource,
    file: BinaryIO,
    table: Table,
    subset: Subset,
    progress: OnProgress | None,
    total: int | None,
) -> TableCount:
    digests = Digests()
    if subset.has(table):
        async with contextlib.aclosing(ahead(snapshot.rows(table))) as batches:
            async for batch in batches:
                rows = subset.kept(table, batch)
                await on_thread(_write_rows, file, rows, digests)
                if progress is not None:
                    progress(Progress(table.shown, digests.count, total))
    if digests.count:
        await on_thread(file.write, b"\n")
    if progress is not None:
        progress(Progress(table.shown, digests.count, digests.count, ended=True))
    return digests.result()


def _write_rows(file: BinaryIO, rows: Sequence[Record], digests: Digests) -> None:
    if rows:
        before = b"," if digests.count else b""
        # A line feed in a text is written as two other characters: those that are there end records.
        file.write(before + b"\n" + digests.add_rows(rows)[:-1].replace(b"\n", b",\n"))
