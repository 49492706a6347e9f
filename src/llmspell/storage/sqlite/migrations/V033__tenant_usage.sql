-- V033: what a tenant uses of its quotas, counted and refused in the transaction of the write itself.
--
-- A number is counted only while it is limited: then every write adds its difference, and where that would exceed the limit
-- nothing of it happens. Limits and counters are two tables, as on servers.
--
-- A refusal says `quota limit used asked`. RAISE takes only a literal before SQLite 3.47, and the sqlite3 of a distribution must be
-- able to open the file: so the text is a path that JSON refuses, which its error quotes. RAISE stands behind it for SQLite's
-- sake, which keeps what a statement needs to be undone only where it sees that it may abort. Functions are as old for the same reason.

CREATE TABLE tenant_limits (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    max_documents INTEGER CHECK (max_documents >= 0),
    max_storage_bytes INTEGER CHECK (max_storage_bytes >= 0),
    max_vectors INTEGER CHECK (max_vectors >= 0)
) STRICT, WITHOUT ROWID;

-- What is not limited is NULL.
CREATE TABLE tenant_usage (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    documents INTEGER CHECK (documents >= 0),
    storage_bytes INTEGER CHECK (storage_bytes >= 0),
    vectors INTEGER CHECK (vectors >= 0)
) STRICT, WITHOUT ROWID;

-- How many texts a tenant had embedded on the latest UTC day on which it had any; days are counted from 1970-01-01.
CREATE TABLE tenant_embeddings (
    tenant_id TEXT NOT NULL PRIMARY KEY CHECK (tenant_id <> ''),
    day INTEGER NOT NULL,
    embeddings INTEGER NOT NULL CHECK (embeddings >= 0)
) STRICT, WITHOUT ROWID;

-- Values of keys, contents of artifacts as they are stored, and texts of memories are stored bytes; memories are documents;
-- rows of vectors are vectors.
CREATE TRIGGER kv_store_usage_insert AFTER INSERT ON kv_store WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes + length(CAST(NEW.value AS BLOB))
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_storage_mb ' || l.max_storage_bytes
        || ' ' || (u.storage_bytes - length(CAST(NEW.value AS BLOB)))
        || ' ' || length(CAST(NEW.value AS BLOB))) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.storage_bytes > l.max_storage_bytes AND length(CAST(NEW.value AS BLOB)) > 0;
END;
CREATE TRIGGER kv_store_usage_delete AFTER DELETE ON kv_store WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes - length(CAST(OLD.value AS BLOB))
    WHERE tenant_id = OLD.tenant_id;
END;
CREATE TRIGGER kv_store_usage_resize AFTER UPDATE OF value ON kv_store
WHEN length(CAST(NEW.value AS BLOB)) <> length(CAST(OLD.value AS BLOB)) AND EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes + length(CAST(NEW.value AS BLOB)) - length(CAST(OLD.value AS BLOB))
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_storage_mb ' || l.max_storage_bytes
        || ' ' || (u.storage_bytes - length(CAST(NEW.value AS BLOB)) + length(CAST(OLD.value AS BLOB)))
        || ' ' || (length(CAST(NEW.value AS BLOB)) - length(CAST(OLD.value AS BLOB)))) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.storage_bytes > l.max_storage_bytes
        AND length(CAST(NEW.value AS BLOB)) > length(CAST(OLD.value AS BLOB));
END;

CREATE TRIGGER memories_usage_insert AFTER INSERT ON memories WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND (max_documents IS NOT NULL OR max_storage_bytes IS NOT NULL)
)
BEGIN
    UPDATE tenant_usage SET documents = documents + 1, storage_bytes = storage_bytes + length(CAST(NEW.content AS BLOB))
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_documents ' || l.max_documents || ' ' || (u.documents - 1)
        || ' ' || 1) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.documents > l.max_documents;
    SELECT CASE WHEN json_extract('{}', 'max_storage_mb ' || l.max_storage_bytes
        || ' ' || (u.storage_bytes - length(CAST(NEW.content AS BLOB)))
        || ' ' || length(CAST(NEW.content AS BLOB))) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.storage_bytes > l.max_storage_bytes AND length(CAST(NEW.content AS BLOB)) > 0;
