-- V009: session snapshots with expiry. last_accessed_at is refreshed at most once a minute (by the application).
--
-- Not built: GIN on session_data; its operators are not leakproof, so under row-level security no plan can use it.

CREATE TABLE llmspell.sessions (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    session_id uuid NOT NULL,
    session_data jsonb NOT NULL,
    status varchar(20) COLLATE "C" NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_accessed_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    artifact_count integer NOT NULL DEFAULT 0 CHECK (artifact_count >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id),
    CONSTRAINT valid_session_status CHECK (status IN ('active', 'archived', 'expired'))
);
CREATE INDEX idx_sessions_tenant_status ON llmspell.sessions (tenant_id, status);
CREATE INDEX idx_sessions_expires ON llmspell.sessions (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idx_sessions_active ON llmspell.sessions (tenant_id, created_at DESC) WHERE status = 'active';
SELECT llmspell.apply_tenant_rls('llmspell.sessions');
SELECT llmspell.keep_to_calendar('llmspell.sessions');
