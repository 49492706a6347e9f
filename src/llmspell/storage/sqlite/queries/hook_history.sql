-- Executions are small; their contexts may not be, so a list names every column but that one unless it is asked for.

-- fragment: execution
h.execution_id, h.hook_id, h.hook_type, h.correlation_id, h.timestamp, h.duration_ms, h.triggering_component, h.component_id,
  h.context_size, h.result_data, h.modified_operation, h.tags, h.retention_priority, h.contains_sensitive_data, h.metadata, h.created_at;

-- name: insert -> count
-- Record an execution.
INSERT INTO hook_history
  (tenant_id, execution_id, hook_id, hook_type, correlation_id, hook_context, result_data, timestamp, duration_ms,
   triggering_component, component_id, modified_operation, tags, retention_priority, context_size, contains_sensitive_data,
   metadata, created_at)
VALUES (:tenant_id, :id, :hook_id, :hook_type, :correlation_id, :context, :result_data, :at, :duration_ms,
   :triggering_component, :component_id, :modified_operation, :tags, :retention_priority, :context_size,
   :contains_sensitive_data, :metadata, :now);

-- name: taken -> value
-- The least of several ids that an execution has already.
SELECT execution_id FROM hook_history
WHERE tenant_id = :tenant_id AND execution_id IN (SELECT unhex(value) FROM json_each(:ids))
ORDER BY execution_id LIMIT 1;

-- name: get -> row
-- An execution with its context.
SELECT {execution}, h.hook_context FROM hook_history AS h
WHERE h.tenant_id = :tenant_id AND h.execution_id = :id;

-- name: list -> rows
-- Executions that match, the latest first.
SELECT {execution} FROM hook_history AS h
WHERE h.tenant_id = :tenant_id AND h.timestamp >= :since AND h.timestamp <= :until AND {filters}
ORDER BY h.timestamp DESC, h.execution_id DESC LIMIT :limit;

-- name: list_with_context -> rows
-- The same, with their contexts.
SELECT {execution}, h.hook_context FROM hook_history AS h
WHERE h.tenant_id = :tenant_id AND h.timestamp >= :since AND h.timestamp <= :until AND {filters}
ORDER BY h.timestamp DESC, h.execution_id DESC LIMIT :limit;

-- name: delete -> count
-- Delete an execution.
DELETE FROM hook_history WHERE tenant_id = :tenant_id AND execution_id = :id;

-- name: statistics -> row
-- Sum up executions that match. Percentiles are nearest-rank: the first place that so many of a hundred do not exceed.
SELECT count(*), count(*) FILTER (WHERE d.modified_operation), count(*) FILTER (WHERE d.contains_sensitive_data),
  coalesce(sum(d.duration_ms), 0), coalesce(sum(d.context_size), 0), coalesce(sum(d.stored), 0),
  min(CASE WHEN d.place * 100 >= d.total * 50 THEN d.duration_ms END), min(CASE WHEN d.place * 100 >= d.total * 95 THEN d.duration_ms END),
  min(CASE WHEN d.place * 100 >= d.total * 99 THEN d.duration_ms END), max(d.duration_ms), min(d.timestamp), max(d.timestamp)
FROM (
  SELECT h.duration_ms, h.modified_operation, h.contains_sensitive_data, h.context_size, h.timestamp,
    octet_length(h.hook_context) AS stored, row_number() OVER (ORDER BY h.duration_ms) AS place, count(*) OVER () AS total
  FROM hook_history AS h WHERE h.tenant_id = :tenant_id AND h.timestamp >= :since AND h.timestamp <= :until AND {filters}
) AS d;

-- name: results -> rows
-- How often each result came.
SELECT h.result_data ->> 'type', count(*) FROM hook_history AS h
WHERE h.tenant_id = :tenant_id AND h.timestamp >= :since AND h.timestamp <= :until AND {filters}
GROUP BY 1 ORDER BY 1;

-- name: prune -> count
-- Delete the earliest executions before an instant, below a priority.
DELETE FROM hook_history WHERE tenant_id = :tenant_id AND execution_id IN (
  SELECT h.execution_id FROM hook_history AS h
  WHERE h.tenant_id = :tenant_id AND h.timestamp < :before AND h.retention_priority < :below_priority
  ORDER BY h.timestamp, h.execution_id LIMIT :limit
);

-- name: retain -> count
-- Delete the earliest executions that have reached the age of their priority, the latest ones of the tenant apart.
DELETE FROM hook_history WHERE tenant_id = :tenant_id AND execution_id IN (
  SELECT h.execution_id FROM hook_history AS h
  WHERE h.tenant_id = :tenant_id AND h.timestamp < :ordinary
    AND (h.retention_priority < :threshold OR h.timestamp < :important)
    AND h.execution_id NOT IN (
      SELECT k.execution_id FROM hook_history AS k WHERE k.tenant_id = :tenant_id
      ORDER BY k.timestamp DESC, k.execution_id DESC LIMIT :keep
    )
  ORDER BY h.timestamp, h.execution_id LIMIT :limit
);
