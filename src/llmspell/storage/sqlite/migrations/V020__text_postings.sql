-- V020: full text of our own: one row per term and owner, ranked by BM25 with the tenant's own statistics.
-- The row is its key, so a term is read from one range of the tree. Terms are cut to 500 bytes by the analyser.

CREATE TABLE text_postings (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    collection TEXT NOT NULL,
    term TEXT NOT NULL,
    owner_id BLOB NOT NULL CHECK (length(owner_id) = 16),
    tf INTEGER NOT NULL CHECK (tf > 0),
    length INTEGER NOT NULL CHECK (length > 0),
    PRIMARY KEY (tenant_id, collection, term, owner_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_text_postings_owner ON text_postings (tenant_id, collection, owner_id);

-- Totals as deltas, summed when read and folded into one row now and then: as on the other database, where concurrent
-- writers of a tenant must not wait for one another.
CREATE TABLE text_stats (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    collection TEXT NOT NULL,
    delta_id BLOB NOT NULL CHECK (length(delta_id) = 16),
    documents INTEGER NOT NULL,
    terms INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection, delta_id)
) STRICT, WITHOUT ROWID;
