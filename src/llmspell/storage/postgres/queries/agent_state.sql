-- fragment: stored
state_id, agent_type, schema_version, version, data_version, created_at, updated_at;

-- fragment: summary
state_id, agent_id, agent_type, schema_version, version, data_version, checksum, created_at, updated_at;

-- name: save -> row
-- Store a state, replacing any. The data differs where it or its checksum does: a damaged state is replaced like any other.
INSERT INTO llmspell.agent_states AS s
    (tenant_id, state_id, agent_id, agent_type, state_data, schema_version, checksum, created_at, updated_at)
VALUES (:tenant_id, :state_id, :agent_id, coalesce(:agent_type::text, 'agent'), :data, coalesce(:schema_version::integer, 1), :checksum, :now, :now)
ON CONFLICT (tenant_id, agent_id) DO UPDATE
SET state_data = excluded.state_data, checksum = excluded.checksum, updated_at = excluded.updated_at,
    agent_type = coalesce(:agent_type::text, s.agent_type), schema_version = coalesce(:schema_version::integer, s.schema_version),
    version = s.version + 1,
    data_version = s.data_version
        + CASE WHEN s.checksum <> excluded.checksum OR s.state_data IS DISTINCT FROM excluded.state_data THEN 1 ELSE 0 END
RETURNING {stored};

-- name: create -> row
-- Store the first state of an agent.
INSERT INTO llmspell.agent_states
    (tenant_id, state_id, agent_id, agent_type, state_data, schema_version, checksum, created_at, updated_at)
VALUES (:tenant_id, :state_id, :agent_id, coalesce(:agent_type::text, 'agent'), :data, coalesce(:schema_version::integer, 1), :checksum, :now, :now)
ON CONFLICT (tenant_id, agent_id) DO NOTHING
RETURNING {stored};

-- name: replace -> row
-- Replace a state that has the expected version.
UPDATE llmspell.agent_states
SET state_data = :data, checksum = :checksum::text, updated_at = :now,
    agent_type = coalesce(:agent_type::text, agent_type), schema_version = coalesce(:schema_version::integer, schema_version),
    version = version + 1,
    data_version = data_version + CASE WHEN checksum <> :checksum::text OR state_data IS DISTINCT FROM :data THEN 1 ELSE 0 END
WHERE tenant_id = :tenant_id AND agent_id = :agent_id AND version = :expected_version
RETURNING {stored};

-- name: get -> row
-- A state with its data.
SELECT {summary}, state_data FROM llmspell.agent_states
WHERE tenant_id = :tenant_id AND agent_id = :agent_id;

-- name: version -> value
-- The version of a state.
SELECT version FROM llmspell.agent_states WHERE tenant_id = :tenant_id AND agent_id = :agent_id;

-- name: page -> rows
-- A page of all agents, the newest first.
SELECT {summary} FROM llmspell.agent_states
WHERE tenant_id = :tenant_id AND (created_at, state_id) < (:instant, :id)
ORDER BY created_at DESC, state_id DESC LIMIT :limit::bigint;

-- name: page_of_type -> rows
-- A page of the agents of a type, the newest first.
SELECT {summary} FROM llmspell.agent_states
WHERE tenant_id = :tenant_id AND agent_type = :agent_type AND (created_at, state_id) < (:instant, :id)
ORDER BY created_at DESC, state_id DESC LIMIT :limit::bigint;

-- name: delete -> count
-- Delete a state, of a version where one is expected.
DELETE FROM llmspell.agent_states
WHERE tenant_id = :tenant_id AND agent_id = :agent_id
  AND (:expected_version::integer IS NULL OR version = :expected_version);

-- name: verify -> rows
-- What is to be compared with its checksum, in the order of agent ids.
SELECT agent_id, state_data, checksum FROM llmspell.agent_states
WHERE tenant_id = :tenant_id AND agent_id > :after
ORDER BY agent_id LIMIT :limit::bigint;
