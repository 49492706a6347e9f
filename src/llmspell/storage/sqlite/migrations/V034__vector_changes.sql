-- V034: what a cache of vectors must know beside what was inserted: which rows went, and whose metadata were rewritten.
--
-- Rows carry the number of the change that brought them. Removals and rewritings are noted here with theirs, by triggers, so that no
-- statement can forget it; so a cache in a process catches up by what has changed, whatever that was, and need not look at all rows. The log
-- keeps about the latest 65,536 rows of each space, and always the latest change; a cache that is older compares names.
--
-- A space also names the index file that was written last: the change up to which it goes, and its token. A file that says otherwise,
-- because it or the database was restored, counts for nothing.

CREATE TABLE vector_changes (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    space_id TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq > 0),
    owner_id BLOB NOT NULL CHECK (length(owner_id) = 16),
    part_no INTEGER NOT NULL CHECK (part_no >= 0),
    removed INTEGER NOT NULL CHECK (removed IN (0, 1)),
    PRIMARY KEY (tenant_id, space_id, seq, owner_id, part_no, removed)
) STRICT, WITHOUT ROWID;

ALTER TABLE embedding_spaces ADD COLUMN logged_from INTEGER NOT NULL DEFAULT 0 CHECK (logged_from >= 0);
ALTER TABLE embedding_spaces ADD COLUMN logged_rows INTEGER NOT NULL DEFAULT 0 CHECK (logged_rows >= 0);
ALTER TABLE embedding_spaces ADD COLUMN index_change INTEGER CHECK (index_change >= 0);
ALTER TABLE embedding_spaces ADD COLUMN index_token TEXT CHECK (length(index_token) = 32);

-- What happened before is in no log.
UPDATE embedding_spaces SET logged_from = change_seq;

CREATE TRIGGER vector_changes_counted AFTER INSERT ON vector_changes
BEGIN
    UPDATE embedding_spaces SET logged_rows = logged_rows + 1
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
END;

CREATE TRIGGER vector_changes_kept AFTER INSERT ON vector_changes WHEN (
    SELECT logged_rows FROM embedding_spaces WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id
) > 65536 AND (
    SELECT min(seq) FROM vector_changes WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id
) < NEW.seq
BEGIN
    DELETE FROM vector_changes
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id AND seq < NEW.seq;
    UPDATE embedding_spaces SET logged_from = max(logged_from, NEW.seq - 1), logged_rows = 1
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
END;

-- The statement behind a deletion takes the number (space_deleted, owners_deleted).
CREATE TRIGGER vector_embeddings_384_removed AFTER DELETE ON vector_embeddings_384
BEGIN
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    VALUES (OLD.tenant_id, OLD.space_id, 1 + coalesce((SELECT change_seq FROM embedding_spaces
        WHERE tenant_id = OLD.tenant_id AND space_id = OLD.space_id), 0), OLD.owner_id, OLD.part_no, 1);
END;

CREATE TRIGGER vector_embeddings_384_rewritten AFTER UPDATE OF metadata, scope ON vector_embeddings_384
BEGIN
    UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    SELECT NEW.tenant_id, NEW.space_id, change_seq, NEW.owner_id, NEW.part_no, 0 FROM embedding_spaces
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
END;

-- The statement behind a deletion takes the number (space_deleted, owners_deleted).
CREATE TRIGGER vector_embeddings_768_removed AFTER DELETE ON vector_embeddings_768
BEGIN
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    VALUES (OLD.tenant_id, OLD.space_id, 1 + coalesce((SELECT change_seq FROM embedding_spaces
        WHERE tenant_id = OLD.tenant_id AND space_id = OLD.space_id), 0), OLD.owner_id, OLD.part_no, 1);
END;

CREATE TRIGGER vector_embeddings_768_rewritten AFTER UPDATE OF metadata, scope ON vector_embeddings_768
BEGIN
    UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    SELECT NEW.tenant_id, NEW.space_id, change_seq, NEW.owner_id, NEW.part_no, 0 FROM embedding_spaces
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
END;

-- The statement behind a deletion takes the number (space_deleted, owners_deleted).
CREATE TRIGGER vector_embeddings_1536_removed AFTER DELETE ON vector_embeddings_1536
BEGIN
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    VALUES (OLD.tenant_id, OLD.space_id, 1 + coalesce((SELECT change_seq FROM embedding_spaces
        WHERE tenant_id = OLD.tenant_id AND space_id = OLD.space_id), 0), OLD.owner_id, OLD.part_no, 1);
END;

CREATE TRIGGER vector_embeddings_1536_rewritten AFTER UPDATE OF metadata, scope ON vector_embeddings_1536
BEGIN
    UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    SELECT NEW.tenant_id, NEW.space_id, change_seq, NEW.owner_id, NEW.part_no, 0 FROM embedding_spaces
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
END;

-- The statement behind a deletion takes the number (space_deleted, owners_deleted).
CREATE TRIGGER vector_embeddings_3072_removed AFTER DELETE ON vector_embeddings_3072
BEGIN
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    VALUES (OLD.tenant_id, OLD.space_id, 1 + coalesce((SELECT change_seq FROM embedding_spaces
        WHERE tenant_id = OLD.tenant_id AND space_id = OLD.space_id), 0), OLD.owner_id, OLD.part_no, 1);
END;

CREATE TRIGGER vector_embeddings_3072_rewritten AFTER UPDATE OF metadata, scope ON vector_embeddings_3072
BEGIN
    UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
    INSERT OR IGNORE INTO vector_changes (tenant_id, space_id, seq, owner_id, part_no, removed)
    SELECT NEW.tenant_id, NEW.space_id, change_seq, NEW.owner_id, NEW.part_no, 0 FROM embedding_spaces
    WHERE tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
END;
