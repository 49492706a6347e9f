"""`llmspell database migrations`: which there are, what they would do, apply them, and mend a schema.

Not here: what a migration does (`storage.relational.migrations`), and the work itself (`ops.migrations`).

Rule 1: a server is migrated and mended as the role of DATABASE_ADMIN_URL; serving roles cannot.
Rule 2: list, plan, verify and dry runs change nothing: no file is made, no migration runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from llmspell.cli.output import async_command, counted, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import backend_option, settings_of
from llmspell.errors import AccessRefused, SignatureRefused, TenantKeyMissing, Unavailable

if TYPE_CHECKING:
    from llmspell.clock import Clock
    from llmspell.ops.migrations import MigrationList, MigrationPlan, SchemaVerification
    from llmspell.settings import Settings
    from llmspell.storage.contracts.backend import MigrationStatus
    from llmspell.storage.contracts.schema import RepairStep
    from llmspell.storage.relational.migrations import PlannedMigration


class Version(click.ParamType[int]):
    """The number of a migration: 13, or V013."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).removeprefix("V").removeprefix("v")
        if not text.isdecimal():
            self.fail(f"must be the number of a migration, such as 13 or V013, not {value!r}", param, ctx)
        return int(text)


@group()
def migrations() -> None:
    """The migrations of this release: see them, plan them, apply them, and check what they have made."""


@migrations.command("list")
@backend_option("The store to look at")
@async_command
async def list_migrations(backend: str | None) -> ExitCode:
    """List every migration: number, state, title, when it was applied, and whether its hash is that of this release.

    States: applied, pending, modified (what ran is not this release's file), skipped (a later one ran), unknown (of a newer
    release). Exit code 5 when any is not applied as it should be.
    """
    from llmspell.ops.migrations import listed

    settings = settings_of(backend)
    await _named_store(settings)
    found = await asyncio.to_thread(listed, settings)
    output = current_output()
    document = {**_store(settings), "version": found.version, "current": found.current, "migrations": found.migrations}
    output.emit(document, lines=lambda: _state_lines(found), columns=("number", "state", "title", "applied at", "hash"))
    waiting = sum(one.state == "pending" for one in found.migrations)
    output.note(f"{_named(settings)}: the schema is at version {found.version}; {waiting} pending.")
    if waiting:
        output.note("Run: llmspell database migrations apply")
    elif not found.current:
        output.note("Run: llmspell database migrations verify")
    return ExitCode.OK if found.current else ExitCode.CONFLICT


def _state_lines(found: MigrationList) -> Iterable[str]:
    for one in found.migrations:
        at = "" if one.applied_at is None else f"{one.applied_at:%Y-%m-%d %H:%M:%S}Z"
        hashed = {None: "", True: "ok", False: "differs"}[one.hash_ok]
        yield f"V{one.version:03}\t{one.state}\t{printable(one.title)}\t{at}\t{hashed}"


@migrations.command()
@backend_option("The store to look at")
@click.option("--to", type=Version(), help="The last migration to plan; default: all.")
@click.option("--print-sql", is_flag=True, help="Print the SQL that would run, and nothing else.")
@async_command
async def plan(backend: str | None, to: int | None, *, print_sql: bool) -> None:
    """Show what is pending: the lock each migration takes on which table, and which tables it writes anew.

    That was measured on a database without rows, when this release was made. A lock is held until the migration ends; how long
    that takes grows with the rows of the tables that it writes anew. On a file every migration keeps other writers waiting,
    and readers never.
    """
    from llmspell.ops.migrations import planned

    settings = settings_of(backend)
    await _named_store(settings)
    found = await asyncio.to_thread(planned, settings, to=to)
    output = current_output()
    if print_sql:
        output.emit({**_store(settings), "sql": [one.sql for one in found.pending]}, lines=lambda: _sql_lines(found))
        return
    output.emit({**_store(settings), **_plan_document(found)}, lines=lambda: _plan_lines(found))
    said = f"{len(found.pending)} would run" if found.pending else "nothing is pending"
    output.note(f"{_named(settings)}: the schema is at version {found.version}; {said}.")


