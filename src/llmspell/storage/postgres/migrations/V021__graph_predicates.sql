-- V021: how many values a predicate holds at a time, where facts come from, and the indexes of the hot questions.
--
-- The end of transaction time stands before the type: "true now" (= 'infinity') and "as known at" (> the instant) then
-- both bound the scan of an entity's neighbours, with a type and without one. name_folded is the name case-folded by
-- the application, for finding entities that a text mentions.
-- Not built: (tenant_id, relationship_id, transaction_time_start), a prefix of the primary key.

CREATE TABLE llmspell.predicates (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    predicate varchar(255) COLLATE "C" NOT NULL,
    cardinality text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, predicate),
    CONSTRAINT valid_cardinality CHECK (cardinality IN ('one', 'many'))
);
SELECT llmspell.apply_tenant_rls('llmspell.predicates');
SELECT llmspell.keep_to_calendar('llmspell.predicates');

ALTER TABLE llmspell.entities
    ADD COLUMN actor text,
    ADD COLUMN source text,
    ADD COLUMN name_folded text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE llmspell.relationships
    ADD COLUMN confidence double precision CHECK (confidence BETWEEN 0 AND 1),
    ADD COLUMN source text,
    ADD COLUMN actor text;

DROP INDEX llmspell.idx_entities_name, llmspell.idx_entities_type;
CREATE INDEX idx_entities_name ON llmspell.entities (tenant_id, name, transaction_time_end);
CREATE INDEX idx_entities_folded ON llmspell.entities (tenant_id, name_folded, transaction_time_end);
CREATE INDEX idx_entities_type ON llmspell.entities (tenant_id, entity_type, transaction_time_end);
DROP INDEX llmspell.idx_relationships_from, llmspell.idx_relationships_to, llmspell.idx_relationships_type;
CREATE INDEX idx_relationships_from ON llmspell.relationships
    (tenant_id, from_entity, transaction_time_end, relationship_type);
CREATE INDEX idx_relationships_to ON llmspell.relationships
    (tenant_id, to_entity, transaction_time_end, relationship_type);
CREATE INDEX idx_relationships_type ON llmspell.relationships (tenant_id, relationship_type, transaction_time_end);
