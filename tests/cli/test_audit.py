from __future__ import annotations

import sqlite3

import pytest
from tests.cli.conftest import Shell

ACME = ("--tenant", "acme")


@pytest.fixture
def acme(shell: Shell) -> Shell:
    """A store with a tenant that was changed twice."""
    shell("tenants", "create", "acme", "--actor", "ada")
    shell("tenants", "suspend", "acme", "--reason", "unpaid\tbill", "--actor", "bob")
    shell("tenants", "resume", "acme")
    return shell


def test_the_log_is_listed_latest_first(acme: Shell) -> None:
    lines = [line.split("\t") for line in acme("audit", "list", *ACME).lines]
    document = acme("audit", "list", *ACME, "--json").document

    assert [line[0] for line in lines] == ["3", "2", "1"]
    assert [line[2:4] for line in lines] == [
        ["tenants.resume", "operator"],
        ["tenants.suspend", "bob"],
        ["tenants.create", "ada"],
    ]
    assert lines[1][4:] == ["tenant:acme", "allow", "unpaid\\tbill"]
    assert [item["sequence"] for item in document["items"]] == [3, 2, 1]
    assert document["next_cursor"] is None


def test_the_log_can_be_restricted_and_paged(acme: Shell) -> None:
    first = acme("audit", "list", *ACME, "--limit", "2", "--json").document
    rest = acme("audit", "list", *ACME, "--limit", "2", "--cursor", first["next_cursor"], "--json").document

    assert [item["sequence"] for item in [*first["items"], *rest["items"]]] == [3, 2, 1]
    assert [line.split("\t")[0] for line in acme("audit", "list", *ACME, "--principal", "bob").lines] == ["2"]
    assert acme("audit", "list", *ACME, "--decision", "deny").out == ""
    assert acme("audit", "list", *ACME, "--until", "2026-01-01").out == ""
    assert acme("audit", "list", *ACME, "--since", "yesterday").code == 2


def test_a_chain_is_verified_against_the_head_that_was_noted(acme: Shell) -> None:
    head = acme("audit", "head", *ACME).out.strip()

    done = acme("audit", "verify", *ACME, "--anchor", head)

    assert head.startswith("3:")
    assert (done.code, done.out) == (0, f"intact: 3 entries, head {head}\n")
    assert acme("audit", "verify", *ACME, "--json").document["intact"] is True
    assert acme("audit", "verify", *ACME, "--anchor", "3:" + "ab" * 32).code == 1
    for wrong in ("3", "x:ab", "3:xyz", "-1:" + "0" * 64):
        assert acme("audit", "verify", *ACME, "--anchor", wrong).code == 2


def test_the_chain_of_nobody_is_not_called_intact(acme: Shell) -> None:
    for command in (["verify"], ["head"], ["list"], ["verify", "--as-operator"]):
        done = acme("audit", *command, "--tenant", "never-there")
        assert (done.code, done.out) == (1, "")
        assert "never-there" in done.err


def test_a_broken_chain_is_exit_code_1_and_named(acme: Shell) -> None:
    with sqlite3.connect(acme.file) as connection:
        connection.execute("UPDATE audit_log SET principal = 'nobody' WHERE sequence = 2")

    done = acme("audit", "verify", *ACME)

    assert done.code == 1
    assert done.lines[0].startswith("broken at 2 (edited): ")
    assert acme("audit", "verify", *ACME, "--json").document["broken_at"] == 2


def test_the_log_of_a_suspended_tenant_is_for_the_operator(acme: Shell) -> None:
    acme("tenants", "suspend", "acme")

    assert acme("audit", "list", *ACME).code == 4
    assert len(acme("audit", "list", *ACME, "--as-operator").lines) == 4
    assert acme("audit", "verify", *ACME, "--as-operator").code == 0
    assert acme("audit", "head", *ACME, "--as-operator").out.startswith("4:")
