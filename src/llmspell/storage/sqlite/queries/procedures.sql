-- fragment: pattern
pattern_id, scope, key, value, frequency, first_seen, last_seen;

-- name: record -> row
-- Count occurrences of a pattern, the first of which makes it; a frequency stops at its highest.
INSERT INTO procedural_patterns AS p
    (tenant_id, pattern_id, scope, key, value, frequency, first_seen, last_seen, created_at, updated_at)
VALUES (:tenant_id, :pattern_id, :scope, :key, :value, :count, :now, :now, :now, :now)
ON CONFLICT (tenant_id, scope, key, value) DO UPDATE
SET frequency = min(p.frequency + excluded.frequency, 2147483647),
    last_seen = max(p.last_seen, excluded.last_seen), updated_at = excluded.updated_at
RETURNING {pattern};

-- name: get -> row
-- One pattern.
SELECT {pattern} FROM procedural_patterns
WHERE tenant_id = :tenant_id AND scope = :scope AND key = :key AND value = :value;

-- name: frequency -> value
-- How often a value was seen.
SELECT frequency FROM procedural_patterns
WHERE tenant_id = :tenant_id AND scope = :scope AND key = :key AND value = :value;

-- name: learned -> rows
-- A page of learned patterns in a range of places; the constant lets the partial index answer.
SELECT {pattern} FROM procedural_patterns
WHERE tenant_id = :tenant_id AND frequency >= 3 AND frequency >= :min_frequency
  AND (scope, key, value) > (:scope, :key, :value) AND (scope, key) < (:beyond_scope, :beyond_key)
ORDER BY scope, key, value LIMIT :limit;

-- name: seen -> rows
-- The same for lower frequencies than that from which a pattern counts as learned.
SELECT {pattern} FROM procedural_patterns
WHERE tenant_id = :tenant_id AND frequency >= :min_frequency
  AND (scope, key, value) > (:scope, :key, :value) AND (scope, key) < (:beyond_scope, :beyond_key)
ORDER BY scope, key, value LIMIT :limit;

-- name: predict -> rows
-- The most frequent values of a key in a range of values, and how often all of them were seen.
SELECT value, frequency, sum(frequency) OVER () AS total FROM procedural_patterns
WHERE tenant_id = :tenant_id AND scope = :scope AND key = :key AND value >= :first AND value < :beyond
ORDER BY frequency DESC, value LIMIT :limit;

-- name: delete -> count
-- Forget one pattern.
DELETE FROM procedural_patterns
WHERE tenant_id = :tenant_id AND scope = :scope AND key = :key AND value = :value;

-- name: forget -> count
-- Forget the first patterns in a range of places.
DELETE FROM procedural_patterns
WHERE tenant_id = :tenant_id AND pattern_id IN (
    SELECT pattern_id FROM procedural_patterns
    WHERE tenant_id = :tenant_id AND (scope, key, value) > (:scope, :key, '') AND (scope, key) < (:beyond_scope, :beyond_key)
    ORDER BY scope, key, value LIMIT :limit
);

-- name: prune -> count
-- Forget patterns that were not learned and not seen for long; the constant lets the partial index answer.
DELETE FROM procedural_patterns
WHERE tenant_id = :tenant_id AND pattern_id IN (
    SELECT pattern_id FROM procedural_patterns
    WHERE tenant_id = :tenant_id AND last_seen < :before AND frequency < :below AND frequency < 3
    ORDER BY last_seen, pattern_id LIMIT :limit
);

-- name: prune_learned -> count
-- The same for higher frequencies: it reads all patterns of the tenant.
DELETE FROM procedural_patterns
WHERE tenant_id = :tenant_id AND pattern_id IN (
    SELECT pattern_id FROM procedural_patterns
    WHERE tenant_id = :tenant_id AND last_seen < :before AND frequency < :below
    ORDER BY last_seen, pattern_id LIMIT :limit
);
