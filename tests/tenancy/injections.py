"""SQL that an attacker who can inject into a statement of tenant A would write to reach tenant B.

Each is one statement, or several in one transaction, in which `{B}` is the id of the other tenant. They run as `llmspell_app`.
"""

from __future__ import annotations

_B = "set_config('app.current_tenant_id', '{B}', true)"

READS: dict[str, tuple[str, ...]] = {
    "a statement before": (f"SELECT {_B}", "SELECT tenant_id, key FROM llmspell.kv_store"),
    "SET LOCAL before": ("SET LOCAL app.current_tenant_id = '{B}'", "SELECT tenant_id, key FROM llmspell.kv_store"),
    "SET for the session": ("SET app.current_tenant_id = '{B}'", "SELECT tenant_id, key FROM llmspell.kv_store"),
    "WHERE": (f"SELECT tenant_id, key FROM llmspell.kv_store WHERE {_B} IS NOT NULL",),
    "SELECT list": (f"SELECT {_B}, tenant_id, key FROM llmspell.kv_store",),
    "SELECT list, then a subquery": (
        f"SELECT {_B}, (SELECT string_agg(tenant_id || key, ',') FROM llmspell.kv_store)",
    ),
    "materialised CTE": (
        f"WITH x AS MATERIALIZED (SELECT {_B} AS s) SELECT tenant_id, key FROM x CROSS JOIN llmspell.kv_store WHERE s <> ''",
    ),
    "CTE that is inlined": (
        f"WITH x AS (SELECT {_B} AS s) SELECT tenant_id, key FROM x CROSS JOIN llmspell.kv_store WHERE s <> ''",
    ),
    "LATERAL": (
        (f"SELECT k.tenant_id, k.key FROM (SELECT {_B} AS s OFFSET 0) AS x"
        " CROSS JOIN LATERAL (SELECT * FROM llmspell.kv_store WHERE x.s <> '' OFFSET 0) AS k"),
    ),
    "argument of a function": (f"SELECT tenant_id, key FROM llmspell.kv_store WHERE length({_B}) > 0",),
    "function in FROM": (
        f"SELECT tenant_id, key FROM unnest(ARRAY[{_B}]) AS x (s) CROSS JOIN llmspell.kv_store",
    ),
    "JOIN … ON": (
        f"SELECT k.tenant_id, k.key FROM generate_series(1, 2) AS g JOIN llmspell.kv_store AS k ON {_B} <> '' AND g > 0",
    ),
    "between two scans of one table": (
        (f"SELECT tenant_id, key FROM llmspell.kv_store WHERE {_B} <> ''"
        " UNION ALL SELECT tenant_id, key FROM llmspell.kv_store"),
    ),
    "two tables": (
        f"SELECT k.tenant_id, m.tenant_id, m.content FROM llmspell.kv_store AS k, llmspell.memories AS m WHERE {_B} <> ''",
    ),
    "subquery evaluated first": (
        f"SELECT tenant_id, key FROM llmspell.kv_store WHERE (SELECT {_B}) IS NOT NULL",
    ),
    "EXISTS": (f"SELECT tenant_id, key FROM llmspell.kv_store WHERE EXISTS (SELECT {_B})",),
    "ORDER BY": (f"SELECT tenant_id, key FROM llmspell.kv_store ORDER BY {_B}",),
    "HAVING": (f"SELECT tenant_id, key FROM llmspell.kv_store GROUP BY 1, 2 HAVING {_B} <> ''",),
    "LIMIT": (f"SELECT tenant_id, key FROM llmspell.kv_store LIMIT length({_B})",),
    "CASE": (f"SELECT CASE WHEN {_B} <> '' THEN (SELECT min(tenant_id || key) FROM llmspell.kv_store) END",),
    "window": (f"SELECT tenant_id, key, count({_B}) OVER () FROM llmspell.kv_store",),
    "VALUES": (
        f"SELECT k.tenant_id, k.key FROM (VALUES ({_B})) AS x (s) LEFT JOIN llmspell.kv_store AS k ON x.s <> ''",
    ),
    "recursive CTE": (
        (f"WITH RECURSIVE x (n, s) AS (SELECT 1, {_B} UNION ALL SELECT n + 1, s FROM x WHERE n < 3)"
        " SELECT k.tenant_id, k.key FROM x JOIN llmspell.kv_store AS k ON x.s <> ''"),
    ),
    "cursor that is opened before": (
        "DECLARE c CURSOR FOR SELECT tenant_id, key FROM llmspell.kv_store", f"SELECT {_B}", "FETCH ALL FROM c",
    ),
    "anonymous block": (
        (f"DO $$ DECLARE found text; BEGIN PERFORM {_B};"
        " SELECT string_agg(tenant_id || key, ',') INTO found FROM llmspell.kv_store;"
        " PERFORM set_config('app.loot', found, true); END $$"),
        "SELECT current_setting('app.loot', true)",
    ),
    "prepared before": (
        "PREPARE peek AS SELECT tenant_id, key FROM llmspell.kv_store", f"SELECT {_B}", "EXECUTE peek",
    ),
    "EXPLAIN ANALYZE": (
        f"SELECT {_B}", "EXPLAIN (ANALYZE, VERBOSE, TIMING off) SELECT min(tenant_id) FROM llmspell.kv_store",
        "SELECT tenant_id, key FROM llmspell.kv_store",
    ),
    "COPY TO": (f"SELECT {_B}", "COPY (SELECT tenant_id, key FROM llmspell.kv_store) TO STDOUT"),
    "inside of XML": (
        f"SELECT {_B}",
        "SELECT query_to_xml('SELECT tenant_id, key FROM llmspell.kv_store', true, true, '')::text",
    ),
    "error text": (f"SELECT {_B}", "SELECT (tenant_id || key)::int FROM llmspell.kv_store"),
    "the signature of A beside": (
        f"SELECT {_B}, set_config('app.tenant_signature', current_setting('app.tenant_signature', true), true)",
        "SELECT tenant_id, key FROM llmspell.kv_store",
    ),
    "no signature": (
        f"SELECT {_B}, set_config('app.tenant_signature', '', true)", "SELECT tenant_id, key FROM llmspell.kv_store",
    ),
    "FOR UPDATE": (f"SELECT {_B}", "SELECT tenant_id, key FROM llmspell.kv_store FOR UPDATE"),
    "the partitioned log": (f"SELECT {_B}", "SELECT tenant_id, event_type FROM llmspell.event_log"),
}  # fmt: skip

