"""The catalogue of what is transferred, compared with both schemas: whoever adds a table or a column decides what becomes of it."""

from __future__ import annotations

from collections import defaultdict

import apsw
import psycopg
import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.meta.source import complaint

from llmspell.clock import ManualClock
from llmspell.storage.contracts.transfer_tables import EXCLUDED, REBUILT, SCHEMA_VERSION, TABLES
from llmspell.storage.relational import migrations
from llmspell.storage.sqlite import migrator

HINT = "List it in storage/contracts/transfer_tables.py: exported, made again (REBUILT, derived), or left out with a reason."
COLUMNS = """
    SELECT c.relname::text, a.attname::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relnamespace IN ('llmspell'::regnamespace, 'llmspell_private'::regnamespace, 'llmspell_archive'::regnamespace)
      AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
"""
Schema = dict[str, set[str]]


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    path = str(tmp_path_factory.mktemp("schema") / "store.db")
    migrator.migrate(path, busy_timeout_s=5.0, clock=ManualClock())
    connection = apsw.Connection(path)
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for (name,) in tables.fetchall()}


@pytest.fixture
def of_server(postgres_shared_database: PostgresDatabase) -> Schema:
    found: Schema = defaultdict(set)
    with psycopg.connect(postgres_shared_database.superuser_url) as connection:
        for table, column in connection.execute(COLUMNS).fetchall():
            found[table].add(column)
    return found


@pytest.fixture(params=["file", "server"])
def schema(request: pytest.FixtureRequest) -> Schema:
    found: Schema = request.getfixturevalue(f"of_{request.param}")
    return found


def test_every_table_is_exported_made_again_or_left_out_with_a_reason(schema: Schema) -> None:
    listed = {table.name for table in TABLES} | set(REBUILT) | set(EXCLUDED)

    assert not set(schema) - listed, complaint(HINT, sorted(set(schema) - listed))


def test_no_table_is_listed_twice_or_gone(of_file: Schema, of_server: Schema) -> None:
    names = [*(table.name for table in TABLES), *REBUILT, *EXCLUDED]

    assert len(names) == len(set(names))
    assert not set(names) - set(of_file) - set(of_server) - {"signing_keys", "signing_mode"}


def test_every_column_of_an_exported_table_is_exported_or_made_again(schema: Schema) -> None:
    forgotten = [
        f"{table.name}.{column}"
        for table in TABLES
        for column in sorted(schema[table.name] - set(table.names) - set(table.derived))
    ]

    assert not forgotten, complaint(HINT, forgotten)


def test_an_exported_column_is_in_both_schemas_and_a_derived_one_in_either(of_file: Schema, of_server: Schema) -> None:
    both = [
        f"{table.name}.{name}"
        for table in TABLES
        for name in table.names
        if name not in of_file[table.name] & of_server[table.name]
    ]
    either = [
        f"{table.name}.{name}"
        for table in TABLES
        for name in table.derived
        if name not in of_file[table.name] | of_server[table.name]
    ]

    assert not both + either


def test_the_catalogue_is_of_the_newest_schema() -> None:
    newest = max(one.version for one in migrations.load("llmspell.storage.sqlite"))

    assert newest == SCHEMA_VERSION, (
        "Say in transfer_tables.py which schema the catalogue describes, after a look at its tables."
    )


def test_keys_begin_with_the_tenant_and_are_exported() -> None:
    for table in TABLES:
        assert table.key[0] == "tenant_id" == table.names[0], table.name
        assert set(table.key) <= set(table.names), table.name
        assert 1 <= table.thing <= len(table.key), table.name


def test_what_rows_belong_to_comes_before_them() -> None:
    place = {table.name: position for position, table in enumerate(TABLES)}

    assert all(place[parent] < place[table.name] for table in TABLES for parent, _ in table.belongs_to)
    assert TABLES[-1].name == "tenants"
