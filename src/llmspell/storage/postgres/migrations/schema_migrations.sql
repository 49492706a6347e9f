-- Bookkeeping of the migrator. It runs before V001 and may run again; the migrator holds its lock meanwhile.
CREATE SCHEMA IF NOT EXISTS llmspell;
CREATE TABLE IF NOT EXISTS llmspell.schema_migrations (
    version integer PRIMARY KEY CHECK (version > 0),
    name text NOT NULL,
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    applied_at timestamptz NOT NULL DEFAULT now()
);
