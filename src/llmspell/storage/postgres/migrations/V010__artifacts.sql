-- V010: artifacts and their content, addressed by blake3 and shared within a tenant.
--
-- Content below 1 MB is kept in the row, from 1 MB on in chunks. Large objects are not used: they ignore row-level
-- security. size_bytes is what is stored, original_size_bytes what it was before compression.
-- Not built: GIN on metadata; its operators are not leakproof, so under row-level security no plan can use it.

CREATE TABLE llmspell.artifact_content (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    content_hash varchar(64) COLLATE "C" NOT NULL,
    storage_type varchar(20) COLLATE "C" NOT NULL,
    data bytea,
    size_bytes bigint NOT NULL,
    is_compressed boolean NOT NULL DEFAULT false,
    original_size_bytes bigint CHECK (original_size_bytes >= 0),
    reference_count integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_accessed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, content_hash),
    CONSTRAINT valid_storage_type CHECK (storage_type IN ('bytea', 'chunks')),
    CONSTRAINT storage_consistency CHECK (
        (storage_type <> 'bytea' OR (data IS NOT NULL AND octet_length(data) < 1048576))
        AND (storage_type <> 'chunks' OR data IS NULL)
    ),
    CONSTRAINT valid_size CHECK (size_bytes BETWEEN 0 AND 104857600),
    CONSTRAINT valid_reference_count CHECK (reference_count >= 0)
);
CREATE INDEX idx_artifact_content_orphaned ON llmspell.artifact_content (tenant_id, content_hash)
    WHERE reference_count = 0;
SELECT llmspell.apply_tenant_rls('llmspell.artifact_content');
SELECT llmspell.keep_to_calendar('llmspell.artifact_content');

CREATE TABLE llmspell.artifact_chunks (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    content_hash varchar(64) COLLATE "C" NOT NULL,
    chunk_no integer NOT NULL CHECK (chunk_no >= 0),
    data bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 1048576),
    PRIMARY KEY (tenant_id, content_hash, chunk_no),
    FOREIGN KEY (tenant_id, content_hash)
        REFERENCES llmspell.artifact_content (tenant_id, content_hash) ON DELETE CASCADE
);
-- Artifacts are compressed by the application when it pays; a second attempt by the server only costs time.
ALTER TABLE llmspell.artifact_content ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE llmspell.artifact_chunks ALTER COLUMN data SET STORAGE EXTERNAL;
SELECT llmspell.apply_tenant_rls('llmspell.artifact_chunks');

-- artifact_id has the form session:sequence:hash.
CREATE TABLE llmspell.artifacts (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    artifact_id varchar(512) COLLATE "C" NOT NULL,
    session_id uuid NOT NULL,
    sequence bigint NOT NULL CHECK (sequence >= 0),
    content_hash varchar(64) COLLATE "C" NOT NULL,
    metadata jsonb NOT NULL,
    name varchar(255) COLLATE "C" NOT NULL,
    artifact_type varchar(50) COLLATE "C" NOT NULL,
    mime_type varchar(255) COLLATE "C" NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by varchar(255) COLLATE "C",
    version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    parent_artifact_id varchar(512) COLLATE "C",
    tags text[] NOT NULL DEFAULT '{}',
    stored_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, artifact_id),
    CONSTRAINT unique_artifact_sequence UNIQUE (tenant_id, session_id, sequence),
    CONSTRAINT artifacts_content_fkey FOREIGN KEY (tenant_id, content_hash)
        REFERENCES llmspell.artifact_content (tenant_id, content_hash) ON DELETE RESTRICT,
    CONSTRAINT artifacts_session_fkey FOREIGN KEY (tenant_id, session_id)
        REFERENCES llmspell.sessions (tenant_id, session_id) ON DELETE CASCADE
);
CREATE INDEX idx_artifacts_content ON llmspell.artifacts (tenant_id, content_hash);
CREATE INDEX idx_artifacts_covering ON llmspell.artifacts (tenant_id, artifact_type, created_at)
    INCLUDE (name, size_bytes);
SELECT llmspell.apply_tenant_rls('llmspell.artifacts');
SELECT llmspell.keep_to_calendar('llmspell.artifacts');

-- Content starts at 0 references and each artifact counts one; a session counts its artifacts.
-- When a session takes its artifacts with it, the server runs these triggers as the owner (from version 18 on), who is
-- forced under the policies and may have no tenant: so the row's own tenant is bound while it is counted. A count that
-- finds no content would be wrong for ever, so it fails instead.
CREATE FUNCTION llmspell.count_artifact(in_tenant varchar, in_content varchar, in_session uuid, step integer)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound CONSTANT text := current_setting('app.current_tenant_id', true);
BEGIN
    PERFORM set_config('app.current_tenant_id', in_tenant, true);
    UPDATE llmspell.artifact_content SET reference_count = reference_count + step
    WHERE tenant_id = in_tenant AND content_hash = in_content;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the content of an artifact cannot be counted' USING ERRCODE = 'data_corrupted';
    END IF;
    UPDATE llmspell.sessions SET artifact_count = artifact_count + step
    WHERE tenant_id = in_tenant AND session_id = in_session;
    PERFORM set_config('app.current_tenant_id', coalesce(bound, ''), true);
END
$$;
CREATE FUNCTION llmspell.count_artifacts() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP IN ('DELETE', 'UPDATE') THEN
        PERFORM llmspell.count_artifact(OLD.tenant_id, OLD.content_hash, OLD.session_id, -1);
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        PERFORM llmspell.count_artifact(NEW.tenant_id, NEW.content_hash, NEW.session_id, 1);
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION llmspell.count_artifact(varchar, varchar, uuid, integer), llmspell.count_artifacts() FROM PUBLIC;
CREATE TRIGGER artifacts_count_rows AFTER INSERT OR DELETE ON llmspell.artifacts
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_artifacts();
CREATE TRIGGER artifacts_count_moves AFTER UPDATE OF tenant_id, content_hash, session_id ON llmspell.artifacts
    FOR EACH ROW
    WHEN (
        (NEW.tenant_id, NEW.content_hash, NEW.session_id)
        IS DISTINCT FROM (OLD.tenant_id, OLD.content_hash, OLD.session_id)
    )
    EXECUTE FUNCTION llmspell.count_artifacts();
