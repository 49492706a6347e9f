"""What a database says of its tenant isolation, asked through the very path that serves tenants (RLS-08).

Not here: what of it is a hole (`ops.isolation`).

Rule 1: the tenant is looked up inside a real unit of work, on a connection of a real pool: another way would prove nothing.
Rule 2: an unsafe role is connected all the same: this is where one finds out.
Rule 3: nothing is written, and no row of a tenant is read: only their number, where no tenant is bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmspell.clock import SystemClock
from llmspell.errors import SignatureRefused
from llmspell.storage.postgres.errors import require_driver
from llmspell.storage.postgres.migrate import require_current
from llmspell.storage.postgres.schema_status import read_status
from llmspell.storage.postgres.statements import bind_texts, fixed
from llmspell.storage.postgres.tenancy import rls_audit
from llmspell.storage.relational.catalog import parse
from llmspell.tenant import TenantId

if TYPE_CHECKING:
    from llmspell.settings import Secret
    from llmspell.storage.postgres.database import Database
    from llmspell.storage.postgres.link import Link
    from llmspell.storage.relational.database import Row

CONNECT_TIMEOUT_S = 10.0
_UNIT = parse(
    "diagnostics",
    """
-- name: bound -> value
-- The tenant that the database sees while a unit of work runs.
SELECT current_setting('app.current_tenant_id', true) FROM (SELECT :tenant_id) AS asked;

-- name: registered -> value
-- Whether the tenant is registered, as it sees itself.
SELECT EXISTS (SELECT FROM llmspell.tenants WHERE tenant_id = :tenant_id);
""",
)
_BOUND_OUTSIDE = fixed("diagnostics.bound", "SELECT coalesce(current_setting('app.current_tenant_id', true), '')")
_ROLE = fixed(
    "diagnostics.role",
    """
