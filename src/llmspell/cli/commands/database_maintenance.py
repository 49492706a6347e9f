"""`llmspell database vacuum`, `reindex` and `tune`: the upkeep of tables and indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from llmspell.cli.output import command, counted, current_output, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings

if TYPE_CHECKING:
    from llmspell.storage.contracts.maintenance import Step

DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
WORDS = {"done": "DONE", "planned": "WOULD", "skipped": "SKIPPED", "busy": "BUSY", "refused": "REFUSED"}


@command("vacuum")
@click.argument("tables", nargs=-1, metavar="[TABLE…]")
@click.option(
    "--full", is_flag=True, help="Rewrite the tables, so that their space goes back to the disk. It stops others."
)
@click.option("--force", is_flag=True, help="With --full, rewrite also what has less than 30 % of dead rows.")
@click.option("--analyze/--no-analyze", default=True, help="Renew the planner's statistics too.  [default: analyze]")
@click.option(
    "--analyze-only", is_flag=True, help="Only renew the planner's statistics; of all tables unless some are named."
)
@click.option("--yes", is_flag=True, help="With --full, do not ask.")
@DRY_RUN
def vacuum(
    tables: tuple[str, ...], full: bool, force: bool, analyze: bool, analyze_only: bool, yes: bool, dry_run: bool
) -> ExitCode:
    """Take dead rows away, and renew the planner's statistics. Readers and writers go on.

    Without a name these are event_log (every month, and the statistics of the whole), sessions and artifacts; with --full they are
    procedural_patterns and hook_history. --full takes an ACCESS EXCLUSIVE lock: nobody reads or writes a table until it is
    rewritten, so it is for off hours; it needs room for a second copy, waits 10 s for its lock, and leaves out what has less than
    30 % of dead rows. Needs DATABASE_ADMIN_URL.

    A file is vacuumed as a whole: statistics are renewed where they are old, the log is folded back, and the file is rewritten when
    a tenth of it is free, or with --full. Writes wait meanwhile.

    Exit code 1 when a table was not done: another session has locked it, or the role may not.
    """
    from llmspell.ops import maintenance

    if analyze_only and (full or not analyze):
        raise click.UsageError("--analyze-only goes neither with --full nor with --no-analyze")
    if force and not full:
        raise click.UsageError("--force belongs to --full")
    if full and not dry_run:
        current_output().confirm("full", action="rewrite tables while nobody can use them", yes=yes)
    if analyze_only:
        return _run(partial(maintenance.analyse, tables=tables, dry_run=dry_run))
    return _run(partial(maintenance.vacuum, tables=tables, full=full, analyze=analyze, force=force, dry_run=dry_run))


@command("reindex")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option(
    "--concurrently/--blocking", default=True, help="Let others read and write meanwhile.  [default: concurrently]"
)
@click.option("--invalid", is_flag=True, help="Only what a failed build has left.")
@DRY_RUN
def reindex(names: tuple[str, ...], concurrently: bool, invalid: bool, dry_run: bool) -> ExitCode:
    """Build indexes anew, and drop what failed builds have left. NAME is an index or a table; all of them by default.

    Each index is built beside the old one, so there must be room for the largest; an interrupted run leaves the old index in use,
    and the next one drops the remains. The approximate indexes of vectors have a command of their own (llmspell database
    vector-indexes rebuild), and are built here when they are named. Needs DATABASE_ADMIN_URL. In a file writes wait meanwhile.
    """
    from llmspell.ops import maintenance

    return _run(
        partial(maintenance.reindex, names=names, invalid_only=invalid, concurrently=concurrently, dry_run=dry_run)
    )


@command("tune")
@click.option("--overwrite", is_flag=True, help="Replace what somebody has set otherwise.")
@DRY_RUN
def tune(overwrite: bool, dry_run: bool) -> ExitCode:
    """Have autovacuum come earlier, and work faster, where many rows are written.

    Tables with many writes get the scale factors 0.05 (vacuum) and 0.02 (analyze), the months of events 0.02 and 0.01, and all of
    them a cost delay of 2 ms with a limit of 1,000; the server's own are 0.2, 0.1, 2 ms and 200. Values that somebody has set are
    kept and named. Run it again when vectors were moved into partitions. Needs DATABASE_ADMIN_URL.
    """
    from llmspell.ops import maintenance

    return _run(partial(maintenance.tune, overwrite=overwrite, dry_run=dry_run))


def _run(work: Callable[..., Sequence[Step]]) -> ExitCode:
    from llmspell.ops.named_store import require_named_store

    settings, output = current_settings(), current_output()
    require_named_store(settings)
    steps = work(settings, announce=output.note)
    output.emit({"steps": steps}, lines=lambda: _lines(steps))
    if any(step.result == "planned" for step in steps):
        output.note("Nothing was changed.")
    else:
        freed = sum(step.bytes_before - step.bytes_after for step in steps if step.result == "done")
        done = counted(sum(1 for step in steps if step.result == "done"), "step")
        output.note(f"{done} taken" + (f", {freed:,} bytes less" if freed > 0 else ""))
    return ExitCode.FAILED if any(step.result in ("busy", "refused") for step in steps) else ExitCode.OK


def _lines(steps: Sequence[Step]) -> Iterable[str]:
    for step in steps:
        sizes = (
            f" ({step.bytes_before:,} to {step.bytes_after:,} bytes)" if step.bytes_before != step.bytes_after else ""
        )
        why = f": {printable(step.why)}" if step.why else ""
        yield f"{WORDS[step.result]}: {printable(step.action)} {printable(step.target)}{sizes}{why}"
