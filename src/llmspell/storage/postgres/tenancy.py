"""Tenant isolation as SQL: the policies of one table, and the audit that finds where isolation has a hole (RLS-13).

Not here: which tenant a unit of work is bound to; that is the driver's.

Rule: what `rls_statements` says and what `llmspell.apply_tenant_rls` (V001, V032) does are the same; a test compares them.
"""

from __future__ import annotations

import re
from importlib.resources import files

from llmspell.errors import InvalidKey

SCHEMA = "llmspell"
TENANT_SETTING = "app.current_tenant_id"
APP_ROLE = "llmspell_app"
OPERATOR_ROLE = "llmspell_operator"
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")  # 63 bytes: PostgreSQL's NAMEDATALEN
_OWN_ROWS = f"tenant_id = (SELECT current_setting('{TENANT_SETTING}', true))"
_SIGNED_ROWS = "tenant_id = (SELECT llmspell.signed_tenant())"


def rls_statements(table: str, *, signed: bool = False) -> tuple[str, ...]:
    """Return the statements that isolate the tenants of `llmspell.<table>`, in order.

    They enable and force row-level security and write the four policies of RLS-02 and the operator's. A statement
    without a tenant then reads nothing and writes nothing. Run them as the owner of a table that has no policies yet.
    `signed`: as in the strict mode, where the serving role must also prove its tenant by a signature.

    Raises:
        InvalidKey: `table` is not a plain identifier in lower case of at most 63 characters.
    """
    if _IDENTIFIER.fullmatch(table) is None:
        raise InvalidKey("table", "must be an identifier of at most 63 lower-case letters, digits and _", given=table)
    target = f"{SCHEMA}.{table}"
    restricted = f"AS RESTRICTIVE FOR ALL TO {APP_ROLE} USING ({_SIGNED_ROWS}) WITH CHECK ({_SIGNED_ROWS})"
    signature = (f"CREATE POLICY tenant_signature ON {target} {restricted}",) if signed else ()
    return (
        f"ALTER TABLE {target} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {target} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY tenant_isolation_select ON {target} FOR SELECT USING ({_OWN_ROWS})",
        f"CREATE POLICY tenant_isolation_insert ON {target} FOR INSERT WITH CHECK ({_OWN_ROWS})",
        f"CREATE POLICY tenant_isolation_update ON {target} FOR UPDATE USING ({_OWN_ROWS}) WITH CHECK ({_OWN_ROWS})",
        f"CREATE POLICY tenant_isolation_delete ON {target} FOR DELETE USING ({_OWN_ROWS})",
        f"CREATE POLICY operator_access ON {target} FOR ALL TO {OPERATOR_ROLE} USING (true) WITH CHECK (true)",
        *signature,
        f"ALTER TABLE {target} ALTER COLUMN tenant_id SET STATISTICS 1000",
    )


def rls_audit() -> str:
    """Return the query whose rows `(subject, problem)` are the holes in the isolation; none means it holds.

    It reads catalogues, and of our tables `store_meta` alone. It needs no tenant; the roles of the store may run it.
    """
    return (files("llmspell.storage.postgres") / "rls_audit.sql").read_text(encoding="utf-8")
