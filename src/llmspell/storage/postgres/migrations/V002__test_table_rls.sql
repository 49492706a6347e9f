-- V002: a table that carries nothing but tenant isolation, so that the isolation can be probed on a live database
-- without touching anybody's data.

CREATE TABLE llmspell.test_table (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    value text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
SELECT llmspell.apply_tenant_rls('llmspell.test_table');
SELECT llmspell.keep_to_calendar('llmspell.test_table');
