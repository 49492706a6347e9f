-- name: create -> count
-- Register the tenant, unless it is.
INSERT INTO llmspell.tenants (tenant_id, name, created_at, updated_at)
VALUES (:tenant_id, :name, :now, :now)
ON CONFLICT (tenant_id) DO NOTHING;

-- name: get -> row
-- The tenant's own entry.
SELECT tenant_id, name, status, created_at FROM llmspell.tenants WHERE tenant_id = :tenant_id;
