-- How a search reads the state of a space: its last row has no id, and a number. 0: nothing of the space is in the approximate index.
-- 1 + n: about n of its vectors are. -1: the index gave too few, or a scope has too many, so another way has to be gone.
--
-- A statement that goes through the index runs behind `scan_by_index`, in its transaction: sorting is dear while it is planned, so
-- whatever the planner believes of the tenant, only the index has the order that `near` wants. Its last row sets all back.

-- A fragment stands before those that it uses.

-- fragment: free_tail
tail AS (
  SELECT v.owner_id, {rounded} AS score, v.scope, v.metadata
  FROM llmspell.vector_embeddings_{dim} v
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    AND {in_scope} AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
);

-- fragment: best_free
best AS (
  SELECT owner_id, score, scope, metadata FROM (SELECT owner_id, score, scope, metadata FROM tail
    UNION ALL SELECT owner_id, floor((1 - distance) * 1000000 + 0.5) / 1000000 AS score, scope, metadata FROM near) AS f
  ORDER BY score DESC, owner_id LIMIT :limit
);

-- fragment: memories_tail
tail AS (
  SELECT v.owner_id, max({rounded}) AS score
  FROM llmspell.vector_embeddings_{dim} v
  CROSS JOIN LATERAL (
    SELECT FROM llmspell.memories m
    WHERE m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id AND {alive} OFFSET 0
  ) AS alive
  WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
  GROUP BY v.owner_id ORDER BY score DESC, v.owner_id LIMIT :limit
);

-- fragment: best_memories
best AS (
  SELECT owner_id, max(score) AS score FROM (SELECT owner_id, score FROM tail
    UNION ALL SELECT owner_id, max(floor((1 - distance) * 1000000 + 0.5) / 1000000) AS score FROM near GROUP BY owner_id) AS f
  GROUP BY owner_id ORDER BY score DESC, owner_id LIMIT :limit
);

-- fragment: state
CASE
  WHEN p.state > 0 AND (SELECT count(*) FROM near) < :candidates::int8 AND EXISTS (
    SELECT FROM llmspell.vector_embeddings_{dim} v
    WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id OFFSET (SELECT count(*) FROM near)
  ) THEN -1.0::float8
  ELSE p.state END;

-- fragment: set_back
set_config('enable_sort', split_part(current_setting('app.before_scan', true), ' ', 1), true) <> ''
    AND set_config('hnsw.iterative_scan', split_part(current_setting('app.before_scan', true), ' ', 2), true) <> ''
    AND set_config('hnsw.ef_search', split_part(current_setting('app.before_scan', true), ' ', 3), true) <> ''
    AND set_config('hnsw.max_scan_tuples', split_part(current_setting('app.before_scan', true), ' ', 4), true) <> '';

-- fragment: promoted
promoted AS MATERIALIZED (
  SELECT coalesce(max(s.ann_vectors + 1) FILTER (WHERE s.ann_promoted), 0)::float8 AS state FROM llmspell.embedding_spaces s
  WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id
);

-- fragment: in_scope
(:scope::text IS NULL OR v.scope = :scope::text);

-- fragment: alive
(m.expires_at IS NULL OR m.expires_at > :now) AND {filters};

-- fragment: rounded
floor((1 - (v.embedding OPERATOR(public.<=>) :query::public.vector)) * 1000000 + 0.5) / 1000000;

-- name: scan_by_index -> row
-- Have the next statement of the transaction planned for the approximate index, and scan it so; note what was set before.
-- The first column loads the extension, which knows these settings. What is not asked for is the database's own `ef_search`, where it is
-- not pgvector's 40, or else :usual.
-- cross-tenant: it reads no table
-- only: this database searches by itself
SELECT public.vector_dims('[1]'::public.vector),
  set_config('app.before_scan', concat_ws(' ', current_setting('enable_sort'), current_setting('hnsw.iterative_scan'),
    current_setting('hnsw.ef_search'), current_setting('hnsw.max_scan_tuples')), true),
  set_config('enable_sort', 'off', true),
  set_config('hnsw.iterative_scan', 'relaxed_order', true),
  set_config('hnsw.ef_search',
    least(1000, greatest(:least::int4,
      coalesce(:ef_search::int4, nullif(current_setting('hnsw.ef_search')::int4, 40), :usual::int4)))::text, true),
  set_config('hnsw.max_scan_tuples', :max_scan_tuples::text, true);

