-- V027: artifacts that are listed from an index alone, described anew under an expected revision, and read piece by piece.
--
-- version counts the contents along a line of parents; revision counts the changes of name, tags and metadata.
-- checksum is blake3 of a chunk's number (4 bytes, little-endian) and its data: a chunk is verified before it is served.

ALTER TABLE artifacts ADD COLUMN revision INTEGER NOT NULL DEFAULT 1 CHECK (revision > 0);
ALTER TABLE artifact_chunks ADD COLUMN checksum BLOB NOT NULL DEFAULT x'';
DROP INDEX idx_artifacts_covering;
CREATE INDEX idx_artifacts_covering
    ON artifacts (tenant_id, artifact_type, created_at DESC, artifact_id DESC, name, size_bytes, session_id);
CREATE INDEX idx_artifacts_created ON artifacts (tenant_id, created_at DESC, artifact_id DESC);
-- Beside the data, a size is found only by walking over all of it.
CREATE INDEX idx_artifact_content_sizes ON artifact_content (tenant_id, content_hash, size_bytes, original_size_bytes);
