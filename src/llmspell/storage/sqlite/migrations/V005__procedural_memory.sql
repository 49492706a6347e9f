-- V005: what was seen to follow what, and how often. From its third occurrence a pattern counts as learned.

CREATE TABLE procedural_patterns (
    pattern_id BLOB NOT NULL CHECK (length(pattern_id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    frequency INTEGER NOT NULL DEFAULT 1,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, pattern_id),
    CONSTRAINT unique_procedural_pattern UNIQUE (tenant_id, scope, key, value),
    CONSTRAINT positive_frequency CHECK (frequency > 0),
    CONSTRAINT procedural_pattern_fits_its_index
        CHECK (length(CAST(scope AS BLOB)) <= 500 AND length(CAST(key AS BLOB)) <= 500 AND length(CAST(value AS BLOB)) <= 1024)
) STRICT;
CREATE INDEX idx_procedural_patterns_lookup ON procedural_patterns (tenant_id, scope, key, value) WHERE frequency >= 3;
