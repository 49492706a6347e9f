-- V004: entities and relationships on two time axes: valid (true in the world) and transaction (recorded here).
-- Periods are half-open; 'infinity' means still valid, or the version that counts now.
--
-- Not built: GiST on the two ranges and GIN on properties. Range and jsonb operators are not leakproof, so under
-- row-level security they would filter after the fact; the same questions are comparisons on the columns.
-- Not built either: an index on (tenant_id) or on (tenant_id, id), which the primary key serves.

CREATE TABLE llmspell.entities (
    entity_id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    entity_type varchar(255) COLLATE "C" NOT NULL,
    name varchar(500) COLLATE "C" NOT NULL,
    properties jsonb NOT NULL DEFAULT '{}',
    valid_time_start timestamptz NOT NULL,
    valid_time_end timestamptz NOT NULL DEFAULT 'infinity',
    transaction_time_start timestamptz NOT NULL DEFAULT now(),
    transaction_time_end timestamptz NOT NULL DEFAULT 'infinity',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, entity_id),
    CONSTRAINT valid_time_range CHECK (valid_time_start < valid_time_end),
    CONSTRAINT tx_time_range CHECK (transaction_time_start < transaction_time_end)
);
CREATE INDEX idx_entities_type ON llmspell.entities (tenant_id, entity_type);
CREATE INDEX idx_entities_name ON llmspell.entities (tenant_id, name);
SELECT llmspell.apply_tenant_rls('llmspell.entities');
SELECT llmspell.keep_to_calendar('llmspell.entities');

CREATE TABLE llmspell.relationships (
    relationship_id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    from_entity uuid NOT NULL,
    to_entity uuid NOT NULL,
    relationship_type varchar(255) COLLATE "C" NOT NULL,
    properties jsonb NOT NULL DEFAULT '{}',
    valid_time_start timestamptz NOT NULL,
    valid_time_end timestamptz NOT NULL DEFAULT 'infinity',
    transaction_time_start timestamptz NOT NULL DEFAULT now(),
    transaction_time_end timestamptz NOT NULL DEFAULT 'infinity',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, relationship_id),
    CONSTRAINT valid_time_range CHECK (valid_time_start < valid_time_end),
    CONSTRAINT tx_time_range CHECK (transaction_time_start < transaction_time_end),
    CONSTRAINT relationships_from_entity_fkey FOREIGN KEY (tenant_id, from_entity)
        REFERENCES llmspell.entities (tenant_id, entity_id) ON DELETE CASCADE,
    CONSTRAINT relationships_to_entity_fkey FOREIGN KEY (tenant_id, to_entity)
        REFERENCES llmspell.entities (tenant_id, entity_id) ON DELETE CASCADE
);
CREATE INDEX idx_relationships_from ON llmspell.relationships (tenant_id, from_entity, relationship_type);
CREATE INDEX idx_relationships_to ON llmspell.relationships (tenant_id, to_entity, relationship_type);
CREATE INDEX idx_relationships_type ON llmspell.relationships (tenant_id, relationship_type);
SELECT llmspell.apply_tenant_rls('llmspell.relationships');
SELECT llmspell.keep_to_calendar('llmspell.relationships');
