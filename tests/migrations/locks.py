"""Run each migration on a database without rows, and note which locks it takes and which tables it writes anew.

`python -m tests.migrations.schemas` writes both `migration_locks.json` anew; a test compares them.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw
import psycopg

from llmspell.storage.relational.migrations import bookkeeping, load

SQLITE = "llmspell.storage.sqlite"
POSTGRES = "llmspell.storage.postgres"
STRENGTH = (
    *("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock"),
    *("ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
)
FROM_HERE = STRENGTH.index("RowExclusiveLock")
"""What only reads is not noted."""
TABLES = """
SELECT c.oid::int8, format('%I.%I', n.nspname, c.relname), pg_relation_filenode(c.oid)::int8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p') AND c.relname <> 'schema_migrations'
"""
LOCKS = """
SELECT relation::int8, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_MONTH = re.compile(r"(event_log)_\d{4}_\d{2}$")

Measured = dict[str, dict[str, Any]]


def locks_file(package: str) -> Path:
    return Path(str(files(package) / "migration_locks.json"))


def measure_postgres(admin_url: str) -> Measured:
    """Of an empty database, as its owner. It is migrated afterwards."""
    measured: Measured = {}
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(bookkeeping(POSTGRES).encode())
        for migration in load(POSTGRES):
            with connection.transaction():
                before = {oid: (name, node) for oid, name, node in connection.execute(TABLES).fetchall()}
                connection.execute(migration.sql.encode())
                after = {oid: node for oid, _, node in connection.execute(TABLES).fetchall()}
                locks: dict[str, int] = {}
                for oid, mode in connection.execute(LOCKS).fetchall():
                    if oid in before and STRENGTH.index(mode) >= FROM_HERE:
                        name = without_month(before[oid][0])
                        locks[name] = max(locks.get(name, 0), STRENGTH.index(mode))
                rewritten = {name for oid, (name, node) in before.items() if oid in after and after[oid] != node}
                dropped = {name for oid, (name, _) in before.items() if oid not in after}
            measured[migration.name] = {
                "locks": {name: in_words(STRENGTH[mode]) for name, mode in sorted(locks.items())},
                "rewrites": sorted(set(map(without_month, rewritten))),
                "drops": sorted(set(map(without_month, dropped))),
            }
    return measured


def measure_sqlite() -> Measured:
    """A migration locks the whole file for writers; what is measured is which tables are written anew."""
    measured: Measured = {}
    connection = apsw.Connection(":memory:")
    connection.execute(bookkeeping(SQLITE))
    for migration in load(SQLITE):
        before = roots(connection)
        connection.execute(migration.sql)
        after = roots(connection)
        measured[migration.name] = {
            "locks": {},
            "rewrites": sorted(name for name, root in before.items() if name in after and after[name] != root),
            "drops": sorted(before.keys() - after.keys()),
        }
    connection.close()
    return measured


def roots(connection: apsw.Connection) -> dict[str, int]:
    rows = connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {str(name): int(root) for name, root in rows}


def in_words(mode: str) -> str:
    """The name of a lock in the server's documentation: `AccessExclusiveLock` is ACCESS EXCLUSIVE."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


def without_month(name: str) -> str:
    return _MONTH.sub(r"\1_*", name)


def written(measured: Measured) -> str:
    return json.dumps(measured, indent=1, sort_keys=True) + "\n"
