-- fragment: summary
workflow_id, workflow_name, current_step, status, version, created_at, last_updated, started_at, completed_at;

-- name: create -> row
-- Keep a new workflow, pending.
INSERT INTO workflow_states (tenant_id, workflow_id, workflow_name, state_data, current_step, last_updated, created_at)
VALUES (:tenant_id, :workflow_id, :name, :data, :current_step, :now, :now)
ON CONFLICT (tenant_id, workflow_id) DO NOTHING
RETURNING {summary};

-- name: save -> row
-- Replace the data of a workflow, or keep a new one, pending.
INSERT INTO workflow_states AS w (tenant_id, workflow_id, workflow_name, state_data, current_step, last_updated, created_at)
VALUES (:tenant_id, :workflow_id, :name, :data, coalesce(:current_step, 0), :now, :now)
ON CONFLICT (tenant_id, workflow_id) DO UPDATE
SET state_data = excluded.state_data, workflow_name = coalesce(excluded.workflow_name, w.workflow_name),
    current_step = coalesce(:current_step, w.current_step), last_updated = excluded.last_updated, version = w.version + 1
RETURNING {summary};

-- name: replace -> row
-- Replace the data of a workflow that has the expected version.
UPDATE workflow_states
SET state_data = :data, workflow_name = coalesce(:name, workflow_name),
    current_step = coalesce(:current_step, current_step), last_updated = :now, version = version + 1
WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id AND version = :expected_version
RETURNING {summary};

-- name: get -> row
-- A workflow with its data.
SELECT {summary}, state_data FROM workflow_states
WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id;

-- name: position -> row
-- Where a workflow stands.
SELECT status, version, current_step FROM workflow_states
WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id;

-- name: transition -> row
-- Move a workflow on, from one of several statuses. The instants are set here as well as by the triggers, which RETURNING
-- does not see everywhere; whoever runs again has not ended.
UPDATE workflow_states
SET status = :status, state_data = coalesce(:data, state_data), current_step = coalesce(:current_step, current_step),
    started_at = CASE WHEN :status = 'running' THEN coalesce(started_at, :now) ELSE started_at END,
    completed_at = CASE WHEN :status = 'running' THEN NULL ELSE :now END,
    last_updated = :now, version = version + 1
WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id AND status IN (SELECT value FROM json_each(:sources))
  AND (:expected_version IS NULL OR version = :expected_version)
RETURNING {summary}, state_data;

-- name: advance -> row
-- Note that a running workflow has reached a step.
UPDATE workflow_states
SET current_step = :step, state_data = coalesce(:data, state_data), last_updated = :now, version = version + 1
WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id AND status = 'running' AND current_step <= :step
  AND (:expected_version IS NULL OR version = :expected_version)
RETURNING {summary}, state_data;

-- name: page -> rows
-- A page of all workflows, the newest first.
SELECT {summary} FROM workflow_states
WHERE tenant_id = :tenant_id AND (created_at, workflow_id) < (:instant, :id)
ORDER BY created_at DESC, workflow_id DESC LIMIT :limit;

-- name: page_of_status -> rows
-- A page of the workflows of a status, the newest first.
SELECT {summary} FROM workflow_states
WHERE tenant_id = :tenant_id AND status = :status AND (created_at, workflow_id) < (:instant, :id)
ORDER BY created_at DESC, workflow_id DESC LIMIT :limit;

-- name: counts -> rows
-- How many workflows there are of each status.
SELECT status, count(*) FROM workflow_states WHERE tenant_id = :tenant_id GROUP BY status;

-- name: delete -> count
-- Delete a workflow, of a version where one is expected.
DELETE FROM workflow_states
WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id
  AND (:expected_version IS NULL OR version = :expected_version);

-- name: prune -> count
-- Delete what ended and was last touched before an instant, the oldest first.
DELETE FROM workflow_states
WHERE tenant_id = :tenant_id AND workflow_id IN (
  SELECT workflow_id FROM workflow_states
  WHERE tenant_id = :tenant_id AND status <> 'pending' AND status <> 'running' AND last_updated < :before
  ORDER BY last_updated, workflow_id LIMIT :limit
);
