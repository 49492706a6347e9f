-- Rows of any exported table (relational/table_queries.py). One tenant, or `_all` for the operator.
-- form: select any
{column};
-- form: value any
:{parameter};
-- form: row any
:{parameter};
-- form: assign any
:{parameter};
-- form: size any
coalesce(length({column}), 0);
-- form: member any
({source} ->> {n});
-- form: member uuid
unhex({source} ->> {n});
-- form: listed any
({names}) IN (SELECT {members} FROM json_each(:things) AS g);
-- form: exists any
EXISTS (SELECT 1 FROM {table} AS t WHERE {same});
-- form: only embedding_spaces
 AND space_id NOT IN ('free-384', 'free-768', 'free-1536', 'free-3072');
-- form: more_columns vector
, seq;
-- form: more_values vector
, coalesce((SELECT change_seq FROM embedding_spaces WHERE tenant_id = :tenant AND space_id = :space_id), 0);

-- name: count_{table} -> value
-- How many rows a tenant has.
SELECT count(*) FROM {table} WHERE tenant_id = :tenant_id{only};

-- name: count_all_{table} -> value
-- How many rows there are.
-- cross-tenant: an export of all tenants
SELECT count(*) FROM {table} WHERE TRUE{only};

-- name: first_{table} -> rows
-- The first rows of a tenant, in the order of the key.
SELECT {selected} FROM {table} WHERE tenant_id = :tenant_id{only} ORDER BY {key} LIMIT :limit;

-- name: next_{table} -> rows
-- The rows of a tenant behind a key.
SELECT {selected} FROM {table}
WHERE tenant_id = :tenant_id AND ({rest}) > ({rest_after}){only} ORDER BY {key} LIMIT :limit;

-- name: first_all_{table} -> rows
-- The first rows of all tenants, in the order of the key.
-- cross-tenant: an export of all tenants
SELECT {selected} FROM {table} WHERE TRUE{only} ORDER BY {key} LIMIT :limit;

-- name: next_all_{table} -> rows
-- The rows of all tenants behind a key.
-- cross-tenant: an export of all tenants
SELECT {selected} FROM {table}
WHERE ({key}) > ({after}){only} ORDER BY {key} LIMIT :limit;

-- name: taken_{table} -> rows
-- The positions of things, in a list of their keys, that are there.
-- cross-tenant: each member of the list names its tenant
SELECT g.key FROM json_each(:things) AS g WHERE {exists};

-- name: insert_{table} -> count
-- Store a row.
-- cross-tenant: the row names its tenant, which the import has compared with the one that it is for
INSERT INTO {table} ({columns}{more_columns}) VALUES ({values}{more_values});

-- name: update_{table} -> count
-- Give a row other values, where others refer to it.
-- cross-tenant: the row names its tenant, as above
UPDATE {table} AS t SET {assigned} WHERE {same_key};

-- name: remove_{table} -> count
-- Delete things.
-- cross-tenant: each member of the list names its tenant
DELETE FROM {table} WHERE {listed};

-- name: remove_text_postings -> count
-- Take memories out of the index of words.
-- cross-tenant: each member of the list names its tenant
DELETE FROM text_postings WHERE (tenant_id, collection, owner_id) IN (
  SELECT g.value ->> 0, :collection, unhex(g.value ->> 1) FROM json_each(:things) AS g
);

-- name: remove_owned_{dim} -> count
-- Delete the embeddings of memories.
-- cross-tenant: each member of the list names its tenant
DELETE FROM vector_embeddings_{dim} WHERE (tenant_id, owner_id) IN (
  SELECT g.value ->> 0, unhex(g.value ->> 1) FROM json_each(:things) AS g
);

-- name: text_lengths -> rows
-- How many memories of a list there are in each tenant, and how many terms they have.
-- cross-tenant: each member of the list names its tenant
SELECT m.tenant_id, count(*), sum(m.text_length) FROM memories AS m
WHERE (m.tenant_id, m.memory_id) IN (SELECT g.value ->> 0, unhex(g.value ->> 1) FROM json_each(:things) AS g)
GROUP BY m.tenant_id;

-- name: dimensions -> rows
-- The dimensions of spaces, with their positions in a list.
-- cross-tenant: each member of the list names its tenant
SELECT g.key, s.dimension FROM json_each(:things) AS g
JOIN embedding_spaces AS s ON s.tenant_id = g.value ->> 0 AND s.space_id = g.value ->> 1;

-- name: merge_tenant_clocks -> count
-- Put a clock forward.
UPDATE tenant_clocks SET last_recorded = max(last_recorded, :last_recorded) WHERE tenant_id = :tenant_id;

-- name: merge_event_sequences -> count
-- Number on from the greater number.
UPDATE event_sequences SET value = max(value, :value),
  first_at = min(coalesce(first_at, :first_at), coalesce(:first_at, first_at)),
  last_at = max(coalesce(last_at, :last_at), coalesce(:last_at, last_at))
WHERE tenant_id = :tenant_id;

-- name: space_imported -> count
-- Take the change number under which vectors come in, registering a free space.
-- only: caches outside the database catch up by change numbers
INSERT INTO embedding_spaces (tenant_id, space_id, model, dimension, change_seq, created_at, updated_at)
VALUES (:tenant_id, :space_id, :model, :dimension, 1, :now, :now)
ON CONFLICT (tenant_id, space_id) DO UPDATE SET change_seq = change_seq + 1;

-- name: spaces_changed -> count
-- Take the number under which triggers have noted vectors that were deleted or replaced, in every space of a tenant.
-- only: caches outside the database catch up by change numbers
UPDATE embedding_spaces SET change_seq = change_seq + 1, deleted_seq = change_seq + 1 WHERE tenant_id = :tenant_id;
