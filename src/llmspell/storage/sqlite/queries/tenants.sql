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
