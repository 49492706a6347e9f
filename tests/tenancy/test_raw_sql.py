"""What somebody can do who runs SQL of their own as `llmspell_app`: without a tenant, with theirs, with the empty one (C4).

Relations, columns, constraints and functions come from the catalogues of all schemas, so what a later migration makes is attacked
by existing. Another tenant has a thousand marks in its rows: none may be told, by rows, errors, statistics, plans or functions, and
nothing of it may change (invariant 4). What the database tells all the same (how much there is) stands below as tests whose names
begin with `test_known_limit`, for `docs/explanation/isolation.md`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from psycopg import sql
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.migrations.samples import HASH, Connection, bind, insert_sample, tenant_tables
from tests.tenancy.belongings import Marks, filled_tenant
from tests.tenancy.observation import digests

import llmspell
from llmspell.clock import ManualClock
from llmspell.security.keyring import new_master_key
from llmspell.settings import PostgresSettings, SecuritySettings, Settings, StorageSettings
from llmspell.spell import Spell
from llmspell.storage.contracts.tenants import QuotaLimits

"""Printed with every failure; set it here to replay one."""
ROWS = 16
ME = "tenant-b"
BINDINGS = (None, ME, "")
SHARED = {"llmspell.schema_migrations", "llmspell.store_meta"}
"""Relations of the store itself, which every tenant may read."""
TIMEOUT_MS = 300
LIMIT_S = 20
RELATIONS = """
SELECT format('%I.%I', nspname, relname), relkind::text, nspname IN ('pg_catalog', 'information_schema')
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%'
ORDER BY 1
"""
FUNCTIONS = """
SELECT format('%I.%I', nspname, proname), array(SELECT format_type(t, NULL) FROM unnest(proargtypes) t)
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE prokind = 'f' AND has_function_privilege(current_user, p.oid, 'EXECUTE') AND prorettype <> 'trigger'::regtype
    AND NOT EXISTS (SELECT FROM unnest(proargtypes) t WHERE t = 'internal'::regtype)
