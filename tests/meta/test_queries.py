"""The two query catalogues agree, and every query fits the real schema of its database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import apsw
import apsw.ext
import psycopg
import pytest
from psycopg.pq import ExecStatus
from tests.fixtures.postgres import PostgresDatabase
from tests.meta.source import PACKAGE, complaint, python_files

from llmspell.clock import ManualClock
from llmspell.storage.postgres import statements
from llmspell.storage.relational.catalog import Catalog, Query, load
from llmspell.storage.sqlite import migrator
from llmspell.storage.sqlite.connection import open_writer

DIALECTS = ("sqlite", "postgres")
BUSY_TIMEOUT_S = 5.0
# A portable condition for the alias that a filtered query gives to its main table.
SAMPLE_FILTERS = {
    "m": "m.role = :f0 AND m.event_at > :f1",
    "v": "v.scope = :f0 AND v.created_at > :f1",
    "r": "r.relationship_type = :f0 AND r.from_entity = :f1",
    "e": "e.entity_type = :f0",
    "a": "a.operation = :f0 AND a.decision = :f1",
    "l": "l.event_type = :f0",
    "h": "h.hook_type = :f0",
}
_LITERAL = re.compile(r"'(?:[^']|'')*'|--[^\n]*")
_TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:llmspell\.)?([a-z_0-9]+)", re.IGNORECASE)
_LIMIT_TOKENS = re.compile(r"\(|\)|\bORDER\s+BY\b|\bLIMIT\b", re.IGNORECASE)
_PLAIN_COLUMN = re.compile(r"[a-z_][a-z_0-9]*")


@pytest.fixture(scope="module")
def catalogs() -> dict[str, Catalog]:
    return {dialect: load(f"llmspell.storage.{dialect}") for dialect in DIALECTS}


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    """A migrated file, with the functions that our connections have."""
    path = str(tmp_path_factory.mktemp("queries") / "store.db")
    migrator.migrate(path, busy_timeout_s=BUSY_TIMEOUT_S, clock=ManualClock())
    connection = open_writer(path, synchronous="FULL", busy_timeout_s=BUSY_TIMEOUT_S)
    yield connection
    connection.close()


@pytest.fixture
def postgres_app(postgres_shared_database: PostgresDatabase) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(postgres_shared_database.app_url, autocommit=True) as connection:
        yield connection


def filled(query: Query) -> Query:
    """The query with a sample condition where it takes one."""
    if "{filters}" not in query.sql:
        return query
    alias = next(alias for alias in SAMPLE_FILTERS if re.search(rf"\b[a-z_0-9]+ (?:AS )?{alias}\b", query.sql))
    return query.filtered(SAMPLE_FILTERS[alias])


def sqlite_columns(connection: apsw.Connection, query: Query) -> list[str]:
    """Prepare a query, run nothing of it, and return its columns."""
    info = apsw.ext.query_info(connection, filled(query).sql)
    assert info.query_remaining is None, "one statement per query"
    return [column[0] for column in info.description]


def postgres_columns(connection: psycopg.Connection[tuple[object, ...]], query: Query) -> list[str]:
    """Prepare a query as the executor does, run nothing of it, and return its columns."""
    command = statements.command(filled(query))
    for result in (
        connection.pgconn.prepare(b"", command.sql, command.types),
        connection.pgconn.describe_prepared(b""),
    ):
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.ProgrammingError(result.error_message.decode())
    return [(result.fname(n) or b"").decode() for n in range(result.nfields)]


def everywhere(catalogs: dict[str, Catalog]) -> Iterator[tuple[str, Query]]:
    for dialect, catalog in catalogs.items():
        for query in catalog:
            yield dialect, query


def twins(catalogs: dict[str, Catalog]) -> Iterator[tuple[Query, Query]]:
    here, there = ({query.label: query for query in catalogs[dialect] if not query.only_here} for dialect in DIALECTS)
    return ((here[label], there[label]) for label in here.keys() & there.keys())


def test_every_query_has_its_twin(catalogs: dict[str, Catalog]) -> None:
    here, there = ({query.label for query in catalogs[dialect] if not query.only_here} for dialect in DIALECTS)
    lonely = [f"{label} is only in sqlite" for label in sorted(here - there)]
    lonely += [f"{label} is only in postgres" for label in sorted(there - here)]

    assert not lonely, complaint("Write the twin in the other dialect, or mark the query `-- only: <reason>`.", lonely)


def test_a_query_marked_as_the_only_one_has_no_twin(catalogs: dict[str, Catalog]) -> None:
    here, there = ({query.label: query.only_here for query in catalogs[dialect]} for dialect in DIALECTS)
    wrong = sorted(label for label in here.keys() & there.keys() if here[label] != there[label])

    assert not wrong, complaint("Remove the mark `-- only:`; the other dialect has it too.", wrong)


def test_twins_have_the_same_kind_parameters_and_marks(catalogs: dict[str, Catalog]) -> None:
    different = [
        f"{mine.label}: {mine.kind} {sorted(mine.parameters)} against {its.kind} {sorted(its.parameters)}"
        for mine, its in twins(catalogs)
        if (mine.kind, mine.parameters, mine.cross_tenant) != (its.kind, its.parameters, its.cross_tenant)
    ]

    assert not different, complaint(
        "Twins are called by the same Python: give both the same interface.", sorted(different)
    )


def test_twins_take_a_filter_at_the_same_places(catalogs: dict[str, Catalog]) -> None:
    different = [
        mine.label for mine, its in twins(catalogs) if mine.sql.count("{filters}") != its.sql.count("{filters}")
    ]

    assert not different, complaint(
        "A filter that one dialect applies and the other does not gives other rows.", different
    )


def test_every_query_names_its_tenant_once_per_table(catalogs: dict[str, Catalog]) -> None:
    """The second lock: row-level security is the first, and a query must be right without it."""
    bare = []
    for dialect, query in everywhere(catalogs):
        text = _LITERAL.sub("''", query.sql)
        tables = [name for name in _TABLE.findall(text) if is_ours(name)]
        if not query.cross_tenant and text.count(":tenant_id") < max(1, len(tables)):
            bare.append(f"{dialect} {query.label}: {len(tables)} tables, {text.count(':tenant_id')} tenants")

    assert not bare, complaint(
        "Compare tenant_id with :tenant_id for each table, or mark the query `-- cross-tenant: <reason>`.", bare
    )


def is_ours(name: str) -> bool:
    """Whether a name after FROM is a table of the schema, and not a function or a common table expression."""
    schema = (PACKAGE / "storage/sqlite/schema.sql").read_text("utf-8")
    return re.search(rf"CREATE TABLE {name}\b", schema) is not None


def test_a_query_that_is_limited_is_ordered(catalogs: dict[str, Catalog]) -> None:
    unordered = [
        f"{dialect} {query.label}" for dialect, query in everywhere(catalogs) if not limits_are_ordered(query.sql)
    ]

    assert not unordered, complaint(
        "Say ORDER BY before LIMIT, with a tie-break by id: otherwise which rows come is chance.", unordered
    )


def limits_are_ordered(sql: str) -> bool:
    """Whether each LIMIT follows an ORDER BY of its own pair of brackets."""
    ordered = [False]
    for token in _LIMIT_TOKENS.findall(_LITERAL.sub("''", sql)):
        if token == "(":
            ordered.append(False)
        elif token == ")":
            ordered.pop()
        elif token.upper() == "LIMIT":
            if not ordered[-1]:
                return False
        else:
            ordered[-1] = True
    return True


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a LIMIT 1", True),
        ("SELECT a FROM t LIMIT 1", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a) LIMIT 1", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 1)", True),
    ],
)
def test_the_order_that_counts_is_that_of_the_same_brackets(sql: str, ordered: bool) -> None:
    assert limits_are_ordered(sql) is ordered


def test_every_query_of_sqlite_fits_its_schema(catalogs: dict[str, Catalog], sqlite_file: apsw.Connection) -> None:
    broken = []
    for query in catalogs["sqlite"]:
        try:
            sqlite_columns(sqlite_file, query)
        except apsw.Error as exc:
            broken.append(f"{query.label}: {exc}")

    assert not broken, complaint("The query does not fit the migrated schema; mend it, or add a migration.", broken)


def test_every_query_of_postgres_fits_its_schema_as_the_serving_role(
    catalogs: dict[str, Catalog], postgres_app: psycopg.Connection[tuple[object, ...]]
) -> None:
    broken = []
    for query in catalogs["postgres"]:
        try:
            postgres_columns(postgres_app, query)
        except psycopg.Error as exc:
            broken.append(f"{query.label}: {exc}")

    assert not broken, complaint("The query does not fit the migrated schema; mend it, or add a migration.", broken)


def test_twins_answer_with_the_same_columns(
    catalogs: dict[str, Catalog], sqlite_file: apsw.Connection, postgres_app: psycopg.Connection[tuple[object, ...]]
) -> None:
    different = []
    for mine, its in twins(catalogs):
        here, there = sqlite_columns(sqlite_file, mine), postgres_columns(postgres_app, its)
        # A column that is an expression has no name of its own: only its place counts.
        named = [n for n, name in enumerate(here) if _PLAIN_COLUMN.fullmatch(name) and name not in ("value", "NULL")]
        if len(here) != len(there) or any(here[n] != there[n] for n in named if there[n] != "?column?"):
            different.append(f"{mine.label}: {here} against {there}")

    assert not different, complaint(
        "Rows are read by position: give both twins the same columns in one order.", different
    )


def test_a_query_that_counts_returns_no_rows_and_the_others_do(
    catalogs: dict[str, Catalog], sqlite_file: apsw.Connection, postgres_app: psycopg.Connection[tuple[object, ...]]
) -> None:
    wrong = []
    for dialect, query in everywhere(catalogs):
        columns = sqlite_columns(sqlite_file, query) if dialect == "sqlite" else postgres_columns(postgres_app, query)
        if (query.kind == "count") == bool(columns) or (query.kind == "value" and len(columns) != 1):
            wrong.append(f"{dialect} {query.label} -> {query.kind}, columns {columns}")

    assert not wrong, complaint("`count` is for statements without RETURNING; `value` is one column.", wrong)


def test_every_query_is_used(catalogs: dict[str, Catalog]) -> None:
    named = Named("\n".join(Path(path).read_text("utf-8") for path in python_files("src")))
    names = {re.sub(r"_(384|768|1536|3072)$", "", query.name) for _, query in everywhere(catalogs)}
    unused = sorted(name for name in names if name not in named)

    assert not unused, complaint("No Python runs it: remove the query from both dialects.", unused)


class Named:
    """What code names: attributes, texts, and the fixed parts of computed names; found once, for there are many queries."""

    def __init__(self, code: str) -> None:
        self._whole = {*re.findall(r"\.(\w+)\b", code), *re.findall(r"""["'](\w+)["']""", code)}
        self._beginnings = set(re.findall(r'f"(\w+)\{', code))
        self._endings = set(re.findall(r'\}(_\w+)"', code))

    def __contains__(self, name: str) -> bool:
        beginnings = (name[:end] for end in range(len(name) - 1, 3, -1) if name[end - 1] == "_")
        endings = (name[start:] for start, letter in enumerate(name) if start and letter == "_")
        return (
            name in self._whole or not self._beginnings.isdisjoint(beginnings) or not self._endings.isdisjoint(endings)
        )
