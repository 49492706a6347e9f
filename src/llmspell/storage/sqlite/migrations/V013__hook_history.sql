-- V013: what each hook did, for audit and replay. hook_context is compressed by the application; context_size is its
-- size before that. A higher retention_priority is kept longer. tags is a JSON array of strings.
-- Clean-up and statistics are queries of the application here.

CREATE TABLE hook_history (
    execution_id BLOB NOT NULL CHECK (length(execution_id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    hook_id TEXT NOT NULL,
    hook_type TEXT NOT NULL,
    correlation_id BLOB NOT NULL CHECK (length(correlation_id) = 16),
    hook_context BLOB NOT NULL,
    result_data TEXT NOT NULL CHECK (json_valid(result_data)),
    timestamp INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL CHECK (duration_ms >= 0),
    triggering_component TEXT NOT NULL,
    component_id TEXT NOT NULL,
    modified_operation INTEGER NOT NULL DEFAULT 0 CHECK (modified_operation IN (0, 1)),
    tags TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(tags)),
    retention_priority INTEGER NOT NULL DEFAULT 0,
    context_size INTEGER NOT NULL DEFAULT 0 CHECK (context_size >= 0),
    contains_sensitive_data INTEGER NOT NULL DEFAULT 0 CHECK (contains_sensitive_data IN (0, 1)),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, execution_id)
) STRICT;
CREATE INDEX idx_hook_history_time ON hook_history (tenant_id, timestamp DESC);
CREATE INDEX idx_hook_history_hook ON hook_history (tenant_id, hook_id, timestamp DESC);
CREATE INDEX idx_hook_history_type ON hook_history (tenant_id, hook_type, timestamp DESC);
CREATE INDEX idx_hook_history_correlation ON hook_history (tenant_id, correlation_id, timestamp DESC);
CREATE INDEX idx_hook_history_retention ON hook_history (tenant_id, retention_priority, timestamp);
