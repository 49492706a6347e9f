-- name: insert_{dim} -> count
-- Store one vector; `owner_id` is the vector itself, or the memory that it belongs to.
INSERT INTO vector_embeddings_{dim}
  (tenant_id, id, space_id, owner_id, part_no, scope, embedding, metadata, seq, created_at, updated_at)
VALUES (:tenant_id, :id, :space_id, :owner_id, :part_no, :scope, :embedding, :metadata,
  (SELECT change_seq FROM embedding_spaces WHERE tenant_id = :tenant_id AND space_id = :space_id), :now, :now);

-- name: taken -> value
-- One of several ids that a vector of any dimension has already.
SELECT id FROM vector_embeddings_384 WHERE tenant_id = :tenant_id AND id IN (SELECT unhex(value) FROM json_each(:ids))
UNION ALL
SELECT id FROM vector_embeddings_768 WHERE tenant_id = :tenant_id AND id IN (SELECT unhex(value) FROM json_each(:ids))
UNION ALL
SELECT id FROM vector_embeddings_1536 WHERE tenant_id = :tenant_id AND id IN (SELECT unhex(value) FROM json_each(:ids))
UNION ALL
SELECT id FROM vector_embeddings_3072 WHERE tenant_id = :tenant_id AND id IN (SELECT unhex(value) FROM json_each(:ids))
ORDER BY 1 LIMIT 1;

-- name: get -> row
-- A free vector, whatever its dimension.
SELECT id, scope, embedding, metadata, created_at, updated_at FROM vector_embeddings_384
WHERE tenant_id = :tenant_id AND id = :id AND space_id = 'free-384'
UNION ALL
SELECT id, scope, embedding, metadata, created_at, updated_at FROM vector_embeddings_768
WHERE tenant_id = :tenant_id AND id = :id AND space_id = 'free-768'
UNION ALL
SELECT id, scope, embedding, metadata, created_at, updated_at FROM vector_embeddings_1536
WHERE tenant_id = :tenant_id AND id = :id AND space_id = 'free-1536'
UNION ALL
SELECT id, scope, embedding, metadata, created_at, updated_at FROM vector_embeddings_3072
WHERE tenant_id = :tenant_id AND id = :id AND space_id = 'free-3072';

-- name: hydrate_{dim} -> rows
-- The free vectors behind search results. The + keeps the planner at the primary key: without statistics it would read
-- the whole space.
SELECT id, scope, embedding, metadata, created_at, updated_at FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND id IN (SELECT unhex(value) FROM json_each(:ids)) AND +space_id = 'free-{dim}';

-- name: update_metadata_{dim} -> count
-- Replace the metadata of a free vector.
UPDATE vector_embeddings_{dim} SET metadata = :metadata, updated_at = :now
WHERE tenant_id = :tenant_id AND id = :id AND +space_id = 'free-{dim}';

-- name: delete_{dim} -> count
-- Delete free vectors by id.
DELETE FROM vector_embeddings_{dim} WHERE tenant_id = :tenant_id AND id IN (SELECT unhex(value) FROM json_each(:ids)) AND +space_id = 'free-{dim}';

-- name: delete_scope_{dim} -> count
-- Delete the free vectors of a scope.
DELETE FROM vector_embeddings_{dim} WHERE tenant_id = :tenant_id AND space_id = 'free-{dim}' AND scope = :scope;

-- name: delete_owners_{dim} -> count
-- Delete the embeddings of memories, in every space of this dimension.
DELETE FROM vector_embeddings_{dim}
WHERE tenant_id = :tenant_id AND owner_id IN (SELECT unhex(value) FROM json_each(:ids))
  AND space_id IN (SELECT space_id FROM embedding_spaces WHERE tenant_id = :tenant_id AND dimension = {dim} AND space_id <> 'free-{dim}');

