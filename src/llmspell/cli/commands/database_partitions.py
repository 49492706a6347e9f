"""`llmspell database partitions`: the months of the event log, where the store keeps it in months."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from llmspell.cli.output import async_command, counted, current_output, group
from llmspell.cli.session import current_settings, open_spell

if TYPE_CHECKING:
    from datetime import datetime

    from llmspell.storage.contracts.event_log import EventPartition


@group()
def partitions() -> None:
    """The months that events are kept in, where the store keeps them in months."""


@partitions.command("list")
@async_command
async def list_partitions() -> None:
    """List the months, the earliest first, with their sizes; the last line is what keeps the events of all others.

    In a pipe each is a line: name, months, rows, size, parted by tabs.
    """
    async with open_spell() as spell:
        found = await spell.admin.event_partitions()
    current_output().emit(
        {"partitions": found}, lines=lambda: map(_line, found), columns=("name", "months", "rows", "size")
    )


@partitions.command()
@async_command
async def ensure() -> None:
    """Make the current month and the next three. Run it daily; opening a store does it too.

    Events of such a month that came before it was made move into it.
    """
    async with open_spell() as spell:
        lines = await spell.admin.ensure_event_partitions()
    current_output().emit({"partitions": lines}, lines=lambda: lines)


@partitions.command()
@click.option("--before", metavar="DATE", help="Months that ended by then; default: retention.events_days ago.")
@click.option("--dry-run", is_flag=True, help="Say what would be archived, change nothing.")
@async_command
async def archive(before: str | None, dry_run: bool) -> None:
    """Take old months out of the log into an archive. Nothing is deleted.

    An administrator dumps the archived tables, and drops them. This needs DATABASE_OPERATOR_URL, the role that works on
    all tenants.
    """
    output = current_output()
    instant = _instant(before)
    async with open_spell() as spell:
        lines = await spell.admin.archive_event_partitions(instant, dry_run=dry_run)
    document = {"before": instant, "partitions": lines, "dry_run": dry_run}
    output.emit(document, lines=lambda: lines)
    output.note(f"{counted(len(lines), 'month')} {'would be archived; nothing was changed' if dry_run else 'archived'}")


def _instant(before: str | None) -> datetime:
    from llmspell.clock import SystemClock, parse_instant

    if before is not None:
        return parse_instant(before, field="before")
    return SystemClock().now() - timedelta(days=current_settings().retention.events_days)


def _line(partition: EventPartition) -> str:
    months = "all others"
    if partition.starts_at is not None and partition.ends_at is not None:
        months = f"{partition.starts_at:%Y-%m-%d} to {partition.ends_at:%Y-%m-%d}"
    return f"{partition.name}\t{months}\tabout {counted(partition.rows, 'row')}\t{partition.size_bytes:,} bytes"
