-- fragment: fact
r.relationship_id, r.from_entity,
  (SELECT e.name FROM llmspell.entities e WHERE e.tenant_id = :tenant_id AND e.entity_id = r.from_entity
     ORDER BY e.transaction_time_start LIMIT 1) AS subject,
  r.relationship_type, r.to_entity,
  (SELECT e.name FROM llmspell.entities e WHERE e.tenant_id = :tenant_id AND e.entity_id = r.to_entity
     ORDER BY e.transaction_time_start LIMIT 1) AS object,
  r.properties, r.confidence, r.valid_time_start, r.valid_time_end, r.transaction_time_start, r.transaction_time_end,
  r.source, r.actor;

-- fragment: entity
e.entity_id, e.name, e.entity_type, e.properties, e.valid_time_start, e.valid_time_end, e.transaction_time_start,
  e.transaction_time_end, e.source, e.actor;

-- name: advance_clock -> value
-- Take the tenant's next recorded instant; the row stays locked until the transaction ends.
INSERT INTO llmspell.tenant_clocks (tenant_id, last_recorded) VALUES (:tenant_id, :now)
ON CONFLICT (tenant_id) DO UPDATE SET last_recorded = greatest(excluded.last_recorded, tenant_clocks.last_recorded + interval '1 microsecond')
RETURNING last_recorded;

-- name: hold_clock -> count
-- Put the instant of a transaction back that an undone block took away, and lock the row anew.
INSERT INTO llmspell.tenant_clocks (tenant_id, last_recorded) VALUES (:tenant_id, :recorded)
ON CONFLICT (tenant_id) DO UPDATE SET last_recorded = greatest(excluded.last_recorded, tenant_clocks.last_recorded);

-- name: insert_entity -> count
-- Record a version of an entity.
INSERT INTO llmspell.entities
  (tenant_id, entity_id, entity_type, name, name_folded, properties, valid_time_start, valid_time_end,
   transaction_time_start, transaction_time_end, created_at, source, actor)
VALUES (:tenant_id, :id, :type, :name, :name_folded, :properties, :valid_from, :valid_to, :recorded, :forever, :recorded,
   :source, :actor);

-- name: insert_fact -> count
-- Record a version of a relationship.
INSERT INTO llmspell.relationships
  (tenant_id, relationship_id, from_entity, to_entity, relationship_type, properties, confidence, valid_time_start,
   valid_time_end, transaction_time_start, transaction_time_end, created_at, source, actor)
VALUES (:tenant_id, :id, :subject, :object, :predicate, :properties, :confidence, :valid_from,
   :valid_to, :recorded, :forever, :recorded, :source, :actor);

-- name: close_entity -> count
-- End the belief in a version of an entity.
UPDATE llmspell.entities SET transaction_time_end = :recorded
WHERE tenant_id = :tenant_id AND entity_id = :id AND transaction_time_start = :recorded_from
  AND valid_time_start = :valid_from;

-- name: close_fact -> count
-- End the belief in a version of a relationship.
UPDATE llmspell.relationships SET transaction_time_end = :recorded
WHERE tenant_id = :tenant_id AND relationship_id = :id AND transaction_time_start = :recorded_from
  AND valid_time_start = :valid_from;

-- name: undo_entity -> count
-- Take back a version of an entity that this very transaction recorded: nobody has seen it.
DELETE FROM llmspell.entities
WHERE tenant_id = :tenant_id AND entity_id = :id AND transaction_time_start = :recorded
  AND valid_time_start = :valid_from;

-- name: undo_fact -> count
-- Take back a version of a relationship that this very transaction recorded: nobody has seen it.
DELETE FROM llmspell.relationships
WHERE tenant_id = :tenant_id AND relationship_id = :id AND transaction_time_start = :recorded
  AND valid_time_start = :valid_from;

-- name: entity_ids -> rows
-- Which entities bear these names, believed or not: a name keeps its id for ever.
SELECT DISTINCT name, entity_id FROM llmspell.entities WHERE tenant_id = :tenant_id AND name = ANY(:names::text[]);

-- name: believed_entity -> rows
-- What is believed of an entity, by valid time.
SELECT {entity} FROM llmspell.entities e
WHERE e.tenant_id = :tenant_id AND e.entity_id = :id AND e.transaction_time_end = :forever
ORDER BY e.valid_time_start;

-- name: entity_at -> row
-- The version of an entity that was true at an instant, as known at another.
SELECT {entity} FROM llmspell.entities e
WHERE e.tenant_id = :tenant_id AND e.entity_id = :id AND e.transaction_time_start <= :known AND e.transaction_time_end > :known AND e.valid_time_start <= :as_of AND e.valid_time_end > :as_of;

-- name: list_entities -> rows
-- Entities true at an instant, as known at another, by name.
SELECT {entity} FROM llmspell.entities e
WHERE e.tenant_id = :tenant_id AND e.name > :after AND e.transaction_time_start <= :known AND e.transaction_time_end > :known AND e.valid_time_start <= :as_of AND e.valid_time_end > :as_of AND {filters}
ORDER BY e.name LIMIT :limit;

