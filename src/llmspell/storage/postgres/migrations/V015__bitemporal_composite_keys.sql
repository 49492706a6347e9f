-- V015: several versions of one entity or relationship coexist, so the key holds both times.
--
-- A correction closes a version on the transaction axis; a later fact splits valid time, which records two versions at
-- one instant: hence valid_time_start in the key. An id alone is no longer unique, so no foreign key can point at it:
-- the application keeps the integrity, and reports orphans.
-- Not built: an index for looking up by id, which the primary key serves.

ALTER TABLE llmspell.relationships
    DROP CONSTRAINT relationships_from_entity_fkey,
    DROP CONSTRAINT relationships_to_entity_fkey,
    DROP CONSTRAINT relationships_pkey,
    ADD CONSTRAINT relationships_pkey
        PRIMARY KEY (tenant_id, relationship_id, transaction_time_start, valid_time_start);
ALTER TABLE llmspell.entities
    DROP CONSTRAINT entities_pkey,
    ADD CONSTRAINT entities_pkey
        PRIMARY KEY (tenant_id, entity_id, transaction_time_start, valid_time_start);
