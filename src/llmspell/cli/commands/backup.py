"""`llmspell backup`: take, list, verify, restore and delete backups of the whole store.

Not here: what a backup is made of (`ops.backup`), rows that move between kinds of stores (`llmspell storage`).

Rule 1: what destroys something asks for its name, or for --yes; --dry-run says what would be done and does nothing.
Rule 2: a backup that was not verified is never called good: exit code 1 where one was asked for and is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import counted, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings
from llmspell.errors import LlmspellError

if TYPE_CHECKING:
    from llmspell.cli.output import Output, Progress
    from llmspell.ops.backup import Backups, Listed, Record

KIBI = 1024
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
AGES = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))

_place = click.option(
    "--location", metavar="PLACE", help="A folder, or s3://bucket/prefix. Default: the configured place."
)
_trust = click.option(
    "--trust", is_flag=True, help="Take it although no key proves who made it: you know that nobody else writes there."
)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@group()
def backup() -> None:
    """Back up the store, verify backups, and restore them."""


@backup.command()
@_place
@click.option("--no-verify", is_flag=True, help="Do not restore it elsewhere to compare: it does not count then.")
@click.option("--no-encryption", is_flag=True, help="Leave it readable for whoever finds it.")
@click.option("--level", type=click.IntRange(0, 19), help="Level of the compression; 0 for none.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing.")
def create(location: str | None, no_verify: bool, no_encryption: bool, level: int | None, dry_run: bool) -> None:
    """Take a backup while the store is in use, restore it elsewhere, and compare.

    It holds all tenants, so on PostgreSQL it needs DATABASE_OPERATOR_URL. It counts when the restored store has the same
    rows: until then it is listed as unverified.
    """
    output = current_output()
    verify = False if no_verify else None
    encrypt = False if no_encryption else None
    if dry_run:
        backups = _backups(location)
        steps = backups.plan_create(verify=verify, encrypt=encrypt)
        output.emit({"place": backups.place.shown, "steps": steps, "dry_run": True}, lines=lambda: steps)
        output.note("Nothing was done.")
        return
    with _Steps(output) as steps_shown:
        backups = _backups(location, steps_shown)
        record = backups.create(verify=verify, encrypt=encrypt, level=level)
    output.emit(_document(record), lines=lambda: _record_lines(record))
    output.note(f"It is in {printable(backups.place.shown)}.")
    if record.state != "verified":
        output.note(f"It was not verified, so it does not count yet: llmspell backup verify {record.id}")


@backup.command("list")
@_place
def list_backups(location: str | None) -> None:
    """List backups, the latest first: state, age, size, rows, key, id.

    verified: restored once, and the same. unverified: not tried yet. damaged: tried, and not the same. incomplete: left by
    one that did not end.
    """
    backups = _backups(location)
    found = backups.list()
    document = [_listed(each) for each in found]
    output = current_output()
    output.emit(
        document,
        lines=lambda: map(_list_line, found),
        columns=("state", "age", "size", "rows", "store", "encrypted", "id"),
    )
    place = printable(backups.place.shown)
    output.note(f"{counted(len(found), 'backup')} in {place}." if found else f"There is none in {place}.")


@backup.command()
@click.argument("id", required=False, metavar="[ID]")
@click.option("--all", "every", is_flag=True, help="Verify each backup that is not yet.")
@_trust
@_place
def verify(id: str | None, every: bool, trust: bool, location: str | None) -> ExitCode:
    """Restore a backup elsewhere and compare; without ID the newest one. Exit code 1 when one is damaged."""
    if id is not None and every:
        raise click.UsageError("name one backup, or --all of them")
    output = current_output()
    with _Steps(output) as steps:
        backups = _backups(location, steps)
        chosen = [id] if id is not None else _to_verify(backups, every=every)
        results = [_verified(backups, each, trust=trust) for each in chosen]
    output.emit(results, lines=lambda: map(_verified_line, results), columns=("state", "id", "problem"))
    if not results:
        known = len(backups.list())
        output.note(
            "There is no backup." if not known else "All were verified before; name one by its ID to verify it again."
        )
    return ExitCode.OK if all(result["state"] == "verified" for result in results) else ExitCode.FAILED


@backup.command()
@click.argument("id")
@click.option("--into", metavar="TARGET", help="A new file, or an empty database: its URL, or its name on the server.")
@click.option("--without-backup", is_flag=True, help="Do not back up what is there: for a store too damaged for that.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing.")
@_trust
@_yes
@_place
def restore(
    id: str, into: str | None, without_backup: bool, dry_run: bool, trust: bool, yes: bool, location: str | None
) -> None:
    """Restore a backup by its ID, or the `latest` verified one.

    Without --into it replaces the configured store, whose state is backed up first. The store is the old one or the new one
    at every moment, also when this is killed; who has it open sees the new one. On PostgreSQL it needs DATABASE_ADMIN_URL.
    """
    output = current_output()
    with _Steps(output) as steps:
        backups = _backups(location, steps)
        plan = backups.plan_restore(id, into=into, backup_current=not without_backup, trust=trust)
        if dry_run:
            document = {"backup": plan.backup.id, "target": plan.target, "steps": plan.steps, "dry_run": True}
            output.emit(document, lines=lambda: plan.steps)
            output.note("Nothing was done.")
            return
        if plan.replaces:
            output.confirm(plan.backup.id, action=f"replace {printable(plan.target)} by this backup", yes=yes)
        done = backups.restore(plan.backup.id, into=into, backup_current=not without_backup, trust=trust)
    output.emit(
        {
            "backup": _document(done.backup),
            "target": done.target,
            "safety": None if done.safety is None else _document(done.safety),
            "dry_run": False,
        },
        lines=lambda: [f"{done.backup.id}\t{done.backup.rows:,} rows\t{printable(done.target)}"],
    )
    if done.safety is not None:
        output.note(f"What was there before is backup {done.safety.id}.")
    if done.backup.kind == "postgresql":
        output.note("Look at it once: llmspell database health; llmspell database isolation --check")


@backup.command()
@click.option("--days", type=click.IntRange(1, 36_500), help="Keep those that are younger (backup.retention_days).")
@click.option("--count", type=click.IntRange(1, 1_000_000), help="Keep the latest so many (backup.retention_count).")
@click.option("--most", type=click.IntRange(1, 1_000_000), help="Keep no more than so many (backup.retention_max).")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, delete nothing.")
@_place
def prune(days: int | None, count: int | None, most: int | None, dry_run: bool, location: str | None) -> None:
    """Delete backups that need not be kept: older than --days and not among the latest --count, or beyond --most.

    The last verified backup of a store stays in any case. What a backup that did not end has left goes after a day.
    """
    done = _backups(location).prune(days=days, count=count, most=most, dry_run=dry_run)
    output = current_output()
    document = {
        "deleted": [_listed(each) for each in done.deleted],
        "databases": done.databases,
        "freed_bytes": done.freed_bytes,
        "dry_run": done.dry_run,
    }
    output.emit(
        document,
        lines=lambda: map(_list_line, done.deleted),
        columns=("state", "age", "size", "rows", "store", "encrypted", "id"),
    )
    for name in done.databases:
        output.note(
            f"{'Would drop' if dry_run else 'Dropped'} {name}, which a verification left behind that was killed."
        )
    would = "would be freed; nothing was deleted" if dry_run else "freed"
    output.note(f"{counted(len(done.deleted), 'backup')}, {size_text(done.freed_bytes)} {would}.")


@backup.command()
@click.argument("id")
@click.option("--even-last", is_flag=True, help="Also the last verified backup of its store.")
@_yes
@_place
def delete(id: str, even_last: bool, yes: bool, location: str | None) -> None:
    """Delete one backup."""
    output = current_output()
    output.confirm(id, action="delete this backup", yes=yes)
    gone = _backups(location).delete(id, even_last=even_last)
    output.emit(_listed(gone), lines=lambda: [_list_line(gone)])


class _Steps:
    """Shows how far a backup is: a bar where there is a total, and a line when a new step begins."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._step = ""
        self._bar: Progress | None = None
        self._done = 0

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step or done < self._done:
            self._end()
            self._step, self._done = step, 0
            if total:
                self._bar = self._output.progress(total, step)
                self._bar.__enter__()
            else:
                self._output.note(f"{step} …")
        if self._bar is not None:
            self._bar.advance(done - self._done)
        self._done = done

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None


