-- Every query that walks events names a time range, so that months outside of it are not opened; without one given it is
-- that of the tenant's own events, which event_sequences knows; bounds that it does not know are open ones. Two plain
-- comparisons, because only those prune partitions: a comparison of rows does not. CASE, because COALESCE beside a column is
-- not taken for leakproof, and would keep the range out of the index.

-- fragment: event
l.event_id, l.event_type, l.correlation_id, l.timestamp, l.sequence, l.language, l.payload;

-- fragment: range
l.timestamp >= CASE WHEN :since::timestamptz IS NOT NULL THEN :since
    ELSE (SELECT coalesce(min(s.first_at), '-infinity') FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id) END
  AND l.timestamp < CASE WHEN :until::timestamptz IS NOT NULL THEN :until
    ELSE (SELECT coalesce(max(s.last_at) + interval '1 microsecond', 'infinity') FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id) END;

-- fragment: appended
WITH given AS (
  SELECT n.place, (n.event ->> 0)::uuid AS id, n.event ->> 1 AS type, (n.event ->> 2)::uuid AS correlation,
    (n.event ->> 3)::timestamptz AS at, n.event ->> 4 AS language, (n.event -> 5)::text::jsonb AS payload
  FROM json_array_elements(:events::json) WITH ORDINALITY AS n (event, place)
), numbered AS (
  INSERT INTO llmspell.event_sequences AS s (tenant_id, value, first_at, last_at)
  SELECT :tenant_id, count(*), min(g.at), max(g.at) FROM given AS g
  ON CONFLICT (tenant_id) DO UPDATE
  SET value = s.value + excluded.value, first_at = least(s.first_at, excluded.first_at),
      last_at = greatest(s.last_at, excluded.last_at)
  RETURNING s.value
)
INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, language, payload)
SELECT :tenant_id, g.id, g.type, g.correlation, g.at, n.value - (SELECT count(*) FROM given) + g.place, g.language, g.payload
FROM given AS g CROSS JOIN numbered AS n;

-- name: append -> value
-- Store one event, and return its number.
{appended}
RETURNING sequence;

-- name: append_many -> count
-- Store events in one statement, numbered in the order given.
{appended};

-- name: taken -> row
-- The earliest of several events that is there already.
SELECT l.timestamp, l.event_id FROM json_array_elements(:events::json) AS n (event)
JOIN llmspell.event_log AS l ON l.tenant_id = (SELECT :tenant_id)
  AND l.timestamp = (n.event ->> 3)::timestamptz AND l.event_id = (n.event ->> 0)::uuid
ORDER BY l.timestamp, l.event_id LIMIT 1;

-- name: get -> row
-- The latest event of an id. A range would not help: it would make the planner walk over it, by the key, in search of the id;
-- and so would an order that the key has.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND l.event_id = :id
ORDER BY l.timestamp + interval '0' DESC LIMIT 1;

-- name: get_at -> row
-- One event, by its key.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND l.timestamp = :at AND l.event_id = :id;

-- name: list_desc -> rows
-- Events of a time range that match, the latest first.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND {range} AND {filters}
ORDER BY l.timestamp DESC, l.event_id DESC LIMIT :limit;

-- name: list_asc -> rows
-- Events of a time range that match, the earliest first.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND {range} AND {filters}
ORDER BY l.timestamp, l.event_id LIMIT :limit;

-- name: tail -> rows
-- Events beyond a number that match, in the order in which they were committed. COALESCE, here, because the range shall prune
-- months and stay out of the index: a planner that does not know how wide it is would prefer it to the number.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND l.sequence > :after_sequence AND {filters}
  AND l.timestamp >= coalesce((SELECT s.first_at FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id), '-infinity')
  AND l.timestamp <= coalesce((SELECT s.last_at FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id), 'infinity')
ORDER BY l.sequence LIMIT :limit;