SELECT r.rolname::text, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
  (SELECT count(*)::int8 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p') AND pg_has_role(r.oid, c.relowner, 'MEMBER')),
  (SELECT coalesce(string_agg(pg_get_userbyid(m.roleid)::text, ',' ORDER BY m.roleid), '')
   FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid),
  (SELECT count(*)::int8 FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND p.polpermissive AND r.oid = ANY (p.polroles))
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
""",
)
# As the catalogue has them, so a table or partition that was made a minute ago is in it too.
_TABLES = fixed(
    "diagnostics.tables",
    """
SELECT format('%I.%I', n.nspname, c.relname), c.relispartition, c.relrowsecurity, c.relforcerowsecurity,
  EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped),
  (SELECT count(*)::int8 FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p')
ORDER BY 1
""",
)
_SEEN_WITHOUT_TENANT = fixed(
    "diagnostics.seen", "SELECT (SELECT count(*) FROM llmspell.kv_store) + (SELECT count(*) FROM llmspell.memories)"
)
_SIGNING = fixed("diagnostics.signing", "SELECT llmspell.tenant_signing()")
# Values of parameters reach the server's log with each statement that is logged, unless their length is limited to 0; the default
# is no limit. What an administrator has set for the role counts too: this is asked as that role.
_LOGGING = fixed(
    "diagnostics.logging",
    """
SELECT coalesce(string_agg(s.name, ', ' ORDER BY s.name), '')
FROM pg_catalog.pg_settings s
WHERE CASE s.name
  WHEN 'log_statement' THEN s.setting IN ('mod', 'all')
  WHEN 'log_min_duration_statement' THEN s.setting <> '-1'
  WHEN 'log_min_duration_sample' THEN s.setting <> '-1' AND current_setting('log_statement_sample_rate')::float8 > 0
  WHEN 'log_transaction_sample_rate' THEN s.setting::float8 > 0
  END AND current_setting('log_parameter_max_length') <> '0'
  OR s.name = 'log_parameter_max_length_on_error' AND s.setting <> '0'
""",
)
_AUDIT = fixed("diagnostics.audit", rls_audit())


class RoleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The role that serves, with what would let it past row-level security.

    `own_policies`: policies that let this role by name see more; those of the operator show it every tenant.
    """

    name: str
    superuser: bool
    bypasses_rls: bool
    may_create_roles: bool
    may_create_databases: bool
    may_replicate: bool
    tables_owned: int
    member_of: tuple[str, ...]
    own_policies: int


class TableFlags(msgspec.Struct, frozen=True, kw_only=True):
    """Row-level security of one table or partition. `tenant`: it has rows of tenants."""

    name: str
    partition: bool
    enabled: bool
    forced: bool
    tenant: bool
    policies: int


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says.

    `tenant_registered`: the store knows `tenant_asked`; its policies bind it either way. None: tenants must be signed, and
    there is no key to ask with. `tenant_seen`: the tenant inside a
    unit of work of `tenant_asked`. `tenant_left`: what the same connection shows to whoever
    has it next; empty when nothing was left. `rows_without_tenant`: keys and memories that are visible there.
    `signing`: tenants must be signed. `logged_by`: settings of the server by which it writes values of parameters into its log.
    `audit`: the rows (subject, problem) of the audit.
    """

    role: RoleFacts
    tenant_asked: str
    tenant_registered: bool | None
    tenant_seen: str | None
    tenant_left: str
    rows_without_tenant: int
    signing: bool
    logged_by: str
    tables: tuple[TableFlags, ...]
    audit: tuple[tuple[str, str], ...]


async def observe_isolation(url: str, *, tenant: TenantId, tenant_key: Secret | None = None) -> Observed:
    """Ask a migrated database, as the role of `url`, in a pool of one connection.

    Raises:
        MissingExtra, InvalidUrl.
        Unavailable, StorageError: the server cannot be reached or asked.
        SchemaOutdated, SchemaTooNew, MigrationModified, MigrationError: its schema is not that of this release.
        MissingExtension: `vector` is missing.
        SignatureRefused: the database demands signed tenants, and this is not the key.
    """
    require_driver()
    from llmspell.storage.postgres.address import read_url
    from llmspell.storage.postgres.database import Connector, Database
    from llmspell.storage.postgres.link import bind_tenant
    from llmspell.storage.postgres.pool import PoolSettings
    from llmspell.storage.postgres.roles import require_working
    from llmspell.storage.postgres.tenant_key import Signer, read_tenant_key

    signer = Signer(read_tenant_key(tenant_key)) if tenant_key is not None else None
    # Nothing is prepared, so it works behind every pooler.
    connect = Connector(read_url(url), statement_cache_size=0, require=require_working, signer=signer, needs_key=False)
    one = PoolSettings(size=1, timeout_s=CONNECT_TIMEOUT_S)
    database = Database(connect, one, clock=SystemClock(), binder=signer or bind_tenant)
    try:
        async with database.pool.link() as link:
            require_current(await read_status(link))
        registered = await _registered(database, tenant)
        seen = await database.unit(tenant).value(_UNIT["bound"])
        async with database.pool.link() as link:  # the connection that the unit of work has just given back
            return await _observed(link, tenant, seen, registered=registered)
    finally:
        database.pool.close()


async def _registered(database: Database, tenant: TenantId) -> bool | None:
    try:
        return bool(await database.unit(tenant).value(_UNIT["registered"]))
    except SignatureRefused:
        return None


async def _observed(link: Link, tenant: TenantId, seen: str | None, *, registered: bool | None) -> Observed:
    asked = (_BOUND_OUTSIDE, _ROLE, _TABLES, _SEEN_WITHOUT_TENANT, _SIGNING, _LOGGING, _AUDIT)
    results = await link.exchange(tuple(map(bind_texts, asked)), commits=False, name="diagnostics.isolation")
    left, role, tables, rows, signing, logging, audit = (link.rows(result) for result in results)
    return Observed(
        role=_role(role[0]),
        tenant_asked=tenant,
        tenant_registered=registered,
        tenant_seen=seen,
        tenant_left=left[0][0],
        rows_without_tenant=int(rows[0][0]),
        signing=bool(signing[0][0]),
        logged_by=logging[0][0],
        tables=tuple(map(_table, tables)),
        audit=tuple((subject, problem) for subject, problem in audit),
    )


def _role(row: Row) -> RoleFacts:
    name, superuser, bypasses, creates_roles, creates_databases, replicates, owned, members, policies = row
    return RoleFacts(
        name=name,
        superuser=superuser,
        bypasses_rls=bypasses,
        may_create_roles=creates_roles,
        may_create_databases=creates_databases,
        may_replicate=replicates,
        tables_owned=owned,
        member_of=tuple(members.split(",")) if members else (),
        own_policies=policies,
    )


def _table(row: Row) -> TableFlags:
    name, partition, enabled, forced, tenant, policies = row
    return TableFlags(name=name, partition=partition, enabled=enabled, forced=forced, tenant=tenant, policies=policies)
