-- V008: the life cycle of workflow executions.

CREATE TABLE llmspell.workflow_states (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    workflow_id varchar(255) COLLATE "C" NOT NULL,
    workflow_name varchar(500) COLLATE "C",
    state_data jsonb NOT NULL,
    current_step integer NOT NULL DEFAULT 0 CHECK (current_step >= 0),
    status varchar(20) COLLATE "C" NOT NULL DEFAULT 'pending',
    started_at timestamptz,
    completed_at timestamptz,
    last_updated timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, workflow_id),
    CONSTRAINT valid_workflow_status CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled'))
);
CREATE INDEX idx_workflow_states_status ON llmspell.workflow_states (tenant_id, status, last_updated);
SELECT llmspell.apply_tenant_rls('llmspell.workflow_states');
SELECT llmspell.keep_to_calendar('llmspell.workflow_states');

-- Starting and ending are stamped with the row's own last_updated: the application's clock, not the server's.
-- An instant that the statement gives is kept.
CREATE FUNCTION llmspell.stamp_workflow_life_cycle() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.status = 'running' AND OLD.status = 'pending' THEN
        NEW.started_at := coalesce(NEW.started_at, NEW.last_updated);
    ELSIF NEW.status IN ('completed', 'failed', 'cancelled') THEN
        NEW.completed_at := coalesce(NEW.completed_at, NEW.last_updated);
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION llmspell.stamp_workflow_life_cycle() FROM PUBLIC;
CREATE TRIGGER workflow_states_life_cycle BEFORE UPDATE OF status ON llmspell.workflow_states
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status)
    EXECUTE FUNCTION llmspell.stamp_workflow_life_cycle();
