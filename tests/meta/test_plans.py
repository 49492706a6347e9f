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
from llmspell.storage.relational.catalog import Query, load, parse
from llmspell.storage.sqlite import migrator
from llmspell.storage.sqlite.connection import open_writer

HERE = Path(__file__).parent
TENANT = "tenant-7"
BUSY_TIMEOUT_S = 5.0
BIG = frozenset(
    {
        *(
            "jobs",
            "kv_store",
            "memories",
            "memory_versions",
            "text_postings",
            "text_stats",
            "entities",
            "relationships",
        ),
        *("vector_embeddings_384", "vector_embeddings_768", "vector_embeddings_1536", "vector_embeddings_3072"),
    }
)
ID = str(UUID(int=(7 << 64) | 3))
IDS = "{" + ",".join(str(UUID(int=(7 << 64) | n)) for n in (3, 4, 5)) + "}"
AT = "2026-01-05T00:00:00Z"
# Values for PostgreSQL; which index is used does not depend on them in SQLite, which has no statistics.
VALUES: dict[str, Any] = {
    **dict.fromkeys(("after", "first"), "key-39"),
    **dict.fromkeys(("now", "instant", "known", "as_of", "before"), AT),
    **dict.fromkeys(("id", "subject", "object"), ID),
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
    "until": AT,
    "low": "",
    "high": "z",
    "done": "1",
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
    "key": "key-7",
    "keys": "{key-7,key-8}",
    "limit": "10",
    "names": "{name-7,name-8}",
    "predicate": "type-3",
    "query": "[" + ",".join(["0.5"] * 384) + "]",
    "scope": "scope",
    "space_id": "model",
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


NAMES_OF = "entities_pkey", "sqlite_autoindex_entities_1"  # every fact is shown with the names of its entities
PRIMARY = "(primary_key)"
# What holds little of a tenant, or is meant to be read whole where a tenant is small.
WHOLE_TENANT = frozenset({"idx_memories_pending", "idx_memories_accessed", "idx_memories_type"})
HOT = (
    hot("kv.get", "kv_store_pkey", "sqlite_autoindex_kv_store_1"),
    hot("kv.list_keys", "kv_store_pkey", "sqlite_autoindex_kv_store_1"),
    hot("kv.get_batch", "kv_store_pkey", "sqlite_autoindex_kv_store_1"),
    hot("memories.get_batch", "memories_pkey", "sqlite_autoindex_memories_1"),
    hot("memories.page_by_at_desc", "idx_memories_event", "idx_memories_event"),
    hot("memories.page_by_at_desc", "idx_memories_session", "idx_memories_session", "m.session = :f0"),
    hot("memories.page_by_created_at_asc", "idx_memories_created", "idx_memories_created"),
    hot("memories.pending", "idx_memories_pending", "idx_memories_pending"),
    hot("memories.history", "memory_versions_pkey", "sqlite_autoindex_memory_versions_1"),
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
    hot("nearest.free_384", "idx_vector_384_exact idx_vector_384_hnsw", ""),
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
ON_SERVER = [pytest.param(one, id=one.name) for one in HOT if one.server is not None]
IN_FILE = [pytest.param(one, id=one.name) for one in HOT if one.file is not None]


@pytest.fixture(scope="module")
def crowded_server(postgres_cluster: PostgresServer, postgres_template: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """The superuser fills it; nothing is proved as the superuser."""
    database = postgres_cluster.copy(postgres_template, "llmspell_hot")
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute((HERE / "crowd_postgres.sql").read_bytes())
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
    types = sql.SQL(", ").join(sql.SQL("text" if name == "tenant_id" else "unknown") for name in command.names)
    with psycopg.connect(url or database.app_url) as app:
        app.execute("SELECT set_config('app.current_tenant_id', %s, true)", (TENANT,))
        app.execute("SELECT set_config('plan_cache_mode', %s, true)", (mode,))
        app.execute(sql.SQL("PREPARE hot ({}) AS ").format(types) + sql.SQL(command.sql.decode()))
        arguments = sql.SQL(", ").join(sql.Literal(values[name]) for name in command.names)
        rows = app.execute(sql.SQL("EXPLAIN (COSTS OFF) EXECUTE hot ({})").format(arguments)).fetchall()
    return "\n".join(row[0] for row in rows)


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
    return set(re.findall(r"(?:using|Bitmap Index Scan on) (\w+)", plan))


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


def test_a_plan_that_reads_all_rows_of_a_tenant_is_noticed_on_the_server(crowded_server: PostgresDatabase) -> None:
    """Its policy alone finds the tenant's rows by some index: so the index is compared, and not only its absence."""
    plan = server_plan(crowded_server, blind_query("llmspell.memories"), "force_generic_plan")

    assert not server_indexes(plan) <= {"memories_pkey", "idx_memories_session"}


def test_a_plan_without_an_index_is_noticed_in_a_file(crowded_file: apsw.Connection) -> None:
    assert "SCAN memories" in file_plan(crowded_file, blind_query("memories"))


def blind_query(table: str) -> Query:
    text = f"-- name: blind -> rows\n-- Reads a whole table.\nSELECT content FROM {table} WHERE content = :key;"
    return parse("memories", text)["blind"]