ORDER BY 1, 2
"""
READS = (
    "SELECT * FROM {}",
    "SELECT t, t::text, row_to_json(t) FROM {} t",
    "SELECT count(*) FROM {} HAVING count(*) > 0",
    "TABLE {}",
    "SELECT * FROM ONLY {}",
    "SELECT ctid, tableoid, xmin, cmax, * FROM {}",
    "SELECT * FROM {} WHERE ctid IN ('(0,1)', '(0,2)', '(1,1)')",
    "SELECT * FROM {} WHERE tenant_id = {theirs}",
    "SELECT * FROM {} WHERE tenant_id IS NOT NULL OR tenant_id = tenant_id OR true",
    "SELECT * FROM {} TABLESAMPLE BERNOULLI (100)",
    "SELECT * FROM {} TABLESAMPLE SYSTEM (100)",
    "SELECT * FROM {} FOR UPDATE",
    "SELECT * FROM {} FOR SHARE SKIP LOCKED",
    "COPY {} TO STDOUT",
    "COPY (SELECT * FROM {}) TO STDOUT (FORMAT csv)",
    "SELECT * FROM {} t WHERE 1 / (length(t::text) - length(t::text)) = 1",
    "SELECT * FROM {} t WHERE (t::text)::int > 0",
    "SELECT * FROM {} t WHERE pg_notify('leak', t::text) IS NOT NULL",
    "SELECT x.* FROM (SELECT 1) one LEFT JOIN LATERAL (SELECT * FROM {} OFFSET 0) x ON true WHERE x.tenant_id IS NOT NULL",
)
WRITES = (
    "UPDATE {} SET tenant_id = tenant_id RETURNING *",
    "UPDATE {} SET tenant_id = {mine} WHERE tenant_id = {theirs} RETURNING *",
    "DELETE FROM {} RETURNING *",
    "DELETE FROM {} t USING {} u WHERE t.tenant_id = u.tenant_id RETURNING t.*",
    "WITH gone AS (DELETE FROM {} RETURNING *) SELECT * FROM gone",
    "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE RETURNING t.*",
    "INSERT INTO {} SELECT * FROM {} ON CONFLICT DO NOTHING RETURNING *",
)
REFUSED = (
    "TRUNCATE {}",
    "TRUNCATE {} CASCADE",
    "COPY {} FROM STDIN",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} NO FORCE ROW LEVEL SECURITY",
    "CREATE POLICY mine ON {} USING (true)",
    "CREATE RULE mine AS ON SELECT TO {} DO INSTEAD SELECT 1",
    "CREATE TRIGGER mine BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION llmspell.count_artifacts()",
    "CREATE STATISTICS llmspell.mine ON tenant_id, ctid FROM {}",
    "CREATE INDEX mine ON {} (tenant_id)",
    "CREATE VIEW llmspell.mine AS SELECT * FROM {}",
    "ANALYZE VERBOSE {}",
    "SET LOCAL row_security = off; SELECT * FROM {}",
    "DROP TABLE {}",
)
FILES_AND_SERVER = (
    *("SELECT pg_read_file('postgresql.conf')", "SELECT pg_read_binary_file('PG_VERSION')", "SELECT pg_ls_dir('.')"),
    *("SELECT pg_stat_file('PG_VERSION')", "SELECT lo_import('/etc/hostname')", "SELECT lo_export(1, '/nowhere')"),
    *("COPY (SELECT 1) TO '/nowhere'", "COPY (SELECT 1) TO PROGRAM 'true'", "SELECT pg_reload_conf()"),
    *(
        "SELECT pg_switch_wal()",
        "SELECT pg_create_restore_point('x')",
        "SELECT pg_ls_waldir()",
        "SELECT * FROM pg_authid",
    ),
    *(
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_hba_file_rules",
        "SELECT pg_stat_reset()",
        "CREATE EXTENSION dblink",
    ),
    *(
        "CREATE EXTENSION file_fdw",
        "CREATE LANGUAGE plpython3u",
        "LOAD 'auto_explain'",
        "CREATE ROLE mine",
        "CREATE SCHEMA mine",
    ),
    *(
        "CREATE TABLE public.mine (a int)",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql RETURN 1",
        "VACUUM FULL",
    ),
    *(
        "ALTER ROLE llmspell_app BYPASSRLS",
        "SET ROLE llmspell",
        "SET ROLE llmspell_operator",
        "RESET ROLE; SET ROLE postgres",
    ),
    *(
        "SET SESSION AUTHORIZATION llmspell",
        "ALTER SYSTEM SET row_security = off",
        "DO $$ BEGIN EXECUTE 'SET ROLE llmspell'; END $$",
    ),
    *(
        "SELECT pg_logical_slot_peek_changes('a', NULL, NULL)",
        "SELECT pg_create_logical_replication_slot('a', 'pgoutput')",
    ),
    *("CREATE PUBLICATION mine FOR ALL TABLES", "CREATE SUBSCRIPTION mine CONNECTION '' PUBLICATION mine"),
)


class Scene(msgspec.Struct):
    """A database of which somebody else is a tenant."""

    database: PostgresDatabase
    spell: Spell
    theirs: str
    marks: Marks

    @contextmanager
    def session(self, tenant: str | None) -> Iterator[Connection]:
        """A connection of the serving role, which takes whatever tenant it likes, and keeps nothing."""
        with psycopg.connect(self.database.app_url) as connection:
            connection.execute(f"SET statement_timeout = {TIMEOUT_MS * 10}")
            connection.commit()
            bind(connection, tenant)
            yield connection
            connection.rollback()

    def digests(self) -> dict[str, str]:
        return digests(self.spell, self.theirs, url=self.database.superuser_url)

    def formatted(self, template: str, relation: str) -> bytes:
        text = template.replace("{theirs}", f"'{self.theirs}'").replace("{mine}", f"'{ME}'")
        return text.replace("{}", relation).encode()

    def revealed(self, text: str) -> set[str]:
        return self.marks.found_in(text) - self.marks.found_in(self.theirs)


@pytest.fixture
async def scene(postgres_database: PostgresDatabase) -> AsyncIterator[Scene]:
    clock = ManualClock()
    settings = Settings(
        security=SecuritySettings(master_keys=new_master_key()),
        storage=StorageSettings(postgres=PostgresSettings(pool_size=1, operator_url=postgres_database.operator_url)),
    )
    async with llmspell.connect(postgres_database.app_url, settings=settings, embedder="hashing", clock=clock) as spell:
        names, marks = await filled_tenant(spell, clock, SEED, rows=ROWS)
        make_tomorrows(postgres_database, names.tenant, marks)
        yield Scene(postgres_database, spell, names.tenant, marks)


def make_tomorrows(database: PostgresDatabase, theirs: str, marks: Marks) -> None:
    """A month, a table, a view and a sequence that no migration has made yet, all filled, and statistics of everything."""
    with psycopg.connect(database.operator_url, autocommit=True) as operator:
        operator.execute("SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')")
    with psycopg.connect(database.admin_url, autocommit=True) as owner:
        owner.execute(
            'CREATE TABLE llmspell.tomorrow (tenant_id varchar(128) COLLATE "C" NOT NULL, note text, PRIMARY KEY (tenant_id, note))'
        )
        owner.execute("SELECT llmspell.apply_tenant_rls('llmspell.tomorrow')")
        owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON llmspell.tomorrow TO llmspell_app")
        owner.execute("CREATE VIEW llmspell.tomorrows WITH (security_invoker) AS SELECT * FROM llmspell.tomorrow")
        owner.execute("GRANT SELECT ON llmspell.tomorrows TO llmspell_app")
        owner.execute("CREATE SEQUENCE llmspell.tomorrow_numbers")
        bind_for_good = sql.SQL("SET app.current_tenant_id = {}").format(sql.Literal(theirs))
        owner.execute(bind_for_good)
        for _ in range(20):
            owner.execute("INSERT INTO llmspell.tomorrow VALUES (%s, %s)", (theirs, marks()))
    with psycopg.connect(database.app_url) as app:
        bind(app, theirs)
        insert_sample(app, "event_log", theirs, timestamp="2031-05-05T00:00:00Z", payload=f'{{"a": "{marks()}"}}')
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("ANALYZE")


def attempt(connection: Connection, statement: bytes) -> tuple[str | None, list[Any], str]:
    """Run a statement and undo it; return its SQLSTATE when it was refused, its rows, and everything that was said."""
    notices: list[str] = []
    connection.add_notice_handler(
        hear := lambda notice: notices.append(f"{notice.message_primary} {notice.message_detail}")
    )
    rows: list[Any] = []
    try:
        with connection.transaction(force_rollback=True):
            cursor = connection.cursor()
            if statement.startswith(b"COPY") and b"TO STDOUT" in statement:
                with cursor.copy(statement) as copy:
                    rows = [bytes(block) for block in copy]
            else:
                cursor.execute(statement)
                rows = (
                    cursor.fetchall() if cursor.description is not None else [cursor.rowcount] * (cursor.rowcount > 0)
                )
    except psycopg.Error as error:
        diagnosis = [error.diag.message_detail, error.diag.message_hint, error.diag.context, error.diag.constraint_name]
        return error.sqlstate or type(error).__name__, [], f"{error} {diagnosis} {notices}"
    finally:
        connection.remove_notice_handler(hear)
    return None, rows, f"{rows!r} {notices}"


def relations(connection: Connection) -> list[tuple[str, str, bool]]:
    return [tuple(row) for row in connection.execute(RELATIONS).fetchall()]  # type: ignore[misc]


@pytest.mark.parametrize("tenant", BINDINGS)
def test_no_statement_on_any_relation_gives_or_takes_anothers_row(scene: Scene, tenant: str | None) -> None:
    before = scene.digests()
    wrong: list[str] = []
    statements = 0
    with scene.session(tenant) as app:
        found = [(name, kind) for name, kind, systems in relations(app) if not systems]
        for name, _ in found:
            for template in (*READS, *WRITES):
                statements += 1
                sqlstate, rows, said = attempt(app, scene.formatted(template, name))
                if scene.revealed(said):
                    wrong.append(f"{template} on {name} reveals {scene.revealed(said)}")
                if sqlstate is None and rows and name not in SHARED:
                    wrong.append(f"{template} on {name} gives {len(rows)} rows")
                if sqlstate in ("22012", "22P02") and name not in SHARED:
                    wrong.append(f"{template} on {name} looked at a row: {said[:200]}")
        notified = list(app.notifies(timeout=0))

    assert {"llmspell.tomorrow", "llmspell.tomorrows", "llmspell.event_log_2031_05"} <= {name for name, _ in found}
    tell(probes=statements, leaks=len(wrong))
    assert wrong == [], f"seed {SEED}"
    assert notified == []
    assert scene.digests() == before


@pytest.mark.parametrize("tenant", BINDINGS)
def test_no_catalogue_and_no_statistic_holds_a_value_of_anothers_row(scene: Scene, tenant: str | None) -> None:
    """`pg_stats` has the most common values of columns: of a table with row-level security it must show nothing."""
    with psycopg.connect(scene.database.superuser_url) as superuser:
        common = superuser.execute(
            "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE schemaname = 'llmspell'"
        )
        assert scene.revealed(repr(common.fetchall())), "there is something to see"

    wrong = []
    with scene.session(tenant) as app:
        for name, _, systems in relations(app):
            if systems:
                _, _, said = attempt(app, f"SELECT * FROM {name}".encode())
                if scene.revealed(said):
                    wrong.append(name)
        assert (
            attempt(
                app,
                b"SELECT * FROM pg_stats WHERE schemaname = 'llmspell' AND tablename <> 'schema_migrations'"
                b" AND tablename <> 'store_meta'",
            )[1]
            == []
        )

    assert wrong == [], f"seed {SEED}"


@pytest.mark.parametrize("tenant", BINDINGS)
def test_what_would_undo_the_isolation_is_refused(scene: Scene, tenant: str | None) -> None:
    with scene.session(tenant) as app:
        ours = [
            name for name, kind, systems in relations(app) if not systems and kind in ("r", "p") and name not in SHARED
        ]
        tried = {
            f"{template} on {name}": attempt(app, scene.formatted(template, name))
            for name in ours
            for template in REFUSED
        }
        tried |= {statement: attempt(app, statement.encode()) for statement in FILES_AND_SERVER}
        sequences = [
            row[0] for row in app.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S'").fetchall()
        ]
        for name in sequences:
            for call in ("nextval('{}')", "currval('{}')", "setval('{}', 1)", "pg_sequence_last_value('{}')"):
                statement = f"SELECT {call.format(name)} AS number"
                sqlstate, rows, said = attempt(app, statement.encode())
                tried[statement] = ("none", [], said) if rows == [(None,)] else (sqlstate, rows, said)

    assert "llmspell.tomorrow_numbers" in sequences
    analyzed = "ANALYZE VERBOSE {} on "  # warns, and does nothing, where it is not allowed
    let_through = [
        name
        for name, (sqlstate, _, said) in tried.items()
        if sqlstate is None and not (name.startswith(analyzed) and "permission denied" in said)
    ]
    assert let_through == []
    assert [name for name, (_, _, said) in tried.items() if scene.revealed(said)] == []


@pytest.mark.timeout(300)
def test_no_function_that_may_be_called_tells_of_another(scene: Scene) -> None:
    """All of them, of every schema: with names of tables, with queries, with the other's id where a text is wanted."""
    before = scene.digests()
    texts = ["llmspell.memories", "SELECT * FROM llmspell.memories", scene.theirs, "llmspell", "%"]
    wrong: list[str] = []
    calls = 0
    with psycopg.connect(scene.database.app_url) as app:
        functions = app.execute(FUNCTIONS).fetchall()
    app = hostile_connection(scene)
    for text in texts[: size(ci=3, soak=len(texts))]:
        for name, types in functions:
            if app.closed:
                app = hostile_connection(scene)
            calls += 1
            statement = f"SELECT * FROM {name}({', '.join(argument(kind, text) for kind in types)}) AS given LIMIT 100"
            try:
                said = repr(app.execute(statement.encode()).fetchall())
            except psycopg.Error as error:
                said = f"{error} {error.diag.message_detail} {error.diag.context}"
            if scene.revealed(said):
                wrong.append(f"{statement}: {scene.revealed(said)}")
    app.close()

    assert calls > 3_000
    tell(probes=calls, leaks=len(wrong))
    assert wrong == [], f"seed {SEED}"
    assert scene.digests() == before


