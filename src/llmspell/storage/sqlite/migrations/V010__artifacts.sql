-- V010: artifacts and their content, addressed by blake3 and shared within a tenant.
--
-- Content below 1 MB is kept in the row, from 1 MB on in chunks, so that no read needs 100 MB at once.
-- size_bytes is what is stored, original_size_bytes what it was before compression.
-- Foreign keys hold only while the connection has foreign_keys on.

CREATE TABLE artifact_content (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    content_hash TEXT NOT NULL,
    storage_type TEXT NOT NULL,
    data BLOB,
    size_bytes INTEGER NOT NULL,
    is_compressed INTEGER NOT NULL DEFAULT 0 CHECK (is_compressed IN (0, 1)),
    original_size_bytes INTEGER CHECK (original_size_bytes >= 0),
    reference_count INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    last_accessed_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, content_hash),
    CONSTRAINT valid_storage_type CHECK (storage_type IN ('bytea', 'chunks')),
    CONSTRAINT storage_consistency CHECK (
        (storage_type <> 'bytea' OR (data IS NOT NULL AND length(data) < 1048576))
        AND (storage_type <> 'chunks' OR data IS NULL)
    ),
    CONSTRAINT valid_size CHECK (size_bytes BETWEEN 0 AND 104857600),
    CONSTRAINT valid_reference_count CHECK (reference_count >= 0)
) STRICT;
CREATE INDEX idx_artifact_content_orphaned ON artifact_content (tenant_id, content_hash) WHERE reference_count = 0;

CREATE TABLE artifact_chunks (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    content_hash TEXT NOT NULL,
    chunk_no INTEGER NOT NULL CHECK (chunk_no >= 0),
    data BLOB NOT NULL CHECK (length(data) BETWEEN 1 AND 1048576),
    PRIMARY KEY (tenant_id, content_hash, chunk_no),
    FOREIGN KEY (tenant_id, content_hash) REFERENCES artifact_content (tenant_id, content_hash) ON DELETE CASCADE
) STRICT;

-- artifact_id has the form session:sequence:hash. tags is a JSON array of strings.
CREATE TABLE artifacts (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    artifact_id TEXT NOT NULL,
    session_id BLOB NOT NULL CHECK (length(session_id) = 16),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    content_hash TEXT NOT NULL,
    metadata TEXT NOT NULL CHECK (json_valid(metadata)),
    name TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    created_at INTEGER NOT NULL,
    created_by TEXT,
    version INTEGER NOT NULL DEFAULT 1 CHECK (version > 0),
    parent_artifact_id TEXT,
    tags TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(tags)),
    stored_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, artifact_id),
    CONSTRAINT unique_artifact_sequence UNIQUE (tenant_id, session_id, sequence),
    FOREIGN KEY (tenant_id, content_hash) REFERENCES artifact_content (tenant_id, content_hash) ON DELETE RESTRICT,
    FOREIGN KEY (tenant_id, session_id) REFERENCES sessions (tenant_id, session_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX idx_artifacts_content ON artifacts (tenant_id, content_hash);
CREATE INDEX idx_artifacts_covering ON artifacts (tenant_id, artifact_type, created_at, name, size_bytes);

-- Content starts at 0 references and each artifact counts one; a session counts its artifacts. The counts are right
-- also when a session takes its artifacts with it.
CREATE TRIGGER artifacts_count_insert AFTER INSERT ON artifacts
BEGIN
    UPDATE artifact_content SET reference_count = reference_count + 1
    WHERE tenant_id = NEW.tenant_id AND content_hash = NEW.content_hash;
    UPDATE sessions SET artifact_count = artifact_count + 1
    WHERE tenant_id = NEW.tenant_id AND session_id = NEW.session_id;
END;
CREATE TRIGGER artifacts_count_delete AFTER DELETE ON artifacts
BEGIN
    UPDATE artifact_content SET reference_count = reference_count - 1
    WHERE tenant_id = OLD.tenant_id AND content_hash = OLD.content_hash;
    UPDATE sessions SET artifact_count = artifact_count - 1
    WHERE tenant_id = OLD.tenant_id AND session_id = OLD.session_id;
END;
CREATE TRIGGER artifacts_count_moves AFTER UPDATE OF tenant_id, content_hash, session_id ON artifacts
BEGIN
    UPDATE artifact_content SET reference_count = reference_count - 1
    WHERE tenant_id = OLD.tenant_id AND content_hash = OLD.content_hash;
    UPDATE sessions SET artifact_count = artifact_count - 1
    WHERE tenant_id = OLD.tenant_id AND session_id = OLD.session_id;
    UPDATE artifact_content SET reference_count = reference_count + 1
    WHERE tenant_id = NEW.tenant_id AND content_hash = NEW.content_hash;
    UPDATE sessions SET artifact_count = artifact_count + 1
    WHERE tenant_id = NEW.tenant_id AND session_id = NEW.session_id;
END;
