-- V033: what a tenant uses of its quotas, counted and refused in the transaction of the write itself.
--
-- A number is counted only while it is limited: then every write adds its difference, and where that would exceed the limit
-- nothing of the statement happens. The triggers that count are disabled until a store has its first limit: a store without
-- quotas pays nothing. A tenant without limits pays the look-up of them, and a lock that its writers share.
--
-- Who begins to count must see what every writer before it wrote, and every writer after it must see that it is counted:
--   * a writer holds the tenant's advisory lock in shared mode until its transaction ends, and reads the limits after that;
--   * whoever changes limits holds it alone, and counts after that, in a snapshot of its own (READ COMMITTED);
--   * a writer whose snapshot is older than a change of limits (REPEATABLE READ) is refused as a conflict, and retries. Limits
--     are a table of their own for that: a row that changes with nothing else shows by its xmax whether it has changed.
-- A lock for each tenant is one for each that a transaction writes for, and the server keeps room for some thousands in all. So
-- after 100 other tenants than the bound one, the operator's transaction takes one lock for all of them (52) instead: it alone,
-- and whoever changes limits shares it. And whoever changes the limits of more than 100 tenants locks the tables instead.
-- Nothing but the functions below writes here: no serving role changes what it has used, or what it may use.

CREATE TABLE llmspell.tenant_limits (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    max_documents bigint CHECK (max_documents >= 0),
    max_storage_bytes bigint CHECK (max_storage_bytes >= 0),
    max_vectors bigint CHECK (max_vectors >= 0)
);
SELECT llmspell.apply_tenant_rls('llmspell.tenant_limits');
REVOKE INSERT, UPDATE, DELETE ON llmspell.tenant_limits FROM llmspell_app, llmspell_operator;

-- What is not limited is NULL.
CREATE TABLE llmspell.tenant_usage (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    documents bigint CHECK (documents >= 0),
    storage_bytes bigint CHECK (storage_bytes >= 0),
    vectors bigint CHECK (vectors >= 0)
) WITH (fillfactor = 20); -- a counter moves within its page, without a new index entry
SELECT llmspell.apply_tenant_rls('llmspell.tenant_usage');
REVOKE INSERT, UPDATE, DELETE ON llmspell.tenant_usage FROM llmspell_app, llmspell_operator;

-- How many texts a tenant had embedded on the latest UTC day on which it had any; days are counted from 1970-01-01.
CREATE TABLE llmspell.tenant_embeddings (
    tenant_id varchar(255) COLLATE "C" NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    day integer NOT NULL,
    embeddings bigint NOT NULL CHECK (embeddings >= 0)
) WITH (fillfactor = 20);
SELECT llmspell.apply_tenant_rls('llmspell.tenant_embeddings');
REVOKE INSERT, UPDATE, DELETE ON llmspell.tenant_embeddings FROM llmspell_app, llmspell_operator;

-- Say which quota refuses a write: `quota limit used asked`. LS123 is our error QuotaExceeded. Returns where there is room after
-- all, for another writer has made some meanwhile, and keeps it so: the row is locked.
CREATE FUNCTION llmspell.refuse_usage(
    granted llmspell.tenant_limits, add_documents bigint, add_bytes bigint, add_vectors bigint
) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    used llmspell.tenant_usage;
BEGIN
    SELECT * INTO used FROM llmspell.tenant_usage AS u WHERE u.tenant_id = granted.tenant_id FOR NO KEY UPDATE;
    IF add_documents > 0 AND used.documents + add_documents > granted.max_documents THEN
        RAISE EXCEPTION 'max_documents % % %', granted.max_documents, used.documents, add_documents USING ERRCODE = 'LS123';
    ELSIF add_bytes > 0 AND used.storage_bytes + add_bytes > granted.max_storage_bytes THEN
        RAISE EXCEPTION 'max_storage_mb % % %', granted.max_storage_bytes, used.storage_bytes, add_bytes USING ERRCODE = 'LS123';
    ELSIF add_vectors > 0 AND used.vectors + add_vectors > granted.max_vectors THEN
        RAISE EXCEPTION 'max_vectors % % %', granted.max_vectors, used.vectors, add_vectors USING ERRCODE = 'LS123';
    END IF;