def hostile_connection(scene: Scene) -> Connection:
    """One that keeps what it sets, for each call is its own transaction."""
    connection = psycopg.connect(scene.database.app_url, autocommit=True)
    connection.execute(f"SET statement_timeout = {TIMEOUT_MS}")
    connection.execute("SET lock_timeout = '50ms'")
    connection.execute("SELECT set_config('app.current_tenant_id', %s, false)", (ME,))
    return connection


def argument(kind: str, text: str) -> str:
    """A hostile value of a type, as SQL."""
    quoted = "'" + text.replace("'", "''") + "'"
    if kind in ("text", "name", "character varying", "cstring", "character", '"char"', "anyelement", "unknown"):
        return f"{quoted}::text"
    if kind in ("oid", "regclass"):
        return "'llmspell.memories'::regclass"
    if kind in ("integer", "bigint", "smallint", "numeric", "real", "double precision", "xid", "cid"):
        return "1"
    return {"boolean": "true", "xid": "'1'::xid", "tid": "'(0,1)'::tid", "timestamp with time zone": "now()"}.get(
        kind, f"NULL::{kind}" if not kind.startswith("any") else "NULL::int"
    )


def test_nothing_that_reaches_other_databases_or_files_is_installed(scene: Scene) -> None:
    with scene.session(ME) as app:
        installed = {row[0] for row in app.execute("SELECT extname FROM pg_extension").fetchall()}
        servers = app.execute(
            "SELECT (SELECT count(*) FROM pg_foreign_server), (SELECT count(*) FROM pg_largeobject_metadata)"
        )
        assert servers.fetchall() == [(0, 0)]

    assert installed == {"plpgsql", "vector"}


