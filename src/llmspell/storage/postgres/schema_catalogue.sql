-- The schema as text, from the catalogues: what `schema.sql` holds. Month partitions are left out: they depend on today.
WITH schemas AS (SELECT oid, nspname FROM pg_namespace WHERE nspname IN ('llmspell', 'llmspell_archive', 'llmspell_private')),
relations AS (
    SELECT c.*, s.nspname, format('%I.%I', s.nspname, c.relname) AS full_name
    FROM pg_class AS c JOIN schemas AS s ON s.oid = c.relnamespace
    WHERE c.relname !~ '^event_log_\d{4}_\d{2}'
),
tables AS (SELECT * FROM relations WHERE relkind IN ('r', 'p')),
serving AS (SELECT oid, rolname FROM pg_roles WHERE rolname IN ('llmspell_app', 'llmspell_operator')),
lines (part, name, place, line) AS (
    SELECT 1, nspname, 0, format('CREATE SCHEMA %I;', nspname) FROM schemas
    UNION ALL
    SELECT 2, full_name, 0, format('CREATE SEQUENCE %s AS %s;', full_name, format_type(q.seqtypid, NULL))
    FROM relations AS r JOIN pg_sequence AS q ON q.seqrelid = r.oid
    UNION ALL
    SELECT 3, p.oid::regprocedure::text, 0, pg_get_functiondef(p.oid) || ';'
    FROM pg_proc AS p JOIN schemas AS s ON s.oid = p.pronamespace
    UNION ALL
    SELECT 4, full_name, 0, format(E'\nCREATE TABLE %s (', full_name) FROM tables
    UNION ALL
    SELECT 4, t.full_name, a.attnum, concat(
        '    ', quote_ident(a.attname), ' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> y.typcollation THEN (SELECT format(' COLLATE %I', collname) FROM pg_collation WHERE oid = a.attcollation) END,
        CASE WHEN a.attnotnull THEN ' NOT NULL' END,
        ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid),
        CASE WHEN a.attstorage <> y.typstorage
            THEN ' STORAGE ' || CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
        ' STATISTICS ' || a.attstattarget,
        CASE WHEN lead(a.attnum) OVER (PARTITION BY t.oid ORDER BY a.attnum) IS NOT NULL THEN ',' END
    )
    FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS y ON y.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = t.oid AND d.adnum = a.attnum
    UNION ALL
    SELECT 4, full_name, 10000, concat(
        ')', ' PARTITION BY ' || pg_get_partkeydef(t.oid),
        CASE WHEN t.relispartition THEN ' PARTITION OF ' || (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = t.oid)
            || ' ' || pg_get_expr(t.relpartbound, t.oid) END,
        ' WITH (' || array_to_string(t.reloptions, ', ') || ')',
        CASE WHEN t.relrowsecurity THEN ' ENABLE ROW LEVEL SECURITY' END,
        CASE WHEN t.relforcerowsecurity THEN ' FORCE ROW LEVEL SECURITY' END, ';'
    ) FROM tables AS t
    UNION ALL
    SELECT 5, t.full_name || ' ' || k.conname, 0, format('ALTER TABLE %s ADD CONSTRAINT %I %s;', t.full_name, k.conname, pg_get_constraintdef(k.oid))
    FROM tables AS t JOIN pg_constraint AS k ON k.conrelid = t.oid WHERE k.contype <> 'n'
    UNION ALL
    SELECT 6, r.full_name, 0, pg_get_indexdef(r.oid) || ';'
    FROM relations AS r WHERE r.relkind IN ('i', 'I') AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = r.oid)
        AND NOT r.relispartition
    UNION ALL
    SELECT 7, t.full_name || ' ' || g.tgname, 0, pg_get_triggerdef(g.oid) || ';'
    FROM tables AS t JOIN pg_trigger AS g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
    UNION ALL
    SELECT 8, t.full_name || ' ' || p.polname, 0, concat(
        'CREATE POLICY ', p.polname, ' ON ', t.full_name,
        ' FOR ', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        ' TO ' || (SELECT string_agg(s.rolname, ', ') FROM serving AS s WHERE s.oid = ANY (p.polroles)),
        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ';'
    )
    FROM tables AS t JOIN pg_policy AS p ON p.polrelid = t.oid
    UNION ALL
    SELECT 9, r.full_name || ' ' || s.rolname, 0, format('GRANT %s ON %s TO %s;', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), r.full_name, s.rolname)
    FROM relations AS r CROSS JOIN LATERAL aclexplode(r.relacl) AS a JOIN serving AS s ON s.oid = a.grantee
    GROUP BY r.full_name, s.rolname
    UNION ALL
    SELECT 9, 'SCHEMA ' || n.nspname || ' ' || s.rolname, 0, format('GRANT %s ON SCHEMA %I TO %s;', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), n.nspname, s.rolname)
    FROM pg_namespace AS n JOIN schemas USING (oid) CROSS JOIN LATERAL aclexplode(n.nspacl) AS a JOIN serving AS s ON s.oid = a.grantee
    GROUP BY n.nspname, s.rolname
    UNION ALL
    SELECT 9, 'FUNCTION ' || p.oid::regprocedure || ' ' || s.rolname, 0, format('GRANT EXECUTE ON FUNCTION %s TO %s;', p.oid::regprocedure, s.rolname)
    FROM pg_proc AS p JOIN schemas AS n ON n.oid = p.pronamespace CROSS JOIN LATERAL aclexplode(p.proacl) AS a JOIN serving AS s ON s.oid = a.grantee
    UNION ALL
    SELECT 10, d.defaclobjtype::text || ' ' || s.rolname, 0, format(
        'ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell GRANT %s ON %s TO %s;', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
        CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' ELSE d.defaclobjtype::text END, s.rolname
    )
    FROM pg_default_acl AS d JOIN schemas AS n ON n.oid = d.defaclnamespace CROSS JOIN LATERAL aclexplode(d.defaclacl) AS a JOIN serving AS s ON s.oid = a.grantee
    GROUP BY d.defaclobjtype, s.rolname
)
SELECT line FROM lines ORDER BY part, name COLLATE "C", place, line COLLATE "C";
