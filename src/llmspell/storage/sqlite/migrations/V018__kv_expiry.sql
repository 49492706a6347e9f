-- V018: keys that expire. An expired key is absent for every reader before it is deleted.

ALTER TABLE kv_store ADD COLUMN expires_at INTEGER;
CREATE INDEX idx_kv_store_expires ON kv_store (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
