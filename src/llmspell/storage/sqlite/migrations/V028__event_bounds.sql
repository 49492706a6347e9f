-- V028: the first and last instant of each tenant's events, and events by their id.
--
-- Here a trigger keeps the last number and both instants; on the server the statement that inserts does, since it takes
-- its numbers from that row and several writers may want them at once.

ALTER TABLE event_sequences ADD COLUMN first_at INTEGER;
ALTER TABLE event_sequences ADD COLUMN last_at INTEGER;
INSERT INTO event_sequences (tenant_id, value, first_at, last_at)
SELECT tenant_id, max(sequence), min(timestamp), max(timestamp) FROM event_log WHERE true GROUP BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE
SET value = max(value, excluded.value), first_at = excluded.first_at, last_at = excluded.last_at;

CREATE INDEX idx_event_log_id ON event_log (tenant_id, event_id);

CREATE TRIGGER event_log_numbered AFTER INSERT ON event_log BEGIN
    INSERT INTO event_sequences (tenant_id, value, first_at, last_at)
    VALUES (NEW.tenant_id, NEW.sequence, NEW.timestamp, NEW.timestamp)
    ON CONFLICT (tenant_id) DO UPDATE
    SET value = max(value, excluded.value), first_at = min(coalesce(first_at, excluded.first_at), excluded.first_at),
        last_at = max(coalesce(last_at, excluded.last_at), excluded.last_at);
END;
