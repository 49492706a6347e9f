-- V023: credentials to us. A key is kept as HMAC-SHA-256 under a pepper: of a master key that no store holds (pepper is its id),
-- or of the store itself ('store', access_pepper below), which protects nothing from somebody who reads this whole database.

CREATE TABLE access_keys (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    key_id BLOB NOT NULL CHECK (length(key_id) = 16),
    name TEXT NOT NULL,
    principal TEXT NOT NULL,
    scopes TEXT NOT NULL CHECK (json_valid(scopes)),
    key_hash BLOB NOT NULL CHECK (length(key_hash) = 32),
    pepper TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER,
    revoked_reason TEXT,
    rotated_from BLOB,
    rotated_to BLOB,
    PRIMARY KEY (tenant_id, key_id)
) STRICT;
CREATE INDEX idx_access_keys_created ON access_keys (tenant_id, created_at DESC, key_id DESC);
CREATE INDEX idx_access_keys_expires ON access_keys (tenant_id, expires_at) WHERE revoked_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX idx_access_keys_revoked ON access_keys (tenant_id, revoked_at) WHERE revoked_at IS NOT NULL;

INSERT INTO store_meta (name, value) VALUES ('access_pepper', randomblob(32));
