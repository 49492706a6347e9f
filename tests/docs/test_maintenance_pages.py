"""Every statement and every command of the pages for operators is one that runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import psycopg
import pytest
from tests.fixtures.postgres import PostgresDatabase

from llmspell.cli.main import COMMANDS, load_command

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "how-to"
PAGES = (
    "maintain-the-database",
    "when-the-disk-is-full",
    "when-queries-are-slow",
    "when-connections-run-out",
    "archive-events",
)
SQL = re.compile(r"^```sql\n-- as (.+?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ANY_SQL = re.compile(r"^ *```sql\n", re.MULTILINE)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(llmspell (?:database|backup|jobs) [^`]+)`")
URLS = {
    "the owner": lambda database: database.admin_url,
    "the serving role": lambda database: database.app_url,
    "an administrator": lambda database: database.superuser_url,
}
UNDO = "REVOKE pg_monitor, pg_signal_backend FROM llmspell; ALTER ROLE llmspell_app RESET ALL;"


def text_of(page: str) -> str:
    return (GUIDES / f"{page}.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES[:-1])
def test_every_statement_of_a_page_runs_on_a_server(page: str, postgres_database: PostgresDatabase) -> None:
    """AMB-088…094: what is often written elsewhere fails when it is run."""
    blocks = SQL.findall(text_of(page))
    assert len(blocks) == len(ANY_SQL.findall(text_of(page))) > 0

    try:
        for role, block in blocks:
            with psycopg.connect(URLS[role](postgres_database), autocommit=True) as connection:
                for statement in filter(str.strip, re.split(r";\n", block)):
                    connection.execute(statement.encode())
    finally:
        with psycopg.connect(postgres_database.superuser_url, autocommit=True) as superuser:
            for statement in UNDO.split("; "):
                superuser.execute(statement.encode())


def commands_of(page: str) -> list[str]:
    text = text_of(page)
    lines = [line.strip() for block in SHELL.findall(text) for line in block.splitlines()]
    return [line for line in lines if line.startswith("llmspell ")] + INLINE.findall(text)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_can_be_read(page: str) -> None:
    commands = commands_of(page)
    assert commands
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = load_command(COMMANDS[words.pop(0)])
        while isinstance(command, click.Group) and words:
            command = command.commands[words.pop(0)]
        with click.Context(command, info_name=command.name) as context:
            command.parse_args(context, words)
