-- V029: workflows and agents have a version that every save raises (`data_version` counts changes of the data), and states are listed in the order in which they came to be.
--
-- Pages are keyset pages over (created_at, id), which no later write moves. What ended long ago is found by an index of what
-- ended alone, in the order in which it is deleted; the one by status and instant has no reader left. That of agents by type
-- alone is a prefix of the new one.

ALTER TABLE llmspell.workflow_states ADD COLUMN version integer NOT NULL DEFAULT 1 CHECK (version > 0);
ALTER TABLE llmspell.agent_states ADD COLUMN version integer NOT NULL DEFAULT 1 CHECK (version > 0);
DROP INDEX llmspell.idx_workflow_states_status;
CREATE INDEX idx_workflow_states_ended ON llmspell.workflow_states (tenant_id, last_updated, workflow_id)
    WHERE status <> 'pending' AND status <> 'running';
CREATE INDEX idx_workflow_states_created ON llmspell.workflow_states (tenant_id, created_at, workflow_id);
CREATE INDEX idx_workflow_states_status_created ON llmspell.workflow_states (tenant_id, status, created_at, workflow_id);

DROP INDEX llmspell.idx_agent_states_type;
CREATE INDEX idx_agent_states_type ON llmspell.agent_states (tenant_id, agent_type, created_at, state_id);
CREATE INDEX idx_agent_states_created ON llmspell.agent_states (tenant_id, created_at, state_id);
