-- What here would let one tenant reach another: one row per finding (subject, problem), none when all is well.
-- Every role that can connect may run it. It looks at catalogues, so it also sees a table or partition made tomorrow.
WITH RECURSIVE tables AS (
    SELECT c.oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) AS subject, c.relkind, c.relispartition,
        c.relrowsecurity, c.relforcerowsecurity, c.relacl, c.relowner,
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
-- Whatever reads our tables, at any depth, in any schema.
readers (oid) AS (
    SELECT t.oid FROM tables AS t
    UNION
    SELECT r.ev_class FROM readers AS below
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = below.oid
        AND d.classid = 'pg_catalog.pg_rewrite'::regclass
    JOIN pg_catalog.pg_rewrite AS r ON r.oid = d.objid
),
-- Who can become whom, by one grant or several.
becomes (member, role) AS (
    SELECT m.member, m.roleid FROM pg_catalog.pg_auth_members AS m
    UNION
    SELECT b.member, m.roleid FROM becomes AS b JOIN pg_catalog.pg_auth_members AS m ON m.member = b.role
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
SELECT t.subject, format('%s may %s column %I', coalesce(s.rolname, 'everybody'), x.privilege_type, a.attname)
FROM tables AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND NOT a.attisdropped
CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS x LEFT JOIN serving AS s ON s.oid = x.grantee
WHERE x.grantee = 0 OR s.rolname IS NOT NULL
UNION ALL
SELECT format('%I.%I', n.nspname, c.relname), format('%s may %s a sequence', coalesce(s.rolname, 'everybody'), x.privilege_type)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS x LEFT JOIN serving AS s ON s.oid = x.grantee
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind = 'S'
    AND (x.grantee = 0 OR s.rolname = 'llmspell_app' OR (s.rolname IS NOT NULL AND x.privilege_type = 'UPDATE'))
UNION ALL
SELECT coalesce(n.nspname, 'every schema')::text, format('default privileges let %s %s new %s', coalesce(s.rolname, 'everybody'),
    x.privilege_type, CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
        WHEN 'n' THEN 'schemas' ELSE 'objects' END)
FROM pg_catalog.pg_default_acl AS d LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS x LEFT JOIN serving AS s ON s.oid = x.grantee
WHERE (n.nspname IN ('llmspell', 'llmspell_archive')
        OR (d.defaclnamespace = 0 AND d.defaclrole IN (SELECT t.relowner FROM tables AS t)))
    AND d.defaclobjtype IN ('r', 'S', 'f', 'n')
    AND (x.grantee = 0 OR s.rolname IS NOT NULL)
    AND NOT (n.nspname IS NOT DISTINCT FROM 'llmspell' AND x.grantee <> 0 AND NOT x.is_grantable AND (
        (d.defaclobjtype = 'r' AND x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
        OR (d.defaclobjtype = 'S' AND s.rolname = 'llmspell_operator' AND x.privilege_type IN ('USAGE', 'SELECT'))
    ))
UNION ALL
SELECT coalesce(r.rolname, 'all roles'), 'starts its connections with a tenant (app.current_tenant_id is set for it)'
FROM pg_catalog.pg_db_role_setting AS g LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = g.setrole
LEFT JOIN pg_catalog.pg_database AS b ON b.oid = g.setdatabase
WHERE (g.setdatabase = 0 OR b.datname = pg_catalog.current_database())
    AND EXISTS (SELECT FROM unnest(g.setconfig) AS setting WHERE setting LIKE 'app.current\_tenant\_id=_%')
UNION ALL
SELECT r.rolname, format('may become %s, who is not bound to a tenant', pg_catalog.pg_get_userbyid(b.role))
FROM becomes AS b JOIN pg_catalog.pg_roles AS r ON r.oid = b.member
WHERE r.rolcanlogin AND NOT r.rolsuper AND r.oid NOT IN (SELECT t.relowner FROM tables AS t)
    AND r.oid NOT IN (SELECT s.oid FROM serving AS s) -- every membership of those is named below
    AND (b.role IN (SELECT t.relowner FROM tables AS t)
        OR b.role IN (SELECT s.oid FROM serving AS s WHERE s.rolname = 'llmspell_operator'))
UNION ALL
SELECT s.rolname, 'may create temporary tables, which outlive a tenant on a pooled connection'
FROM serving AS s WHERE pg_catalog.has_database_privilege(s.oid, pg_catalog.current_database(), 'TEMP')
UNION ALL
SELECT t.subject, format('has the rewrite rule %s, which runs as its owner', r.rulename)
FROM tables AS t JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = t.oid
UNION ALL
SELECT t.subject, format('constraint %s does not start with tenant_id, so it tells of other tenants', k.conname)
FROM tables AS t JOIN pg_catalog.pg_constraint AS k ON k.conrelid = t.oid
LEFT JOIN pg_catalog.pg_index AS i ON k.contype = 'x' AND i.indexrelid = k.conindid
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid
    AND a.attnum = CASE k.contype WHEN 'x' THEN i.indkey[0] ELSE k.conkey[1] END
LEFT JOIN pg_catalog.pg_attribute AS f ON k.contype = 'f' AND f.attrelid = k.confrelid AND f.attnum = k.confkey[1]
WHERE k.contype IN ('f', 'x')
    AND (a.attname IS DISTINCT FROM 'tenant_id' OR (k.contype = 'f' AND f.attname IS DISTINCT FROM 'tenant_id'))
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
WHERE (c.oid IN (SELECT oid FROM readers)
        OR c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'llmspell'))
    AND c.relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
UNION ALL
SELECT c.oid::regclass::text, 'has no row-level security, for it is a materialised view or a foreign table'
FROM pg_catalog.pg_class AS c
WHERE (c.oid IN (SELECT oid FROM readers)
        OR c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'llmspell'))
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
