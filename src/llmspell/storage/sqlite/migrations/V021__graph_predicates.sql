-- V021: how many values a predicate holds at a time, where facts come from, and the indexes of the hot questions.
--
-- The end of transaction time stands before the type: "true now" (= infinity) and "as known at" (> the instant) then
-- both bound the scan of an entity's neighbours, with a type and without one. name_folded is the name case-folded by
-- the application, for finding entities that a text mentions.

CREATE TABLE predicates (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    predicate TEXT NOT NULL,
    cardinality TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, predicate),
    CONSTRAINT valid_cardinality CHECK (cardinality IN ('one', 'many'))
) STRICT, WITHOUT ROWID;

ALTER TABLE entities ADD COLUMN actor TEXT;
ALTER TABLE entities ADD COLUMN source TEXT;
ALTER TABLE entities ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
ALTER TABLE relationships ADD COLUMN confidence REAL CHECK (confidence BETWEEN 0 AND 1);
ALTER TABLE relationships ADD COLUMN source TEXT;
ALTER TABLE relationships ADD COLUMN actor TEXT;

DROP INDEX idx_entities_name;
DROP INDEX idx_entities_type;
CREATE INDEX idx_entities_name ON entities (tenant_id, name, transaction_time_end);
CREATE INDEX idx_entities_folded ON entities (tenant_id, name_folded, transaction_time_end);
CREATE INDEX idx_entities_type ON entities (tenant_id, entity_type, transaction_time_end);
DROP INDEX idx_relationships_from;
DROP INDEX idx_relationships_to;
DROP INDEX idx_relationships_type;
CREATE INDEX idx_relationships_from ON relationships (tenant_id, from_entity, transaction_time_end, relationship_type);
CREATE INDEX idx_relationships_to ON relationships (tenant_id, to_entity, transaction_time_end, relationship_type);
CREATE INDEX idx_relationships_type ON relationships (tenant_id, relationship_type, transaction_time_end);
