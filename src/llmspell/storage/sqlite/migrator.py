"""Migrations on a file: the lock, one transaction per file, and the rows that remember them.

Rule: a file is marked as ours in the transaction of the first migration, so that a half-opened file stays an empty one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, cast

import apsw

from llmspell.clock import Clock, from_microseconds, to_microseconds
from llmspell.errors import MigrationFailed
from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.relational import migrations
from llmspell.storage.relational.migrations import Applied, Migration, Plan, Recorded
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import control, open_only_to_look, open_writer, roll_back, translate

PACKAGE: Final = "llmspell.storage.sqlite"
RECORDED: Final = "SELECT version, name, sha256, applied_at FROM schema_migrations ORDER BY version"


@lru_cache(maxsize=1)
def known() -> tuple[Migration, ...]:
    """Return the migrations of this release, read once per process."""
    return migrations.load(PACKAGE)


def status(path: str, *, busy_timeout_s: float) -> MigrationStatus:
    """Compare the file with the migrations of this release. Blocks.

    Raises:
        SchemaTooNew, MigrationModified, MigrationError.
    """
    connection = open_writer(path, synchronous="FULL", busy_timeout_s=busy_timeout_s)
    try:
        return _status(_plan(connection))
    finally:
        connection.close()


def migrate(
    path: str,
    *,
    busy_timeout_s: float,
    clock: Clock,
    announce: Callable[[str], None] | None = None,
    to: int | None = None,
) -> MigrationStatus:
    """Apply pending migrations, each in a transaction of its own. Blocks.

    `announce` hears the name of each before it runs; `to` is the last version to apply, None for all.

    Processes that migrate at once take turns, file by file: each looks again after it has the lock.

    Raises:
        InvalidLimit: there is no version `to`.
        SchemaTooNew, MigrationModified, MigrationError: the file does not fit; nothing was changed.
        MigrationFailed: a migration did not run; those before it stay.
    """
    wanted = migrations.until(known(), to)
    connection = open_writer(path, synchronous="FULL", busy_timeout_s=busy_timeout_s)
    try:
        plan = _plan(connection)
        for _ in range(len(plan.pending)):
            if not plan.pending or plan.pending[0] not in wanted:
                break
            if announce is not None:
                announce(plan.pending[0].name)
            _apply_next(connection, clock)
            plan = _plan(connection)
        return _status(plan)
    finally:
        connection.close()


def recorded(path: str) -> list[Recorded]:
    """Return the rows of `schema_migrations`, whatever they say; none where there is no such table or no file. Changes nothing.

    Raises:
        NotADatabase, Unavailable, StorageError: the file cannot be read.
    """
    file = Path(path)
    if not file.is_file() or not file.stat().st_size:
        return []
    connection = open_only_to_look(path)
    try:
        started = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'").get
        rows = connection.execute(RECORDED).fetchall() if started else []
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()
    return [
        Recorded(version, name, sha256, from_microseconds(at))
        for version, name, sha256, at in cast("list[tuple[int, str, str, int]]", rows)
    ]


def _apply_next(connection: apsw.Connection, clock: Clock) -> None:
    control(connection, "PRAGMA foreign_keys = OFF")  # a table that is made anew is dropped under its references
    control(connection, "BEGIN IMMEDIATE")
    try:
        pending = _plan(connection).pending
        if pending:
            if pending[0].version == 1:
                pragmas.claim(connection)
                connection.execute(migrations.bookkeeping(PACKAGE))
            _run(connection, pending[0], clock)
        control(connection, "COMMIT")
    except apsw.Error as exc:
        raise translate(exc, connection) from exc
    finally:
        roll_back(connection)


def _run(connection: apsw.Connection, migration: Migration, clock: Clock) -> None:
    try:
        connection.execute(migration.sql)
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    except apsw.Error as exc:
        cause = translate(exc, connection)
        raise MigrationFailed(migration=migration.name, cause=str(exc)) from cause
    if broken:
        raise MigrationFailed(
            "The migration leaves references to rows that are gone.", migration=migration.name, rows=len(broken)
        )
    connection.execute(
        "INSERT INTO schema_migrations (version, name, sha256, applied_at) VALUES (:version, :name, :sha256, :now)",
        {
            "version": migration.version,
            "name": migration.name,
            "sha256": migration.sha256,
            "now": to_microseconds(clock.now()),
        },
    )


def _plan(connection: apsw.Connection) -> Plan:
    try:
        # Asked of the file: what the connection remembers of the schema may be older than its transaction.
        started = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'").get
        rows = connection.execute("SELECT version, name, sha256 FROM schema_migrations").fetchall() if started else []
    except apsw.Error as exc:
        raise translate(exc, connection) from exc
    return migrations.plan(known(), [Applied(*cast("tuple[int, str, str]", row)) for row in rows])


def _status(plan: Plan) -> MigrationStatus:
    names = [migration.name for migration in known()]
    done = len(names) - len(plan.pending)
    return MigrationStatus(version=plan.current_version, applied=tuple(names[:done]), pending=tuple(names[done:]))