def _plan_document(found: MigrationPlan) -> dict[str, Any]:
    return {
        "version": found.version,
        "pending": [{name: getattr(one, name) for name in _PLANNED} for one in found.pending],
        "lock_timeout_s": found.lock_timeout_s,
        "lock_attempts": found.lock_attempts,
        "locks_whole_store": found.locks_whole_store,
    }


_PLANNED = ("version", "name", "title", "locks", "rewrites", "drops", "measured")


def _plan_lines(found: MigrationPlan) -> Iterable[str]:
    for one in found.pending:
        yield f"{one.name}"
        yield from _effect_lines(one, whole=found.locks_whole_store)
    if found.pending and found.lock_timeout_s is not None:
        times = "" if found.lock_attempts in (None, 1) else f", {found.lock_attempts} times, with a pause between"
        yield f"waits up to {found.lock_timeout_s:g} s for a lock{times}"


def _effect_lines(one: PlannedMigration, *, whole: bool) -> Iterable[str]:
    if whole:
        yield "  writers wait while it runs, readers do not"
    for lock in one.locks:
        yield f"  {lock.lock:24} {lock.table}"
    for table in one.rewrites:
        yield f"  {'writes every row anew':24} {table}"
    for table in one.drops:
        yield f"  {'replaces the table':24} {table}"
    if not one.measured:
        yield "  what it locks was not measured"
    elif not (whole or one.locks or one.rewrites or one.drops):
        yield "  locks nothing that is there"


def _sql_lines(found: MigrationPlan) -> Iterable[str]:
    for one in found.pending:
        yield f"-- {one.name}"
        yield from one.sql.splitlines()


@migrations.command()
@backend_option("The store to migrate")
@click.option("--to", type=Version(), help="The last migration to apply; default: all.")
@click.option(
    "--lock-timeout", "lock_timeout_s", type=float, help="Seconds to wait for a lock on a server; default: 5."
)
@click.option("--dry-run", is_flag=True, help="Say what would run, change nothing.")
@async_command
async def apply(backend: str | None, to: int | None, lock_timeout_s: float | None, *, dry_run: bool) -> None:
    """Apply pending migrations, each in a transaction of its own.

    On a server this needs DATABASE_ADMIN_URL, the role that owns the schema. A migration that cannot have a lock in time gives
    way, so that others do not wait behind it, and tries again a dozen times. What was applied stays; running it again goes on.
    """
    from llmspell.ops.migrations import planned

    settings, output = settings_of(backend), current_output()
    await _named_store(settings)
    before = await asyncio.to_thread(planned, settings, to=to)
    names = [one.name for one in before.pending]
    if dry_run:
        document = {**_store(settings), "version": before.version, "pending": names, "dry_run": True}
        output.emit(document, lines=lambda: names)
        said = f"{len(names)} would run; nothing was changed." if names else "nothing is pending."
        output.note(f"{_named(settings)}: {said}")
        return
    after = await migrated(settings, before, to=to, lock_timeout_s=lock_timeout_s)
    applied = [name for name in after.applied if name in names]
    document = {**_store(settings), "version": after.version, "applied": applied, "dry_run": False}
    output.emit(document, lines=lambda: applied)
    output.note(f"{_named(settings)}: the schema is at version {after.version}; {len(applied)} applied.")


async def migrated(
    settings: Settings, before: MigrationPlan, *, to: int | None = None, lock_timeout_s: float | None = None
) -> MigrationStatus:
    """Apply what is planned, showing how far it is, and open the store as whoever serves will.

    Raises:
        LlmspellError: as `ops.migrations.apply` says; or the serving role cannot open what was migrated.
    """
    import llmspell
    from llmspell.ops.migrations import apply as apply_pending
    from llmspell.ops.migrations import served_after
    from llmspell.ops.named_store import without_migrating

    with current_output().progress(len(before.pending), "migrations") as progress:
        started: list[str] = []

        def announce(name: str) -> None:
            if started:
                progress.advance()
            started.append(name)

        after = await asyncio.to_thread(
            apply_pending, settings, clock=_clock(), to=to, lock_timeout_s=lock_timeout_s, announce=announce
        )
        if started:
            progress.advance()
    if after.pending:
        return after  # it was to stop here; nobody can serve from it yet
    try:
        async with llmspell.connect(settings.storage.url, settings=without_migrating(settings)):
            return after
    except (TenantKeyMissing, SignatureRefused):
        return after  # only serving needs the key
    except (Unavailable, AccessRefused) as error:
        raise served_after(settings, after, error) from error


