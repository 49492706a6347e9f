-- V023: credentials to us. A key is kept as HMAC-SHA-256 under a pepper: of a master key that no store holds (pepper is its id),
-- or of the store itself ('store', access_pepper below), which protects nothing from somebody who reads this whole database.

CREATE TABLE llmspell.access_keys (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    key_id uuid NOT NULL,
    name varchar(500) NOT NULL,
    principal varchar(500) NOT NULL,
    scopes jsonb NOT NULL,
    key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    pepper varchar(32) COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    revoked_reason text,
    rotated_from uuid,
    rotated_to uuid,
    PRIMARY KEY (tenant_id, key_id)
);
CREATE INDEX idx_access_keys_created ON llmspell.access_keys (tenant_id, created_at DESC, key_id DESC);
CREATE INDEX idx_access_keys_expires ON llmspell.access_keys (tenant_id, expires_at)
    WHERE revoked_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX idx_access_keys_revoked ON llmspell.access_keys (tenant_id, revoked_at) WHERE revoked_at IS NOT NULL;
SELECT llmspell.apply_tenant_rls('llmspell.access_keys');
SELECT llmspell.keep_to_calendar('llmspell.access_keys');

-- 32 bytes of three random UUIDs (366 random bits), as the other values of the store are made.
INSERT INTO llmspell.store_meta (name, value)
SELECT 'access_pepper', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
