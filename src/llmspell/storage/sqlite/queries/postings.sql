-- name: add -> count
-- Index the terms of owners, given as records of term, owner, tf and length.
INSERT INTO text_postings (tenant_id, collection, term, owner_id, tf, length)
SELECT :tenant_id, :collection, value ->> 'term', unhex(replace(value ->> 'owner', '-', '')), value ->> 'tf', value ->> 'length'
FROM json_each(:rows);

-- name: remove -> count
-- Drop the terms of owners.
DELETE FROM text_postings INDEXED BY idx_text_postings_owner
WHERE tenant_id = :tenant_id AND collection = :collection AND owner_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: add_stats -> count
-- Note how many texts and terms came or went, as a row of its own: no two writers wait for each other.
INSERT INTO text_stats (tenant_id, collection, delta_id, documents, terms)
VALUES (:tenant_id, :collection, :delta_id, :documents, :terms);

-- name: stats -> row
-- Texts and terms of a collection.
SELECT coalesce(sum(documents), 0), coalesce(sum(terms), 0) FROM text_stats
WHERE tenant_id = :tenant_id AND collection = :collection;

-- name: deltas -> rows
-- Rows of statistics to fold into one.
SELECT delta_id, documents, terms FROM text_stats
WHERE tenant_id = :tenant_id AND collection = :collection
ORDER BY delta_id LIMIT :limit;

-- name: drop_deltas -> count
-- Remove rows of statistics that were folded.
DELETE FROM text_stats
WHERE tenant_id = :tenant_id AND collection = :collection AND delta_id IN (SELECT unhex(value) FROM json_each(:ids));

-- name: frequencies -> rows
-- In how many texts each term occurs.
SELECT term, count(*) FROM text_postings
WHERE tenant_id = :tenant_id AND collection = :collection AND term IN (SELECT value FROM json_each(:terms))
GROUP BY term;

-- name: rank_memories -> rows
-- BM25 over live memories that match: those with a generating term, scored on all terms, rounded as the contract says.
-- CROSS JOIN keeps the order: without statistics the planner would scan all postings of the tenant.
WITH q AS MATERIALIZED (SELECT value ->> 'term' AS term, value ->> 'idf' AS idf, value ->> 'generates' AS generates FROM json_each(:terms)),
hits AS (
  SELECT p.owner_id, q.idf * p.tf * 2.5 / (p.tf + 1.5 * (0.25 + 0.75 * p.length / :average)) AS weight, q.generates AS generates
  FROM q CROSS JOIN text_postings p
    ON p.tenant_id = :tenant_id AND p.collection = :collection AND p.term = q.term
),
found AS MATERIALIZED (
  SELECT owner_id, floor(sum(weight) * 1000000 + 0.5) / 1000000 AS score
  FROM hits GROUP BY owner_id HAVING max(generates)
)
SELECT f.owner_id, f.score
FROM found f CROSS JOIN memories m ON m.tenant_id = :tenant_id AND m.memory_id = f.owner_id
WHERE (m.expires_at IS NULL OR m.expires_at > :now) AND {filters}
ORDER BY f.score DESC, f.owner_id LIMIT :limit;
