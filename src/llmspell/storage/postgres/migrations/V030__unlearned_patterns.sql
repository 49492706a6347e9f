-- V030: what was seen once or twice, long ago, is found and forgotten without reading what was learned.
--
-- The counterpart of idx_procedural_patterns_lookup: a pattern leaves this index with its third occurrence.

CREATE INDEX idx_procedural_patterns_unlearned ON llmspell.procedural_patterns (tenant_id, last_seen, pattern_id)
    WHERE frequency < 3;
