-- V024: jobs. Work that must happen, kept with the data that it is for, and leased to workers.
--
-- Times are those of the application's clock; no default says now().
--   ready       a queued job whose time has come. Those that wait for theirs stand in an index of their own, so that a
--               worker never steps over them; it wakes the due ones whenever it looks for work.
--   lease_id    the fence: made anew by each lease, so that a worker whose lease was taken over changes nothing any more.
--   token       rises with each lease of a job: for systems beyond the store that refuse a lower one than they have seen.

CREATE TABLE llmspell.jobs (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    job_id uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    state text COLLATE "C" NOT NULL DEFAULT 'queued',
    ready boolean NOT NULL DEFAULT false,
    priority integer NOT NULL DEFAULT 0,
    dedupe_key text COLLATE "C",
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts integer NOT NULL DEFAULT 5 CHECK (max_attempts > 0),
    run_at timestamptz NOT NULL,
    token bigint NOT NULL DEFAULT 0 CHECK (token >= 0),
    lease_id uuid,
    leased_until timestamptz,
    worker text,
    cancel_requested boolean NOT NULL DEFAULT false,
    done bigint CHECK (done >= 0),
    total bigint CHECK (total >= 0),
    message text,
    error_class text,
    error text,
    result jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, job_id),
    CONSTRAINT valid_job_state CHECK (state IN ('queued', 'running', 'succeeded', 'dead', 'cancelled')),
    CONSTRAINT job_is_ready_in_the_queue CHECK (NOT ready OR state = 'queued'),
    CONSTRAINT job_is_leased_while_it_runs
        CHECK ((state = 'running') = (lease_id IS NOT NULL) AND (lease_id IS NULL) = (leased_until IS NULL)),
    CONSTRAINT job_ends_when_it_is_finished CHECK ((finished_at IS NOT NULL) = (state NOT IN ('queued', 'running'))),
    CONSTRAINT job_keys_fit_their_index
        CHECK (kind <> '' AND octet_length(kind) <= 128 AND octet_length(dedupe_key) <= 512)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);
-- One live job for each key: an insert waits for another's that is not committed yet, and then finds it.
CREATE UNIQUE INDEX unique_live_job ON llmspell.jobs (tenant_id, kind, dedupe_key)
    WHERE dedupe_key IS NOT NULL AND state IN ('queued', 'running');
-- In the order in which jobs are leased: the tenants of a kind take turns, each gives its most urgent job.
CREATE INDEX idx_jobs_waiting ON llmspell.jobs (kind, ready, tenant_id, priority DESC, run_at, job_id) WHERE state = 'queued';
CREATE INDEX idx_jobs_scheduled ON llmspell.jobs (run_at, tenant_id, job_id) WHERE state = 'queued' AND NOT ready;
CREATE INDEX idx_jobs_running ON llmspell.jobs (leased_until, tenant_id, job_id) WHERE state = 'running';
CREATE INDEX idx_jobs_created ON llmspell.jobs (tenant_id, created_at, job_id);
CREATE INDEX idx_jobs_state ON llmspell.jobs (tenant_id, state, created_at, job_id);
CREATE INDEX idx_jobs_finished ON llmspell.jobs (tenant_id, finished_at, job_id) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_jobs_dead ON llmspell.jobs (kind, tenant_id) WHERE state = 'dead';
SELECT llmspell.keep_to_calendar('llmspell.jobs');
SELECT llmspell.apply_tenant_rls('llmspell.jobs');
