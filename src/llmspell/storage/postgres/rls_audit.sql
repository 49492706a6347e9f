-- What here would let one tenant reach another: one row per finding (subject, problem), none when all is well.
-- The roles of the store may run it. It looks at catalogues, so it also sees a table or partition made tomorrow.
WITH RECURSIVE members (oid) AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p')
    UNION
    SELECT i.inhrelid FROM members AS above JOIN pg_catalog.pg_inherits AS i ON i.inhparent = above.oid
),
tables AS (
    SELECT c.oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) AS subject, c.relkind, c.relispartition,
        c.relrowsecurity, c.relforcerowsecurity, c.relacl, c.relowner,
        EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.attnotnull AND NOT a.attisdropped
        ) AS has_tenant
    FROM members AS m JOIN pg_catalog.pg_class AS c ON c.oid = m.oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p')
),
-- The role that owns the store. Superusers and it are not looked at: nothing here binds them.
owner (oid) AS (SELECT t.relowner FROM tables AS t WHERE t.subject = 'llmspell.store_meta'),
above (oid) AS (SELECT o.oid FROM owner AS o UNION SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolsuper),
schemas AS (
    SELECT n.* FROM pg_catalog.pg_namespace AS n WHERE n.nspname IN ('llmspell', 'llmspell_archive', 'llmspell_private')
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
-- Functions that run as the owner, and who may call them. Triggers of ours.
open_functions (signature, rolname) AS (
    VALUES ('llmspell.ensure_future_event_log_partitions()', 'llmspell_app'), ('llmspell.signed_tenant()', 'llmspell_app'),
        ('llmspell.tenant_signing()', 'llmspell_app'), ('llmspell.signed_tenant()', 'llmspell_operator'),
        ('llmspell.take_embeddings(character varying,bigint,integer)', 'llmspell_app'),
        ('llmspell.tenant_signing()', 'llmspell_operator'),
        ('llmspell.ensure_future_event_log_partitions()', 'llmspell_operator'),
        ('llmspell.create_event_log_partition(date,date)', 'llmspell_operator'),
        ('llmspell.archive_event_log_partitions(timestamp with time zone)', 'llmspell_operator')
),
triggers (tgname) AS (
    VALUES ('agent_states_data_version'), ('artifacts_count_moves'), ('artifacts_count_rows'), ('workflow_states_life_cycle'),
        ('tenants_quotas_granted'), ('tenants_quotas_changed'),
        ('kv_store_usage_insert'), ('kv_store_usage_delete'), ('kv_store_usage_resize'),
        ('memories_usage_insert'), ('memories_usage_delete'), ('memories_usage_resize'),
        ('artifact_content_usage_insert'), ('artifact_content_usage_delete'), ('artifact_content_usage_resize'),
        ('vector_embeddings_384_usage_insert'), ('vector_embeddings_384_usage_delete'),
        ('vector_embeddings_768_usage_insert'), ('vector_embeddings_768_usage_delete'),
        ('vector_embeddings_1536_usage_insert'), ('vector_embeddings_1536_usage_delete'),
        ('vector_embeddings_3072_usage_insert'), ('vector_embeddings_3072_usage_delete')
),
-- What policies lean on, and the SHA-256 of each body.
trusted (signature, definer, body) AS (
    VALUES ('llmspell.signed_tenant()', true, '43968f8cead79003b351bd338c7da9bd89a190572263f615e07b1a0139be059e'),
        ('llmspell.tenant_signing()', true, '84a04c851c7363ebd34649906651e18776fca2b28e6bde0e8d13dc18ecf22cd3'),
        ('llmspell.apply_tenant_rls(regclass)', false, '69f03d8586255d6a1a31de6dbbfbed31d2982c6402bf1e880e81259f74e54929')
),
strict (enforced) AS (SELECT llmspell.tenant_signing()),
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
WHERE p.polname NOT IN (SELECT polname FROM isolation) AND p.polname <> 'tenant_signature'
    AND NOT (
        p.polname = 'operator_access'
        AND p.polroles = (SELECT ARRAY[s.oid] FROM serving AS s WHERE s.rolname = 'llmspell_operator')
    )
UNION ALL
SELECT t.subject, 'policy tenant_signature is missing or says something else, and the strict mode is on'
FROM tenant_tables AS t JOIN strict AS x ON x.enforced
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_policy AS p
    WHERE p.polrelid = t.oid AND p.polname = 'tenant_signature' AND p.polcmd = '*' AND NOT p.polpermissive
        AND p.polroles = (SELECT ARRAY[s.oid] FROM serving AS s WHERE s.rolname = 'llmspell_app')
        AND replace(pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'llmspell.', '')
            = '((tenant_id)::text = ( SELECT signed_tenant() AS signed_tenant))'
        AND pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) = pg_catalog.pg_get_expr(p.polqual, p.polrelid)
        AND EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid
                AND d.refclassid = 'pg_catalog.pg_proc'::regclass
                AND d.refobjid = pg_catalog.to_regprocedure('llmspell.signed_tenant()')
        )
)
UNION ALL
SELECT t.subject, 'policy tenant_signature is there although the strict mode is off'
FROM tables AS t JOIN strict AS x ON NOT x.enforced
JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.oid AND p.polname = 'tenant_signature'
UNION ALL
SELECT t.subject, 'is a month of events that was detached and not archived'
FROM tables AS t WHERE t.nspname = 'llmspell' AND NOT t.relispartition AND t.relname ~ '^event_log_\d{4}_\d{2}'
UNION ALL
SELECT t.subject, format('is owned by %s, who can take its policies away', pg_catalog.pg_get_userbyid(t.relowner))
FROM tables AS t CROSS JOIN owner AS o WHERE t.relowner <> o.oid AND t.relowner NOT IN (SELECT s.oid FROM serving AS s)
UNION ALL
SELECT n.nspname::text, format('is owned by %s, not by the owner of the store', pg_catalog.pg_get_userbyid(n.nspowner))
FROM schemas AS n CROSS JOIN owner AS o WHERE n.nspowner <> o.oid
UNION ALL
-- Roles that we do not know. In the strict mode no signature binds them either.
SELECT t.subject, format('%s may %s, who is neither llmspell_app nor llmspell_operator', r.rolname, a.privilege_type)
FROM tables AS t CROSS JOIN LATERAL pg_catalog.aclexplode(t.relacl) AS a
JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
WHERE r.oid NOT IN (SELECT oid FROM above) AND r.oid NOT IN (SELECT s.oid FROM serving AS s)
UNION ALL
SELECT t.subject, format('%s may %s column %I, who is neither llmspell_app nor llmspell_operator', r.rolname, x.privilege_type, a.attname)
FROM tables AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND NOT a.attisdropped
CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS x JOIN pg_catalog.pg_roles AS r ON r.oid = x.grantee
WHERE r.oid NOT IN (SELECT oid FROM above) AND r.oid NOT IN (SELECT s.oid FROM serving AS s)
UNION ALL
SELECT t.subject, format('%s may pass %s on to others', s.rolname, a.privilege_type)
FROM tables AS t CROSS JOIN LATERAL pg_catalog.aclexplode(t.relacl) AS a JOIN serving AS s ON s.oid = a.grantee
WHERE a.is_grantable
UNION ALL
SELECT n.nspname::text, format('%s has %s on this schema', coalesce(r.rolname, 'everybody'), a.privilege_type)
FROM schemas AS n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) AS a
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
WHERE a.grantee NOT IN (SELECT oid FROM above)
    AND (n.nspname = 'llmspell_private' OR a.grantee NOT IN (SELECT s.oid FROM serving AS s))
