-- V032: the strict mode: a statement of llmspell_app sees a tenant only when that tenant is signed.
--
-- The policies of V001 believe the setting app.current_tenant_id, and injected SQL can change a setting. In the strict mode
-- one restrictive policy per table demands, besides, a signature of the tenant by a key that the application holds and no
-- role of the database can read but the owner. It is off until the owner turns it on: llmspell database signing enable.
--
--   app.tenant_signature = <key id, 16 hex digits>.<expiry, 10 digits of seconds since 1970>.<HMAC-SHA256, 64 hex digits>
--
-- The HMAC is of 'llmspell tenant v1.<key id>.<expiry>.<tenant>'. The tenant stands last and everything before it has a fixed
-- length, so no two tenants give the same text.

-- A backup is taken without the schema of the keys: whoever finds one must not be able to sign. So a database that was
-- restored lacks it; then nothing is signed and nothing is believed, until the owner enables the mode anew, which calls this.
CREATE FUNCTION llmspell.prepare_tenant_signing() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regnamespace('llmspell_private') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE SCHEMA llmspell_private;
    REVOKE ALL ON SCHEMA llmspell_private FROM PUBLIC;
    COMMENT ON SCHEMA llmspell_private IS 'llmspell: keys that check signatures of tenants; for the owner alone';
    -- The key itself is not kept, but what HMAC makes of it: a block for each of its two hashes. They sign as well as it does.
    CREATE TABLE llmspell_private.signing_keys (
        key_id varchar(16) COLLATE "C" NOT NULL PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{16}$'),
        inner_block bytea NOT NULL CHECK (octet_length(inner_block) = 64),
        outer_block bytea NOT NULL CHECK (octet_length(outer_block) = 64),
        created_at timestamptz NOT NULL DEFAULT now(),
        retired_at timestamptz -- it is accepted until the rotation that replaces it is finished
    );
    CREATE UNIQUE INDEX one_current_signing_key
        ON llmspell_private.signing_keys ((retired_at IS NULL)) WHERE retired_at IS NULL;
    CREATE TABLE llmspell_private.signing_mode (
        only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
        enforced boolean NOT NULL
    );
    INSERT INTO llmspell_private.signing_mode (enforced) VALUES (false);
    REVOKE ALL ON llmspell_private.signing_keys, llmspell_private.signing_mode FROM PUBLIC;
END
$$;
REVOKE ALL ON FUNCTION llmspell.prepare_tenant_signing() FROM PUBLIC;
COMMENT ON FUNCTION llmspell.prepare_tenant_signing() IS 'make what keeps the signing keys, where it is missing';
DO $$ BEGIN PERFORM llmspell.prepare_tenant_signing(); END $$;

-- Whether signatures are demanded. Everybody who serves may ask.
CREATE FUNCTION llmspell.tenant_signing() RETURNS boolean
    LANGUAGE plpgsql
    STABLE
    SECURITY DEFINER
    PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('llmspell_private.signing_mode') IS NULL THEN
        RETURN false; -- restored from a backup
    END IF;
    RETURN coalesce((SELECT m.enforced FROM llmspell_private.signing_mode AS m), false);
END
$$;
REVOKE ALL ON FUNCTION llmspell.tenant_signing() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION llmspell.tenant_signing() TO llmspell_app, llmspell_operator;
COMMENT ON FUNCTION llmspell.tenant_signing() IS 'whether a tenant must be signed before its rows are seen';

-- The tenant that this statement is bound to, once its signature is verified; NULL when none is bound.
-- Tenant and signature are read together, so there is no moment between check and use. What is compared is hashed once more
-- under the key: how far two strings agree, which time might tell, says nothing then. The expiry is compared with the start
-- of the statement, so that no statement expires while it runs. There is one refusal, whatever was wrong.
CREATE FUNCTION llmspell.signed_tenant() RETURNS text
    LANGUAGE plpgsql
    STABLE
    SECURITY DEFINER
    PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant CONSTANT text := current_setting('app.current_tenant_id', true);
    signature CONSTANT text := current_setting('app.tenant_signature', true);
    inner_key bytea;
    outer_key bytea;
BEGIN
    IF tenant IS NULL OR tenant = '' THEN
        RETURN NULL;
    END IF;
    SELECT k.inner_block, k.outer_block INTO inner_key, outer_key
    FROM llmspell_private.signing_keys AS k WHERE k.key_id = left(signature, 16);
    -- What stands behind a term that is false is not evaluated: the expiry is read only where it is known to be one of ours.
    IF FOUND AND sha256(outer_key || convert_to(substr(signature, 29), 'UTF8')) = sha256(outer_key || convert_to(encode(sha256(
        outer_key || sha256(inner_key || convert_to('llmspell tenant v1.' || left(signature, 28) || tenant, 'UTF8'))
    ), 'hex'), 'UTF8')) AND statement_timestamp() < to_timestamp(substr(signature, 18, 10)::float8) THEN
        RETURN tenant;
    END IF;
    RAISE EXCEPTION 'the tenant of this statement is not signed, or its signature has expired' USING ERRCODE = 'LS311';
END
$$;
REVOKE ALL ON FUNCTION llmspell.signed_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION llmspell.signed_tenant() TO llmspell_app, llmspell_operator;
COMMENT ON FUNCTION llmspell.signed_tenant() IS 'the tenant of this statement, once its signature is verified';

-- As in V001, and in the strict mode one policy more. It restricts llmspell_app alone: the owner, as which functions of ours
-- run, and the operator work without a signature. Whatever makes a table or a partition calls this.
CREATE OR REPLACE FUNCTION llmspell.apply_tenant_rls(target regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mine CONSTANT text := 'tenant_id = (SELECT current_setting(''app.current_tenant_id'', true))';
    signed CONSTANT text := 'tenant_id = (SELECT llmspell.signed_tenant())';
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('DROP POLICY IF EXISTS tenant_isolation_select ON %s', target);
    EXECUTE format('DROP POLICY IF EXISTS tenant_isolation_insert ON %s', target);
    EXECUTE format('DROP POLICY IF EXISTS tenant_isolation_update ON %s', target);
    EXECUTE format('DROP POLICY IF EXISTS tenant_isolation_delete ON %s', target);
    EXECUTE format('CREATE POLICY tenant_isolation_select ON %s FOR SELECT USING (%s)', target, mine);
    EXECUTE format('CREATE POLICY tenant_isolation_insert ON %s FOR INSERT WITH CHECK (%s)', target, mine);
    EXECUTE format(
        'CREATE POLICY tenant_isolation_update ON %s FOR UPDATE USING (%s) WITH CHECK (%s)', target, mine, mine
    );
    EXECUTE format('CREATE POLICY tenant_isolation_delete ON %s FOR DELETE USING (%s)', target, mine);
    EXECUTE format('DROP POLICY IF EXISTS operator_access ON %s', target);
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'llmspell_operator') THEN
        EXECUTE format(
            'CREATE POLICY operator_access ON %s FOR ALL TO llmspell_operator USING (true) WITH CHECK (true)', target
        );
    END IF;
    EXECUTE format('DROP POLICY IF EXISTS tenant_signature ON %s', target);
    IF llmspell.tenant_signing() THEN
        EXECUTE format(
            'CREATE POLICY tenant_signature ON %s AS RESTRICTIVE FOR ALL TO llmspell_app USING (%s) WITH CHECK (%s)',
            target, signed, signed
        );
    END IF;
    -- Tenants differ in size by orders of magnitude; the default 100 most common values would miss most of them.
    EXECUTE format('ALTER TABLE %s ALTER COLUMN tenant_id SET STATISTICS 1000', target);
END
$$;