-- name: free_{dim} -> rows
-- Nearest free vectors outside the approximate index, all compared; the last row says whether the space has some inside as well.
-- only: this database searches by itself
WITH {promoted},
{free_tail}
SELECT owner_id, score, scope, metadata FROM tail
UNION ALL SELECT NULL::uuid, p.state, NULL, NULL FROM promoted p;

-- name: free_union_{dim} -> rows
-- Nearest free vectors: the exact tail and the approximate index; run it behind `scan_by_index`.
-- only: this database searches by itself
WITH {promoted},
{free_tail},
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance, v.scope, v.metadata
  FROM llmspell.vector_embeddings_{dim} v
  WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND {in_scope} AND {filters}
  ORDER BY v.embedding OPERATOR(public.<=>) :query::public.vector LIMIT :candidates
),
{best_free}
SELECT owner_id, score, scope, metadata FROM best
UNION ALL SELECT NULL::uuid, {state}, NULL, NULL FROM promoted p WHERE {set_back};

-- name: free_half_{dim} -> rows
-- As the union, where the index holds half precision: its candidates are scored again in full.
-- only: this database searches by itself
WITH {promoted},
{free_tail},
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance, v.scope, v.metadata
  FROM llmspell.vector_embeddings_{dim} v
  WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND {in_scope} AND {filters}
  ORDER BY public.l2_normalize(v.embedding)::public.halfvec({dim})
    OPERATOR(public.<=>) public.l2_normalize(:query::public.vector)::public.halfvec({dim}) LIMIT :candidates
),
{best_free}
SELECT owner_id, score, scope, metadata FROM best
UNION ALL SELECT NULL::uuid, {state}, NULL, NULL FROM promoted p WHERE {set_back};

-- name: free_share_{dim} -> value
-- How many of the nearest vectors in the approximate index match: what a filter lets pass where the question is.
-- Run it behind `scan_by_index`.
-- only: this database searches by itself
WITH near AS MATERIALIZED (
  SELECT v.scope, v.metadata, v.created_at, v.updated_at FROM llmspell.vector_embeddings_{dim} v
  WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
  ORDER BY v.embedding OPERATOR(public.<=>) :query::public.vector LIMIT :candidates
),
counted AS MATERIALIZED (SELECT count(*) FILTER (WHERE {in_scope} AND {filters}) AS matching FROM near v)
SELECT c.matching FROM counted c WHERE {set_back};

-- name: free_exact_{dim} -> rows
-- Nearest free vectors, all of them compared, wherever they are.
-- only: this database searches by itself
WITH {promoted},
best AS (
  SELECT v.owner_id, {rounded} AS score, v.scope, v.metadata
  FROM llmspell.vector_embeddings_{dim} v
  WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND {in_scope} AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
)
SELECT owner_id, score, scope, metadata FROM best
UNION ALL SELECT NULL::uuid, p.state, NULL, NULL FROM promoted p;

-- name: free_scope_{dim} -> rows
-- Nearest free vectors of a scope, all compared, when it has at most :exact_below; the last row says whether it has.
-- only: this database searches by itself
WITH few AS MATERIALIZED (
  SELECT count(*) <= :exact_below::int8 AS yes FROM (
    SELECT FROM llmspell.vector_embeddings_{dim} v
    WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND v.scope = :scope
    ORDER BY v.scope LIMIT :exact_below::int8 + 1
  ) AS counted
),
best AS (
  SELECT v.owner_id, {rounded} AS score, v.scope, v.metadata
  FROM llmspell.vector_embeddings_{dim} v
  WHERE (SELECT few.yes FROM few) AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND v.scope = :scope AND {filters}
  ORDER BY score DESC, v.owner_id LIMIT :limit
)
SELECT owner_id, score, scope, metadata FROM best
UNION ALL SELECT NULL::uuid, CASE WHEN few.yes THEN 0.0::float8 ELSE -1.0::float8 END, NULL, NULL FROM few;

