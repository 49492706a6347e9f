-- V027: artifacts that are listed from an index alone, described anew under an expected revision, and read piece by piece.
--
-- version counts the contents along a line of parents; revision counts the changes of name, tags and metadata.
-- checksum is blake3 of a chunk's number (4 bytes, little-endian) and its data: a chunk is verified before it is served.

ALTER TABLE llmspell.artifacts ADD COLUMN revision integer NOT NULL DEFAULT 1 CHECK (revision > 0);
ALTER TABLE llmspell.artifact_chunks ADD COLUMN checksum bytea NOT NULL DEFAULT ''::bytea;
DROP INDEX llmspell.idx_artifacts_covering;
CREATE INDEX idx_artifacts_covering
    ON llmspell.artifacts (tenant_id, artifact_type, created_at DESC, artifact_id DESC) INCLUDE (name, size_bytes, session_id);
CREATE INDEX idx_artifacts_created ON llmspell.artifacts (tenant_id, created_at DESC, artifact_id DESC);
