-- V024: jobs. Work that must happen, kept with the data that it is for, and leased to workers.
--
--   ready       a queued job whose time has come; those that wait for theirs stand in an index of their own
--   lease_id    the fence: made anew by each lease
--   token       rises with each lease of a job

CREATE TABLE jobs (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    job_id BLOB NOT NULL CHECK (length(job_id) = 16),
    kind TEXT NOT NULL,
    payload TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(payload)),
    state TEXT NOT NULL DEFAULT 'queued',
    ready INTEGER NOT NULL DEFAULT 0 CHECK (ready IN (0, 1)),
    priority INTEGER NOT NULL DEFAULT 0,
    dedupe_key TEXT,
    attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts INTEGER NOT NULL DEFAULT 5 CHECK (max_attempts > 0),
    run_at INTEGER NOT NULL,
    token INTEGER NOT NULL DEFAULT 0 CHECK (token >= 0),
    lease_id BLOB CHECK (length(lease_id) = 16),
    leased_until INTEGER,
    worker TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    done INTEGER CHECK (done >= 0),
    total INTEGER CHECK (total >= 0),
    message TEXT,
    error_class TEXT,
    error TEXT,
    result TEXT CHECK (json_valid(result)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (tenant_id, job_id),
    CONSTRAINT valid_job_state CHECK (state IN ('queued', 'running', 'succeeded', 'dead', 'cancelled')),
    CONSTRAINT job_is_ready_in_the_queue CHECK (NOT ready OR state = 'queued'),
    CONSTRAINT job_is_leased_while_it_runs
        CHECK ((state = 'running') = (lease_id IS NOT NULL) AND (lease_id IS NULL) = (leased_until IS NULL)),
    CONSTRAINT job_ends_when_it_is_finished CHECK ((finished_at IS NOT NULL) = (state NOT IN ('queued', 'running'))),
    CONSTRAINT job_keys_fit_their_index CHECK (kind <> '')
) STRICT;
CREATE UNIQUE INDEX unique_live_job ON jobs (tenant_id, kind, dedupe_key)
    WHERE dedupe_key IS NOT NULL AND state IN ('queued', 'running');
CREATE INDEX idx_jobs_waiting ON jobs (kind, ready, tenant_id, priority DESC, run_at, job_id) WHERE state = 'queued';
CREATE INDEX idx_jobs_scheduled ON jobs (run_at, tenant_id, job_id) WHERE state = 'queued' AND NOT ready;
CREATE INDEX idx_jobs_running ON jobs (leased_until, tenant_id, job_id) WHERE state = 'running';
CREATE INDEX idx_jobs_created ON jobs (tenant_id, created_at, job_id);
CREATE INDEX idx_jobs_state ON jobs (tenant_id, state, created_at, job_id);
CREATE INDEX idx_jobs_finished ON jobs (tenant_id, finished_at, job_id) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_jobs_dead ON jobs (kind, tenant_id) WHERE state = 'dead';
