-- fragment: memory
m.memory_id, m.content, m.session, m.role, m.memory_type, m.metadata, m.event_at, m.created_at, m.updated_at,
  m.last_accessed_at, m.version, m.processed, m.embedding_state, m.token_count, m.expires_at;

-- name: insert -> count
-- Store a new memory.
INSERT INTO memories
  (tenant_id, memory_id, session, role, memory_type, content, metadata, event_at, created_at, updated_at, version,
   embedding_state, space_id, token_count, expires_at, text_length)
VALUES (:tenant_id, :id, :session, :role, :kind, :content, :metadata, :at, :created_at, :now, :version,
   :embedding_state, :space_id, :token_count, :expires_at, :text_length);

-- name: insert_version -> count
-- Append one entry to a memory's history.
INSERT INTO memory_versions
  (tenant_id, memory_id, version, operation, content, metadata, session, role, memory_type, event_at, recorded_at,
   actor, reason, expires_at)
VALUES (:tenant_id, :id, :version, :operation, :content, :metadata, :session, :role, :kind, :at, :now, :actor, :reason,
   :expires_at);

-- name: get_batch -> rows
-- Live memories by id.
SELECT {memory}
FROM memories m
WHERE m.tenant_id = :tenant_id AND m.memory_id IN (SELECT unhex(value) FROM json_each(:ids)) AND (m.expires_at IS NULL OR m.expires_at > :now);

-- name: current -> rows
-- Live memories about to be changed, with where their embeddings and terms are; other writers wait.
SELECT {memory}, m.space_id, m.text_length
FROM memories m
WHERE m.tenant_id = :tenant_id AND m.memory_id IN (SELECT unhex(value) FROM json_each(:ids)) AND (m.expires_at IS NULL OR m.expires_at > :now)
ORDER BY m.memory_id;

-- name: update -> count
-- Replace a memory's fields.
UPDATE memories
SET session = :session, role = :role, memory_type = :kind, content = :content, metadata = :metadata, event_at = :at,
    updated_at = :now, version = :version, embedding_state = :embedding_state, space_id = :space_id,
    token_count = :token_count, text_length = :text_length
WHERE tenant_id = :tenant_id AND memory_id = :id;

-- name: delete -> count
-- Delete current rows; history stays.
DELETE FROM memories WHERE tenant_id = :tenant_id AND memory_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: exists -> value
-- One when there is a current row, live or expired.
SELECT 1 FROM memories WHERE tenant_id = :tenant_id AND memory_id = :id;

-- name: history -> rows
-- Every version of a memory, oldest first.
SELECT memory_id, version, operation, content, session, role, memory_type, metadata, event_at, recorded_at, actor, reason,
  expires_at
FROM memory_versions
WHERE tenant_id = :tenant_id AND memory_id = :id
ORDER BY version;

-- name: taken -> rows
-- Those of several ids that have a history, whether or not there is a row.
SELECT DISTINCT m.memory_id FROM memory_versions m
WHERE m.tenant_id = :tenant_id AND m.memory_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: redact_versions -> count
-- Erase the contents of a memory's history.
UPDATE memory_versions
SET content = NULL, metadata = NULL, session = NULL, role = NULL, reason = NULL, expires_at = NULL
WHERE tenant_id = :tenant_id AND memory_id = :id;

-- name: count -> value
-- How many live memories match.
SELECT count(*) FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters};

-- name: page_by_offset -> rows
-- Live memories that match, newest first, beyond an offset.
SELECT {memory}
FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
ORDER BY m.created_at DESC, m.memory_id DESC LIMIT :limit OFFSET :offset;

-- name: adjacent -> rows
-- The live memories that match, just before and just after each of several in its session.
SELECT a.memory_id,
  (SELECT m.memory_id FROM memories m
   WHERE m.tenant_id = :tenant_id AND m.session = a.session
     AND (m.event_at, m.memory_id) < (a.event_at, a.memory_id)
     AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
   ORDER BY m.event_at DESC, m.memory_id DESC LIMIT 1) AS preceding,
  (SELECT m.memory_id FROM memories m
   WHERE m.tenant_id = :tenant_id AND m.session = a.session
     AND (m.event_at, m.memory_id) > (a.event_at, a.memory_id)
     AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
   ORDER BY m.event_at, m.memory_id LIMIT 1) AS following
FROM memories a
WHERE a.tenant_id = :tenant_id AND a.memory_id IN (SELECT unhex(value) FROM json_each(:ids)) AND (a.expires_at IS NULL OR a.expires_at > :now);

-- name: pending -> rows
-- Memories that wait for an embedding, oldest first.
SELECT {memory}
FROM memories m INDEXED BY idx_memories_pending
WHERE m.tenant_id = :tenant_id AND m.embedding_state = 'pending' AND (m.expires_at IS NULL OR m.expires_at > :now)
ORDER BY m.created_at, m.memory_id LIMIT :limit;