def test_a_copy_of_anothers_row_meets_no_constraint(scene: Scene) -> None:
    """The same keys in two tenants: nothing is taken, so nothing is told. What a row refers to must be one's own."""
    copied = 0
    with psycopg.connect(scene.database.superuser_url) as superuser, scene.session(ME) as app:
        for table in tenant_tables(app):
            if table in COUNTED_FOR_TENANTS:
                continue
            columns = [
                row[0]
                for row in superuser.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = format('llmspell.%%I', %s::text)::regclass AND attnum > 0"
                    " AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a'",
                    (table,),
                ).fetchall()
            ]
            rows = superuser.execute(
                sql.SQL("SELECT to_jsonb(t) FROM {} t WHERE tenant_id = %s").format(sql.Identifier("llmspell", table)),
                (scene.theirs,),
            ).fetchall()
            for (row,) in rows:
                names = sql.SQL(", ").join(map(sql.Identifier, columns))
                insert = sql.SQL(
                    "INSERT INTO {table} ({names}) SELECT {names} FROM jsonb_populate_record(NULL::{table}, %s)"
                ).format(table=sql.Identifier("llmspell", table), names=names)
                app.execute(insert, (json.dumps(row | {"tenant_id": ME, **MINE_ALONE.get(table, {})}),))
                copied += 1

    assert copied > 500


