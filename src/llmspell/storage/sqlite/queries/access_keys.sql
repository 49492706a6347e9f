-- fragment: key
k.key_id, k.name, k.principal, k.scopes, k.created_at, k.expires_at, k.last_used_at, k.revoked_at, k.revoked_reason,
  k.rotated_from, k.rotated_to, k.pepper;

-- name: insert -> count
-- Keep a key. Nothing is inserted where its id is taken.
INSERT INTO access_keys
  (tenant_id, key_id, name, principal, scopes, key_hash, pepper, created_at, expires_at, rotated_from)
VALUES (:tenant_id, :key_id, :name, :principal, :scopes, :key_hash, :pepper, :now, :expires_at, :rotated_from)
ON CONFLICT (tenant_id, key_id) DO NOTHING;

-- name: find -> row
-- A key with its hash, of an active tenant: all that deciding on a presented key takes.
SELECT {key}, k.key_hash
FROM access_keys k
JOIN tenants t ON t.tenant_id = :tenant_id AND t.status = 'active'
WHERE k.tenant_id = :tenant_id AND k.key_id = :key_id;

-- name: get -> row
-- One key.
SELECT {key}
FROM access_keys k
WHERE k.tenant_id = :tenant_id AND k.key_id = :key_id;

-- name: locked -> row
-- One key that is about to be changed.
SELECT {key}
FROM access_keys k
WHERE k.tenant_id = :tenant_id AND k.key_id = :key_id;

-- name: page -> rows
-- Keys, newest first, beyond a position; of one status or of all.
SELECT {key}
FROM access_keys k
WHERE k.tenant_id = :tenant_id AND (:at IS NULL OR (k.created_at, k.key_id) < (:at, :id))
  AND (:status IS NULL OR :status = CASE
    WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= :now THEN 'expired' ELSE 'active' END)
ORDER BY k.created_at DESC, k.key_id DESC LIMIT :limit;

-- name: note_use -> count
-- Say that a key was used now, unless that was said lately.
UPDATE access_keys SET last_used_at = :now
WHERE tenant_id = :tenant_id AND key_id = :key_id AND (last_used_at IS NULL OR last_used_at <= :stale);

-- name: rehash -> count
-- Replace a hash that is keyed with what is expected.
UPDATE access_keys SET key_hash = :key_hash, pepper = :pepper
WHERE tenant_id = :tenant_id AND key_id = :key_id AND pepper = :expected;

-- name: revoke -> count
-- Refuse a key from now on, unless it is refused.
UPDATE access_keys SET revoked_at = :now, revoked_reason = :reason
WHERE tenant_id = :tenant_id AND key_id = :key_id AND revoked_at IS NULL;

-- name: supersede -> count
-- Let a key end, and name its successor.
UPDATE access_keys SET rotated_to = :rotated_to, expires_at = :expires_at
WHERE tenant_id = :tenant_id AND key_id = :key_id;

-- name: expire -> count
-- Revoke keys that have expired, a bounded number.
UPDATE access_keys SET revoked_at = :now, revoked_reason = :reason
WHERE tenant_id = :tenant_id AND key_id IN (
  SELECT key_id FROM access_keys
  WHERE tenant_id = :tenant_id AND revoked_at IS NULL AND expires_at <= :now
  ORDER BY expires_at, key_id LIMIT :limit);

-- name: prune -> count
-- Delete keys that were revoked before an instant, a bounded number.
DELETE FROM access_keys
WHERE tenant_id = :tenant_id AND key_id IN (
  SELECT key_id FROM access_keys
  WHERE tenant_id = :tenant_id AND revoked_at < :before
  ORDER BY revoked_at, key_id LIMIT :limit);
