"""What stands around a dump that is restored: the roles, the extension, the database, and who may do it. Synchronous.

Not here: the dump itself and the programs that restore it (`ops.backup`).

Rule 1: a restore is one transaction. What it needs that is not of one database (roles, the database, the extension) is made before,
and bears being there already.
Rule 2: nothing is dropped but our two schemas, and not even they while something of somebody else's depends on them.
Rule 3: the signing keys of the target stay as they are.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmspell.errors import AccessRefused, Conflict, MissingExtension, StorageError
from llmspell.storage.postgres.migrate import LOCK_KEY, TURN_TIMEOUT, connected
from llmspell.storage.postgres.signing import LOCK_ATTEMPTS, LOCK_PAUSE_S, LOCK_TIMEOUT, PARTITIONS_TURN, refused
from llmspell.storage.postgres.snapshot import Role

if TYPE_CHECKING:
    import psycopg

SCRATCH: Final = "llmspell_verify_"
"""How databases are called in which backups are verified."""
SCRATCH_LOCK: Final = 0x4C53_5642
VERIFIER: Final = "llmspell_verifier"
IN_USE: Final = "a table of the store has been in use for too long"
"""What the server says when a restore does not get all tables: it tries for a minute or more."""
PATIENT_AFTER: Final = 10
PATIENT_TIMEOUT: Final = "3s"
# All at once, and each wait shorter than the server's before it looks for a deadlock: so we are the one that gives way, and no
# statement of a tenant is stopped. A failed attempt gives back what it had. Later attempts wait longer: an autovacuum makes way for
# those alone who have waited for that second.
_LOCK: Final = f"""
DO $lock$
DECLARE
    tables CONSTANT text := (SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p'));
BEGIN
    PERFORM set_config('lock_timeout', '{LOCK_TIMEOUT}', true);
    FOR attempt IN 1..{LOCK_ATTEMPTS} LOOP
        IF attempt > {PATIENT_AFTER} THEN
            PERFORM set_config('lock_timeout', '{PATIENT_TIMEOUT}', true);
        END IF;
        BEGIN
            EXECUTE 'LOCK TABLE ' || tables || ' IN ACCESS EXCLUSIVE MODE';
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF attempt = {LOCK_ATTEMPTS} THEN
                RAISE EXCEPTION '{IN_USE}';
            END IF;
            PERFORM pg_sleep({LOCK_PAUSE_S});
        END;
    END LOOP;
END
$lock$;
"""
_PLACE_OF_KEYS: Final = "DO $$ BEGIN PERFORM llmspell.prepare_tenant_signing(); END $$;"
_SERVING: Final = ("llmspell_app", "llmspell_operator")
_TARGET: Final = """
SELECT current_setting('server_version_num')::int4, r.rolname::text, r.rolsuper,
  to_regnamespace('llmspell') IS NOT NULL, to_regnamespace('llmspell_private') IS NOT NULL,
  has_database_privilege(current_database(), 'CREATE'),
  EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = 'vector')
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""
_SCHEMA_OWNER: Final = "SELECT pg_get_userbyid(nspowner)::text FROM pg_catalog.pg_namespace WHERE nspname = 'llmspell'"
_MAY_BECOME: Final = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = %s"
_KNOWN_ROLES: Final = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)"
# Views, functions and foreign keys of others: CASCADE would take them along.
_DEPENDENTS: Final = """
SELECT DISTINCT format('%I.%I', n.nspname, c.relname)::text
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class ours ON ours.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_class'::regclass
JOIN pg_catalog.pg_namespace o ON o.oid = ours.relnamespace AND o.nspname IN ('llmspell', 'llmspell_archive')
LEFT JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
JOIN pg_catalog.pg_class c ON c.oid = coalesce(w.ev_class, k.conrelid)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('llmspell', 'llmspell_archive') ORDER BY 1 LIMIT 3
"""
_ORDINARY: Final = "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s AND NOT rolsuper"
_SCRATCHES: Final = """
SELECT d.datname::text FROM pg_catalog.pg_database d WHERE starts_with(d.datname::text, %s)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid) ORDER BY 1
"""
_SCRATCH_LOCKS: Final = """
SELECT objid::int8 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %s
"""
_DATABASES: Final = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %s)"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A database that a backup may be restored into.

    `become`: the role that shall own everything, when it is not the one that connects. `missing_roles`: roles that the backup names
    and the server lacks.
    """

    server_major: int
    role: str
    superuser: bool
    become: str | None
    has_store: bool
    has_keys: bool
    has_vector: bool
    missing_roles: list[Role]


def look(url: str, *, owner: str, roles: Sequence[Role]) -> Target:
    """Look at a database before anything is restored into it, and change nothing.

    Raises:
        Conflict: something that is not ours depends on the store in it.
        AccessRefused: the role may not restore there.
        Unavailable, StorageError: it cannot be asked.
    """
    import psycopg

    with connected(url) as connection:
        try:
            row = connection.execute(_TARGET).fetchone()
            if row is None:
                raise StorageError("The server does not know the role of this connection.")
            version, role, superuser, has_store, has_keys, may_create, has_vector = row
            others = connection.execute(_DEPENDENTS).fetchall() if has_store else []
            if others:
                raise Conflict(
                    "Objects outside of the store depend on it, and a restore would drop them; nothing was changed.",
                    hint="Drop them first, and make them again after the restore.",
                    objects=", ".join(other[0] for other in others),
                )
            become = _owner(connection, role, owner, superuser=superuser, has_store=has_store)
            if not may_create and become is None:
                raise AccessRefused(
                    f"The role `{role}` may create nothing in this database.",
                    hint="Restore with DATABASE_ADMIN_URL, the role that owns the database.",
                )
            missing = _missing(connection, roles)
        except psycopg.Error as exc:
            raise refused(exc, connection.info.user) from exc
    return Target(
        server_major=version // 10_000,
        role=role,
        superuser=superuser,
        become=become,
        has_store=has_store,
        has_keys=has_keys,
        has_vector=has_vector,
        missing_roles=missing,
    )


def create_roles(url: str, roles: Sequence[Role], *, owner: str) -> str | None:
    """Make the roles that a backup names and the server lacks, without passwords, and return the role that shall own a new database
    of it; None is the one that connects.

    Raises:
        AccessRefused: the role may not; the hint says what an administrator must run.
        Unavailable, StorageError.
    """
    import psycopg
    from psycopg import sql

    with connected(url) as connection:
        try:
            missing = _missing(connection, roles)
            for one in missing:
                login = sql.SQL("LOGIN" if one.can_login else "NOLOGIN")
                creates = sql.SQL("CREATEROLE" if one.may_create_roles else "NOCREATEROLE")
                connection.execute(sql.SQL("CREATE ROLE {} {} {}").format(sql.Identifier(one.name), login, creates))
            row = connection.execute(_MAY_BECOME, (owner,)).fetchone()
        except psycopg.Error as exc:
            if exc.sqlstate != "42501":
                raise refused(exc, connection.info.user) from exc
            said = "; ".join(f"CREATE ROLE {one.name}{' LOGIN' if one.can_login else ''}" for one in missing)
            raise AccessRefused(
                f"The role `{connection.info.user}` may not create the roles that the backup names.",
                hint=f"As an administrator, run: {said};",
            ) from exc
    return owner if row is not None and row[0] else None


def create_verifier(url: str, *, owner: str) -> str | None:
    """Make the role that a backup is tried as, and return it: it sees every row, is a member of `owner`, and may do nothing else.

    None: a role called `owner` is a superuser on this server, and nobody becomes a member of it.

    Raises:
        AccessRefused, Unavailable, StorageError.
    """
    import psycopg
    from psycopg import sql

    with connected(url) as connection:
        try:
            if not connection.execute(_ORDINARY, (owner,)).fetchall():
                return None
            if not connection.execute(_KNOWN_ROLES, ([VERIFIER],)).fetchall():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS").format(sql.Identifier(VERIFIER)))
            granted = sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), sql.Identifier(VERIFIER))
            connection.execute(granted)
        except psycopg.Error as exc:
            raise refused(exc, connection.info.user) from exc
    return VERIFIER


@contextmanager
def scratch_database(url: str, *, owner: str | None) -> Iterator[str]:
    """Make a database that is dropped when the block ends, and give its name.

    As long as this process lives, a lock says so (`leftovers`), and it is taken before there is a database of that name.

    Raises:
        AccessRefused, Unavailable, StorageError.
    """
    import psycopg

    name = f"{SCRATCH}{secrets.token_hex(6)}"
    with connected(url) as holder:
        try:
            holder.execute("SELECT set_config('idle_session_timeout', '0', false)")
            holder.execute("SELECT pg_advisory_lock(%s, %s)", (SCRATCH_LOCK, _lock_of(name)))
        except psycopg.Error as exc:
            raise refused(exc, holder.info.user) from exc
        create_database(url, name, owner=owner)
        try:
            yield name
        finally:
            drop_database(url, name)


def leftovers(url: str) -> list[str]:
    """Return the databases that verifications of backups have left behind that were killed: nobody's lock says that it lives,
    and nobody is connected.

    Raises:
        Unavailable, StorageError.
    """
    import psycopg

    with connected(url) as connection:
        try:
            # In this order: a database that is seen was locked before.
            names = [row[0] for row in connection.execute(_SCRATCHES, (SCRATCH,)).fetchall()]
            held = {row[0] for row in connection.execute(_SCRATCH_LOCKS, (SCRATCH_LOCK,)).fetchall()}
        except psycopg.Error as exc:
            raise refused(exc, connection.info.user) from exc
    return [name for name in names if _lock_of(name) not in held]


def drop_leftovers(url: str) -> list[str]:
    """Drop what `leftovers` finds, except where somebody has connected since or this role may not, and return what was dropped.

    Raises:
        Unavailable, StorageError.
    """
    import psycopg
    from psycopg import sql

    gone = []
    for name in leftovers(url):
        with connected(url) as connection:
            try:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
            except (psycopg.errors.ObjectInUse, psycopg.errors.InsufficientPrivilege):
                continue
            except psycopg.Error as exc:
                raise refused(exc, connection.info.user) from exc
            gone.append(name)
    return gone


def _lock_of(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFF_FFFF


def create_extension(url: str, *, schema: str) -> None:
    """Make the extension `vector` in a database.

    Raises:
        MissingExtension: the role may not, or the server has no such package.
        Unavailable, StorageError.
    """
    import psycopg
    from psycopg import sql

    with connected(url) as connection:
        try:
            create = sql.SQL("CREATE EXTENSION IF NOT EXISTS vector SCHEMA {}")
            connection.execute(create.format(sql.Identifier(schema)))
        except psycopg.Error as exc:
            if exc.sqlstate in ("42501", "58P01", "0A000", "3F000"):
                raise MissingExtension(
                    "The database has no extension `vector`, and this role cannot create it.",
                    hint=f"As an administrator, run in this database: CREATE EXTENSION vector SCHEMA {schema};",
                ) from exc
            raise refused(exc, connection.info.user) from exc


def create_database(url: str, name: str, *, owner: str | None = None) -> bool:
    """Create a database on the server of `url`, unless it is there, and return whether it was created.

    Raises:
        AccessRefused: the role may not.
        Unavailable, StorageError.
    """
    import psycopg
    from psycopg import sql

    with connected(url) as connection:
        try:
            found = connection.execute(_DATABASES, (name,)).fetchone()
            if found is not None and found[0]:
                return False
            owned = sql.SQL(" OWNER {}").format(sql.Identifier(owner)) if owner is not None else sql.SQL("")
            connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), owned))
        except psycopg.Error as exc:
            raise refused(exc, connection.info.user) from exc
    return True


def drop_database(url: str, name: str) -> None:
    """Drop a database that `create_database` made.

    Raises:
        AccessRefused, Unavailable, StorageError.
    """
    import psycopg
    from psycopg import sql

    with connected(url) as connection:
        try:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        except psycopg.Error as exc:
            raise refused(exc, connection.info.user) from exc


def before(target: Target) -> str:
    """Return what runs before the dump, in the same transaction: it waits until it has every table, and drops what is replaced."""
    return f"""\