-- name: mentioned -> rows
-- Entities true at an instant, as known at another, that have one of these case-folded names.
SELECT {entity} FROM llmspell.entities e
WHERE e.tenant_id = :tenant_id AND e.name_folded = ANY(:names::text[]) AND e.transaction_time_start <= :known AND e.transaction_time_end > :known AND e.valid_time_start <= :as_of AND e.valid_time_end > :as_of
ORDER BY e.name LIMIT :limit;

-- name: entity_history -> rows
-- Every version of an entity.
SELECT {entity} FROM llmspell.entities e
WHERE e.tenant_id = :tenant_id AND e.entity_id = :id
ORDER BY e.transaction_time_start, e.valid_time_start;

-- name: predicate -> value
-- The declared cardinality of a predicate.
SELECT cardinality FROM llmspell.predicates WHERE tenant_id = :tenant_id AND predicate = :predicate;

-- name: declare -> count
-- Declare the cardinality of a predicate.
INSERT INTO llmspell.predicates (tenant_id, predicate, cardinality, created_at)
VALUES (:tenant_id, :predicate, :cardinality, :now)
ON CONFLICT (tenant_id, predicate) DO NOTHING;

-- name: predicates -> rows
-- All declared predicates.
SELECT predicate, cardinality FROM llmspell.predicates WHERE tenant_id = :tenant_id ORDER BY predicate;

-- name: overlapping -> value
-- One when a subject has two beliefs of a predicate that overlap in valid time.
SELECT 1 FROM llmspell.relationships a
JOIN llmspell.relationships b ON b.tenant_id = :tenant_id AND b.from_entity = a.from_entity
  AND b.transaction_time_end = :forever AND b.relationship_type = :predicate
  AND (b.relationship_id, b.valid_time_start) > (a.relationship_id, a.valid_time_start)
  AND b.valid_time_start < a.valid_time_end AND a.valid_time_start < b.valid_time_end
WHERE a.tenant_id = :tenant_id AND a.relationship_type = :predicate AND a.transaction_time_end = :forever
ORDER BY 1 LIMIT 1;

-- name: believed -> rows
-- What is believed of a subject and a predicate, by valid time.
SELECT {fact}
FROM llmspell.relationships r
WHERE r.tenant_id = :tenant_id AND r.from_entity = :subject AND r.transaction_time_end = :forever AND r.relationship_type = :predicate
ORDER BY r.valid_time_start, r.relationship_id;

-- name: believed_fact -> rows
-- What is believed of one fact, by valid time.
SELECT {fact}
FROM llmspell.relationships r
WHERE r.tenant_id = :tenant_id AND r.relationship_id = :id AND r.transaction_time_end = :forever
ORDER BY r.valid_time_start;

-- name: believed_about -> rows
-- Every believed fact that touches an entity.
SELECT {fact}
FROM llmspell.relationships r
WHERE r.tenant_id = :tenant_id AND r.from_entity = :id AND r.transaction_time_end = :forever
UNION ALL
SELECT {fact}
FROM llmspell.relationships r
WHERE r.tenant_id = :tenant_id AND r.to_entity = :id AND r.from_entity <> :id AND r.transaction_time_end = :forever;

-- name: asserting -> row
-- What an assertion must know: the cardinality of the predicate, both entities and whether they are believed, and the id
-- that the fact had before, unless a correction has made it another fact.
SELECT
  (SELECT p.cardinality FROM llmspell.predicates p WHERE p.tenant_id = :tenant_id AND p.predicate = :predicate),
  s.entity_id, s.believed, o.entity_id, o.believed,
  (
    SELECT r.relationship_id FROM llmspell.relationships r
    WHERE r.tenant_id = :tenant_id AND r.from_entity = s.entity_id AND r.relationship_type = :predicate
      AND r.to_entity = o.entity_id
      AND NOT EXISTS (
        SELECT 1 FROM llmspell.relationships x
        WHERE x.tenant_id = :tenant_id AND x.relationship_id = r.relationship_id AND x.transaction_time_end = :forever
          AND x.to_entity <> o.entity_id
      )
    ORDER BY r.transaction_time_start DESC, r.relationship_id LIMIT 1
  )
FROM (SELECT 1) one
LEFT JOIN (
  SELECT e.entity_id, e.transaction_time_end = :forever AS believed FROM llmspell.entities e
  WHERE e.tenant_id = :tenant_id AND e.name = :subject ORDER BY e.transaction_time_end DESC LIMIT 1
) s ON TRUE
LEFT JOIN (
  SELECT e.entity_id, e.transaction_time_end = :forever AS believed FROM llmspell.entities e
  WHERE e.tenant_id = :tenant_id AND e.name = :object ORDER BY e.transaction_time_end DESC LIMIT 1
) o ON TRUE;

-- name: facts -> rows
-- Facts as known at an instant, under conditions on their parts.
SELECT {fact}
FROM llmspell.relationships r
WHERE r.tenant_id = :tenant_id AND r.transaction_time_start <= :known AND r.transaction_time_end > :known AND {filters}
ORDER BY r.valid_time_start, r.relationship_id LIMIT :limit;

