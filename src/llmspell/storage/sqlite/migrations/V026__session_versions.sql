-- V026: sessions that change under an expected version, number their artifacts, and are listed in the order of time.
--
-- artifact_sequence is the number that the next artifact gets. It only grows: the id of a deleted artifact is never given
-- again. A session of status 'expired' has an expires_at that has passed.

ALTER TABLE sessions ADD COLUMN version INTEGER NOT NULL DEFAULT 1 CHECK (version > 0);
ALTER TABLE sessions ADD COLUMN artifact_sequence INTEGER NOT NULL DEFAULT 0 CHECK (artifact_sequence >= 0);
CREATE INDEX idx_sessions_created ON sessions (tenant_id, created_at DESC, session_id DESC);
DROP INDEX idx_sessions_tenant_status;
CREATE INDEX idx_sessions_tenant_status ON sessions (tenant_id, status, created_at DESC, session_id DESC);
CREATE INDEX idx_sessions_unmarked ON sessions (tenant_id, expires_at, session_id)
    WHERE expires_at IS NOT NULL AND status <> 'expired';