-- name: memories_{dim} -> rows
-- Nearest live memories by their best window outside the approximate index, all compared; the last row says whether the space has some inside as well.
-- Vectors and memories meet in one grouping, not in a join: of a tenant unknown to the planner a join may take n x n steps.
-- only: this database searches by itself
WITH {promoted},
tail AS (
  SELECT owner_id, max(score) AS score
  FROM (
    SELECT v.owner_id, {rounded} AS score, FALSE AS live
    FROM llmspell.vector_embeddings_{dim} v
    WHERE NOT v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id
    UNION ALL
    SELECT m.memory_id, NULL, TRUE FROM llmspell.memories m
    WHERE m.tenant_id = :tenant_id AND {alive}
  ) AS either
  GROUP BY owner_id HAVING bool_or(live) AND count(score) > 0 ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM tail
UNION ALL SELECT NULL::uuid, p.state FROM promoted p;

-- name: memories_union_{dim} -> rows
-- Nearest live memories by their best window: the exact tail and the approximate index; run it behind `scan_by_index`.
-- (SELECT :tenant_id) hides the value: a tenant is taken for an average one, and each memory is looked up by its key.
-- only: this database searches by itself
WITH {promoted},
{memories_tail},
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance
  FROM llmspell.vector_embeddings_{dim} v
  JOIN llmspell.memories m ON m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id
  WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND {alive}
  ORDER BY v.embedding OPERATOR(public.<=>) :query::public.vector LIMIT :candidates
),
{best_memories}
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, {state} FROM promoted p WHERE {set_back};

-- name: memories_half_{dim} -> rows
-- As the union, where the index holds half precision: its candidates are scored again in full.
-- (SELECT :tenant_id) hides the value: a tenant is taken for an average one, and each memory is looked up by its key.
-- only: this database searches by itself
WITH {promoted},
{memories_tail},
near AS (
  SELECT v.owner_id, v.embedding OPERATOR(public.<=>) :query::public.vector AS distance
  FROM llmspell.vector_embeddings_{dim} v
  JOIN llmspell.memories m ON m.tenant_id = (SELECT :tenant_id) AND m.memory_id = v.owner_id
  WHERE v.ann AND v.tenant_id = :tenant_id AND v.space_id = :space_id AND {alive}
  ORDER BY public.l2_normalize(v.embedding)::public.halfvec({dim})
    OPERATOR(public.<=>) public.l2_normalize(:query::public.vector)::public.halfvec({dim}) LIMIT :candidates
),
{best_memories}
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, {state} FROM promoted p WHERE {set_back};

-- name: memories_exact_{dim} -> rows
-- Nearest live memories by their best window, all of them compared, wherever they are.
-- Vectors and memories meet in one grouping, not in a join: of a tenant unknown to the planner a join may take n x n steps.
-- only: this database searches by itself
WITH {promoted},
best AS (
  SELECT owner_id, max(score) AS score
  FROM (
    SELECT v.owner_id, {rounded} AS score, FALSE AS live
    FROM llmspell.vector_embeddings_{dim} v
    WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id
    UNION ALL
    SELECT m.memory_id, NULL, TRUE FROM llmspell.memories m
    WHERE m.tenant_id = :tenant_id AND {alive}
  ) AS either
  GROUP BY owner_id HAVING bool_or(live) AND count(score) > 0 ORDER BY score DESC, owner_id LIMIT :limit
)
SELECT owner_id, score FROM best
UNION ALL SELECT NULL::uuid, p.state FROM promoted p;

-- name: promote_{dim} -> value
-- Move some vectors of a space into the approximate index, and count them in the same transaction; return how many moved.
-- only: this database searches by itself
WITH moved AS (
  UPDATE llmspell.vector_embeddings_{dim} SET ann = TRUE
  WHERE tenant_id = :tenant_id AND id = ANY(ARRAY(
    SELECT v.id FROM llmspell.vector_embeddings_{dim} v
    WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND NOT v.ann
    ORDER BY v.id LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING id
),
counted AS (
  UPDATE llmspell.embedding_spaces SET ann_vectors = ann_vectors + (SELECT count(*) FROM moved)
  WHERE tenant_id = :tenant_id AND space_id = :space_id AND EXISTS (SELECT FROM moved)
)
SELECT count(*) FROM moved;

-- name: lock_space -> value
-- Have promotions of a space wait until what follows is committed.
-- only: this database searches by itself
SELECT s.ann_vectors FROM llmspell.embedding_spaces s WHERE s.tenant_id = :tenant_id AND s.space_id = :space_id FOR UPDATE;

-- name: recount_{dim} -> count
-- Count the vectors of a space in the approximate index anew: those that were deleted since are not there any more.
-- only: this database searches by itself
UPDATE llmspell.embedding_spaces SET ann_vectors = (
  SELECT count(*) FROM llmspell.vector_embeddings_{dim} v WHERE v.tenant_id = :tenant_id AND v.space_id = :space_id AND v.ann)
WHERE tenant_id = :tenant_id AND space_id = :space_id;

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
