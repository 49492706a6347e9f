-- Every query that walks events names a time range; without one given it is that of the tenant's own events, which
-- event_sequences knows. A trigger keeps that row.

-- fragment: event
l.event_id, l.event_type, l.correlation_id, l.timestamp, l.sequence, l.language, l.payload;

-- fragment: range
l.timestamp >= coalesce(:since, (SELECT s.first_at FROM event_sequences AS s WHERE s.tenant_id = :tenant_id))
  AND l.timestamp < coalesce(:until, (SELECT s.last_at + 1 FROM event_sequences AS s WHERE s.tenant_id = :tenant_id));

-- fragment: appended
INSERT INTO event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, language, payload)
SELECT :tenant_id, unhex(n.value ->> 0), n.value ->> 1, unhex(n.value ->> 2), n.value ->> 3,
  coalesce((SELECT s.value FROM event_sequences AS s WHERE s.tenant_id = :tenant_id), 0) + n.key + 1,
  n.value ->> 4, n.value -> 5
FROM json_each(:events) AS n ORDER BY n.key;

-- name: append -> value
-- Store one event, and return its number.
{appended}
RETURNING sequence;

-- name: append_many -> count
-- Store events in one statement, numbered in the order given.
{appended};

-- name: taken -> row
-- The earliest of several events that is there already.
SELECT l.timestamp, l.event_id FROM json_each(:events) AS n
JOIN event_log AS l ON l.tenant_id = :tenant_id AND l.timestamp = n.value ->> 3 AND l.event_id = unhex(n.value ->> 0)
ORDER BY l.timestamp, l.event_id LIMIT 1;

-- name: get -> row
-- The latest event of an id. The + keeps the planner from walking over all events, by the key, in search of the id.
SELECT {event} FROM event_log AS l
WHERE l.tenant_id = :tenant_id AND l.event_id = :id
ORDER BY +l.timestamp DESC LIMIT 1;

-- name: get_at -> row
-- One event, by its key.
SELECT {event} FROM event_log AS l
WHERE l.tenant_id = :tenant_id AND l.timestamp = :at AND l.event_id = :id;

-- name: list_desc -> rows
-- Events of a time range that match, the latest first.
SELECT {event} FROM event_log AS l
WHERE l.tenant_id = :tenant_id AND {range} AND {filters}
ORDER BY l.timestamp DESC, l.event_id DESC LIMIT :limit;

-- name: list_asc -> rows
-- Events of a time range that match, the earliest first.
SELECT {event} FROM event_log AS l
WHERE l.tenant_id = :tenant_id AND {range} AND {filters}
ORDER BY l.timestamp, l.event_id LIMIT :limit;

-- name: tail -> rows
-- Events beyond a number that match, in the order in which they were committed.
SELECT {event} FROM event_log AS l
WHERE l.tenant_id = :tenant_id AND l.sequence > :after_sequence AND {filters}
ORDER BY l.sequence LIMIT :limit;

-- name: count -> value
-- How many events of a time range match.
SELECT count(*) FROM event_log AS l WHERE l.tenant_id = :tenant_id AND {range} AND {filters};

-- name: stats -> rows
-- Events of a time range by type, with the first and last of each.
SELECT l.event_type, count(*), min(l.timestamp), max(l.timestamp) FROM event_log AS l
WHERE l.tenant_id = :tenant_id AND {range}
GROUP BY l.event_type ORDER BY l.event_type;

-- name: last_sequence -> value
-- The number of the last event that was committed.
SELECT value FROM event_sequences WHERE tenant_id = :tenant_id;

-- name: prune -> count
-- Delete the earliest events before an instant.
DELETE FROM event_log WHERE tenant_id = :tenant_id AND timestamp < :before AND rowid IN (
  SELECT l.rowid FROM event_log AS l WHERE l.tenant_id = :tenant_id AND l.timestamp < :before
  ORDER BY l.timestamp, l.event_id LIMIT :limit
);
