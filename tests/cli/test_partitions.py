"""`llmspell database partitions`: on a server, and where there are none."""

from __future__ import annotations

import re

import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

ARCHIVE = ("database", "partitions", "archive", "--before", "2019-04-01")
EVENT = """
    INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
    VALUES ('t', gen_random_uuid(), 'test.event', gen_random_uuid(), '2019-03-15', 1, '{}')
"""


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    with psycopg.connect(postgres_database.operator_url) as operator:
        operator.execute(EVENT)
    return shell


def test_the_months_are_listed(server: Shell) -> None:
    done = server("database", "partitions", "list")

    assert done.code == 0
    assert [line.split("\t")[0] for line in done.lines][-1] == "event_log_default"
    assert all(
        re.fullmatch(r"event_log_\d{4}_\d\d\t\d{4}-\d\d-01 to \d{4}-\d\d-01\tabout [\d,]+ rows?\t[\d,]+ bytes", line)
        for line in done.lines[:-1]
    )
    document = server("database", "partitions", "list", "--json").document
    assert [one["name"] for one in document["partitions"]] == [line.split("\t")[0] for line in done.lines]


def test_ensure_prints_a_line_for_each_month(server: Shell) -> None:
    done = server("database", "partitions", "ensure")

    assert (done.code, len(done.lines)) == (0, 4)
    assert all(line.startswith("SKIPPED: event_log_") for line in done.lines)


def test_a_dry_run_names_what_is_then_archived(server: Shell) -> None:
    dry, done = server(*ARCHIVE, "--dry-run"), server(*ARCHIVE, "--json")

    assert dry.lines == ["WOULD ARCHIVE: event_log_2019_03 (2019-03-01 to 2019-04-01)"]
    assert "nothing was changed" in dry.err
    assert done.document == {
        "before": "2019-04-01T00:00:00Z",
        "partitions": ["ARCHIVED: event_log_2019_03 (2019-03-01 to 2019-04-01)"],
        "dry_run": False,
    }
    assert server(*ARCHIVE).lines == []


def test_ninety_days_is_what_archive_means_without_a_date(server: Shell) -> None:
    """EVT-14."""
    assert len(server("database", "partitions", "archive", "--dry-run").lines) == 1
    server.environment.setenv("LLMSPELL_RETENTION__EVENTS_DAYS", "36500")

    assert server("database", "partitions", "archive", "--dry-run").lines == []


def test_archiving_without_the_operators_url_says_what_to_set(server: Shell) -> None:
    server.environment.delenv("DATABASE_OPERATOR_URL")

    done = server(*ARCHIVE)

    assert done.code != 0
    assert "DATABASE_OPERATOR_URL" in done.err


@pytest.mark.parametrize("command", ["list", "ensure", "archive"])
def test_a_store_of_one_table_says_that_it_has_no_months(shell: Shell, command: str) -> None:
    shell("database", "migrate")

    done = shell("database", "partitions", command)

    assert done.code != 0
    assert "one table" in done.err
    assert "prune" in done.err