-- name: count -> value
-- How many events of a time range match.
SELECT count(*) FROM llmspell.event_log AS l WHERE l.tenant_id = :tenant_id AND {range} AND {filters};

-- name: stats -> rows
-- Events of a time range by type, with the first and last of each.
SELECT l.event_type, count(*), min(l.timestamp), max(l.timestamp) FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND {range}
GROUP BY l.event_type ORDER BY l.event_type;

-- name: last_sequence -> value
-- The number of the last event that was committed.
SELECT value FROM llmspell.event_sequences WHERE tenant_id = :tenant_id;

-- name: prune -> count
-- Delete the earliest events before an instant; two that prune at once lock the same rows in the same order.
WITH old AS MATERIALIZED (
  SELECT l.timestamp, l.event_id FROM llmspell.event_log AS l
  WHERE l.tenant_id = :tenant_id AND l.timestamp < :before
    AND l.timestamp >= (SELECT coalesce(min(s.first_at), '-infinity') FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id)
  ORDER BY l.timestamp, l.event_id LIMIT :limit FOR UPDATE OF l
)
DELETE FROM llmspell.event_log AS d USING old
WHERE d.tenant_id = :tenant_id AND d.timestamp = old.timestamp AND d.event_id = old.event_id AND d.timestamp < :before
  AND d.timestamp >= (SELECT coalesce(min(s.first_at), '-infinity') FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id);

-- name: partitions -> rows
-- The months, the earliest first, and the partition of all others: its bounds are NULL.
-- cross-tenant: it reads the catalogue, and no rows
-- only: a file is not partitioned
SELECT c.relname::text, bound.lower_end, bound.upper_end, greatest(c.reltuples, 0)::bigint, pg_catalog.pg_total_relation_size(c.oid)
FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
CROSS JOIN LATERAL (
  SELECT b.found[1]::timestamptz AS lower_end, b.found[2]::timestamptz AS upper_end
  FROM (SELECT pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.+)''\) TO \(''(.+)''\)')) AS b (found)
) AS bound
WHERE i.inhparent = 'llmspell.event_log'::pg_catalog.regclass
ORDER BY bound.lower_end NULLS LAST, c.relname;

-- name: missing_partitions -> value
-- How many of the current month and the next three are not there.
-- cross-tenant: it reads the catalogue, and no rows
-- only: a file is not partitioned
SELECT count(*) FROM generate_series(0, 3) AS ahead (months)
WHERE to_regclass('llmspell.event_log_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + months * interval '1 month', 'YYYY_MM')) IS NULL;

-- name: ensure_partitions -> rows
-- Make the current month and the next three.
-- cross-tenant: months hold the events of all tenants
-- only: a file is not partitioned
SELECT line FROM llmspell.ensure_future_event_log_partitions() AS done (line);

-- name: archive_partitions -> rows
-- Detach the months that ended by an instant; events of old months that have no partition get one first.
-- cross-tenant: months hold the events of all tenants
-- only: a file is not partitioned
SELECT line FROM llmspell.cleanup_old_event_log_partitions(:before) AS done (line);

-- name: archivable_partitions -> rows
-- What that would detach: attached months, and months whose events wait in the default partition.
-- cross-tenant: months hold the events of all tenants
-- only: a file is not partitioned
SELECT format('WOULD ARCHIVE: event_log_%s (%s to %s)', to_char(month, 'YYYY_MM'), month::date, (month + interval '1 month')::date)
FROM (
  SELECT (pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.+)''\) TO'))[1]::timestamptz AT TIME ZONE 'UTC' AS month
  FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'llmspell.event_log'::pg_catalog.regclass
  UNION
  SELECT date_trunc('month', d.timestamp AT TIME ZONE 'UTC') FROM llmspell.event_log_default AS d WHERE d.timestamp < date_trunc('month', :before::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
) AS months
WHERE (month + interval '1 month') AT TIME ZONE 'UTC' <= :before::timestamptz
ORDER BY month;
