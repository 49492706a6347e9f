-- V008: the life cycle of workflow executions.

CREATE TABLE workflow_states (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    workflow_id TEXT NOT NULL,
    workflow_name TEXT,
    state_data TEXT NOT NULL CHECK (json_valid(state_data)),
    current_step INTEGER NOT NULL DEFAULT 0 CHECK (current_step >= 0),
    status TEXT NOT NULL DEFAULT 'pending',
    started_at INTEGER,
    completed_at INTEGER,
    last_updated INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, workflow_id),
    CONSTRAINT valid_workflow_status CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled'))
) STRICT;
CREATE INDEX idx_workflow_states_status ON workflow_states (tenant_id, status, last_updated);

-- Starting and ending are stamped with the row's own last_updated: the application's clock.
-- An instant that the statement gives is kept. RETURNING is answered before these run.
CREATE TRIGGER workflow_states_started AFTER UPDATE OF status ON workflow_states
WHEN NEW.status = 'running' AND OLD.status = 'pending'
BEGIN
    UPDATE workflow_states SET started_at = coalesce(started_at, last_updated)
    WHERE tenant_id = NEW.tenant_id AND workflow_id = NEW.workflow_id;
END;
CREATE TRIGGER workflow_states_completed AFTER UPDATE OF status ON workflow_states
WHEN NEW.status IS NOT OLD.status AND NEW.status IN ('completed', 'failed', 'cancelled')
BEGIN
    UPDATE workflow_states SET completed_at = coalesce(completed_at, last_updated)
    WHERE tenant_id = NEW.tenant_id AND workflow_id = NEW.workflow_id;
END;
