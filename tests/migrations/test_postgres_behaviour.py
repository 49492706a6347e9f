"""What the functions, triggers and constraints of the migrations do on PostgreSQL. Every function runs at least once here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import errors
from tests.fixtures.postgres import PostgresDatabase
from tests.migrations.samples import HASH, ID, Connection, bind, insert_sample, tenant_tables

A = "tenant-a"


@pytest.fixture
def app(postgres_database: PostgresDatabase) -> Iterator[Connection]:
    """A transaction of tenant A as the app role."""
    with psycopg.connect(postgres_database.app_url) as connection:
        bind(connection, A)
        yield connection
        connection.rollback()


@pytest.fixture
def operator(postgres_database: PostgresDatabase) -> Iterator[Connection]:
    with psycopg.connect(postgres_database.operator_url, autocommit=True) as connection:
        yield connection


def value(connection: Connection, query: str, *values: Any) -> Any:
    return connection.execute(query.encode(), values or None).fetchall()[0][0]


def lines(connection: Connection, query: str, *values: Any) -> list[str]:
    return [row[0] for row in connection.execute(query.encode(), values or None).fetchall()]


def record_event(database: PostgresDatabase, instant: str, *, tenant: str = A) -> None:
    with psycopg.connect(database.app_url) as connection:
        bind(connection, tenant)
        insert_sample(connection, "event_log", tenant, timestamp=instant)


PARTITION_OF = "SELECT tableoid::regclass::text FROM llmspell.event_log ORDER BY timestamp"


def test_the_current_month_and_the_next_three_exist_from_the_start(operator: Connection) -> None:
    found = lines(operator, "SELECT * FROM llmspell.ensure_future_event_log_partitions()")

    assert len(found) == 4
    assert all(line.startswith("SKIPPED: event_log_") for line in found)


def test_ensuring_makes_what_is_missing_and_says_so(postgres_database: PostgresDatabase, operator: Connection) -> None:
    month = value(operator, "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 months', 'YYYY_MM')")
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute(f"DROP TABLE llmspell.event_log_{month}".encode())

    first = lines(operator, "SELECT * FROM llmspell.ensure_future_event_log_partitions()")
    second = lines(operator, "SELECT * FROM llmspell.ensure_future_event_log_partitions()")

    assert [line.split(":")[0] for line in first].count("CREATED") == 1
    assert any(line.startswith(f"CREATED: event_log_{month} (") for line in first)
    assert [line.split(":")[0] for line in second] == ["SKIPPED"] * 4


def test_the_app_role_may_ensure_partitions_at_its_start(app: Connection) -> None:
    assert len(lines(app, "SELECT * FROM llmspell.ensure_future_event_log_partitions()")) == 4


def test_an_event_outside_every_month_is_kept_by_the_default_partition(
    postgres_database: PostgresDatabase, operator: Connection
) -> None:
    record_event(postgres_database, "2019-03-15T12:00:00Z")

    assert lines(operator, PARTITION_OF) == ["llmspell.event_log_default"]


def test_a_new_partition_takes_its_rows_out_of_the_default_one(
    postgres_database: PostgresDatabase, operator: Connection
) -> None:
    for instant in (
        "2019-02-28T23:59:59Z",
        "2019-03-01T00:00:00Z",
        "2019-03-31T23:59:59.999999Z",
        "2019-04-01T00:00:00Z",
    ):
        record_event(postgres_database, instant)
    record_event(postgres_database, "2019-03-15T00:00:00Z", tenant="tenant-b")

    line = value(operator, "SELECT llmspell.create_event_log_partition('2019-03-01', '2019-04-01')")

    assert line == "CREATED: event_log_2019_03 (2019-03-01 to 2019-04-01)"
    assert lines(operator, PARTITION_OF) == [
        "llmspell.event_log_default",
        *["llmspell.event_log_2019_03"] * 3,
        "llmspell.event_log_default",
    ]


def test_month_bounds_are_utc_whatever_the_session_says(operator: Connection) -> None:
    operator.execute("SET timezone = 'Pacific/Auckland'")
    operator.execute("SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')")
    operator.execute("SET timezone = 'UTC'")

    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'event_log_2031_05'"
    assert value(operator, bounds) == "FOR VALUES FROM ('2031-05-01 00:00:00+00') TO ('2031-06-01 00:00:00+00')"


def test_the_default_partition_is_forced_again_after_rows_moved(operator: Connection) -> None:
    operator.execute("SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')")

    forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'llmspell.event_log_default'::regclass"
    assert value(operator, forced) is True


def test_a_partition_has_its_own_autovacuum_pace(operator: Connection) -> None:
    operator.execute("SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')")

    options = "SELECT reloptions FROM pg_class WHERE relname = 'event_log_2031_05'"
    assert value(operator, options) == ["autovacuum_vacuum_scale_factor=0.02", "autovacuum_analyze_scale_factor=0.01"]


@pytest.mark.parametrize(
    ("start", "end"), [("2031-05-02", "2031-06-01"), ("2031-05-01", "2031-07-01"), (None, "2031-06-01")]
)
def test_a_period_other_than_a_month_is_refused(operator: Connection, start: str | None, end: str) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        operator.execute("SELECT llmspell.create_event_log_partition(%s, %s)", (start, end))


def test_retention_moves_old_months_out_of_reach_and_drops_nothing(
    postgres_database: PostgresDatabase, operator: Connection
) -> None:
    operator.execute("SELECT llmspell.create_event_log_partition('2019-03-01', '2019-04-01')")
    record_event(postgres_database, "2019-03-15T00:00:00Z")

    archived = lines(operator, "SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-04-01T00:00:00Z')")

    assert archived == ["ARCHIVED: event_log_2019_03 (2019-03-01 to 2019-04-01)"]
    assert value(operator, "SELECT count(*) FROM llmspell.event_log") == 0
    assert value(operator, "SELECT count(*) FROM llmspell_archive.event_log_2019_03") == 1
    with psycopg.connect(postgres_database.app_url) as app, pytest.raises(errors.InsufficientPrivilege):
        app.execute("SELECT * FROM llmspell_archive.event_log_2019_03")


def test_retention_leaves_a_month_that_has_not_ended(postgres_database: PostgresDatabase, operator: Connection) -> None:
    operator.execute("SELECT llmspell.create_event_log_partition('2019-03-01', '2019-04-01')")
    record_event(postgres_database, "2019-03-15T00:00:00Z")

    assert lines(operator, "SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-03-31T23:59:59Z')") == []
    assert value(operator, "SELECT count(*) FROM llmspell.event_log") == 1


def test_retention_also_finds_old_events_in_the_default_partition(
    postgres_database: PostgresDatabase, operator: Connection
) -> None:
    record_event(postgres_database, "2019-03-15T00:00:00Z")
    record_event(postgres_database, "2019-05-15T00:00:00Z")

    archived = lines(operator, "SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-05-01T00:00:00Z')")

    assert archived == ["ARCHIVED: event_log_2019_03 (2019-03-01 to 2019-04-01)"]
    assert lines(operator, PARTITION_OF) == ["llmspell.event_log_default"]


def test_a_month_can_be_archived_twice(postgres_database: PostgresDatabase, operator: Connection) -> None:
    archive = "SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-05-01T00:00:00Z')"
    record_event(postgres_database, "2019-03-15T00:00:00Z")
    operator.execute(archive)
    record_event(postgres_database, "2019-03-16T00:00:00Z")

    assert lines(operator, archive) == ["ARCHIVED: event_log_2019_03_2 (2019-03-01 to 2019-04-01)"]


def test_an_archived_month_can_be_attached_again(postgres_database: PostgresDatabase, operator: Connection) -> None:
    record_event(postgres_database, "2019-03-15T00:00:00Z")
    operator.execute("SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-05-01T00:00:00Z')")

    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE llmspell_archive.event_log_2019_03 SET SCHEMA llmspell")
        owner.execute(
            "ALTER TABLE llmspell.event_log ATTACH PARTITION llmspell.event_log_2019_03"
            " FOR VALUES FROM ('2019-03-01 00:00:00+00') TO ('2019-04-01 00:00:00+00')"
        )

    assert value(operator, "SELECT count(*) FROM llmspell.event_log") == 1


ONE_MORE = (
    "INSERT INTO llmspell.event_sequences (tenant_id, value) VALUES (%s, 1)"
    " ON CONFLICT (tenant_id) DO UPDATE SET value = event_sequences.value + 1 RETURNING value"
)


def test_the_sequence_of_a_tenant_does_not_tell_of_another(postgres_database: PostgresDatabase) -> None:
    for tenant, expected in (("tenant-b", 1), ("tenant-b", 2), (A, 1), ("tenant-b", 3), (A, 2)):
        with psycopg.connect(postgres_database.app_url) as connection:
            bind(connection, tenant)
            assert value(connection, ONE_MORE, tenant) == expected


def test_there_is_no_sequence_that_all_tenants_share(app: Connection) -> None:
    assert (
        lines(app, "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'llmspell'::regnamespace") == []
    )


OPEN_ENDS = {"valid_time_end", "transaction_time_end"}

INSTANTS = """
    SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relname = ANY (%s) AND c.relnamespace = 'llmspell'::regnamespace AND a.atttypid = 'timestamptz'::regtype
        AND NOT a.attisdropped
