-- V031: tenants have a version, which a change can be made conditional on, and say why they are not active.

ALTER TABLE llmspell.tenants
    ADD COLUMN version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    ADD COLUMN status_reason text;
