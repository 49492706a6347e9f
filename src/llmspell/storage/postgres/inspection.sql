-- What a server says of its own health. Any role of the store may ask; what a role cannot see is NULL here, and said by whoever reads it.
-- Nothing is written, and no row of a tenant is read. Statistics are those of the server, not exact counts.

-- section: bloat
-- Dead rows per table, the most first (MNT-05). The share of dead rows, because the space of indexes and TOAST says nothing (AMB-094).
SELECT format('%I.%I', s.schemaname, s.relname) AS "table", s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows,
  round(100.0 * s.n_dead_tup / greatest(s.n_live_tup + s.n_dead_tup, 1), 1)::float8 AS dead_percent,
  pg_catalog.pg_total_relation_size(s.relid) AS total_bytes, pg_catalog.pg_relation_size(s.relid) AS table_bytes
FROM pg_catalog.pg_stat_user_tables s
WHERE s.schemaname IN ('llmspell', 'llmspell_archive')
  AND (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = s.relid) = 'r'
ORDER BY s.n_dead_tup DESC, 1

-- section: autovacuum
-- When each table was vacuumed and analysed, and from how many dead rows on autovacuum comes (MNT-05).
SELECT format('%I.%I', s.schemaname, s.relname) AS "table", s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze,
  s.vacuum_count, s.autovacuum_count, s.n_dead_tup AS dead_rows, s.n_live_tup AS live_rows,
  ceil(coalesce(o.threshold, current_setting('autovacuum_vacuum_threshold')::float8)
    + coalesce(o.scale, current_setting('autovacuum_vacuum_scale_factor')::float8) * greatest(c.reltuples, 0))::int8 AS due_at_dead_rows,
  coalesce(o.enabled, true) AND current_setting('autovacuum')::bool AS enabled,
  age(c.relfrozenxid) AS xid_age, current_setting('autovacuum_freeze_max_age')::int8 AS xid_age_max,
  extract(epoch FROM now() - greatest(s.last_vacuum, s.last_autovacuum))::float8 AS vacuumed_before_s
FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
CROSS JOIN LATERAL (
  SELECT max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_threshold')::float8 AS threshold,
    max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_scale_factor')::float8 AS scale,
    bool_and(x.option_value::bool) FILTER (WHERE x.option_name = 'autovacuum_enabled') AS enabled
  FROM pg_catalog.pg_options_to_table(c.reloptions) x
) AS o
WHERE s.schemaname IN ('llmspell', 'llmspell_archive') AND c.relkind = 'r'
ORDER BY greatest(s.last_vacuum, s.last_autovacuum) NULLS FIRST, 1

-- section: unused-indexes
-- Indexes that nothing has read since the statistics began (MNT-11). Those of partitions count with their parent's; what enforces
-- a key or a constraint is used without being read.
WITH RECURSIVE roots (oid, root) AS (
  SELECT c.oid, c.oid FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('i', 'I') AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
  UNION ALL
  SELECT i.inhrelid, r.root FROM roots r JOIN pg_catalog.pg_inherits i ON i.inhparent = r.oid
)
SELECT format('%I.%I', n.nspname, c.relname) AS "index", format('%I.%I', n.nspname, t.relname) AS "table",
  sum(coalesce(s.idx_scan, 0))::int8 AS scans, sum(pg_catalog.pg_relation_size(r.oid))::int8 AS bytes,
  (SELECT d.stats_reset FROM pg_catalog.pg_stat_database d WHERE d.datname = current_database()) AS counted_since
FROM roots r JOIN pg_catalog.pg_class c ON c.oid = r.root JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
LEFT JOIN pg_catalog.pg_stat_user_indexes s ON s.indexrelid = r.oid
WHERE n.nspname = 'llmspell' AND NOT x.indisunique AND x.indisvalid
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid)
GROUP BY c.oid, n.nspname, c.relname, t.relname
HAVING sum(coalesce(s.idx_scan, 0)) = 0
ORDER BY 4 DESC, 1

