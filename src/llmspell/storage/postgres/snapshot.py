"""What a database holds at one instant, for a dump of that same instant; and what must be there before a dump is restored.

Synchronous, for the command line and a worker's thread. Not here: the programs that dump and restore (`ops.backup`).

Rule 1: digests are computed in the snapshot that `pg_dump` is given, so they say what the dump should hold.
Rule 2: a role that does not see every row of every table is refused: its dump would be empty, and no program would say so.
Rule 3: a digest is of the rows as a set, computed by the server: the sum of their SHA-256, in a text form that no setting changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmspell.errors import SchemaOutdated, StorageError, UnsafeRole
from llmspell.storage.contracts.snapshot import StoreFacts, TableDigest
from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.signing import refused

if TYPE_CHECKING:
    import psycopg

SCHEMAS: Final = ("llmspell", "llmspell_archive")
"""What a backup holds. The schema of the signing keys is not in it: whoever finds a backup must not be able to sign."""
PRIVATE_SCHEMA: Final = "llmspell_private"
_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_EXPORT: Final = "SELECT pg_export_snapshot()"
# What a row looks like as text depends on these.
_FORMS: Final = """
SELECT set_config('DateStyle', 'ISO, YMD', true), set_config('TimeZone', 'UTC', true),
  set_config('IntervalStyle', 'postgres', true), set_config('extra_float_digits', '1', true),
  set_config('bytea_output', 'hex', true), set_config('search_path', '', true),
  set_config('statement_timeout', '0', true), set_config('transaction_timeout', '0', true),
  set_config('idle_in_transaction_session_timeout', '0', true)
"""
_FORMS_BEFORE_17: Final = _FORMS.replace(" set_config('transaction_timeout', '0', true),", "")
_HAS_SCHEMA: Final = "SELECT to_regclass('llmspell.schema_migrations') IS NOT NULL"
_UNSEEN: Final = """
SELECT format('%I.%I', n.nspname, c.relname)::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p') AND (
  NOT has_table_privilege(c.oid, 'SELECT')
  OR row_security_active(c.oid) AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_policy p CROSS JOIN LATERAL unnest(p.polroles) AS named (oid)
    WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
      AND pg_get_expr(p.polqual, p.polrelid) = 'true' AND named.oid <> 0 AND pg_has_role(named.oid, 'USAGE')))
ORDER BY 1 LIMIT 1
"""
# One statement for each table that has rows itself; the server writes the names into it.
_DIGESTS: Final = """
SELECT format('%I.%I', n.nspname, c.relname)::text, format(
  'SELECT count(*)::int8, coalesce(sum((''x'' || substr(h, 1, 16))::bit(64)::int8::numeric), 0)::text'
  ', coalesce(sum((''x'' || substr(h, 17, 16))::bit(64)::int8::numeric), 0)::text'
  ', coalesce(sum((''x'' || substr(h, 33, 16))::bit(64)::int8::numeric), 0)::text'
  ', coalesce(sum((''x'' || substr(h, 49, 16))::bit(64)::int8::numeric), 0)::text'
  ' FROM (SELECT encode(sha256(convert_to(t::text, ''UTF8'')), ''hex'') AS h FROM ONLY %I.%I AS t) AS hashed', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind = 'r' ORDER BY 1
"""
_VERSION: Final = "SELECT coalesce(max(version), 0)::int4 FROM llmspell.schema_migrations"
_STORE_ID: Final = "SELECT encode(value, 'hex') FROM llmspell.store_meta WHERE name = 'store_id'"
_TENANTS: Final = "SELECT tenant_id::text FROM llmspell.tenants ORDER BY tenant_id"
_SURROUNDINGS: Final = """
SELECT current_setting('server_version_num')::int4, pg_get_userbyid(s.nspowner)::text,
  (SELECT e.extversion::text FROM pg_catalog.pg_extension e WHERE e.extname = 'vector'),
  (SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
   WHERE e.extname = 'vector'),
  EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polname = 'tenant_signature')
FROM pg_catalog.pg_namespace s WHERE s.nspname = 'llmspell'
"""
_ROLES: Final = """
SELECT DISTINCT r.rolname::text, r.rolcanlogin, r.rolcreaterole
FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND r.rolname !~ '^pg_'
  AND d.dbid = (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = current_database())
