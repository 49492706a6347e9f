"""Holes in the isolation, each made on purpose: what makes it, what takes it away again, and how the audit must name it.

They are made by a superuser. `{superuser}` is its name; `GUEST` is a login role that the store does not know. Those in functions
and triggers are in `code_holes`.
"""

from __future__ import annotations

from tests.tenancy.code_holes import CODE_HOLES
from tests.tenancy.sabotage import GUEST, Sabotage, on_database, single

_STRANGER = "who is neither llmspell_app nor llmspell_operator"
_UNSIGNED = "policy tenant_signature is missing or says something else, and the strict mode is on"
_KEPT = "which the server keeps for administrators"
_MONTH = "SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')"
_PART = "llmspell.event_log_2031_05"
_ARCHIVED = "llmspell_archive.event_log_2019_03"
_ARCHIVE = (
    "SELECT llmspell.create_event_log_partition('2019-03-01', '2019-04-01')",
    "SELECT llmspell.archive_event_log_partitions('2019-04-01')",
)


def _logged(setting: str) -> Sabotage:
    name = setting.split(" =")[0]
    problem = f"is given values of all tenants, by {name}: set log_parameter_max_length to 0, or log no statements"
    make = on_database(f"ALTER ROLE llmspell_app IN DATABASE %I SET {setting}".replace("'", "''"))
    return single(make, on_database(f"ALTER ROLE llmspell_app IN DATABASE %I RESET {name}"), "server log", problem)


