-- V004: entities and relationships on two time axes: valid (true in the world) and transaction (recorded here).
-- Periods are half-open; 9223372036854775807 means still valid, or the version that counts now.

CREATE TABLE entities (
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
    PRIMARY KEY (tenant_id, entity_id),
    CONSTRAINT valid_time_range CHECK (valid_time_start < valid_time_end),
    CONSTRAINT tx_time_range CHECK (transaction_time_start < transaction_time_end)
) STRICT;
CREATE INDEX idx_entities_type ON entities (tenant_id, entity_type);
CREATE INDEX idx_entities_name ON entities (tenant_id, name);

CREATE TABLE relationships (
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
    PRIMARY KEY (tenant_id, relationship_id),
    CONSTRAINT valid_time_range CHECK (valid_time_start < valid_time_end),
    CONSTRAINT tx_time_range CHECK (transaction_time_start < transaction_time_end),
    FOREIGN KEY (tenant_id, from_entity) REFERENCES entities (tenant_id, entity_id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, to_entity) REFERENCES entities (tenant_id, entity_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX idx_relationships_from ON relationships (tenant_id, from_entity, relationship_type);
CREATE INDEX idx_relationships_to ON relationships (tenant_id, to_entity, relationship_type);
CREATE INDEX idx_relationships_type ON relationships (tenant_id, relationship_type);
