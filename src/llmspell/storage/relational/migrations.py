"""Numbered migrations: which there are, and which a database still needs. Pure: nothing here runs SQL.

Not here: the lock, the transaction per file and the rows of `schema_migrations`; those belong to each dialect's driver.

Rule 1: files are numbered without gaps from V001, and a file is frozen once it has landed: its SHA-256 is kept with it.
Rule 2: everything applied is verified before anything runs; a database that knows more than the code is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Literal

import msgspec

from llmspell.errors import InvalidLimit, MigrationError, MigrationModified, SchemaTooNew

FOLDER = "migrations"
BOOKKEEPING = "schema_migrations.sql"
"""The file beside the numbered ones that creates the table of applied migrations; it runs first, and may run again."""
MEASURED = "migration_locks.json"
"""What each migration of a dialect locks and writes anew, measured on a database without rows."""
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


class Recorded(msgspec.Struct, frozen=True):
    """One row of `schema_migrations`, with the instant at which it was applied."""

    version: int
    name: str
    sha256: str
    applied_at: datetime


class MigrationState(msgspec.Struct, frozen=True, kw_only=True):
    """One migration, of this release or of the database.

    `applied`: it ran, and is the file that this release has. `modified`: what ran has another name or hash. `skipped`: it did not
    run, although later ones did. `unknown`: this release does not have it. `hash_ok` is None for one that did not run.
    """

    version: int
    name: str
    title: str
    state: Literal["applied", "pending", "modified", "skipped", "unknown"]
    applied_at: datetime | None
    hash_ok: bool | None


class TableLock(msgspec.Struct, frozen=True, kw_only=True):
    """A lock that a migration takes on a table that is there before it, by its name in the server's documentation."""

    table: str
    lock: str


class PlannedMigration(msgspec.Struct, frozen=True, kw_only=True):
    """A migration that would run, with what it was measured to do to a database without rows.

    `locks`: the strongest lock on each table that was there. `rewrites`: tables of which every row is written anew, so that it
    takes the longer the more rows there are. `drops`: tables that are gone after it, their rows having moved. `measured` is False
    for one of which nothing is known.
    """

    version: int
    name: str
    title: str
    locks: tuple[TableLock, ...]
    rewrites: tuple[str, ...]
    drops: tuple[str, ...]
    measured: bool
    sql: str


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


def described(package: str, pending: Iterable[Migration]) -> list[PlannedMigration]:
    """Say what migrations of a dialect would do, as it was measured when this release was made."""
    measured = json.loads((files(package) / MEASURED).read_text(encoding="utf-8"))
    return [_planned(migration, measured.get(migration.name)) for migration in pending]


def _planned(migration: Migration, measured: dict[str, Any] | None) -> PlannedMigration:
    known = measured or {"locks": {}, "rewrites": (), "drops": ()}
    return PlannedMigration(
        version=migration.version,
        name=migration.name,
        title=title_of(migration.name),
        locks=tuple(TableLock(table=table, lock=lock) for table, lock in known["locks"].items()),
        rewrites=tuple(known["rewrites"]),
        drops=tuple(known["drops"]),
        measured=measured is not None,
        sql=migration.sql,
    )


def title_of(name: str) -> str:
    """Return what a migration is about: "V013__hook_history" is "hook history"."""
    return name.partition("__")[2].replace("_", " ")


def states(migrations: Sequence[Migration], recorded: Iterable[Recorded]) -> list[MigrationState]:
    """Say of each migration what became of it. Unlike `plan` it takes every database as it is."""
    rows = {row.version: row for row in recorded}
    latest = max(rows, default=0)
    found = []
    for migration in migrations:
        row = rows.pop(migration.version, None)
        same = None if row is None else (row.name, row.sha256) == (migration.name, migration.sha256)
        found.append(
            MigrationState(
                version=migration.version,
                name=migration.name,
                title=title_of(migration.name),
                state="applied"
                if same
                else "modified"
                if row
                else "skipped"
                if migration.version < latest
                else "pending",
                applied_at=None if row is None else row.applied_at,
                hash_ok=same,
            )
        )
    found += [
        MigrationState(
            version=row.version,
            name=row.name,
            title=title_of(row.name),
            state="unknown",
            applied_at=row.applied_at,
            hash_ok=False,
        )
        for row in sorted(rows.values(), key=lambda row: row.version)
    ]
    return found


def until(migrations: Sequence[Migration], to: int | None) -> tuple[Migration, ...]:
    """Return the migrations up to a version; None means all.

    Raises:
        InvalidLimit: there is no such version.
    """
    if to is None:
        return tuple(migrations)
    if isinstance(to, bool) or not isinstance(to, int) or not 1 <= to <= len(migrations):
        raise InvalidLimit("to", f"must be a version from 1 to {len(migrations)}", given=to)
    return tuple(migrations[:to])


class MarkToMend(msgspec.Struct, frozen=True):
    """A migration whose row in `schema_migrations` is wrong or gone, and in which way."""

    migration: Migration
    why: str


def marks_to_mend(migrations: Sequence[Migration], recorded: Iterable[Recorded]) -> list[MarkToMend]:
    """Return the rows that a repair may set, once the schema is known to be right.

    One that is missing at the end is no such row: that migration is pending, and may do more than what can be seen in a schema.
    """
    by_version = {migration.version: migration for migration in migrations}
    found = []
    for state in states(migrations, recorded):
        if state.state == "modified":
            found.append(MarkToMend(by_version[state.version], "another name or hash is recorded"))
        elif state.state == "skipped":
            found.append(MarkToMend(by_version[state.version], "its row is gone, although later ones are there"))
    return found