UNION ALL
SELECT format('%I.%I', n.nspname, c.relname), format('%s may %s what the signing keys are kept in', coalesce(r.rolname, 'everybody'), a.privilege_type)
FROM pg_catalog.pg_class AS c JOIN schemas AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT x.* FROM pg_catalog.aclexplode(c.relacl) AS x
    UNION
    SELECT x.* FROM pg_catalog.pg_attribute AS k CROSS JOIN LATERAL pg_catalog.aclexplode(k.attacl) AS x WHERE k.attrelid = c.oid
) AS a
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
WHERE n.nspname = 'llmspell_private' AND a.grantee NOT IN (SELECT oid FROM above)
UNION ALL
-- Rows of tenants that are kept elsewhere: a copy, a month that was moved.
SELECT format('%I.%I', n.nspname, c.relname), format('keeps rows by tenant outside of the schema llmspell, without row-level security, and %s may %s',
    coalesce(s.rolname, 'everybody'), a.privilege_type)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a LEFT JOIN serving AS s ON s.oid = a.grantee
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relrowsecurity AND c.oid NOT IN (SELECT oid FROM members)
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND (a.grantee = 0 OR s.rolname = 'llmspell_app')
    AND EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS k WHERE k.attrelid = c.oid AND k.attname = 'tenant_id' AND NOT k.attisdropped
    )
