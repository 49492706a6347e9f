"""What a connection must be before it serves tenants: the right server, the extension, and a role that row-level security binds.

Rule: the check is one query and runs on every new connection, for the server behind an address may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.errors import MissingExtension, StorageError, UnsafeRole

if TYPE_CHECKING:
    import psycopg

SERVER_VERSION_MIN = 150_000
VECTOR_VERSION_MIN = (0, 8)
"""0.7 brings halfvec, 0.8 the iterative scans without which a filtered search starves small tenants."""
_FACTS = """
SELECT r.rolname::text, r.rolsuper, r.rolbypassrls, current_setting('server_version_num')::int4,
  (SELECT e.extversion::text FROM pg_catalog.pg_extension e WHERE e.extname = 'vector'),
  (SELECT t.oid::int8 FROM pg_catalog.pg_type t
     JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
     JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.oid = d.refobjid
   WHERE e.extname = 'vector' AND t.typname = 'vector'),
  EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p')
            AND pg_has_role(r.oid, c.relowner, 'MEMBER')),
  EXISTS (SELECT FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL unnest(p.polroles) AS named (oid)
          WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND p.polpermissive
            AND p.polname NOT IN ('tenant_isolation_select', 'tenant_isolation_insert',
              'tenant_isolation_update', 'tenant_isolation_delete')
            AND CASE WHEN named.oid = 0 THEN true ELSE pg_has_role(r.oid, named.oid, 'MEMBER') END),
  coalesce(current_setting('app.current_tenant_id', true), '') <> '',
  NOT r.rolsuper AND NOT r.rolbypassrls
    AND EXISTS (SELECT FROM pg_catalog.pg_policy p CROSS JOIN LATERAL unnest(p.polroles) AS named (oid)
                WHERE p.polname = 'tenant_signature' AND pg_has_role(r.oid, named.oid, 'USAGE')),
  extract(epoch FROM clock_timestamp())::float8,
  to_regnamespace('llmspell_private') IS NULL
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""


class Facts(msgspec.Struct, frozen=True):
    """What a connection says of itself. `vector_oid`: the type number of `vector` in this database. `signed`: this role must
    sign its tenants. `server_time_s`: the server's clock, in seconds since 1970. `keys_lost`: nothing is there to verify
    signatures by, as after a restore: a backup has no keys.

    Owners and policies are also those of roles that it could become by SET ROLE, not only of those it inherits.
    """

    role: str
    superuser: bool
    bypasses: bool
    server_version: int
    vector_version: str | None
    vector_oid: int | None
    owns_tables: bool
    other_policies: bool = False
    tenant_preset: bool = False
    signed: bool = False
    server_time_s: float = 0.0
    keys_lost: bool = False


async def read_facts(connection: psycopg.AsyncConnection[Any]) -> Facts:
    """Ask a connection who it is and where."""
    cursor = await connection.execute(_FACTS, prepare=False)
    row = await cursor.fetchone()
    if row is None:
        raise StorageError("The server does not know the role of this connection.")
    return Facts(*row)


def require_working(facts: Facts) -> None:
    """Refuse a connection to a server that cannot work.

    Raises:
        StorageError: the server is older than PostgreSQL 15.
        MissingExtension: `vector` is missing or older than 0.8.
    """
    if facts.server_version < SERVER_VERSION_MIN:
        raise StorageError(
            "The server is too old: PostgreSQL 15 or later is needed, 18 is recommended.",
            version=facts.server_version // 10_000,
        )
    if facts.vector_version is None or facts.vector_oid is None:
        raise MissingExtension(
            "The database has no extension `vector`.",
            hint="As an administrator, run in this database: CREATE EXTENSION vector SCHEMA public;",
        )
    if _version(facts.vector_version) < VECTOR_VERSION_MIN:
        raise MissingExtension(
            "The extension `vector` is too old: 0.8 or later is needed.",
            hint="As an administrator, run in this database: ALTER EXTENSION vector UPDATE;",
            version=facts.vector_version,
        )


def require_suitable(facts: Facts) -> None:
    """Refuse a connection on which tenants would not be safe, or which cannot work.

    Raises:
        StorageError, MissingExtension: as `require_working` says.
        UnsafeRole: the role is a superuser, has BYPASSRLS, owns the tables, is let past by a policy that is not a tenant's (the
            operator's), or starts with a tenant.
    """
    require_working(facts)
    why = _unbound(facts)
    if not why and facts.other_policies:
        why = "is or may become one that sees the rows of all tenants, such as `llmspell_operator`"
    _refuse(facts, why, "Serve as `llmspell_app`, and keep the owner for migrations (DATABASE_ADMIN_URL).")


def require_operator(facts: Facts) -> None:
    """Refuse a connection that is not the operator's: one that policies let work on all tenants, and nothing beyond.

    Raises:
        StorageError, MissingExtension: as `require_working` says.
        UnsafeRole: the role is a superuser, has BYPASSRLS, owns the tables, sees no other tenants, or starts with a tenant.
    """
    require_working(facts)
    why = _unbound(facts)
    if not why and not facts.other_policies:
        why = "is bound to single tenants, so it cannot work on all of them"
    _refuse(facts, why, "Give DATABASE_OPERATOR_URL the role `llmspell_operator`.")


def _unbound(facts: Facts) -> str:
    """Say why nothing would bind a role; empty when policies do."""
    if facts.superuser:
        return "is a superuser"
    if facts.bypasses:
        return "has BYPASSRLS"
    return "owns the tables, or is a member of the role that does" if facts.owns_tables else ""


def _refuse(facts: Facts, why: str, hint: str) -> None:
    if why:
        raise UnsafeRole(
            f"The role `{facts.role}` {why}, so tenants would not be kept apart by the database.", hint=hint
        )
    if facts.tenant_preset:
        raise UnsafeRole(
            f"A connection as `{facts.role}` starts with a tenant, so work without a tenant would see that one's rows.",
            hint="Run: ALTER ROLE … RESET app.current_tenant_id; the same for ALTER DATABASE and for options in the URL."
            " For a whole server: ALTER SYSTEM RESET app.current_tenant_id, or take it out of postgresql.conf; then"
            " SELECT pg_reload_conf().",
        )


def _version(text: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in text.split(".")[:2]]
    return parts[0], parts[1] if len(parts) > 1 else 0