-- name: touching -> rows
-- Facts that touch any of several entities, true at an instant, as known at another.
SELECT * FROM (
  SELECT {fact}
  FROM llmspell.relationships r
  WHERE r.tenant_id = :tenant_id AND r.from_entity = ANY(:outgoing::uuid[])
    AND r.transaction_time_start <= :known AND r.transaction_time_end > :known AND r.valid_time_start <= :as_of AND r.valid_time_end > :as_of AND {filters}
  UNION ALL
  SELECT {fact}
  FROM llmspell.relationships r
  WHERE r.tenant_id = :tenant_id AND r.to_entity = ANY(:incoming::uuid[])
    AND r.from_entity <> ALL(:outgoing::uuid[])
    AND r.transaction_time_start <= :known AND r.transaction_time_end > :known AND r.valid_time_start <= :as_of AND r.valid_time_end > :as_of AND {filters}
) f
ORDER BY f.relationship_type, f.valid_time_start, f.relationship_id LIMIT :limit;

-- name: touching_name -> rows
-- Facts that touch the entity of a name (NULL: none), true at an instant, as known at another.
SELECT * FROM (
  SELECT {fact}
  FROM llmspell.relationships r
  WHERE r.tenant_id = :tenant_id AND r.from_entity = (SELECT e.entity_id FROM llmspell.entities e WHERE e.tenant_id = :tenant_id AND e.name = :outgoing ORDER BY e.transaction_time_end LIMIT 1)
    AND r.transaction_time_start <= :known AND r.transaction_time_end > :known AND r.valid_time_start <= :as_of AND r.valid_time_end > :as_of AND {filters}
  UNION ALL
  SELECT {fact}
  FROM llmspell.relationships r
  WHERE r.tenant_id = :tenant_id AND r.to_entity = (SELECT e.entity_id FROM llmspell.entities e WHERE e.tenant_id = :tenant_id AND e.name = :incoming ORDER BY e.transaction_time_end LIMIT 1)
    AND r.from_entity IS DISTINCT FROM (SELECT e.entity_id FROM llmspell.entities e WHERE e.tenant_id = :tenant_id AND e.name = :outgoing ORDER BY e.transaction_time_end LIMIT 1)
    AND r.transaction_time_start <= :known AND r.transaction_time_end > :known AND r.valid_time_start <= :as_of AND r.valid_time_end > :as_of AND {filters}
) f
ORDER BY f.relationship_type, f.valid_time_start, f.relationship_id LIMIT :limit;

-- name: history -> rows
-- Every version of a fact.
SELECT {fact}
FROM llmspell.relationships r
WHERE r.tenant_id = :tenant_id AND r.relationship_id = :id
ORDER BY r.transaction_time_start, r.valid_time_start;

-- name: stats -> row
-- Entities and facts believed and true now, and versions ever recorded.
SELECT
  (SELECT count(*) FROM llmspell.entities e WHERE e.tenant_id = :tenant_id AND e.transaction_time_end = :forever AND e.valid_time_start <= :as_of AND e.valid_time_end > :as_of),
  (SELECT count(*) FROM llmspell.relationships r WHERE r.tenant_id = :tenant_id AND r.transaction_time_end = :forever AND r.valid_time_start <= :as_of AND r.valid_time_end > :as_of),
  (SELECT count(*) FROM llmspell.entities e WHERE e.tenant_id = :tenant_id),
  (SELECT count(*) FROM llmspell.relationships r WHERE r.tenant_id = :tenant_id);

-- name: prune_facts -> count
-- Delete versions of relationships whose belief ended before an instant.
DELETE FROM llmspell.relationships
WHERE tenant_id = :tenant_id AND (relationship_id, transaction_time_start, valid_time_start) IN (
  SELECT r.relationship_id, r.transaction_time_start, r.valid_time_start FROM llmspell.relationships r
  WHERE r.tenant_id = :tenant_id AND r.transaction_time_end < :before
  ORDER BY r.transaction_time_end, r.relationship_id, r.transaction_time_start, r.valid_time_start LIMIT :limit
);

-- name: prune_entities -> count
-- Delete versions of entities whose belief ended before an instant; the last one stays, so that the name keeps its id.
DELETE FROM llmspell.entities
WHERE tenant_id = :tenant_id AND (entity_id, transaction_time_start, valid_time_start) IN (
  SELECT e.entity_id, e.transaction_time_start, e.valid_time_start FROM llmspell.entities e
  WHERE e.tenant_id = :tenant_id AND e.transaction_time_end < :before AND EXISTS (
    SELECT 1 FROM llmspell.entities k
    WHERE k.tenant_id = :tenant_id AND k.entity_id = e.entity_id
      AND (k.transaction_time_start, k.valid_time_start) > (e.transaction_time_start, e.valid_time_start)
  )
  ORDER BY e.transaction_time_end, e.entity_id, e.transaction_time_start, e.valid_time_start LIMIT :limit
);
