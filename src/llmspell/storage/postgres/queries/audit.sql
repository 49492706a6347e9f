-- fragment: entry
a.sequence, a.entry_id, a.at, a.operation, a.principal, a.resource, a.decision, a.reason, a.details, a.latency_ms,
  a.prev_hash, a.entry_hash;

-- name: advance -> row
-- Lock the tenant's head and count it up; the answer says where, and which hash the next entry follows.
INSERT INTO llmspell.audit_heads AS h (tenant_id, sequence, entry_hash)
VALUES (:tenant_id, :count, :genesis)
ON CONFLICT (tenant_id) DO UPDATE SET sequence = h.sequence + excluded.sequence
RETURNING sequence, entry_hash;

-- name: append -> count
-- Add one entry.
INSERT INTO llmspell.audit_log
  (tenant_id, sequence, entry_id, at, operation, principal, resource, decision, reason, details, latency_ms, prev_hash, entry_hash)
VALUES
  (:tenant_id, :sequence, :entry_id, :at, :operation, :principal, :resource, :decision, :reason, :details, :latency_ms,
   :prev_hash, :entry_hash);

-- name: settle -> count
-- Give the head the hash of the entry that was added last.
UPDATE llmspell.audit_heads SET entry_hash = :entry_hash WHERE tenant_id = :tenant_id;

-- name: head -> row
-- Where the tenant's chain ends.
SELECT sequence, entry_hash FROM llmspell.audit_heads WHERE tenant_id = :tenant_id;

-- name: get -> row
-- One entry.
SELECT {entry} FROM llmspell.audit_log a WHERE a.tenant_id = :tenant_id AND a.sequence = :sequence;

-- name: list -> rows
-- Entries that match, latest first, before a position.
SELECT {entry} FROM llmspell.audit_log a
WHERE a.tenant_id = :tenant_id AND a.at >= :since AND (a.at, a.sequence) < (:instant, :sequence) AND {filters}
ORDER BY a.at DESC, a.sequence DESC LIMIT :limit;

-- name: chain -> rows
-- The entries behind a number, in the order of the chain.
SELECT {entry} FROM llmspell.audit_log a
WHERE a.tenant_id = :tenant_id AND a.sequence > :behind
ORDER BY a.sequence LIMIT :limit;

-- name: successor -> value
-- Under which number the entry stands that follows a hash: asked once, of a chain that is broken.
SELECT a.sequence FROM llmspell.audit_log a
WHERE a.tenant_id = :tenant_id AND a.prev_hash = :prev_hash
ORDER BY a.sequence LIMIT 1;