END
$$;

-- Add what a write changes, or refuse it. 51 is the number of the locks of single tenants; those whose ids hash to the same number
-- wait for each other's changes of limits, and for nothing else. 52 is that of the one lock of all of them.
CREATE FUNCTION llmspell.count_usage(in_tenant varchar, add_documents bigint, add_bytes bigint, add_vectors bigint)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound CONSTANT text := current_setting('app.current_tenant_id', true);
    granted llmspell.tenant_limits;
    changed boolean;
    others integer := 0;
BEGIN
    -- A cascade and the operator may have another tenant bound, or none; the policies bind this function too.
    IF bound IS DISTINCT FROM in_tenant THEN
        others := coalesce(nullif(current_setting('app.counted_for_others', true), ''), '0')::integer + 1;
        PERFORM set_config('app.current_tenant_id', in_tenant, true), set_config('app.counted_for_others', others::text, true);
    END IF;
    IF others > 100 THEN
        PERFORM pg_advisory_xact_lock(52, 0);
    ELSIF NOT pg_try_advisory_xact_lock_shared(51, hashtext(in_tenant)) THEN
        PERFORM pg_advisory_xact_lock_shared(51, hashtext(in_tenant));
    END IF;
    SELECT l.tenant_id, l.max_documents, l.max_storage_bytes, l.max_vectors, l.xmax <> '0'
    INTO granted.tenant_id, granted.max_documents, granted.max_storage_bytes, granted.max_vectors, changed
    FROM llmspell.tenant_limits AS l WHERE l.tenant_id = in_tenant;
    IF changed IS DISTINCT FROM false AND current_setting('transaction_isolation') <> 'read committed' THEN
        -- Both fail where the snapshot is older than the limits: as they are, or that there are any.
        IF changed THEN
            PERFORM FROM llmspell.tenant_limits AS l WHERE l.tenant_id = in_tenant FOR SHARE;
        ELSE
            INSERT INTO llmspell.tenant_limits (tenant_id) VALUES (in_tenant) ON CONFLICT DO NOTHING;
        END IF;
    END IF;
    IF (add_documents <> 0 AND granted.max_documents IS NOT NULL) OR (add_bytes <> 0 AND granted.max_storage_bytes IS NOT NULL)
        OR (add_vectors <> 0 AND granted.max_vectors IS NOT NULL)
    THEN
        -- Checked again on the row as it is when it is this writer's turn: nobody reads first and writes then.
        UPDATE llmspell.tenant_usage AS u
        SET documents = u.documents + add_documents, storage_bytes = u.storage_bytes + add_bytes,
            vectors = u.vectors + add_vectors
        WHERE u.tenant_id = in_tenant
            AND (add_documents <= 0 OR granted.max_documents IS NULL OR u.documents + add_documents <= granted.max_documents)
            AND (add_bytes <= 0 OR granted.max_storage_bytes IS NULL OR u.storage_bytes + add_bytes <= granted.max_storage_bytes)
            AND (add_vectors <= 0 OR granted.max_vectors IS NULL OR u.vectors + add_vectors <= granted.max_vectors);
        IF NOT FOUND THEN
            PERFORM llmspell.refuse_usage(granted, add_documents, add_bytes, add_vectors);
            UPDATE llmspell.tenant_usage AS u
            SET documents = u.documents + add_documents, storage_bytes = u.storage_bytes + add_bytes,
                vectors = u.vectors + add_vectors
            WHERE u.tenant_id = in_tenant;
        END IF;
    END IF;
    IF bound IS DISTINCT FROM in_tenant THEN
        PERFORM set_config('app.current_tenant_id', coalesce(bound, ''), true);
    END IF;
END
$$;

-- A row that was inserted. Values of keys, contents of artifacts as they are stored, and texts of memories are stored bytes;
-- memories are documents; rows of vectors are vectors.
CREATE FUNCTION llmspell.count_inserted() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE TG_ARGV[0]
        WHEN 'vector' THEN PERFORM llmspell.count_usage(NEW.tenant_id, 0, 0, 1);
        WHEN 'key' THEN PERFORM llmspell.count_usage(NEW.tenant_id, 0, octet_length(NEW.value), 0);
        WHEN 'memory' THEN PERFORM llmspell.count_usage(NEW.tenant_id, 1, octet_length(NEW.content), 0);
        WHEN 'content' THEN PERFORM llmspell.count_usage(NEW.tenant_id, 0, NEW.size_bytes, 0);
    END CASE;
    RETURN NULL;