UNION ALL
SELECT t.subject, format('has the trigger %s, which is not one of ours and sees the rows of all tenants', g.tgname)
FROM tables AS t JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = t.oid
WHERE NOT g.tgisinternal AND g.tgname NOT IN (SELECT tgname FROM triggers)
UNION ALL
SELECT format('event trigger %I', g.evtname), 'runs in what migrates and makes partitions, as the owner of the store'
FROM pg_catalog.pg_event_trigger AS g
WHERE g.evtenabled <> 'D' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_event_trigger'::regclass AND d.objid = g.oid AND d.deptype = 'e'
)
UNION ALL
SELECT format('publication %I', p.pubname), 'sends the rows of all tenants to whoever subscribes'
FROM pg_catalog.pg_publication AS p
WHERE p.puballtables
    OR EXISTS (
        SELECT FROM pg_catalog.pg_publication_rel AS r
        WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT t.oid FROM tables AS t)
    )
    OR EXISTS (
        SELECT FROM pg_catalog.pg_publication_namespace AS s
        WHERE s.pnpubid = p.oid AND s.pnnspid IN (SELECT n.oid FROM schemas AS n)
    )
UNION ALL
SELECT format('large object %s', l.oid), format('is not subject to row-level security, and %s can read it',
    CASE WHEN l.lomowner IN (SELECT s.oid FROM serving AS s) THEN pg_catalog.pg_get_userbyid(l.lomowner)::text
        ELSE coalesce(s.rolname, 'everybody') END)
FROM pg_catalog.pg_largeobject_metadata AS l LEFT JOIN LATERAL pg_catalog.aclexplode(l.lomacl) AS a ON true
LEFT JOIN serving AS s ON s.oid = a.grantee
WHERE l.lomowner IN (SELECT x.oid FROM serving AS x) OR a.grantee = 0 OR s.rolname IS NOT NULL
GROUP BY 1, 2
UNION ALL
SELECT x.signature, 'says something else than ours, and policies rely on it'
FROM trusted AS x LEFT JOIN pg_catalog.pg_proc AS f ON f.oid = pg_catalog.to_regprocedure(x.signature)
WHERE f.prosecdef IS DISTINCT FROM x.definer
    OR encode(sha256(convert_to(f.prosrc, 'UTF8')), 'hex') IS DISTINCT FROM x.body
UNION ALL
SELECT format('%s.%I(%s)', f.pronamespace::regnamespace, f.proname, pg_catalog.oidvectortypes(f.proargtypes)),
    format('is owned by %s, not by the owner of the store', pg_catalog.pg_get_userbyid(f.proowner))