def _backups(location: str | None, steps: _Steps | None = None) -> Backups:
    from llmspell.ops.backup import Backups
    from llmspell.ops.named_store import require_named_store

    settings = current_settings()
    require_named_store(settings)
    return Backups(settings, location=location, progress=steps if steps is not None else lambda *_: None)


def _to_verify(backups: Backups, *, every: bool) -> list[str]:
    found = [each for each in backups.list() if each.record is not None]
    if every:
        return [each.id for each in found if each.state == "unverified"]
    return [each.id for each in found[:1]]


def _verified(backups: Backups, id: str, *, trust: bool) -> dict[str, Any]:
    """Verify one; damage is a result, anything else an error."""
    from llmspell.errors import CorruptStore, SealBroken

    try:
        record = backups.verify(id, trust=trust)
    except (CorruptStore, SealBroken) as error:
        return {"id": id, "state": "damaged", "problem": error.detail}
    except LlmspellError as error:
        error.fields["backup"] = id
        raise
    return {"id": record.id, "state": record.state, "problem": ""}


def _verified_line(result: dict[str, Any]) -> str:
    return "\t".join(printable(result[name]) for name in ("state", "id", "problem"))


def _document(record: Record) -> dict[str, Any]:
    from llmspell.cli.output import plain

    return {"state": record.state, **plain(record)}


def _listed(listed: Listed) -> dict[str, Any]:
    document = {"id": listed.id, "state": listed.state, "stored_bytes": listed.stored_bytes, "age_s": listed.age_s}
    return document if listed.record is None else {**_document(listed.record), **document}


def _list_line(listed: Listed) -> str:
    record = listed.record
    cells = [listed.state, age_text(listed.age_s), size_text(listed.stored_bytes)]
    if record is None:
        cells += ["", "", ""]
    else:
        cells += [f"{record.rows:,}", record.kind, record.key_id or "no"]
    return "\t".join([*cells, printable(listed.id)])


def _record_lines(record: Record) -> Iterable[str]:
    yield f"{record.state}\t{record.id}"
    share = f", packed {size_text(record.stored_bytes)}"
    yield f"  {counted(record.rows, 'row')} of {counted(record.tenants, 'tenant')}, {size_text(record.content_bytes)}{share}"
    if record.key_id:
        yield f"  encrypted under {record.key_id}"
    else:
        yield f"  not encrypted, signed under {record.signed_by}" if record.signed_by else "  not encrypted"


def size_text(size_bytes: int) -> str:
    """Return a size such as `1.5 MiB`."""
    size, unit = float(size_bytes), 0
    while size >= KIBI and unit < len(UNITS) - 1:
        size, unit = size / KIBI, unit + 1
    return f"{size:,.1f} {UNITS[unit]}" if unit else f"{size_bytes} B"


def age_text(age_s: float) -> str:
    """Return an age such as `3.2 h`."""
    for seconds, unit in AGES:
        if age_s >= seconds:
            return f"{age_s / seconds:.1f} {unit}"
    return f"{max(age_s, 0):.0f} s"
