-- A session is live while its status is not 'expired' and its time has not passed; its artifacts are there as long as it is.

-- fragment: artifact
artifact_id, metadata, name, artifact_type, mime_type, size_bytes, created_at, created_by, version, parent_artifact_id, tags,
  updated_at, revision;

-- fragment: parent_is_there
(:parent IS NULL OR EXISTS (
    SELECT 1 FROM artifacts p JOIN sessions s ON s.tenant_id = :tenant_id AND s.session_id = p.session_id
    WHERE p.tenant_id = :tenant_id AND p.artifact_id = :parent AND {live}));

-- fragment: live
s.status <> 'expired' AND (s.expires_at IS NULL OR s.expires_at > :now);

-- name: ready -> row
-- Whether a session and a parent are there to put something into, and whether its content is stored already.
SELECT EXISTS (SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = :session AND {live}) AS session,
  {parent_is_there} AS parent,
  EXISTS (SELECT 1 FROM artifact_content WHERE tenant_id = :tenant_id AND content_hash = :hash) AS content;

-- name: lock_sessions -> rows
-- Hold several sessions until the end of the transaction, in the order of their ids.
SELECT session_id FROM sessions
WHERE tenant_id = :tenant_id AND session_id IN (SELECT unhex(value) FROM json_each(:ids)) ORDER BY session_id;

-- name: take_number -> count
-- Give the next artifact of a live session its number, and hold the session; nothing is given when the parent is not there.
UPDATE sessions AS s SET artifact_sequence = artifact_sequence + 1, last_accessed_at = :now
WHERE s.tenant_id = :tenant_id AND s.session_id = :session AND {live} AND {parent_is_there};

-- name: keep_content -> count
-- Store a content in one value for an artifact that can be put, unless it is there. A row is written with all of its data at every
-- change, so that it is wanted again is not noted.
INSERT INTO artifact_content
  (tenant_id, content_hash, storage_type, data, size_bytes, is_compressed, original_size_bytes, created_at, last_accessed_at)
SELECT :tenant_id, :hash, 'bytea', :data, :stored_bytes, :is_compressed, :size_bytes, :now, :now
FROM sessions s
WHERE s.tenant_id = :tenant_id AND s.session_id = :session AND s.artifact_sequence > 0 AND {live} AND {parent_is_there}
ON CONFLICT DO NOTHING;

-- name: hold_content -> count
-- Hold a content that is stored until the end of the transaction; none is held when it is not there.
UPDATE artifact_content SET last_accessed_at = :now
WHERE tenant_id = :tenant_id AND content_hash = :hash;

-- name: begin_content -> count
-- Begin a content of several chunks, unless it is there.
INSERT INTO artifact_content
  (tenant_id, content_hash, storage_type, size_bytes, is_compressed, original_size_bytes, created_at, last_accessed_at)
VALUES (:tenant_id, :hash, 'chunks', :stored_bytes, :is_compressed, :size_bytes, :now, :now)
ON CONFLICT DO NOTHING;

-- name: add_chunk -> count
-- Store one chunk.
INSERT INTO artifact_chunks (tenant_id, content_hash, chunk_no, data, checksum)
VALUES (:tenant_id, :hash, :number, :data, :checksum);

-- name: insert -> row
-- Put an artifact into a live session whose number was taken; its content must be stored.
INSERT INTO artifacts
  (tenant_id, artifact_id, session_id, sequence, content_hash, metadata, name, artifact_type, mime_type, size_bytes, created_at,
   created_by, version, parent_artifact_id, tags, stored_at, updated_at, revision)
SELECT :tenant_id, :session_text || ':' || (s.artifact_sequence - 1) || ':' || :hash, s.session_id, s.artifact_sequence - 1, :hash,
  :metadata, :name, :type, :mime_type, :size_bytes, :now, :created_by,
  coalesce((SELECT p.version + 1 FROM artifacts p WHERE p.tenant_id = :tenant_id AND p.artifact_id = :parent), 1), :parent, :tags,
  :now, :now, 1
FROM sessions s
WHERE s.tenant_id = :tenant_id AND s.session_id = :session AND s.artifact_sequence > 0 AND {live} AND {parent_is_there}
  AND EXISTS (SELECT 1 FROM artifact_content c WHERE c.tenant_id = :tenant_id AND c.content_hash = :hash)
RETURNING artifact_id, version;

-- name: get -> row
-- An artifact of a live session.
SELECT {artifact} FROM artifacts a
WHERE a.tenant_id = :tenant_id AND a.artifact_id = :id AND EXISTS (
  SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = a.session_id AND {live});

-- name: open -> row
-- What must be known of an artifact's content to read it, and the content when it is one value.
SELECT c.content_hash, c.is_compressed, c.original_size_bytes, c.size_bytes, c.data
FROM artifacts a JOIN artifact_content c ON c.tenant_id = :tenant_id AND c.content_hash = a.content_hash
WHERE a.tenant_id = :tenant_id AND a.artifact_id = :id AND EXISTS (
  SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = a.session_id AND {live});

