-- What leases work runs as the operator, on all tenants, or as a tenant for itself: on the tenants up
-- to :high (so on none, or on all) and on those that :tenants names.

-- fragment: job
job_id, kind, payload, state, priority, dedupe_key, attempt, max_attempts, run_at, worker, leased_until,
  cancel_requested, done, total, message, error_class, error, result, created_at, updated_at, finished_at;

-- name: enqueue -> row
-- Keep a job, unless a live one has its key.
INSERT INTO jobs
  (tenant_id, job_id, kind, payload, ready, priority, dedupe_key, max_attempts, run_at, created_at, updated_at)
VALUES (:tenant_id, :id, :kind, :payload, :ready, :priority, :dedupe_key, :max_attempts, :run_at, :now, :now)
ON CONFLICT (tenant_id, kind, dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('queued', 'running') DO NOTHING
RETURNING {job};

-- name: live -> row
-- The live job that has a key.
SELECT {job} FROM jobs j
WHERE j.tenant_id = :tenant_id AND j.kind = :kind AND j.dedupe_key = :dedupe_key AND j.state IN ('queued', 'running');

-- name: ensure -> count
-- Keep a job, unless one of its kind waits already (:alone: also then).
WITH waiting AS (
  SELECT j.job_id FROM jobs j INDEXED BY idx_jobs_waiting
  WHERE NOT :alone AND j.tenant_id = :tenant_id AND j.kind = :kind AND j.state = 'queued' AND j.ready IN (0, 1)
  ORDER BY j.job_id LIMIT 1
)
INSERT INTO jobs (tenant_id, job_id, kind, ready, run_at, created_at, updated_at)
SELECT :tenant_id, :id, :kind, TRUE, :now, :now, :now
WHERE NOT EXISTS (SELECT 1 FROM waiting)
ON CONFLICT (tenant_id, job_id) DO NOTHING;

-- name: get -> row
-- A job by its id.
SELECT {job} FROM jobs j WHERE j.tenant_id = :tenant_id AND j.job_id = :id;

-- name: page -> rows
-- Jobs before a position, the latest first.
SELECT {job} FROM jobs j
WHERE j.tenant_id = :tenant_id AND (j.created_at, j.job_id) < (:instant, :id) AND (:kind IS NULL OR j.kind = :kind)
ORDER BY j.created_at DESC, j.job_id DESC LIMIT :limit;

-- name: page_of_state -> rows
-- Jobs of a state before a position, the latest first.
SELECT {job} FROM jobs j
WHERE j.tenant_id = :tenant_id AND j.state = :state AND (j.created_at, j.job_id) < (:instant, :id)
  AND (:kind IS NULL OR j.kind = :kind)
ORDER BY j.created_at DESC, j.job_id DESC LIMIT :limit;

-- name: cancel -> count
-- Cancel a queued job, or ask a running one to stop.
UPDATE jobs SET
  state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
  ready = FALSE,
  cancel_requested = TRUE,
  finished_at = CASE state WHEN 'queued' THEN :now END,
  updated_at = :now
WHERE tenant_id = :tenant_id AND job_id = :id AND state IN ('queued', 'running');

-- name: retry -> row
-- Put a dead or cancelled job back into the queue.
UPDATE jobs AS j SET
  state = 'queued', ready = TRUE, attempt = 0, cancel_requested = FALSE, run_at = :now, finished_at = NULL, updated_at = :now,
  done = NULL, total = NULL, message = NULL
WHERE j.tenant_id = :tenant_id AND j.job_id = :id AND j.state IN ('dead', 'cancelled')
RETURNING {job};

-- name: counts -> rows
-- How many jobs there are of each state.
SELECT state, count(*) FROM jobs WHERE tenant_id = :tenant_id GROUP BY state;

-- name: prune -> count
-- Delete jobs that ended before an instant.
DELETE FROM jobs WHERE tenant_id = :tenant_id AND job_id IN (
  SELECT j.job_id FROM jobs j
  WHERE j.tenant_id = :tenant_id AND j.finished_at < :before AND j.finished_at IS NOT NULL
    AND j.state IN (SELECT value FROM json_each(:states))
  ORDER BY j.finished_at, j.job_id LIMIT :limit);

-- name: reclaim -> count
-- Take jobs back whose lease has passed.
-- cross-tenant: the operator leases for all tenants; as a tenant, row-level security leaves its own
UPDATE jobs AS j SET
  state = CASE WHEN j.cancel_requested THEN 'cancelled' WHEN j.attempt >= j.max_attempts THEN 'dead' ELSE 'queued' END,
  ready = NOT j.cancel_requested AND j.attempt < j.max_attempts,
  finished_at = CASE WHEN j.cancel_requested OR j.attempt >= j.max_attempts THEN :now END,
  error_class = :error_class, error = :error, worker = NULL, lease_id = NULL, leased_until = NULL, updated_at = :now
FROM (
  SELECT r.tenant_id, r.job_id FROM jobs r INDEXED BY idx_jobs_running
  WHERE r.state = 'running' AND r.leased_until <= :now AND (r.tenant_id <= :high OR r.tenant_id IN (SELECT value FROM json_each(:tenants)))
  ORDER BY r.leased_until, r.tenant_id, r.job_id LIMIT :most
) AS late
WHERE j.tenant_id = late.tenant_id AND j.job_id = late.job_id;

-- name: wake -> count
-- Make jobs ready whose time has come.
-- cross-tenant: the operator leases for all tenants; as a tenant, row-level security leaves its own
UPDATE jobs AS j SET ready = TRUE
FROM (
  SELECT s.tenant_id, s.job_id FROM jobs s INDEXED BY idx_jobs_scheduled
  WHERE s.state = 'queued' AND NOT s.ready AND s.run_at <= :now AND (s.tenant_id <= :high OR s.tenant_id IN (SELECT value FROM json_each(:tenants)))
  ORDER BY s.run_at, s.tenant_id, s.job_id LIMIT :most
) AS due
WHERE j.tenant_id = due.tenant_id AND j.job_id = due.job_id;

-- name: lease -> count
-- Take jobs: the tenants take turns, those beyond :after first, then those up to it; each gives its most urgent ones.
-- cross-tenant: the operator leases for all tenants; as a tenant, row-level security leaves its own
WITH RECURSIVE turn (kind, last, tenant_id, place) AS (
  SELECT k.kind, part.last, (
    SELECT j.tenant_id FROM jobs j
    WHERE j.state = 'queued' AND j.ready = 1 AND j.kind = k.kind AND j.tenant_id > part.beyond AND j.tenant_id <= part.last
    ORDER BY j.tenant_id LIMIT 1), 1
  FROM (SELECT value AS kind FROM json_each(:kinds)) AS k
  CROSS JOIN (SELECT :after AS beyond, :high AS last UNION ALL SELECT '', min(:after, :high)) AS part
  UNION ALL
  SELECT t.kind, t.last, (
    SELECT j.tenant_id FROM jobs j
    WHERE j.state = 'queued' AND j.ready = 1 AND j.kind = t.kind AND j.tenant_id > t.tenant_id AND j.tenant_id <= t.last
    ORDER BY j.tenant_id LIMIT 1), t.place + 1
  FROM turn t WHERE t.tenant_id IS NOT NULL AND t.place < :wanted
),
served (kind, tenant_id) AS (
  SELECT t.kind, t.tenant_id FROM turn t WHERE t.tenant_id IS NOT NULL
  UNION ALL
  SELECT k.value, n.value FROM json_each(:kinds) AS k CROSS JOIN json_each(:tenants) AS n
),
candidate AS (
  SELECT h.rowid AS row, h.tenant_id,
    row_number() OVER (PARTITION BY h.tenant_id ORDER BY h.priority DESC, h.run_at, h.job_id) AS nth
  FROM served t CROSS JOIN jobs h ON h.rowid IN (
    SELECT j.rowid FROM jobs j
    WHERE j.state = 'queued' AND j.ready = 1 AND j.kind = t.kind AND j.tenant_id = t.tenant_id
    ORDER BY j.priority DESC, j.run_at, j.job_id LIMIT :reach)
)
UPDATE jobs SET
  state = 'running', ready = FALSE, attempt = attempt + 1, token = token + 1, lease_id = :lease_id,
  leased_until = :until, worker = :worker, done = NULL, total = NULL, message = NULL, updated_at = :now
WHERE rowid IN (SELECT c.row FROM candidate c ORDER BY c.nth, c.tenant_id <= :after, c.tenant_id LIMIT :wanted);

-- name: leased -> rows
-- The jobs that a lease took.
-- cross-tenant: the operator leases for all tenants; as a tenant, row-level security leaves its own
SELECT {job}, tenant_id, token FROM jobs j
WHERE j.state = 'running' AND j.leased_until = :until AND j.lease_id = :lease_id
ORDER BY j.tenant_id, j.priority DESC, j.run_at, j.job_id;

-- name: waiting_kinds -> rows
-- The kinds of which a job may run now.
-- cross-tenant: the operator leases for all tenants; as a tenant, row-level security leaves its own
WITH RECURSIVE known (kind) AS (
  SELECT (SELECT j.kind FROM jobs j INDEXED BY idx_jobs_waiting
    WHERE j.state = 'queued' AND (j.tenant_id <= :high OR j.tenant_id IN (SELECT value FROM json_each(:tenants))) ORDER BY j.kind LIMIT 1)
  UNION ALL
  SELECT (SELECT j.kind FROM jobs j INDEXED BY idx_jobs_waiting
    WHERE j.state = 'queued' AND j.kind > k.kind AND (j.tenant_id <= :high OR j.tenant_id IN (SELECT value FROM json_each(:tenants)))
    ORDER BY j.kind LIMIT 1)
  FROM known k WHERE k.kind IS NOT NULL
)
SELECT kind FROM known WHERE kind IS NOT NULL ORDER BY kind LIMIT :most;

-- name: heartbeat -> value
-- Extend a lease and note the progress; the answer says whether the job was asked to stop.
UPDATE jobs SET
  leased_until = :until, updated_at = :now,
  done = coalesce(:done, done), total = CASE WHEN :done IS NULL THEN total ELSE :total END,
  message = coalesce(:message, message)
WHERE tenant_id = :tenant_id AND job_id = :id AND state = 'running' AND lease_id = :lease_id
RETURNING cancel_requested;

-- name: complete -> row
-- Note that a leased job succeeded.
UPDATE jobs AS j SET
  state = 'succeeded', result = :result, error_class = NULL, error = NULL, cancel_requested = FALSE, finished_at = :now,
  lease_id = NULL, leased_until = NULL, updated_at = :now
WHERE j.tenant_id = :tenant_id AND j.job_id = :id AND j.state = 'running' AND j.lease_id = :lease_id
RETURNING {job};

-- name: fail -> row
-- Note that an attempt failed: later again, or dead, or cancelled when that was asked for.
UPDATE jobs AS j SET
  state = CASE WHEN j.cancel_requested THEN 'cancelled'
    WHEN NOT :retryable OR j.attempt >= j.max_attempts THEN 'dead' ELSE 'queued' END,
  ready = NOT j.cancel_requested AND :retryable AND j.attempt < j.max_attempts AND :run_at <= :now,
  run_at = CASE WHEN j.cancel_requested OR NOT :retryable OR j.attempt >= j.max_attempts THEN j.run_at
    ELSE :run_at END,
  finished_at = CASE WHEN j.cancel_requested OR NOT :retryable OR j.attempt >= j.max_attempts THEN :now END,
  error_class = :error_class, error = :error, worker = NULL, lease_id = NULL, leased_until = NULL, updated_at = :now
WHERE j.tenant_id = :tenant_id AND j.job_id = :id AND j.state = 'running' AND j.lease_id = :lease_id
RETURNING {job};

-- name: release -> row
-- Give a leased job back without counting the attempt; it is cancelled when that was asked for.
UPDATE jobs AS j SET
  state = CASE WHEN j.cancel_requested THEN 'cancelled' ELSE 'queued' END,
  ready = NOT j.cancel_requested AND :run_at <= :now,
  run_at = CASE WHEN j.cancel_requested OR :run_at <= :now THEN j.run_at ELSE :run_at END,
  attempt = j.attempt - 1,
  finished_at = CASE WHEN j.cancel_requested THEN :now END,
  worker = NULL, lease_id = NULL, leased_until = NULL, updated_at = :now
WHERE j.tenant_id = :tenant_id AND j.job_id = :id AND j.state = 'running' AND j.lease_id = :lease_id
RETURNING {job};

-- name: stats -> rows
-- What waits, runs, is stuck and is dead, by kind.
-- cross-tenant: the operator watches the queue of all tenants
SELECT kind, sum(waiting), sum(scheduled), sum(running), sum(stuck), sum(dead), min(oldest) FROM (
  SELECT j.kind, count(*) FILTER (WHERE j.run_at <= :now) AS waiting, count(*) FILTER (WHERE j.run_at > :now) AS scheduled,
    0 AS running, 0 AS stuck, 0 AS dead, min(j.run_at) FILTER (WHERE j.run_at <= :now) AS oldest
  FROM jobs j WHERE j.state = 'queued' GROUP BY j.kind
  UNION ALL
  SELECT j.kind, 0, 0, count(*), count(*) FILTER (WHERE j.leased_until <= :now), 0, NULL
  FROM jobs j WHERE j.state = 'running' GROUP BY j.kind
  UNION ALL
  SELECT j.kind, 0, 0, 0, 0, count(*), NULL FROM jobs j WHERE j.state = 'dead' GROUP BY j.kind
) AS counted GROUP BY kind ORDER BY kind;

-- name: tenants -> rows
-- Active tenants beyond one.
-- cross-tenant: for a job that goes through all of them
SELECT t.tenant_id FROM tenants t WHERE t.tenant_id > :after AND t.status = 'active'
ORDER BY t.tenant_id LIMIT :limit;

-- name: tenants_with_pending -> rows
-- Active tenants beyond one that have memories without embedding and no live job of a kind.
-- cross-tenant: for a job that goes through all of them
SELECT t.tenant_id FROM tenants t
WHERE t.tenant_id > :after AND t.status = 'active'
  AND EXISTS (SELECT 1 FROM memories m WHERE m.tenant_id = t.tenant_id AND m.embedding_state = 'pending')
  AND NOT EXISTS (
    SELECT 1 FROM jobs j
    WHERE j.kind = :kind AND j.state = 'queued' AND j.ready IN (0, 1) AND j.tenant_id = t.tenant_id)
  AND NOT EXISTS (
    SELECT 1 FROM jobs j WHERE j.tenant_id = t.tenant_id AND j.state = 'running' AND j.kind = :kind)
ORDER BY t.tenant_id LIMIT :limit;
