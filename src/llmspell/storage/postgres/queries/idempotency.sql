-- name: find -> row
-- What a key was used for, and the result.
SELECT operation, fingerprint, result FROM llmspell.idempotency_keys
WHERE tenant_id = (SELECT :tenant_id) AND idempotency_key = :key AND expires_at > :now;

-- name: claim -> count
-- Take a key that is unused or forgotten.
INSERT INTO llmspell.idempotency_keys AS k
  (tenant_id, idempotency_key, operation, fingerprint, result, created_at, expires_at)
VALUES (:tenant_id, :key, :operation, :fingerprint, NULL, :now, :expires_at)
ON CONFLICT (tenant_id, idempotency_key) DO UPDATE
SET operation = excluded.operation, fingerprint = excluded.fingerprint, result = NULL,
    created_at = excluded.created_at, expires_at = excluded.expires_at
WHERE k.expires_at <= excluded.created_at;

-- name: record -> count
-- Keep the result of a claimed key.
UPDATE llmspell.idempotency_keys SET result = :result WHERE tenant_id = (SELECT :tenant_id) AND idempotency_key = :key;

-- name: expire -> count
-- Delete forgotten keys, the oldest first; one that is being claimed anew is left alone.
DELETE FROM llmspell.idempotency_keys
WHERE tenant_id = :tenant_id AND idempotency_key = ANY(ARRAY(
  SELECT k.idempotency_key FROM llmspell.idempotency_keys AS k
  WHERE k.tenant_id = :tenant_id AND k.expires_at <= :now
  ORDER BY k.expires_at, k.idempotency_key LIMIT :limit FOR UPDATE SKIP LOCKED
));
