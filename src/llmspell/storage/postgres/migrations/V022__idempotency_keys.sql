-- V022: what was done under which idempotency key, with its result, in the transaction that did it.

CREATE TABLE llmspell.idempotency_keys (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    idempotency_key varchar(255) COLLATE "C" NOT NULL,
    operation varchar(255) COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    result bytea,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, idempotency_key)
);
CREATE INDEX idx_idempotency_keys_expires ON llmspell.idempotency_keys (tenant_id, expires_at, idempotency_key);
SELECT llmspell.apply_tenant_rls('llmspell.idempotency_keys');
SELECT llmspell.keep_to_calendar('llmspell.idempotency_keys');