END;
CREATE TRIGGER memories_usage_delete AFTER DELETE ON memories WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND (max_documents IS NOT NULL OR max_storage_bytes IS NOT NULL)
)
BEGIN
    UPDATE tenant_usage SET documents = documents - 1, storage_bytes = storage_bytes - length(CAST(OLD.content AS BLOB))
    WHERE tenant_id = OLD.tenant_id;
END;
CREATE TRIGGER memories_usage_resize AFTER UPDATE OF content ON memories
WHEN length(CAST(NEW.content AS BLOB)) <> length(CAST(OLD.content AS BLOB)) AND EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes + length(CAST(NEW.content AS BLOB)) - length(CAST(OLD.content AS BLOB))
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_storage_mb ' || l.max_storage_bytes
        || ' ' || (u.storage_bytes - length(CAST(NEW.content AS BLOB)) + length(CAST(OLD.content AS BLOB)))
        || ' ' || (length(CAST(NEW.content AS BLOB)) - length(CAST(OLD.content AS BLOB)))) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.storage_bytes > l.max_storage_bytes
        AND length(CAST(NEW.content AS BLOB)) > length(CAST(OLD.content AS BLOB));
END;

CREATE TRIGGER artifact_content_usage_insert AFTER INSERT ON artifact_content WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes + NEW.size_bytes
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_storage_mb ' || l.max_storage_bytes || ' ' || (u.storage_bytes - NEW.size_bytes)
        || ' ' || NEW.size_bytes) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.storage_bytes > l.max_storage_bytes AND NEW.size_bytes > 0;
END;
CREATE TRIGGER artifact_content_usage_delete AFTER DELETE ON artifact_content WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes - OLD.size_bytes
    WHERE tenant_id = OLD.tenant_id;
END;
CREATE TRIGGER artifact_content_usage_resize AFTER UPDATE OF size_bytes ON artifact_content
WHEN NEW.size_bytes <> OLD.size_bytes AND EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_storage_bytes IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET storage_bytes = storage_bytes + NEW.size_bytes - OLD.size_bytes
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_storage_mb ' || l.max_storage_bytes
        || ' ' || (u.storage_bytes - NEW.size_bytes + OLD.size_bytes)
        || ' ' || (NEW.size_bytes - OLD.size_bytes)) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.storage_bytes > l.max_storage_bytes AND NEW.size_bytes > OLD.size_bytes;
END;

CREATE TRIGGER vector_embeddings_384_usage_insert AFTER INSERT ON vector_embeddings_384 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors + 1
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_vectors ' || l.max_vectors || ' ' || (u.vectors - 1)
        || ' ' || 1) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.vectors > l.max_vectors;
END;
CREATE TRIGGER vector_embeddings_384_usage_delete AFTER DELETE ON vector_embeddings_384 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors - 1
    WHERE tenant_id = OLD.tenant_id;
END;

CREATE TRIGGER vector_embeddings_768_usage_insert AFTER INSERT ON vector_embeddings_768 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors + 1
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_vectors ' || l.max_vectors || ' ' || (u.vectors - 1)
        || ' ' || 1) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.vectors > l.max_vectors;
END;
CREATE TRIGGER vector_embeddings_768_usage_delete AFTER DELETE ON vector_embeddings_768 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors - 1
    WHERE tenant_id = OLD.tenant_id;
END;

CREATE TRIGGER vector_embeddings_1536_usage_insert AFTER INSERT ON vector_embeddings_1536 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors + 1
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_vectors ' || l.max_vectors || ' ' || (u.vectors - 1)
        || ' ' || 1) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.vectors > l.max_vectors;
