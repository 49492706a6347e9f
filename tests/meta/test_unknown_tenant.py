"""What a query costs a tenant that the planner has never heard of: one that was loaded after the statistics were made.

A planner expects one row of it, and a join that is planned for one row takes n x n steps. What is counted is rows, not time: of
those that a plan touched, times the loops in which it did.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from tests.fixtures.postgres import PostgresDatabase, PostgresServer
from tests.meta.test_plans import HERE, VALUES, plan_for_the_index, query_of

from llmspell.storage.postgres import statements

STRANGER = "tenant-unknown"
MEMORIES = 1_000
TERMS_EACH = 5
STEPS = 4
"""Steps per row of the largest table that a query reads: a sort and a group look at each row again."""
ALL = MEMORIES * TERMS_EACH
IDS = [str(UUID(int=(99 << 64) | n)) for n in range(1, 11)]
COMMON = '[{"term": "common-1", "idf": 1.5, "generates": true}, {"term": "common-2", "idf": 1, "generates": false}]'
LOAD = """
INSERT INTO llmspell.tenants (tenant_id, name) VALUES ('{tenant}', '{tenant}');
CREATE TEMPORARY TABLE load AS SELECT n, (lpad(to_hex(99), 16, '0') || lpad(to_hex(n), 16, '0'))::uuid AS id
FROM generate_series(1, {memories}) AS n;
INSERT INTO llmspell.memories (tenant_id, memory_id, session, role, content, event_at, embedding_state, space_id)
SELECT '{tenant}', id, 'session-' || n % 40, 'user', 'text', now(), 'ready', 'model' FROM load;
INSERT INTO llmspell.text_postings (tenant_id, collection, term, owner_id, tf, length)
SELECT '{tenant}', 'memories', 'common-' || k, id, 1, {terms} FROM load, generate_series(1, {terms}) AS k;
INSERT INTO llmspell.embedding_spaces (tenant_id, space_id, model, dimension) VALUES ('{tenant}', 'model', 'model', 384);
INSERT INTO llmspell.vector_embeddings_384 (tenant_id, id, owner_id, scope, embedding, space_id)
SELECT '{tenant}', id, id, 'memories', array_fill(1::real, ARRAY[384])::public.vector, 'model' FROM load;
INSERT INTO llmspell.event_sequences (tenant_id, value, first_at, last_at)
SELECT '{tenant}', {memories}, min(t), max(t) FROM (SELECT timestamptz '2026-01-01' + n * interval '1 hour' AS t FROM load) AS at;
INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
SELECT '{tenant}', id, 'type.3', id, timestamptz '2026-01-01' + n * interval '1 hour', n, '{{}}' FROM load;
INSERT INTO llmspell.hook_history
    (tenant_id, execution_id, hook_id, hook_type, correlation_id, hook_context, result_data, timestamp, duration_ms,
     triggering_component, component_id)
