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
INSERT INTO audit_log
    (tenant_id, sequence, entry_id, at, operation, principal, resource, decision, prev_hash, entry_hash)
SELECT tenant, n, id, at, 'operation-' || n % 20, 'principal-' || n % 40, 'resource', CASE WHEN n % 50 = 0 THEN 'deny' ELSE 'allow' END, id, id FROM crowd;
INSERT INTO api_keys (tenant_id, key_id, service, encrypted_key, created_at, expires_at, is_active)
SELECT tenant, hex(id), 'service-' || (n % 500), x'00', at, at + 3600000000 * (n % 100), n <= 500 FROM crowd;
INSERT INTO access_keys (tenant_id, key_id, name, principal, scopes, key_hash, pepper, created_at, expires_at, revoked_at)
SELECT tenant, id, 'key-' || n, 'robot', '["read"]', zeroblob(32), 'store', at, at + 3600000000 * (n % 100),
    CASE WHEN n % 2 = 0 THEN at END
FROM crowd;
INSERT INTO sessions (tenant_id, session_id, session_data, status, created_at, last_accessed_at, updated_at, expires_at)
SELECT tenant, id, '{}', CASE WHEN n % 10 = 0 THEN 'archived' ELSE 'active' END, at, at, at, CASE WHEN n % 5 = 0 THEN at END FROM crowd;
INSERT INTO artifact_content (tenant_id, content_hash, storage_type, data, size_bytes, original_size_bytes, created_at, last_accessed_at)
SELECT tenant, printf('%064d', n), 'bytea', x'', 0, 0, at, at FROM crowd;
INSERT INTO artifacts
    (tenant_id, artifact_id, session_id, sequence, content_hash, metadata, name, artifact_type, mime_type, size_bytes, created_at, stored_at,
     updated_at)
SELECT tenant, hex(other) || ':' || n || ':' || printf('%064d', n), other, n, printf('%064d', n), '{}', 'name-' || n,
    CASE WHEN n % 10 = 0 THEN 'custom' ELSE 'tool_result' END, 'text/plain', 0, at, at, at
FROM crowd;
INSERT INTO procedural_patterns (tenant_id, pattern_id, scope, key, value, frequency, first_seen, last_seen, created_at, updated_at)
SELECT tenant, id, 'scope', 'key-' || n % 40, 'value-' || n, 1 + n % 5, at, at, at, at FROM crowd;
INSERT INTO agent_states (tenant_id, state_id, agent_id, agent_type, state_data, checksum, created_at, updated_at)
SELECT tenant, id, 'agent-' || n, 'type-' || n % 20, '{}', 'x', at, at FROM crowd;
INSERT INTO workflow_states (tenant_id, workflow_id, state_data, status, last_updated, created_at)
SELECT tenant, 'workflow-' || n, '{}',
    CASE n % 5 WHEN 0 THEN 'pending' WHEN 1 THEN 'running' WHEN 2 THEN 'completed' WHEN 3 THEN 'failed' ELSE 'cancelled' END, at, at
FROM crowd;
INSERT INTO event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
SELECT tenant, id, 'type.' || n % 20, other, at, n, '{}' FROM crowd;
INSERT INTO hook_history
    (tenant_id, execution_id, hook_id, hook_type, correlation_id, hook_context, result_data, timestamp, duration_ms, triggering_component,
     component_id, created_at)
SELECT tenant, id, 'hook-' || n % 20, 'type-' || n % 20, other, x'62', '{"type": "continue", "data": {}}', at, n, 'component', '', at FROM crowd;
