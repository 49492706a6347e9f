"""What the migrations make of an empty file, and what its triggers and constraints do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.migrations.schemas import SQLITE, migrate_sqlite, schema_file, sqlite_schema

A = "tenant-a"
ID = bytes(15) + b"\x01"
HASH = "a" * 64
SHARED = {"schema_migrations", "store_meta"}
# The base tables of AMB-002 without test_table, which probes row-level security.
SIXTEEN = {
    "vector_embeddings_384",
    "vector_embeddings_768",
    "vector_embeddings_1536",
    "vector_embeddings_3072",
    "entities",
    "relationships",
    "procedural_patterns",
    "agent_states",
    "workflow_states",
    "sessions",
    "artifacts",
    "artifact_content",
    "event_log",
    "hook_history",
    "api_keys",
    "kv_store",
}
ROWS: dict[str, dict[str, Any]] = {
    "sessions": {
        "tenant_id": A,
        "session_id": ID,
        "session_data": "{}",
        "created_at": 1,
        "last_accessed_at": 1,
        "updated_at": 1,
    },
    "artifact_content": {
        "tenant_id": A,
        "content_hash": HASH,
        "storage_type": "bytea",
        "data": b"x",
        "size_bytes": 1,
        "created_at": 1,
        "last_accessed_at": 1,
    },
    "artifacts": {
        "tenant_id": A,
        "artifact_id": "first",
        "session_id": ID,
        "sequence": 1,
        "content_hash": HASH,
        "metadata": "{}",
        "name": "x",
        "artifact_type": "x",
        "mime_type": "x",
        "size_bytes": 1,
        "created_at": 1,
        "stored_at": 1,
        "updated_at": 1,
    },
    "agent_states": {
        "tenant_id": A,
        "state_id": ID,
        "agent_id": "x",
        "agent_type": "x",
        "state_data": "{}",
        "checksum": HASH,
        "created_at": 1,
        "updated_at": 1,
    },
    "workflow_states": {"tenant_id": A, "workflow_id": "x", "state_data": "{}", "last_updated": 1, "created_at": 1},
    "kv_store": {"tenant_id": A, "key": "x", "value": b"x", "created_at": 1, "updated_at": 1},
    "entities": {
        "tenant_id": A,
        "entity_id": ID,
        "entity_type": "x",
        "name": "x",
        "valid_time_start": 1,
        "transaction_time_start": 1,
        "created_at": 1,
    },
    "api_keys": {
        "tenant_id": A,
        "key_id": "first",
        "service": "x",
        "encrypted_key": b"x",
        "created_at": 1,
    },
    "vector_embeddings_384": {
        "tenant_id": A,
        "id": ID,
        "scope": "x",
        "embedding": bytes(384 * 4),
        "created_at": 1,
        "updated_at": 1,
        "owner_id": ID,
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(tmp_path / "store.db"))
    migrate_sqlite(connection)
    yield connection
    connection.close()


def insert(connection: apsw.Connection, table: str, **given: Any) -> None:
    row = {**ROWS[table], **given}
    names, places = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(row.values()))


def value(connection: apsw.Connection, query: str) -> Any:
    return connection.execute(query).get


def test_the_base_tables_exist(file: apsw.Connection) -> None:
    names = {row[0] for row in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    assert names >= SIXTEEN


def test_the_schema_file_is_the_sum_of_the_migrations(file: apsw.Connection) -> None:
    assert sqlite_schema(file) == schema_file(SQLITE).read_text(encoding="utf-8")


def test_every_table_is_strict(file: apsw.Connection) -> None:
    loose = [row[0] for row in file.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict")]

    assert loose == ["sqlite_schema"]


def test_every_table_has_a_tenant_except_the_shared_ones(file: apsw.Connection) -> None:
    query = """
        SELECT t.name FROM sqlite_schema AS t WHERE t.type = 'table'
        AND NOT EXISTS (SELECT 1 FROM pragma_table_info(t.name) AS c WHERE c.name = 'tenant_id' AND c."notnull")
    """

    assert {row[0] for row in file.execute(query)} == SHARED


def test_every_index_starts_with_the_tenant_except_in_the_shared_tables(file: apsw.Connection) -> None:
    """A worker looks for the next job of all tenants at once; what it looks in is not unique."""
    query = """
        SELECT t.name FROM sqlite_schema AS t, pragma_index_list(t.name) AS i, pragma_index_info(i.name) AS c
        WHERE t.type = 'table' AND c.seqno = 0 AND c.name <> 'tenant_id' AND NOT (t.name = 'jobs' AND NOT i."unique")
    """

    assert {row[0] for row in file.execute(query)} <= SHARED


def test_nothing_dangles_after_the_tables_were_made_anew(file: apsw.Connection) -> None:
    assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    assert file.execute("PRAGMA integrity_check").get == "ok"


def test_the_secrets_of_the_store_are_random(file: apsw.Connection) -> None:
    pairs: Any = file.execute("SELECT name, value FROM store_meta").fetchall()
    rows = dict(pairs)

    names = ("store_id", "cursor_key", "access_pepper")
    assert {name: len(secret) for name, secret in rows.items()} == dict.fromkeys(names, 32)
    assert len(set(rows.values())) == 3


def test_content_counts_the_artifacts_that_refer_to_it(file: apsw.Connection) -> None:
    count = "SELECT reference_count FROM artifact_content"
    insert(file, "sessions")
    insert(file, "artifact_content")
    assert value(file, count) == 0
    insert(file, "artifacts")
    insert(file, "artifacts", artifact_id="second", sequence=2)
    assert value(file, count) == 2
    assert value(file, "SELECT artifact_count FROM sessions") == 2

    file.execute("DELETE FROM artifacts WHERE artifact_id = 'second'")

    assert value(file, count) == 1
    assert value(file, "SELECT artifact_count FROM sessions") == 1


def test_a_deleted_session_releases_what_its_artifacts_held(file: apsw.Connection) -> None:
    for table in ("sessions", "artifact_content", "artifacts"):
        insert(file, table)

    file.execute("DELETE FROM sessions")

    assert value(file, "SELECT reference_count FROM artifact_content") == 0


def test_an_artifact_that_changes_its_content_moves_its_reference(file: apsw.Connection) -> None:
    insert(file, "sessions")
    insert(file, "artifact_content")
    insert(file, "artifact_content", content_hash="b" * 64)
    insert(file, "artifacts")

    file.execute("UPDATE artifacts SET content_hash = ?", ("b" * 64,))

    rows = file.execute("SELECT content_hash, reference_count FROM artifact_content ORDER BY 1").fetchall()
    assert rows == [(HASH, 0), ("b" * 64, 1)]


def test_a_changed_state_has_the_next_data_version(file: apsw.Connection) -> None:
    insert(file, "agent_states")

    file.execute("""UPDATE agent_states SET state_data = '{"a":1}'""")
    file.execute("""UPDATE agent_states SET state_data = '{"a":1}', agent_type = 'other'""")

    assert value(file, "SELECT data_version FROM agent_states") == 2


def test_an_update_that_counts_the_data_version_itself_counts_once(file: apsw.Connection) -> None:
    insert(file, "agent_states")

    returned = file.execute(
        """UPDATE agent_states SET state_data = '{"a":1}', data_version = data_version + 1 RETURNING data_version"""
    ).get

    assert returned == 2
    assert value(file, "SELECT data_version FROM agent_states") == 2


def test_a_workflow_is_stamped_when_it_starts_and_when_it_ends(file: apsw.Connection) -> None:
    insert(file, "workflow_states")

    file.execute("UPDATE workflow_states SET status = 'running', last_updated = 2")
    file.execute("UPDATE workflow_states SET status = 'failed', last_updated = 3")

    assert file.execute("SELECT started_at, completed_at FROM workflow_states").fetchall() == [(2, 3)]


def test_two_versions_of_an_entity_may_begin_at_one_recorded_instant(file: apsw.Connection) -> None:
    insert(file, "entities")

    insert(file, "entities", valid_time_start=2)

    assert value(file, "SELECT count(*) FROM entities") == 2


def test_an_inactive_key_does_not_stand_in_the_way_of_the_next(file: apsw.Connection) -> None:
    insert(file, "api_keys", is_active=0)
    insert(file, "api_keys", key_id="second", is_active=0)
    insert(file, "api_keys", key_id="third")

    with pytest.raises(apsw.ConstraintError):
        insert(file, "api_keys", key_id="fourth")


@pytest.mark.parametrize(
    ("table", "given"),
    [
        ("kv_store", {"tenant_id": ""}),
        ("kv_store", {"metadata": "{"}),
        ("kv_store", {"kv_id": b"short"}),
        ("artifact_content", {"storage_type": "large_object"}),
        ("artifact_content", {"storage_type": "chunks"}),
        ("artifact_content", {"data": bytes(1_048_576)}),
        ("artifact_content", {"size_bytes": 104_857_601}),
        ("artifact_content", {"reference_count": -1}),
        ("artifact_content", {"is_compressed": 2}),
        ("workflow_states", {"status": "paused"}),
        ("sessions", {"status": "paused"}),
        ("sessions", {"session_id": b"short"}),
        ("entities", {"valid_time_end": 1}),
        ("entities", {"transaction_time_end": 0}),
        ("vector_embeddings_384", {"embedding": bytes(4)}),
        ("vector_embeddings_384", {"owner_id": None}),
        ("artifacts", {"session_id": bytes(16)}),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(file: apsw.Connection, table: str, given: dict[str, Any]) -> None:
    with pytest.raises(apsw.ConstraintError):
        insert(file, table, **given)


def test_an_end_of_time_is_the_largest_integer(file: apsw.Connection) -> None:
    insert(file, "entities")

    assert file.execute("SELECT valid_time_end, transaction_time_end FROM entities").fetchall() == [
        (2**63 - 1, 2**63 - 1)
    ]
