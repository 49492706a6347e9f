-- V005: what was seen to follow what, and how often. From its third occurrence a pattern counts as learned.
--
-- The unique key holds scope, key and value whole: 128 + 500 + 500 + 1,024 bytes stay below the limit of a btree entry.

CREATE TABLE llmspell.procedural_patterns (
    pattern_id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    scope varchar(500) COLLATE "C" NOT NULL,
    key varchar(500) COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    frequency integer NOT NULL DEFAULT 1,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, pattern_id),
    CONSTRAINT unique_procedural_pattern UNIQUE (tenant_id, scope, key, value),
    CONSTRAINT positive_frequency CHECK (frequency > 0),
    CONSTRAINT procedural_pattern_fits_its_index
        CHECK (octet_length(scope) <= 500 AND octet_length(key) <= 500 AND octet_length(value) <= 1024)
);
CREATE INDEX idx_procedural_patterns_lookup ON llmspell.procedural_patterns (tenant_id, scope, key, value)
    WHERE frequency >= 3;
SELECT llmspell.apply_tenant_rls('llmspell.procedural_patterns');
SELECT llmspell.keep_to_calendar('llmspell.procedural_patterns');
