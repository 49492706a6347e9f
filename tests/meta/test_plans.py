"""The hot queries reach their rows through an index, in both databases, with two dozen tenants in every table.

On PostgreSQL the plans are taken as `llmspell_app`, under row-level security: a plan taken as the owner is no evidence. Each is
taken twice, for these values and for any values, since a prepared statement may be run by either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import apsw.ext
import msgspec
import psycopg
import pytest
from psycopg import sql
from tests.fixtures.postgres import PostgresDatabase, PostgresServer
from tests.meta.source import complaint

from llmspell.clock import ManualClock
from llmspell.storage.postgres import statements
from llmspell.storage.postgres.dialect import PostgresFilters
from llmspell.storage.relational.catalog import Query, load, parse
from llmspell.storage.sqlite import migrator
from llmspell.storage.sqlite.connection import open_writer
from llmspell.storage.sqlite.dialect import SqliteFilters

HERE = Path(__file__).parent
TENANT = "tenant-7"
BUSY_TIMEOUT_S = 5.0
BIG = frozenset(
    {
        *("kv_store", "memories", "memory_versions", "text_postings", "text_stats", "entities", "relationships"),
        *("audit_log",),
        *("api_keys", "access_keys"),
        *("procedural_patterns", "agent_states", "workflow_states"),
        *("event_log", "event_log_2026_01", "event_log_2026_02", "hook_history"),
        "jobs",
        *("vector_embeddings_384", "vector_embeddings_768", "vector_embeddings_1536", "vector_embeddings_3072"),
        *("sessions", "artifacts", "artifact_content", "artifact_chunks"),
    }
)
ID = str(UUID(int=(7 << 64) | 3))
IDS = "{" + ",".join(str(UUID(int=(7 << 64) | n)) for n in (3, 4, 5)) + "}"
AT = "2026-01-05T00:00:00Z"
# Values for PostgreSQL; which index is used does not depend on them in SQLite, which has no statistics.
VALUES: dict[str, Any] = {
    **dict.fromkeys(("after", "first"), "key-39"),
    **dict.fromkeys(("now", "instant", "known", "as_of", "before", "at", "due", "expires_at"), AT),
    **dict.fromkeys(("id", "subject", "object", "key_id", "session"), ID),
    **dict.fromkeys(("expected_version", "expected_revision", "data", "metadata", "tags", "name", "parent"), None),
    **dict.fromkeys(("ids", "outgoing", "incoming"), IDS),
    "average": "5.0",
    "beyond": "key-3:",
    "candidates": "40",
    "collection": "memories",
    "ef_search": "100",
    "f0": "user",
    "kind": "kind-3",
    "dedupe_key": "key-10",
    "state": "queued",
    "alone": "f",
    "lease_id": ID,
    "tenants": "{tenant-3,tenant-5}",
    "high": "z",
    "done": "1",
    "exact_below": "2000",
    "total": "2",
    "message": "m",
    "result": "{}",
    "kinds": "{kind-0,kind-3}",
    "wanted": "4",
    "reach": "68",
    "worker": "w",
    "most": "1000",
    "error": "e",
    "error_class": "E",
    "forever": "infinity",
    "hash": "7".zfill(64),
    "key": "key-7",
    "keys": "{key-7,key-8}",
    "limit": "10",
    "moves_end": "false",
    "names": "{name-7,name-8}",
    "number": "0",
    "predicate": "type-3",
    "query": "[" + ",".join(["0.5"] * 384) + "]",
    "scope": "scope",
    "service": "service-7",
    "stale": AT,
    "reason": "expired",
    "uses": "1",
    "behind": "40",
    "sequence": "500",
    "space_id": "model",
    **dict.fromkeys(("below", "min_frequency"), "3"),
    "value": "value-",
    "beyond_scope": "scope",
    "beyond_key": "key-8",
    "agent_id": "agent-7",
    "agent_type": "type-3",
    "workflow_id": "workflow-7",
    "status": "running",
    "sources": "{pending,failed}",
    "expected_version": "1",
    "step": "1",
    **dict.fromkeys(("data", "name", "current_step", "schema_version", "checksum")),
    "since": "2026-01-03T00:00:00Z",
    "until": "2026-01-20T00:00:00Z",
    "at": AT,
    "after_sequence": "990",
    "type": "type.3",
    "correlation_id": ID,
    "hook_id": "hook-7",
    "hook_type": "type-3",
    "below_priority": "5",
}
WORDS = '[{"term": "term-3", "idf": 1.5, "generates": true}, {"term": "term-4", "idf": 1, "generates": false}]'
TERMS = {
    "postings.rank_memories": WORDS,
    "postings.frequencies": "{term-3,term-4}",
}


class Hot(msgspec.Struct, frozen=True):
    """A query that is asked all the time, and the indexes through which it reaches big tables."""

    label: str
    server: frozenset[str] | None
    """On PostgreSQL, where the planner may choose among them. None: the query is not there."""
    file: frozenset[str] | None
    """In SQLite, all of them. `(primary key)` is that of a table that is its own index."""
    fragment: str | None = None

    @property
    def name(self) -> str:
        return f"{self.label} where {self.fragment}" if self.fragment else self.label


def hot(label: str, server: str, file: str, fragment: str | None = None) -> Hot:
    """A line of the table: names of indexes with spaces between them, empty where the query is not there."""
    there, here = (frozenset(names.split()) if names else None for names in (server, file))
    return Hot(label=label, server=there, file=here, fragment=fragment)


def selective(label: str, server: str, file: str, fragment: str) -> tuple[Hot, Hot]:
    """A line for each database, where a condition is marked as the selective one."""
    filters = PostgresFilters(), SqliteFilters()
    there, here = (dialect.selective(fragment) for dialect in filters)
    return hot(label, server, "", there), hot(label, "", file, here)


NAMES_OF = "entities_pkey", "sqlite_autoindex_entities_1"  # every fact is shown with the names of its entities
PRIMARY = "(primary_key)"
# What holds little of a tenant, or is meant to be read whole where a tenant is small.
WHOLE_TENANT = frozenset(
    {"idx_memories_pending", "idx_memories_accessed", "idx_memories_type", "idx_artifact_content_orphaned"}
)
HOT = (
    hot("kv.get", "kv_store_pkey", "sqlite_autoindex_kv_store_1"),
    hot("kv.list_keys", "kv_store_pkey", "sqlite_autoindex_kv_store_1"),
    hot("kv.get_batch", "kv_store_pkey", "sqlite_autoindex_kv_store_1"),
    hot("api_keys.find_sealed", "idx_api_keys_active", "idx_api_keys_active"),
    hot("api_keys.active", "idx_api_keys_active", "idx_api_keys_active"),
    hot("api_keys.note_use", "api_keys_pkey", "sqlite_autoindex_api_keys_1"),
    hot("api_keys.expire", "idx_api_keys_expires api_keys_pkey", "idx_api_keys_expires sqlite_autoindex_api_keys_1"),
    hot("access_keys.find", "access_keys_pkey tenants_pkey", "sqlite_autoindex_access_keys_1"),
    hot("access_keys.note_use", "access_keys_pkey", "sqlite_autoindex_access_keys_1"),
    hot(
        "access_keys.expire",
        "idx_access_keys_expires access_keys_pkey",
        "idx_access_keys_expires sqlite_autoindex_access_keys_1",
    ),
    hot("procedures.get", "unique_procedural_pattern", "sqlite_autoindex_procedural_patterns_2"),
    hot("procedures.frequency", "unique_procedural_pattern", "sqlite_autoindex_procedural_patterns_2"),
    hot("procedures.learned", "idx_procedural_patterns_lookup", "idx_procedural_patterns_lookup"),
    hot(
        "procedures.seen",
        "unique_procedural_pattern idx_procedural_patterns_lookup",
        "sqlite_autoindex_procedural_patterns_2",
    ),
    hot("procedures.predict", "unique_procedural_pattern", "sqlite_autoindex_procedural_patterns_2"),
    hot(
        "procedures.prune",
        "idx_procedural_patterns_unlearned procedural_patterns_pkey",
        "idx_procedural_patterns_unlearned sqlite_autoindex_procedural_patterns_1",
    ),
    hot("agent_state.get", "unique_agent_state", "sqlite_autoindex_agent_states_2"),
    hot("agent_state.replace", "unique_agent_state", "sqlite_autoindex_agent_states_2"),
    hot("agent_state.page", "idx_agent_states_created", "idx_agent_states_created"),
    hot("agent_state.page_of_type", "idx_agent_states_type", "idx_agent_states_type"),
    hot("workflow_state.get", "workflow_states_pkey", "sqlite_autoindex_workflow_states_1"),
    hot("workflow_state.transition", "workflow_states_pkey", "sqlite_autoindex_workflow_states_1"),
    hot("workflow_state.advance", "workflow_states_pkey", "sqlite_autoindex_workflow_states_1"),
    hot("workflow_state.page", "idx_workflow_states_created", "idx_workflow_states_created"),
    hot("workflow_state.page_of_status", "idx_workflow_states_status_created", "idx_workflow_states_status_created"),
    hot(
        "workflow_state.prune",
        "idx_workflow_states_ended workflow_states_pkey",
        "idx_workflow_states_ended sqlite_autoindex_workflow_states_1",
    ),
    hot("memories.get_batch", "memories_pkey", "sqlite_autoindex_memories_1"),
    hot("memories.page_by_at_desc", "idx_memories_event", "idx_memories_event"),
    hot("memories.page_by_at_desc", "idx_memories_session", "idx_memories_session", "m.session = :f0"),
    hot("memories.page_by_created_at_asc", "idx_memories_created", "idx_memories_created"),
    hot("memories.pending", "idx_memories_pending", "idx_memories_pending"),
    hot("memories.history", "memory_versions_pkey", "sqlite_autoindex_memory_versions_1"),
    hot("audit.get", "audit_log_pkey", "sqlite_autoindex_audit_log_1"),
    hot("audit.list", "idx_audit_log_at", "idx_audit_log_at"),
    hot("audit.list", "idx_audit_log_operation", "idx_audit_log_operation", "a.operation = :f0"),
    hot("audit.list", "idx_audit_log_principal", "idx_audit_log_principal", "a.principal = :f0"),
    hot("audit.list", "idx_audit_log_decision", "idx_audit_log_decision", "a.decision = :f0"),
    hot("audit.chain", "audit_log_pkey", "sqlite_autoindex_audit_log_1"),
    hot("postings.stats", "text_stats_pkey", PRIMARY),
    hot("postings.frequencies", "text_postings_pkey", PRIMARY),
    # Of a small tenant it is cheaper to read all postings, or all memories, once than to look each of them up.
    hot(
        "postings.rank_memories",
        "text_postings_pkey idx_text_postings_owner memories_pkey idx_memories_accessed idx_memories_type",
        f"{PRIMARY} sqlite_autoindex_memories_1",
    ),
    hot("postings.remove", "idx_text_postings_owner", "idx_text_postings_owner"),
    hot("memories.current", "memories_pkey", "sqlite_autoindex_memories_1"),
    hot("jobs.get", "jobs_pkey", "sqlite_autoindex_jobs_1"),
    hot("jobs.live", "unique_live_job", "unique_live_job"),
    hot("jobs.ensure", "idx_jobs_waiting", ""),
    hot("jobs.page", "idx_jobs_created", "idx_jobs_created"),
    hot("jobs.page_of_state", "idx_jobs_state", "idx_jobs_state"),
    hot("jobs.heartbeat", "jobs_pkey", "sqlite_autoindex_jobs_1"),
    hot("jobs.complete", "jobs_pkey", "sqlite_autoindex_jobs_1"),
    hot("nearest.free_384", "idx_vector_384_exact", ""),
    hot(
        "nearest.free_union_384",
        "idx_vector_384_exact idx_vector_384_hnsw unique_vector_384_part idx_vector_384_scope",
        "",
    ),
    hot("nearest.free_exact_384", "idx_vector_384_scope unique_vector_384_part", ""),
    hot("nearest.free_scope_384", "idx_vector_384_scope", ""),
    hot(
        "nearest.memories_384",
        "idx_vector_384_exact idx_vector_384_hnsw memories_pkey idx_memories_accessed idx_memories_type",
        "",
    ),
    hot("nearest.load_384", "", "idx_vector_384_seq"),
    hot("graph.entity_ids", "idx_entities_name", "idx_entities_name"),
    hot("graph.entity_at", "entities_pkey", "sqlite_autoindex_entities_1"),
    hot("graph.mentioned", "idx_entities_folded", "idx_entities_folded"),
    hot("graph.believed", f"idx_relationships_from {NAMES_OF[0]}", f"idx_relationships_from {NAMES_OF[1]}"),
    hot(
        "graph.asserting",
        "idx_entities_name idx_relationships_from relationships_pkey",
        "idx_entities_name idx_relationships_from sqlite_autoindex_relationships_1",
    ),
    hot(
        "graph.overlapping",
        "idx_relationships_type idx_relationships_from",
        "idx_relationships_type idx_relationships_from",
    ),
    hot(
        "graph.believed_about",
        f"idx_relationships_from idx_relationships_to {NAMES_OF[0]}",
        f"idx_relationships_from idx_relationships_to {NAMES_OF[1]}",
    ),
    hot("graph.history", f"relationships_pkey {NAMES_OF[0]}", f"sqlite_autoindex_relationships_1 {NAMES_OF[1]}"),
    hot(
        "graph.facts",
        f"idx_relationships_from {NAMES_OF[0]}",
        f"idx_relationships_from {NAMES_OF[1]}",
        "r.from_entity = :subject",
    ),
    hot(
        "graph.touching",
        f"idx_relationships_from idx_relationships_to {NAMES_OF[0]}",
        f"idx_relationships_from idx_relationships_to {NAMES_OF[1]}",
    ),
    hot(
        "graph.touching",
        f"idx_relationships_from idx_relationships_to {NAMES_OF[0]}",
        f"idx_relationships_from idx_relationships_to {NAMES_OF[1]}",
        "r.relationship_type = :predicate",
    ),
    hot(
        "graph.touching_name",
        f"idx_entities_name idx_relationships_from idx_relationships_to {NAMES_OF[0]}",
        f"idx_entities_name idx_relationships_from idx_relationships_to {NAMES_OF[1]}",
    ),
    hot(
        "graph.touching_name",
        f"idx_entities_name idx_relationships_from idx_relationships_to {NAMES_OF[0]}",
        f"idx_entities_name idx_relationships_from idx_relationships_to {NAMES_OF[1]}",
        "r.relationship_type = :predicate",
    ),
)
SESSION = "sessions_pkey", "sqlite_autoindex_sessions_1"  # an artifact is there as long as its session is
HOT += (
    hot("sessions.get", SESSION[0], SESSION[1]),
    hot("sessions.touch", SESSION[0], SESSION[1]),
    hot("sessions.update", SESSION[0], SESSION[1]),
    hot("sessions.delete", SESSION[0], SESSION[1]),
    hot("sessions.page", "idx_sessions_created", "idx_sessions_created"),
    hot("sessions.page_by_status", "idx_sessions_tenant_status", "idx_sessions_tenant_status"),
    hot("sessions.expire", f"idx_sessions_unmarked {SESSION[0]}", f"idx_sessions_unmarked {SESSION[1]}"),
    hot("sessions.lock_expired", "idx_sessions_expires", "idx_sessions_expires"),
    hot("artifacts.take_number", f"artifacts_pkey {SESSION[0]}", f"sqlite_autoindex_artifacts_1 {SESSION[1]}"),
    hot("artifacts.get", f"artifacts_pkey {SESSION[0]}", f"sqlite_autoindex_artifacts_1 {SESSION[1]}"),
    hot(
        "artifacts.open",
        f"artifacts_pkey artifact_content_pkey {SESSION[0]}",
        f"sqlite_autoindex_artifacts_1 sqlite_autoindex_artifact_content_1 {SESSION[1]}",
    ),
    hot("artifacts.chunk", "artifact_chunks_pkey", "sqlite_autoindex_artifact_chunks_1"),
    hot("artifacts.update", f"artifacts_pkey {SESSION[0]}", f"sqlite_autoindex_artifacts_1 {SESSION[1]}"),
    hot("artifacts.delete", f"artifacts_pkey {SESSION[0]}", f"sqlite_autoindex_artifacts_1 {SESSION[1]}"),
    # The last hundred of a tenant are read from the covering index, type by type (a skip scan), without their rows.
    hot(
        "artifacts.page",
        f"idx_artifacts_created idx_artifacts_covering {SESSION[0]}",
        f"idx_artifacts_created {SESSION[1]}",
    ),
    hot("artifacts.page_by_type", f"idx_artifacts_covering {SESSION[0]}", f"idx_artifacts_covering {SESSION[1]}"),
    hot(
        "artifacts.page_of_session",
        f"unique_artifact_sequence {SESSION[0]}",
        f"sqlite_autoindex_artifacts_2 {SESSION[1]}",
    ),
    hot(
        "artifacts.lock_contents",
        "artifact_content_pkey unique_artifact_sequence",
        "sqlite_autoindex_artifact_content_1 sqlite_autoindex_artifacts_2",
    ),
    hot("artifacts.delete_of_sessions", "unique_artifact_sequence", "sqlite_autoindex_artifacts_2"),
    hot(
        "artifacts.drop_content",
        "artifact_content_pkey idx_artifact_content_orphaned",
        "sqlite_autoindex_artifact_content_1",
    ),
    hot(
        "artifacts.drop_unreferenced",
        "idx_artifact_content_orphaned artifact_content_pkey",
        "idx_artifact_content_orphaned idx_artifact_content_sizes",
    ),
)
EVENTS = "event_log_pkey event_sequences_pkey", "sqlite_autoindex_event_log_1"
HOOKS = "hook_history_pkey", "sqlite_autoindex_hook_history_1"
HOT += (
    hot("event_log.get_at", "event_log_pkey event_log_tenant_id_event_id_idx", EVENTS[1]),
    hot("event_log.get", "event_log_tenant_id_event_id_idx event_sequences_pkey", "idx_event_log_id"),
    hot("event_log.list_desc", *EVENTS),
    hot("event_log.list_asc", *EVENTS),
    hot("event_log.list_desc", *EVENTS, "(l.timestamp, l.event_id) < (:at, :id)"),
    *selective(
        "event_log.list_desc",
        f"{EVENTS[0]} event_log_tenant_id_event_type_timestamp_idx",
        "idx_event_log_type",
        "l.event_type = :type",
    ),
    *selective(
        "event_log.list_desc",
        f"{EVENTS[0]} event_log_tenant_id_correlation_id_timestamp_idx",
        "idx_event_log_correlation",
        "l.correlation_id = :correlation_id",
    ),
    hot("event_log.tail", "event_log_tenant_id_sequence_idx event_sequences_pkey", "idx_event_log_sequence"),
    hot("hook_history.get", *HOOKS),
    hot("hook_history.list", "idx_hook_history_time", "idx_hook_history_time"),
    *selective("hook_history.list", "idx_hook_history_hook", "idx_hook_history_hook", "h.hook_id = :hook_id"),
    *selective("hook_history.list", "idx_hook_history_type", "idx_hook_history_type", "h.hook_type = :hook_type"),
    *selective(
        "hook_history.list",
        "idx_hook_history_correlation",
        "idx_hook_history_correlation",
        "h.correlation_id = :correlation_id",
    ),
)
ON_SERVER = [pytest.param(one, id=one.name) for one in HOT if one.server is not None]
IN_FILE = [pytest.param(one, id=one.name) for one in HOT if one.file is not None]


@pytest.fixture(scope="module")
def crowded_server(postgres_cluster: PostgresServer, postgres_template: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """The superuser fills it; nothing is proved as the superuser. Vacuumed at once, lest a plan depend on when the server does."""
    database = postgres_cluster.copy(postgres_template, "llmspell_hot")
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute((HERE / "crowd_postgres.sql").read_bytes())
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("VACUUM")
    yield database
    postgres_cluster.drop(database)


@pytest.fixture(scope="module")
def crowded_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    path = str(tmp_path_factory.mktemp("plans") / "store.db")
    migrator.migrate(path, busy_timeout_s=BUSY_TIMEOUT_S, clock=ManualClock())
    connection = open_writer(path, synchronous="NORMAL", busy_timeout_s=BUSY_TIMEOUT_S)
    connection.execute((HERE / "crowd_sqlite.sql").read_text("utf-8"))
    yield connection
    connection.close()


def query_of(dialect: str, label: str, fragment: str | None) -> Query:
    stem, _, name = label.partition(".")
    query: Query = getattr(getattr(load(f"llmspell.storage.{dialect}"), stem), name)
    return query.filtered(fragment) if fragment else query.filtered()


def server_plan(database: PostgresDatabase, query: Query, mode: str, *, url: str | None = None) -> str:
    """The plan of a query as the serving role, prepared as the executor does it, with row-level security on."""
    command = statements.command(query)
    values = {**VALUES, "terms": TERMS.get(query.label, ""), "tenant_id": TENANT}
    if query.label.endswith("_3072"):
        values["query"] = "[" + ",".join(["0.5"] * 3072) + "]"
    types = sql.SQL(", ").join(sql.SQL("text" if name == "tenant_id" else "unknown") for name in command.names)
    with psycopg.connect(url or database.app_url) as app:
        app.execute("SELECT set_config('app.current_tenant_id', %s, true)", (TENANT,))
        app.execute("SELECT set_config('plan_cache_mode', %s, true)", (mode,))
        plan_for_the_index(app, query.label)
        app.execute(sql.SQL("PREPARE hot ({}) AS ").format(types) + sql.SQL(command.sql.decode()))
        arguments = sql.SQL(", ").join(sql.Literal(values[name]) for name in command.names)
        rows = app.execute(sql.SQL("EXPLAIN (COSTS OFF) EXECUTE hot ({})").format(arguments)).fetchall()
    return "\n".join(row[0] for row in rows)


def plan_for_the_index(app: psycopg.Connection[Any], label: str) -> None:
    """Run what runs before a search through the approximate index."""
    if re.search(r"_(?:union|half|share)_\d+$", label):
        first = statements.command(query_of("postgres", "nearest.scan_by_index", None))
        settings = {"least": "40", "ef_search": None, "usual": "100", "max_scan_tuples": "20000"}
        psycopg.RawCursor(app).execute(first.sql, [settings[name] for name in first.names])


def tenant_wide(plan: str) -> list[str]:
    """The indexes that a plan enters with the tenant alone, although they could narrow down more."""
    found, index = [], ""
    for line in plan.splitlines():
        if match := re.search(r"(?:using|Bitmap Index Scan on) (\w+)", line):
            index = match[1]
        if "Index Cond:" in line and " AND " not in line and index not in WHOLE_TENANT:
            found.append(index)
    return found


def server_indexes(plan: str) -> set[str]:
    """The indexes of a plan; those of a month of events under one name, whatever the month."""
    found = re.findall(r"(?:using|Bitmap Index Scan on) (\w+)", plan)
    return {re.sub(r"^event_log_(?:\d{4}_\d\d|default)_", "event_log_", name) for name in found}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("one", ON_SERVER)
def test_a_hot_query_uses_its_index_under_row_level_security(
    crowded_server: PostgresDatabase, one: Hot, mode: str
) -> None:
    plan = server_plan(crowded_server, query_of("postgres", one.label, one.fragment), mode)
    scanned = sorted(BIG & set(re.findall(r"Seq Scan on (\w+)", plan)))

    assert not scanned, complaint(f"It reads whole tables; index its conditions, tenant_id first.\n{plan}", scanned)
    assert not tenant_wide(plan), complaint(f"It reads all rows of the tenant.\n{plan}", tenant_wide(plan))
    assert server_indexes(plan) <= (one.server or set()), (
        f"Not the index it is meant to use. Write the query so that it does (or, if the new one is better, note it in HOT).\n{plan}"
    )


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("nearest.free_union_384", "idx_vector_384_hnsw"),
        ("nearest.free_share_384", "idx_vector_384_hnsw"),
        ("nearest.memories_union_384", "idx_vector_384_hnsw"),
        ("nearest.free_half_3072", "idx_vector_3072_hnsw"),
        ("nearest.memories_half_3072", "idx_vector_3072_hnsw"),
    ],
)
def test_a_search_through_the_approximate_index_scans_it_whatever_the_planner_takes_the_tenant_for(
    crowded_server: PostgresDatabase, label: str, index: str, mode: str
) -> None:
    """Here it takes a tenant for one with a handful of rows, whose sorting it believes to be cheaper."""
    plan = server_plan(crowded_server, query_of("postgres", label, None), mode)

    assert f"Index Scan using {index}" in plan, plan


QUEUE = {
    "jobs.lease": ({"idx_jobs_waiting", "jobs_pkey"}, {"idx_jobs_waiting"}),
    "jobs.reclaim": ({"idx_jobs_running", "jobs_pkey"}, {"idx_jobs_running", "sqlite_autoindex_jobs_1"}),
    "jobs.wake": ({"idx_jobs_scheduled", "jobs_pkey"}, {"idx_jobs_scheduled", "sqlite_autoindex_jobs_1"}),
    "jobs.leased": ({"idx_jobs_running"}, {"idx_jobs_running"}),
}
"""What a worker asks of all tenants, and the indexes through which it reaches their jobs, on the server and in a file."""


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("label", QUEUE)
def test_a_worker_reaches_the_jobs_of_all_tenants_through_an_index(
    crowded_server: PostgresDatabase, label: str, mode: str
) -> None:
    plan = server_plan(crowded_server, query_of("postgres", label, None), mode, url=crowded_server.operator_url)

    assert "Seq Scan on jobs" not in plan, plan
    assert server_indexes(plan) <= QUEUE[label][0], plan


@pytest.mark.parametrize("label", [*QUEUE, "jobs.ensure"])
def test_a_worker_reaches_the_jobs_of_all_tenants_through_an_index_in_a_file(
    crowded_file: apsw.Connection, label: str
) -> None:
    steps = file_plan(crowded_file, query_of("sqlite", label, None))
    used = {match[1] for step in steps if (match := re.search(r"INDEX (\w+)", step))} - {"1"}

    assert not [step for step in steps if re.match(r"SCAN (?:j|r|s|h|jobs)\b", step)], steps
    assert used <= QUEUE.get(label, ((), {"idx_jobs_waiting"}))[1], steps


def file_plan(connection: apsw.Connection, query: Query) -> list[str]:
    """The steps of a plan."""
    found = apsw.ext.query_info(connection, query.sql, explain_query_plan=True).query_plan
    steps: list[str] = []
    waiting = [found] if found is not None else []
    while waiting:
        step = waiting.pop()
        steps.append(step.detail)
        waiting += step.sub or []
    return steps


def big_tables(query: Query) -> dict[str, str]:
    """The big tables of a query, under the names that its plan gives them."""
    found = re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+([a-z_0-9]+)(?:\s+(?:AS\s+)?([a-z])\b)?", query.sql)
    return {alias or table: table for table, alias in found if table in BIG}


@pytest.mark.parametrize("one", IN_FILE)
def test_a_hot_query_uses_its_index_in_a_file(crowded_file: apsw.Connection, one: Hot) -> None:
    query = query_of("sqlite", one.label, one.fragment)
    steps, big = file_plan(crowded_file, query), big_tables(query)
    on_big = [step for step in steps if step.split()[0] in ("SCAN", "SEARCH") and step.split()[1] in big]
    blind = [step for step in on_big if "(tenant_id=? AND " not in step and not WHOLE_TENANT & set(step.split())]
    found = (re.search(r"USING (?:COVERING )?(?:INDEX (\w+)|PRIMARY KEY)", step) for step in on_big)
    used = frozenset(match[1] or PRIMARY for match in found if match is not None)

    assert not blind, complaint(
        "It reads all rows of a tenant, or of all; index its conditions, tenant_id first.", steps
    )
    assert used == one.file, complaint(
        "Not the index it is meant to use. Write the query so that it does (or, if the new one is better, note it in HOT).",
        steps,
    )


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_artifacts_of_a_type_are_listed_from_the_index_alone(crowded_server: PostgresDatabase, mode: str) -> None:
    """ARS-08; the vacuum of the fixture says which pages need not be looked at."""
    plan = server_plan(crowded_server, query_of("postgres", "artifacts.page_by_type", None), mode)

    assert "Index Only Scan using idx_artifacts_covering" in plan, plan


def test_artifacts_of_a_type_are_listed_from_the_index_alone_in_a_file(crowded_file: apsw.Connection) -> None:
    """ARS-08."""
    steps = file_plan(crowded_file, query_of("sqlite", "artifacts.page_by_type", None))

    assert any("USING COVERING INDEX idx_artifacts_covering" in step for step in steps), steps


def test_a_plan_that_reads_all_rows_of_a_tenant_is_noticed_on_the_server(crowded_server: PostgresDatabase) -> None:
    """Its policy alone finds the tenant's rows by some index: so the index is compared, and not only its absence."""
    plan = server_plan(crowded_server, blind_query("llmspell.memories"), "force_generic_plan")

    assert not server_indexes(plan) <= {"memories_pkey", "idx_memories_session"}


def test_a_plan_without_an_index_is_noticed_in_a_file(crowded_file: apsw.Connection) -> None:
    assert "SCAN memories" in file_plan(crowded_file, blind_query("memories"))


def blind_query(table: str) -> Query:
    text = f"-- name: blind -> rows\n-- Reads a whole table.\nSELECT content FROM {table} WHERE content = :key;"
    return parse("memories", text)["blind"]
