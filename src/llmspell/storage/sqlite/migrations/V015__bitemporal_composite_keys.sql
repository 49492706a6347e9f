-- V015: several versions of one entity or relationship coexist, so the key holds both times, and nothing can refer to
-- an id by foreign key any more. A key cannot be altered in place: both tables are made anew and filled.

CREATE TABLE entities_versioned (
    entity_id BLOB NOT NULL CHECK (length(entity_id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    entity_type TEXT NOT NULL,
    name TEXT NOT NULL,
    properties TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(properties)),
    valid_time_start INTEGER NOT NULL,
    valid_time_end INTEGER NOT NULL DEFAULT 9223372036854775807,
    transaction_time_start INTEGER NOT NULL,
    transaction_time_end INTEGER NOT NULL DEFAULT 9223372036854775807,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, entity_id, transaction_time_start, valid_time_start),
    CONSTRAINT valid_time_range CHECK (valid_time_start < valid_time_end),
    CONSTRAINT tx_time_range CHECK (transaction_time_start < transaction_time_end)
) STRICT;
INSERT INTO entities_versioned (
    entity_id, tenant_id, entity_type, name, properties, valid_time_start, valid_time_end, transaction_time_start,
    transaction_time_end, created_at
)
SELECT
    entity_id, tenant_id, entity_type, name, properties, valid_time_start, valid_time_end, transaction_time_start,
    transaction_time_end, created_at
FROM entities;

CREATE TABLE relationships_versioned (
    relationship_id BLOB NOT NULL CHECK (length(relationship_id) = 16),
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    from_entity BLOB NOT NULL CHECK (length(from_entity) = 16),
    to_entity BLOB NOT NULL CHECK (length(to_entity) = 16),
    relationship_type TEXT NOT NULL,
    properties TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(properties)),
    valid_time_start INTEGER NOT NULL,
    valid_time_end INTEGER NOT NULL DEFAULT 9223372036854775807,
    transaction_time_start INTEGER NOT NULL,
    transaction_time_end INTEGER NOT NULL DEFAULT 9223372036854775807,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, relationship_id, transaction_time_start, valid_time_start),
    CONSTRAINT valid_time_range CHECK (valid_time_start < valid_time_end),
    CONSTRAINT tx_time_range CHECK (transaction_time_start < transaction_time_end)
) STRICT;
INSERT INTO relationships_versioned (
    relationship_id, tenant_id, from_entity, to_entity, relationship_type, properties, valid_time_start, valid_time_end,
    transaction_time_start, transaction_time_end, created_at
)
SELECT
    relationship_id, tenant_id, from_entity, to_entity, relationship_type, properties, valid_time_start, valid_time_end,
    transaction_time_start, transaction_time_end, created_at
FROM relationships;

-- Relationships first: they are the ones that refer.
DROP TABLE relationships;
DROP TABLE entities;
ALTER TABLE entities_versioned RENAME TO entities;
ALTER TABLE relationships_versioned RENAME TO relationships;
CREATE INDEX idx_entities_type ON entities (tenant_id, entity_type);
CREATE INDEX idx_entities_name ON entities (tenant_id, name);
CREATE INDEX idx_relationships_from ON relationships (tenant_id, from_entity, relationship_type);
CREATE INDEX idx_relationships_to ON relationships (tenant_id, to_entity, relationship_type);
CREATE INDEX idx_relationships_type ON relationships (tenant_id, relationship_type);
