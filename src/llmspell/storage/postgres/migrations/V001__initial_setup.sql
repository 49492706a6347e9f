-- V001: the schema, the one extension it needs, and the row-level security that every later table gets.
--
-- Nothing here is privileged: the role that migrates owns the database and is no superuser. `vector` is not a trusted
-- extension, so an administrator creates it beforehand. vchord, pgcrypto and uuid-ossp are not needed: ids come from
-- gen_random_uuid(), secrets are sealed by the application.
--
-- House rules of this folder
--   * everything is schema-qualified; nothing depends on search_path;
--   * every primary and unique key starts with tenant_id: a key without it would tell one tenant of another's ids;
--   * tenant_id, keys and names are COLLATE "C": byte order, the same on every server, and a prefix is a range;
--   * a btree entry must stay below 2,704 bytes. The limits that guarantee it are checked before a value gets here:
--     tenant ids 128 bytes, keys 1,024, names and scopes 500; longer values are indexed by digest.

DO $$
DECLARE
    installed record;
BEGIN
    SELECT e.extversion, n.nspname INTO installed
    FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the database % has no extension "vector"', pg_catalog.current_database()
            USING ERRCODE = 'LS308',
            HINT = 'As an administrator, run in this database: CREATE EXTENSION vector SCHEMA public;';
    ELSIF installed.nspname <> 'public' THEN
        RAISE EXCEPTION 'the extension "vector" is in schema %, not in public', installed.nspname
            USING ERRCODE = 'LS308',
            HINT = 'As an administrator, run in this database: ALTER EXTENSION vector SET SCHEMA public;';
    ELSIF (pg_catalog.regexp_match(installed.extversion, '^(\d+)\.(\d+)'))::integer[] < '{0,8}' THEN
        -- 0.7 brings halfvec, 0.8 the iterative scans without which a filtered search starves small tenants.
        RAISE EXCEPTION 'the extension "vector" is version %, 0.8 or later is needed', installed.extversion
            USING ERRCODE = 'LS308',
            HINT = 'As an administrator, run in this database: ALTER EXTENSION vector UPDATE;';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS llmspell;
COMMENT ON SCHEMA llmspell IS 'llmspell: memory and state of LLM agents, isolated per tenant by row-level security';

-- Tenant isolation of one table or partition, the same everywhere. Running it again changes nothing.
-- The setting is read once per statement because of the sub-select; unset it is NULL, reset it is '', and neither
-- equals a tenant_id. FORCE subjects the owner too. The operator's policy needs its role, which V012 makes.
CREATE FUNCTION llmspell.apply_tenant_rls(target regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mine CONSTANT text := 'tenant_id = (SELECT current_setting(''app.current_tenant_id'', true))';
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
    -- Tenants differ in size by orders of magnitude; the default 100 most common values would miss most of them.
    EXECUTE format('ALTER TABLE %s ALTER COLUMN tenant_id SET STATISTICS 1000', target);
END
$$;
REVOKE ALL ON FUNCTION llmspell.apply_tenant_rls(regclass) FROM PUBLIC;
COMMENT ON FUNCTION llmspell.apply_tenant_rls(regclass) IS
    'enable, force and write the tenant policies of a table or partition';

-- Instants of one table stay in the calendar that every client has: the years 1 to 9999. Else one tenant's -infinity would
-- stop whoever counts months over all tenants. Ends of periods may be open ('infinity'). Running it again changes nothing.
CREATE FUNCTION llmspell.keep_to_calendar(target regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    instant name;
BEGIN
    FOR instant IN
        SELECT a.attname FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.atttypid = 'timestamptz'::regtype AND a.attnum > 0 AND NOT a.attisdropped
            AND NOT EXISTS (
                SELECT FROM pg_constraint AS c
                WHERE c.conrelid = target AND c.conname = format('%s_in_calendar', a.attname)
            )
        ORDER BY a.attnum
    LOOP
        EXECUTE format(
            'ALTER TABLE %s ADD CONSTRAINT %I CHECK (%I >= %L AND (%I < %L%s))',
            target, format('%s_in_calendar', instant), instant, '0001-01-01 00:00:00+00',
            instant, '10000-01-01 00:00:00+00',
            CASE WHEN instant IN ('valid_time_end', 'transaction_time_end')
                THEN format(' OR %I = %L', instant, 'infinity') ELSE '' END
        );
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION llmspell.keep_to_calendar(regclass) FROM PUBLIC;
COMMENT ON FUNCTION llmspell.keep_to_calendar(regclass) IS
    'refuse instants outside of the years 1 to 9999 in a table of tenants';