COUNTED_FOR_TENANTS = {"tenant_limits", "tenant_usage", "tenant_embeddings"}
"""What a tenant uses and may use: the serving role inserts nothing there (tests/tenancy/test_quota_rights.py)."""
MINE_ALONE: dict[str, dict[str, Any]] = {"artifact_content": {"reference_count": 0}, "sessions": {"artifact_count": 0}}
"""What triggers count: of a copy they begin at nothing."""


def test_a_reference_to_anothers_row_fails_as_one_to_nobodys(scene: Scene) -> None:
    """A foreign key says that there is no such row, in the same words, whether somebody else has it or nobody."""
    with psycopg.connect(scene.database.superuser_url) as superuser:
        theirs = {
            "session_id": one(superuser, "SELECT session_id FROM llmspell.sessions WHERE tenant_id = %s", scene.theirs),
            "content_hash": one(
                superuser, "SELECT content_hash FROM llmspell.artifact_content WHERE tenant_id = %s", scene.theirs
            ),
            "space_id": one(
                superuser, "SELECT space_id FROM llmspell.embedding_spaces WHERE tenant_id = %s", scene.theirs
            ),
            "memory_id": one(superuser, "SELECT memory_id FROM llmspell.memories WHERE tenant_id = %s", scene.theirs),
        }
    nobodys = {"session_id": UUID(int=7), "content_hash": HASH, "space_id": "nobodys", "memory_id": UUID(int=7)}
    refused = 0
    with scene.session(ME) as app:
        for table in tenant_tables(app):
            answers = [insertion(app, table, given) for given in (theirs, nobodys)]
            assert answers[0] == answers[1], table
            refused += answers[0] is not None and answers[0][0] == "23503"

    assert refused >= 2