ORDER BY 1
"""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A role that something in the database depends on."""

    name: str
    can_login: bool
    may_create_roles: bool


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is held open. `id` is what `pg_dump --snapshot` takes; `server_major` such as 18."""

    id: str
    facts: StoreFacts
    server_major: int
    owner: str
    roles: list[Role]
    signed: bool
    vector_schema: str


@contextmanager
def held_snapshot(url: str, *, going_on: Callable[[], None] = lambda: None) -> Iterator[Snapshot]:
    """Hold one snapshot of a database open while the block runs, and say what it holds. The role must see every row.

    Raises:
        UnsafeRole: the role does not see every row.
        SchemaOutdated: there is no schema of llmspell.
        Unavailable, StorageError, AccessRefused: the database cannot be read as this role.
    """
    with _reading(url) as connection:
        exported = _value(connection, _EXPORT)
        facts = _facts(connection, going_on)
        server, owner, extension, vector_schema, signed = _row(connection, _SURROUNDINGS)
        version = connection.info.parameter_status("server_version") or ""
        facts = msgspec.structs.replace(facts, software={"postgresql": version, "vector": extension or ""})
        yield Snapshot(
            id=exported,
            facts=facts,
            server_major=server // 10_000,
            owner=owner,
            roles=[
                Role(name=name, can_login=login, may_create_roles=creates)
                for name, login, creates in connection.execute(_ROLES).fetchall()
            ],
            signed=signed,
            vector_schema=vector_schema or "public",
        )


def program_environment(url: str) -> dict[str, str]:
    """Return the variables by which a program of PostgreSQL connects as we do: a command line would show a password to others.

    What came from the environment, a service file or a password file is among them.

    Raises:
        InvalidUrl, AccessRefused, Unavailable.
    """
    from psycopg import pq

    with connected(url) as connection:
        given = {**connection.info.get_parameters(), "password": connection.info.password}
    known = {option.keyword.decode(): option.envvar for option in pq.Conninfo.get_defaults()}
    named = {name: known.get(name) for name in given}
    return {variable.decode(): str(given[name]) for name, variable in named.items() if variable and given[name]}


def facts_of(url: str) -> StoreFacts:
    """Say what a database holds, in one snapshot. Errors: as `held_snapshot`."""
    with _reading(url) as connection:
        return _facts(connection, lambda: None)


@contextmanager
def _reading(url: str) -> Iterator[psycopg.Connection[Any]]:
    import psycopg

    with connected(url) as connection:
        try:
            connection.execute(_BEGIN)
            connection.execute(_FORMS if connection.info.server_version >= 170_000 else _FORMS_BEFORE_17)
            if not _value(connection, _HAS_SCHEMA):
                raise SchemaOutdated("The database has no schema of llmspell.", target=connection.info.dbname)
            unseen = connection.execute(_UNSEEN).fetchone()
            if unseen is not None:
                raise UnsafeRole(
                    f"The role `{connection.info.user}` does not see every row of {unseen[0]}: its dump would lack them, and"
                    " nothing would say so.",
                    hint="Back up as `llmspell_operator` (DATABASE_OPERATOR_URL).",
                )
            yield connection
            connection.execute("ROLLBACK")
        except psycopg.Error as exc:
            raise refused(exc, connection.info.user) from exc


def _facts(connection: psycopg.Connection[Any], going_on: Callable[[], None]) -> StoreFacts:
    tables = []
    for name, statement in connection.execute(_DIGESTS).fetchall():
        going_on()
        count, *sums = _row(connection, statement.encode())
        tables.append(TableDigest(name, count, hashlib.sha256("/".join(sums).encode()).hexdigest()))
    return StoreFacts(
        schema_version=_value(connection, _VERSION),
        store_id=_value(connection, _STORE_ID) or "",
        tenants=[row[0] for row in connection.execute(_TENANTS).fetchall()],
        tables=tables,
        software={},
    )


def _row(connection: psycopg.Connection[Any], query: Any) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    if row is None:
        raise StorageError("The database does not say what it is.", database=connection.info.dbname)
    return tuple(row)


def _value(connection: psycopg.Connection[Any], query: Any) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
