-- name: add -> count
-- Index the terms of owners, given as records of term, owner, tf and length.
INSERT INTO llmspell.text_postings (tenant_id, collection, term, owner_id, tf, length)
SELECT :tenant_id, :collection, r.term, r.owner, r.tf, r.length
FROM jsonb_to_recordset(:rows::jsonb) AS r(term text, owner uuid, tf integer, length integer);

-- name: remove -> count
-- Drop the terms of owners.
DELETE FROM llmspell.text_postings
WHERE tenant_id = (SELECT :tenant_id) AND collection = :collection AND owner_id = ANY(:ids::uuid[]);

-- name: add_stats -> count
-- Note how many texts and terms came or went, as a row of its own: no two writers wait for each other.
INSERT INTO llmspell.text_stats (tenant_id, collection, delta_id, documents, terms)
VALUES (:tenant_id, :collection, :delta_id, :documents, :terms);

-- name: stats -> row
-- Texts and terms of a collection.
SELECT coalesce(sum(documents), 0), coalesce(sum(terms), 0) FROM llmspell.text_stats
WHERE tenant_id = :tenant_id AND collection = :collection;

-- name: deltas -> rows
-- Rows of statistics to fold into one, but for those that another writer folds.
SELECT delta_id, documents, terms FROM llmspell.text_stats
WHERE tenant_id = :tenant_id AND collection = :collection
ORDER BY delta_id LIMIT :limit FOR UPDATE SKIP LOCKED;

-- name: drop_deltas -> count
-- Remove rows of statistics that were folded.
DELETE FROM llmspell.text_stats
WHERE tenant_id = :tenant_id AND collection = :collection AND delta_id = ANY(:ids::uuid[]);

-- name: frequencies -> rows
-- In how many texts each term occurs.
SELECT term, count(*) FROM llmspell.text_postings
WHERE tenant_id = (SELECT :tenant_id) AND collection = :collection AND term = ANY(:terms::text[])
GROUP BY term;

-- name: rank_memories -> rows
-- BM25 over live memories that match: those with a generating term, scored on all terms, rounded as the contract says.
-- LATERAL … OFFSET 0 keeps the order: a look-up per term in the index alone, and a look-up per memory that was found.
-- (SELECT :tenant_id) hides the value: a planner that finds it in no statistics would expect one row, and scan the tenant for each.
WITH q AS (
  SELECT r.term, r.idf, r.generates
  FROM jsonb_to_recordset(:terms::jsonb) AS r(term text, idf double precision, generates boolean)
),
hits AS (
  SELECT p.owner_id, q.generates,
    q.idf * p.tf * 2.5 / (p.tf + 1.5 * (0.25 + 0.75 * p.length / CAST(:average AS double precision))) AS weight
  FROM q CROSS JOIN LATERAL (
    SELECT o.owner_id, o.tf, o.length FROM llmspell.text_postings o
    WHERE o.tenant_id = (SELECT :tenant_id) AND o.collection = :collection AND o.term = q.term OFFSET 0
  ) p
),
found AS MATERIALIZED (
  SELECT owner_id, floor(sum(weight) * 1000000 + 0.5) / 1000000 AS score
  FROM hits GROUP BY owner_id HAVING bool_or(generates)
)
SELECT f.owner_id, f.score
FROM found f CROSS JOIN LATERAL (
  SELECT 1 FROM llmspell.memories m
  WHERE m.tenant_id = (SELECT :tenant_id) AND m.memory_id = f.owner_id
    AND (m.expires_at IS NULL OR m.expires_at > :now) AND {filters} OFFSET 0
) m
ORDER BY f.score DESC, f.owner_id LIMIT :limit;
