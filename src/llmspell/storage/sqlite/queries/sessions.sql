-- A session is live while its status is not 'expired' and its time has not passed.

-- fragment: session
session_id, session_data, status, created_at, updated_at, last_accessed_at, expires_at, artifact_count, version;

-- fragment: live
status <> 'expired' AND (expires_at IS NULL OR expires_at > :now);

-- name: insert -> count
-- Begin a session, unless its id is taken.
INSERT INTO sessions
  (tenant_id, session_id, session_data, status, created_at, updated_at, last_accessed_at, expires_at, version)
VALUES (:tenant_id, :id, :data, 'active', :now, :now, :now, :expires_at, 1)
ON CONFLICT DO NOTHING;

-- name: get -> row
-- A live session.
SELECT {session} FROM sessions WHERE tenant_id = :tenant_id AND session_id = :id AND {live};

-- name: touch -> count
-- Note a look at a session, unless somebody has just noted one.
UPDATE sessions SET last_accessed_at = :now
WHERE tenant_id = :tenant_id AND session_id = :id AND last_accessed_at <= :due;

-- name: update -> row
-- Replace what is given of a live session, when it is at the expected version.
UPDATE sessions
SET session_data = coalesce(:data, session_data), status = coalesce(:status, status),
    expires_at = CASE WHEN :moves_end THEN :expires_at ELSE expires_at END,
    updated_at = :now, last_accessed_at = :now, version = version + 1
WHERE tenant_id = :tenant_id AND session_id = :id AND {live}
  AND (:expected_version IS NULL OR version = :expected_version)
RETURNING {session};

-- name: lock -> value
-- Hold a session until the end of the transaction: whoever changes it or its artifacts comes here first.
SELECT 1 FROM sessions WHERE tenant_id = :tenant_id AND session_id = :id;

-- name: delete -> row
-- Delete a session; the answer says whether it was live.
DELETE FROM sessions WHERE tenant_id = :tenant_id AND session_id = :id
RETURNING ({live}) AS live;

-- name: page -> rows
-- Live sessions before a position, newest first.
SELECT {session} FROM sessions
WHERE tenant_id = :tenant_id AND (created_at, session_id) < (:at, :id) AND {live}
ORDER BY created_at DESC, session_id DESC LIMIT :limit;

-- name: page_by_status -> rows
-- Live sessions of a status before a position, newest first.
SELECT {session} FROM sessions
WHERE tenant_id = :tenant_id AND status = :status AND (created_at, session_id) < (:at, :id) AND {live}
ORDER BY created_at DESC, session_id DESC LIMIT :limit;

-- name: page_expired -> rows
-- Sessions whose time has passed, marked or not, before a position, newest first.
SELECT {session} FROM sessions
WHERE tenant_id = :tenant_id AND expires_at <= :now AND (created_at, session_id) < (:at, :id)
ORDER BY created_at DESC, session_id DESC LIMIT :limit;

-- name: count -> value
-- How many live sessions there are.
SELECT count(*) FROM sessions WHERE tenant_id = :tenant_id AND {live};

-- name: count_by_status -> value
-- How many live sessions have a status.
SELECT count(*) FROM sessions WHERE tenant_id = :tenant_id AND status = :status AND {live};

-- name: count_expired -> value
-- How many sessions there are whose time has passed.
SELECT count(*) FROM sessions WHERE tenant_id = :tenant_id AND expires_at <= :now;

-- name: expire -> count
-- Mark sessions whose time has passed, the oldest first.
UPDATE sessions SET status = 'expired', updated_at = :now, version = version + 1
WHERE tenant_id = :tenant_id AND session_id IN (
  SELECT session_id FROM sessions
  WHERE tenant_id = :tenant_id AND expires_at <= :now AND status <> 'expired'
  ORDER BY expires_at, session_id LIMIT :limit);

-- name: lock_expired -> rows
-- Sessions whose time has passed, the oldest first, held until the end of the transaction.
SELECT session_id FROM sessions
WHERE tenant_id = :tenant_id AND expires_at <= :now
ORDER BY expires_at, session_id LIMIT :limit;

-- name: delete_batch -> count
-- Delete several sessions.
DELETE FROM sessions WHERE tenant_id = :tenant_id AND session_id IN (SELECT unhex(value) FROM json_each(:ids));
