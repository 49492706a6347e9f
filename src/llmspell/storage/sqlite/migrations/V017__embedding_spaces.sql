-- V017: embedding spaces. A vector belongs to a space (one model, one dimension), an owner and a part of it, so that an
-- owner may have several windows and a store several generations. A free vector is its own owner, in the
-- space 'free-<dimension>'.
--
-- seq is the value of the space's change_seq at the last change of the row: caches in process catch up from it.
-- ann is kept for parity; nearest neighbours are searched in process here.
-- A NOT NULL column without a default cannot be added in place: the tables are made anew and filled.

CREATE TABLE embedding_spaces (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    space_id TEXT NOT NULL,
    model TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'active',
    ann_promoted INTEGER NOT NULL DEFAULT 0 CHECK (ann_promoted IN (0, 1)),
    change_seq INTEGER NOT NULL DEFAULT 0 CHECK (change_seq >= 0),
    deleted_seq INTEGER NOT NULL DEFAULT 0 CHECK (deleted_seq >= 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, space_id),
    CONSTRAINT space_id_fits_its_index CHECK (space_id <> '' AND length(CAST(space_id AS BLOB)) <= 128),
    CONSTRAINT valid_space_dimension CHECK (dimension IN (384, 768, 1536, 3072)),
    CONSTRAINT valid_space_state CHECK (state IN ('active', 'building', 'retired'))
) STRICT, WITHOUT ROWID;

CREATE TABLE vector_embeddings_384_owned (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 1536),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    space_id TEXT NOT NULL DEFAULT 'free-384',
    owner_id BLOB NOT NULL CHECK (length(owner_id) = 16),
    part_no INTEGER NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ann INTEGER NOT NULL DEFAULT 0 CHECK (ann IN (0, 1)),
    seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT unique_vector_384_part UNIQUE (tenant_id, space_id, owner_id, part_no)
) STRICT;
INSERT INTO vector_embeddings_384_owned (id, tenant_id, scope, embedding, metadata, created_at, updated_at, owner_id)
SELECT id, tenant_id, scope, embedding, metadata, created_at, updated_at, id FROM vector_embeddings_384;
DROP TABLE vector_embeddings_384;
ALTER TABLE vector_embeddings_384_owned RENAME TO vector_embeddings_384;
CREATE INDEX idx_vector_384_scope ON vector_embeddings_384 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_384_created ON vector_embeddings_384 (tenant_id, created_at);
CREATE INDEX idx_vector_384_seq ON vector_embeddings_384 (tenant_id, space_id, seq);

CREATE TABLE vector_embeddings_768_owned (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 3072),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    space_id TEXT NOT NULL DEFAULT 'free-768',
    owner_id BLOB NOT NULL CHECK (length(owner_id) = 16),
    part_no INTEGER NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ann INTEGER NOT NULL DEFAULT 0 CHECK (ann IN (0, 1)),
    seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT unique_vector_768_part UNIQUE (tenant_id, space_id, owner_id, part_no)
) STRICT;
INSERT INTO vector_embeddings_768_owned (id, tenant_id, scope, embedding, metadata, created_at, updated_at, owner_id)
SELECT id, tenant_id, scope, embedding, metadata, created_at, updated_at, id FROM vector_embeddings_768;
DROP TABLE vector_embeddings_768;
ALTER TABLE vector_embeddings_768_owned RENAME TO vector_embeddings_768;
CREATE INDEX idx_vector_768_scope ON vector_embeddings_768 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_768_created ON vector_embeddings_768 (tenant_id, created_at);
CREATE INDEX idx_vector_768_seq ON vector_embeddings_768 (tenant_id, space_id, seq);

CREATE TABLE vector_embeddings_1536_owned (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 6144),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    space_id TEXT NOT NULL DEFAULT 'free-1536',
    owner_id BLOB NOT NULL CHECK (length(owner_id) = 16),
    part_no INTEGER NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ann INTEGER NOT NULL DEFAULT 0 CHECK (ann IN (0, 1)),
    seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT unique_vector_1536_part UNIQUE (tenant_id, space_id, owner_id, part_no)
) STRICT;
INSERT INTO vector_embeddings_1536_owned (id, tenant_id, scope, embedding, metadata, created_at, updated_at, owner_id)
SELECT id, tenant_id, scope, embedding, metadata, created_at, updated_at, id FROM vector_embeddings_1536;
DROP TABLE vector_embeddings_1536;
ALTER TABLE vector_embeddings_1536_owned RENAME TO vector_embeddings_1536;
CREATE INDEX idx_vector_1536_scope ON vector_embeddings_1536 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_1536_created ON vector_embeddings_1536 (tenant_id, created_at);
CREATE INDEX idx_vector_1536_seq ON vector_embeddings_1536 (tenant_id, space_id, seq);

CREATE TABLE vector_embeddings_3072_owned (
    id BLOB NOT NULL CHECK (length(id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (length(embedding) = 12288),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    space_id TEXT NOT NULL DEFAULT 'free-3072',
    owner_id BLOB NOT NULL CHECK (length(owner_id) = 16),
    part_no INTEGER NOT NULL DEFAULT 0 CHECK (part_no >= 0),
    ann INTEGER NOT NULL DEFAULT 0 CHECK (ann IN (0, 1)),
    seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT unique_vector_3072_part UNIQUE (tenant_id, space_id, owner_id, part_no)
) STRICT;
INSERT INTO vector_embeddings_3072_owned (id, tenant_id, scope, embedding, metadata, created_at, updated_at, owner_id)
SELECT id, tenant_id, scope, embedding, metadata, created_at, updated_at, id FROM vector_embeddings_3072;
DROP TABLE vector_embeddings_3072;
ALTER TABLE vector_embeddings_3072_owned RENAME TO vector_embeddings_3072;
CREATE INDEX idx_vector_3072_scope ON vector_embeddings_3072 (tenant_id, space_id, scope);
CREATE INDEX idx_vector_3072_created ON vector_embeddings_3072 (tenant_id, created_at);
CREATE INDEX idx_vector_3072_seq ON vector_embeddings_3072 (tenant_id, space_id, seq);