"""


@pytest.mark.parametrize("instant", ["-infinity", "infinity", "4000-01-01 00:00:00+00 BC", "10000-01-01 00:00:00+00"])
def test_an_instant_outside_the_calendar_is_refused_in_every_column(app: Connection, instant: str) -> None:
    insert_sample(app, "sessions", A)
    insert_sample(app, "artifact_content", A)
    let_through = []
    tables = tenant_tables(app)
    for table, column in app.execute(INSTANTS, (tables,)).fetchall():
        if column in OPEN_ENDS and instant == "infinity":
            continue
        try:
            with app.transaction(force_rollback=True):
                insert_sample(app, table, A, **{"session_id": ID, "content_hash": HASH, column: instant})
                let_through.append(f"{table}.{column}")
        except errors.CheckViolation:
            continue
        except errors.UniqueViolation:
            let_through.append(f"{table}.{column}")

    assert let_through == []


def test_the_first_and_the_last_instant_of_the_calendar_are_kept(app: Connection) -> None:
    for instant in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        insert_sample(app, "event_log", A, timestamp=instant)

    assert value(app, "SELECT count(*) FROM llmspell.event_log") == 2


def test_the_edges_of_the_calendar_do_not_stop_retention(
    postgres_database: PostgresDatabase, operator: Connection
) -> None:
    record_event(postgres_database, "0001-01-01T00:00:00Z", tenant="tenant-b")
    record_event(postgres_database, "9999-12-31T23:59:59Z", tenant="tenant-b")
    record_event(postgres_database, "2019-03-15T00:00:00Z")

    archived = lines(operator, "SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-05-01T00:00:00Z')")

    assert [line.split(" ")[1] for line in archived] == ["event_log_0001_01", "event_log_2019_03"]


def test_retention_that_finds_nothing_locks_nobody_out(postgres_database: PostgresDatabase) -> None:
    record_event(postgres_database, "2039-03-15T00:00:00Z")  # it waits in the default partition
    exclusive = (
        "SELECT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock'"
    )

    with psycopg.connect(postgres_database.operator_url) as operator:
        assert lines(operator, "SELECT * FROM llmspell.cleanup_old_event_log_partitions('2019-05-01T00:00:00Z')") == []
        assert lines(operator, exclusive) == []


def test_retention_is_refused_to_a_role_that_would_overlook_stray_events(postgres_database: PostgresDatabase) -> None:
    with (
        psycopg.connect(postgres_database.admin_url) as owner,
        pytest.raises(errors.InsufficientPrivilege, match="all tenants"),
    ):
        owner.execute("SELECT llmspell.cleanup_old_event_log_partitions(now())")


def test_functions_on_partitions_wait_for_locks_only_briefly(app: Connection) -> None:
    limited = lines(app, "SELECT proname FROM pg_proc WHERE 'lock_timeout=5s' = ANY (proconfig) ORDER BY 1")

    assert limited == [
        "archive_event_log_partitions",
        "cleanup_old_event_log_partitions",
        "create_event_log_partition",
        "ensure_future_event_log_partitions",
    ]


def test_content_counts_the_artifacts_that_refer_to_it(app: Connection) -> None:
    count = "SELECT reference_count FROM llmspell.artifact_content"
    insert_sample(app, "sessions", A)
    insert_sample(app, "artifact_content", A)
    assert value(app, count) == 0
    insert_sample(app, "artifacts", A)
    insert_sample(app, "artifacts", A, artifact_id="second", sequence=2)
    assert value(app, count) == 2
    assert value(app, "SELECT artifact_count FROM llmspell.sessions") == 2

    app.execute("DELETE FROM llmspell.artifacts WHERE artifact_id = 'second'")

    assert value(app, count) == 1
    assert value(app, "SELECT artifact_count FROM llmspell.sessions") == 1


def test_an_artifact_that_changes_its_content_moves_its_reference(app: Connection) -> None:
    insert_sample(app, "sessions", A)
    insert_sample(app, "artifact_content", A)
    insert_sample(app, "artifact_content", A, content_hash="b" * 64)
    insert_sample(app, "artifacts", A)

    app.execute("UPDATE llmspell.artifacts SET content_hash = %s", ("b" * 64,))

    rows = app.execute("SELECT content_hash, reference_count FROM llmspell.artifact_content ORDER BY 1").fetchall()
    assert rows == [(HASH, 0), ("b" * 64, 1)]


@pytest.mark.parametrize("role", ["app_url", "operator_url"])
def test_a_deleted_session_releases_what_its_artifacts_held(postgres_database: PostgresDatabase, role: str) -> None:
    with psycopg.connect(postgres_database.app_url) as app:
        bind(app, A)
        for table in ("sessions", "artifact_content", "artifacts"):
            insert_sample(app, table, A)

    with psycopg.connect(getattr(postgres_database, role)) as connection:
        bind(connection, A if role == "app_url" else None)
        connection.execute("DELETE FROM llmspell.sessions")
        assert value(connection, "SELECT reference_count FROM llmspell.artifact_content") == 0


def test_counting_an_artifact_leaves_the_bound_tenant_as_it_was(app: Connection) -> None:
    for table in ("sessions", "artifact_content", "artifacts"):
        insert_sample(app, table, A)
    app.execute("DELETE FROM llmspell.sessions")

    assert value(app, "SELECT current_setting('app.current_tenant_id')") == A


def test_counting_an_artifact_binds_no_tenant_to_the_operator(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.operator_url) as connection:
        for table in ("sessions", "artifact_content", "artifacts"):
            insert_sample(connection, table, A)

        assert value(connection, "SELECT current_setting('app.current_tenant_id', true)") == ""


def test_content_that_is_referred_to_cannot_be_deleted(app: Connection) -> None:
    for table in ("sessions", "artifact_content", "artifacts"):
        insert_sample(app, table, A)

    with pytest.raises(errors.IntegrityError):
        app.execute("DELETE FROM llmspell.artifact_content")


@pytest.mark.parametrize(
    ("table", "given", "constraint"),
    [
        ("artifact_content", {"storage_type": "large_object"}, "valid_storage_type"),
        ("artifact_content", {"storage_type": "chunks"}, "storage_consistency"),
        ("artifact_content", {"data": b"x" * 1_048_576}, "storage_consistency"),
        ("artifact_content", {"size_bytes": 104_857_601}, "valid_size"),
        ("artifact_content", {"reference_count": -1}, "valid_reference_count"),
        ("workflow_states", {"status": "paused"}, "valid_workflow_status"),
        ("workflow_states", {"current_step": -1}, "workflow_states_current_step_check"),
        ("sessions", {"status": "paused"}, "valid_session_status"),
        ("procedural_patterns", {"frequency": 0}, "positive_frequency"),
        ("procedural_patterns", {"value": "x" * 1_025}, "procedural_pattern_fits_its_index"),
        ("agent_states", {"data_version": 0}, "agent_states_data_version_check"),
        ("entities", {"valid_time_end": "2026-01-01T00:00:00Z"}, "valid_time_range"),
        ("entities", {"transaction_time_end": "2020-01-01T00:00:00Z"}, "tx_time_range"),
        ("relationships", {"valid_time_end": "2026-01-01T00:00:00Z"}, "valid_time_range"),
        ("relationships", {"transaction_time_end": "2020-01-01T00:00:00Z"}, "tx_time_range"),
        ("relationships", {"confidence": 1.5}, "relationships_confidence_check"),
        ("embedding_spaces", {"dimension": 512}, "valid_space_dimension"),
        ("embedding_spaces", {"state": "lost"}, "valid_space_state"),
        ("embedding_spaces", {"space_id": "x" * 129}, "space_id_fits_its_index"),
        ("memories", {"memory_type": "dream"}, "valid_memory_type"),
        ("memories", {"embedding_state": "lost"}, "valid_embedding_state"),
        ("memory_versions", {"operation": "rewrite"}, "valid_memory_operation"),
        ("tenants", {"status": "paused"}, "valid_tenant_status"),
        ("predicates", {"cardinality": "few"}, "valid_cardinality"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(
    app: Connection, table: str, given: dict[str, object], constraint: str
) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        insert_sample(app, table, A, **given)

    assert refused.value.diag.constraint_name == constraint


def test_a_changed_state_has_the_next_data_version(app: Connection) -> None:
    insert_sample(app, "agent_states", A)

    app.execute("""UPDATE llmspell.agent_states SET state_data = '{"a": 1}'""")
    app.execute("""UPDATE llmspell.agent_states SET state_data = '{"a": 1}', agent_type = 'other'""")

    assert value(app, "SELECT data_version FROM llmspell.agent_states") == 2


def test_a_workflow_is_stamped_when_it_starts_and_when_it_ends(app: Connection) -> None:
    started, ended = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    insert_sample(app, "workflow_states", A)

    app.execute("UPDATE llmspell.workflow_states SET status = 'running', last_updated = %s", (started,))
    app.execute("UPDATE llmspell.workflow_states SET status = 'failed', last_updated = %s", (ended,))

    rows = app.execute("SELECT started_at, completed_at FROM llmspell.workflow_states").fetchall()
    assert rows == [(started, ended)]


def test_two_versions_of_an_entity_may_begin_at_one_recorded_instant(app: Connection) -> None:
    insert_sample(app, "entities", A, transaction_time_start="2026-01-01T00:00:00Z")

    insert_sample(
        app, "entities", A, transaction_time_start="2026-01-01T00:00:00Z", valid_time_start="2026-02-01T00:00:00Z"
    )

    assert value(app, "SELECT count(*) FROM llmspell.entities") == 2


def test_old_hook_executions_of_low_priority_are_deleted(app: Connection) -> None:
    other = "00000000-0000-7000-8000-00000000000%d"
    insert_sample(app, "hook_history", A, timestamp="2020-01-01T00:00:00Z")
    insert_sample(
        app, "hook_history", A, timestamp="2020-01-01T00:00:00Z", execution_id=other % 2, retention_priority=5
    )
    insert_sample(app, "hook_history", A, timestamp="2026-01-01T00:00:00Z", execution_id=other % 3)

    assert value(app, "SELECT llmspell.cleanup_old_hook_executions('2021-01-01T00:00:00Z', 5)") == 1
    assert app.execute("SELECT total_executions, oldest FROM llmspell.get_hook_history_stats()").fetchall() == [
        (2, datetime(2020, 1, 1, tzinfo=UTC))
    ]


def test_hook_statistics_of_nothing_are_zero(app: Connection) -> None:
    stats = app.execute("SELECT * FROM llmspell.get_hook_history_stats()").fetchall()

    assert stats == [(0, 0, 0.0, 0, 0, 0, None, None)]


ROTATE = "SELECT llmspell.rotate_api_key(%s, %s, %s, %s)"


def test_a_key_can_be_rotated_again_and_again(app: Connection) -> None:
    insert_sample(app, "api_keys", A, key_id="first", service="openai")
    assert value(app, ROTATE, A, "first", "second", b"sealed") == "second"
    assert value(app, ROTATE, A, "second", "third", b"sealed") == "third"

    rows = app.execute("SELECT key_id, is_active, rotated_from FROM llmspell.api_keys ORDER BY 1").fetchall()
    assert rows == [("first", False, None), ("second", False, "first"), ("third", True, "second")]


def test_a_rotation_without_an_active_key_is_refused(app: Connection) -> None:
    with pytest.raises(errors.NoDataFound):
        app.execute(ROTATE, (A, "absent", "second", b"sealed"))


def test_a_service_has_at_most_one_active_key(app: Connection) -> None:
    insert_sample(app, "api_keys", A, key_id="first", service="openai")

    with pytest.raises(errors.UniqueViolation):
        insert_sample(app, "api_keys", A, key_id="second", service="openai")


def test_expired_keys_are_deactivated_and_counted(app: Connection) -> None:
    insert_sample(app, "api_keys", A, key_id="old", service="openai", expires_at="2020-01-01T00:00:00Z")
    insert_sample(app, "api_keys", A, key_id="new", service="other", expires_at="2999-01-01T00:00:00Z")

    assert value(app, "SELECT llmspell.cleanup_expired_api_keys()") == 1
    assert app.execute("SELECT total_keys, active_keys, expired_keys FROM llmspell.get_api_key_stats()").fetchall() == [
        (2, 1, 1)
    ]


@pytest.mark.parametrize("dimension", [384, 768, 1536, 3072])
def test_a_vector_fits_with_the_longest_of_everything_beside_it(app: Connection, dimension: int) -> None:
    # Incompressible metadata of the permitted size goes out of line, and leaves the embedding in its row.
    app.execute(
        f"INSERT INTO llmspell.vector_embeddings_{dimension} (tenant_id, scope, embedding, metadata, space_id, owner_id)"
        " SELECT %s, repeat('s', 255), (SELECT array_agg(random())::public.vector FROM generate_series(1, %s)),"
        " jsonb_build_object('k', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) AS i)),"
        " repeat('p', 128), %s".encode(),
        (A, dimension, ID),
    )

    assert value(app, f"SELECT public.vector_dims(embedding) FROM llmspell.vector_embeddings_{dimension}") == dimension


def test_the_longest_permitted_texts_fit_into_their_indexes(app: Connection) -> None:
    # Incompressible on purpose: TOAST compression would hide a key that is too long.
    text = value(app, "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 40) AS i")
    app.execute("SELECT set_config('app.current_tenant_id', %s, true)", (text[:128],))
    insert_sample(app, "kv_store", text[:128], key=text[:1024])
    insert_sample(app, "entities", text[:128], name=text[:500], entity_type=text[:255])
    insert_sample(app, "procedural_patterns", text[:128], scope=text[:500], key=text[-500:], value=text[:1024])
    insert_sample(app, "text_postings", text[:128], collection=text[:255], term=text[:500])
    insert_sample(app, "memories", text[:128], session=text[:500], role=text[:500])

    assert value(app, "SELECT count(*) FROM llmspell.procedural_patterns") == 1
