"""Holes in functions and triggers: somebody else's, and ours that were replaced, disabled or dropped."""

from __future__ import annotations

from tests.tenancy.sabotage import Sabotage, single


def _not_run(trigger: str) -> str:
    return f"does not run the trigger {trigger}: it is missing, disabled or says something else than ours"


def _kept(trigger: str) -> str:
    return (
        f"CREATE TABLE public.kept AS SELECT pg_get_triggerdef(oid) AS was FROM pg_trigger WHERE tgname = '{trigger}'"
    )


_RESTORED = ("DO $$ BEGIN EXECUTE (SELECT was FROM public.kept); END $$", "DROP TABLE public.kept")
COUNTED = (
    *("kv_store", "memories", "artifact_content"),
    *(f"vector_embeddings_{dimension}" for dimension in (384, 768, 1536, 3072)),
)
"""Tables whose rows quotas count. They have no other triggers."""
LIMIT = (
    (
        "INSERT INTO llmspell.tenants (tenant_id, name, quotas, created_at, updated_at)"
        """ VALUES ('limited', 'limited', '{"max_documents": 5}', now(), now())"""
    ),
)
_UNLIMITED = (  # as it was before the first limit
    *(
        f"DELETE FROM llmspell.{table} WHERE tenant_id = 'limited'"
        for table in ("tenants", "tenant_limits", "tenant_usage")
    ),
    "DELETE FROM llmspell.store_meta WHERE name = 'quotas_counted'",
    *(f"ALTER TABLE llmspell.{table} DISABLE TRIGGER USER" for table in COUNTED),
)


def _replaced(signature: str, body: str) -> Sabotage:
    """The function with another body, and everything else as it was."""
    kept = f"CREATE TABLE public.kept AS SELECT pg_get_functiondef('{signature}'::regprocedure) AS was"
    body = f"AS $body$ BEGIN {body} END $body$".replace("'", "''")
    text = f"regexp_replace(was, 'AS [$]function[$].*[$]function[$]', '{body}')"
    by = f"DO $$ BEGIN EXECUTE (SELECT {text} FROM public.kept); END $$"
    return Sabotage((kept, by), _RESTORED, signature, "is missing or says something else than ours")