WRITES: dict[str, tuple[str, ...]] = {
    "UPDATE": (f"SELECT {_B}", "UPDATE llmspell.kv_store SET value = 'x'"),
    "UPDATE, set in WHERE": (f"UPDATE llmspell.kv_store SET value = 'x' WHERE {_B} <> ''",),
    "UPDATE, set in RETURNING": (f"UPDATE llmspell.kv_store SET value = 'x' RETURNING {_B}", "DELETE FROM llmspell.kv_store"),
    "UPDATE, set in SET": (
        f"UPDATE llmspell.kv_store SET value = convert_to({_B}, 'UTF8')", "DELETE FROM llmspell.kv_store",
    ),
    "DELETE": (f"SELECT {_B}", "DELETE FROM llmspell.kv_store"),
    "DELETE, set in a CTE": (
        f"WITH x AS MATERIALIZED (SELECT {_B} AS s) DELETE FROM llmspell.kv_store USING x WHERE s <> ''",
    ),
    "INSERT": (
        f"SELECT {_B}",
        ("INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)"
        " VALUES ('{B}', 'planted', gen_random_uuid(), 'x', now(), now())"),
    ),
    "INSERT, set in its values": (
        ("INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)"
        f" VALUES ({_B}, 'planted', gen_random_uuid(), 'x', now(), now())"),
    ),
    "INSERT … ON CONFLICT": (
        f"SELECT {_B}",
        ("INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)"
        " VALUES ('{B}', 'marker-of-b', gen_random_uuid(), 'x', now(), now()) ON CONFLICT (tenant_id, key)"
            " DO UPDATE SET value = 'x'"),
    ),
    "a row given away": ("UPDATE llmspell.kv_store SET tenant_id = '{B}', key = 'planted'",),
    "a row given away, set in SET": (f"UPDATE llmspell.kv_store SET tenant_id = {_B}, key = 'planted'",),
    "MERGE": (
        f"SELECT {_B}",
        "MERGE INTO llmspell.kv_store AS k USING (SELECT 1) AS x ON k.tenant_id = '{B}' WHEN MATCHED THEN DELETE",
    ),
    "anonymous block": (f"DO $$ BEGIN PERFORM {_B}; DELETE FROM llmspell.kv_store; END $$",),
}  # fmt: skip
