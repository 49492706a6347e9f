-- name: state -> row
-- What a cache of a space must know: the last change, the last one that is in the log, since when all are, and the newest index file.
-- only: caches outside the database catch up by change numbers
SELECT change_seq, deleted_seq, logged_from, index_token FROM embedding_spaces
WHERE tenant_id = :tenant_id AND space_id = :space_id;

-- name: index_kept -> count
-- Note the index file that was written last, unless another one was noted, or something erased, since its rows were read.
-- only: the other database has no index files
UPDATE embedding_spaces SET index_change = :change, index_token = :token
WHERE tenant_id = :tenant_id AND space_id = :space_id AND index_token IS :known;

-- name: index_erased -> count
-- Let no index file of memories count any more, nor one that is being made: they hold what is erased.
-- only: the other database has no index files
UPDATE embedding_spaces SET index_change = NULL, index_token = :token
WHERE tenant_id = :tenant_id AND space_id <> 'free-' || dimension;

-- name: index_files -> rows
-- The spaces of which there is an index file.
-- only: the other database has no index files
SELECT space_id, dimension FROM embedding_spaces
WHERE tenant_id = :tenant_id AND index_token IS NOT NULL;

-- name: changes -> rows
-- What was removed or rewritten after a change.
-- only: caches outside the database drop what was deleted
SELECT owner_id, part_no, seq, removed FROM vector_changes
WHERE tenant_id = :tenant_id AND space_id = :space_id AND seq > :seq;

-- name: load_{dim} -> rows
-- A page of a space's vectors beyond a position, in the order of their changes.
-- only: the other database searches by itself
SELECT seq, rowid, owner_id, part_no, embedding FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND space_id = :space_id AND (seq, rowid) > (:seq, :row)
ORDER BY seq, rowid LIMIT :limit;

-- name: payloads_{dim} -> rows
-- What filters ask of a space's vectors beyond a position, in the order of `load`.
-- only: the other database filters while it searches
SELECT seq, rowid, scope, created_at, updated_at, metadata FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND space_id = :space_id AND (seq, rowid) > (:seq, :row)
ORDER BY seq, rowid LIMIT :limit;

-- name: payloads_of_{dim} -> rows
-- The same of some owners.
-- only: the other database filters while it searches
SELECT owner_id, part_no, scope, created_at, updated_at, metadata FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND space_id = :space_id AND owner_id IN (SELECT unhex(value) FROM json_each(:owners));

-- name: embeddings_{dim} -> rows
-- The vectors of some owners, which may be among the best and are compared in full precision, with what a hit shows of them.
-- only: the other database searches by itself
SELECT owner_id, part_no, embedding, scope, metadata FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND space_id = :space_id AND owner_id IN (SELECT unhex(value) FROM json_each(:owners));

-- name: embeddings_at_{dim} -> rows
-- The same of the rows in some places, by rowid: half the pages are read. The order of the tables is kept by CROSS JOIN.
-- only: the other database searches by itself
SELECT v.owner_id, v.part_no, v.embedding, v.scope, v.metadata
FROM json_each(:places) AS wanted CROSS JOIN vector_embeddings_{dim} AS v ON v.rowid = wanted.value
WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id;

-- name: present_{dim} -> rows
-- Which parts of which owners a space holds, read from the unique index alone.
-- only: caches outside the database drop what was deleted
SELECT owner_id, part_no FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND space_id = :space_id;

-- name: free_{dim} -> rows
-- Free vectors that match.
-- only: the other database filters while it searches
SELECT v.owner_id FROM vector_embeddings_{dim} v
WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND {filters};

-- name: free_in_scope_{dim} -> rows
-- Free vectors of a scope that match.
-- only: the other database filters while it searches
SELECT v.owner_id FROM vector_embeddings_{dim} v
WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND v.scope = :scope AND {filters};

-- name: memories -> rows
-- Live memories that match.
-- only: the other database filters while it searches
SELECT m.memory_id FROM memories m
WHERE m.tenant_id = :tenant_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters};

-- name: expired -> rows
-- Memories that have expired and are not deleted yet.
-- only: the other database filters while it searches
SELECT m.memory_id FROM memories m
WHERE m.tenant_id = :tenant_id AND m.expires_at IS NOT NULL AND m.expires_at <= :now;
