-- A session is live while its status is not 'expired' and its time has not passed.

-- fragment: session
session_id, session_data, status, created_at, updated_at, last_accessed_at, expires_at, artifact_count, version;

-- fragment: live
status <> 'expired' AND (expires_at IS NULL OR expires_at > :now);

-- name: insert -> count
-- Begin a session, unless its id is taken.
INSERT INTO llmspell.sessions
  (tenant_id, session_id, session_data, status, created_at, updated_at, last_accessed_at, expires_at, version)
VALUES (:tenant_id, :id, :data, 'active', :now, :now, :now, :expires_at, 1)
ON CONFLICT DO NOTHING;

-- name: get -> row
-- A live session.
SELECT {session} FROM llmspell.sessions WHERE tenant_id = (SELECT :tenant_id) AND session_id = :id AND {live};

-- name: touch -> count
-- Note a look at a session, unless somebody has just noted one.
UPDATE llmspell.sessions SET last_accessed_at = :now
WHERE tenant_id = (SELECT :tenant_id) AND session_id = :id AND last_accessed_at <= :due;

-- name: update -> row
-- Replace what is given of a live session, when it is at the expected version.
UPDATE llmspell.sessions
SET session_data = coalesce(:data::jsonb, session_data), status = coalesce(:status::text, status),
    expires_at = CASE WHEN :moves_end::boolean THEN :expires_at::timestamptz ELSE expires_at END,
    updated_at = :now, last_accessed_at = :now, version = version + 1
WHERE tenant_id = (SELECT :tenant_id) AND session_id = :id AND {live}
  AND (:expected_version::integer IS NULL OR version = :expected_version)
RETURNING {session};

-- name: lock -> value
-- Hold a session until the end of the transaction: whoever changes it or its artifacts comes here first.
SELECT 1 FROM llmspell.sessions WHERE tenant_id = (SELECT :tenant_id) AND session_id = :id FOR UPDATE;

-- name: delete -> row
-- Delete a session; the answer says whether it was live.
DELETE FROM llmspell.sessions WHERE tenant_id = (SELECT :tenant_id) AND session_id = :id
RETURNING ({live}) AS live;

-- name: page -> rows
-- Live sessions before a position, newest first.
SELECT {session} FROM llmspell.sessions
WHERE tenant_id = :tenant_id AND (created_at, session_id) < (:at, :id) AND {live}
ORDER BY created_at DESC, session_id DESC LIMIT :limit::bigint;

-- name: page_by_status -> rows
-- Live sessions of a status before a position, newest first.
SELECT {session} FROM llmspell.sessions
WHERE tenant_id = :tenant_id AND status = :status AND (created_at, session_id) < (:at, :id) AND {live}
ORDER BY created_at DESC, session_id DESC LIMIT :limit::bigint;

-- name: page_expired -> rows
-- Sessions whose time has passed, marked or not, before a position, newest first.
SELECT {session} FROM llmspell.sessions
WHERE tenant_id = :tenant_id AND expires_at <= :now AND (created_at, session_id) < (:at, :id)
ORDER BY created_at DESC, session_id DESC LIMIT :limit::bigint;

-- name: count -> value
-- How many live sessions there are.
SELECT count(*) FROM llmspell.sessions WHERE tenant_id = :tenant_id AND {live};

-- name: count_by_status -> value
-- How many live sessions have a status.
SELECT count(*) FROM llmspell.sessions WHERE tenant_id = :tenant_id AND status = :status AND {live};

-- name: count_expired -> value
-- How many sessions there are whose time has passed.
SELECT count(*) FROM llmspell.sessions WHERE tenant_id = :tenant_id AND expires_at <= :now;

-- name: expire -> count
-- Mark sessions whose time has passed, the oldest first.
WITH due AS MATERIALIZED (
  SELECT session_id FROM llmspell.sessions
  WHERE tenant_id = :tenant_id AND expires_at <= :now AND status <> 'expired'
  ORDER BY expires_at, session_id LIMIT :limit::bigint FOR UPDATE SKIP LOCKED)
UPDATE llmspell.sessions s SET status = 'expired', updated_at = :now, version = s.version + 1
FROM due WHERE s.tenant_id = (SELECT :tenant_id) AND s.session_id = due.session_id;

-- name: lock_expired -> rows
-- Sessions whose time has passed, the oldest first, held until the end of the transaction. What another one holds is left to it.
SELECT session_id FROM llmspell.sessions
WHERE tenant_id = :tenant_id AND expires_at <= :now
ORDER BY expires_at, session_id LIMIT :limit::bigint FOR UPDATE SKIP LOCKED;

-- name: delete_batch -> count
-- Delete several sessions.
DELETE FROM llmspell.sessions WHERE tenant_id = (SELECT :tenant_id) AND session_id = ANY(:ids::uuid[]);