END;
CREATE TRIGGER vector_embeddings_1536_usage_delete AFTER DELETE ON vector_embeddings_1536 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors - 1
    WHERE tenant_id = OLD.tenant_id;
END;

CREATE TRIGGER vector_embeddings_3072_usage_insert AFTER INSERT ON vector_embeddings_3072 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = NEW.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors + 1
    WHERE tenant_id = NEW.tenant_id;
    SELECT CASE WHEN json_extract('{}', 'max_vectors ' || l.max_vectors || ' ' || (u.vectors - 1)
        || ' ' || 1) IS NULL THEN RAISE(ABORT, 'a quota is exceeded') END
    FROM tenant_usage AS u JOIN tenant_limits AS l ON l.tenant_id = NEW.tenant_id
    WHERE u.tenant_id = NEW.tenant_id AND u.vectors > l.max_vectors;
END;
CREATE TRIGGER vector_embeddings_3072_usage_delete AFTER DELETE ON vector_embeddings_3072 WHEN EXISTS (
    SELECT 1 FROM tenant_limits WHERE tenant_id = OLD.tenant_id AND max_vectors IS NOT NULL
)
BEGIN
    UPDATE tenant_usage SET vectors = vectors - 1
    WHERE tenant_id = OLD.tenant_id;
END;

-- What was recorded before was never enforced. Numbers that are those of every new tenant were chosen by nobody, and become no
-- limit; a number that somebody chose holds from now on, also where it is exceeded already: deleting goes on.
UPDATE tenants SET quotas = json_object(
    'max_documents', nullif(json_extract(quotas, '$.max_documents'), 10000),
    'max_storage_mb', nullif(json_extract(quotas, '$.max_storage_mb'), 1024),
    'max_vectors', nullif(json_extract(quotas, '$.max_vectors'), 1000000),
    'max_api_calls_per_minute', nullif(json_extract(quotas, '$.max_api_calls_per_minute'), 100),
    'max_api_calls_per_day', nullif(json_extract(quotas, '$.max_api_calls_per_day'), 10000),
    'max_embeddings_per_day', nullif(json_extract(quotas, '$.max_embeddings_per_day'), 50000)
);
INSERT INTO tenant_limits (tenant_id, max_documents, max_storage_bytes, max_vectors)
SELECT tenant_id, json_extract(quotas, '$.max_documents'), min(json_extract(quotas, '$.max_storage_mb'), 8796093022207) * 1048576,
    json_extract(quotas, '$.max_vectors')
FROM tenants;
INSERT INTO tenant_usage (tenant_id, documents, storage_bytes, vectors)
SELECT tenant_id,
    iif(l.max_documents IS NULL, NULL, (SELECT count(*) FROM memories WHERE tenant_id = l.tenant_id)),
    iif(l.max_storage_bytes IS NULL, NULL,
        (SELECT coalesce(sum(length(CAST(value AS BLOB))), 0) FROM kv_store WHERE tenant_id = l.tenant_id)
        + (SELECT coalesce(sum(length(CAST(content AS BLOB))), 0) FROM memories WHERE tenant_id = l.tenant_id)
        + (SELECT coalesce(sum(size_bytes), 0) FROM artifact_content WHERE tenant_id = l.tenant_id)),
    iif(l.max_vectors IS NULL, NULL, (SELECT count(*) FROM vector_embeddings_384 WHERE tenant_id = l.tenant_id)
        + (SELECT count(*) FROM vector_embeddings_768 WHERE tenant_id = l.tenant_id)
        + (SELECT count(*) FROM vector_embeddings_1536 WHERE tenant_id = l.tenant_id)
        + (SELECT count(*) FROM vector_embeddings_3072 WHERE tenant_id = l.tenant_id))
FROM tenant_limits AS l;

