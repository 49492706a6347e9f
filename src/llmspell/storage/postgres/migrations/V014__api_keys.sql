-- V014: secrets of model providers. encrypted_key is sealed by the application (AES-256-GCM, with tenant, table and row
-- as associated data): a key never appears in SQL, so never in a log of statements, and pgcrypto is not needed.
-- At most one key per service is active; inactive ones are kept for as long as something refers to them.

CREATE TABLE llmspell.api_keys (
    key_id varchar(255) COLLATE "C" NOT NULL,
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    service varchar(255) COLLATE "C" NOT NULL,
    encrypted_key bytea NOT NULL,
    key_metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    expires_at timestamptz,
    is_active boolean NOT NULL DEFAULT true,
    usage_count bigint NOT NULL DEFAULT 0 CHECK (usage_count >= 0),
    rotated_from varchar(255) COLLATE "C",
    deactivated_at timestamptz,
    PRIMARY KEY (tenant_id, key_id)
);
CREATE UNIQUE INDEX idx_api_keys_active ON llmspell.api_keys (tenant_id, service) WHERE is_active;
CREATE INDEX idx_api_keys_service ON llmspell.api_keys (tenant_id, service, created_at DESC);
CREATE INDEX idx_api_keys_expires ON llmspell.api_keys (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
SELECT llmspell.apply_tenant_rls('llmspell.api_keys');
SELECT llmspell.keep_to_calendar('llmspell.api_keys');

-- All three run as the caller: a tenant reaches its own rows, the operator all.
CREATE FUNCTION llmspell.cleanup_expired_api_keys(as_of timestamptz DEFAULT now()) RETURNS bigint
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH expired AS (
        UPDATE llmspell.api_keys AS k SET is_active = false, deactivated_at = as_of
        WHERE k.is_active AND k.expires_at <= as_of
        RETURNING 1
    )
    SELECT count(*) FROM expired;
END;
COMMENT ON FUNCTION llmspell.cleanup_expired_api_keys(timestamptz) IS
    'deactivate the keys that expired, and return how many';

CREATE FUNCTION llmspell.get_api_key_stats(as_of timestamptz DEFAULT now()) RETURNS TABLE (
    total_keys bigint, active_keys bigint, expired_keys bigint, rotated_keys bigint, services bigint,
    total_usage bigint, last_used_at timestamptz
)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT count(*), count(*) FILTER (WHERE k.is_active), count(*) FILTER (WHERE k.expires_at <= as_of),
        count(*) FILTER (WHERE k.rotated_from IS NOT NULL), count(DISTINCT k.service),
        coalesce(sum(k.usage_count), 0)::bigint, max(k.last_used_at)
    FROM llmspell.api_keys AS k;
END;

-- The old key is deactivated and its successor made in one statement of the caller's transaction.
CREATE FUNCTION llmspell.rotate_api_key(
    in_tenant varchar, old_key varchar, new_key varchar, sealed bytea, new_expires_at timestamptz DEFAULT NULL,
    as_of timestamptz DEFAULT now()
) RETURNS varchar
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rotated llmspell.api_keys;
BEGIN
    UPDATE llmspell.api_keys AS k SET is_active = false, deactivated_at = as_of
    WHERE k.tenant_id = in_tenant AND k.key_id = old_key AND k.is_active
    RETURNING k.* INTO rotated;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no active key of that id' USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO llmspell.api_keys
        (tenant_id, key_id, service, encrypted_key, key_metadata, created_at, expires_at, rotated_from)
    VALUES
        (in_tenant, new_key, rotated.service, sealed, rotated.key_metadata, as_of, new_expires_at, rotated.key_id);
    RETURN new_key;
END
$$;

REVOKE ALL ON FUNCTION llmspell.cleanup_expired_api_keys(timestamptz), llmspell.get_api_key_stats(timestamptz),
    llmspell.rotate_api_key(varchar, varchar, varchar, bytea, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION llmspell.cleanup_expired_api_keys(timestamptz), llmspell.get_api_key_stats(timestamptz),
    llmspell.rotate_api_key(varchar, varchar, varchar, bytea, timestamptz, timestamptz)
    TO llmspell_app, llmspell_operator;