-- section: missing-indexes
-- Large tables that are read from end to end again and again, and foreign keys that no index of their table serves.
SELECT format('%I.%I', s.schemaname, s.relname) AS "table", 'sequential scans' AS reason, s.seq_scan AS seq_scans,
  coalesce(s.idx_scan, 0) AS index_scans, s.seq_tup_read / greatest(s.seq_scan, 1) AS rows_per_scan, s.n_live_tup AS live_rows,
  '' AS columns
FROM pg_catalog.pg_stat_user_tables s
WHERE s.schemaname = 'llmspell' AND s.n_live_tup >= 10000 AND s.seq_scan >= 50 AND s.seq_tup_read / greatest(s.seq_scan, 1) >= 10000
UNION ALL
SELECT format('%I.%I', n.nspname, t.relname), 'foreign key without index', NULL, NULL, NULL, greatest(t.reltuples, 0)::int8,
  (SELECT string_agg(a.attname, ', ' ORDER BY k.place)
   FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, place)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum)
FROM pg_catalog.pg_constraint f JOIN pg_catalog.pg_class t ON t.oid = f.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
WHERE f.contype = 'f' AND n.nspname = 'llmspell' AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = f.conrelid AND x.indisvalid
    -- the first columns of the index are those of the key, in any order
    AND (x.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey AND f.conkey @> (x.indkey::int2[])[0:cardinality(f.conkey) - 1]
)
ORDER BY 2, 1, 7

-- section: invalid-indexes
-- What a build that failed has left behind: it costs every write, and no query reads it.
SELECT format('%I.%I', n.nspname, c.relname) AS "index", format('%I.%I', n.nspname, t.relname) AS "table",
  pg_catalog.pg_relation_size(c.oid) AS bytes, c.relkind = 'I' AS partitioned,
  c.relname ~ '_cc(new|old)[0-9]*$' AS leftover,
  EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid) AS being_built
FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND NOT (x.indisvalid AND x.indisready)
ORDER BY 1

-- section: cache
-- How often a page was in the server's own cache (MNT-11); a page that the system's cache had counts as read.
SELECT 'tables' AS what, sum(s.heap_blks_hit)::int8 AS hit, sum(s.heap_blks_read)::int8 AS read,
  round(100.0 * sum(s.heap_blks_hit) / greatest(sum(s.heap_blks_hit + s.heap_blks_read), 1), 2)::float8 AS hit_percent
FROM pg_catalog.pg_statio_user_tables s WHERE s.schemaname = 'llmspell'
UNION ALL
SELECT 'indexes', sum(s.idx_blks_hit)::int8, sum(s.idx_blks_read)::int8,
  round(100.0 * sum(s.idx_blks_hit) / greatest(sum(s.idx_blks_hit + s.idx_blks_read), 1), 2)::float8
FROM pg_catalog.pg_statio_user_tables s WHERE s.schemaname = 'llmspell'
ORDER BY 1

-- section: locks
-- Who waits for whom (MNT-11). The texts of other roles' statements need pg_read_all_stats.
SELECT w.pid AS waiting_pid, w.usename::text AS waiting_role,
  extract(epoch FROM clock_timestamp() - coalesce(l.since, w.query_start))::float8 AS waited_s,
  l.mode AS wanted, l.relation, left(w.query, 200) AS waiting_query,
  b.pid AS blocking_pid, b.usename::text AS blocking_role, b.state AS blocking_state,
  extract(epoch FROM clock_timestamp() - b.xact_start)::float8 AS blocking_transaction_s, left(b.query, 200) AS blocking_query
FROM pg_catalog.pg_stat_activity w
CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) AS blocker (pid)
JOIN pg_catalog.pg_stat_activity b ON b.pid = blocker.pid
LEFT JOIN LATERAL (
  SELECT k.mode, k.relation::pg_catalog.regclass::text AS relation, k.waitstart AS since
  FROM pg_catalog.pg_locks k WHERE k.pid = w.pid AND NOT k.granted ORDER BY k.waitstart LIMIT 1
) AS l ON true
WHERE w.datname = current_database()
ORDER BY waited_s DESC NULLS LAST, w.pid, b.pid