END
$$;

-- A row whose size was changed.
CREATE FUNCTION llmspell.count_resized() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE TG_ARGV[0]
        WHEN 'key' THEN
            PERFORM llmspell.count_usage(NEW.tenant_id, 0, octet_length(NEW.value) - octet_length(OLD.value), 0);
        WHEN 'memory' THEN
            PERFORM llmspell.count_usage(NEW.tenant_id, 0, octet_length(NEW.content) - octet_length(OLD.content), 0);
        WHEN 'content' THEN
            PERFORM llmspell.count_usage(NEW.tenant_id, 0, NEW.size_bytes - OLD.size_bytes, 0);
    END CASE;
    RETURN NULL;
END
$$;

-- The rows that a statement deleted, of however many tenants: one change of each one's row, and not one for each of theirs.
CREATE FUNCTION llmspell.count_deleted() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    total record;
BEGIN
    CASE TG_ARGV[0]
        WHEN 'vector' THEN
            FOR total IN SELECT d.tenant_id, count(*) AS rows FROM deleted AS d GROUP BY d.tenant_id ORDER BY d.tenant_id LOOP
                PERFORM llmspell.count_usage(total.tenant_id, 0, 0, -total.rows);
            END LOOP;
        WHEN 'key' THEN
            FOR total IN
                SELECT d.tenant_id, sum(octet_length(d.value))::bigint AS bytes
                FROM deleted AS d GROUP BY d.tenant_id ORDER BY d.tenant_id
            LOOP
                PERFORM llmspell.count_usage(total.tenant_id, 0, -total.bytes, 0);
            END LOOP;
        WHEN 'memory' THEN
            FOR total IN
                SELECT d.tenant_id, count(*) AS rows, sum(octet_length(d.content))::bigint AS bytes
                FROM deleted AS d GROUP BY d.tenant_id ORDER BY d.tenant_id
            LOOP
                PERFORM llmspell.count_usage(total.tenant_id, -total.rows, -total.bytes, 0);
            END LOOP;
        WHEN 'content' THEN
            FOR total IN
                SELECT d.tenant_id, sum(d.size_bytes)::bigint AS bytes
                FROM deleted AS d GROUP BY d.tenant_id ORDER BY d.tenant_id
            LOOP
                PERFORM llmspell.count_usage(total.tenant_id, 0, -total.bytes, 0);
            END LOOP;
    END CASE;
    RETURN NULL;
END
$$;

