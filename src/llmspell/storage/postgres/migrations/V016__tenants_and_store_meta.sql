-- V016: the register of tenants, the clock of each, and what the store knows of itself.

CREATE TABLE llmspell.tenants (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    name varchar(500) NOT NULL,
    status varchar(20) COLLATE "C" NOT NULL DEFAULT 'active',
    isolation_level varchar(20) COLLATE "C" NOT NULL DEFAULT 'strict',
    quotas jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT valid_tenant_status CHECK (status IN ('active', 'suspended', 'deleted'))
);
SELECT llmspell.apply_tenant_rls('llmspell.tenants');
SELECT llmspell.keep_to_calendar('llmspell.tenants');
-- A tenant may register itself and read itself; only the operator changes one.
REVOKE UPDATE, DELETE ON llmspell.tenants FROM llmspell_app;

-- The last recorded instant of a tenant. A writer of the graph locks the row and takes greatest(now, last + 1 µs), so
-- that recorded instants rise in commit order and a question "as known at" never misses a late commit.
CREATE TABLE llmspell.tenant_clocks (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    last_recorded timestamptz NOT NULL
);
SELECT llmspell.apply_tenant_rls('llmspell.tenant_clocks');
SELECT llmspell.keep_to_calendar('llmspell.tenant_clocks');

-- Facts of the store, not of a tenant: read by everybody, written by migrations.
CREATE TABLE llmspell.store_meta (
    name varchar(255) COLLATE "C" NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);
REVOKE INSERT, UPDATE, DELETE ON llmspell.store_meta FROM llmspell_app, llmspell_operator;
-- 32 bytes each from three random UUIDs (366 random bits), hashed. cursor_key authenticates page cursors.
INSERT INTO llmspell.store_meta (name, value)
SELECT n.name, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
FROM (VALUES ('store_id'), ('cursor_key')) AS n (name);
