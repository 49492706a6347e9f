-- The same crowd as crowd_postgres.sql. No ANALYZE: the shipped code never runs it, so these are the plans that users get.
CREATE TEMPORARY TABLE crowd AS
WITH RECURSIVE t (t) AS (SELECT 1 UNION ALL SELECT t + 1 FROM t WHERE t < 24),
n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
SELECT 'tenant-' || t AS tenant, n, unhex(printf('%016x%016x', t, n)) AS id, unhex(printf('%016x%016x', t, 1 + n % 200)) AS other,
    1767225600000000 + n * 3600000000 AS at
FROM t, n;
INSERT INTO tenants (tenant_id, name, created_at, updated_at) SELECT DISTINCT tenant, tenant, 0, 0 FROM crowd;
INSERT INTO kv_store (tenant_id, key, value, created_at, updated_at) SELECT tenant, 'key-' || n, x'00', at, at FROM crowd;
INSERT INTO memories (tenant_id, memory_id, session, role, content, event_at, created_at, updated_at, embedding_state)
SELECT tenant, id, 'session-' || n % 40, 'user', 'text ' || n, at, at, at, CASE WHEN n % 50 = 0 THEN 'pending' ELSE 'ready' END FROM crowd;
INSERT INTO jobs (tenant_id, job_id, kind, state, ready, dedupe_key, run_at, created_at, updated_at, finished_at)
SELECT tenant, id, 'kind-' || n % 5, iif(n % 10 = 0, 'queued', 'succeeded'), n % 10 = 0, 'key-' || n, at, at, at, iif(n % 10 = 0, NULL, at) FROM crowd;
INSERT INTO entities
    (tenant_id, entity_id, entity_type, name, name_folded, valid_time_start, valid_time_end, transaction_time_start, transaction_time_end, created_at)
SELECT tenant, id, 'type-' || n % 20, 'Name-' || n, 'name-' || n, at, 9223372036854775807, at, 9223372036854775807, at FROM crowd;
INSERT INTO relationships
    (tenant_id, relationship_id, from_entity, to_entity, relationship_type, valid_time_start, valid_time_end, transaction_time_start,
     transaction_time_end, created_at)
SELECT tenant, id, other, id, 'type-' || n % 20, at, 9223372036854775807, at, 9223372036854775807, at FROM crowd;
