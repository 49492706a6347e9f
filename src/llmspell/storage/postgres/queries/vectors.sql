-- (SELECT :tenant_id): as in memories.sql.

-- name: insert_{dim} -> count
-- Store one vector; `owner_id` is the vector itself, or the memory that it belongs to.
INSERT INTO llmspell.vector_embeddings_{dim}
  (tenant_id, id, space_id, owner_id, part_no, scope, embedding, metadata, created_at, updated_at)
VALUES (:tenant_id, :id, :space_id, :owner_id, :part_no, :scope, :embedding, :metadata, :now, :now);

-- name: taken -> value
-- One of several ids that a vector of any dimension has already.
SELECT id FROM llmspell.vector_embeddings_384 WHERE tenant_id = (SELECT :tenant_id) AND id = ANY(:ids::uuid[])
UNION ALL
SELECT id FROM llmspell.vector_embeddings_768 WHERE tenant_id = (SELECT :tenant_id) AND id = ANY(:ids::uuid[])
UNION ALL
SELECT id FROM llmspell.vector_embeddings_1536 WHERE tenant_id = (SELECT :tenant_id) AND id = ANY(:ids::uuid[])
UNION ALL
SELECT id FROM llmspell.vector_embeddings_3072 WHERE tenant_id = (SELECT :tenant_id) AND id = ANY(:ids::uuid[])
ORDER BY 1 LIMIT 1;

-- name: get -> row
-- A free vector, whatever its dimension.
SELECT id, scope, embedding, metadata, created_at, updated_at FROM llmspell.vector_embeddings_384
WHERE tenant_id = (SELECT :tenant_id) AND id = :id AND space_id = 'free-384'
UNION ALL
SELECT id, scope, embedding, metadata, created_at, updated_at FROM llmspell.vector_embeddings_768
WHERE tenant_id = (SELECT :tenant_id) AND id = :id AND space_id = 'free-768'
UNION ALL
SELECT id, scope, embedding, metadata, created_at, updated_at FROM llmspell.vector_embeddings_1536
WHERE tenant_id = (SELECT :tenant_id) AND id = :id AND space_id = 'free-1536'
UNION ALL
SELECT id, scope, embedding, metadata, created_at, updated_at FROM llmspell.vector_embeddings_3072
WHERE tenant_id = (SELECT :tenant_id) AND id = :id AND space_id = 'free-3072';

-- name: hydrate_{dim} -> rows
-- The free vectors behind search results.
SELECT id, scope, embedding, metadata, created_at, updated_at FROM llmspell.vector_embeddings_{dim}
WHERE tenant_id = (SELECT :tenant_id) AND id = ANY(:ids::uuid[]) AND space_id = 'free-{dim}';

-- name: update_metadata_{dim} -> count
-- Replace the metadata of a free vector.
UPDATE llmspell.vector_embeddings_{dim} SET metadata = :metadata, updated_at = :now
WHERE tenant_id = (SELECT :tenant_id) AND id = :id AND space_id = 'free-{dim}';

-- name: delete_{dim} -> count
-- Delete free vectors by id.
DELETE FROM llmspell.vector_embeddings_{dim} WHERE tenant_id = (SELECT :tenant_id) AND id = ANY(:ids::uuid[]) AND space_id = 'free-{dim}';

-- name: delete_scope_{dim} -> count
-- Delete the free vectors of a scope.
DELETE FROM llmspell.vector_embeddings_{dim} WHERE tenant_id = :tenant_id AND space_id = 'free-{dim}' AND scope = :scope;

-- name: delete_owners_{dim} -> count
-- Delete the embeddings of memories, in every space of this dimension.
DELETE FROM llmspell.vector_embeddings_{dim}
WHERE tenant_id = (SELECT :tenant_id) AND owner_id = ANY(:ids::uuid[])
  AND space_id = ANY(ARRAY(SELECT space_id FROM llmspell.embedding_spaces WHERE tenant_id = :tenant_id AND dimension = {dim} AND space_id <> 'free-{dim}'));

-- name: delete_owners_in_{dim} -> count
-- Delete the embeddings of memories in one space.
DELETE FROM llmspell.vector_embeddings_{dim} WHERE tenant_id = (SELECT :tenant_id) AND space_id = :space_id AND owner_id = ANY(:ids::uuid[]);

-- name: stats -> rows
-- Free vectors by dimension and scope.
SELECT 384 AS dimension, scope, count(*) AS vectors FROM llmspell.vector_embeddings_384
WHERE tenant_id = :tenant_id AND space_id = 'free-384' AND (:scope::text IS NULL OR scope = :scope::text) GROUP BY scope
UNION ALL
SELECT 768 AS dimension, scope, count(*) AS vectors FROM llmspell.vector_embeddings_768
WHERE tenant_id = :tenant_id AND space_id = 'free-768' AND (:scope::text IS NULL OR scope = :scope::text) GROUP BY scope
UNION ALL
SELECT 1536 AS dimension, scope, count(*) AS vectors FROM llmspell.vector_embeddings_1536
WHERE tenant_id = :tenant_id AND space_id = 'free-1536' AND (:scope::text IS NULL OR scope = :scope::text) GROUP BY scope
UNION ALL
SELECT 3072 AS dimension, scope, count(*) AS vectors FROM llmspell.vector_embeddings_3072
WHERE tenant_id = :tenant_id AND space_id = 'free-3072' AND (:scope::text IS NULL OR scope = :scope::text) GROUP BY scope;

-- name: sample_{dim} -> rows
-- Some embeddings of a space, spread evenly over it in the order of their owners.
SELECT e.embedding FROM (
  SELECT owner_id, part_no, row_number() OVER (ORDER BY owner_id, part_no) AS n, count(*) OVER () AS stored FROM llmspell.vector_embeddings_{dim}
  WHERE tenant_id = (SELECT :tenant_id) AND space_id = :space_id
) numbered
JOIN llmspell.vector_embeddings_{dim} e
  ON e.tenant_id = (SELECT :tenant_id) AND e.space_id = :space_id AND e.owner_id = numbered.owner_id AND e.part_no = numbered.part_no
WHERE n * least(:wanted::bigint, stored) / stored > (n - 1) * least(:wanted::bigint, stored) / stored
ORDER BY e.owner_id, e.part_no LIMIT :wanted;

-- name: register_space -> count
-- Register an embedding space, unless it is.
INSERT INTO llmspell.embedding_spaces (tenant_id, space_id, model, dimension, created_at, updated_at)
VALUES (:tenant_id, :space_id, :model, :dimension, :now, :now)
ON CONFLICT (tenant_id, space_id) DO NOTHING;

-- name: space -> row
-- What a space holds.
SELECT model, dimension FROM llmspell.embedding_spaces
WHERE tenant_id = :tenant_id AND space_id = :space_id;

-- name: spaces -> rows
-- How many vectors each space has, and how many of them the approximate index holds.
SELECT space_id, 384 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM llmspell.vector_embeddings_384
WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 768 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM llmspell.vector_embeddings_768
WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 1536 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM llmspell.vector_embeddings_1536
WHERE tenant_id = :tenant_id GROUP BY space_id
UNION ALL
SELECT space_id, 3072 AS dimension, count(*) AS vectors, count(*) FILTER (WHERE ann) AS inside FROM llmspell.vector_embeddings_3072
WHERE tenant_id = :tenant_id GROUP BY space_id
ORDER BY space_id;
