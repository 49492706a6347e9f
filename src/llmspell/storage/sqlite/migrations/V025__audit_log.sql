-- V025: the audit log: one chain of hashes per tenant, and where each chain ends.
--
-- entry_hash is SHA-256 over the tenant, the number, all fields and prev_hash; the application computes it. The head is kept
-- apart, so that a tail that is cut off is missed. Whoever can write the file can rewrite both: note heads elsewhere.

CREATE TABLE audit_log (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    sequence INTEGER NOT NULL CHECK (sequence > 0),
    entry_id BLOB NOT NULL CHECK (length(entry_id) = 16),
    at INTEGER NOT NULL,
    operation TEXT NOT NULL,
    principal TEXT NOT NULL,
    resource TEXT NOT NULL,
    decision TEXT NOT NULL,
    reason TEXT,
    details TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(details)),
    latency_ms REAL CHECK (latency_ms >= 0),
    prev_hash BLOB NOT NULL,
    entry_hash BLOB NOT NULL,
    PRIMARY KEY (tenant_id, sequence),
    CONSTRAINT valid_decision CHECK (decision IN ('allow', 'deny', 'allow_with_filters'))
) STRICT;
CREATE INDEX idx_audit_log_at ON audit_log (tenant_id, at, sequence);
CREATE INDEX idx_audit_log_operation ON audit_log (tenant_id, operation, at, sequence);
CREATE INDEX idx_audit_log_principal ON audit_log (tenant_id, principal, at, sequence);
CREATE INDEX idx_audit_log_decision ON audit_log (tenant_id, decision, at, sequence);

CREATE TABLE audit_heads (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    entry_hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;
