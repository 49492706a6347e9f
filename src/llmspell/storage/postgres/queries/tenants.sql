-- fragment: tenant
tenant_id, name, status, created_at, updated_at, quotas, isolation_level, version, status_reason;

-- name: create -> count
-- Register the tenant, unless it is.
INSERT INTO llmspell.tenants (tenant_id, name, created_at, updated_at, quotas, isolation_level)
VALUES (:tenant_id, :name, :now, :now, :quotas, :isolation_level)
ON CONFLICT (tenant_id) DO NOTHING;

-- name: get -> row
-- The tenant's own entry.
SELECT {tenant} FROM llmspell.tenants WHERE tenant_id = :tenant_id;

-- name: lock -> row
-- The tenant's own entry, so that nobody else changes it meanwhile.
SELECT {tenant} FROM llmspell.tenants WHERE tenant_id = :tenant_id FOR UPDATE;

-- name: change -> count
-- Write what may change of a tenant that is locked.
UPDATE llmspell.tenants
SET name = :name, status = :status, status_reason = :status_reason, quotas = :quotas, updated_at = :now, version = :version
WHERE tenant_id = :tenant_id;

-- name: list -> rows
-- Tenants behind an id, in byte order.
-- cross-tenant: the operator lists all of them
SELECT {tenant} FROM llmspell.tenants
WHERE tenant_id > :behind AND (:status::text IS NULL OR status = :status)
ORDER BY tenant_id LIMIT :limit;

-- name: usage -> row
-- What the tenant uses, and may use: what is limited by its counter, the rest by its rows.
SELECT coalesce(u.documents, (SELECT count(*) FROM llmspell.memories WHERE tenant_id = :tenant_id)) AS documents,
  coalesce(u.storage_bytes,
    (SELECT coalesce(sum(octet_length(value)), 0) FROM llmspell.kv_store WHERE tenant_id = :tenant_id)
    + (SELECT coalesce(sum(octet_length(content)), 0) FROM llmspell.memories WHERE tenant_id = :tenant_id)
    + (SELECT coalesce(sum(size_bytes), 0) FROM llmspell.artifact_content WHERE tenant_id = :tenant_id))::bigint AS storage_bytes,
  coalesce(u.vectors,
    (SELECT count(*) FROM llmspell.vector_embeddings_384 WHERE tenant_id = :tenant_id)
    + (SELECT count(*) FROM llmspell.vector_embeddings_768 WHERE tenant_id = :tenant_id)
    + (SELECT count(*) FROM llmspell.vector_embeddings_1536 WHERE tenant_id = :tenant_id)
    + (SELECT count(*) FROM llmspell.vector_embeddings_3072 WHERE tenant_id = :tenant_id)) AS vectors,
  coalesce((SELECT embeddings FROM llmspell.tenant_embeddings
    WHERE tenant_id = :tenant_id AND day - llmspell.counted_day(:day) IN (0, 1)), 0) AS embeddings,
  l.max_documents, l.max_storage_bytes, l.max_vectors, (t.quotas ->> 'max_embeddings_per_day')::bigint AS max_embeddings
FROM llmspell.tenants t LEFT JOIN llmspell.tenant_limits l ON l.tenant_id = :tenant_id LEFT JOIN llmspell.tenant_usage u ON u.tenant_id = :tenant_id
WHERE t.tenant_id = :tenant_id;

-- name: take_embeddings -> value
-- Count texts that are about to be embedded on a day, and return how many that makes; NULL for a tenant that is not registered.
SELECT llmspell.take_embeddings(:tenant_id, :asked, :day) AS embeddings;
