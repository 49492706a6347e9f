-- V028: the first and last instant of each tenant's events, and events by their id.
--
-- A query of the log names a time range, so that it opens only the months it needs. Whoever gives none means "from the
-- first to the last event", and these two columns say when that is, without opening a month. They are kept by whoever
-- takes numbers, in the same statement; deleting old events may leave first_at too early, never too late.

ALTER TABLE llmspell.event_sequences ADD COLUMN first_at timestamptz, ADD COLUMN last_at timestamptz;
SELECT llmspell.keep_to_calendar('llmspell.event_sequences');

-- The migrating role is subject to FORCE and would find no rows, so FORCE is lifted for the update, inside this
-- transaction and under the exclusive locks that it takes. The parent's policies are the ones that count here.
ALTER TABLE llmspell.event_log NO FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.event_sequences NO FORCE ROW LEVEL SECURITY;
INSERT INTO llmspell.event_sequences AS s (tenant_id, value, first_at, last_at)
SELECT e.tenant_id, max(e.sequence), min(e."timestamp"), max(e."timestamp")
FROM llmspell.event_log AS e GROUP BY e.tenant_id
ON CONFLICT (tenant_id) DO UPDATE
SET value = greatest(s.value, excluded.value), first_at = excluded.first_at, last_at = excluded.last_at;
ALTER TABLE llmspell.event_sequences FORCE ROW LEVEL SECURITY;
ALTER TABLE llmspell.event_log FORCE ROW LEVEL SECURITY;

-- The key of an event begins with its timestamp; whoever has only its id looks here. Not unique: a unique index of a
-- partitioned table must hold the timestamp.
CREATE INDEX idx_event_log_id ON llmspell.event_log (tenant_id, event_id);