-- Limits become what the registry says, and what is limited is counted anew. The first limit of a store turns counting on: that
-- waits once for every writer of the tables, and they for it. Counting stays on when the last limit goes.
CREATE FUNCTION llmspell.apply_quotas() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound CONSTANT text := current_setting('app.current_tenant_id', true);
    -- More megabytes than the arithmetic of bytes holds are no more than it holds.
    granted llmspell.tenant_limits := ROW(NEW.tenant_id, (NEW.quotas ->> 'max_documents')::bigint,
        CASE WHEN (NEW.quotas ->> 'max_storage_mb')::bigint > 8796093022207 THEN 8796093022207
            ELSE (NEW.quotas ->> 'max_storage_mb')::bigint END * 1048576,
        (NEW.quotas ->> 'max_vectors')::bigint);
    used llmspell.tenant_usage := ROW(NEW.tenant_id, NULL, NULL, NULL);
    granted_before CONSTANT integer := coalesce(nullif(current_setting('app.quotas_granted', true), ''), '0')::integer;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'quotas can only be changed under READ COMMITTED, where what others have written is seen'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF coalesce(granted.max_documents, granted.max_storage_bytes, granted.max_vectors) IS NOT NULL AND EXISTS (
        SELECT FROM pg_trigger AS t
        WHERE t.tgrelid = 'llmspell.kv_store'::regclass AND t.tgname = 'kv_store_usage_insert' AND t.tgenabled = 'D'
    ) THEN
        INSERT INTO llmspell.store_meta (name, value) VALUES ('quotas_counted', 'yes') ON CONFLICT DO NOTHING; -- for the audit
        ALTER TABLE llmspell.kv_store ENABLE TRIGGER kv_store_usage_insert, ENABLE TRIGGER kv_store_usage_delete,
            ENABLE TRIGGER kv_store_usage_resize;
        ALTER TABLE llmspell.memories ENABLE TRIGGER memories_usage_insert, ENABLE TRIGGER memories_usage_delete,
            ENABLE TRIGGER memories_usage_resize;
        ALTER TABLE llmspell.artifact_content ENABLE TRIGGER artifact_content_usage_insert,
            ENABLE TRIGGER artifact_content_usage_delete,
            ENABLE TRIGGER artifact_content_usage_resize;
        ALTER TABLE llmspell.vector_embeddings_384 ENABLE TRIGGER vector_embeddings_384_usage_insert,
            ENABLE TRIGGER vector_embeddings_384_usage_delete;
        ALTER TABLE llmspell.vector_embeddings_768 ENABLE TRIGGER vector_embeddings_768_usage_insert,
            ENABLE TRIGGER vector_embeddings_768_usage_delete;
        ALTER TABLE llmspell.vector_embeddings_1536 ENABLE TRIGGER vector_embeddings_1536_usage_insert,
            ENABLE TRIGGER vector_embeddings_1536_usage_delete;
        ALTER TABLE llmspell.vector_embeddings_3072 ENABLE TRIGGER vector_embeddings_3072_usage_insert,
            ENABLE TRIGGER vector_embeddings_3072_usage_delete;
    END IF;
    PERFORM set_config('app.quotas_granted', (granted_before + 1)::text, true);
    IF granted_before < 100 THEN
        PERFORM pg_advisory_xact_lock_shared(52, 0);
        PERFORM pg_advisory_xact_lock(51, hashtext(NEW.tenant_id));
    ELSE
        -- Every writer has ended, and none begins.
        LOCK TABLE llmspell.kv_store, llmspell.memories, llmspell.artifact_content, llmspell.vector_embeddings_384,
            llmspell.vector_embeddings_768, llmspell.vector_embeddings_1536, llmspell.vector_embeddings_3072
            IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    PERFORM set_config('app.current_tenant_id', NEW.tenant_id, true);
    IF granted.max_documents IS NOT NULL THEN
        used.documents := (SELECT count(*) FROM llmspell.memories AS m WHERE m.tenant_id = NEW.tenant_id);
    END IF;
    IF granted.max_storage_bytes IS NOT NULL THEN
        used.storage_bytes :=
            (SELECT coalesce(sum(octet_length(k.value)), 0) FROM llmspell.kv_store AS k WHERE k.tenant_id = NEW.tenant_id)
            + (SELECT coalesce(sum(octet_length(m.content)), 0) FROM llmspell.memories AS m WHERE m.tenant_id = NEW.tenant_id)
            + (SELECT coalesce(sum(c.size_bytes), 0) FROM llmspell.artifact_content AS c WHERE c.tenant_id = NEW.tenant_id);
    END IF;
    IF granted.max_vectors IS NOT NULL THEN
        used.vectors := (SELECT count(*) FROM llmspell.vector_embeddings_384 AS v WHERE v.tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM llmspell.vector_embeddings_768 AS v WHERE v.tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM llmspell.vector_embeddings_1536 AS v WHERE v.tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM llmspell.vector_embeddings_3072 AS v WHERE v.tenant_id = NEW.tenant_id);
    END IF;
    INSERT INTO llmspell.tenant_limits SELECT granted.*
    ON CONFLICT (tenant_id) DO UPDATE
    SET max_documents = excluded.max_documents, max_storage_bytes = excluded.max_storage_bytes,
        max_vectors = excluded.max_vectors;
    INSERT INTO llmspell.tenant_usage SELECT used.*
    ON CONFLICT (tenant_id) DO UPDATE
    SET documents = excluded.documents, storage_bytes = excluded.storage_bytes, vectors = excluded.vectors;
    PERFORM set_config('app.current_tenant_id', coalesce(bound, ''), true);
    RETURN NULL;
