-- Rows of any exported table (relational/table_queries.py). One tenant, or `_all` for the operator.
-- form: select any
{column};
-- form: select json
{column}::text AS {column};
-- form: value text
:{parameter}::text[];
-- form: value uuid
:{parameter}::uuid[];
-- form: value integer
:{parameter}::bigint[];
-- form: value float
:{parameter}::float8[];
-- form: value boolean
:{parameter}::boolean[];
-- form: value json
:{parameter}::jsonb[];
-- form: value texts
:{parameter}::jsonb[];
-- form: value bytes
:{parameter}::bytea[];
-- form: value instant
:{parameter}::timestamptz[];
-- form: value open_instant
:{parameter}::timestamptz[];
-- form: value vector
:{parameter}::public.vector[];
-- form: row any
r.{column};
-- form: row texts
ARRAY(SELECT e.value FROM jsonb_array_elements_text(r.{column}) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
-- form: assign any
r.{column};
-- form: assign texts
ARRAY(SELECT e.value FROM jsonb_array_elements_text(r.{column}) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
-- form: size any
coalesce(pg_column_size({column}), 0);
-- form: member any
({source}::jsonb ->> {n});
-- form: member uuid
({source}::jsonb ->> {n})::uuid;
-- form: member integer
({source}::jsonb ->> {n})::bigint;
-- form: member instant
({source}::jsonb ->> {n})::timestamptz;
-- form: listed any
({names}) IN (SELECT {members} FROM jsonb_array_elements(:things::jsonb) AS g (value));
-- form: exists any
EXISTS (SELECT FROM llmspell.{table} AS t WHERE {same});
-- form: only embedding_spaces
 AND space_id NOT IN ('free-384', 'free-768', 'free-1536', 'free-3072');

-- name: count_{table} -> value
-- How many rows a tenant has.
SELECT count(*) FROM llmspell.{table} WHERE tenant_id = :tenant_id{only};

-- name: count_all_{table} -> value
-- How many rows there are.
-- cross-tenant: an export of all tenants
SELECT count(*) FROM llmspell.{table} WHERE TRUE{only};

-- name: first_{table} -> rows
-- The first rows of a tenant, in the order of the key.
SELECT {selected} FROM llmspell.{table} WHERE tenant_id = :tenant_id{only} ORDER BY {key} LIMIT :limit::bigint;

-- name: next_{table} -> rows
-- The rows of a tenant behind a key.
SELECT {selected} FROM llmspell.{table}
WHERE tenant_id = :tenant_id AND ({rest}) > ({rest_after}){only} ORDER BY {key} LIMIT :limit::bigint;

-- name: first_all_{table} -> rows
-- The first rows of all tenants, in the order of the key.
-- cross-tenant: an export of all tenants
SELECT {selected} FROM llmspell.{table} WHERE TRUE{only} ORDER BY {key} LIMIT :limit::bigint;

-- name: next_all_{table} -> rows
-- The rows of all tenants behind a key.
-- cross-tenant: an export of all tenants
SELECT {selected} FROM llmspell.{table}
WHERE ({key}) > ({after}){only} ORDER BY {key} LIMIT :limit::bigint;

-- name: sizes_first_{table} -> rows
-- How many bytes the first rows of a tenant have, about.
-- only: the other database gives rows one by one
SELECT {size} FROM llmspell.{table} WHERE tenant_id = :tenant_id{only} ORDER BY {key} LIMIT :limit::bigint;

-- name: sizes_next_{table} -> rows
-- How many bytes the rows of a tenant behind a key have, about.
-- only: the other database gives rows one by one
SELECT {size} FROM llmspell.{table}
WHERE tenant_id = :tenant_id AND ({rest}) > ({rest_after}){only} ORDER BY {key} LIMIT :limit::bigint;

-- name: sizes_first_all_{table} -> rows
-- How many bytes the first rows of all tenants have, about.
-- cross-tenant: an export of all tenants
-- only: the other database gives rows one by one
SELECT {size} FROM llmspell.{table} WHERE TRUE{only} ORDER BY {key} LIMIT :limit::bigint;

-- name: sizes_next_all_{table} -> rows
-- How many bytes the rows of all tenants behind a key have, about.
-- cross-tenant: an export of all tenants
-- only: the other database gives rows one by one
SELECT {size} FROM llmspell.{table} WHERE ({key}) > ({after}){only} ORDER BY {key} LIMIT :limit::bigint;

-- name: taken_{table} -> rows
-- The positions of things, in a list of their keys, that are there.
-- cross-tenant: each member of the list names its tenant
SELECT g.n - 1 FROM jsonb_array_elements(:things::jsonb) WITH ORDINALITY AS g (value, n) WHERE {exists};

-- name: insert_{table} -> count
-- Store rows, given by columns.
-- cross-tenant: each row names its tenant, which the import has compared with the one that it is for
INSERT INTO llmspell.{table} ({columns}) SELECT {rows} FROM unnest({values}) AS r ({columns});

-- name: update_{table} -> count
-- Give rows other values, where others refer to them.
-- cross-tenant: each row names its tenant, as above
UPDATE llmspell.{table} AS t SET {assigned} FROM unnest({exported_values}) AS r ({exported}) WHERE {same_key};

-- name: remove_{table} -> count
-- Delete things.
-- cross-tenant: each member of the list names its tenant
DELETE FROM llmspell.{table} WHERE {listed};

-- name: remove_text_postings -> count
-- Take memories out of the index of words.
-- cross-tenant: each member of the list names its tenant
DELETE FROM llmspell.text_postings WHERE (tenant_id, collection, owner_id) IN (
  SELECT g.value ->> 0, :collection, (g.value ->> 1)::uuid FROM jsonb_array_elements(:things::jsonb) AS g (value)
);

-- name: remove_owned_{dim} -> count
-- Delete the embeddings of memories.
-- cross-tenant: each member of the list names its tenant
DELETE FROM llmspell.vector_embeddings_{dim} WHERE (tenant_id, owner_id) IN (
  SELECT g.value ->> 0, (g.value ->> 1)::uuid FROM jsonb_array_elements(:things::jsonb) AS g (value)
);

-- name: text_lengths -> rows
-- How many memories of a list there are in each tenant, and how many terms they have.
-- cross-tenant: each member of the list names its tenant
SELECT m.tenant_id, count(*), sum(m.text_length) FROM llmspell.memories AS m
WHERE (m.tenant_id, m.memory_id) IN (
  SELECT g.value ->> 0, (g.value ->> 1)::uuid FROM jsonb_array_elements(:things::jsonb) AS g (value)
)
GROUP BY m.tenant_id;

-- name: dimensions -> rows
-- The dimensions of spaces, with their positions in a list.
-- cross-tenant: each member of the list names its tenant
SELECT g.n - 1, s.dimension FROM jsonb_array_elements(:things::jsonb) WITH ORDINALITY AS g (value, n)
JOIN llmspell.embedding_spaces AS s ON s.tenant_id = g.value ->> 0 AND s.space_id = g.value ->> 1;

-- name: merge_tenant_clocks -> count
-- Put a clock forward.
UPDATE llmspell.tenant_clocks SET last_recorded = greatest(last_recorded, :last_recorded::timestamptz)
WHERE tenant_id = :tenant_id;

-- name: merge_event_sequences -> count
-- Number on from the greater number.
UPDATE llmspell.event_sequences SET value = greatest(value, :value::bigint),
  first_at = least(first_at, :first_at::timestamptz), last_at = greatest(last_at, :last_at::timestamptz)
WHERE tenant_id = :tenant_id;

-- name: vector_type -> value
-- The number of the type of embeddings.
-- cross-tenant: it is of the database
-- only: arrays in binary name the type of their members
SELECT 'public.vector'::regtype::oid::bigint;

-- name: take_mark -> value
-- Take a lock that nobody else uses, and say whether it was free: whether two connections lead to one database.
-- cross-tenant: it is of the database
-- only: a file has a place in its file system
SELECT pg_try_advisory_xact_lock(:mark::bigint);
