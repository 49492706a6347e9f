-- V022: what was done under which idempotency key, with its result, in the transaction that did it.

CREATE TABLE idempotency_keys (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    idempotency_key TEXT NOT NULL,
    operation TEXT NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    result BLOB,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, idempotency_key)
) STRICT;
CREATE INDEX idx_idempotency_keys_expires ON idempotency_keys (tenant_id, expires_at, idempotency_key);
