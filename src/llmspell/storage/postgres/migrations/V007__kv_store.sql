-- V007: keys and bytes, the unified key-value interface. New components have tables of their own.
--
-- Keys are at most 1,024 bytes. A prefix is the range key >= a AND key < b on the primary key, in byte order: LIKE and
-- text_pattern_ops would not be used under row-level security.

CREATE TABLE llmspell.kv_store (
    kv_id uuid NOT NULL DEFAULT gen_random_uuid(),
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    key varchar(1024) COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);
SELECT llmspell.apply_tenant_rls('llmspell.kv_store');
SELECT llmspell.keep_to_calendar('llmspell.kv_store');
