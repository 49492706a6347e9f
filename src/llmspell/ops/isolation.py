"""Are tenants kept apart here? Every way in which they might not be is named (RLS-08).

Not here: how the database is asked (`storage.postgres.diagnostics`).

Rule: what cannot be read is a hole, never a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from llmspell.errors import Unsupported
from llmspell.settings import Secret, masked
from llmspell.tenant import TenantId

if TYPE_CHECKING:
    from llmspell.storage.postgres.diagnostics import Observed

SCHEMES = ("postgresql://", "postgres://")


class Hole(msgspec.Struct, frozen=True):
    """One way past the isolation: what has it, and what is wrong with it."""

    subject: str
    problem: str


class IsolationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed, and the holes in it; `isolated` when there is none."""

    isolated: bool
    observed: Observed
    holes: tuple[Hole, ...]


async def examine(url: str, *, tenant: TenantId, tenant_key: Secret | None = None) -> IsolationReport:
    """Examine the database behind `url`, as the role of that URL, for one tenant, signed by `tenant_key` where there is one.

    Raises:
        SignatureRefused: the database demands signed tenants, and `tenant_key` is not the key.
        Unsupported: the store is not a server with row-level security.
        StorageError: the server cannot be asked.
    """
    if not url.startswith(SCHEMES):
        raise Unsupported(
            "This store has no row-level security to examine: it keeps tenants apart in every key and every query.",
            hint="Name a server: --store postgresql://…",
            store=masked(url),
        )
    from llmspell.storage.postgres.diagnostics import observe_isolation

    observed = await observe_isolation(url, tenant=tenant, tenant_key=tenant_key)
    holes = tuple(find_holes(observed))
    if tenant_key is not None and not observed.signing:
        unused = "is configured, but the strict mode is off, so nothing verifies who a tenant is"
        holes = (Hole("storage.postgres.tenant_key", unused), *holes)
    return IsolationReport(isolated=not holes, observed=observed, holes=holes)


def find_holes(observed: Observed) -> Iterator[Hole]:
    """Yield every hole in what was observed, the role's first."""
    yield from _role_holes(observed)
    yield from _binding_holes(observed)
    if observed.logged_by:
        held = "values of all tenants, and their signatures" if observed.signing else "values of all tenants"
        yield Hole(
            "server log",
            f"is given {held}, by {observed.logged_by}: set log_parameter_max_length to 0, or log no statements",
        )
    if not observed.tables:
        yield Hole("llmspell", "has no tables that this role can see: is the schema migrated?")
    seen = set()
    for subject, problem in observed.audit:
        seen.add(subject)
        yield Hole(subject, problem)
    for table in observed.tables:
        if table.tenant and not (table.enabled and table.forced and table.policies) and table.name not in seen:
            yield Hole(
                table.name, "has rows of tenants, and row-level security is off, not forced, or without policies"
            )


def _role_holes(observed: Observed) -> Iterator[Hole]:
    role = observed.role
    for found, problem in (
        (role.superuser, "is a superuser: row-level security does not bind it"),
        (role.bypasses_rls, "has BYPASSRLS: row-level security does not bind it"),
        (role.may_create_roles, "may create roles, and so become another"),
        (role.may_replicate, "may replicate, and so read every row of every tenant"),
        (role.tables_owned > 0, f"owns tables ({role.tables_owned}), so it can take their policies away"),
        (
            role.own_policies > 0,
            f"has policies of its own ({role.own_policies}), as the operator has, who sees every tenant",
        ),
    ):
        if found:
            yield Hole(role.name, problem)


def _binding_holes(observed: Observed) -> Iterator[Hole]:
    if observed.tenant_seen != observed.tenant_asked:
        yield Hole(
            "unit of work", f"asked for tenant {observed.tenant_asked!r}, the database sees {observed.tenant_seen!r}"
        )
    if observed.tenant_left:
        yield Hole("connection", f"keeps tenant {observed.tenant_left!r} after its unit of work")
    if observed.rows_without_tenant:
        yield Hole(
            observed.role.name, f"sees rows of tenants ({observed.rows_without_tenant:,}) although no tenant is bound"
        )