-- name: chunk -> row
-- One chunk of a content.
SELECT data, checksum FROM artifact_chunks WHERE tenant_id = :tenant_id AND content_hash = :hash AND chunk_no = :number;

-- name: content_is_there -> value
-- One when a content is stored.
SELECT 1 FROM artifact_content WHERE tenant_id = :tenant_id AND content_hash = :hash;

-- name: page -> rows
-- Summaries of artifacts before a position, newest first.
SELECT a.artifact_id, a.name, a.artifact_type, a.size_bytes, a.created_at FROM artifacts a
WHERE a.tenant_id = :tenant_id AND (a.created_at, a.artifact_id) < (:at, :id) AND EXISTS (
  SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = a.session_id AND {live})
ORDER BY a.created_at DESC, a.artifact_id DESC LIMIT :limit;

-- name: page_by_type -> rows
-- Summaries of artifacts of a type before a position, newest first, from the index alone.
SELECT a.artifact_id, a.name, a.artifact_type, a.size_bytes, a.created_at FROM artifacts a
WHERE a.tenant_id = :tenant_id AND a.artifact_type = :type AND (a.created_at, a.artifact_id) < (:at, :id) AND EXISTS (
  SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = a.session_id AND {live})
ORDER BY a.created_at DESC, a.artifact_id DESC LIMIT :limit;

-- name: page_of_session -> rows
-- Summaries of the artifacts of a live session before a position, newest first.
SELECT a.artifact_id, a.name, a.artifact_type, a.size_bytes, a.created_at FROM artifacts a
WHERE a.tenant_id = :tenant_id AND a.session_id = :session AND a.sequence < :sequence
  AND (:type IS NULL OR a.artifact_type = :type) AND EXISTS (
  SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = :session AND {live})
ORDER BY a.sequence DESC LIMIT :limit;

-- name: update -> row
-- Replace what is given of an artifact, when it is at the expected revision.
UPDATE artifacts AS a
SET name = coalesce(:name, name), tags = coalesce(:tags, tags), metadata = coalesce(:metadata, metadata), updated_at = :now,
    revision = revision + 1
WHERE a.tenant_id = :tenant_id AND a.artifact_id = :id AND (:expected_revision IS NULL OR a.revision = :expected_revision)
  AND EXISTS (SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = a.session_id AND {live})
RETURNING {artifact};

-- name: delete -> count
-- Delete an artifact of a live session.
DELETE FROM artifacts AS a
WHERE a.tenant_id = :tenant_id AND a.artifact_id = :id AND EXISTS (
  SELECT 1 FROM sessions s WHERE s.tenant_id = :tenant_id AND s.session_id = a.session_id AND {live});

-- name: drop_content -> count
-- Delete a content when nothing refers to it any more; its chunks go with it.
DELETE FROM artifact_content WHERE tenant_id = :tenant_id AND content_hash = :hash AND reference_count = 0;

-- name: lock_contents -> rows
-- Hold the contents of several sessions until the end of the transaction, in the order of their hashes.
SELECT c.content_hash FROM artifact_content c
WHERE c.tenant_id = :tenant_id AND c.content_hash IN (
  SELECT a.content_hash FROM artifacts a
  WHERE a.tenant_id = :tenant_id AND a.session_id IN (SELECT unhex(value) FROM json_each(:ids)))
ORDER BY c.content_hash;

-- name: delete_of_sessions -> count
-- Delete the artifacts of several sessions.
DELETE FROM artifacts WHERE tenant_id = :tenant_id AND session_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: drop_unreferenced -> count
-- Delete contents that nothing refers to.
DELETE FROM artifact_content WHERE tenant_id = :tenant_id AND content_hash IN (
  SELECT content_hash FROM artifact_content WHERE tenant_id = :tenant_id AND reference_count = 0
  ORDER BY content_hash LIMIT :limit);

-- name: stats -> row
-- What all artifacts of the tenant take.
SELECT (SELECT count(*) FROM artifacts WHERE tenant_id = :tenant_id) AS artifacts,
  (SELECT coalesce(sum(size_bytes), 0) FROM artifacts WHERE tenant_id = :tenant_id) AS logical_bytes,
  count(*) AS contents, coalesce(sum(c.original_size_bytes), 0) AS content_bytes, coalesce(sum(c.size_bytes), 0) AS stored_bytes
FROM artifact_content c WHERE c.tenant_id = :tenant_id;

-- name: stats_of_session -> row
-- What the artifacts of one session take.
SELECT (SELECT count(*) FROM artifacts WHERE tenant_id = :tenant_id AND session_id = :session) AS artifacts,
  (SELECT coalesce(sum(size_bytes), 0) FROM artifacts WHERE tenant_id = :tenant_id AND session_id = :session) AS logical_bytes,
  count(*) AS contents, coalesce(sum(c.original_size_bytes), 0) AS content_bytes, coalesce(sum(c.size_bytes), 0) AS stored_bytes
FROM artifact_content c WHERE c.tenant_id = :tenant_id AND c.content_hash IN (
  SELECT a.content_hash FROM artifacts a WHERE a.tenant_id = :tenant_id AND a.session_id = :session);
