"""`llmspell database inspect` and `terminate`: what is wrong with the database, and ending sessions that are in the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import command, counted, current_output, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings
from llmspell.ops.inspection import IDLE_MAX_S, RUNNING_MAX_S, SECTIONS

if TYPE_CHECKING:
    from llmspell.ops.inspection import Inspection
    from llmspell.ops.maintenance import Ended
    from llmspell.settings import Settings

SHOWN_ROWS_MAX = 20
IDLE = click.option(
    "--idle-over",
    type=click.FloatRange(0),
    default=IDLE_MAX_S,
    show_default=True,
    metavar="SECONDS",
    help="A session that is idle for longer is in the way.",
)
RUNNING = click.option(
    "--running-over",
    type=click.FloatRange(0),
    default=RUNNING_MAX_S,
    show_default=True,
    metavar="SECONDS",
    help="A statement that runs for longer is slow.",
)


@command("inspect")
@click.option("--section", "sections", multiple=True, type=click.Choice(SECTIONS), help="Only this; may be repeated.")
@click.option("--check", is_flag=True, help="Print the findings alone, and end with exit code 1 when there are some.")
@IDLE
@RUNNING
def inspect(sections: tuple[str, ...], check: bool, idle_over: float, running_over: float) -> ExitCode:
    """Look at the health of the database, and say what is wrong and what to do.

    \b
    A server: bloat, autovacuum, unused-indexes, missing-indexes, invalid-indexes,
              cache, slow-queries, locks, connections, sizes
    A file:   file, sizes, indexes, statistics, integrity

    Nothing is changed. The roles that are configured are asked, each for its own sessions; what they cannot see is said, and how an
    administrator would let them. In a pipe each finding of --check is a line: section, subject, problem, advice, parted by tabs.
    """
    from llmspell.ops import inspection

    found = inspection.inspect(_settings(), sections=sections, idle_over_s=idle_over, running_over_s=running_over)
    output = current_output()
    if check:
        problems = [{"section": name, **_plain(finding)} for name, finding in found.findings]
        output.emit(
            {"backend": found.backend, "findings": problems},
            lines=lambda: ("\t".join(printable(str(cell)) for cell in row.values()) for row in problems),
            columns=("section", "subject", "problem", "advice"),
        )
        for section in found.sections:
            if section.note:
                output.note(f"{section.name}: {section.note}")
        return ExitCode.FAILED if problems else ExitCode.OK
    output.emit(found, lines=lambda: _inspection_lines(found))
    return ExitCode.OK


@command("terminate")
@click.argument("pids", nargs=-1, type=click.IntRange(1), metavar="[PID…]")
@click.option("--idle", is_flag=True, help="All sessions that are idle for too long, in a transaction or not.")
@click.option("--running", is_flag=True, help="All sessions that run one statement for too long.")
@IDLE
@RUNNING
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say which sessions would be ended, end none.")
def terminate(
    pids: tuple[int, ...], idle: bool, running: bool, idle_over: float, running_over: float, yes: bool, dry_run: bool
) -> ExitCode:
    """End sessions of the server that are in the way: those that are named, or all that are idle or run for too long.

    What a session had not committed is rolled back. Sessions that vacuum, build an index, copy or dump are ended only when they are
    named. Each is ended as the role that it belongs to, as far as that role's URL is configured.

    In a pipe each session is a line: number, role, application, client, result, why, parted by tabs.
    """
    from llmspell.ops import maintenance

    if not (pids or idle or running):
        raise click.UsageError("name sessions by their numbers, or give --idle or --running")
    settings, output = _settings(), current_output()
    found = maintenance.offenders(
        settings, pids=pids, idle=idle, running=running, idle_over_s=idle_over, running_over_s=running_over
    )
    if dry_run or not found:
        ended = [_would_end(row) for row in found]
    else:
        for row in found:
            output.note(f"{row['pid']} ({row['role']}, {row['application'] or 'no name'}): {row['why']}")
        name = str(found[0]["pid"]) if len(found) == 1 else f"{len(found)} sessions"
        output.confirm(name, action=f"end {name}", yes=yes)
        ended = list(maintenance.terminate(settings, found))
    output.emit(
        {"sessions": ended, "dry_run": dry_run},
        lines=lambda: map(_ended_line, ended),
        columns=("pid", "role", "application", "client", "result", "why"),
    )
    output.note(counted(sum(1 for one in ended if one.result == "ended"), "session") + " ended")
    return ExitCode.DENIED if any(one.result == "refused" for one in ended) else ExitCode.OK


def _settings() -> Settings:
    from llmspell.ops.named_store import require_named_store

    settings = current_settings()
    require_named_store(settings)
    return settings


def _would_end(row: dict[str, Any]) -> Ended:
    from llmspell.ops.maintenance import Ended

    names = ("pid", "role", "application", "client", "why")
    return Ended(result="would be ended", **{name: row[name] for name in names})


def _ended_line(one: Ended) -> str:
    cells = (one.pid, one.role, one.application, one.client, one.result, one.why)
    return "\t".join(printable(str(cell)) for cell in cells)


def _plain(finding: Any) -> dict[str, str]:
    return {"subject": finding.subject, "problem": finding.problem, "advice": finding.advice}


def _inspection_lines(found: Inspection) -> Iterable[str]:
    for section in found.sections:
        yield f"{section.name}: {counted(len(section.findings), 'finding') if section.findings else 'nothing to do'}"
        for row in section.rows[:SHOWN_ROWS_MAX]:
            yield "  " + "  ".join(f"{name}={_cell(value)}" for name, value in row.items() if value not in (None, ""))
        if len(section.rows) > SHOWN_ROWS_MAX:
            yield f"  … and {len(section.rows) - SHOWN_ROWS_MAX} more: --json shows all"
        for finding in section.findings:
            yield f"  ! {printable(finding.subject)}: {printable(finding.problem)}"
            yield f"    {printable(finding.advice)}"
        if section.note:
            yield f"  {section.note}"
    if found.roles:
        yield f"asked as {', '.join(map(printable, found.roles))}"


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))