HOLES: dict[str, Sabotage] = {
    **CODE_HOLES,
    # --- row-level security of tables and partitions ---
    "a table that nobody isolated": single(
        "CREATE TABLE llmspell.later (a text)",
        "DROP TABLE llmspell.later",
        "llmspell.later",
        "has no tenant_id and is not known to be shared",
    ),
    "a table whose tenant may be null": Sabotage(
        (
            "CREATE TABLE llmspell.later (tenant_id varchar(64), note text)",
            "SELECT llmspell.apply_tenant_rls('llmspell.later')",
        ),
        ("DROP TABLE llmspell.later",),
        "llmspell.later",
        "tenant_id may be null, so a row may belong to nobody",
    ),
    "a table that another reads from above": Sabotage(
        (
            "CREATE TABLE public.parent (content text NOT NULL)",
            "ALTER TABLE llmspell.memories INHERIT public.parent",
            "GRANT SELECT ON public.parent TO llmspell_app",
        ),
        ("ALTER TABLE llmspell.memories NO INHERIT public.parent", "DROP TABLE public.parent"),
        "public.parent",
        "is a parent of llmspell.memories, and shows its rows of all tenants to whoever may read it",
    ),
    "a table that another reads from further above": Sabotage(
        (
            "CREATE TABLE public.grandparent (content text NOT NULL)",
            "CREATE TABLE public.parent () INHERITS (public.grandparent)",
            "ALTER TABLE llmspell.memories INHERIT public.parent",
        ),
        (
            "ALTER TABLE llmspell.memories NO INHERIT public.parent",
            "DROP TABLE public.parent",
            "DROP TABLE public.grandparent",
        ),
        "public.grandparent",
        "is a parent of llmspell.memories, and shows its rows of all tenants to whoever may read it",
    ),
    "row-level security off": single(
        "ALTER TABLE llmspell.kv_store DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE llmspell.kv_store ENABLE ROW LEVEL SECURITY",
        "llmspell.kv_store",
        "row-level security is not enabled",
    ),
    "off on one partition": Sabotage(
        (_MONTH, f"ALTER TABLE {_PART} DISABLE ROW LEVEL SECURITY"),
        (f"DROP TABLE {_PART}",),
        _PART,
        "row-level security is not enabled",
    ),
    "off in the archive": Sabotage(
        (*_ARCHIVE, f"ALTER TABLE {_ARCHIVED} DISABLE ROW LEVEL SECURITY"),
        (f"DROP TABLE {_ARCHIVED}",),
        _ARCHIVED,
        "row-level security is not enabled",
    ),
    "a partition without policies": Sabotage(
        (
            _MONTH,
            *(f"DROP POLICY tenant_isolation_{verb} ON {_PART}" for verb in ("select", "insert", "update", "delete")),
        ),
        (f"DROP TABLE {_PART}",),
        _PART,
        "policy tenant_isolation_select is missing or says something else",
    ),
    "not forced": single(
        "ALTER TABLE llmspell.memories NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE llmspell.memories FORCE ROW LEVEL SECURITY",
        "llmspell.memories",
        "row-level security is not forced on the owner",
    ),
    "a policy gone": single(
        "DROP POLICY tenant_isolation_delete ON llmspell.sessions",
        "SELECT llmspell.apply_tenant_rls('llmspell.sessions')",
        "llmspell.sessions",
        "policy tenant_isolation_delete is missing or says something else",
    ),
    "a policy that lets everything through": single(
        "ALTER POLICY tenant_isolation_select ON llmspell.sessions USING (true)",
        "SELECT llmspell.apply_tenant_rls('llmspell.sessions')",
        "llmspell.sessions",
        "policy tenant_isolation_select is missing or says something else",
    ),
    "a policy more": single(
        "CREATE POLICY everybody ON llmspell.entities USING (true)",
        "DROP POLICY everybody ON llmspell.entities",
        "llmspell.entities",
        "policy everybody is not one of ours",
    ),
    "the operator's policy for tenants": single(
        "ALTER POLICY operator_access ON llmspell.jobs TO llmspell_app",
        "ALTER POLICY operator_access ON llmspell.jobs TO llmspell_operator",
        "llmspell.jobs",
        "policy operator_access is not one of ours",
    ),
    "a month that was detached": Sabotage(
        (_MONTH, f"ALTER TABLE llmspell.event_log DETACH PARTITION {_PART}"),
        (f"DROP TABLE {_PART}",),
        _PART,
        "is a month of events that was detached and not archived",
    ),
    "a partition in another schema": Sabotage(
        (_MONTH, f"ALTER TABLE {_PART} SET SCHEMA public", "GRANT SELECT ON public.event_log_2031_05 TO llmspell_app"),
        ("DROP TABLE public.event_log_2031_05",),
        "public.event_log_2031_05",
        "llmspell_app may SELECT",
    ),
    "a table that inherits": single(
        "CREATE TABLE public.child () INHERITS (llmspell.kv_store)",
        "DROP TABLE public.child",
        "public.child",
        "row-level security is not enabled",
    ),
    "a copy of rows elsewhere": Sabotage(
        ("CREATE TABLE public.copies AS TABLE llmspell.kv_store", "GRANT SELECT ON public.copies TO llmspell_app"),
        ("DROP TABLE public.copies",),
        "public.copies",
        "keeps rows by tenant outside of the schema llmspell, without row-level security, and llmspell_app may SELECT",
    ),
    "a rewrite rule": Sabotage(
        (
            "CREATE TABLE public.copies (LIKE llmspell.kv_store)",
            "CREATE RULE copy AS ON INSERT TO llmspell.kv_store DO ALSO INSERT INTO public.copies VALUES (NEW.*)",
        ),
        ("DROP RULE copy ON llmspell.kv_store", "DROP TABLE public.copies"),
        "llmspell.kv_store",
        "has the rewrite rule copy, which runs as its owner",
    ),
    "a unique key across tenants": single(
        "CREATE UNIQUE INDEX later ON llmspell.kv_store (key)",
        "DROP INDEX llmspell.later",
        "llmspell.later",
        "is unique without starting with tenant_id, so it tells of other tenants",
    ),
    "an exclusion across tenants": single(
        "ALTER TABLE llmspell.kv_store ADD CONSTRAINT later EXCLUDE USING btree (key WITH =)",
        "ALTER TABLE llmspell.kv_store DROP CONSTRAINT later",
        "llmspell.kv_store",
        "constraint later does not start with tenant_id, so it tells of other tenants",
    ),
    # --- owners ---
    "a table of another owner": single(
        f"ALTER TABLE llmspell.kv_store OWNER TO {GUEST}",
        "ALTER TABLE llmspell.kv_store OWNER TO llmspell",
        "llmspell.kv_store",
        f"is owned by {GUEST}, who can take its policies away",
    ),
    "a schema of another owner": single(
        f"ALTER SCHEMA llmspell_archive OWNER TO {GUEST}",
        "ALTER SCHEMA llmspell_archive OWNER TO llmspell",
        "llmspell_archive",
        f"is owned by {GUEST}, not by the owner of the store",
    ),
    "a function of another owner": single(
        f"ALTER FUNCTION llmspell.signed_tenant() OWNER TO {GUEST}",
        "ALTER FUNCTION llmspell.signed_tenant() OWNER TO llmspell",
        "llmspell.signed_tenant()",
        f"is owned by {GUEST}, not by the owner of the store",
    ),
    "a table of the serving role": single(
        "ALTER TABLE llmspell.test_table OWNER TO llmspell_app",
        "ALTER TABLE llmspell.test_table OWNER TO llmspell",
        "llmspell_app",
        "owns llmspell.test_table",
    ),
    "a function of the serving role": single(
        "ALTER FUNCTION llmspell.get_hook_history_stats() OWNER TO llmspell_operator",
        "ALTER FUNCTION llmspell.get_hook_history_stats() OWNER TO llmspell",
        "llmspell_operator",
        "owns function llmspell.get_hook_history_stats()",
    ),
    # --- rights ---
    "everybody reads a table": single(
        "GRANT SELECT ON llmspell.kv_store TO PUBLIC",
        "REVOKE SELECT ON llmspell.kv_store FROM PUBLIC",
        "llmspell.kv_store",
        "everybody may SELECT",
    ),
    "tenants may truncate": single(
        "GRANT TRUNCATE ON llmspell.kv_store TO llmspell_app",
        "REVOKE TRUNCATE ON llmspell.kv_store FROM llmspell_app",
        "llmspell.kv_store",
        "llmspell_app may TRUNCATE",
    ),
    "tenants reach a partition": single(
        "GRANT SELECT ON llmspell.event_log_default TO llmspell_app",
        "REVOKE SELECT ON llmspell.event_log_default FROM llmspell_app",
        "llmspell.event_log_default",
        "llmspell_app may SELECT",
    ),
    "a right that may be passed on": single(
        "GRANT SELECT ON llmspell.jobs TO llmspell_app WITH GRANT OPTION",
        "REVOKE GRANT OPTION FOR SELECT ON llmspell.jobs FROM llmspell_app",
        "llmspell.jobs",
        "llmspell_app may pass SELECT on to others",
    ),
    "a stranger reads a table": single(
        f"GRANT SELECT ON llmspell.kv_store TO {GUEST}",
        f"REVOKE SELECT ON llmspell.kv_store FROM {GUEST}",
        "llmspell.kv_store",
        f"{GUEST} may SELECT, {_STRANGER}",
    ),
    "a stranger reads a column": single(
        f"GRANT SELECT (content) ON llmspell.memories TO {GUEST}",
        f"REVOKE SELECT (content) ON llmspell.memories FROM {GUEST}",
        "llmspell.memories",
        f"{GUEST} may SELECT column content, {_STRANGER}",
    ),
    "everybody reads a column": single(
        "GRANT SELECT (value) ON llmspell.kv_store TO PUBLIC",
        "REVOKE SELECT (value) ON llmspell.kv_store FROM PUBLIC",
        "llmspell.kv_store",
        "everybody may SELECT column value",
    ),
    "tenants read the catalogue of large objects": single(
        "GRANT SELECT ON pg_largeobject TO llmspell_app",
        "REVOKE SELECT ON pg_largeobject FROM llmspell_app",
        "pg_catalog.pg_largeobject",
        f"llmspell_app may SELECT, {_KEPT}",
    ),
    "tenants read the statistics of all columns": single(
        "GRANT SELECT ON pg_statistic TO llmspell_app",
        "REVOKE SELECT ON pg_statistic FROM llmspell_app",
        "pg_catalog.pg_statistic",
        f"llmspell_app may SELECT, {_KEPT}",
    ),
    "the operator reads one column of the statistics": single(
        "GRANT SELECT (stavalues1) ON pg_statistic TO llmspell_operator",
        "REVOKE SELECT (stavalues1) ON pg_statistic FROM llmspell_operator",
        "pg_catalog.pg_statistic",
        f"llmspell_operator may SELECT column stavalues1, {_KEPT}",
    ),
    "everybody reads the passwords": single(
        "GRANT SELECT ON pg_authid TO PUBLIC",
        "REVOKE SELECT ON pg_authid FROM PUBLIC",
        "pg_catalog.pg_authid",
        f"everybody may SELECT, {_KEPT}",
    ),
    "tenants write a catalogue that everybody reads": single(
        "GRANT UPDATE ON pg_class TO llmspell_app",
        "REVOKE UPDATE ON pg_class FROM llmspell_app",
        "pg_catalog.pg_class",
        f"llmspell_app may UPDATE, {_KEPT}",
    ),
    "a sequence": Sabotage(
        ("CREATE SEQUENCE llmspell.later", "GRANT USAGE ON SEQUENCE llmspell.later TO llmspell_app"),
        ("DROP SEQUENCE llmspell.later",),
        "llmspell.later",
        "llmspell_app may USAGE a sequence",
    ),
    "everybody may use the schema": single(
        "GRANT USAGE ON SCHEMA llmspell TO PUBLIC",
        "REVOKE USAGE ON SCHEMA llmspell FROM PUBLIC",
        "llmspell",
        "everybody has USAGE on this schema",
    ),
    "a stranger may create in the schema": single(
        f"GRANT CREATE ON SCHEMA llmspell TO {GUEST}",
        f"REVOKE CREATE ON SCHEMA llmspell FROM {GUEST}",
        "llmspell",
        f"{GUEST} has CREATE on this schema",
    ),
    "tenants reach the archive": single(
        "GRANT USAGE ON SCHEMA llmspell_archive TO llmspell_app",
        "REVOKE USAGE ON SCHEMA llmspell_archive FROM llmspell_app",
        "llmspell_app",
        "may use schema llmspell_archive",
    ),
    "tenants may create tables": single(
        "GRANT CREATE ON SCHEMA public TO llmspell_app",
        "REVOKE CREATE ON SCHEMA public FROM llmspell_app",
        "llmspell_app",
        "owns or may create in schema public",
    ),
    "tenants may create schemas": single(
        on_database("GRANT CREATE ON DATABASE %I TO llmspell_app"),
        on_database("REVOKE CREATE ON DATABASE %I FROM llmspell_app"),
        "llmspell_app",
        "may create schemas in this database",
    ),
    "tenants may create temporary tables": single(
        on_database("GRANT TEMPORARY ON DATABASE %I TO llmspell_app"),
        on_database("REVOKE TEMPORARY ON DATABASE %I FROM llmspell_app"),
        "llmspell_app",
        "may create temporary tables, which outlive a tenant on a pooled connection",
    ),
    "what is made tomorrow": single(
        "ALTER DEFAULT PRIVILEGES FOR ROLE llmspell IN SCHEMA llmspell GRANT TRUNCATE ON TABLES TO llmspell_app",
        "ALTER DEFAULT PRIVILEGES FOR ROLE llmspell IN SCHEMA llmspell REVOKE TRUNCATE ON TABLES FROM llmspell_app",
        "llmspell",
        "default privileges let llmspell_app TRUNCATE new tables",
    ),
    "what is made tomorrow, for a stranger": single(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE llmspell IN SCHEMA llmspell GRANT SELECT ON TABLES TO {GUEST}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE llmspell IN SCHEMA llmspell REVOKE SELECT ON TABLES FROM {GUEST}",
        "llmspell",
        f"default privileges let {GUEST} SELECT new tables",
    ),
    # --- roles and settings ---
    "a stranger may become the operator": single(
        f"GRANT llmspell_operator TO {GUEST}",
        f"REVOKE llmspell_operator FROM {GUEST}",
        GUEST,
        "may become llmspell_operator, who is not bound to a tenant",
    ),
    "a stranger reads all data": single(
        f"GRANT pg_read_all_data TO {GUEST}",
        f"REVOKE pg_read_all_data FROM {GUEST}",
        GUEST,
        "is a member of pg_read_all_data, so it reaches the rows of every tenant",
    ),
    "tenants are members of something": single(
        "GRANT pg_monitor TO llmspell_app",
        "REVOKE pg_monitor FROM llmspell_app",
        "llmspell_app",
        "is a member of pg_monitor",
    ),
    "the operator administers the cluster": single(
        "ALTER ROLE llmspell_operator CREATEDB",
        "ALTER ROLE llmspell_operator NOCREATEDB",
        "llmspell_operator",
        "may bypass row-level security or administer the cluster",
    ),
    "connections start with a tenant": single(
        f"ALTER ROLE {GUEST} SET app.current_tenant_id = 'acme'",
        f"ALTER ROLE {GUEST} RESET app.current_tenant_id",
        GUEST,
        "starts its connections with a tenant (app.current_tenant_id is set for it)",
    ),
    "connections start with a tenant in capitals": single(
        f"""ALTER ROLE {GUEST} SET "App.Current_Tenant_Id" = 'acme'""",
        f"""ALTER ROLE {GUEST} RESET "App.Current_Tenant_Id" """,
        GUEST,
        "starts its connections with a tenant (app.current_tenant_id is set for it)",
    ),
    "the serving role writes nothing": single(
        on_database("ALTER ROLE llmspell_app IN DATABASE %I SET default_transaction_read_only = on"),
        on_database("ALTER ROLE llmspell_app IN DATABASE %I RESET default_transaction_read_only"),
        "llmspell_app",
        "starts its connections with default_transaction_read_only, which llmspell does not set for a role",
    ),
    "the operator finds other names": single(
        on_database("ALTER ROLE llmspell_operator IN DATABASE %I SET search_path = public"),
        on_database("ALTER ROLE llmspell_operator IN DATABASE %I RESET search_path"),
        "llmspell_operator",
        "starts its connections with search_path, which llmspell does not set for a role",
    ),
    "connections start with a signature": single(
        f"ALTER ROLE {GUEST} SET app.tenant_signature = 'x'",
        f"ALTER ROLE {GUEST} RESET app.tenant_signature",
        GUEST,
        "starts its connections with a signature (app.tenant_signature is set for it)",
    ),
    "a setting of administrators": single(
        "GRANT SET ON PARAMETER session_replication_role TO llmspell_app",
        "REVOKE SET ON PARAMETER session_replication_role FROM llmspell_app",
        "llmspell_app",
        "may set session_replication_role, which the server keeps for administrators",
    ),
    "slow statements are logged with their parameters": _logged("log_min_duration_statement = 250"),
    "all statements are logged with their parameters": _logged("log_statement = 'all'"),
    "a sample of statements is logged with their parameters": _logged("log_min_duration_sample = 0"),
    "some transactions are logged with their parameters": _logged("log_transaction_sample_rate = 0.01"),
    "failures are logged with their parameters": _logged("log_parameter_max_length_on_error = 64"),
    # --- what leads out ---
    "a view that reads as its owner": single(
        "CREATE VIEW public.later AS SELECT * FROM llmspell.kv_store",
        "DROP VIEW public.later",
        "public.later",
        "is a view that reads as its owner",
    ),
    "a materialised view": single(
        "CREATE MATERIALIZED VIEW public.later AS SELECT * FROM llmspell.kv_store",
        "DROP MATERIALIZED VIEW public.later",
        "public.later",
        "has no row-level security, for it is a materialised view or a foreign table",
    ),
    "a publication of one table": single(
        "CREATE PUBLICATION feed FOR TABLE llmspell.kv_store",
        "DROP PUBLICATION feed",
        "publication feed",
        "sends the rows of all tenants to whoever subscribes",
    ),
    "a publication of everything": single(
        "CREATE PUBLICATION feed FOR ALL TABLES",
        "DROP PUBLICATION feed",
        "publication feed",
        "sends the rows of all tenants to whoever subscribes",
    ),
    "a publication of a schema": single(
        "CREATE PUBLICATION feed FOR TABLES IN SCHEMA llmspell_archive",
        "DROP PUBLICATION feed",
        "publication feed",
        "sends the rows of all tenants to whoever subscribes",
    ),
    "an event trigger": Sabotage(
        (
            "CREATE FUNCTION public.spy() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$",
            "CREATE EVENT TRIGGER spy ON ddl_command_end EXECUTE FUNCTION public.spy()",
        ),
        ("DROP EVENT TRIGGER spy", "DROP FUNCTION public.spy()"),
        "event trigger spy",
        "runs in what migrates and makes partitions, as the owner of the store",
    ),
    "a large object": Sabotage(
        ("SELECT lo_create(4242)", "GRANT SELECT ON LARGE OBJECT 4242 TO PUBLIC"),
        ("SELECT lo_unlink(4242)",),
        "large object 4242",
        "is not subject to row-level security, and everybody can read it",
    ),
    "a large object of the serving role": Sabotage(
        ("SELECT lo_create(4243)", "ALTER LARGE OBJECT 4243 OWNER TO llmspell_app"),
        ("SELECT lo_unlink(4243)",),
        "large object 4243",
        "is not subject to row-level security, and llmspell_app can read it",
    ),
    # --- the strict mode ---
    "tenants reach the signing keys": single(
        "GRANT USAGE ON SCHEMA llmspell_private TO llmspell_app",
        "REVOKE USAGE ON SCHEMA llmspell_private FROM llmspell_app",
        "llmspell_private",
        "llmspell_app has USAGE on this schema",
    ),
    "tenants read the signing keys": single(
        "GRANT SELECT ON llmspell_private.signing_keys TO llmspell_app",
        "REVOKE SELECT ON llmspell_private.signing_keys FROM llmspell_app",
        "llmspell_private.signing_keys",
        "llmspell_app may SELECT what the signing keys are kept in",
    ),
    "the operator switches the mode": single(
        "GRANT UPDATE (enforced) ON llmspell_private.signing_mode TO llmspell_operator",
        "REVOKE UPDATE (enforced) ON llmspell_private.signing_mode FROM llmspell_operator",
        "llmspell_private.signing_mode",
        "llmspell_operator may UPDATE what the signing keys are kept in",
    ),
    "signatures demanded on one table only": single(
        "CREATE POLICY tenant_signature ON llmspell.kv_store AS RESTRICTIVE FOR ALL TO llmspell_app"
        " USING (tenant_id = (SELECT llmspell.signed_tenant()))",
        "DROP POLICY tenant_signature ON llmspell.kv_store",
        "llmspell.kv_store",
        "policy tenant_signature is there although the strict mode is off",
    ),
    "no signature on one table": single(
        "DROP POLICY tenant_signature ON llmspell.kv_store",
        "SELECT llmspell.apply_tenant_rls('llmspell.kv_store')",
        "llmspell.kv_store",
        _UNSIGNED,
        strict=True,
    ),
    "no signature on one partition": single(
        "DROP POLICY tenant_signature ON llmspell.event_log_default",
        "SELECT llmspell.apply_tenant_rls('llmspell.event_log_default')",
        "llmspell.event_log_default",
        _UNSIGNED,
        strict=True,
    ),
    "no signature in the archive": Sabotage(
        (*_ARCHIVE, f"DROP POLICY tenant_signature ON {_ARCHIVED}"),
        (f"DROP TABLE {_ARCHIVED}",),
        _ARCHIVED,
        _UNSIGNED,
        strict=True,
    ),
    "a signature that is not verified": single(
        "ALTER POLICY tenant_signature ON llmspell.jobs USING (true)",
        "SELECT llmspell.apply_tenant_rls('llmspell.jobs')",
        "llmspell.jobs",
        _UNSIGNED,
        strict=True,
    ),
    "a signature that binds nobody who serves": single(
        f"ALTER POLICY tenant_signature ON llmspell.jobs TO {GUEST}",
        "SELECT llmspell.apply_tenant_rls('llmspell.jobs')",
        "llmspell.jobs",
        _UNSIGNED,
        strict=True,
    ),
    "a signature that is only permitted": Sabotage(
        (
            "DROP POLICY tenant_signature ON llmspell.jobs",
            (
                "CREATE POLICY tenant_signature ON llmspell.jobs FOR ALL TO llmspell_app"
                " USING (tenant_id = (SELECT llmspell.signed_tenant())) WITH CHECK (tenant_id = (SELECT llmspell.signed_tenant()))"
            ),
        ),
        ("SELECT llmspell.apply_tenant_rls('llmspell.jobs')",),
        "llmspell.jobs",
        _UNSIGNED,
        strict=True,
    ),
    "a signature verified by somebody else's function": Sabotage(
        (
            (
                "CREATE FUNCTION public.signed_tenant() RETURNS text LANGUAGE sql STABLE"
                " AS $$ SELECT current_setting('app.current_tenant_id', true) $$"
            ),
            "ALTER ROLE llmspell_app SET search_path = public, llmspell",
            (
                "ALTER POLICY tenant_signature ON llmspell.jobs USING (tenant_id = (SELECT public.signed_tenant()))"
                " WITH CHECK (tenant_id = (SELECT public.signed_tenant()))"
            ),
        ),
        (
            "SELECT llmspell.apply_tenant_rls('llmspell.jobs')",
            "DROP FUNCTION public.signed_tenant()",
            "ALTER ROLE llmspell_app RESET search_path",
        ),
        "llmspell.jobs",
        _UNSIGNED,
        strict=True,
    ),
}
