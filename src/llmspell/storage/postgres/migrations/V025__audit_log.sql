-- V025: the audit log: one chain of hashes per tenant, and where each chain ends.
--
-- entry_hash is SHA-256 over the tenant, the number, all fields and prev_hash; the application computes it. The head is kept
-- apart, so that a tail that is cut off is missed. Whoever owns the tables can rewrite both: note heads elsewhere.

CREATE TABLE llmspell.audit_log (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    sequence bigint NOT NULL CHECK (sequence > 0),
    entry_id uuid NOT NULL,
    at timestamptz NOT NULL,
    operation varchar(128) COLLATE "C" NOT NULL,
    principal varchar(500) COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    decision varchar(20) COLLATE "C" NOT NULL,
    reason text,
    details jsonb NOT NULL DEFAULT '{}',
    latency_ms double precision CHECK (latency_ms >= 0),
    prev_hash bytea NOT NULL,
    entry_hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, sequence),
    CONSTRAINT valid_decision CHECK (decision IN ('allow', 'deny', 'allow_with_filters'))
);
SELECT llmspell.apply_tenant_rls('llmspell.audit_log');
SELECT llmspell.keep_to_calendar('llmspell.audit_log');
CREATE INDEX idx_audit_log_at ON llmspell.audit_log (tenant_id, at, sequence);
CREATE INDEX idx_audit_log_operation ON llmspell.audit_log (tenant_id, operation, at, sequence);
CREATE INDEX idx_audit_log_principal ON llmspell.audit_log (tenant_id, principal, at, sequence);
CREATE INDEX idx_audit_log_decision ON llmspell.audit_log (tenant_id, decision, at, sequence);
-- Written once. The operator may delete, for the erasure of a tenant takes its log too; nobody rewrites an entry.
REVOKE UPDATE, DELETE ON llmspell.audit_log FROM llmspell_app;
REVOKE UPDATE ON llmspell.audit_log FROM llmspell_operator;

-- Who adds an entry moves the head, so the serving role may. It can thereby break a chain, which is found; it cannot mend one
-- over a change, for it cannot change an entry.
CREATE TABLE llmspell.audit_heads (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    sequence bigint NOT NULL CHECK (sequence >= 0),
    entry_hash bytea NOT NULL
);
SELECT llmspell.apply_tenant_rls('llmspell.audit_heads');
REVOKE DELETE ON llmspell.audit_heads FROM llmspell_app;