@migrations.command()
@backend_option("The store to verify")
@async_command
async def verify(backend: str | None) -> ExitCode:
    """Check that the schema is what the migrations make: their hashes, and every object of the schema.

    Tables, columns, constraints, indexes, triggers, functions, policies and rights are compared, and each that is missing,
    changed, extra or unfinished is a line. What somebody has added and does no harm, such as an index, is named and no fault.
    On a server the schema is compared when nothing is pending. Exit code 5 when something is wrong.
    """
    from llmspell.ops.migrations import verify as verify_schema

    settings, output = settings_of(backend), current_output()
    await _named_store(settings)
    found = await asyncio.to_thread(verify_schema, settings)
    document = {
        **_store(settings),
        "ok": found.ok,
        "version": found.version,
        "compared": found.compared,
        "hashes": [one for one in found.migrations if one.state != "applied"],
        "differences": found.differences,
    }
    output.emit(document, lines=lambda: _difference_lines(found))
    if found.ok:
        output.note(f"{_named(settings)}: version {found.version}, as the migrations make it.")
    else:
        output.note("Run: llmspell database migrations repair --dry-run")
    return ExitCode.OK if found.ok else ExitCode.CONFLICT


def _difference_lines(found: SchemaVerification) -> Iterable[str]:
    for state in found.migrations:
        if state.state != "applied":
            yield f"{state.state}\tmigration\t{printable(state.name)}"
    for one in found.differences:
        note = "no fault" if one.harmless else one.detail or ""
        yield "\t".join((one.departure, one.kind, printable(one.name), printable(note))).rstrip("\t")


@migrations.command()
@backend_option("The store to mend")
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
@async_command
async def repair(backend: str | None, *, dry_run: bool) -> ExitCode:
    """Put right what can be put right in a schema, and say what must be done by hand.

    It makes what is missing of policies, rights, functions, triggers, constraints and indexes as this release ships them,
    finishes or drops indexes that a stopped CONCURRENTLY has left, and corrects marks of applied migrations, those only when
    the schema is right. It never touches a table or a column that holds rows. On a server this needs DATABASE_ADMIN_URL.
    Exit code 1 when something is left to be done.
    """
    from llmspell.ops.migrations import repair as repair_schema

    settings, output = settings_of(backend), current_output()
    await _named_store(settings)
    steps = await asyncio.to_thread(
        repair_schema, settings, clock=_clock(), dry_run=dry_run, announce=lambda action: output.note(f"{action} …")
    )
    left = [step for step in steps if not step.statements or step.error is not None]
    document = {**_store(settings), "steps": steps, "left": len(left), "dry_run": dry_run}
    output.emit(document, lines=lambda: map(_step_line, steps))
    done = sum(step.done for step in steps)
    said = (
        f"{counted(len(steps) - len(left), 'step')} would be taken; nothing was changed" if dry_run else f"{done} done"
    )
    output.note(f"{_named(settings)}: {said}; {len(left)} left to be done by hand.")
    return ExitCode.FAILED if left else ExitCode.OK


def _step_line(step: RepairStep) -> str:
    if step.error is not None:
        return f"failed\t{printable(step.action)}\t{printable(step.error)}"
    return f"{'done' if step.done else 'would' if step.statements else 'by hand'}\t{printable(step.action)}"


async def _named_store(settings: Settings) -> None:
    from llmspell.ops.named_store import require_named_store

    require_named_store(settings)


def _clock() -> Clock:
    from llmspell.clock import SystemClock

    return SystemClock()


def _store(settings: Settings) -> dict[str, str]:
    """Return which store a command acted on: a variable that was not set leads to another than one thinks."""
    from llmspell.settings import masked

    return {"backend": settings.storage.backend, "url": masked(settings.storage.url)}


def _named(settings: Settings) -> str:
    from llmspell.ops.schema_status import is_file

    store = _store(settings)
    place = store["url"].partition("://")[2]
    if is_file(settings.storage.url):
        place = str(Path(unquote(place.removeprefix("/"))).absolute())
    return f"{store['backend']} {printable(place)}".strip()
