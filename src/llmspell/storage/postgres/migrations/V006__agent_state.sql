-- V006: the state of each agent. `checksum` is the SHA-256 of the canonical JSON, made and verified by the application,
-- since jsonb does not keep the order of keys.
--
-- Not built: GIN on state_data and expressions on ->'state'->>'execution_state' and ->'metadata'->>'name'; their
-- operators are not leakproof, so under row-level security no plan can use them.

CREATE TABLE llmspell.agent_states (
    state_id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    agent_id varchar(255) COLLATE "C" NOT NULL,
    agent_type varchar(100) COLLATE "C" NOT NULL,
    state_data jsonb NOT NULL,
    schema_version integer NOT NULL DEFAULT 1 CHECK (schema_version > 0),
    data_version integer NOT NULL DEFAULT 1 CHECK (data_version > 0),
    checksum varchar(64) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, state_id),
    CONSTRAINT unique_agent_state UNIQUE (tenant_id, agent_id)
);
CREATE INDEX idx_agent_states_type ON llmspell.agent_states (tenant_id, agent_type);
SELECT llmspell.apply_tenant_rls('llmspell.agent_states');
SELECT llmspell.keep_to_calendar('llmspell.agent_states');

-- A changed state always has the next data_version, whatever the statement says.
CREATE FUNCTION llmspell.bump_agent_data_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.data_version := OLD.data_version + 1;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION llmspell.bump_agent_data_version() FROM PUBLIC;
CREATE TRIGGER agent_states_data_version BEFORE UPDATE OF state_data ON llmspell.agent_states
    FOR EACH ROW WHEN (NEW.state_data IS DISTINCT FROM OLD.state_data)
    EXECUTE FUNCTION llmspell.bump_agent_data_version();