-- section: connections
-- Sessions of this database, with what each does; its own session is left out. Where this role may not see it, `state` is NULL, and
-- so are the kind of the session and when it began.
SELECT a.pid, a.usename::text AS role, coalesce(a.application_name, '') AS application, coalesce(a.client_addr::text, 'local') AS client,
  a.state, extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS in_state_s,
  extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS query_s,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_s,
  coalesce(a.wait_event_type, '') AS waits_for, left(coalesce(a.query, ''), 200) AS query, a.backend_start AS started_at,
  EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = a.pid)
    OR EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = a.pid)
    OR EXISTS (SELECT FROM pg_catalog.pg_stat_progress_cluster p WHERE p.pid = a.pid)
    OR EXISTS (SELECT FROM pg_catalog.pg_stat_progress_analyze p WHERE p.pid = a.pid)
    OR EXISTS (SELECT FROM pg_catalog.pg_stat_progress_copy p WHERE p.pid = a.pid)
    OR a.application_name IN ('pg_dump', 'pg_restore', 'pg_basebackup') AS maintenance
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND coalesce(a.backend_type, 'client backend') = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
ORDER BY a.pid

-- section: limits
-- How many connections the server has, and how many of them are taken, by all databases (AMB-091: counted, not grouped by accident).
SELECT current_setting('max_connections')::int8 AS max_connections,
  current_setting('superuser_reserved_connections')::int8 AS reserved,
  (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend' OR a.backend_type IS NULL) AS taken,
  (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_catalog.pg_backend_pid()) AS taken_here,
  pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all_sessions

-- section: sizes
-- The database, its largest tables with all of their partitions, and its largest indexes (MNT-10).
(SELECT 'database' AS kind, current_database()::text AS name, pg_catalog.pg_database_size(current_database()) AS bytes,
  NULL::int8 AS table_bytes, NULL::int8 AS index_bytes, NULL::int8 AS rows)
UNION ALL
(SELECT 'table', format('%I.%I', n.nspname, r.relname), sum(pg_catalog.pg_total_relation_size(c.oid))::int8,
  sum(pg_catalog.pg_table_size(c.oid))::int8, sum(pg_catalog.pg_indexes_size(c.oid))::int8, sum(greatest(c.reltuples, 0))::int8
 FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
 JOIN pg_catalog.pg_class r ON r.oid = coalesce(i.inhparent, c.oid) JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
 WHERE c.relkind = 'r' AND n.nspname IN ('llmspell', 'llmspell_archive', 'llmspell_private')
 GROUP BY r.oid, n.nspname, r.relname ORDER BY 3 DESC, 2 LIMIT 10)
UNION ALL
(SELECT 'index', format('%I.%I', n.nspname, c.relname), pg_catalog.pg_relation_size(c.oid), NULL, NULL, greatest(c.reltuples, 0)::int8
 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'i' AND n.nspname IN ('llmspell', 'llmspell_archive')
 ORDER BY 3 DESC, 2 LIMIT 10)

-- section: statements
-- Where pg_stat_statements is, when an administrator has installed it.
SELECT n.nspname::text AS schema FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements'

-- section: slow-queries
-- Statements of this database that take more than 100 ms on average, by what they cost together (MNT-07, MNT-11).
SELECT s.calls, round(s.mean_exec_time::numeric, 2)::float8 AS mean_ms, round(s.max_exec_time::numeric, 2)::float8 AS max_ms,
  round(s.total_exec_time::numeric, 1)::float8 AS total_ms, s.rows, pg_catalog.pg_get_userbyid(s.userid)::text AS role,
  regexp_replace(left(s.query, 400), '\s+', ' ', 'g') AS query
FROM {statements} s JOIN pg_catalog.pg_database d ON d.oid = s.dbid
WHERE d.datname = current_database() AND s.mean_exec_time > 100
ORDER BY s.mean_exec_time * s.calls DESC, s.queryid LIMIT 20