FROM pg_catalog.pg_proc AS f JOIN schemas AS n ON n.oid = f.pronamespace CROSS JOIN owner AS o
WHERE f.proowner <> o.oid AND f.proowner NOT IN (SELECT s.oid FROM serving AS s)
UNION ALL
SELECT format('%s.%I(%s)', f.pronamespace::regnamespace, f.proname, pg_catalog.oidvectortypes(f.proargtypes)), format('%s may execute it, and it runs as %s, whom no tenant binds',
    coalesce(r.rolname, 'everybody'), pg_catalog.pg_get_userbyid(f.proowner))
FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner))) AS a
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
WHERE f.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND a.grantee NOT IN (SELECT oid FROM above) AND a.grantee <> f.proowner
    AND (n.nspname <> 'llmspell' OR a.grantee <> 0) -- that is named below
    AND EXISTS (
        SELECT FROM pg_catalog.pg_roles AS w WHERE w.oid = f.proowner AND (
            w.rolsuper OR w.rolbypassrls OR pg_catalog.pg_has_role(w.oid, (SELECT o.oid FROM owner AS o), 'MEMBER')
            OR w.oid IN (SELECT s.oid FROM serving AS s WHERE s.rolname = 'llmspell_operator')
        )
    )
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e'
    )
    AND NOT EXISTS (
        SELECT FROM open_functions AS k
        WHERE pg_catalog.to_regprocedure(k.signature) = f.oid AND k.rolname = r.rolname
    )
UNION ALL
SELECT s.rolname, format('may execute %s(%s), which the server keeps for administrators', f.proname,
    pg_catalog.oidvectortypes(f.proargtypes))
FROM pg_catalog.pg_proc AS f CROSS JOIN LATERAL pg_catalog.aclexplode(f.proacl) AS a JOIN serving AS s ON s.oid = a.grantee
WHERE f.pronamespace = 'pg_catalog'::regnamespace
UNION ALL
SELECT coalesce(s.rolname, 'everybody'), format('may set %s, which the server keeps for administrators', p.parname)
FROM pg_catalog.pg_parameter_acl AS p CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) AS a
LEFT JOIN serving AS s ON s.oid = a.grantee
WHERE a.grantee = 0 OR s.rolname IS NOT NULL
UNION ALL
SELECT r.rolname, format('is a member of %s, so it reaches the rows of every tenant', pg_catalog.pg_get_userbyid(b.role))
FROM becomes AS b JOIN pg_catalog.pg_roles AS r ON r.oid = b.member
WHERE r.rolcanlogin AND r.oid NOT IN (SELECT oid FROM above) AND r.oid NOT IN (SELECT s.oid FROM serving AS s)
    AND pg_catalog.pg_get_userbyid(b.role) IN ('pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files',
        'pg_write_server_files', 'pg_execute_server_program')
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
SELECT coalesce(n.nspname, 'every schema')::text, format('default privileges let %s %s new %s', coalesce(u.rolname, 'everybody'),
    x.privilege_type, CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
        WHEN 'n' THEN 'schemas' ELSE 'objects' END)