\\set ON_ERROR_STOP on
\\set QUIET on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL statement_timeout = 0;
SELECT pg_catalog.set_config('lock_timeout', '{TURN_TIMEOUT}', true) AS ignored \\gset
SELECT pg_catalog.pg_advisory_xact_lock({LOCK_KEY}) AS ignored \\gset
{PARTITIONS_TURN} AS ignored \\gset
{f"SET LOCAL ROLE {_quoted(target.become)};" if target.become else ""}
{_LOCK if target.has_store else ""}
DROP SCHEMA IF EXISTS llmspell_archive CASCADE;
DROP SCHEMA IF EXISTS llmspell CASCADE;
"""


def after(target: Target, *, signed: bool) -> str:
    """Return what runs behind the dump, up to the COMMIT. `signed`: the store demanded signatures when the backup was taken.

    A dump of schemas has no rights on the database itself, and no default rights that hold beyond a schema; V012 gives and takes
    some. Where signing keys have stayed, policies follow them. Where there never were any, the place for them is made, empty as
    V032 makes it; of a store that was signed it stays missing, which says that its keys are lost.
    """
    signing = """
DO $$
DECLARE
    isolated regclass;
BEGIN
    FOR isolated IN SELECT c.oid::regclass
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p') AND EXISTS (
            SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
    LOOP
        PERFORM llmspell.apply_tenant_rls(isolated);
    END LOOP;
