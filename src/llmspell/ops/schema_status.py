"""Which migrations a store has and lacks, found out without changing it.

Opening a file applies what is pending, so whoever only wants to know looks at it here, read-only. A server says so itself:
it refuses to be opened while something is pending.

Rule: nothing is created and nothing is written, not even a missing file.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from llmspell.errors import InvalidUrl, NotADatabase, SchemaOutdated, Unavailable
from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.relational.migrations import Applied, load, plan

SQLITE_PACKAGE, POSTGRES_PACKAGE = "llmspell.storage.sqlite", "llmspell.storage.postgres"
SQLITE_SCHEME = "sqlite:///"
APPLIED = "SELECT version, name, sha256 FROM schema_migrations ORDER BY version"


def is_file(url: str) -> bool:
    """Say whether a store URL names a file."""
    return url.startswith(SQLITE_SCHEME)


def file_of(url: str) -> str:
    """Return the path of the file that a store URL names.

    Raises:
        InvalidUrl: it names none.
    """
    named = url.removeprefix(SQLITE_SCHEME)
    if "?" in named or named in ("", ":memory:"):
        raise InvalidUrl("The URL names no file.", url=url, hint="Use sqlite:///agent.db, or memory:// for tests.")
    return str(_path(url))


def missing_file(url: str) -> Path | None:
    """Return the file of a store that is not there, or None: it is there, cannot be looked at, or is no file at all."""
    named = url.removeprefix(SQLITE_SCHEME)
    if not is_file(url) or "?" in named or named in ("", ":memory:"):
        return None  # whoever opens it says what is wrong with such a URL
    path = _path(url)
    try:
        return None if path.exists() else path
    except OSError:
        return None


def status_of_file(url: str) -> MigrationStatus:
    """Compare a file with the migrations of this release; a missing or empty file lacks all of them.

    Raises:
        NotADatabase: it is something else.
        Unavailable: it cannot be read.
        SchemaTooNew, MigrationModified, MigrationError: what is applied does not fit this release.
    """
    path = _path(url)
    migrations = load(SQLITE_PACKAGE)
    applied = _applied(path) if path.is_file() and path.stat().st_size else []
    pending = plan(migrations, applied).pending
    return _status([migration.name for migration in migrations], len(migrations) - len(pending))


def require_current_file(url: str) -> None:
    """Refuse a file that lacks migrations, which opening it would apply; every other store is let pass.

    Raises:
        SchemaOutdated: names the first that is pending.
        NotADatabase, Unavailable, SchemaTooNew, MigrationModified, MigrationError: as `status_of_file`.
    """
    if not is_file(url):
        return
    found = status_of_file(url)
    if found.pending:
        raise SchemaOutdated(version=found.version, pending=len(found.pending), next=found.pending[0])


def _path(url: str) -> Path:
    return Path(unquote(url.removeprefix(SQLITE_SCHEME))).expanduser().absolute()


def _applied(path: Path) -> list[Applied]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone()
            rows = connection.execute(APPLIED).fetchall() if known else []
    except sqlite3.OperationalError as exc:
        raise Unavailable("The file cannot be read.", path=str(path), reason=str(exc)) from exc
    except sqlite3.DatabaseError as exc:
        raise NotADatabase(path=str(path)) from exc
    return [Applied(*row) for row in rows]


def _status(names: list[str], done: int) -> MigrationStatus:
    return MigrationStatus(version=done, applied=tuple(names[:done]), pending=tuple(names[done:]))
