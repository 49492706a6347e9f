"""Which indexes a plan can use, taken as `llmspell_app` with 24 tenants in each table; a plan taken as owner is no evidence.

The evidence behind `docs/decisions/0002-indexes-under-rls.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.fixtures.postgres import PostgresDatabase, PostgresServer
from tests.migrations.samples import Connection, bind

TENANTS = 24
ROWS_PER_TENANT = 400
FILL = f"""
CREATE TEMPORARY TABLE tenant_row AS
SELECT 'tenant-' || t AS tenant, n, md5(t || ' ' || n)::uuid AS id, md5(t || ' ' || n % 40)::uuid AS other,
    timestamptz '2019-01-01' + n * interval '1 hour' AS at
FROM generate_series(1, {TENANTS}) AS t, generate_series(1, {ROWS_PER_TENANT}) AS n;
INSERT INTO llmspell.entities (entity_id, tenant_id, entity_type, name, properties, valid_time_start, transaction_time_start)
SELECT id, tenant, 'type-' || n % 20, 'name-' || n, jsonb_build_object('colour', n), at, at FROM tenant_row;
INSERT INTO llmspell.relationships
    (relationship_id, tenant_id, from_entity, to_entity, relationship_type, valid_time_start, transaction_time_start)
SELECT id, tenant, other, id, 'type-' || n % 20, at, at FROM tenant_row;
INSERT INTO llmspell.kv_store (tenant_id, key, value) SELECT tenant, 'key-' || n, 'x' FROM tenant_row;
INSERT INTO llmspell.memories (tenant_id, memory_id, session, content, event_at, embedding_state)
SELECT tenant, id, 'session-' || n % 40, 'text ' || n, at, CASE WHEN n % 50 = 0 THEN 'pending' ELSE 'ready' END
FROM tenant_row;
INSERT INTO llmspell.text_postings (tenant_id, collection, term, owner_id, tf, length)
SELECT tenant, 'memories', 'term-' || n % 40, id, 1, 10 FROM tenant_row;
INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
SELECT tenant, id, 'type-' || n % 20, other, at, n, jsonb_build_object('n', n) FROM tenant_row;
INSERT INTO llmspell.vector_embeddings_384 (tenant_id, id, owner_id, scope, embedding, space_id, ann)
SELECT tenant, id, id, 'scope', array_fill(n, ARRAY[384])::public.vector,
    CASE WHEN n <= 20 THEN 'free-384' ELSE 'promoted' END, n > 20
FROM tenant_row WHERE n <= 60;
ANALYZE;
"""
MINE = "tenant_id = 'tenant-7'"
SOMEONE = "'00000000-0000-7000-8000-000000000001'"
HOT = {
    "neighbours now": (
        f"relationships WHERE {MINE} AND from_entity = {SOMEONE} AND transaction_time_end = 'infinity'",
        "idx_relationships_from",
    ),
    "neighbours of a type as known at": (
        (
            f"relationships WHERE {MINE} AND to_entity = {SOMEONE} AND relationship_type = 'type-1'"
            " AND transaction_time_end > '2019-01-02' AND transaction_time_start <= '2019-01-02'"
        ),
        "idx_relationships_to",
    ),
    "history of a fact": (
        f"relationships WHERE {MINE} AND relationship_id = {SOMEONE} ORDER BY transaction_time_start",
        "relationships_pkey",
    ),
    "entity by name": (
        f"entities WHERE {MINE} AND name = 'name-7' AND transaction_time_end = 'infinity'",
        "idx_entities_name",
    ),
    "entities of a type": (
        f"entities WHERE {MINE} AND entity_type = 'type-7' AND transaction_time_end = 'infinity'",
        "idx_entities_type",
    ),
    "keys of a prefix": (f"kv_store WHERE {MINE} AND key >= 'key-39' AND key < 'key-3:' ORDER BY key", "kv_store_pkey"),
    "memories of a session": (
        f"memories WHERE {MINE} AND session = 'session-7' ORDER BY event_at, memory_id LIMIT 10",
        "idx_memories_session",
    ),
    "a page of memories": (
        (
            f"memories WHERE {MINE} AND (event_at, memory_id) > ('2019-01-02', {SOMEONE})"
            " ORDER BY event_at, memory_id LIMIT 10"
        ),
        "idx_memories_event",
    ),
    "pending memories": (
        f"memories WHERE {MINE} AND embedding_state = 'pending' ORDER BY created_at LIMIT 10",
        "idx_memories_pending",
    ),
    "owners of a term": (
        f"text_postings WHERE {MINE} AND collection = 'memories' AND term = 'term-7'",
        "text_postings_pkey",
    ),
    "vectors to search exactly": (
        f"vector_embeddings_384 WHERE {MINE} AND space_id = 'free-384' AND NOT ann",
        "idx_vector_384_exact",
    ),
    "a page of events": (
        (
            f"event_log WHERE {MINE} AND (timestamp, event_id) > ('2019-01-02', {SOMEONE}) AND timestamp < '2019-02-01'"
            " ORDER BY timestamp, event_id LIMIT 10"
        ),
        "event_log_default_pkey",
    ),
}
USELESS = {
    "GIN on properties": (
        "CREATE INDEX useless ON llmspell.entities USING gin (properties)",
        "properties @> '{\"colour\": 7}'",
    ),
    "GiST on valid time": (
        "CREATE INDEX useless ON llmspell.entities USING gist (tstzrange(valid_time_start, valid_time_end))",
        "tstzrange(valid_time_start, valid_time_end) @> timestamptz '2019-01-02'",
    ),
    "expression on a property": (
        "CREATE INDEX useless ON llmspell.entities (tenant_id, (properties ->> 'colour'))",
        "properties ->> 'colour' = '7'",
    ),
    "prefix by LIKE": (
        "CREATE INDEX useless ON llmspell.entities (tenant_id, name varchar_pattern_ops, valid_time_start)",
        "name LIKE 'name-7%'",
    ),
}


@pytest.fixture(scope="module")
def crowded(postgres_cluster: PostgresServer, postgres_template: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """A database in which 24 tenants have rows. The superuser fills it; nothing is proved as the superuser."""
    database = postgres_cluster.copy(postgres_template, "llmspell_plans")
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute(FILL.encode())
    yield database
    postgres_cluster.drop(database)


def plan_of(connection: Connection, query: str) -> str:
    return "\n".join(row[0] for row in connection.execute(f"EXPLAIN (COSTS OFF) {query}".encode()).fetchall())


@pytest.mark.parametrize("question", HOT)
def test_a_hot_question_is_answered_from_its_index(crowded: PostgresDatabase, question: str) -> None:
    query, index = HOT[question]
    with psycopg.connect(crowded.app_url) as app:
        bind(app, "tenant-7")
        plan = plan_of(app, f"SELECT * FROM llmspell.{query}")

    assert index in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("idea", USELESS)
def test_an_index_behind_a_leaky_operator_serves_nobody_under_row_level_security(
    crowded: PostgresDatabase, idea: str
) -> None:
    index, predicate = USELESS[idea]
    query = f"SELECT * FROM llmspell.entities WHERE {MINE} AND {predicate}"
    with psycopg.connect(crowded.superuser_url) as superuser:
        superuser.execute(index.encode())
        superuser.execute("SET LOCAL enable_seqscan = off")
        without_policies = plan_of(superuser, query)
        superuser.execute("SET LOCAL ROLE llmspell_app")
        bind(superuser, "tenant-7")
        under_policies = plan_of(superuser, query)
        superuser.rollback()

    assert "on useless" in without_policies
    assert "useless" not in under_policies
