"""`llmspell database isolation --check` is silent on a sound database, and names each hole that is made in it.

Every hole is made alone, on a copy of the database, seen through the command, and taken away again: then the command is silent as
before. Each kind of finding of the audit is made at least once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest
from tests.fixtures.postgres import STRICT
from tests.fixtures.soak import tell
from tests.migrations.schemas import migrate_postgres
from tests.tenancy.code_holes import COUNTED, LIMIT
from tests.tenancy.holes import HOLES
from tests.tenancy.sabotage import GUEST

from llmspell.cli.main import run
from llmspell.storage.postgres.tenancy import rls_audit

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase, PostgresServer

Connection = psycopg.Connection[tuple[Any, ...]]
Checked: TypeAlias = "tuple[int, list[tuple[str, str]]]"
Check: TypeAlias = "Callable[[], Checked]"


@pytest.fixture(scope="module")
def guest(postgres_cluster: PostgresServer) -> Iterator[str]:
    """A login role that the store does not know."""
    with psycopg.connect(postgres_cluster.database("postgres").superuser_url, autocommit=True) as superuser:
        superuser.execute(f"DROP ROLE IF EXISTS {GUEST}")
        superuser.execute(f"CREATE ROLE {GUEST} LOGIN")
        yield GUEST
        superuser.execute(f"DROP ROLE {GUEST}")


def copied(server: PostgresServer, template: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """A database that is clean before the first hole; after each hole the command must say so again."""
    database = server.copy(template, "llmspell_holes")
    with psycopg.connect(database.app_url) as app:
        assert app.execute(rls_audit().encode()).fetchall() == []
    yield database
    server.drop(database)


@pytest.fixture(scope="module")
def plain(
    guest: str, postgres_cluster: PostgresServer, postgres_template: PostgresDatabase
) -> Iterator[PostgresDatabase]:
    yield from copied(postgres_cluster, postgres_template)


@pytest.fixture(scope="module")
def strict(
    guest: str, postgres_cluster: PostgresServer, postgres_strict_template: PostgresDatabase
) -> Iterator[PostgresDatabase]:
    yield from copied(postgres_cluster, postgres_strict_template)


@pytest.fixture
def checking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> Callable[[PostgresDatabase], Check]:
    """The command as a user types it, for one database: its exit code, and what it named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def of(database: PostgresDatabase) -> Check:
        if database.tenant_key is not None:
            monkeypatch.setenv("LLMSPELL_TENANT_KEY", database.tenant_key.reveal())
        else:
            monkeypatch.delenv("LLMSPELL_TENANT_KEY", raising=False)

        def check() -> Checked:
            capsys.readouterr()
            code = run(["database", "isolation", "--check", "--json", "--store", database.app_url])
            document = json.loads(capsys.readouterr().out)
            holes = [(hole["subject"], hole["problem"]) for hole in document["holes"]]
            assert document["isolated"] == (not holes)
            return code, holes

        return check

    return of


def do(connection: Connection, statements: tuple[str, ...]) -> None:
    ((superuser,),) = connection.execute("SELECT current_user").fetchall()
    for statement in statements:
        connection.execute(statement.replace("{superuser}", superuser).encode())


@pytest.mark.skipif(STRICT, reason="every database of this run is strict")
@pytest.mark.parametrize("name", [name for name, hole in HOLES.items() if not hole.strict])
def test_a_hole_is_named_and_gone_when_it_is_mended(
    plain: PostgresDatabase, checking: Callable[[PostgresDatabase], Check], name: str
) -> None:
    seen(plain, checking(plain), name)


@pytest.mark.parametrize("name", [name for name, hole in HOLES.items() if hole.strict])
def test_a_hole_in_the_strict_mode_is_named_and_gone_when_it_is_mended(
    strict: PostgresDatabase, checking: Callable[[PostgresDatabase], Check], name: str
) -> None:
    seen(strict, checking(strict), name)


def seen(database: PostgresDatabase, check: Check, name: str) -> None:
    hole = HOLES[name]
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        try:
            do(superuser, hole.make)
            found = check()
        finally:
            do(superuser, hole.mend)
    after = check()

    tell(holes_made=1, holes_named=int((hole.subject, hole.problem) in found[1]))
    assert found[0] == 1
    assert (hole.subject, hole.problem) in found[1]
    assert after == (0, [])


