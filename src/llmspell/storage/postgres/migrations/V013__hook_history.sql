-- V013: what each hook did, for audit and replay. hook_context is compressed by the application; context_size is its
-- size before that. A higher retention_priority is kept longer.

CREATE TABLE llmspell.hook_history (
    execution_id uuid NOT NULL,
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    hook_id varchar(255) COLLATE "C" NOT NULL,
    hook_type varchar(100) COLLATE "C" NOT NULL,
    correlation_id uuid NOT NULL,
    hook_context bytea NOT NULL,
    result_data jsonb NOT NULL,
    timestamp timestamptz NOT NULL DEFAULT now(),
    duration_ms integer NOT NULL CHECK (duration_ms >= 0),
    triggering_component varchar(255) COLLATE "C" NOT NULL,
    component_id varchar(255) COLLATE "C" NOT NULL,
    modified_operation boolean NOT NULL DEFAULT false,
    tags text[] NOT NULL DEFAULT '{}',
    retention_priority integer NOT NULL DEFAULT 0,
    context_size integer NOT NULL DEFAULT 0 CHECK (context_size >= 0),
    contains_sensitive_data boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, execution_id)
);
-- The application compressed it already.
ALTER TABLE llmspell.hook_history ALTER COLUMN hook_context SET STORAGE EXTERNAL;
CREATE INDEX idx_hook_history_time ON llmspell.hook_history (tenant_id, timestamp DESC);
CREATE INDEX idx_hook_history_hook ON llmspell.hook_history (tenant_id, hook_id, timestamp DESC);
CREATE INDEX idx_hook_history_type ON llmspell.hook_history (tenant_id, hook_type, timestamp DESC);
CREATE INDEX idx_hook_history_correlation ON llmspell.hook_history (tenant_id, correlation_id, timestamp DESC);
CREATE INDEX idx_hook_history_retention ON llmspell.hook_history (tenant_id, retention_priority, timestamp);
SELECT llmspell.apply_tenant_rls('llmspell.hook_history');
SELECT llmspell.keep_to_calendar('llmspell.hook_history');

-- Both run as the caller: a tenant reaches its own rows, the operator all.
CREATE FUNCTION llmspell.cleanup_old_hook_executions(before timestamptz, min_retention_priority integer) RETURNS bigint
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH deleted AS (
        DELETE FROM llmspell.hook_history AS h
        WHERE h."timestamp" < before AND h.retention_priority < min_retention_priority
        RETURNING 1
    )
    SELECT count(*) FROM deleted;
END;
COMMENT ON FUNCTION llmspell.cleanup_old_hook_executions(timestamptz, integer) IS
    'delete executions older than `before` whose priority is below `min_retention_priority`, and return how many';

CREATE FUNCTION llmspell.get_hook_history_stats() RETURNS TABLE (
    total_executions bigint, distinct_hooks bigint, average_duration_ms double precision, modified_operations bigint,
    sensitive_executions bigint, context_bytes bigint, oldest timestamptz, newest timestamptz
)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT count(*), count(DISTINCT h.hook_id), coalesce(avg(h.duration_ms), 0)::double precision,
        count(*) FILTER (WHERE h.modified_operation), count(*) FILTER (WHERE h.contains_sensitive_data),
        coalesce(sum(octet_length(h.hook_context)), 0)::bigint, min(h."timestamp"), max(h."timestamp")
    FROM llmspell.hook_history AS h;
END;

REVOKE ALL ON FUNCTION llmspell.cleanup_old_hook_executions(timestamptz, integer), llmspell.get_hook_history_stats()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION llmspell.cleanup_old_hook_executions(timestamptz, integer), llmspell.get_hook_history_stats()
    TO llmspell_app, llmspell_operator;
