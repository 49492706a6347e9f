-- V035: how many vectors of a space are in the approximate index, for the choice of the way of a search: the serving role cannot
-- read the server's statistics, and counting a thousand rows in each search took longer than the scan of the index.
--
-- A promotion adds what it moves in the transaction that moves it, and counts anew at its end. Deletes leave the number as it is:
-- writers would wait for each other on the row, and too high a number costs a search time and no hit.

ALTER TABLE llmspell.embedding_spaces ADD COLUMN ann_vectors bigint NOT NULL DEFAULT 0 CHECK (ann_vectors >= 0);

-- The migrating role is subject to FORCE and would find no row, so it is lifted for the count, inside this transaction.
ALTER TABLE llmspell.embedding_spaces NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_384 NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_768 NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_1536 NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_3072 NO FORCE ROW LEVEL SECURITY;
UPDATE llmspell.embedding_spaces AS s SET ann_vectors = CASE s.dimension
    WHEN 384 THEN (SELECT count(*) FROM llmspell.vector_embeddings_384 AS v
        WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND v.ann)
    WHEN 768 THEN (SELECT count(*) FROM llmspell.vector_embeddings_768 AS v
        WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND v.ann)
    WHEN 1536 THEN (SELECT count(*) FROM llmspell.vector_embeddings_1536 AS v
        WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND v.ann)
    ELSE (SELECT count(*) FROM llmspell.vector_embeddings_3072 AS v
        WHERE v.tenant_id = s.tenant_id AND v.space_id = s.space_id AND v.ann) END
WHERE s.ann_promoted;
ALTER TABLE llmspell.embedding_spaces FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_384 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_768 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_1536 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_3072 FORCE ROW LEVEL SECURITY;