SELECT '{tenant}', id, 'hook-7', 'type-3', id, 'b', '{{}}', timestamptz '2026-01-01' + n * interval '1 hour', n, 'c', '' FROM load;
"""


@pytest.fixture(scope="module")
def loaded_server(postgres_cluster: PostgresServer, postgres_template: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """24 tenants that were analysed, and one that came later. Nobody may analyse it meanwhile."""
    database = postgres_cluster.copy(postgres_template, "llmspell_unknown")
    with psycopg.connect(database.superuser_url) as superuser:
        for table in ("memories", "text_postings", "vector_embeddings_384", "event_sequences", "hook_history"):
            superuser.execute(
                sql.SQL("ALTER TABLE llmspell.{} SET (autovacuum_enabled = false)").format(sql.Identifier(table))
            )
        superuser.execute((HERE / "crowd_postgres.sql").read_bytes())
        superuser.commit()
        superuser.execute(LOAD.format(tenant=STRANGER, memories=MEMORIES, terms=TERMS_EACH).encode())
    yield database
    postgres_cluster.drop(database)


def executed(database: PostgresDatabase, label: str, mode: str) -> dict[str, Any]:
    """The plan of a query with what each of its nodes did, as the serving role; what it wrote is rolled back."""
    command = statements.command(query_of("postgres", label, None))
    values = {
        **VALUES,
        "ids": "{" + ",".join(IDS) + "}",
        "id": IDS[0],
        "terms": COMMON if label.endswith("rank_memories") else "{common-1,common-2}",
        "tenant_id": STRANGER,
        **(ALL_OF_THEM if label.startswith(("event_log", "hook_history")) else {}),
    }
    types = sql.SQL(", ").join(sql.SQL("text" if name == "tenant_id" else "unknown") for name in command.names)
    with psycopg.connect(database.app_url) as app:
        app.execute("SELECT set_config('app.current_tenant_id', %s, true)", (STRANGER,))
        app.execute("SELECT set_config('plan_cache_mode', %s, true)", (mode,))
        plan_for_the_index(app, label)
        app.execute(sql.SQL("PREPARE hot ({}) AS ").format(types) + sql.SQL(command.sql.decode()))
        arguments = sql.SQL(", ").join(sql.Literal(values[name]) for name in command.names)
        explain = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE hot ({})").format(arguments)
        ((plans,),) = app.execute(explain).fetchall()
        app.rollback()
    found: dict[str, Any] = plans[0]["Plan"]
    return found


def steps(node: dict[str, Any]) -> int:
    """Rows that a node gave or threw away, in all loops of it, and those of the nodes below."""
    thrown: float = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    below = sum(steps(one) for one in node.get("Plans", []))
    seen: float = (node["Actual Rows"] + thrown) * node["Actual Loops"]
    return below + round(seen)


ALL_OF_THEM = {
    "before": "2027-01-01",
    "ordinary": "2027-01-01",
    "important": "2027-01-01",
    "limit": "900",
    "keep": "100",
    "threshold": "5",
}
LINEAR = (
    *("event_log.prune", "event_log.list_desc", "event_log.tail", "hook_history.prune", "hook_history.retain"),
    *("hook_history.statistics", "event_log.stats"),
    *("postings.rank_memories", "nearest.memories_384", "nearest.memories_exact_384", "nearest.memories_union_384"),
)
BY_ID = (
    *("memories.get_batch", "memories.current", "memories.lock_versions", "memories.taken", "memories.delete"),
    *("memories.touch", "memories.history", "memories.mark_embedded", "postings.remove"),
    *("vectors.delete_owners_384", "vectors.delete_owners_in_384"),
)
MODES = ["force_custom_plan", "force_generic_plan"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", LINEAR)
def test_a_search_takes_steps_in_proportion_to_the_rows_of_an_unknown_tenant(
    loaded_server: PostgresDatabase, label: str, mode: str
) -> None:
    plan = executed(loaded_server, label, mode)

    assert steps(plan) <= 2 * STEPS * ALL, json.dumps(plan, indent=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", BY_ID)
def test_a_look_up_by_id_does_not_read_all_rows_of_an_unknown_tenant(
    loaded_server: PostgresDatabase, label: str, mode: str
) -> None:
    plan = executed(loaded_server, label, mode)

    assert steps(plan) < MEMORIES, json.dumps(plan, indent=1)


def test_a_join_of_an_unknown_tenant_is_noticed(loaded_server: PostgresDatabase) -> None:
    """The count sees what it is there for: a plan that reads the tenant again for each of its rows."""
    with psycopg.connect(loaded_server.app_url) as app:
        app.execute("SELECT set_config('app.current_tenant_id', %s, true)", (STRANGER,))
        ((plans,),) = app.execute(
            "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT count(*) FROM llmspell.vector_embeddings_384 v"
            " JOIN llmspell.memories m ON m.tenant_id = 'tenant-unknown' AND m.memory_id = v.owner_id"
            " WHERE v.tenant_id = 'tenant-unknown' AND v.space_id = 'model'"
        ).fetchall()

    assert steps(plans[0]["Plan"]) > 2 * STEPS * ALL
