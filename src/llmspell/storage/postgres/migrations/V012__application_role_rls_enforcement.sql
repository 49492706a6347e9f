-- V012: the two roles that serve, and exactly what they may do.
--
--   llmspell_app        serves tenants: rows of the bound tenant, owns nothing, creates nothing
--   llmspell_operator   backup, totals, retention: rows of all tenants by policy, owns nothing, creates nothing
--
-- The role that migrates owns everything and is itself forced under the policies: without a tenant it sees no row.
-- Neither role gets a password here; an administrator sets one, or uses peer or certificate authentication.
-- Roles belong to the cluster while this runs in one database, so they may exist already, or appear meanwhile.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['llmspell_app', 'llmspell_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format(
                    'CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', wanted
                );
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN
                    NULL; -- another database of this cluster migrated at the same moment
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'the role % may not create the role %', current_user, wanted
                        USING ERRCODE = 'insufficient_privilege',
                        HINT = format(
                            'As an administrator, run: ALTER ROLE %I CREATEROLE; or: CREATE ROLE %I LOGIN;',
                            current_user, wanted
                        );
            END;
        END IF;
        IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted AND (rolsuper OR rolbypassrls)) THEN
            RAISE EXCEPTION 'the role % bypasses row-level security, so tenants would not be isolated', wanted
                USING ERRCODE = 'LS307',
                HINT = format('As an administrator, run: ALTER ROLE %I NOSUPERUSER NOBYPASSRLS;', wanted);
        END IF;
    END LOOP;
END
$$;

DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO llmspell_app, llmspell_operator', current_database());
    -- Temporary tables outlive a request on a pooled connection, and with it the tenant.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    -- A REVOKE by another than the owner only warns, so what it should have done is looked at.
    IF has_database_privilege('llmspell_app', current_database(), 'TEMP')
        OR has_database_privilege('llmspell_operator', current_database(), 'TEMP') THEN
        RAISE EXCEPTION 'the serving roles may create temporary tables in the database %', current_database()
            USING ERRCODE = 'LS307', HINT = format(
                'Let the role that migrates own the database, or as an administrator, run:'
                ' REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC, llmspell_app, llmspell_operator;', current_database()
            );
    END IF;
    IF has_schema_privilege('llmspell_app', 'public', 'CREATE')
        OR has_schema_privilege('llmspell_operator', 'public', 'CREATE') THEN
        RAISE EXCEPTION 'the serving roles may create objects in the schema public'
            USING ERRCODE = 'LS307',
            HINT = 'As an administrator, run: REVOKE CREATE ON SCHEMA public FROM PUBLIC, llmspell_app, llmspell_operator;';
    END IF;
    -- For people at a prompt. Our own statements are qualified, and rely on no setting of a connection.
    IF pg_has_role(current_user, 'llmspell_app', 'MEMBER WITH ADMIN OPTION')
        AND pg_has_role(current_user, 'llmspell_operator', 'MEMBER WITH ADMIN OPTION') THEN
        EXECUTE format(
            'ALTER ROLE llmspell_app IN DATABASE %I SET search_path = llmspell, public', current_database()
        );
        EXECUTE format(
            'ALTER ROLE llmspell_operator IN DATABASE %I SET search_path = llmspell, public', current_database()
        );
    END IF;
END
$$;

REVOKE ALL ON SCHEMA llmspell FROM PUBLIC;
GRANT USAGE ON SCHEMA llmspell TO llmspell_app, llmspell_operator;
GRANT USAGE ON SCHEMA llmspell_archive TO llmspell_operator; -- to dump what was detached

-- No TRUNCATE (it ignores policies), no REFERENCES, no TRIGGER. Nothing on sequences for tenants: nextval would tell one
-- how busy the others are.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA llmspell TO llmspell_app, llmspell_operator;
ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO llmspell_app, llmspell_operator;
ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell GRANT USAGE, SELECT ON SEQUENCES TO llmspell_operator;
REVOKE INSERT, UPDATE, DELETE ON llmspell.schema_migrations FROM llmspell_app, llmspell_operator;

-- Functions are for whom they are granted to.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA llmspell FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT EXECUTE ON FUNCTION llmspell.ensure_future_event_log_partitions() TO llmspell_app, llmspell_operator;
GRANT EXECUTE ON FUNCTION llmspell.create_event_log_partition(date, date) TO llmspell_operator;
GRANT EXECUTE ON FUNCTION llmspell.archive_event_log_partitions(timestamptz),
    llmspell.cleanup_old_event_log_partitions(timestamptz) TO llmspell_operator;

-- Every table and partition that exists gets the operator's policy. Default privileges give later tables the grants
-- above and nothing else: each later migration calls apply_tenant_rls itself.
DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN
        SELECT c.oid::regclass
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'llmspell'::regnamespace AND c.relkind IN ('r', 'p')
        ORDER BY c.relname
    LOOP
        PERFORM llmspell.apply_tenant_rls(target);
        IF (SELECT relispartition FROM pg_catalog.pg_class WHERE oid = target) THEN
            EXECUTE format('REVOKE ALL ON %s FROM llmspell_app', target);
        END IF;
    END LOOP;
END
$$;
