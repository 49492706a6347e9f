-- V006: the state of each agent. `checksum` is the SHA-256 of the canonical JSON, made and verified by the application.

CREATE TABLE agent_states (
    state_id BLOB NOT NULL CHECK (length(state_id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    agent_id TEXT NOT NULL,
    agent_type TEXT NOT NULL,
    state_data TEXT NOT NULL CHECK (json_valid(state_data)),
    schema_version INTEGER NOT NULL DEFAULT 1 CHECK (schema_version > 0),
    data_version INTEGER NOT NULL DEFAULT 1 CHECK (data_version > 0),
    checksum TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, state_id),
    CONSTRAINT unique_agent_state UNIQUE (tenant_id, agent_id)
) STRICT;
CREATE INDEX idx_agent_states_type ON agent_states (tenant_id, agent_type);

-- A changed state always has the next data_version, whatever the statement says. RETURNING is answered before this
-- runs: an update that wants the version back says `data_version = data_version + 1` itself, which changes nothing.
CREATE TRIGGER agent_states_data_version AFTER UPDATE OF state_data ON agent_states
WHEN NEW.state_data IS NOT OLD.state_data
BEGIN
    UPDATE agent_states SET data_version = OLD.data_version + 1
    WHERE tenant_id = NEW.tenant_id AND state_id = NEW.state_id;
END;