CODE_HOLES: dict[str, Sabotage] = {
    # --- triggers ---
    "a trigger": Sabotage(
        (
            "CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
            "CREATE TRIGGER spy BEFORE INSERT ON llmspell.memories FOR EACH ROW EXECUTE FUNCTION public.spy()",
        ),
        ("DROP TRIGGER spy ON llmspell.memories", "DROP FUNCTION public.spy()"),
        "llmspell.memories",
        "has the trigger spy, which is not one of ours and sees the rows of all tenants",
    ),
    "a trigger that is named like one of ours": Sabotage(
        (
            "CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
            "CREATE TRIGGER artifacts_count_rows AFTER INSERT ON llmspell.sessions FOR EACH ROW EXECUTE FUNCTION public.spy()",
        ),
        ("DROP TRIGGER artifacts_count_rows ON llmspell.sessions", "DROP FUNCTION public.spy()"),
        "llmspell.sessions",
        "has the trigger artifacts_count_rows, which is not one of ours and sees the rows of all tenants",
    ),
    "a trigger of ours that calls another function": Sabotage(
        (
            _kept("artifacts_count_rows"),
            "CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
            (
                "CREATE OR REPLACE TRIGGER artifacts_count_rows AFTER INSERT OR DELETE ON llmspell.artifacts"
                " FOR EACH ROW EXECUTE FUNCTION public.spy()"
            ),
        ),
        (
            "DROP TRIGGER artifacts_count_rows ON llmspell.artifacts",
            "DROP FUNCTION public.spy()",
            *_RESTORED,
        ),
        "llmspell.artifacts",
        "has the trigger artifacts_count_rows, which is not one of ours and sees the rows of all tenants",
    ),
    "a trigger of ours that runs never": Sabotage(
        (
            _kept("artifacts_count_rows"),
            (
                "CREATE OR REPLACE TRIGGER artifacts_count_rows AFTER INSERT OR DELETE ON llmspell.artifacts"
                " FOR EACH ROW WHEN (false) EXECUTE FUNCTION llmspell.count_artifacts()"
            ),
        ),
        (
            "DROP TRIGGER artifacts_count_rows ON llmspell.artifacts",
            *_RESTORED,
        ),
        "llmspell.artifacts",
        _not_run("artifacts_count_rows"),
    ),
    "a trigger of ours that is disabled": single(
        "ALTER TABLE llmspell.artifacts DISABLE TRIGGER artifacts_count_moves",
        "ALTER TABLE llmspell.artifacts ENABLE TRIGGER artifacts_count_moves",
        "llmspell.artifacts",
        _not_run("artifacts_count_moves"),
    ),
    "a trigger of ours for replicas alone": single(
        "ALTER TABLE llmspell.tenants ENABLE REPLICA TRIGGER tenants_quotas_changed",
        "ALTER TABLE llmspell.tenants ENABLE TRIGGER tenants_quotas_changed",
        "llmspell.tenants",
        _not_run("tenants_quotas_changed"),
    ),
    "a trigger of ours that is gone": Sabotage(
        (
            _kept("workflow_states_life_cycle"),
            "DROP TRIGGER workflow_states_life_cycle ON llmspell.workflow_states",
        ),
        _RESTORED,
        "llmspell.workflow_states",
        _not_run("workflow_states_life_cycle"),
    ),
    "one kind is counted and another is not": Sabotage(
        (*LIMIT, "ALTER TABLE llmspell.memories DISABLE TRIGGER memories_usage_delete"),
        _UNLIMITED,
        "llmspell.memories",
        _not_run("memories_usage_delete"),
    ),
    "nothing is counted although there are limits": Sabotage(
        (*LIMIT, *(f"ALTER TABLE llmspell.{table} DISABLE TRIGGER USER" for table in COUNTED)),
        _UNLIMITED,
        "llmspell.kv_store",
        _not_run("kv_store_usage_insert"),
    ),
    # --- functions ---
    "a function of administrators": single(
        "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO llmspell_app",
        "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM llmspell_app",
        "llmspell_app",
        "may execute pg_read_file(text), which the server keeps for administrators",
    ),
    "a function of administrators, for everybody": single(
        "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM PUBLIC",
        "everybody",
        "may execute pg_read_file(text), which the server keeps for administrators",
    ),
    "a function that sees rows before the policies": single(
        (
            "CREATE FUNCTION public.leak(t text) RETURNS boolean LANGUAGE plpgsql LEAKPROOF COST 0.0000001"
            " AS $$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$"
        ),
        "DROP FUNCTION public.leak(text)",
        "public.leak(text)",
        "is leakproof, so it is given the rows of all tenants before the policies, and llmspell_app may execute it",
    ),
    "everybody executes a function": single(
        "GRANT EXECUTE ON FUNCTION llmspell.get_api_key_stats TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION llmspell.get_api_key_stats FROM PUBLIC",
        "llmspell.get_api_key_stats(timestamp with time zone)",
        "everybody may execute it",
    ),
    "tenants make any partition": single(
        "GRANT EXECUTE ON FUNCTION llmspell.create_event_log_partition TO llmspell_app",
        "REVOKE EXECUTE ON FUNCTION llmspell.create_event_log_partition FROM llmspell_app",
        "llmspell.create_event_log_partition(date, date)",
        "llmspell_app may execute it, and it runs as llmspell, whom no tenant binds",
    ),
    "a function elsewhere that runs as the owner": Sabotage(
        (
            (
                "CREATE FUNCTION public.loot() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog"
                " AS $$ SELECT count(*) FROM llmspell.kv_store $$"
            ),
            "ALTER FUNCTION public.loot() OWNER TO llmspell",
            "GRANT EXECUTE ON FUNCTION public.loot() TO PUBLIC",
        ),
        ("DROP FUNCTION public.loot()",),
        "public.loot()",
        "everybody may execute it, and it runs as llmspell, whom no tenant binds",
    ),
    "a function that tenants call, and that does something else": _replaced(
        "llmspell.take_embeddings(character varying, bigint, integer)",
        "RETURN (SELECT count(*) FROM llmspell.kv_store);",
    ),
    "a function of a trigger that does something else": _replaced("llmspell.count_inserted()", "RETURN NULL;"),
    "a function that is gone": Sabotage(
        (
            "CREATE TABLE public.kept AS SELECT pg_get_functiondef('llmspell.prepare_tenant_signing()'::regprocedure) AS was",
            "DROP FUNCTION llmspell.prepare_tenant_signing()",
        ),
        (
            "DO $$ BEGIN EXECUTE (SELECT was FROM public.kept); END $$",
            "ALTER FUNCTION llmspell.prepare_tenant_signing() OWNER TO llmspell",
            "REVOKE ALL ON FUNCTION llmspell.prepare_tenant_signing() FROM PUBLIC",
            "DROP TABLE public.kept",
        ),
        "llmspell.prepare_tenant_signing()",
        "is missing or says something else than ours",
    ),
    "a function that runs as a superuser": single(
        "ALTER FUNCTION llmspell.count_artifacts() OWNER TO {superuser}",
        "ALTER FUNCTION llmspell.count_artifacts() OWNER TO llmspell",
        "llmspell.count_artifacts()",
        "runs as a superuser",
    ),
    "a definer without search_path": single(
        "ALTER FUNCTION llmspell.create_event_log_partition RESET search_path",
        "ALTER FUNCTION llmspell.create_event_log_partition SET search_path = pg_catalog, pg_temp",
        "llmspell.create_event_log_partition(date, date)",
        "runs as its owner with a search_path that others choose",
    ),
    "a function with a path that begins elsewhere": single(
        "ALTER FUNCTION llmspell.count_artifact SET search_path = public, pg_catalog",
        "ALTER FUNCTION llmspell.count_artifact SET search_path = pg_catalog, pg_temp",
        "llmspell.count_artifact(character varying, character varying, uuid, integer)",
        "runs with a search_path that others choose",
    ),
    "the function says yes to everybody": _replaced(
        "llmspell.signed_tenant()", "RETURN current_setting('app.current_tenant_id', true);"
    ),
}
