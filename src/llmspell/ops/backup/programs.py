"""pg_dump, pg_restore and psql: where they are, whether they fit the server, and their output as a stream.

Rule 1: the programs come from one folder, and are at least as new as the server: an older pg_dump refuses, or misses what is new.
Rule 2: what they need to connect travels in their environment, with nothing of the caller's: a command line is for all to see.
Rule 3: a program that fails is an error with the end of what it said; one that we stop asking is ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Final, NamedTuple

from llmspell.errors import InvalidSetting, LlmspellError, StorageError, Unsupported
from llmspell.observe import redact
from llmspell.ops.postgres_installation import ENVIRONMENT, ServerAccount, program_folder

NAMES: Final = ("pg_dump", "pg_restore", "psql")
PIECE_BYTES: Final = 262_144
SAID_BYTES: Final = 16_384
SAID_LINES: Final = 8
LOOK_S: Final = 30.0
END_S: Final = 10.0
_RESTRICTED_SINCE: Final = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
_NUMBER: Final = re.compile(r"\) (\d+)")


class Programs(NamedTuple):
    """A folder with the programs of one version."""

    folder: Path
    major: int
    version: str

    @property
    def restricted(self) -> bool:
        """Whether its pg_restore has psql run nothing but statements, and no commands of its own (since these versions)."""
        minor = self.version.partition(".")[2]
        since = _RESTRICTED_SINCE.get(self.major, 0 if self.major > max(_RESTRICTED_SINCE) else sys.maxsize)
        return minor.isdigit() and int(minor) >= since


def find_programs(server_major: int, *, folder: str | None = None) -> Programs:
    """Return the programs for a server: those of its own version first, then newer ones.

    Raises:
        InvalidSetting: `folder` has none that fit.
        Unsupported: there are none on this machine that fit.
    """
    if folder is not None:
        chosen = _programs(Path(folder).expanduser())
        if chosen is None or chosen.major < server_major:
            raise InvalidSetting(
                f"`backup.programs_dir` has no pg_dump, pg_restore and psql of version {server_major} or later.",
                given=folder,
                found=None if chosen is None else chosen.version,
            )
        return chosen
    found = list(filter(None, map(_programs, _folders())))
    fitting = sorted((one for one in found if one.major >= server_major), key=lambda one: one.major)
    if fitting:
        return fitting[0]
    raise Unsupported(
        f"Backups of this server need pg_dump, pg_restore and psql of PostgreSQL {server_major} or later.",
        hint=f"Install the package postgresql-client-{server_major}, or set backup.programs_dir to their folder.",
        found=", ".join(one.version for one in found) or "none",
    )


def _folders() -> list[Path]:
    on_path = shutil.which("pg_dump")
    # Debian's pg_dump on the PATH is a wrapper that chooses a version by itself; behind it stand the real ones.
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    folders = [*([Path(on_path).parent] if on_path else []), *debian]
    # A client runs as whoever runs us; only a server refuses root.
    with contextlib.suppress(LlmspellError):  # the extra is not installed, or out of reach
        folders.append(program_folder(ServerAccount(os.geteuid(), os.getegid(), dropped=False)))
    return folders


@cache
def _programs(folder: Path) -> Programs | None:
    if not all((folder / name).is_file() for name in NAMES):
        return None
    versions = {_version(folder / name) for name in NAMES}
    if len(versions) != 1 or (version := versions.pop()) is None:
        return None
    return Programs(folder, int(version.partition(".")[0]), version)


def _version(program: Path) -> str | None:
    try:
        said = subprocess.run(  # noqa: S603
            [program, "--version"], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=LOOK_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = _NUMBER.search(said)
    return None if found is None else said[found.start(1) :].split()[0]


@contextlib.contextmanager
def running(
    programs: Programs, name: str, *arguments: str, environment: Mapping[str, str], feeds: bool
) -> Iterator[Running]:
    """Run a program while the block lasts, and end it when the block fails.

    `feeds`: the block writes to it, and not only reads. A program that goes wrong is noticed by `Running.finish`.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603
            [programs.folder / name, *arguments],
            env={**ENVIRONMENT, **environment},
            cwd="/",
            stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for us; we end it in an orderly way
        )
        try:
            yield Running(name, process, said)
        finally:
            _end(process)


class Running:
    """A program that runs."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._said = said

    def output(self) -> Iterator[bytes]:
        """Yield what it prints, to its end, and then see that it succeeded."""
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        while piece := self._process.stdout.read1(PIECE_BYTES):  # type: ignore[attr-defined]
            yield piece
        self.finish()

    def feed(self, pieces: Iterable[bytes]) -> None:
        """Write to it.

        Raises:
            StorageError: it stopped reading, which it does when something failed.
        """
        assert self._process.stdin is not None  # noqa: S101
        try:
            for piece in pieces:
                self._process.stdin.write(piece)
        except BrokenPipeError:
            self.finish()
            raise StorageError(f"{self._name} stopped reading.") from None

    def end_of_input(self) -> None:
        """Say that nothing follows."""
        assert self._process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self) -> None:
        """End it at once: what it was doing is not wanted any more."""
        self._process.kill()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            StorageError: it failed; with the end of what it said.
        """
        code = self._process.wait()
        if code:
            raise StorageError(f"{self._name} failed: {self._last_words()}", exit_code=code)

    def _last_words(self) -> str:
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - SAID_BYTES))
        text = self._said.read().decode(errors="replace")
        # DETAIL and CONTEXT may quote rows.
        lines = [
            line
            for line in text.splitlines()
            if line.strip() and not re.match(r".*\b(DETAIL|CONTEXT|STATEMENT|LINE \d+):", line)
        ]
        return redact("\n".join(lines[-SAID_LINES:])) or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
