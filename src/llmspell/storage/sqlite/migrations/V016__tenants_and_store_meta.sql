-- V016: the register of tenants, the clock of each, and what the store knows of itself.

CREATE TABLE tenants (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    name TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'active',
    isolation_level TEXT NOT NULL DEFAULT 'strict',
    quotas TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(quotas)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    CONSTRAINT valid_tenant_status CHECK (status IN ('active', 'suspended', 'deleted'))
) STRICT, WITHOUT ROWID;

-- The last recorded instant of a tenant: recorded instants are greatest(now, last + 1 µs), so that they rise in commit
-- order whatever the clock does.
CREATE TABLE tenant_clocks (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    last_recorded INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Facts of the store, not of a tenant. cursor_key authenticates page cursors.
CREATE TABLE store_meta (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO store_meta (name, value) VALUES ('store_id', randomblob(32)), ('cursor_key', randomblob(32));
