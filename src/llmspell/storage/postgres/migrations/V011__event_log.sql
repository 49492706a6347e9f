-- V011: the event log, one partition per month (UTC), plus a default partition so that no insert ever fails.
--
-- Pages are cut by (timestamp, event_id) on the primary key, in either direction; every query names a time range.
-- Not built: GIN on payload (it would halve the ingestion rate and no plan could use it under row-level security) and
-- (tenant_id, timestamp DESC), which is the primary key read backwards.
-- `sequence` counts the events of a tenant. A sequence of the server would count those of all, and its gaps would tell
-- each tenant how busy the others are.

CREATE TABLE llmspell.event_log (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    event_id uuid NOT NULL,
    event_type varchar(255) COLLATE "C" NOT NULL,
    correlation_id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    sequence bigint NOT NULL,
    language varchar(50) COLLATE "C" NOT NULL DEFAULT 'python',
    payload jsonb NOT NULL,
    PRIMARY KEY (tenant_id, timestamp, event_id)
) PARTITION BY RANGE (timestamp);
CREATE INDEX idx_event_log_correlation ON llmspell.event_log (tenant_id, correlation_id, timestamp DESC);
CREATE INDEX idx_event_log_type ON llmspell.event_log (tenant_id, event_type, timestamp DESC);
CREATE INDEX idx_event_log_sequence ON llmspell.event_log (tenant_id, sequence);
SELECT llmspell.apply_tenant_rls('llmspell.event_log');
SELECT llmspell.keep_to_calendar('llmspell.event_log');

-- The last sequence of each tenant. In the insert's transaction a writer of n events adds n and takes those numbers.
CREATE TABLE llmspell.event_sequences (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    value bigint NOT NULL CHECK (value >= 0)
);
SELECT llmspell.apply_tenant_rls('llmspell.event_sequences');

-- A partition queried by its own name does not see the policies of its parent, so each has its own.
-- Autovacuum options are refused on the partitioned parent, so each partition has its own too.
CREATE TABLE llmspell.event_log_default PARTITION OF llmspell.event_log DEFAULT;
ALTER TABLE llmspell.event_log_default
    SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.01);
SELECT llmspell.apply_tenant_rls('llmspell.event_log_default');

-- Detached months wait here to be dumped and dropped by an administrator. Tenants have no way in.
CREATE SCHEMA IF NOT EXISTS llmspell_archive;
REVOKE ALL ON SCHEMA llmspell_archive FROM PUBLIC;
COMMENT ON SCHEMA llmspell_archive IS 'llmspell: event partitions that retention detached; dump them, then drop them';

-- Make the partition of one month, unless it exists. Rows of that month that the default partition caught move into it.
-- It is created apart and attached when it is complete: attaching locks the default partition, never the parent.
-- The owner is subject to FORCE and would find nothing to move, so FORCE is lifted for the move, inside this
-- transaction and under the exclusive lock that attaching needs anyway.
CREATE FUNCTION llmspell.create_event_log_partition(start_date date, end_date date) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET lock_timeout = '5s'
AS $$
DECLARE
    partition_name CONSTANT text := format('event_log_%s', to_char(start_date, 'YYYY_MM'));
    period CONSTANT text := format('(%s to %s)', start_date, end_date);
BEGIN
    IF start_date IS NULL OR end_date IS NULL OR start_date <> date_trunc('month', start_date)::date
        OR end_date <> (start_date + interval '1 month')::date THEN
        RAISE EXCEPTION 'an event partition covers one month, from its first day to the next first day; got % to %',
            start_date, end_date USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('llmspell.event_log partitions', 0));
    IF to_regclass(format('llmspell.%I', partition_name)) IS NOT NULL THEN
        RETURN format('SKIPPED: %s %s', partition_name, period);
    END IF;
    EXECUTE format(
        'CREATE TABLE llmspell.%I (LIKE llmspell.event_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
        partition_name
    );
    EXECUTE format(
        'ALTER TABLE llmspell.%I SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.01)',
        partition_name
    );
    ALTER TABLE llmspell.event_log_default NO FORCE ROW LEVEL SECURITY;
    EXECUTE format(
        'WITH moved AS ('
        'DELETE FROM llmspell.event_log_default WHERE "timestamp" >= $1 AND "timestamp" < $2 RETURNING *'
        ') INSERT INTO llmspell.%I SELECT * FROM moved',
        partition_name
    ) USING start_date::timestamptz, end_date::timestamptz;
    ALTER TABLE llmspell.event_log_default FORCE ROW LEVEL SECURITY;
    PERFORM llmspell.apply_tenant_rls(format('llmspell.%I', partition_name)::regclass);
    -- Tenants go through the parent, which needs no privilege here; default privileges would have given some.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'llmspell_app') THEN
        EXECUTE format('REVOKE ALL ON llmspell.%I FROM llmspell_app', partition_name);
    END IF;
    EXECUTE format(
        'ALTER TABLE llmspell.event_log ATTACH PARTITION llmspell.%I FOR VALUES FROM (%L) TO (%L)',
        partition_name, start_date::timestamptz, end_date::timestamptz
    );
    RETURN format('CREATED: %s %s', partition_name, period);