FROM pg_catalog.pg_default_acl AS d LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS x LEFT JOIN serving AS s ON s.oid = x.grantee
LEFT JOIN pg_catalog.pg_roles AS u ON u.oid = x.grantee
WHERE (n.nspname IN ('llmspell', 'llmspell_archive', 'llmspell_private')
        OR (d.defaclnamespace = 0 AND d.defaclrole IN (SELECT t.relowner FROM tables AS t)))
    AND d.defaclobjtype IN ('r', 'S', 'f', 'n')
    AND x.grantee NOT IN (SELECT oid FROM above)
    AND NOT (n.nspname IS NOT DISTINCT FROM 'llmspell' AND x.grantee <> 0 AND NOT x.is_grantable AND (
        (d.defaclobjtype = 'r' AND s.rolname IS NOT NULL AND x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
        OR (d.defaclobjtype = 'S' AND s.rolname = 'llmspell_operator' AND x.privilege_type IN ('USAGE', 'SELECT'))
    ))
UNION ALL
SELECT coalesce(r.rolname, 'all roles'), 'starts its connections with a tenant (app.current_tenant_id is set for it)'
FROM pg_catalog.pg_db_role_setting AS g LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = g.setrole
LEFT JOIN pg_catalog.pg_database AS b ON b.oid = g.setdatabase
WHERE (g.setdatabase = 0 OR b.datname = pg_catalog.current_database())
    AND EXISTS (SELECT FROM unnest(g.setconfig) AS setting WHERE setting LIKE 'app.current\_tenant\_id=_%')
UNION ALL
SELECT coalesce(r.rolname, 'all roles'), 'starts its connections with a signature (app.tenant_signature is set for it)'
FROM pg_catalog.pg_db_role_setting AS g LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = g.setrole
LEFT JOIN pg_catalog.pg_database AS b ON b.oid = g.setdatabase
WHERE (g.setdatabase = 0 OR b.datname = pg_catalog.current_database())
    AND EXISTS (SELECT FROM unnest(g.setconfig) AS setting WHERE setting LIKE 'app.tenant\_signature=_%')
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
SELECT s.rolname, format('owns %s.%I', c.relnamespace::regnamespace, c.relname)
FROM serving AS s JOIN pg_catalog.pg_class AS c ON c.relowner = s.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
UNION ALL
SELECT s.rolname, format('owns function %s.%I(%s)', f.pronamespace::regnamespace, f.proname,
    pg_catalog.oidvectortypes(f.proargtypes))
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
SELECT format('%s.%I', c.relnamespace::regnamespace, c.relname), 'is a view that reads as its owner' FROM pg_catalog.pg_class AS c
WHERE (c.oid IN (SELECT oid FROM readers)
        OR c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'llmspell'))
    AND c.relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
UNION ALL
SELECT format('%s.%I', c.relnamespace::regnamespace, c.relname), 'has no row-level security, for it is a materialised view or a foreign table'
FROM pg_catalog.pg_class AS c
WHERE (c.oid IN (SELECT oid FROM readers)
        OR c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'llmspell'))
    AND c.relkind IN ('m', 'f')
UNION ALL
SELECT format('%s.%I(%s)', f.pronamespace::regnamespace, f.proname, pg_catalog.oidvectortypes(f.proargtypes)), format('runs %swith a search_path that others choose',
    CASE WHEN f.prosecdef THEN 'as its owner ' ELSE '' END)
FROM pg_catalog.pg_proc AS f JOIN schemas AS n ON n.oid = f.pronamespace
WHERE 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(f.proconfig, '{}'))
UNION ALL
SELECT format('%s.%I(%s)', f.pronamespace::regnamespace, f.proname, pg_catalog.oidvectortypes(f.proargtypes)), 'runs as a superuser'
FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
JOIN pg_catalog.pg_roles AS r ON r.oid = f.proowner
WHERE n.nspname = 'llmspell' AND f.prosecdef AND (r.rolsuper OR r.rolbypassrls)
UNION ALL
SELECT format('%s.%I(%s)', f.pronamespace::regnamespace, f.proname, pg_catalog.oidvectortypes(f.proargtypes)), 'everybody may execute it'
FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner))) AS a
WHERE n.nspname = 'llmspell' AND a.grantee = 0
UNION ALL
SELECT (SELECT format('%s.%I', c.relnamespace::regnamespace, c.relname) FROM pg_catalog.pg_class AS c WHERE c.oid = i.indexrelid), 'is unique without starting with tenant_id, so it tells of other tenants'
FROM tables AS t JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
WHERE i.indisunique AND a.attname IS DISTINCT FROM 'tenant_id' AND t.relname NOT IN (SELECT relname FROM shared)
ORDER BY 1, 2;