ADDED = """
CREATE TABLE llmspell.notes (tenant_id {type} NOT NULL, name text NOT NULL, note text, PRIMARY KEY (tenant_id, name));
SELECT llmspell.apply_tenant_rls('llmspell.notes');
"""


@pytest.mark.parametrize("kind", ["text", "varchar", "varchar(255)"])
@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_a_table_that_was_isolated_as_the_page_says_is_no_hole_until_a_policy_says_something_else(
    postgres_database: PostgresDatabase, postgres_strict_database: PostgresDatabase, mode: str, kind: str
) -> None:
    database = postgres_strict_database if mode == "strict" else postgres_database
    with psycopg.connect(database.admin_url) as owner:
        owner.execute(ADDED.replace("{type}", kind).encode())
        mended = owner.execute(rls_audit().encode()).fetchall()
        policy = "tenant_signature" if mode == "strict" else "tenant_isolation_select"
        owner.execute(f"ALTER POLICY {policy} ON llmspell.notes USING (tenant_id = name)".encode())
        altered = owner.execute(rls_audit().encode()).fetchall()
        owner.rollback()

    assert mended == []
    assert [(subject, policy in problem) for subject, problem in altered] == [("llmspell.notes", True)]


def test_the_table_that_long_values_are_kept_in_is_a_way_in_too(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.superuser_url) as superuser:
        query = "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'llmspell.memories'::regclass"
        ((toast,),) = superuser.execute(query).fetchall()
        superuser.execute(f"GRANT SELECT ON {toast} TO llmspell_app".encode())
        found = superuser.execute(rls_audit().encode()).fetchall()
        superuser.rollback()

    assert found == [(toast, "llmspell_app may SELECT, which the server keeps for administrators")]


def test_limits_from_before_the_migration_that_counts_are_known_too(postgres_empty_database: PostgresDatabase) -> None:
    """Counting was turned on by the migration itself; somebody has turned it off."""
    database = postgres_empty_database
    migrate_postgres(database.admin_url, last=32)
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        do(superuser, LIMIT)
    migrate_postgres(database.admin_url, first=33)
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        assert superuser.execute(rls_audit().encode()).fetchall() == []
        do(superuser, tuple(f"ALTER TABLE llmspell.{table} DISABLE TRIGGER USER" for table in COUNTED))
        found = superuser.execute(rls_audit().encode()).fetchall()

    counting = [
        problem for _, problem in found if "_usage_" in problem and problem.startswith("does not run the trigger")
    ]
    assert len(counting) == len(found) == 17


def test_each_kind_of_finding_is_made_at_least_once() -> None:
    audit = (files("llmspell.storage.postgres") / "rls_audit.sql").read_text("utf-8")
    findings = audit[audit.index("\n)\nSELECT t.subject, 'has no tenant_id") :]
    branches = re.split(r"\nUNION ALL\n", findings)
    missing = []
    for branch in branches:
        texts = [words for words in re.findall(r"'((?:[^']|'')*)'", branch) if " " in words]
        patterns = [".*?".join(map(re.escape, re.split(r"%[sI]", text))) for text in texts]
        if not any(re.match(pattern, hole.problem) for hole in HOLES.values() for pattern in patterns):
            missing.append(texts[0])

    assert len(branches) > 40
    assert missing == []


def test_the_command_without_json_prints_a_line_for_each_hole_and_nothing_else(
    postgres_database: PostgresDatabase,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    if postgres_database.tenant_key is not None:
        monkeypatch.setenv("LLMSPELL_TENANT_KEY", postgres_database.tenant_key.reveal())
    command = ["database", "isolation", "--check", "--store", postgres_database.app_url]
    assert (run(command), capsys.readouterr().out) == (0, "")
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute("GRANT TRUNCATE ON llmspell.kv_store TO llmspell_app")

    assert (run(command), capsys.readouterr().out) == (1, "llmspell.kv_store: llmspell_app may TRUNCATE\n")


def test_a_key_that_nothing_demands_is_a_hole(
    postgres_empty_database: PostgresDatabase,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    from tests.fixtures.postgres import TENANT_KEY, migrate

    migrate(postgres_empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMSPELL_TENANT_KEY", TENANT_KEY.reveal())

    assert run(["database", "isolation", "--check", "--store", postgres_empty_database.app_url]) == 1
    assert "storage.postgres.tenant_key: is configured, but the strict mode is off" in capsys.readouterr().out