END
$$;

-- What was recorded before was never enforced. Numbers that are those of every new tenant were chosen by nobody, and become no
-- limit; a number that somebody chose holds from now on, also where it is exceeded already: deleting goes on.
-- The migrating role is subject to FORCE and would find no rows, so it is lifted meanwhile, inside this transaction. All tenants
-- are done together, and counted only where one has a limit: the locks are those of tables, however many tenants there are.
ALTER TABLE llmspell.tenants NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.tenant_limits NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.tenant_usage NO FORCE ROW LEVEL SECURITY;
UPDATE llmspell.tenants SET quotas = jsonb_build_object(
    'max_documents', nullif((quotas ->> 'max_documents')::bigint, 10000),
    'max_storage_mb', nullif((quotas ->> 'max_storage_mb')::bigint, 1024),
    'max_vectors', nullif((quotas ->> 'max_vectors')::bigint, 1000000),
    'max_api_calls_per_minute', nullif((quotas ->> 'max_api_calls_per_minute')::bigint, 100),
    'max_api_calls_per_day', nullif((quotas ->> 'max_api_calls_per_day')::bigint, 10000),
    'max_embeddings_per_day', nullif((quotas ->> 'max_embeddings_per_day')::bigint, 50000)
);
INSERT INTO llmspell.tenant_limits (tenant_id, max_documents, max_storage_bytes, max_vectors)
SELECT tenant_id, (quotas ->> 'max_documents')::bigint,
    CASE WHEN (quotas ->> 'max_storage_mb')::bigint > 8796093022207 THEN 8796093022207 ELSE (quotas ->> 'max_storage_mb')::bigint END
        * 1048576,
    (quotas ->> 'max_vectors')::bigint
FROM llmspell.tenants;

DO $$
BEGIN
    IF EXISTS (SELECT FROM llmspell.tenant_limits WHERE coalesce(max_documents, max_storage_bytes, max_vectors) IS NOT NULL) THEN
        INSERT INTO llmspell.store_meta (name, value) VALUES ('quotas_counted', 'yes') ON CONFLICT DO NOTHING; -- for the audit
        -- This waits for whoever uses the tables, and keeps everybody away until all is counted and the triggers go on from there.
        ALTER TABLE llmspell.kv_store NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.memories NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.artifact_content NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_384 NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_768 NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_1536 NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_3072 NO FORCE ROW LEVEL SECURITY;
        INSERT INTO llmspell.tenant_usage (tenant_id, documents, storage_bytes, vectors)
        SELECT tenant_id, CASE WHEN l.max_documents IS NOT NULL THEN coalesce(m.documents, 0) END,
            CASE WHEN l.max_storage_bytes IS NOT NULL THEN coalesce(k.bytes, 0) + coalesce(m.bytes, 0) + coalesce(c.bytes, 0) END,
            CASE WHEN l.max_vectors IS NOT NULL THEN coalesce(v.vectors, 0) END
        FROM llmspell.tenant_limits AS l
        LEFT JOIN (
            SELECT tenant_id, count(*) AS documents, sum(octet_length(content)) AS bytes FROM llmspell.memories GROUP BY tenant_id
        ) AS m USING (tenant_id)
        LEFT JOIN (
            SELECT tenant_id, sum(octet_length(value)) AS bytes FROM llmspell.kv_store GROUP BY tenant_id
        ) AS k USING (tenant_id)
        LEFT JOIN (
            SELECT tenant_id, sum(size_bytes) AS bytes FROM llmspell.artifact_content GROUP BY tenant_id
        ) AS c USING (tenant_id)
        LEFT JOIN (
            SELECT tenant_id, count(*) AS vectors FROM (
                SELECT tenant_id FROM llmspell.vector_embeddings_384 UNION ALL SELECT tenant_id FROM llmspell.vector_embeddings_768
                UNION ALL SELECT tenant_id FROM llmspell.vector_embeddings_1536
                UNION ALL SELECT tenant_id FROM llmspell.vector_embeddings_3072
            ) AS every GROUP BY tenant_id
        ) AS v USING (tenant_id);
        ALTER TABLE llmspell.kv_store FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.memories FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.artifact_content FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_384 FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_768 FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_1536 FORCE ROW LEVEL SECURITY;
        ALTER TABLE llmspell.vector_embeddings_3072 FORCE ROW LEVEL SECURITY;
    ELSE
        INSERT INTO llmspell.tenant_usage (tenant_id) SELECT tenant_id FROM llmspell.tenant_limits;
    END IF;
