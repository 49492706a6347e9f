-- V014: secrets of model providers. encrypted_key is sealed by the application (AES-256-GCM, with tenant, table and row
-- as associated data). At most one key per service is active. Rotation, clean-up and statistics are queries of the
-- application here.

CREATE TABLE api_keys (
    key_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    service TEXT NOT NULL,
    encrypted_key BLOB NOT NULL,
    key_metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(key_metadata)),
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    expires_at INTEGER,
    is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    usage_count INTEGER NOT NULL DEFAULT 0 CHECK (usage_count >= 0),
    rotated_from TEXT,
    deactivated_at INTEGER,
    PRIMARY KEY (tenant_id, key_id)
) STRICT;
CREATE UNIQUE INDEX idx_api_keys_active ON api_keys (tenant_id, service) WHERE is_active;
CREATE INDEX idx_api_keys_service ON api_keys (tenant_id, service, created_at DESC);
CREATE INDEX idx_api_keys_expires ON api_keys (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