def one(connection: Connection, query: str, *parameters: object) -> Any:
    return connection.execute(query.encode(), parameters).fetchall()[0][0]


def insertion(connection: Connection, table: str, given: dict[str, Any]) -> tuple[str | None, str] | None:
    """What becomes of a sample row: its SQLSTATE, and its text without what was given."""
    try:
        with connection.transaction(force_rollback=True):
            insert_sample(connection, table, ME, **given)
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except psycopg.Error as error:
        text = f"{error} {error.diag.message_detail} {error.diag.constraint_name}"
        for name, value in given.items():
            text = text.replace(str(value), f"<{name}>")
        return error.sqlstate, text
    return None


def test_a_refused_row_is_not_repeated_with_anothers_values(scene: Scene) -> None:
    """An error may show what its caller gave, and nothing that it met."""
    with scene.session(ME) as app:
        for table in tenant_tables(app):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused, app.transaction():
                insert_sample(app, table, scene.theirs)
            assert scene.revealed(f"{refused.value} {refused.value.diag.message_detail}") == set()
            assert scene.theirs not in f"{refused.value.diag.message_primary} {refused.value.diag.message_detail}"


async def test_what_runs_elsewhere_shows_no_values(scene: Scene) -> None:
    """Sessions of one role see each other's statements in `pg_stat_activity`: ours have parameters in place of values."""
    await scene.spell.tenant(scene.theirs).kv.list_keys(min(scene.marks.given))
    with scene.session(ME) as app:
        running = app.execute(
            "SELECT query FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
        )
        seen = repr(running.fetchall())
    assert "llmspell.kv_store" in seen, "the store's own connection is there"
    assert scene.theirs not in seen
    assert scene.revealed(seen) == set()


# --- what the database tells all the same ---------------------------------------------------------------------------------


def test_known_limit_the_planner_and_the_catalogue_tell_how_many_rows_all_tenants_have(scene: Scene) -> None:
    with scene.session(ME) as app:
        ((pages, rows),) = app.execute(
            "SELECT relpages, reltuples FROM pg_class WHERE oid = 'llmspell.kv_store'::regclass"
        ).fetchall()
        ((plan,),) = app.execute("EXPLAIN (FORMAT JSON) SELECT FROM llmspell.kv_store WHERE ctid > '(0,0)'").fetchall()
        ((size_bytes,),) = app.execute("SELECT pg_total_relation_size('llmspell.kv_store')").fetchall()
        ((live,),) = app.execute(
            "SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'llmspell.kv_store'::regclass"
        ).fetchall()

    assert pages > 0
    assert rows > 0
    assert size_bytes > 0
    assert live >= 0
    assert scene.revealed(json.dumps(plan)) == set()


def test_known_limit_a_table_can_be_locked_and_a_connection_of_the_same_role_ended(scene: Scene) -> None:
    """Who runs SQL of their own can keep others waiting: rights on rows are rights to lock. Nothing is told by it."""
    with scene.session(ME) as app:
        assert attempt(app, b"LOCK TABLE llmspell.kv_store IN ACCESS EXCLUSIVE MODE")[0] is None
        other = psycopg.connect(scene.database.app_url)
        ended = app.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,)).fetchall()
        other.close()
    assert ended == [(True,)]