END
$$;

CREATE TRIGGER kv_store_usage_insert AFTER INSERT ON llmspell.kv_store
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('key');
CREATE TRIGGER kv_store_usage_delete AFTER DELETE ON llmspell.kv_store REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('key');
CREATE TRIGGER memories_usage_insert AFTER INSERT ON llmspell.memories
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('memory');
CREATE TRIGGER memories_usage_delete AFTER DELETE ON llmspell.memories REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('memory');
CREATE TRIGGER artifact_content_usage_insert AFTER INSERT ON llmspell.artifact_content
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('content');
CREATE TRIGGER artifact_content_usage_delete AFTER DELETE ON llmspell.artifact_content REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('content');
CREATE TRIGGER vector_embeddings_384_usage_insert AFTER INSERT ON llmspell.vector_embeddings_384
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('vector');
CREATE TRIGGER vector_embeddings_384_usage_delete AFTER DELETE ON llmspell.vector_embeddings_384 REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('vector');
CREATE TRIGGER vector_embeddings_768_usage_insert AFTER INSERT ON llmspell.vector_embeddings_768
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('vector');
CREATE TRIGGER vector_embeddings_768_usage_delete AFTER DELETE ON llmspell.vector_embeddings_768 REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('vector');
CREATE TRIGGER vector_embeddings_1536_usage_insert AFTER INSERT ON llmspell.vector_embeddings_1536
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('vector');
CREATE TRIGGER vector_embeddings_1536_usage_delete AFTER DELETE ON llmspell.vector_embeddings_1536 REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('vector');
CREATE TRIGGER vector_embeddings_3072_usage_insert AFTER INSERT ON llmspell.vector_embeddings_3072
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('vector');
CREATE TRIGGER vector_embeddings_3072_usage_delete AFTER DELETE ON llmspell.vector_embeddings_3072 REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('vector');
CREATE TRIGGER kv_store_usage_resize AFTER UPDATE OF value ON llmspell.kv_store
    FOR EACH ROW WHEN (octet_length(NEW.value) <> octet_length(OLD.value)) EXECUTE FUNCTION llmspell.count_resized('key');
CREATE TRIGGER memories_usage_resize AFTER UPDATE OF content ON llmspell.memories
    FOR EACH ROW WHEN (octet_length(NEW.content) <> octet_length(OLD.content)) EXECUTE FUNCTION llmspell.count_resized('memory');
CREATE TRIGGER artifact_content_usage_resize AFTER UPDATE OF size_bytes ON llmspell.artifact_content
    FOR EACH ROW WHEN (NEW.size_bytes <> OLD.size_bytes) EXECUTE FUNCTION llmspell.count_resized('content');
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM llmspell.tenant_limits WHERE coalesce(max_documents, max_storage_bytes, max_vectors) IS NOT NULL) THEN
        ALTER TABLE llmspell.kv_store DISABLE TRIGGER kv_store_usage_insert, DISABLE TRIGGER kv_store_usage_delete,
            DISABLE TRIGGER kv_store_usage_resize;
        ALTER TABLE llmspell.memories DISABLE TRIGGER memories_usage_insert, DISABLE TRIGGER memories_usage_delete,
            DISABLE TRIGGER memories_usage_resize;
        ALTER TABLE llmspell.artifact_content DISABLE TRIGGER artifact_content_usage_insert, DISABLE TRIGGER artifact_content_usage_delete,
            DISABLE TRIGGER artifact_content_usage_resize;
        ALTER TABLE llmspell.vector_embeddings_384 DISABLE TRIGGER vector_embeddings_384_usage_insert,
            DISABLE TRIGGER vector_embeddings_384_usage_delete;
        ALTER TABLE llmspell.vector_embeddings_768 DISABLE TRIGGER vector_embeddings_768_usage_insert,
            DISABLE TRIGGER vector_embeddings_768_usage_delete;
        ALTER TABLE llmspell.vector_embeddings_1536 DISABLE TRIGGER vector_embeddings_1536_usage_insert,
            DISABLE TRIGGER vector_embeddings_1536_usage_delete;
        ALTER TABLE llmspell.vector_embeddings_3072 DISABLE TRIGGER vector_embeddings_3072_usage_insert,
            DISABLE TRIGGER vector_embeddings_3072_usage_delete;
    END IF;
