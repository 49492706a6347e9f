-- V009: session snapshots with expiry. last_accessed_at is refreshed at most once a minute (by the application).

CREATE TABLE sessions (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    session_id BLOB NOT NULL CHECK (length(session_id) = 16),
    session_data TEXT NOT NULL CHECK (json_valid(session_data)),
    status TEXT NOT NULL DEFAULT 'active',
    created_at INTEGER NOT NULL,
    last_accessed_at INTEGER NOT NULL,
    expires_at INTEGER,
    artifact_count INTEGER NOT NULL DEFAULT 0 CHECK (artifact_count >= 0),
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, session_id),
    CONSTRAINT valid_session_status CHECK (status IN ('active', 'archived', 'expired'))
) STRICT;
CREATE INDEX idx_sessions_tenant_status ON sessions (tenant_id, status);
CREATE INDEX idx_sessions_expires ON sessions (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idx_sessions_active ON sessions (tenant_id, created_at DESC) WHERE status = 'active';
