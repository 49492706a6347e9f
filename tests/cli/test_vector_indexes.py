"""`llmspell database vector-indexes`, as it is typed."""

from __future__ import annotations

import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

INDEXES = ("database", "vector-indexes")
NAMES = [f"idx_vector_{dimension}_hnsw" for dimension in (384, 768, 1536, 3072)]


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    return shell


def test_the_indexes_are_a_line_each(server: Shell) -> None:
    done = server(*INDEXES, "list")

    assert done.code == 0
    assert [line.split("\t")[0] for line in done.lines] == NAMES
    assert done.lines[0].split("\t")[2:] == ["valid", "0", "0", "0", "16", "64", ""]
    document = server(*INDEXES, "list", "--dimension", "1536", "--json").document
    assert [(one["name"], one["m"], one["ef_construction"]) for one in document["indexes"]] == [(NAMES[2], 24, 256)]


def test_a_rebuild_says_its_steps_and_a_dry_run_takes_none(server: Shell, postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute("DROP INDEX llmspell.idx_vector_768_hnsw")
    planned = server(*INDEXES, "rebuild", "--dimension", "768", "--dry-run")
    still = server(*INDEXES, "list", "--dimension", "768")
    done = server(*INDEXES, "rebuild", "--dimension", "768", "--memory", "64MB")

    assert planned.lines == done.lines == ["build idx_vector_768_hnsw"]
    assert "nothing was changed" in planned.err
    assert still.lines == []
    assert server(*INDEXES, "list", "--dimension", "768").lines[0].startswith("idx_vector_768_hnsw\t")


def test_a_file_has_no_such_indexes(shell: Shell) -> None:
    done = shell(*INDEXES, "list")

    assert done.code == 1
    assert "searched in process" in done.err


def test_without_the_owner_of_the_schema_nothing_is_rebuilt(server: Shell) -> None:
    server.environment.delenv("DATABASE_ADMIN_URL")
    done = server(*INDEXES, "rebuild")

    assert done.code != 0
    assert "DATABASE_ADMIN_URL" in done.err


def test_vectors_are_moved_into_partitions_once(server: Shell, postgres_database: PostgresDatabase) -> None:
    server.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    command = ("database", "partition-vectors", "--dimension", "768", "--partitions", "2")
    server("tenants", "create", "default")
    planned = server(*command, "--dry-run")
    assert [line.split("\t")[0] for line in server(*INDEXES, "list", "--dimension", "768").lines] == [NAMES[1]]
    done = server(*command)
    again = server(*command)

    assert planned.lines == done.lines
    assert len(done.lines) == 4
    assert "nothing was changed" in planned.err
    assert (again.code, again.lines) == (0, [])
    assert "in 2 partitions already" in again.err
    listed = server(*INDEXES, "list", "--dimension", "768").lines
    assert [line.split("\t")[0] for line in listed] == ["idx_vector_768_p000_hnsw", "idx_vector_768_p001_hnsw"]
    assert server("database", "isolation", "--check").lines == []
    assert server(*command, "--abandon").lines == ["No move is under way; nothing was changed."]


def test_a_move_into_partitions_needs_the_role_that_sees_all_rows(server: Shell) -> None:
    done = server("database", "partition-vectors", "--dimension", "768", "--dry-run")

    assert done.code != 0
    assert "DATABASE_OPERATOR_URL" in done.err
