-- name: get -> value
-- The value of a live key.
SELECT value FROM llmspell.kv_store
WHERE tenant_id = :tenant_id AND key = :key AND (expires_at IS NULL OR expires_at > :now);

-- name: set -> count
-- Store a value, replacing any.
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at, expires_at)
VALUES (:tenant_id, :key, :kv_id, :value, :now, :now, :expires_at)
ON CONFLICT (tenant_id, key) DO UPDATE
SET value = excluded.value, updated_at = excluded.updated_at, expires_at = excluded.expires_at;

-- name: delete -> value
-- Delete a key; the answer says whether it was live.
DELETE FROM llmspell.kv_store WHERE tenant_id = :tenant_id AND key = :key
RETURNING (expires_at IS NULL OR expires_at > :now);

-- name: exists -> value
-- One when the key is live.
SELECT 1 FROM llmspell.kv_store
WHERE tenant_id = :tenant_id AND key = :key AND (expires_at IS NULL OR expires_at > :now);

-- name: list_keys -> rows
-- Live keys of a prefix, given as a half-open range, in byte order.
SELECT key FROM llmspell.kv_store
WHERE tenant_id = :tenant_id AND key >= :first AND key > :after AND (:beyond::text IS NULL OR key < :beyond)
  AND (expires_at IS NULL OR expires_at > :now)
ORDER BY key LIMIT :limit;

-- name: get_batch -> rows
-- The live ones of several keys.
SELECT key, value FROM llmspell.kv_store
WHERE tenant_id = :tenant_id AND key = ANY(:keys::text[])
  AND (expires_at IS NULL OR expires_at > :now)
ORDER BY key;

-- name: count_batch -> value
-- How many of several keys are live.
SELECT count(*) FROM llmspell.kv_store
WHERE tenant_id = :tenant_id AND key = ANY(:keys::text[])
  AND (expires_at IS NULL OR expires_at > :now);

-- name: delete_batch -> count
-- Delete several keys.
DELETE FROM llmspell.kv_store WHERE tenant_id = :tenant_id AND key = ANY(:keys::text[]);

-- name: count -> value
-- How many keys of the tenant are live.
SELECT count(*) FROM llmspell.kv_store
WHERE tenant_id = :tenant_id AND (expires_at IS NULL OR expires_at > :now);

-- name: clear -> count
-- Delete every key of the tenant.
DELETE FROM llmspell.kv_store WHERE tenant_id = :tenant_id;

-- name: delete_expired -> count
-- Delete keys whose time has passed, those first that passed first.
DELETE FROM llmspell.kv_store WHERE tenant_id = :tenant_id AND key = ANY(ARRAY(
  SELECT k.key FROM llmspell.kv_store k
  WHERE k.tenant_id = :tenant_id AND k.expires_at IS NOT NULL AND k.expires_at <= :now
  ORDER BY k.expires_at, k.key LIMIT :limit FOR UPDATE SKIP LOCKED));
