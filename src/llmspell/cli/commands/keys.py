"""`llmspell keys`: the master keys that seal secrets.

Not here: the secrets themselves (`api-keys`), credentials to us (`access-keys`).
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from llmspell.cli.output import current_output, group, printable
from llmspell.cli.session import current_settings
from llmspell.errors import FileExists, Unavailable


@group()
def keys() -> None:
    """Make and list the master keys that seal secrets."""


@keys.command()
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to a new file that you alone may read, and print only its id.",
)
def new(out: Path | None) -> None:
    """Make a master key. It is printed, or written to --out, and kept nowhere else.

    Set LLMSPELL_MASTER_KEY to it, or LLMSPELL_MASTER_KEY_FILE to its file.
    """
    from llmspell.security.keyring import new_master_key, read_keyring

    key = new_master_key()
    id = read_keyring(key).active or ""
    output = current_output()
    if out is None:
        output.emit({"id": id, "key": key.reveal()}, lines=lambda: [key.reveal()])
        return
    write_key(out, key.reveal())
    output.emit({"id": id, "file": str(out)}, lines=lambda: [id])
    output.note(
        f"Written to {printable(str(out))}. Set LLMSPELL_MASTER_KEY_FILE to it, and keep a copy apart from backups."
    )


@keys.command("list")
def list_() -> None:
    """List the ids of the configured master keys; the first one seals, all of them open."""
    from llmspell.security.keyring import read_keyring

    settings = current_settings()
    keyring = read_keyring(settings.security.master_keys)
    document = {"active": keyring.active, "keys": keyring.key_ids, "origin": settings.origin("security.master_keys")}
    current_output().emit(document, lines=lambda: keyring.key_ids)
    if keyring.active is None:
        current_output().note("No master key is configured: llmspell keys new")


def write_key(path: Path, text: str) -> None:
    """Write a key to a new file that its owner alone may read, and see it on the disk.

    Raises:
        FileExists: there is a file already.
        Unavailable: it cannot be made.
    """
    try:
        # Made with its rights, and never over something: a key that is lost is lost with all that it seals.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise FileExists("A key is never written over a file.", path=str(path), hint="Choose another name.") from exc
    except OSError as exc:
        raise Unavailable("The file cannot be made.", path=str(path), problem=exc.strerror) from exc
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