def test_known_limit_channels_advisory_locks_and_large_objects_have_no_tenant(scene: Scene) -> None:
    """They are outside of row-level security, so nothing of ours is in them."""
    with scene.session(ME) as app:
        app.execute("LISTEN anything")
        held = app.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchall()
        ((made,),) = app.execute("SELECT lo_from_bytea(0, 'mine')").fetchall()

    assert held == [(0,)]
    assert made > 0


def test_known_limit_whoever_runs_sql_of_their_own_can_name_another_tenant(scene: Scene) -> None:
    """Row-level security trusts the setting: it stops queries that forget their tenant, and not SQL that claims another one."""
    with scene.session(scene.theirs) as app:
        assert app.execute("SELECT count(*) > 0 FROM llmspell.kv_store").fetchall() == [(True,)]


# --- how a store is kept from serving ------------------------------------------------------------------------------------


@pytest.fixture(params=["postgres_database", "postgres_strict_database"], ids=["plain", "strict"])
def serving(request: pytest.FixtureRequest) -> PostgresDatabase:
    """A signature binds rows to a tenant; a role, a lock and a setting are nobody's rows."""
    database: PostgresDatabase = request.getfixturevalue(request.param)
    return database


def test_known_limit_the_serving_role_can_change_its_own_password(serving: PostgresDatabase) -> None:
    """PostgreSQL lets every role do that. Nothing is lost: an administrator sets it again."""
    with psycopg.connect(serving.app_url) as app:
        assert attempt(app, b"ALTER ROLE llmspell_app PASSWORD 'x'")[0] is None
        assert attempt(app, b"ALTER ROLE llmspell_operator PASSWORD 'x'")[0] == "42501", "another role's it cannot"


@pytest.mark.parametrize("setting", ["default_transaction_read_only = on", "statement_timeout = 1"])
def test_known_limit_the_serving_role_can_set_what_its_next_connections_begin_with(
    serving: PostgresDatabase, setting: str
) -> None:
    """`llmspell database isolation` names it, which `test_isolation_holes.py` shows."""
    with psycopg.connect(serving.app_url) as app:
        with app.transaction(force_rollback=True):
            app.execute(f"ALTER ROLE llmspell_app SET {setting}".encode())
            query = (
                "SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'llmspell_app'::regrole AND setdatabase = 0"
            )
            assert app.execute(query).fetchall() == [([setting.replace(" = ", "=")],)]
        assert attempt(app, f"ALTER ROLE llmspell_operator SET {setting}".encode())[0] == "42501"
        assert attempt(app, f"ALTER DATABASE {serving.name} SET {setting}".encode())[0] == "42501"


async def test_known_limit_a_lock_holds_up_the_writes_of_another_tenant_that_has_quotas(
    serving: PostgresDatabase,
) -> None:
    """Advisory locks are nobody's, and outlive a transaction on a pooled connection. Nothing is told by it, and reads go on."""
    postgres = PostgresSettings(operator_url=serving.operator_url, tenant_key=serving.tenant_key)
    settings = Settings(storage=StorageSettings(postgres=postgres))
    async with llmspell.connect(serving.app_url, settings=settings, embedder="hashing") as spell:
        await spell.tenants.create("b", quotas=QuotaLimits(max_documents=5))
        await spell.tenant("b").kv.set("before", b"1")
        with psycopg.connect(serving.app_url, autocommit=True) as app:
            app.execute("SELECT pg_advisory_lock(51, hashtext('b'))")
            writing = asyncio.create_task(spell.tenant("b").kv.set("after", b"2"))
            waiting = (
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 51 AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            async with asyncio.timeout(LIMIT_S):
                while app.execute(waiting).fetchall() != [(1,)]:
                    await asyncio.sleep(0)
            assert await spell.tenant("b").kv.get("before") == b"1"
        await writing  # the lock ends with the connection
        assert await spell.tenant("b").kv.get("after") == b"2"
