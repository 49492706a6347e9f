-- Every query that walks events names a time range, so that months outside of it are not opened; without one given it is
-- that of the tenant's own events, which event_sequences knows. `AND` of two plain comparisons, because only those
-- prune partitions: a comparison of rows does not.

-- fragment: event
l.event_id, l.event_type, l.correlation_id, l.timestamp, l.sequence, l.language, l.payload;

-- fragment: range
l.timestamp >= coalesce(:since::timestamptz, (SELECT s.first_at FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id))
  AND l.timestamp < coalesce(:until::timestamptz, (SELECT s.last_at + interval '1 microsecond' FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id));

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

-- name: get -> row
-- Events of an id, the latest first.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND l.event_id = :id AND {range}
ORDER BY l.timestamp DESC LIMIT 1;

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
-- Events beyond a number that match, in the order in which they were committed.
SELECT {event} FROM llmspell.event_log AS l
WHERE l.tenant_id = :tenant_id AND l.sequence > :after_sequence AND {range} AND {filters}
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
    AND l.timestamp >= (SELECT s.first_at FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id)
  ORDER BY l.timestamp, l.event_id LIMIT :limit FOR UPDATE OF l
)
DELETE FROM llmspell.event_log AS d USING old
WHERE d.tenant_id = :tenant_id AND d.timestamp = old.timestamp AND d.event_id = old.event_id AND d.timestamp < :before
  AND d.timestamp >= (SELECT s.first_at FROM llmspell.event_sequences AS s WHERE s.tenant_id = :tenant_id);
