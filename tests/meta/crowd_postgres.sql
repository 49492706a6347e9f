-- 24 tenants with 1,000 rows each, for plans that mean something. The id of row n of tenant t is (t << 64) | n.
CREATE TEMPORARY TABLE crowd AS
SELECT 'tenant-' || t AS tenant, n,
    (lpad(to_hex(t), 16, '0') || lpad(to_hex(n), 16, '0'))::uuid AS id,
    (lpad(to_hex(t), 16, '0') || lpad(to_hex(1 + n % 200), 16, '0'))::uuid AS other,
    timestamptz '2026-01-01' + n * interval '1 hour' AS at
FROM generate_series(1, 24) AS t, generate_series(1, 1000) AS n;
INSERT INTO llmspell.tenants (tenant_id, name) SELECT DISTINCT tenant, tenant FROM crowd;
INSERT INTO llmspell.kv_store (tenant_id, key, value) SELECT tenant, 'key-' || n, 'x' FROM crowd;
INSERT INTO llmspell.memories (tenant_id, memory_id, session, role, content, event_at, created_at, embedding_state)
SELECT tenant, id, 'session-' || n % 40, 'user', 'text ' || n, at, at, CASE WHEN n % 50 = 0 THEN 'pending' ELSE 'ready' END FROM crowd;
INSERT INTO llmspell.memory_versions (tenant_id, memory_id, version, operation, content, memory_type, event_at, recorded_at)
SELECT tenant, id, 1, 'add', 'text', 'conversation', at, at FROM crowd;
INSERT INTO llmspell.text_postings (tenant_id, collection, term, owner_id, tf, length)
SELECT tenant, 'memories', 'term-' || (n * 7 + k * 131) % 2000, id, 1, 10 FROM crowd, generate_series(1, 5) AS k;
INSERT INTO llmspell.text_stats (tenant_id, collection, delta_id, documents, terms) SELECT tenant, 'memories', id, 1, 5 FROM crowd;
INSERT INTO llmspell.jobs (tenant_id, job_id, kind, state, ready, dedupe_key, run_at, created_at, updated_at, finished_at, lease_id, leased_until)
SELECT tenant, id, 'kind-' || n % 5, s, s = 'queued', 'key-' || n, at, at, at, CASE WHEN s IN ('succeeded', 'dead') THEN at END,
    CASE WHEN s = 'running' THEN id END, CASE WHEN s = 'running' THEN at END
FROM crowd CROSS JOIN LATERAL (SELECT CASE WHEN n % 10 = 0 THEN 'queued' WHEN n % 100 = 1 THEN 'running' WHEN n % 100 = 2 THEN 'dead' ELSE 'succeeded' END) AS c (s);
INSERT INTO llmspell.entities (tenant_id, entity_id, entity_type, name, name_folded, valid_time_start, transaction_time_start)
SELECT tenant, id, 'type-' || n % 20, 'Name-' || n, 'name-' || n, at, at FROM crowd;
INSERT INTO llmspell.relationships
    (tenant_id, relationship_id, from_entity, to_entity, relationship_type, valid_time_start, transaction_time_start)
SELECT tenant, id, other, id, 'type-' || n % 20, at, at FROM crowd;
INSERT INTO llmspell.embedding_spaces (tenant_id, space_id, model, dimension) SELECT DISTINCT tenant, 'model', 'model', 384 FROM crowd;
INSERT INTO llmspell.vector_embeddings_384 (tenant_id, id, owner_id, scope, embedding, space_id)
SELECT tenant, id, id, 'scope', array_fill(n, ARRAY[384])::public.vector, CASE WHEN n <= 40 THEN 'free-384' ELSE 'model' END
FROM crowd WHERE n <= 200;
INSERT INTO llmspell.audit_log
    (tenant_id, sequence, entry_id, at, operation, principal, resource, decision, prev_hash, entry_hash)
SELECT tenant, n, id, at, 'operation-' || n % 20, 'principal-' || n % 40, 'resource',
    CASE WHEN n % 50 = 0 THEN 'deny' ELSE 'allow' END, sha256(int4send(n)), sha256(int4send(n + 1))
FROM crowd;
INSERT INTO llmspell.api_keys (tenant_id, key_id, service, encrypted_key, created_at, expires_at, is_active)
SELECT tenant, id::text, 'service-' || n % 500, 'x', at, at + interval '1 hour' * (n % 100), n <= 500 FROM crowd;
INSERT INTO llmspell.access_keys (tenant_id, key_id, name, principal, scopes, key_hash, pepper, created_at, expires_at, revoked_at)
SELECT tenant, id, 'key-' || n, 'robot', '["read"]', sha256(int4send(n)), 'store', at, at + interval '1 hour' * (n % 100),
    CASE WHEN n % 2 = 0 THEN at END
FROM crowd;
INSERT INTO llmspell.sessions (tenant_id, session_id, session_data, status, created_at, expires_at)
SELECT tenant, id, '{}', CASE WHEN n % 10 = 0 THEN 'archived' ELSE 'active' END, at, CASE WHEN n % 5 = 0 THEN at END FROM crowd;
INSERT INTO llmspell.artifact_content (tenant_id, content_hash, storage_type, data, size_bytes, original_size_bytes)
SELECT tenant, lpad(n::text, 64, '0'), 'bytea', '', 0, 0 FROM crowd;
INSERT INTO llmspell.artifact_chunks (tenant_id, content_hash, chunk_no, data)
SELECT tenant, lpad(n::text, 64, '0'), 0, 'x' FROM crowd;
INSERT INTO llmspell.artifacts
    (tenant_id, artifact_id, session_id, sequence, content_hash, metadata, name, artifact_type, mime_type, size_bytes, created_at)
SELECT tenant, other || ':' || n || ':' || lpad(n::text, 64, '0'), other, n, lpad(n::text, 64, '0'), '{}', 'name-' || n,
    CASE WHEN n % 10 = 0 THEN 'custom' ELSE 'tool_result' END, 'text/plain', 0, at
FROM crowd;
INSERT INTO llmspell.procedural_patterns (tenant_id, pattern_id, scope, key, value, frequency, first_seen, last_seen)
SELECT tenant, id, 'scope', 'key-' || n % 40, 'value-' || n, 1 + n % 5, at, at FROM crowd;
INSERT INTO llmspell.agent_states (tenant_id, state_id, agent_id, agent_type, state_data, checksum, created_at)
SELECT tenant, id, 'agent-' || n, 'type-' || n % 20, '{}', 'x', at FROM crowd;
INSERT INTO llmspell.workflow_states (tenant_id, workflow_id, state_data, status, last_updated, created_at)
SELECT tenant, 'workflow-' || n, '{}', (ARRAY['pending', 'running', 'completed', 'failed', 'cancelled'])[1 + n % 5], at, at FROM crowd;
SELECT llmspell.create_event_log_partition('2026-01-01', '2026-02-01'), llmspell.create_event_log_partition('2026-02-01', '2026-03-01');
INSERT INTO llmspell.event_sequences (tenant_id, value, first_at, last_at) SELECT tenant, 1000, min(at), max(at) FROM crowd GROUP BY tenant;
INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
SELECT tenant, id, 'type.' || n % 20, other, at, n, '{}' FROM crowd;
INSERT INTO llmspell.hook_history
    (tenant_id, execution_id, hook_id, hook_type, correlation_id, hook_context, result_data, timestamp, duration_ms, triggering_component, component_id)
SELECT tenant, id, 'hook-' || n % 20, 'type-' || n % 20, other, 'b', '{"type": "continue", "data": {}}', at, n, 'component', '' FROM crowd;
ANALYZE;
