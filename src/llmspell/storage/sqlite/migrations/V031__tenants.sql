-- V031: tenants have a version, which a change can be made conditional on, and say why they are not active.

ALTER TABLE tenants ADD COLUMN version INTEGER NOT NULL DEFAULT 1 CHECK (version > 0);
ALTER TABLE tenants ADD COLUMN status_reason TEXT;
