"""`llmspell database signing`: the strict mode of a server, in which a tenant counts only when it is signed.

Not here: what the mode does to the database (`ops.tenant_signing`), what it protects from (docs/explanation/isolation.md).

Rule 1: a new key is printed once, or written to a new file; nothing else keeps it. It is written before the database knows it, so
that no database ever demands a key that nobody has.
Rule 2: a dry run changes nothing, and makes no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from llmspell.cli.output import counted, current_output, group, printable
from llmspell.cli.session import current_settings
from llmspell.errors import ConfigError

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
    --key-file: so no application is ever without the key that the database demands.
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

    Applications without the key are refused at once. A repetition with the same key changes nothing.
    """
    from llmspell.ops import tenant_signing as admin

    url = admin.admin_url_of(current_settings())
    found = admin.status(url)
    if dry_run:
        missing = found.tables - found.tables_signed
        _emit(found, dry_run=True)
        current_output().note(f"{counted(missing, 'table')} would demand signatures; nothing was changed.")
        return
    if key_file is None and found.enforced:
        # The key in force was given out when it was made; another one would be refused anyway.
        raise click.UsageError(
            "tenants are signed already: give the key by --key-file to mend tables, or replace it by rotate"
        )
    _change(key_file, out, lambda key: admin.enable(url, key))


@signing.command()
@click.option("--key-file", metavar="FILE", type=_FILE, help="The key to change to; without it one is made.")
@click.option("--out", metavar="FILE", type=_FILE, help="Write the key that is made to a new file, not to stdout.")
@click.option("--finish", is_flag=True, help="End a rotation: the old key is accepted no longer.")
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
def rotate(key_file: Path | None, out: Path | None, finish: bool, dry_run: bool) -> None:
    """Change to a new key. Both are accepted until you finish the rotation, when every application has the new one."""
    from llmspell.ops import tenant_signing as admin

    if finish and (key_file or out):
        raise click.UsageError("--finish takes no key")
    url = admin.admin_url_of(current_settings())
    if dry_run:
        found = admin.status(url)
        _emit(found, dry_run=True)
        old = [key.id for key in found.keys if (key.retired_at is not None) == finish]
        said = f"{', '.join(old) or 'no key'} would {'be accepted no longer' if finish else 'be replaced, and still be accepted'}"
        current_output().note(f"{said}; nothing was changed.")
    elif finish:
        _emit(admin.finish(url))
    else:
        _change(key_file, out, lambda key: admin.rotate(url, key))


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
    """Show whether signatures are demanded, on how many tables, and which keys are accepted."""
    from llmspell.ops import tenant_signing as admin

    _emit(admin.status(admin.admin_url_of(current_settings())))


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


def _change(key_file: Path | None, out: Path | None, change: Callable[[TenantKey], SigningStatus]) -> None:
    """Apply a change with a key from a file, or with a new one that is shown once."""
    if key_file is not None and out is not None:
        raise click.UsageError("--out is for a key that is made; --key-file names one that exists")
    if key_file is not None:
        _emit(change(_read(key_file).key))
        return
    chosen = _made(out)
    try:
        after = change(chosen.key)
    except BaseException:
        if out is not None:
            out.unlink(missing_ok=True)  # nobody demands it
        raise
    _emit(after, key=chosen.made if out is None else None)
    if out is not None:
        current_output().note(
            f"The key is in {printable(str(out))}. Set LLMSPELL_TENANT_KEY_FILE to it, and keep a copy apart from backups."
        )


def _emit(found: SigningStatus, *, key: Secret | None = None, dry_run: bool = False) -> None:
    document: dict[str, object] = {
        "enforced": found.enforced,
        "tables": found.tables,
        "tables_signed": found.tables_signed,
        "keys": found.keys,
        "dry_run": dry_run,
    }
    if key is not None:
        document["key"] = key.reveal()
    current_output().emit(document, lines=lambda: _lines(found, key))


def _lines(found: SigningStatus, key: Secret | None) -> Iterable[str]:
    if key is not None:
        yield key.reveal()
    yield f"signing  {'on' if found.enforced else 'off'}: {found.tables_signed} of {counted(found.tables, 'table')} demand it"
    for one in found.keys:
        state = (
            "current"
            if one.retired_at is None
            else f"old, replaced {one.retired_at:%Y-%m-%d %H:%M} UTC, still accepted"
        )
        yield f"key      {one.id}: {state}; made {one.created_at:%Y-%m-%d %H:%M} UTC"
