-- fragment: info
k.key_id, k.service, k.is_active, k.key_metadata, k.created_at, k.expires_at, k.last_used_at, k.usage_count, k.rotated_from,
  k.deactivated_at;

-- fragment: returned
key_id, service, is_active, key_metadata, created_at, expires_at, last_used_at, usage_count, rotated_from, deactivated_at;

-- name: retire -> row
-- Deactivate the active key of a service.
UPDATE api_keys SET is_active = 0, deactivated_at = :now
WHERE tenant_id = :tenant_id AND service = :service AND is_active
RETURNING {returned};

-- name: insert -> row
-- Keep a key as the active one of its service. No row comes back where its id is taken.
INSERT INTO api_keys
  (tenant_id, key_id, service, encrypted_key, key_metadata, created_at, expires_at, is_active, usage_count, rotated_from)
VALUES (:tenant_id, :key_id, :service, :sealed, :metadata, :now, :expires_at, 1, 0, :rotated_from)
ON CONFLICT (tenant_id, key_id) DO NOTHING
RETURNING {returned};

-- name: active -> row
-- The active key of a service, without its secret.
SELECT {info}
FROM api_keys k
WHERE k.tenant_id = :tenant_id AND k.service = :service AND k.is_active;

-- name: page -> rows
-- Keys, newest first, beyond a position; of one service or of all.
SELECT {info}
FROM api_keys k
WHERE k.tenant_id = :tenant_id AND (:service IS NULL OR k.service = :service)
  AND (:at IS NULL OR (k.created_at, k.key_id) < (:at, :id))
ORDER BY k.created_at DESC, k.key_id DESC LIMIT :limit;

-- name: find_sealed -> row
-- The secret of a service as it is kept, unless it has expired.
SELECT key_id, service, encrypted_key, last_used_at FROM api_keys
WHERE tenant_id = :tenant_id AND service = :service AND is_active AND (expires_at IS NULL OR expires_at > :now);

-- name: note_use -> count
-- Count uses of a key, the last of them now.
UPDATE api_keys SET usage_count = usage_count + :uses, last_used_at = :now
WHERE tenant_id = :tenant_id AND key_id = :key_id;

-- name: delete -> count
-- Delete every key of a service.
DELETE FROM api_keys WHERE tenant_id = :tenant_id AND service = :service;

-- name: expire -> count
-- Deactivate keys that have expired, a bounded number.
UPDATE api_keys SET is_active = 0, deactivated_at = :now
WHERE tenant_id = :tenant_id AND key_id IN (
  SELECT key_id FROM api_keys
  WHERE tenant_id = :tenant_id AND is_active AND expires_at <= :now
  ORDER BY expires_at, key_id LIMIT :limit);

-- name: prune -> count
-- Delete keys that were deactivated before an instant, a bounded number.
DELETE FROM api_keys
WHERE tenant_id = :tenant_id AND key_id IN (
  SELECT key_id FROM api_keys
  WHERE tenant_id = :tenant_id AND deactivated_at < :before
  ORDER BY deactivated_at, key_id LIMIT :limit);

-- name: stats -> row
-- Counts over all keys of the tenant.
SELECT count(*), count(*) FILTER (WHERE is_active AND (expires_at IS NULL OR expires_at > :now)),
  count(*) FILTER (WHERE expires_at <= :now), count(*) FILTER (WHERE rotated_from IS NOT NULL), count(DISTINCT service),
  coalesce(sum(usage_count), 0), max(last_used_at)
FROM api_keys WHERE tenant_id = :tenant_id;

-- name: list_sealed -> rows
-- Secrets as they are kept, in the order of their ids.
SELECT key_id, service, encrypted_key, last_used_at FROM api_keys
WHERE tenant_id = :tenant_id AND key_id > :after
ORDER BY key_id LIMIT :limit;

-- name: reseal -> count
-- Replace a secret by the same under another master key, where it is still the expected one.
UPDATE api_keys SET encrypted_key = :sealed
WHERE tenant_id = :tenant_id AND key_id = :key_id AND encrypted_key = :expected;
