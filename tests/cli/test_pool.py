from __future__ import annotations

import os

import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.ops.pool_sizing import pool_size
from llmspell.storage.postgres import limits


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    return shell


def allowed(database: PostgresDatabase) -> int:
    with psycopg.connect(database.superuser_url) as connection:
        row = connection.execute("SELECT current_setting('max_connections')::int").fetchone()
    assert row is not None
    return int(row[0])


def test_the_command_fails_when_the_server_allows_too_little(shell: Shell) -> None:
    done = shell("database", "pool", "--cores", "16", "--instances", "3", "--max-connections", "100", "--json")

    found = done.document
    assert (done.code, found["pool_size"], found["connections"], found["pool_size_that_fits"]) == (1, 35, 145, 20)
    assert found["configured"] is found["server"] is None


def test_without_a_server_the_formula_alone_answers(shell: Shell) -> None:
    done = shell("database", "pool", "--cores", "8")

    assert done.code == 0
    assert "pool_size        20" in done.out


def test_a_store_without_a_server_has_no_pool_to_size(shell: Shell) -> None:
    done = shell("database", "pool")

    assert done.code == 1
    assert "Not offered on this backend" in done.err


def test_a_server_on_this_machine_is_asked_and_the_configured_pool_is_checked(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    done = server("database", "pool", "--instances", "1", "--json")

    found = done.document
    assert (found["cores"], found["pool_size"]) == (os.cpu_count(), pool_size(cores=os.cpu_count() or 1))
    assert found["max_connections"] == found["server"]["max_connections"] == allowed(postgres_database)
    assert found["configured"]["connections"] == 20 + 10 + 30
    assert done.code == (0 if found["configured"]["fits"] else 1)


def test_a_configured_pool_that_the_server_cannot_serve_is_exit_code_1(
    server: Shell, postgres_database: PostgresDatabase
) -> None:
    server.environment.setenv("LLMSPELL_STORAGE__POSTGRES__POOL_SIZE", str(allowed(postgres_database)))

    assert server("database", "pool", "--cores", "2", "--instances", "1").code == 1


def test_the_cores_of_a_server_elsewhere_must_be_given(server: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = limits.ServerLimits(
        max_connections=100, used=1, version="18.0", vector_version="0.8.5", clock_ahead_s=0.0, here=False
    )
    monkeypatch.setattr(limits, "read_limits", lambda url, *, clock: elsewhere)

    done = server("database", "pool")

    assert (done.code, "--cores N" in done.err) == (2, True)
    assert server("database", "pool", "--cores", "8").code == 0
