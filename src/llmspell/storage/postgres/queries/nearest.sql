-- name: free_{dim} -> rows
-- Nearest free vectors outside the approximate index, all compared; the last row says whether the space has some inside as well.
-- only: this database searches by itself
WITH promoted AS MATERIALIZED (
  SELECT coalesce(bool_or(s.ann_promoted), FALSE) AS yes FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
),
tail AS (
  SELECT v.owner_id, floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000 AS score
  FROM llmspell.vector_embeddings_{dim} v
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND (:scope::text IS NULL OR v.scope = :scope::text) AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
)
SELECT owner_id, score FROM tail
UNION ALL SELECT NULL::uuid, CASE WHEN p.yes THEN 1.0::float8 ELSE 0.0::float8 END FROM promoted p;

-- name: free_union_{dim} -> rows
-- Nearest free vectors: the exact tail and the approximate index; the last row says whether the space is in it (1), and whether that gave too few (2).
-- only: this database searches by itself
WITH promoted AS MATERIALIZED (
  SELECT coalesce(bool_or(s.ann_promoted), FALSE) AS yes FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
),
tail AS (
  SELECT v.owner_id, floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000 AS score
  FROM llmspell.vector_embeddings_{dim} v
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND (:scope::text IS NULL OR v.scope = :scope::text) AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
),
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance
  FROM llmspell.vector_embeddings_{dim} v
  WHERE (SELECT p.yes AND set_config('hnsw.iterative_scan', 'relaxed_order', true) <> ''
      AND set_config('hnsw.ef_search', :ef_search, true) <> ''
      AND set_config('hnsw.max_scan_tuples', :max_scan_tuples, true) <> '' FROM promoted p)
    AND v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND (:scope::text IS NULL OR v.scope = :scope::text) AND {filters}
  ORDER BY v.embedding OPERATOR(public.<=>) :query::public.vector LIMIT :candidates
),
best AS (
  SELECT owner_id, score FROM (SELECT owner_id, score FROM tail UNION ALL SELECT owner_id, floor((1 - (distance)) * 1000000 + 0.5) / 1000000 AS score FROM near) AS f
  ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, CASE
  WHEN NOT p.yes THEN 0.0::float8
  WHEN NOT EXISTS (
    SELECT FROM llmspell.vector_embeddings_{dim} v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET :exact_below::int8
  ) THEN 2.0::float8
  WHEN (SELECT count(*) FROM near) < :candidates::int8 AND EXISTS (
    SELECT FROM llmspell.vector_embeddings_{dim} v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET (SELECT count(*) FROM near)
  ) THEN 2.0::float8
  ELSE 1.0::float8 END FROM promoted p;

-- name: free_half -> rows
-- Nearest free vectors of 3,072 dimensions: the index holds half precision, so its candidates are scored again in full; the last row as of the union.
-- only: this database searches by itself
WITH promoted AS MATERIALIZED (
  SELECT coalesce(bool_or(s.ann_promoted), FALSE) AS yes FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
),
tail AS (
  SELECT v.owner_id, floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000 AS score
  FROM llmspell.vector_embeddings_3072 v
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND (:scope::text IS NULL OR v.scope = :scope::text) AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
),
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance
  FROM llmspell.vector_embeddings_3072 v
  WHERE (SELECT p.yes AND set_config('hnsw.iterative_scan', 'relaxed_order', true) <> ''
      AND set_config('hnsw.ef_search', :ef_search, true) <> ''
      AND set_config('hnsw.max_scan_tuples', :max_scan_tuples, true) <> '' FROM promoted p)
    AND v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND (:scope::text IS NULL OR v.scope = :scope::text) AND {filters}
  ORDER BY public.l2_normalize(v.embedding)::public.halfvec(3072)
    OPERATOR(public.<=>) public.l2_normalize(:query::public.vector)::public.halfvec(3072) LIMIT :candidates
),
best AS (
  SELECT owner_id, score FROM (SELECT owner_id, score FROM tail UNION ALL SELECT owner_id, floor((1 - (distance)) * 1000000 + 0.5) / 1000000 AS score FROM near) AS f
  ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, CASE
  WHEN NOT p.yes THEN 0.0::float8
  WHEN NOT EXISTS (
    SELECT FROM llmspell.vector_embeddings_3072 v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET :exact_below::int8
  ) THEN 2.0::float8
  WHEN (SELECT count(*) FROM near) < :candidates::int8 AND EXISTS (
    SELECT FROM llmspell.vector_embeddings_3072 v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET (SELECT count(*) FROM near)
  ) THEN 2.0::float8
  ELSE 1.0::float8 END FROM promoted p;

-- name: free_exact_{dim} -> rows
-- Nearest free vectors, all of them compared: for a promoted space whose index gave too few.
-- only: this database searches by itself
SELECT owner_id, score FROM (
  SELECT v.owner_id, floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000 AS score
  FROM llmspell.vector_embeddings_{dim} v
  WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND (:scope::text IS NULL OR v.scope = :scope::text) AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
) AS f;

-- name: memories_{dim} -> rows
-- Nearest live memories by their best window outside the approximate index, all compared; the last row says whether the space has some inside as well.
-- Vectors and memories meet in one grouping, not in a join: of a tenant unknown to the planner a join may take n x n steps.
-- only: this database searches by itself
WITH promoted AS MATERIALIZED (
  SELECT coalesce(bool_or(s.ann_promoted), FALSE) AS yes FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
),
tail AS (
  SELECT owner_id, max(score) AS score
  FROM (
    SELECT v.owner_id, floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000 AS score, FALSE AS live
    FROM llmspell.vector_embeddings_{dim} v
    WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    UNION ALL
    SELECT m.memory_id, NULL, TRUE FROM llmspell.memories m
    WHERE m.tenant_id = :tenant_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
  ) AS either
  GROUP BY owner_id HAVING bool_or(live) AND count(score) > 0 ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM tail
UNION ALL SELECT NULL::uuid, CASE WHEN p.yes THEN 1.0::float8 ELSE 0.0::float8 END FROM promoted p;

-- name: memories_union_{dim} -> rows
-- Nearest live memories by their best window: the exact tail and the approximate index; the last row says whether the space is in it (1), and whether that gave too few (2).
-- (SELECT :tenant_id) hides the value: a tenant is taken for an average one, and each memory is looked up by its key.
-- only: this database searches by itself
WITH promoted AS MATERIALIZED (
  SELECT coalesce(bool_or(s.ann_promoted), FALSE) AS yes FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
),
tail AS (
  SELECT v.owner_id, max(floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000) AS score
  FROM llmspell.vector_embeddings_{dim} v
  CROSS JOIN LATERAL (
    SELECT FROM llmspell.memories m
    WHERE m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters} OFFSET 0
  ) AS alive
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
  GROUP BY v.owner_id ORDER BY score DESC, v.owner_id LIMIT :limit
),
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance
  FROM llmspell.vector_embeddings_{dim} v
  JOIN llmspell.memories m ON m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id
  WHERE (SELECT p.yes AND set_config('hnsw.iterative_scan', 'relaxed_order', true) <> ''
      AND set_config('hnsw.ef_search', :ef_search, true) <> ''
      AND set_config('hnsw.max_scan_tuples', :max_scan_tuples, true) <> '' FROM promoted p)
    AND v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
  ORDER BY v.embedding OPERATOR(public.<=>) :query::public.vector LIMIT :candidates
),
best AS (
  SELECT owner_id, max(score) AS score FROM (SELECT owner_id, score FROM tail UNION ALL SELECT owner_id, max(floor((1 - (distance)) * 1000000 + 0.5) / 1000000) AS score FROM near GROUP BY owner_id) AS f GROUP BY owner_id
  ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, CASE
  WHEN NOT p.yes THEN 0.0::float8
  WHEN NOT EXISTS (
    SELECT FROM llmspell.vector_embeddings_{dim} v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET :exact_below::int8
  ) THEN 2.0::float8
  WHEN (SELECT count(*) FROM near) < :candidates::int8 AND EXISTS (
    SELECT FROM llmspell.vector_embeddings_{dim} v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET (SELECT count(*) FROM near)
  ) THEN 2.0::float8
  ELSE 1.0::float8 END FROM promoted p;

-- name: memories_half -> rows
-- Nearest live memories by their best window of 3,072 dimensions: the index holds half precision, so its candidates are scored again in full; the last row as of the union.
-- (SELECT :tenant_id) hides the value: a tenant is taken for an average one, and each memory is looked up by its key.
-- only: this database searches by itself
WITH promoted AS MATERIALIZED (
  SELECT coalesce(bool_or(s.ann_promoted), FALSE) AS yes FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
),
tail AS (
  SELECT v.owner_id, max(floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000) AS score
  FROM llmspell.vector_embeddings_3072 v
  CROSS JOIN LATERAL (
    SELECT FROM llmspell.memories m
    WHERE m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters} OFFSET 0
  ) AS alive
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
  GROUP BY v.owner_id ORDER BY score DESC, v.owner_id LIMIT :limit
),
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance
  FROM llmspell.vector_embeddings_3072 v
  JOIN llmspell.memories m ON m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id
  WHERE (SELECT p.yes AND set_config('hnsw.iterative_scan', 'relaxed_order', true) <> ''
      AND set_config('hnsw.ef_search', :ef_search, true) <> ''
      AND set_config('hnsw.max_scan_tuples', :max_scan_tuples, true) <> '' FROM promoted p)
    AND v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
  ORDER BY public.l2_normalize(v.embedding)::public.halfvec(3072)
    OPERATOR(public.<=>) public.l2_normalize(:query::public.vector)::public.halfvec(3072) LIMIT :candidates
),
best AS (
  SELECT owner_id, max(score) AS score FROM (SELECT owner_id, score FROM tail UNION ALL SELECT owner_id, max(floor((1 - (distance)) * 1000000 + 0.5) / 1000000) AS score FROM near GROUP BY owner_id) AS f GROUP BY owner_id
  ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, CASE
  WHEN NOT p.yes THEN 0.0::float8
  WHEN NOT EXISTS (
    SELECT FROM llmspell.vector_embeddings_3072 v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET :exact_below::int8
  ) THEN 2.0::float8
  WHEN (SELECT count(*) FROM near) < :candidates::int8 AND EXISTS (
    SELECT FROM llmspell.vector_embeddings_3072 v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET (SELECT count(*) FROM near)
  ) THEN 2.0::float8
  ELSE 1.0::float8 END FROM promoted p;

-- name: memories_exact_{dim} -> rows
-- Nearest live memories by their best window, all of them compared: for a promoted space whose index gave too few.
-- Vectors and memories meet in one grouping, not in a join: of a tenant unknown to the planner a join may take n x n steps.
-- only: this database searches by itself
SELECT owner_id, score FROM (
  SELECT owner_id, max(score) AS score
  FROM (
    SELECT v.owner_id, floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000 AS score, FALSE AS live
    FROM llmspell.vector_embeddings_{dim} v
    WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id
    UNION ALL
    SELECT m.memory_id, NULL, TRUE FROM llmspell.memories m
    WHERE m.tenant_id = :tenant_id AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
  ) AS either
  GROUP BY owner_id HAVING bool_or(live) AND count(score) > 0 ORDER BY score DESC, owner_id LIMIT :limit
) AS f;

-- name: promote_{dim} -> count
-- Move some vectors of a space into the approximate index.
-- only: this database searches by itself
UPDATE llmspell.vector_embeddings_{dim} SET ann = TRUE
WHERE tenant_id = :tenant_id AND id = ANY(ARRAY(
  SELECT v.id FROM llmspell.vector_embeddings_{dim} v
  WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND NOT v.ann
  ORDER BY v.id LIMIT :limit FOR UPDATE SKIP LOCKED));

-- name: mark_promoted -> count
-- Note that a space is searched through the approximate index as well.
-- only: this database searches by itself
INSERT INTO llmspell.embedding_spaces (tenant_id, space_id, model, dimension, ann_promoted, created_at, updated_at)
VALUES (:tenant_id, :space_id, :model, :dimension, TRUE, :now, :now)
ON CONFLICT (tenant_id, space_id) DO UPDATE SET ann_promoted = TRUE, updated_at = excluded.updated_at;

-- name: promotable -> rows
-- Spaces beyond one that have more than :threshold vectors outside of the approximate index; no more of them are counted.
-- Free vectors have a space without a row until they are promoted, so those spaces are named.
-- cross-tenant: the operator looks for what has outgrown exact search
-- only: this database searches by itself
SELECT s.tenant_id, s.space_id, s.dimension FROM (
  SELECT e.tenant_id, e.space_id, e.dimension FROM llmspell.embedding_spaces e
  UNION
  SELECT t.tenant_id, 'free-' || d.dimension, d.dimension
  FROM llmspell.tenants t CROSS JOIN (VALUES (384), (768), (1536), (3072)) AS d (dimension)
) AS s
WHERE (s.tenant_id, s.space_id) > (:tenant, :space_id) AND :threshold::bigint < CASE s.dimension
  WHEN 384 THEN (SELECT count(*) FROM (SELECT FROM llmspell.vector_embeddings_384 v
    WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND NOT v.ann ORDER BY v.space_id LIMIT :threshold + 1) AS few)
  WHEN 768 THEN (SELECT count(*) FROM (SELECT FROM llmspell.vector_embeddings_768 v
    WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND NOT v.ann ORDER BY v.space_id LIMIT :threshold + 1) AS few)
  WHEN 1536 THEN (SELECT count(*) FROM (SELECT FROM llmspell.vector_embeddings_1536 v
    WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND NOT v.ann ORDER BY v.space_id LIMIT :threshold + 1) AS few)
  ELSE (SELECT count(*) FROM (SELECT FROM llmspell.vector_embeddings_3072 v
    WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND NOT v.ann ORDER BY v.space_id LIMIT :threshold + 1) AS few) END
ORDER BY s.tenant_id, s.space_id LIMIT :limit;
