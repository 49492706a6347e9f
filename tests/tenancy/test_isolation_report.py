"""The diagnosis of tenant isolation finds what is wrong, on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmspell.cli.commands.database_diagnostics import isolation
from llmspell.cli.problems import ExitCode
from llmspell.errors import Unsupported
from llmspell.ops.isolation import IsolationReport, examine
from llmspell.storage.postgres.tenant_key import read_tenant_key
from llmspell.tenant import TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

ACME = TenantId("acme")


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def problems(report: IsolationReport) -> str:
    return "\n".join(f"{hole.subject}: {hole.problem}" for hole in report.holes)


async def test_the_serving_role_of_a_fresh_store_has_no_hole(postgres_database: PostgresDatabase) -> None:
    report = await examine(postgres_database.app_url, tenant=ACME)

    assert report.isolated, problems(report)
    assert report.observed.tenant_seen == "acme"
    assert report.observed.tenant_left == ""
    assert any(table.partition for table in report.observed.tables)


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("superuser_url", "is a superuser"),
        ("admin_url", "owns"),
        ("operator_url", "policies of its own"),
    ],
)
async def test_a_role_that_sees_past_the_policies_is_a_hole(
    postgres_shared_database: PostgresDatabase, role: str, expected: str
) -> None:
    report = await examine(getattr(postgres_shared_database, role), tenant=ACME)

    assert not report.isolated
    assert expected in problems(report)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("ALTER TABLE llmspell.kv_store DISABLE ROW LEVEL SECURITY", "llmspell.kv_store"),
        ("ALTER TABLE llmspell.memories NO FORCE ROW LEVEL SECURITY", "llmspell.memories"),
        ("DROP POLICY tenant_isolation_select ON llmspell.sessions", "llmspell.sessions"),
        ("CREATE TABLE llmspell.notes (tenant_id text NOT NULL, note text)", "llmspell.notes"),
        ("GRANT TRUNCATE ON llmspell.kv_store TO llmspell_app", "llmspell.kv_store"),
    ],
)
async def test_a_hole_in_a_table_is_named(postgres_database: PostgresDatabase, statement: str, table: str) -> None:
    run(postgres_database.admin_url, statement)

    report = await examine(postgres_database.app_url, tenant=ACME)

    assert table in {hole.subject for hole in report.holes}


async def test_rows_that_show_without_a_tenant_are_a_hole(postgres_database: PostgresDatabase) -> None:
    run(
        postgres_database.superuser_url,
        "INSERT INTO llmspell.tenants (tenant_id, name, created_at, updated_at) VALUES ('a', 'a', now(), now())",
        "INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)"
        " VALUES ('a', 'k', gen_random_uuid(), '', now(), now())",
        "ALTER TABLE llmspell.kv_store DISABLE ROW LEVEL SECURITY",
    )

    report = await examine(postgres_database.app_url, tenant=ACME)

    assert "sees rows of tenants (1)" in problems(report)


LOGGED = (
    ("log_min_duration_statement = 0",),
    ("log_statement = 'all'",),
    ("log_statement = 'all'", "log_parameter_max_length = 8"),
)
UNLOGGED = (
    (),
    ("log_statement = 'ddl'",),
    ("log_min_duration_statement = 0", "log_statement = 'all'", "log_parameter_max_length = 0"),
    ("log_min_duration_sample = 0", "log_statement_sample_rate = 0"),
)


@pytest.mark.parametrize("settings", [*LOGGED, *UNLOGGED])
async def test_a_log_that_holds_parameters_is_a_hole_and_another_is_none(
    postgres_strict_database: PostgresDatabase, settings: tuple[str, ...]
) -> None:
    """The server itself says what it logs: it sends its log to a client that asks for it."""
    from tests.tenancy.two_tenants import BIND, FAR

    database = postgres_strict_database
    assert database.tenant_key is not None
    alter = f"ALTER ROLE llmspell_app IN DATABASE {database.name} SET"
    run(database.superuser_url, *(f"{alter} {setting}" for setting in settings))

    report = await examine(database.app_url, tenant=ACME, tenant_key=database.tenant_key)

    signature = read_tenant_key(database.tenant_key).sign(b"acme", until=FAR).decode()
    logged: list[str] = []
    with psycopg.connect(database.app_url, options="-c client_min_messages=log") as connection:
        connection.add_notice_handler(lambda notice: logged.append(notice.message_detail or ""))
        connection.execute(BIND, ("acme", signature))
    held = any(signature[:8] in line for line in logged)
    assert held == (settings in LOGGED)
    assert ("server log: is given values of all tenants, and their signatures" in problems(report)) == held, logged
    assert report.isolated == (not held)


async def test_a_store_without_row_level_security_is_refused() -> None:
    with pytest.raises(Unsupported):
        await examine("sqlite:///agent.db", tenant=ACME)


# --- the commands -----------------------------------------------------------------------------------------------------


def call(command: object, *arguments: str) -> object:
    return command.main(list(arguments), standalone_mode=False)  # type: ignore[attr-defined]


def test_the_command_ends_well_and_says_isolated(
    postgres_database: PostgresDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(isolation, "--store", postgres_database.app_url, "--tenant", "acme", "--json")

    document = json.loads(capsys.readouterr().out)
    assert code == ExitCode.OK
    assert document["isolated"] is True
    assert document["observed"]["tenant_seen"] == "acme"


def test_the_command_fails_when_there_is_a_hole(
    postgres_shared_database: PostgresDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(isolation, "--store", postgres_shared_database.superuser_url)

    assert code == ExitCode.FAILED
    assert "HOLE" in capsys.readouterr().out


def test_a_tenant_that_is_not_registered_is_noted_beside_the_holes(
    postgres_database: PostgresDatabase, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if postgres_database.tenant_key is not None:
        monkeypatch.setenv("LLMSPELL_TENANT_KEY", postgres_database.tenant_key.reveal())
    check = (isolation, "--check", "--store", postgres_database.app_url)

    misspelt = call(*check, "--tenant", "acmee"), capsys.readouterr()
    unnamed = call(*check), capsys.readouterr()
    quiet = call(*check, "--tenant", "acmee", "--quiet"), capsys.readouterr()

    assert misspelt[0] == unnamed[0] == quiet[0] == ExitCode.OK
    assert misspelt[1].out == unnamed[1].out == unnamed[1].err == quiet[1].err == ""
    assert misspelt[1].err == "acmee is not registered in this store; llmspell tenants create does it\n"


@pytest.mark.parametrize("store", ["memory://", "sqlite:///agent.db"])
def test_a_store_that_cannot_be_examined_is_no_hole(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    code = call(isolation, "--check", "--store", store)

    printed = capsys.readouterr()
    assert (code, printed.out) == (ExitCode.USAGE, "")
    assert "has no row-level security to examine" in printed.err
