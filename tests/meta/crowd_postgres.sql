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
ANALYZE;