END
$$;
"""
    rights = "".join(
        f"SELECT pg_catalog.format('GRANT CONNECT ON DATABASE %I TO {role}', pg_catalog.current_database()) \\gexec\n"
        for role in _SERVING
    )
    return f"""\
{signing if target.has_keys else "" if signed else _PLACE_OF_KEYS}
SELECT pg_catalog.format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', pg_catalog.current_database()) \\gexec
{rights}
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
COMMIT;
\\echo restored
"""


def _missing(connection: psycopg.Connection[Any], roles: Sequence[Role]) -> list[Role]:
    known = {found[0] for found in connection.execute(_KNOWN_ROLES, ([one.name for one in roles],)).fetchall()}
    return [one for one in roles if one.name not in known]


def _owner(
    connection: psycopg.Connection[Any], role: str, wanted: str, *, superuser: bool, has_store: bool
) -> str | None:
    """Return the role to become: the owner of the store that is there, or else the one that the backup names."""
    if has_store:
        row = connection.execute(_SCHEMA_OWNER).fetchone()
        wanted = wanted if row is None else row[0]
    if wanted in ("", role):
        return None
    row = connection.execute(_MAY_BECOME, (wanted,)).fetchone()
    if superuser or (row is not None and row[0]):
        return wanted
    if has_store:
        raise AccessRefused(
            f"The store belongs to the role `{wanted}`, and `{role}` is no member of it.",
            hint="Set DATABASE_ADMIN_URL to the role that owns the schema.",
        )
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
