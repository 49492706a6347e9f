-- name: meta -> value
-- A value of the store as a whole, such as the key that signs cursors.
-- cross-tenant: it belongs to no tenant
SELECT value FROM store_meta WHERE name = :name;

-- name: holdings -> rows
-- How many rows a tenant has, by concern.
SELECT 'kv' AS concern, count(*) AS records FROM kv_store WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'memories', count(*) FROM memories WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'memory_versions', count(*) FROM memory_versions WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'entities', count(*) FROM entities WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'relationships', count(*) FROM relationships WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'procedures', count(*) FROM procedural_patterns WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'agent_state', count(*) FROM agent_states WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'workflow_state', count(*) FROM workflow_states WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'sessions', count(*) FROM sessions WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'artifacts', count(*) FROM artifacts WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'event_log', count(*) FROM event_log WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'hook_history', count(*) FROM hook_history WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'idempotency', count(*) FROM idempotency_keys WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'jobs', count(*) FROM jobs WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'audit', count(*) FROM audit_log WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'api_keys', count(*) FROM api_keys WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'access_keys', count(*) FROM access_keys WHERE tenant_id = :tenant_id;

-- name: spaces -> rows
-- The vectors of a tenant, by space.
SELECT space_id, 384 AS dimension, count(*) AS vectors FROM vector_embeddings_384 WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 768 AS dimension, count(*) AS vectors FROM vector_embeddings_768 WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 1536 AS dimension, count(*) AS vectors FROM vector_embeddings_1536 WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 3072 AS dimension, count(*) AS vectors FROM vector_embeddings_3072 WHERE tenant_id = :tenant_id GROUP BY space_id
ORDER BY 2, 1;
