"""`llmspell database signing`: the strict mode of a server, in which a tenant counts only when it is signed.

Not here: what the mode does to the database (`ops.tenant_signing`), what it protects from (docs/explanation/isolation.md).

Rule 1: a new key is printed once, or written to a new file; nothing else keeps it. It is written before the database knows it, so
that no database ever demands a key that nobody has. Without a file it is shown to a terminal only: a pipe may lose it or log it.
Rule 2: a dry run changes nothing, and makes no key; what would refuse the change refuses it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from llmspell.cli.output import counted, current_options, current_output, group, printable
from llmspell.cli.session import current_settings
from llmspell.errors import ConfigError, FileExists, LlmspellError

if TYPE_CHECKING:
    from llmspell.ops.tenant_signing import SigningStatus, TenantKey
    from llmspell.settings import Secret

FILE_MAX_BYTES = 4_096
_FILE = click.Path(dir_okay=False, path_type=Path)


class _Chosen(NamedTuple):
    """The key of a command: made by it, or read from a file."""

    key: TenantKey
    made: Secret | None = None


@group()
def signing() -> None:
    """Demand signed tenants, so that even injected SQL cannot change the tenant. Needs DATABASE_ADMIN_URL."""


@signing.command()
@click.option(
    "--out", metavar="FILE", type=_FILE, help="Write it to a new file that you alone may read, print only its id."
)
def new(out: Path | None) -> None:
    """Make a tenant key, and change nothing. It is printed, or written to --out, and kept nowhere else.

    Give it to every application first (LLMSPELL_TENANT_KEY or LLMSPELL_TENANT_KEY_FILE), then to enable or rotate by
    --key-file: so no application is ever without the key that the database demands. What is printed in a pipeline stands in its
    log: give --out there.
    """
    chosen = _made(out)
    document = {"id": chosen.key.id, "key": chosen.made.reveal() if chosen.made and out is None else None}
    current_output().emit(
        {**document, "file": str(out) if out else None},
        lines=lambda: [document["key"] or chosen.key.id],
    )


@signing.command()
@click.option("--key-file", metavar="FILE", type=_FILE, help="The key to demand; without it one is made.")
@click.option("--out", metavar="FILE", type=_FILE, help="Write the key that is made to a new file, not to stdout.")
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
def enable(key_file: Path | None, out: Path | None, dry_run: bool) -> None:
    """Demand a signature of every tenant from now on, on every table. It also mends a table that does not.

    Applications without the key are refused at once. A repetition with the same key changes nothing. A key that is made is shown
    on a terminal before it is demanded; where there is none (a pipe, a log), or with --json, --out or --key-file is needed.
    """
    from llmspell.ops import tenant_signing as admin

    _require_one_source(key_file, out)
    url = admin.admin_url_of(current_settings())
    chosen = _read(key_file) if key_file is not None else None
    found = admin.status(url)
    if chosen is None and found.enforced:
        # The key in force was given out when it was made; another one would be refused anyway.
        raise click.UsageError(
            "tenants are signed already: give the key by --key-file to mend tables, or replace it by rotate"
        )
    if dry_run:
        if chosen is not None:
            admin.require_same_key(found, chosen.key)
        _require_new(out)
        missing = found.tables - found.tables_signed
        _emit(found, dry_run=True)
        current_output().note(f"{counted(missing, 'table')} would demand signatures; nothing was changed.")
        return
    _change(url, chosen, out, lambda key: admin.enable(url, key))


@signing.command()
@click.option("--key-file", metavar="FILE", type=_FILE, help="The key to change to; without it one is made.")
@click.option("--out", metavar="FILE", type=_FILE, help="Write the key that is made to a new file, not to stdout.")
@click.option("--finish", is_flag=True, help="End a rotation: the old key is accepted no longer.")
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
def rotate(key_file: Path | None, out: Path | None, finish: bool, dry_run: bool) -> None:
    """Change to a new key. Both are accepted until you finish the rotation, when every application has the new one.

    A key that is made is shown on a terminal only; in a pipe, or with --json, --out or --key-file is needed.
    """
    from llmspell.ops import tenant_signing as admin

    if finish and (key_file or out):
        raise click.UsageError("--finish takes no key")
    _require_one_source(key_file, out)
    url = admin.admin_url_of(current_settings())
    chosen = _read(key_file) if key_file is not None else None
    if finish:
        _finish(url, dry_run=dry_run)
    elif dry_run:
        found = admin.status(url)
        admin.require_rotatable(found, None if chosen is None else chosen.key)
        _require_new(out)
        _emit(found, dry_run=True)
        old = found.current.id if found.current is not None else "no key"
        current_output().note(f"{old} would be replaced, and still be accepted; nothing was changed.")
    else:
        _change(url, chosen, out, lambda key: admin.rotate(url, key))


@signing.command()
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
def disable(dry_run: bool) -> None:
    """Demand no signatures any more, and forget the keys. The other policies stay as they are."""
    from llmspell.ops import tenant_signing as admin

    url = admin.admin_url_of(current_settings())
    if dry_run:
        found = admin.status(url)
        _emit(found, dry_run=True)
        current_output().note(
            f"{counted(found.tables_signed, 'table')} would demand no signatures; nothing was changed."
        )
        return
    _emit(admin.disable(url))


@signing.command()
def status() -> None:
    """Show whether signatures are demanded, on how many tables, which keys are accepted, and which is configured here."""
    from llmspell.ops import tenant_signing as admin

    settings = current_settings()
    found = admin.status(admin.admin_url_of(settings))
    configured = admin.configured_id(settings)
    lines = list(_lines(found))
    if configured is not None:
        accepted = any(key.id == configured for key in found.keys)
        lines.append(f"here     {configured}: configured, {'accepted' if accepted else 'not accepted'}")
    elif found.enforced:
        lines.append("here     no tenant key is configured")
    current_output().emit({**_document(found), "configured_key": configured}, lines=lambda: lines)
    if found.keys_lost:
        current_output().note(
            "This database was restored from a signed one. Run: llmspell database signing enable --key-file …"
        )


def _finish(url: str, *, dry_run: bool) -> None:
    from llmspell.ops import tenant_signing as admin

    found = admin.status(url)
    admin.require_enforced(found)
    old = ", ".join(key.id for key in found.keys if key.retired_at is not None)
    _emit(found if dry_run or not old else admin.finish(url), dry_run=dry_run)
    if not old:
        current_output().note("No rotation is under way, so there is nothing to finish; nothing was changed.")
    elif dry_run:
        current_output().note(f"{old} would be accepted no longer; nothing was changed.")


def _require_one_source(key_file: Path | None, out: Path | None) -> None:
    if key_file is not None and out is not None:
        raise click.UsageError("--out is for a key that is made; --key-file names one that exists")


def _require_new(out: Path | None) -> None:
    """Refuse, in a dry run, the file that `write_key` would refuse."""
    if out is not None and out.exists():
        raise FileExists("A key is never written over a file.", path=str(out), hint="Choose another name.")


def _made(out: Path | None) -> _Chosen:
    from llmspell.cli.commands.keys import write_key
    from llmspell.ops.tenant_signing import new_key, read_key

    made = new_key()
    if out is not None:
        write_key(out, made.reveal())
    return _Chosen(read_key(made, name="the new key"), made)


def _read(path: Path) -> _Chosen:
    from llmspell.ops.tenant_signing import read_key
    from llmspell.settings import Secret

    try:
        with path.open("rb") as stream:
            text = stream.read(FILE_MAX_BYTES).decode("utf-8", "replace")
    except OSError as exc:
        raise ConfigError(f"cannot read the key file {path}: {exc.strerror or exc}.") from exc
    return _Chosen(read_key(Secret(text), name=f"--key-file {path}"))


def _change(url: str, chosen: _Chosen | None, out: Path | None, change: Callable[[TenantKey], SigningStatus]) -> None:
    """Apply a change with the key that was read, or with a new one, which is in its place before anything demands it."""
    if chosen is not None:
        _emit(change(chosen.key))
        return
    if out is None and (current_options().json or not sys.stdout.isatty()):
        raise click.UsageError(
            "a key that is made is shown on a terminal only, for a pipe may lose it, or write it into a log:"
            " give --out FILE, or --key-file with a key that `signing new` has made"
        )
    chosen = _made(out)
    if chosen.made is not None and out is None:
        text = chosen.made.reveal()
        current_output().emit({}, lines=lambda: [text])
        sys.stdout.flush()
    try:
        after = change(chosen.key)
    except BaseException as exc:
        # Also Ctrl-C: whatever ends it, who has the key must hear whether the database knows it.
        _after_failure(url, chosen.key, out, certain=isinstance(exc, LlmspellError))
        raise
    if out is not None:
        current_output().note(
            f"The key is in {printable(str(out))}. Set LLMSPELL_TENANT_KEY_FILE to it, and keep a copy apart from backups."
        )
    _emit(after)


def _after_failure(url: str, key: TenantKey, out: Path | None, *, certain: bool) -> None:
    """Forget a key that nobody demands. One that may be demanded is kept: the connection can have broken behind the commit.

    `certain`: the change has ended; it was not interrupted.
    """
    from llmspell.ops import tenant_signing as admin

    known: bool | None = None
    if certain:
        try:
            known = any(one.id == key.id for one in admin.status(url).keys)
        except LlmspellError:
            known = None
    if known is False:
        if out is not None:
            out.unlink(missing_ok=True)
        else:
            current_output().note(f"The database does not know the key {key.id}: throw it away.")
        return
    says = "The database accepts" if known else "It is not known whether the database accepts"
    where = f" (in {printable(str(out))})" if out is not None else ""
    current_output().note(f"{says} the key {key.id}{where}: keep it, and see `llmspell database signing status`.")


def _document(found: SigningStatus) -> dict[str, object]:
    return {
        "enforced": found.enforced,
        "keys_lost": found.keys_lost,
        "tables": found.tables,
        "tables_signed": found.tables_signed,
        "keys": found.keys,
    }


def _emit(found: SigningStatus, *, dry_run: bool = False) -> None:
    current_output().emit({**_document(found), "dry_run": dry_run}, lines=lambda: _lines(found))


def _lines(found: SigningStatus) -> Iterable[str]:
    state = "keys lost" if found.keys_lost else "on" if found.enforced else "off"
    yield f"signing  {state}: {found.tables_signed} of {counted(found.tables, 'table')} demand it"
    for one in found.keys:
        state = (
            "current"
            if one.retired_at is None
            else f"old, replaced {one.retired_at:%Y-%m-%d %H:%M} UTC, still accepted"
        )
        yield f"key      {one.id}: {state}; made {one.created_at:%Y-%m-%d %H:%M} UTC"
