-- fragment: tenant
tenant_id, name, status, created_at, updated_at, quotas, isolation_level, version, status_reason;

-- name: create -> count
-- Register the tenant, unless it is.
INSERT INTO tenants (tenant_id, name, created_at, updated_at, quotas, isolation_level)
VALUES (:tenant_id, :name, :now, :now, :quotas, :isolation_level)
ON CONFLICT (tenant_id) DO NOTHING;

-- name: get -> row
-- The tenant's own entry.
SELECT {tenant} FROM tenants WHERE tenant_id = :tenant_id;

-- name: lock -> row
-- The tenant's own entry, so that nobody else changes it meanwhile.
SELECT {tenant} FROM tenants WHERE tenant_id = :tenant_id;

-- name: change -> count
-- Write what may change of a tenant that is locked.
UPDATE tenants
SET name = :name, status = :status, status_reason = :status_reason, quotas = :quotas, updated_at = :now, version = :version
WHERE tenant_id = :tenant_id;

-- name: list -> rows
-- Tenants behind an id, in byte order.
-- cross-tenant: the operator lists all of them
SELECT {tenant} FROM tenants
WHERE tenant_id > :behind AND (:status IS NULL OR status = :status)
ORDER BY tenant_id LIMIT :limit;

-- name: usage -> row
-- What the tenant uses, and may use: what is limited by its counter, the rest by its rows.
SELECT coalesce(u.documents, (SELECT count(*) FROM memories WHERE tenant_id = :tenant_id)) AS documents,
  coalesce(u.storage_bytes,
    (SELECT coalesce(sum(octet_length(value)), 0) FROM kv_store WHERE tenant_id = :tenant_id)
    + (SELECT coalesce(sum(octet_length(content)), 0) FROM memories WHERE tenant_id = :tenant_id)
    + (SELECT coalesce(sum(size_bytes), 0) FROM artifact_content WHERE tenant_id = :tenant_id)) AS storage_bytes,
  coalesce(u.vectors,
    (SELECT count(*) FROM vector_embeddings_384 WHERE tenant_id = :tenant_id)
    + (SELECT count(*) FROM vector_embeddings_768 WHERE tenant_id = :tenant_id)
    + (SELECT count(*) FROM vector_embeddings_1536 WHERE tenant_id = :tenant_id)
    + (SELECT count(*) FROM vector_embeddings_3072 WHERE tenant_id = :tenant_id)) AS vectors,
  coalesce((SELECT embeddings FROM tenant_embeddings WHERE tenant_id = :tenant_id AND day - :day IN (0, 1)), 0) AS embeddings,
  l.max_documents, l.max_storage_bytes, l.max_vectors, t.quotas ->> '$.max_embeddings_per_day' AS max_embeddings
FROM tenants t LEFT JOIN tenant_limits l ON l.tenant_id = :tenant_id LEFT JOIN tenant_usage u ON u.tenant_id = :tenant_id
WHERE t.tenant_id = :tenant_id;

-- name: take_embeddings -> value
-- Count texts that are about to be embedded on a day, and return how many that makes; nothing for a tenant that is not registered. Too many are refused as triggers refuse: by a path that JSON refuses.
INSERT INTO tenant_embeddings (tenant_id, day, embeddings)
SELECT :tenant_id, day,
  CASE WHEN :asked > 0 AND taken + :asked > granted
    THEN json_extract('{}', 'max_embeddings_per_day ' || granted || ' ' || taken || ' ' || :asked) ELSE taken + :asked END
FROM (
  SELECT t.quotas ->> '$.max_embeddings_per_day' AS granted, iif(e.day - :day IN (0, 1), e.day, :day) AS day,
    iif(e.day - :day IN (0, 1), e.embeddings, 0) AS taken
  FROM tenants AS t LEFT JOIN tenant_embeddings AS e ON e.tenant_id = :tenant_id
  WHERE t.tenant_id = :tenant_id
)
WHERE true
ON CONFLICT (tenant_id) DO UPDATE SET day = excluded.day, embeddings = excluded.embeddings
RETURNING embeddings AS embeddings;