END
$$;
ALTER TABLE llmspell.tenant_usage FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.tenant_limits FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.tenants FORCE ROW LEVEL SECURITY;

CREATE TRIGGER tenants_quotas_granted AFTER INSERT ON llmspell.tenants
    FOR EACH ROW EXECUTE FUNCTION llmspell.apply_quotas();
CREATE TRIGGER tenants_quotas_changed AFTER UPDATE OF quotas ON llmspell.tenants
    FOR EACH ROW WHEN (NEW.quotas IS DISTINCT FROM OLD.quotas) EXECUTE FUNCTION llmspell.apply_quotas();

-- The UTC day that it is, counted from 1970-01-01. A server is not told by its callers, whose clocks may be wrong, and who could
-- name tomorrow for a second allowance. The argument is what the caller's clock says; it counts only where the owner puts
-- another function in the place of this one, as tests do, whose clocks stand still.
CREATE FUNCTION llmspell.counted_day(said integer) RETURNS integer
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date - date '1970-01-01' $$;

-- Count texts that are about to be embedded, and return how many that makes on the day, or say what refuses them. NULL: the tenant
-- is not registered, and nothing is counted. A day that has passed is never counted again, but for one that lies more than a day
-- ahead: then the clock was wrong, and has been put right.
CREATE FUNCTION llmspell.take_embeddings(in_tenant varchar, asked bigint, said integer) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    granted bigint;
    today integer;
    held llmspell.tenant_embeddings;
BEGIN
    IF asked < 0 THEN
        RAISE EXCEPTION 'what was embedded cannot be given back' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- This runs as the owner, whom no signature binds: injected SQL must not use up what another tenant may embed.
    IF llmspell.tenant_signing() AND llmspell.signed_tenant() IS DISTINCT FROM in_tenant THEN
        RAISE EXCEPTION 'the tenant of this statement is not signed, or its signature has expired' USING ERRCODE = 'LS311';
    END IF;
    IF current_setting('app.current_tenant_id', true) IS DISTINCT FROM in_tenant THEN
        RAISE EXCEPTION 'the tenant of this statement is not bound' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT (t.quotas ->> 'max_embeddings_per_day')::bigint INTO granted FROM llmspell.tenants AS t WHERE t.tenant_id = in_tenant;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO llmspell.tenant_embeddings (tenant_id, day, embeddings) VALUES (in_tenant, 0, 0) ON CONFLICT DO NOTHING;
    SELECT * INTO held FROM llmspell.tenant_embeddings AS e WHERE e.tenant_id = in_tenant FOR NO KEY UPDATE;
    today := llmspell.counted_day(said); -- asked when it is this caller's turn, who may have waited past midnight
    IF held.day NOT BETWEEN today AND today + 1 THEN
        held.day := today;
        held.embeddings := 0;
    END IF;
    IF asked > 0 AND held.embeddings + asked > granted THEN
        RAISE EXCEPTION 'max_embeddings_per_day % % %', granted, held.embeddings, asked USING ERRCODE = 'LS123';
    END IF;
    UPDATE llmspell.tenant_embeddings AS e SET day = held.day, embeddings = held.embeddings + asked WHERE e.tenant_id = in_tenant;
    RETURN held.embeddings + asked;
END
$$;

REVOKE ALL ON FUNCTION llmspell.refuse_usage(llmspell.tenant_limits, bigint, bigint, bigint),
    llmspell.count_usage(varchar, bigint, bigint, bigint),
    llmspell.count_inserted(), llmspell.count_resized(), llmspell.count_deleted(), llmspell.apply_quotas(),
    llmspell.counted_day(integer), llmspell.take_embeddings(varchar, bigint, integer)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION llmspell.counted_day(integer), llmspell.take_embeddings(varchar, bigint, integer) TO llmspell_app;
