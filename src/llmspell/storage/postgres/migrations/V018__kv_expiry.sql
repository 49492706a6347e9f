-- V018: keys that expire. An expired key is absent for every reader before it is deleted.

ALTER TABLE llmspell.kv_store ADD COLUMN expires_at timestamptz;
SELECT llmspell.keep_to_calendar('llmspell.kv_store');
CREATE INDEX idx_kv_store_expires ON llmspell.kv_store (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
