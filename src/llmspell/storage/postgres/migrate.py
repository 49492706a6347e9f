"""Runs migrations, as the role that owns the schema. Synchronous: for the CLI, test fixtures, and a thread of the backend.

Rule 1: each migration is one transaction that takes the lock, looks again at what is applied, runs one file and records it. So two
processes may migrate at once, a pooler may stand in between, and a failure leaves the database as it was before that file.
Rule 2: everything applied is verified before anything runs.
Rule 3: serving roles never migrate: a role without the right to create is told which URL to use. Nor does a superuser: its
functions and tables would ignore row-level security.
Rule 4: a migration that cannot have a lock soon gives way, and tries again a bounded number of times.
Rule 5: nothing runs while vectors are on their way into partitions: a column that only one of the two tables had would make the
trigger between them refuse every write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspell.errors import InvalidLimit, LlmspellError, MigrationFailed, MissingExtension, SchemaOutdated, UnsafeRole
from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.postgres.errors import connection_failed, require_driver
from llmspell.storage.relational.migrations import Applied, Migration, Plan, bookkeeping, load, plan, until

if TYPE_CHECKING:
    import psycopg

    from llmspell.storage.postgres.address import Target

PACKAGE = "llmspell.storage.postgres"
LOCK_KEY = 0x6C6C_6D73_7065_6C6C  # "llmspell" in ASCII
TURN_TIMEOUT = "600s"
"""How long to wait for another process that migrates."""
LOCK_TIMEOUT_S = 5.0
"""How long a migration waits for a lock on a table: whoever comes after it waits behind it, so it must not wait long."""
LOCK_TIMEOUT_MAX_S = 3_600.0
LOCK_ATTEMPTS = 12
LOCK_PAUSE_S = 2.0
"""Between two attempts: others get their turn."""
_BUSY = frozenset({"55P03", "40P01"})
"""A lock that was not to be had in time, or only by somebody who waits for one of ours."""
_TURN = "schema_migrations"  # what runs before a migration: waiting for the turn, and the bookkeeping
_ROLE = "SELECT rolname::text, rolsuper, rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
TABLE_EXISTS = "SELECT to_regclass('llmspell.schema_migrations') IS NOT NULL"
APPLIED = "SELECT version::int8, name::text, sha256::text FROM llmspell.schema_migrations ORDER BY version"
_MOVING = r"""
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'llmspell' AND c.relname ~ '^vector_embeddings_\d+_parted$' ORDER BY c.relname LIMIT 1
"""
_LIMIT_LOCKS = "SELECT set_config('lock_timeout', %s, true)"
_RECORD = "INSERT INTO llmspell.schema_migrations (version, name, sha256) VALUES (%s, %s, %s)"
_OWN_ERRORS: dict[str, type[LlmspellError]] = {"LS307": UnsafeRole, "LS308": MissingExtension}
"""SQLSTATEs that our migrations raise with a hint of their own."""


def migrate(
    admin_url: str,
    *,
    announce: Callable[[str], None] | None = None,
    to: int | None = None,
    lock_timeout_s: float | None = None,
) -> MigrationStatus:
    """Apply what is pending, and return what there is then. `announce` hears the name of each migration before it runs.

    Args:
        to: the last version to apply; None: all.
        lock_timeout_s: how long a migration waits for a lock on a table before it gives way and tries again; None: 5 s.

    Raises:
        InvalidLimit: there is no such version, or the time is not from a millisecond to an hour.
        Unavailable, StorageError: the server cannot be reached as this role.
        UnsafeRole: the role is a superuser or has BYPASSRLS, or leaves the serving roles rights that they must not have.
        MissingExtension: an administrator must create `vector` first.
        MigrationModified, SchemaTooNew, MigrationError: what is applied does not fit this release; nothing ran.
        MigrationFailed: names the migration and what the server said, or that a move of vectors into partitions is not finished;
            earlier ones stay applied.
    """
    migrations = load(PACKAGE)
    wanted = until(migrations, to)
    turn = _Turn(wanted, migrations, lock_timeout=_lock_timeout(lock_timeout_s))
    with connected(admin_url) as connection:
        _require_suitable(connection)
        for _ in range(len(wanted) + 1):
            if _apply_patiently(connection, turn, announce) is None:
                break
        return summary(migrations, plan(migrations, _applied(connection)))


def status(url: str) -> MigrationStatus:
    """Compare a database with the migrations of this release; any role may ask.

    Raises:
        Unavailable, StorageError, MigrationModified, SchemaTooNew, MigrationError.
    """
    migrations = load(PACKAGE)
    with connected(url) as connection:
        return summary(migrations, plan(migrations, _applied(connection)))


def summary(migrations: tuple[Migration, ...], compared: Plan) -> MigrationStatus:
    """Say by name what is applied and what is pending."""
    count = len(migrations) - len(compared.pending)
    return MigrationStatus(
        version=compared.current_version,
        applied=tuple(migration.name for migration in migrations[:count]),
        pending=tuple(migration.name for migration in compared.pending),
    )


def require_current(found: MigrationStatus) -> None:
    """Raise `SchemaOutdated` when something is pending."""
    if found.pending:
        raise SchemaOutdated(
            hint="Run: llmspell database migrate (with DATABASE_ADMIN_URL, the role that owns the schema).",
            version=found.version,
            pending=len(found.pending),
            next=found.pending[0],
        )


def connected(url: str) -> psycopg.Connection[Any]:
    """Connect, in autocommit mode, without prepared statements. A transaction is READ COMMITTED, whatever the server's default is:
    each statement sees what others have written before it, once it has waited for them.

    Raises:
        MissingExtra, InvalidUrl.
        Unavailable, StorageError: the server cannot be reached as this role.
    """
    require_driver()
    import psycopg

    from llmspell.storage.postgres.address import read_url

    target: Target = read_url(url)
    try:
        connection = psycopg.connect(autocommit=True, prepare_threshold=None, **target.parameters)
    except (psycopg.Error, OSError) as exc:
        raise connection_failed(exc, target=target.shown) from None
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


def _applied(connection: psycopg.Connection[Any]) -> list[Applied]:
    exists = connection.execute(TABLE_EXISTS).fetchone()
    if exists is None or not exists[0]:
        return []
    return [Applied(*row) for row in connection.execute(APPLIED).fetchall()]


def _require_suitable(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(_ROLE).fetchone()
    if row is not None and (row[1] or row[2]):
        why = "is a superuser" if row[1] else "has BYPASSRLS"
        raise UnsafeRole(
            f"The role `{row[0]}` {why}: what it owned would ignore row-level security.",
            hint="Migrate as `llmspell`: CREATE ROLE llmspell LOGIN CREATEROLE; ALTER DATABASE … OWNER TO llmspell;",
        )


class _Turn(NamedTuple):
    """What a call of `migrate` applies at most, all that this release has, and how long a lock is waited for."""

    wanted: tuple[Migration, ...]
    known: tuple[Migration, ...]
    lock_timeout: str


def _lock_timeout(given: float | None) -> str:
    seconds = LOCK_TIMEOUT_S if given is None else given
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.001 <= seconds <= LOCK_TIMEOUT_MAX_S:
        limit = f"must be from 0.001 to {LOCK_TIMEOUT_MAX_S:,.0f} seconds"
        raise InvalidLimit("lock_timeout_s", limit, given=seconds)
    return f"{round(seconds * 1_000)}ms"


def _apply_patiently(
    connection: psycopg.Connection[Any], turn: _Turn, announce: Callable[[str], None] | None
) -> Migration | None:
    import psycopg

    for _ in range(LOCK_ATTEMPTS - 1):
        try:
            return _apply_next(connection, turn, announce)
        except MigrationFailed as exc:
            cause = exc.__cause__
            busy = isinstance(cause, psycopg.Error) and cause.sqlstate in _BUSY
            if not busy or exc.fields.get("migration") == _TURN:
                raise
        announce = None  # it was heard
        time.sleep(LOCK_PAUSE_S)
    return _apply_next(connection, turn, announce)


def _apply_next(
    connection: psycopg.Connection[Any], turn: _Turn, announce: Callable[[str], None] | None
) -> Migration | None:
    """Apply the first pending migration, and return it; None when there is none."""
    import psycopg

    running = _TURN
    try:
        with connection.transaction():
            connection.execute(_LIMIT_LOCKS, (TURN_TIMEOUT,))
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
            connection.execute(_LIMIT_LOCKS, (turn.lock_timeout,))
            pending = plan(turn.known, _applied(connection)).pending
            if not pending or pending[0] not in turn.wanted:
                return None
            _require_no_move(connection, pending[0])
            migration = pending[0]
            if migration.version == turn.known[0].version:
                connection.execute(bookkeeping(PACKAGE).encode())
            running = migration.name
            if announce is not None:
                announce(migration.name)
            connection.execute(migration.sql.encode())
            connection.execute(_RECORD, (migration.version, migration.name, migration.sha256))
    except psycopg.Error as exc:
        raise _failed(exc, running, connection.info.user) from exc
    return migration


def _require_no_move(connection: psycopg.Connection[Any], migration: Migration) -> None:
    """Refuse while a move of vectors is not finished. A move begins under the lock of migrations, so none begins meanwhile."""
    row = connection.execute(_MOVING).fetchone()
    if row is None:
        return
    dimension = row[0].removeprefix("vector_embeddings_").removesuffix("_parted")
    raise MigrationFailed(
        f"The vectors of {dimension} dimensions are on their way into partitions; no migration runs until that is over.",
        hint=f"Give the move up: llmspell database partition-vectors --dimension {dimension} --abandon. Or finish it, with the same"
        " command and number of partitions, and migrate then.",
        table=row[0],
        migration=migration.name,
    )


def _failed(exc: psycopg.Error, migration: str, role: str) -> LlmspellError:
    message, hint = exc.diag.message_primary or str(exc), exc.diag.message_hint or ""
    if (known := _OWN_ERRORS.get(exc.sqlstate or "")) is not None:
        return known(f"{message[:1].upper()}{message[1:]}.", hint=hint)
    if exc.sqlstate == "42501":
        return MigrationFailed(
            f"The role `{role}` lacks the rights to change the schema: {message}.",
            hint=hint or "Migrate with DATABASE_ADMIN_URL, the role that owns the database; serving roles cannot.",
            migration=migration,
        )
    if exc.sqlstate in _BUSY:
        return MigrationFailed(
            "Another process has been migrating, or using a table, for too long.",
            hint="Migrate again when long transactions have ended (pg_stat_activity shows them).",
            migration=migration,
        )
    return MigrationFailed(f"The migration {migration} did not run: {message}.", hint=hint, sqlstate=exc.sqlstate)