END
$$;
REVOKE ALL ON FUNCTION llmspell.create_event_log_partition(date, date) FROM PUBLIC;

-- The current month and the next three; one line each, CREATED or SKIPPED. Run at start-up and daily.
CREATE FUNCTION llmspell.ensure_future_event_log_partitions() RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET lock_timeout = '5s'
AS $$
DECLARE
    this_month CONSTANT date := date_trunc('month', now())::date;
BEGIN
    FOR ahead IN 0..3 LOOP
        RETURN NEXT llmspell.create_event_log_partition(
            (this_month + ahead * interval '1 month')::date, (this_month + (ahead + 1) * interval '1 month')::date
        );
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION llmspell.ensure_future_event_log_partitions() FROM PUBLIC;

-- Detach the months that ended by `before` into llmspell_archive; one line each. Nothing is dropped, and nothing is
-- locked but the months that go. A detached table loses the protection of its parent: grants go first, its own policies
-- stay.
CREATE FUNCTION llmspell.archive_event_log_partitions(before timestamptz) RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET lock_timeout = '5s'
AS $$
DECLARE
    part record;
    index record;
    archived_name text;
    times integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('llmspell.event_log partitions', 0));
    FOR part IN
        SELECT child.oid, child.relname AS name, bounds.lower_end, bounds.upper_end
        FROM pg_inherits AS i
        JOIN pg_class AS child ON child.oid = i.inhrelid
        CROSS JOIN LATERAL regexp_match(
            pg_get_expr(child.relpartbound, child.oid), 'FROM \(''(.+)''\) TO \(''(.+)''\)'
        ) AS b
        CROSS JOIN LATERAL (SELECT b[1]::timestamptz AS lower_end, b[2]::timestamptz AS upper_end) AS bounds
        WHERE i.inhparent = 'llmspell.event_log'::regclass AND bounds.upper_end <= before
        ORDER BY bounds.lower_end
    LOOP
        EXECUTE format('REVOKE ALL ON llmspell.%I FROM PUBLIC', part.name);
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'llmspell_app') THEN
            EXECUTE format('REVOKE ALL ON llmspell.%I FROM llmspell_app', part.name);
        END IF;
        EXECUTE format('ALTER TABLE llmspell.event_log DETACH PARTITION llmspell.%I', part.name);
        -- The month may have been archived before, and late events come since: names in a schema are taken once.
        archived_name := part.name;
        times := 1;
        WHILE to_regclass(format('llmspell_archive.%I', archived_name)) IS NOT NULL LOOP
            times := times + 1;
            archived_name := format('%s_%s', part.name, times);
        END LOOP;
        IF times > 1 THEN
            EXECUTE format('ALTER TABLE llmspell.%I RENAME TO %I', part.name, archived_name);
            FOR index IN
                SELECT c.relname AS name, row_number() OVER (ORDER BY c.relname) AS place
                FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = part.oid
            LOOP
                EXECUTE format(
                    'ALTER INDEX llmspell.%I RENAME TO %I', index.name, format('%s_key_%s', archived_name, index.place)
                );
            END LOOP;
        END IF;
        EXECUTE format('ALTER TABLE llmspell.%I SET SCHEMA llmspell_archive', archived_name);
        RETURN NEXT format('ARCHIVED: %s (%s to %s)', archived_name, part.lower_end::date, part.upper_end::date);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION llmspell.archive_event_log_partitions(timestamptz) FROM PUBLIC;

-- Retention: old rows in the default partition get their month first, then all months that ended by `before` are
-- archived; at most 120 stray months per call, then call again. It runs as the caller, who must see the rows of all
-- tenants: that is the operator. As the owner it would have to lift FORCE, under a lock that stops every writer.
-- Each step waits at most five seconds for a lock; on lock_not_available nothing has happened: call again later.
CREATE FUNCTION llmspell.cleanup_old_event_log_partitions(before timestamptz) RETURNS SETOF text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET lock_timeout = '5s'
AS $$
DECLARE
    stray_months date[];
    stray date;
BEGIN
    IF NOT pg_has_role(current_user, 'llmspell_operator', 'USAGE') THEN
        RAISE EXCEPTION 'the role % does not see the events of all tenants', current_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Call it as llmspell_operator.';
    END IF;
    SELECT array_agg(month) INTO stray_months FROM (
        SELECT DISTINCT date_trunc('month', e."timestamp")::date AS month
        FROM llmspell.event_log_default AS e
        WHERE e."timestamp" < date_trunc('month', before)
        ORDER BY month LIMIT 120
    ) AS old;
    FOREACH stray IN ARRAY coalesce(stray_months, '{}') LOOP
        PERFORM llmspell.create_event_log_partition(stray, (stray + interval '1 month')::date);
    END LOOP;
    RETURN QUERY SELECT * FROM llmspell.archive_event_log_partitions(before);
END
$$;
REVOKE ALL ON FUNCTION llmspell.cleanup_old_event_log_partitions(timestamptz) FROM PUBLIC;

DO $$ BEGIN PERFORM llmspell.ensure_future_event_log_partitions(); END $$;
