-- What here would let one tenant reach another: one row per finding (subject, problem), none when all is well.
-- Every role that can connect may run it. It looks at catalogues, so it also sees a table or partition made tomorrow.
WITH tables AS (
    SELECT c.oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) AS subject, c.relkind, c.relispartition,
        c.relrowsecurity, c.relforcerowsecurity, c.relacl,
        EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.attnotnull AND NOT a.attisdropped
        ) AS has_tenant
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p')
),
shared (relname) AS (VALUES ('schema_migrations'), ('store_meta')),
tenant_tables AS (SELECT * FROM tables WHERE has_tenant),
serving AS (SELECT r.* FROM pg_catalog.pg_roles AS r WHERE r.rolname IN ('llmspell_app', 'llmspell_operator')),
isolation (polname, polcmd, reads, writes) AS (
    VALUES ('tenant_isolation_select', 'r', true, false), ('tenant_isolation_insert', 'a', false, true),
        ('tenant_isolation_update', 'w', true, true), ('tenant_isolation_delete', 'd', true, false)
),
own_rows (expression) AS (
    VALUES ('((tenant_id)::text = ( SELECT current_setting(''app.current_tenant_id''::text, true) AS current_setting))')
)
SELECT t.subject, 'has no tenant_id and is not known to be shared' AS problem
FROM tables AS t WHERE NOT t.has_tenant AND t.relname NOT IN (SELECT relname FROM shared)
UNION ALL
SELECT t.subject, 'row-level security is not enabled'
FROM tenant_tables AS t WHERE NOT t.relrowsecurity
UNION ALL
SELECT t.subject, 'row-level security is not forced on the owner'
FROM tenant_tables AS t WHERE NOT t.relforcerowsecurity
UNION ALL
SELECT t.subject, format('policy %s is missing or says something else', i.polname)
FROM tenant_tables AS t CROSS JOIN isolation AS i CROSS JOIN own_rows AS o
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_policy AS p
    WHERE p.polrelid = t.oid AND p.polname = i.polname AND p.polcmd = i.polcmd::"char" AND p.polpermissive
        AND p.polroles = '{0}'
        AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) IS NOT DISTINCT FROM CASE WHEN i.reads THEN o.expression END
        AND pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
            IS NOT DISTINCT FROM CASE WHEN i.writes THEN o.expression END
)
UNION ALL
SELECT t.subject, format('policy %s is not one of ours', p.polname)
FROM tenant_tables AS t JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.oid
WHERE p.polname NOT IN (SELECT polname FROM isolation)
    AND NOT (
        p.polname = 'operator_access'
        AND p.polroles = (SELECT ARRAY[s.oid] FROM serving AS s WHERE s.rolname = 'llmspell_operator')
    )
UNION ALL
SELECT t.subject, format('%s may %s', coalesce(s.rolname, 'everybody'), a.privilege_type)
FROM tables AS t CROSS JOIN LATERAL pg_catalog.aclexplode(t.relacl) AS a LEFT JOIN serving AS s ON s.oid = a.grantee
WHERE a.grantee = 0
    OR (s.rolname IS NOT NULL AND a.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
    OR (s.rolname = 'llmspell_app' AND (t.relispartition OR t.nspname = 'llmspell_archive'))
    OR (s.rolname = 'llmspell_app' AND t.relname IN (SELECT relname FROM shared) AND a.privilege_type <> 'SELECT')
UNION ALL
SELECT s.rolname, 'may bypass row-level security or administer the cluster'
FROM serving AS s WHERE s.rolsuper OR s.rolbypassrls OR s.rolcreaterole OR s.rolcreatedb OR s.rolreplication
UNION ALL
SELECT s.rolname, format('is a member of %s', pg_catalog.pg_get_userbyid(m.roleid))
FROM serving AS s JOIN pg_catalog.pg_auth_members AS m ON m.member = s.oid
UNION ALL
SELECT s.rolname, format('owns %s', c.oid::regclass)
FROM serving AS s JOIN pg_catalog.pg_class AS c ON c.relowner = s.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
UNION ALL
SELECT s.rolname, format('owns function %s', f.oid::regprocedure)
FROM serving AS s JOIN pg_catalog.pg_proc AS f ON f.proowner = s.oid
UNION ALL
SELECT s.rolname, format('owns or may create in schema %I', n.nspname)
FROM serving AS s JOIN pg_catalog.pg_namespace AS n
    ON n.nspname IN ('llmspell', 'llmspell_archive', 'public')
    AND pg_catalog.has_schema_privilege(s.oid, n.oid, 'CREATE')
UNION ALL
SELECT s.rolname, 'may use schema llmspell_archive'
FROM serving AS s JOIN pg_catalog.pg_namespace AS n ON n.nspname = 'llmspell_archive'
WHERE s.rolname = 'llmspell_app' AND pg_catalog.has_schema_privilege(s.oid, n.oid, 'USAGE')
UNION ALL
SELECT s.rolname, 'may create schemas in this database'
FROM serving AS s WHERE pg_catalog.has_database_privilege(s.oid, pg_catalog.current_database(), 'CREATE')
UNION ALL
SELECT c.oid::regclass::text, 'is a view that reads as its owner' FROM pg_catalog.pg_class AS c
WHERE c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'llmspell')
    AND c.relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
UNION ALL
SELECT c.oid::regclass::text, 'has no row-level security, for it is a materialised view or a foreign table'
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'llmspell')
    AND c.relkind IN ('m', 'f')
UNION ALL
SELECT f.oid::regprocedure::text, 'runs as its owner with a search_path that the caller chooses'
FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
WHERE n.nspname = 'llmspell' AND f.prosecdef
    AND NOT EXISTS (SELECT FROM unnest(f.proconfig) AS setting WHERE setting LIKE 'search\_path=%')
UNION ALL
SELECT f.oid::regprocedure::text, 'runs as a superuser'
FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
JOIN pg_catalog.pg_roles AS r ON r.oid = f.proowner
WHERE n.nspname = 'llmspell' AND f.prosecdef AND (r.rolsuper OR r.rolbypassrls)
UNION ALL
SELECT f.oid::regprocedure::text, 'everybody may execute it'
FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner))) AS a
WHERE n.nspname = 'llmspell' AND a.grantee = 0
UNION ALL
SELECT i.indexrelid::regclass::text, 'is unique without starting with tenant_id, so it tells of other tenants'
FROM tables AS t JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
WHERE i.indisunique AND a.attname IS DISTINCT FROM 'tenant_id' AND t.relname NOT IN (SELECT relname FROM shared)
ORDER BY 1, 2;