-- name: embedded_elsewhere -> rows
-- Memories whose embedding is in another space, in the order of their index.
SELECT * FROM (
  SELECT {memory}, m.space_id FROM memories m INDEXED BY idx_memories_space
  WHERE m.tenant_id = :tenant_id AND m.embedding_state = 'ready' AND m.space_id < :space_id AND (m.expires_at IS NULL OR m.expires_at > :now)
  ORDER BY m.space_id, m.created_at, m.memory_id LIMIT :limit
) AS lower
UNION ALL SELECT * FROM (
  SELECT {memory}, m.space_id FROM memories m INDEXED BY idx_memories_space
  WHERE m.tenant_id = :tenant_id AND m.embedding_state = 'ready' AND m.space_id > :space_id AND (m.expires_at IS NULL OR m.expires_at > :now)
  ORDER BY m.space_id, m.created_at, m.memory_id LIMIT :limit
) AS higher
ORDER BY space_id, created_at, memory_id LIMIT :limit;

-- name: count_pending -> value
-- How many memories wait for an embedding, or have it in another space.
SELECT (
  SELECT count(*) FROM memories m INDEXED BY idx_memories_pending
  WHERE m.tenant_id = :tenant_id AND m.embedding_state = 'pending' AND (m.expires_at IS NULL OR m.expires_at > :now)
) + (
  SELECT count(*) FROM memories m INDEXED BY idx_memories_space
  WHERE m.tenant_id = :tenant_id AND m.embedding_state = 'ready' AND m.space_id < :space_id AND (m.expires_at IS NULL OR m.expires_at > :now)
) + (
  SELECT count(*) FROM memories m INDEXED BY idx_memories_space
  WHERE m.tenant_id = :tenant_id AND m.embedding_state = 'ready' AND m.space_id > :space_id AND (m.expires_at IS NULL OR m.expires_at > :now)
);

-- name: lock_versions -> rows
-- The versions of live memories, in the order of ids; other writers wait.
SELECT m.memory_id, m.version FROM memories m
WHERE m.tenant_id = :tenant_id AND m.memory_id IN (SELECT unhex(value) FROM json_each(:ids)) AND (m.expires_at IS NULL OR m.expires_at > :now)
ORDER BY m.memory_id;

-- name: mark_embedded -> count
-- Note that memories have their embedding.
UPDATE memories AS m SET embedding_state = 'ready', space_id = :space_id
WHERE m.tenant_id = :tenant_id AND m.memory_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: mark_failed -> count
-- Note that live memories could not be embedded.
UPDATE memories SET embedding_state = 'failed'
WHERE tenant_id = :tenant_id AND memory_id IN (SELECT unhex(value) FROM json_each(:ids))
  AND (embedding_state = 'pending' OR (embedding_state = 'ready' AND space_id <> :space_id))
  AND (expires_at IS NULL OR expires_at > :now);

-- name: touch -> count
-- Note that live memories were read.
UPDATE memories SET last_accessed_at = :now
WHERE tenant_id = :tenant_id AND memory_id IN (SELECT unhex(value) FROM json_each(:ids)) AND (expires_at IS NULL OR expires_at > :now);

-- name: mark_processed -> count
-- Note that live memories were consolidated.
UPDATE memories SET processed = TRUE
WHERE tenant_id = :tenant_id AND memory_id IN (SELECT unhex(value) FROM json_each(:ids)) AND (expires_at IS NULL OR expires_at > :now);

-- name: unprocessed_sessions -> rows
-- Sessions with memories that are not consolidated.
SELECT DISTINCT m.session FROM memories m INDEXED BY idx_memories_unprocessed
WHERE m.tenant_id = :tenant_id AND NOT m.processed AND m.session IS NOT NULL AND (m.expires_at IS NULL OR m.expires_at > :now)
ORDER BY m.session LIMIT :limit;

-- name: said_before -> rows
-- The oldest live memories said before an instant.
SELECT m.memory_id FROM memories m
WHERE m.tenant_id = :tenant_id AND m.event_at < :before AND (m.expires_at IS NULL OR m.expires_at > :now)
ORDER BY m.event_at, m.memory_id LIMIT :limit;

-- name: past_expiry -> rows
-- Memories that have expired and are not deleted yet.
SELECT m.memory_id FROM memories m
WHERE m.tenant_id = :tenant_id AND m.expires_at IS NOT NULL AND m.expires_at <= :now
ORDER BY m.expires_at, m.memory_id LIMIT :limit;

-- name: page_by_at_desc -> rows
-- Live memories that match, beyond a position.
SELECT {memory}
FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.event_at, m.memory_id) < (:instant, :id) AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
ORDER BY m.event_at DESC, m.memory_id DESC LIMIT :limit;

-- name: page_by_at_asc -> rows
-- Live memories that match, beyond a position.
SELECT {memory}
FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.event_at, m.memory_id) > (:instant, :id) AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
ORDER BY m.event_at ASC, m.memory_id ASC LIMIT :limit;

-- name: page_by_created_at_desc -> rows
-- Live memories that match, beyond a position.
SELECT {memory}
FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.created_at, m.memory_id) < (:instant, :id) AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
ORDER BY m.created_at DESC, m.memory_id DESC LIMIT :limit;

-- name: page_by_created_at_asc -> rows
-- Live memories that match, beyond a position.
SELECT {memory}
FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.created_at, m.memory_id) > (:instant, :id) AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
ORDER BY m.created_at ASC, m.memory_id ASC LIMIT :limit;