-- name: delete_owners_in_{dim} -> count
-- Delete the embeddings of memories in one space.
DELETE FROM vector_embeddings_{dim} WHERE tenant_id = :tenant_id AND space_id = :space_id AND owner_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: stats -> rows
-- Free vectors by dimension and scope.
SELECT 384 AS dimension, scope, count(*) AS vectors FROM vector_embeddings_384
WHERE tenant_id = :tenant_id AND space_id = 'free-384' AND (:scope IS NULL OR scope = :scope) GROUP BY scope
UNION ALL
SELECT 768 AS dimension, scope, count(*) AS vectors FROM vector_embeddings_768
WHERE tenant_id = :tenant_id AND space_id = 'free-768' AND (:scope IS NULL OR scope = :scope) GROUP BY scope
UNION ALL
SELECT 1536 AS dimension, scope, count(*) AS vectors FROM vector_embeddings_1536
WHERE tenant_id = :tenant_id AND space_id = 'free-1536' AND (:scope IS NULL OR scope = :scope) GROUP BY scope
UNION ALL
SELECT 3072 AS dimension, scope, count(*) AS vectors FROM vector_embeddings_3072
WHERE tenant_id = :tenant_id AND space_id = 'free-3072' AND (:scope IS NULL OR scope = :scope) GROUP BY scope;

-- name: sample_{dim} -> rows
-- Some embeddings of a space, spread evenly over it in the order of their owners.
SELECT e.embedding FROM (
  SELECT owner_id, part_no, row_number() OVER (ORDER BY owner_id, part_no) AS n, count(*) OVER () AS stored FROM vector_embeddings_{dim}
  WHERE tenant_id = :tenant_id AND space_id = :space_id
) numbered
JOIN vector_embeddings_{dim} e
  ON e.tenant_id = :tenant_id AND e.space_id = :space_id AND e.owner_id = numbered.owner_id AND e.part_no = numbered.part_no
WHERE n * min(:wanted, stored) / stored > (n - 1) * min(:wanted, stored) / stored
ORDER BY e.owner_id, e.part_no LIMIT :wanted;

-- name: register_space -> count
-- Register an embedding space, unless it is.
INSERT INTO embedding_spaces (tenant_id, space_id, model, dimension, created_at, updated_at)
VALUES (:tenant_id, :space_id, :model, :dimension, :now, :now)
ON CONFLICT (tenant_id, space_id) DO NOTHING;

-- name: space -> row
-- What a space holds.
SELECT model, dimension FROM embedding_spaces
WHERE tenant_id = :tenant_id AND space_id = :space_id;

-- name: space_changed -> count
-- Take the next change number of a space, registering a free one.
-- only: caches outside the database catch up by change numbers
INSERT INTO embedding_spaces (tenant_id, space_id, model, dimension, change_seq, created_at, updated_at)
VALUES (:tenant_id, :space_id, :model, :dimension, 1, :now, :now)
ON CONFLICT (tenant_id, space_id) DO UPDATE SET change_seq = change_seq + 1;

-- name: space_deleted -> count
-- Take the change number under which triggers have just noted deleted vectors of a space (V034).
-- only: caches outside the database catch up by change numbers
UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1
WHERE tenant_id = :tenant_id AND space_id = :space_id;

-- name: owners_deleted -> count
-- Do so where the statement just before deleted embeddings of memories, if it did: in which space is not known.
-- only: caches outside the database catch up by change numbers
UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1
WHERE changes() > 0 AND tenant_id = :tenant_id AND dimension = :dimension AND space_id <> 'free-' || :dimension;

-- name: spaces -> rows
-- How many vectors each space has, and how many of them the approximate index holds.
SELECT space_id, 384 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM vector_embeddings_384
WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 768 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM vector_embeddings_768
WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 1536 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM vector_embeddings_1536
WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 3072 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM vector_embeddings_3072
WHERE tenant_id = :tenant_id GROUP BY space_id
ORDER BY space_id;
