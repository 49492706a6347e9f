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

    refused = shell("tenants", "create", "acme")
    assert refused.code == 5
    assert "hint: Pass --exist-ok to accept that." in refused.err
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


def test_tenants_are_listed_by_id_and_by_status(shell: Shell) -> None:
    for id in ("globex", "acme"):
        shell("tenants", "create", id, "--name", id.title())
    shell("tenants", "suspend", "globex", "--reason", "unpaid")

    assert [line.split("\t")[:3] for line in shell("tenants", "list").lines] == [
        ["acme", "active", "Acme"],
        ["globex", "suspended", "Globex"],
    ]
    document = shell("tenants", "list", "--status", "suspended", "--json").document
    assert [(item["tenant_id"], item["status_reason"]) for item in document["items"]] == [("globex", "unpaid")]
    first = shell("tenants", "list", "--limit", "1", "--json").document
    assert [item["tenant_id"] for item in first["items"]] == ["acme"]
    assert shell("tenants", "list", "--cursor", first["next_cursor"]).out.startswith("globex\t")


def test_a_suspended_tenant_is_refused_until_it_is_resumed(shell: Shell) -> None:
    shell("add", "Tea.", "--tenant", "acme")

    assert shell("tenants", "suspend", "acme", "--reason", "unpaid").out.startswith("acme\tsuspended\t")
    refused = shell("add", "More tea.", "--tenant", "acme")
    assert shell("tenants", "resume", "acme").out.startswith("acme\tactive\t")

    assert refused.code == 4
    assert shell("add", "More tea.", "--tenant", "acme").code == 0


def test_a_deleted_tenant_stays_deleted(shell: Shell) -> None:
    shell("add", "Tea.", "--tenant", "acme")

    unsure = shell("tenants", "delete", "acme")
    assert (unsure.code, shell("tenants", "show", "acme", "--json").document["status"]) == (2, "active")
    assert shell("tenants", "delete", "acme", "--yes", "--reason", "left").code == 0

    assert shell("add", "Tea.", "--tenant", "acme").code == 4
    assert shell("tenants", "resume", "acme").code == 4
    assert shell("tenants", "show", "acme", "--json").document["status_reason"] == "left"
    for flags, code in (([], 5), (["--exist-ok"], 4)):
        again = shell("tenants", "create", "acme", *flags)
        assert (again.code, again.out) == (code, "")
        assert "which is final" in again.err
        assert "hint: Choose another id." in again.err


@pytest.mark.parametrize("verb", ["suspend", "resume"])
def test_what_nobody_registered_cannot_be_changed(empty: Shell, verb: str) -> None:
    assert empty("tenants", verb, "acme").code == 1
    assert empty("tenants", "quota", "acme").code == 1


def test_quotas_come_from_the_settings_and_are_changed_one_by_one(shell: Shell) -> None:
    shell.environment.setenv("LLMSPELL_MULTI_TENANT__DEFAULT_QUOTA_VECTORS", "7")
    shell("tenants", "create", "acme", "--max-documents", "3")

    assert "max_vectors: 7" in shell("tenants", "show", "acme").lines
    changed = shell("tenants", "quota", "acme", "--max-storage-mb", "9", "--json").document

    assert (changed["max_documents"], changed["max_vectors"], changed["max_storage_mb"]) == (3, 7, 9)
    assert shell("tenants", "quota", "acme", "--json").document == changed
    assert shell("tenants", "quota", "acme", "--max-vectors", "-1").code == 2
    assert shell("tenants", "quota", "acme", "--max-vectors", "none", "--json").document == {
        **changed,
        "max_vectors": None,
    }
    log = shell("audit", "list", "--tenant", "acme", "--operation", "tenants.update", "--json").document
    assert [item["details"]["quotas"]["max_storage_mb"] for item in log["items"]] == [9, 9]


def test_what_a_tenant_uses_is_shown_and_what_exceeds_it_is_exit_code_4(shell: Shell) -> None:
    shell("tenants", "create", "acme", "--max-documents", "1", "--max-storage-mb", "1")
    shell("add", "Tea.", "--tenant", "acme")

    refused = shell("add", "More tea.", "--tenant", "acme")

    assert (refused.code, refused.out) == (4, "")
    assert "1 memories" in refused.err
    assert "hint: Delete something, or have the quota raised: llmspell tenants quota." in refused.err
    assert shell("tenants", "usage", "acme").lines == [
        "documents\t1\t1",
        "storage_bytes\t4\t1048576",
        "vectors\t1\tnone",
        "embeddings\t0\tnone",
    ]
    assert shell("tenants", "usage", "acme", "--json").document["documents"] == {"used": 1, "limit": 1}
    assert "used_documents: 1" in shell("tenants", "show", "acme").lines
    assert shell("tenants", "show", "acme", "--json").document["usage"]["storage_bytes"]["used"] == 4
    assert shell("tenants", "usage", "globex").code == 1


def test_the_operators_work_on_a_server_needs_the_operators_role(
    shell: Shell, postgres_database: PostgresDatabase
) -> None:
    store = ("--store", postgres_database.app_url)
    shell("tenants", "create", "acme", *store)

    refused = shell("tenants", "suspend", "acme", *store)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    done = shell("tenants", "suspend", "acme", *store)

    assert (refused.code, "DATABASE_OPERATOR_URL" in refused.err) == (2, True)
    assert done.code == 0
    assert shell("audit", "verify", "--tenant", "acme", "--as-operator", *store).code == 0
    assert len(shell("tenants", "list", *store).lines) == 1
