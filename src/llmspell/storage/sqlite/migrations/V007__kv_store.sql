-- V007: keys and bytes, the unified key-value interface. New components have tables of their own.
--
-- Values may be large, so this is a rowid table: keys are listed from the index alone.

CREATE TABLE kv_store (
    kv_id BLOB NOT NULL DEFAULT (randomblob(16)) CHECK (length(kv_id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    metadata TEXT CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) STRICT;
