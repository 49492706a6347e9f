from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase


def test_a_tenant_is_registered_and_shown(shell: Shell) -> None:
    done = shell("tenants", "create", "acme", "--name", "Acme Corporation")
    document = shell("tenants", "show", "acme", "--json").document

    assert (done.code, done.out) == (0, "acme\n")
    assert (document["tenant_id"], document["name"], document["status"]) == ("acme", "Acme Corporation", "active")


def test_a_tenant_that_is_registered_already_is_exit_code_5(shell: Shell) -> None:
    shell("tenants", "create", "acme", "--name", "Acme")

    assert shell("tenants", "create", "acme").code == 5
    assert shell("tenants", "create", "acme", "--exist-ok", "--json").document["name"] == "Acme"


def test_a_tenant_that_nobody_registered_is_exit_code_1_with_the_command(shell: Shell) -> None:
    shell("tenants", "create", "acme")

    done = shell("tenants", "show", "globex corp")

    assert (done.code, done.out) == (1, "")
    assert "hint: Run: llmspell tenants create 'globex corp'" in done.err


@pytest.mark.parametrize(
    "arguments", [["create"], ["create", ""], ["create", " acme"], ["show"], ["create", "x" * 129]]
)
def test_arguments_that_can_never_succeed_are_exit_code_2(empty: Shell, arguments: list[str]) -> None:
    assert empty("tenants", *arguments).code == 2


def test_a_server_serves_a_tenant_that_was_created_with_the_command_it_named(
    shell: Shell, postgres_database: PostgresDatabase
) -> None:
    store = ("--store", postgres_database.app_url)

    refused = shell("add", "Tea.", "--tenant", "acme", *store, "--json")
    hint = json.loads(refused.err)["error"]["hint"]

    assert (refused.code, hint) == (1, "Run: llmspell tenants create acme")
    assert shell("tenants", "create", "acme", *store).code == 0
    assert shell("add", "Tea.", "--tenant", "acme", *store).code == 0
