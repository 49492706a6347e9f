-- V003: one table per embedding dimension, as the other database has them. V017 adds the spaces and the owners.

CREATE TABLE vector_embeddings_384 (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 1536),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX idx_vector_384_scope ON vector_embeddings_384 (tenant_id, scope);
CREATE INDEX idx_vector_384_created ON vector_embeddings_384 (tenant_id, created_at);

CREATE TABLE vector_embeddings_768 (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 3072),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX idx_vector_768_scope ON vector_embeddings_768 (tenant_id, scope);
CREATE INDEX idx_vector_768_created ON vector_embeddings_768 (tenant_id, created_at);

CREATE TABLE vector_embeddings_1536 (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 6144),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX idx_vector_1536_scope ON vector_embeddings_1536 (tenant_id, scope);
CREATE INDEX idx_vector_1536_created ON vector_embeddings_1536 (tenant_id, created_at);

CREATE TABLE vector_embeddings_3072 (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 12288),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX idx_vector_3072_scope ON vector_embeddings_3072 (tenant_id, scope);
CREATE INDEX idx_vector_3072_created ON vector_embeddings_3072 (tenant_id, created_at);
