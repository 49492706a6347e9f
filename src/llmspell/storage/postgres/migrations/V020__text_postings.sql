-- V020: full text of our own: one row per term and owner, ranked by BM25 with the tenant's own statistics.
--
-- The key carries tf and length, so a term is read from the index alone. Terms are cut to 500 bytes by the analyser.

CREATE TABLE llmspell.text_postings (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    collection text COLLATE "C" NOT NULL,
    term text COLLATE "C" NOT NULL,
    owner_id uuid NOT NULL,
    tf integer NOT NULL CHECK (tf > 0),
    length integer NOT NULL CHECK (length > 0),
    PRIMARY KEY (tenant_id, collection, term, owner_id) INCLUDE (tf, length)
);
CREATE INDEX idx_text_postings_owner ON llmspell.text_postings (tenant_id, collection, owner_id);
SELECT llmspell.apply_tenant_rls('llmspell.text_postings');

-- Totals as deltas: each writer inserts its own row, so that concurrent writers of a tenant never wait for one another.
-- They are summed when read, and folded into one row now and then.
CREATE TABLE llmspell.text_stats (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    collection text COLLATE "C" NOT NULL,
    delta_id uuid NOT NULL,
    documents integer NOT NULL,
    terms bigint NOT NULL,
    PRIMARY KEY (tenant_id, collection, delta_id) INCLUDE (documents, terms)
);
SELECT llmspell.apply_tenant_rls('llmspell.text_stats');
