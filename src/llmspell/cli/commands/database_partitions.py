"""`llmspell database partitions`: the months of the event log, where the store keeps it in months.

Not here: what is done to files (`ops.event_archive`) and to the database below it.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmspell.cli.output import counted, current_output, group
from llmspell.cli.session import current_settings

if TYPE_CHECKING:
    from datetime import datetime

    from llmspell.ops.event_archive import EventArchive, EventMonth

FOLDER = click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where dumps are; default: event-archive among the user's data.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")


@group()
def partitions() -> None:
    """The months that events are kept in, where the store keeps them in months."""


@partitions.command("list")
def list_partitions() -> None:
    """List the months, the earliest first, what keeps the events of all others, and the archived months.

    In a pipe each is a line: name, months, state (attached, default, archived), rows, size, isolated or OPEN, dumped or not, parted
    by tabs. The rows are the server's estimate. OPEN: row-level security is not forced on it, or tenants may reach it by its name.
    """
    found = _archive(None).months()
    current_output().emit(
        {"partitions": found},
        lines=lambda: map(_line, found),
        columns=("name", "months", "state", "rows", "size", "walls", "dump"),
    )


@partitions.command()
@DRY_RUN
def ensure(dry_run: bool) -> None:
    """Make the current month and the next three. Run it daily; opening a store does it too.

    Events of such a month that came before it was made move into it. A line for each says CREATED or SKIPPED.
    """
    lines = _archive(None).ensure(dry_run=dry_run)
    current_output().emit({"partitions": lines, "dry_run": dry_run}, lines=lambda: lines)


@partitions.command()
@click.option("--before", metavar="DATE", help="Months that ended by then; default: retention.events_days ago.")
@click.option("--older-than", metavar="DAYS", type=click.IntRange(1, 36_500), help="Months that ended so long ago.")
@FOLDER
@click.option("--no-dump", is_flag=True, help="Take months out of the log, and write no files.")
@click.option("--drop", is_flag=True, help="Drop each archived month whose dump was verified.")
@DRY_RUN
def archive(
    before: str | None, older_than: int | None, folder: Path | None, no_dump: bool, drop: bool, dry_run: bool
) -> None:
    """Take old months out of the log, dump each to a file, and verify the file. Nothing is dropped unless --drop is given.

    A month moves into an archive where tenants have no way in. pg_dump writes it to a file; the file is read back into the server
    and compared row by row, and only then counts. An interrupted run goes on when it is called again; months that were archived
    before and have no dump yet are dumped too.

    Needs DATABASE_OPERATOR_URL, the role that works on all tenants, and for the dumps DATABASE_ADMIN_URL, the owner.
    """
    if no_dump and drop:
        raise click.UsageError(
            "--no-dump and --drop exclude each other: only a month with a verified dump is dropped here"
        )
    if before is not None and older_than is not None:
        raise click.UsageError("--before and --older-than exclude each other")
    output, instant = current_output(), _instant(before, older_than)
    archived = _archive(folder)
    take_out = archived.detach if no_dump else partial(archived.archive, drop=drop)
    lines = take_out(instant, dry_run=dry_run)
    document = {"before": instant, "partitions": lines, "dry_run": dry_run}
    output.emit(document, lines=lambda: lines)
    output.note(f"{counted(len(lines), 'step')} {'would be taken; nothing was changed' if dry_run else 'taken'}")


@partitions.command()
@click.argument("name")
@FOLDER
@DRY_RUN
def restore(name: str, folder: Path | None, dry_run: bool) -> None:
    """Bring a month back into the log. NAME is that of the month (event_log_2026_03), or of a dump's file.

    A month that is archived and was not dropped is attached as it is; otherwise its dump is loaded. It comes back with its own
    bounds and with row-level security forced, its rows are compared with those that were dumped, and all of it is one
    transaction. Events of that month that have come since stay. Needs DATABASE_ADMIN_URL and DATABASE_OPERATOR_URL.
    """
    lines = _archive(folder).restore(name, dry_run=dry_run)
    current_output().emit({"partitions": lines, "dry_run": dry_run}, lines=lambda: lines)


@partitions.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@FOLDER
@click.option("--without-dump", is_flag=True, help="Drop also what no verified dump holds: these events are lost.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@DRY_RUN
def drop(names: tuple[str, ...], folder: Path | None, without_dump: bool, yes: bool, dry_run: bool) -> None:
    """Drop archived months. One without a verified dump in the folder is refused, and so is one whose rows have changed since.

    Needs DATABASE_ADMIN_URL and DATABASE_OPERATOR_URL.
    """
    output = current_output()
    archived = _archive(folder)
    lines = archived.drop(names, without_dump=without_dump, dry_run=True)
    if not dry_run:
        for name in names:
            output.confirm(name, action=f"drop {name}" + (" without a dump" if without_dump else ""), yes=yes)
        lines = archived.drop(names, without_dump=without_dump)
    output.emit({"partitions": lines, "dry_run": dry_run}, lines=lambda: lines)


def _archive(folder: Path | None) -> EventArchive:
    from llmspell.ops.event_archive import EventArchive
    from llmspell.ops.named_store import require_named_store

    settings = current_settings()
    require_named_store(settings)
    return EventArchive(settings, folder=folder, announce=current_output().note)


def _instant(before: str | None, older_than: int | None) -> datetime:
    from llmspell.clock import SystemClock, parse_instant

    if before is not None:
        return parse_instant(before, field="before")
    days = current_settings().retention.events_days if older_than is None else older_than
    return SystemClock().now() - timedelta(days=days)


def _line(month: EventMonth) -> str:
    months = "all others"
    if month.starts_at is not None and month.ends_at is not None:
        months = f"{month.starts_at:%Y-%m-%d} to {month.ends_at:%Y-%m-%d}"
    dump = "" if month.state != "archived" else "dumped" if month.dump else "not dumped"
    return "\t".join(
        (
            month.name,
            months,
            month.state,
            f"about {counted(month.rows, 'row')}",
            f"{month.size_bytes:,} bytes",
            "isolated" if month.isolated else "OPEN",
            dump,
        )
    )
