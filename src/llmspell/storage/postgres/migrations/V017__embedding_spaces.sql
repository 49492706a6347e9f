-- V017: embedding spaces. A vector belongs to a space (one model, one dimension), an owner and a part of it, so that an
-- owner may have several windows and a store several generations. A free vector is its own owner, in the
-- space 'free-<dimension>'.
--
-- ann = false: found by exact search through the partial btree, so that an insert costs no HNSW maintenance (2-18 ms).
-- A job promotes large spaces into the partial HNSW index; a search is the union of both.
-- HNSW parameters: 384 m 16 / ef 64, 768 16/128, 1536 24/256; 3072 goes through halfvec, as vector ends at 2,000. It is
-- brought to length 1 first: half precision rounds components below 6e-8 to zero, and knows none above 65,504.
-- seq is the value of the space's change_seq at the last change of the row: caches in process catch up from it.

CREATE TABLE llmspell.embedding_spaces (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    space_id text COLLATE "C" NOT NULL,
    model varchar(500) COLLATE "C" NOT NULL,
    dimension integer NOT NULL,
    state varchar(20) COLLATE "C" NOT NULL DEFAULT 'active',
    ann_promoted boolean NOT NULL DEFAULT false,
    change_seq bigint NOT NULL DEFAULT 0 CHECK (change_seq >= 0),
    deleted_seq bigint NOT NULL DEFAULT 0 CHECK (deleted_seq >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, space_id),
    CONSTRAINT space_id_fits_its_index CHECK (space_id <> '' AND octet_length(space_id) <= 128),
    CONSTRAINT valid_space_dimension CHECK (dimension IN (384, 768, 1536, 3072)),
    CONSTRAINT valid_space_state CHECK (state IN ('active', 'building', 'retired'))
);
SELECT llmspell.apply_tenant_rls('llmspell.embedding_spaces');
SELECT llmspell.keep_to_calendar('llmspell.embedding_spaces');

-- Existing rows become free vectors. The migrating role is subject to FORCE and would find none of them, so FORCE is
-- lifted for the update, inside this transaction and under the exclusive lock that adding columns takes.

ALTER TABLE llmspell.vector_embeddings_384
    ADD COLUMN space_id text COLLATE "C" NOT NULL DEFAULT 'free-384',
    ADD COLUMN owner_id uuid,
    ADD COLUMN part_no integer NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ADD COLUMN ann boolean NOT NULL DEFAULT false,
    ADD COLUMN seq bigint NOT NULL DEFAULT 0;
ALTER TABLE llmspell.vector_embeddings_384 NO FORCE ROW LEVEL SECURITY;
UPDATE llmspell.vector_embeddings_384 SET owner_id = id;
ALTER TABLE llmspell.vector_embeddings_384 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_384
    ALTER COLUMN owner_id SET NOT NULL,
    ADD CONSTRAINT unique_vector_384_part UNIQUE (tenant_id, space_id, owner_id, part_no);
DROP INDEX llmspell.idx_vector_384_scope;
CREATE INDEX idx_vector_384_scope ON llmspell.vector_embeddings_384 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_384_exact ON llmspell.vector_embeddings_384 (tenant_id, space_id) WHERE NOT ann;
CREATE INDEX idx_vector_384_hnsw ON llmspell.vector_embeddings_384
    USING hnsw (embedding public.vector_cosine_ops) WITH (m = 16, ef_construction = 64) WHERE ann;

ALTER TABLE llmspell.vector_embeddings_768
    ADD COLUMN space_id text COLLATE "C" NOT NULL DEFAULT 'free-768',
    ADD COLUMN owner_id uuid,
    ADD COLUMN part_no integer NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ADD COLUMN ann boolean NOT NULL DEFAULT false,
    ADD COLUMN seq bigint NOT NULL DEFAULT 0;
ALTER TABLE llmspell.vector_embeddings_768 NO FORCE ROW LEVEL SECURITY;
UPDATE llmspell.vector_embeddings_768 SET owner_id = id;
ALTER TABLE llmspell.vector_embeddings_768 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_768
    ALTER COLUMN owner_id SET NOT NULL,
    ADD CONSTRAINT unique_vector_768_part UNIQUE (tenant_id, space_id, owner_id, part_no);
DROP INDEX llmspell.idx_vector_768_scope;
CREATE INDEX idx_vector_768_scope ON llmspell.vector_embeddings_768 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_768_exact ON llmspell.vector_embeddings_768 (tenant_id, space_id) WHERE NOT ann;
CREATE INDEX idx_vector_768_hnsw ON llmspell.vector_embeddings_768
    USING hnsw (embedding public.vector_cosine_ops) WITH (m = 16, ef_construction = 128) WHERE ann;

ALTER TABLE llmspell.vector_embeddings_1536
    ADD COLUMN space_id text COLLATE "C" NOT NULL DEFAULT 'free-1536',
    ADD COLUMN owner_id uuid,
    ADD COLUMN part_no integer NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ADD COLUMN ann boolean NOT NULL DEFAULT false,
    ADD COLUMN seq bigint NOT NULL DEFAULT 0;
ALTER TABLE llmspell.vector_embeddings_1536 NO FORCE ROW LEVEL SECURITY;
UPDATE llmspell.vector_embeddings_1536 SET owner_id = id;
ALTER TABLE llmspell.vector_embeddings_1536 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_1536
    ALTER COLUMN owner_id SET NOT NULL,
    ADD CONSTRAINT unique_vector_1536_part UNIQUE (tenant_id, space_id, owner_id, part_no);
DROP INDEX llmspell.idx_vector_1536_scope;
CREATE INDEX idx_vector_1536_scope ON llmspell.vector_embeddings_1536 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_1536_exact ON llmspell.vector_embeddings_1536 (tenant_id, space_id) WHERE NOT ann;
CREATE INDEX idx_vector_1536_hnsw ON llmspell.vector_embeddings_1536
    USING hnsw (embedding public.vector_cosine_ops) WITH (m = 24, ef_construction = 256) WHERE ann;

ALTER TABLE llmspell.vector_embeddings_3072
    ADD COLUMN space_id text COLLATE "C" NOT NULL DEFAULT 'free-3072',
    ADD COLUMN owner_id uuid,
    ADD COLUMN part_no integer NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ADD COLUMN ann boolean NOT NULL DEFAULT false,
    ADD COLUMN seq bigint NOT NULL DEFAULT 0;
ALTER TABLE llmspell.vector_embeddings_3072 NO FORCE ROW LEVEL SECURITY;
UPDATE llmspell.vector_embeddings_3072 SET owner_id = id;
ALTER TABLE llmspell.vector_embeddings_3072 FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.vector_embeddings_3072
    ALTER COLUMN owner_id SET NOT NULL,
    ADD CONSTRAINT unique_vector_3072_part UNIQUE (tenant_id, space_id, owner_id, part_no);
DROP INDEX llmspell.idx_vector_3072_scope;
CREATE INDEX idx_vector_3072_scope ON llmspell.vector_embeddings_3072 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_3072_exact ON llmspell.vector_embeddings_3072 (tenant_id, space_id) WHERE NOT ann;
CREATE INDEX idx_vector_3072_hnsw ON llmspell.vector_embeddings_3072
    USING hnsw ((public.l2_normalize(embedding)::public.halfvec(3072)) public.halfvec_cosine_ops)
    WITH (m = 24, ef_construction = 256) WHERE ann;
