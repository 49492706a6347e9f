-- V011: the event log, one plain table: a file is not partitioned, and retention deletes by time range.
-- `sequence` counts the events of a tenant.

CREATE TABLE event_log (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    event_id BLOB NOT NULL CHECK (length(event_id) = 16),
    event_type TEXT NOT NULL,
    correlation_id BLOB NOT NULL CHECK (length(correlation_id) = 16),
    timestamp INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    language TEXT NOT NULL DEFAULT 'python',
    payload TEXT NOT NULL CHECK (json_valid(payload)),
    PRIMARY KEY (tenant_id, timestamp, event_id)
) STRICT;
CREATE INDEX idx_event_log_correlation ON event_log (tenant_id, correlation_id, timestamp DESC);
CREATE INDEX idx_event_log_type ON event_log (tenant_id, event_type, timestamp DESC);
CREATE INDEX idx_event_log_sequence ON event_log (tenant_id, sequence);

-- The last sequence of each tenant. In the insert's transaction a writer of n events adds n and takes those numbers.
CREATE TABLE event_sequences (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;
