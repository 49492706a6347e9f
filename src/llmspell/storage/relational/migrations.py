"""Numbered migrations: which there are, and which a database still needs. Pure: nothing here runs SQL.

Not here: the lock, the transaction per file and the rows of `schema_migrations`; those belong to each dialect's driver.

Rule 1: files are numbered without gaps from V001, and a file is frozen once it has landed: its SHA-256 is kept with it.
Rule 2: everything applied is verified before anything runs; a database that knows more than the code is left alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

import msgspec

from llmspell.errors import MigrationError, MigrationModified, SchemaTooNew

FOLDER = "migrations"
BOOKKEEPING = "schema_migrations.sql"
"""The file beside the numbered ones that creates the table of applied migrations; it runs first, and may run again."""
_FILE = re.compile(r"^(?P<name>V(?P<version>\d{3})__[a-z0-9]+(?:_[a-z0-9]+)*)\.sql$")


class Migration(msgspec.Struct, frozen=True):
    """One file. `name` is its stem ("V013__hook_history"), `sha256` the digest of `sql` in UTF-8, as 64 hex digits."""

    version: int
    name: str
    sql: str
    sha256: str


class Applied(msgspec.Struct, frozen=True):
    """One row of `schema_migrations`."""

    version: int
    name: str
    sha256: str


class Plan(msgspec.Struct, frozen=True):
    """What a database needs: `pending` in the order to run; `current_version` is what it has (0 when empty)."""

    pending: tuple[Migration, ...]
    current_version: int


def load(package: str) -> tuple[Migration, ...]:
    """Return the migrations in the folder `migrations` of `package` (a dialect's package), by number.

    Line ends are normalised before hashing, so that a checkout with other line ends is the same migration.

    Raises:
        MigrationError: a file with another form of name, a number twice, or a gap in the numbers.
    """
    found: list[Migration] = []
    for entry in (files(package) / FOLDER).iterdir():
        if not entry.name.endswith(".sql") or entry.name == BOOKKEEPING:
            continue
        match = _FILE.match(entry.name)
        if match is None:
            raise MigrationError("A migration is named V<three digits>__<words_in_lower_case>.sql.", file=entry.name)
        sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
        found.append(Migration(int(match["version"]), match["name"], sql, hashlib.sha256(sql.encode()).hexdigest()))
    found.sort(key=lambda migration: (migration.version, migration.name))
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise MigrationError(
                "Migrations are numbered from V001 without gaps, each number once.",
                file=migration.name,
                expected=f"V{expected:03}",
            )
    return tuple(found)


def bookkeeping(package: str) -> str:
    """Return the SQL that creates `schema_migrations` where it is missing."""
    return (files(package) / FOLDER / BOOKKEEPING).read_text(encoding="utf-8")


def plan(migrations: Sequence[Migration], applied: Iterable[Applied]) -> Plan:
    """Compare the files with what a database has, and return what remains to run.

    Raises:
        SchemaTooNew: it has migrations beyond the last file.
        MigrationModified: an applied migration has another name or hash than its file.
        MigrationError: an earlier migration was never applied, although later ones were.
    """
    rows = sorted(applied, key=lambda row: row.version)
    latest = migrations[-1].version if migrations else 0
    if rows and rows[-1].version > latest:
        raise SchemaTooNew(
            f"The database is at schema version {rows[-1].version}, and this llmspell knows up to {latest}.",
            applied=rows[-1].name,
        )
    for row, migration in zip(rows, migrations, strict=False):
        if row.version != migration.version:
            raise MigrationError(
                "A migration is missing among those applied; the database was not migrated by llmspell alone.",
                hint="Restore the database from a backup, or apply the missing migration by hand and record it.",
                missing=migration.name,
            )
        if row.name != migration.name or row.sha256 != migration.sha256:
            raise MigrationModified(name=migration.name, applied=row.sha256, file=migration.sha256)
    return Plan(tuple(migrations[len(rows) :]), rows[-1].version if rows else 0)