-- Limits become what the registry says, and what is limited is counted anew.
CREATE TRIGGER tenants_quotas_granted AFTER INSERT ON tenants
BEGIN
    INSERT INTO tenant_limits (tenant_id, max_documents, max_storage_bytes, max_vectors)
    VALUES (NEW.tenant_id, json_extract(NEW.quotas, '$.max_documents'), min(json_extract(NEW.quotas, '$.max_storage_mb'), 8796093022207) * 1048576,
        json_extract(NEW.quotas, '$.max_vectors'))
    ON CONFLICT (tenant_id) DO UPDATE
    SET max_documents = excluded.max_documents, max_storage_bytes = excluded.max_storage_bytes,
        max_vectors = excluded.max_vectors;
    INSERT INTO tenant_usage (tenant_id, documents, storage_bytes, vectors)
    SELECT NEW.tenant_id,
        iif(l.max_documents IS NULL, NULL, (SELECT count(*) FROM memories WHERE tenant_id = NEW.tenant_id)),
        iif(l.max_storage_bytes IS NULL, NULL,
            (SELECT coalesce(sum(length(CAST(value AS BLOB))), 0) FROM kv_store WHERE tenant_id = NEW.tenant_id)
            + (SELECT coalesce(sum(length(CAST(content AS BLOB))), 0) FROM memories WHERE tenant_id = NEW.tenant_id)
            + (SELECT coalesce(sum(size_bytes), 0) FROM artifact_content WHERE tenant_id = NEW.tenant_id)),
        iif(l.max_vectors IS NULL, NULL, (SELECT count(*) FROM vector_embeddings_384 WHERE tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM vector_embeddings_768 WHERE tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM vector_embeddings_1536 WHERE tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM vector_embeddings_3072 WHERE tenant_id = NEW.tenant_id))
    FROM tenant_limits AS l WHERE l.tenant_id = NEW.tenant_id
    ON CONFLICT (tenant_id) DO UPDATE
    SET documents = excluded.documents, storage_bytes = excluded.storage_bytes, vectors = excluded.vectors;
END;
CREATE TRIGGER tenants_quotas_changed AFTER UPDATE OF quotas ON tenants
WHEN NEW.quotas IS NOT OLD.quotas
BEGIN
    INSERT INTO tenant_limits (tenant_id, max_documents, max_storage_bytes, max_vectors)
    VALUES (NEW.tenant_id, json_extract(NEW.quotas, '$.max_documents'), min(json_extract(NEW.quotas, '$.max_storage_mb'), 8796093022207) * 1048576,
        json_extract(NEW.quotas, '$.max_vectors'))
    ON CONFLICT (tenant_id) DO UPDATE
    SET max_documents = excluded.max_documents, max_storage_bytes = excluded.max_storage_bytes,
        max_vectors = excluded.max_vectors;
    INSERT INTO tenant_usage (tenant_id, documents, storage_bytes, vectors)
    SELECT NEW.tenant_id,
        iif(l.max_documents IS NULL, NULL, (SELECT count(*) FROM memories WHERE tenant_id = NEW.tenant_id)),
        iif(l.max_storage_bytes IS NULL, NULL,
            (SELECT coalesce(sum(length(CAST(value AS BLOB))), 0) FROM kv_store WHERE tenant_id = NEW.tenant_id)
            + (SELECT coalesce(sum(length(CAST(content AS BLOB))), 0) FROM memories WHERE tenant_id = NEW.tenant_id)
            + (SELECT coalesce(sum(size_bytes), 0) FROM artifact_content WHERE tenant_id = NEW.tenant_id)),
        iif(l.max_vectors IS NULL, NULL, (SELECT count(*) FROM vector_embeddings_384 WHERE tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM vector_embeddings_768 WHERE tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM vector_embeddings_1536 WHERE tenant_id = NEW.tenant_id)
            + (SELECT count(*) FROM vector_embeddings_3072 WHERE tenant_id = NEW.tenant_id))
    FROM tenant_limits AS l WHERE l.tenant_id = NEW.tenant_id
    ON CONFLICT (tenant_id) DO UPDATE
    SET documents = excluded.documents, storage_bytes = excluded.storage_bytes, vectors = excluded.vectors;
END;
