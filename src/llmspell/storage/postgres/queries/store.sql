-- name: meta -> value
-- A value of the store as a whole, such as the key that signs cursors.
-- cross-tenant: it belongs to no tenant
SELECT value FROM llmspell.store_meta WHERE name = :name;

-- name: holdings -> rows
-- How many rows a tenant has, by concern.
SELECT 'kv' AS concern, count(*) AS records FROM llmspell.kv_store WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'memories', count(*) FROM llmspell.memories WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'memory_versions', count(*) FROM llmspell.memory_versions WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'entities', count(*) FROM llmspell.entities WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'relationships', count(*) FROM llmspell.relationships WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'procedures', count(*) FROM llmspell.procedural_patterns WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'agent_state', count(*) FROM llmspell.agent_states WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'workflow_state', count(*) FROM llmspell.workflow_states WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'sessions', count(*) FROM llmspell.sessions WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'artifacts', count(*) FROM llmspell.artifacts WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'event_log', count(*) FROM llmspell.event_log WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'hook_history', count(*) FROM llmspell.hook_history WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'idempotency', count(*) FROM llmspell.idempotency_keys WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'jobs', count(*) FROM llmspell.jobs WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'audit', count(*) FROM llmspell.audit_log WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'api_keys', count(*) FROM llmspell.api_keys WHERE tenant_id = :tenant_id
UNION ALL
SELECT 'access_keys', count(*) FROM llmspell.access_keys WHERE tenant_id = :tenant_id;

-- name: spaces -> rows
-- The vectors of a tenant, by space.
SELECT space_id, 384 AS dimension, count(*) AS vectors FROM llmspell.vector_embeddings_384 WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 768 AS dimension, count(*) AS vectors FROM llmspell.vector_embeddings_768 WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 1536 AS dimension, count(*) AS vectors FROM llmspell.vector_embeddings_1536 WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 3072 AS dimension, count(*) AS vectors FROM llmspell.vector_embeddings_3072 WHERE tenant_id = :tenant_id GROUP BY space_id
ORDER BY 2, 1;
