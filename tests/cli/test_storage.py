from __future__ import annotations

import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.ops import validation
from llmspell.storage.contracts.backend import Storages
from llmspell.storage.relational.kv import RelationalKV
from llmspell.storage.relational.migrations import load


@pytest.fixture
def empty_server(shell: Shell, postgres_empty_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_empty_database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_empty_database.admin_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_empty_database.operator_url)
    return shell


def test_every_component_has_a_proof() -> None:
    assert set(validation.PROOFS) == set(Storages.__struct_fields__)


def test_a_new_file_is_made_migrated_and_proved_and_nothing_stays_in_it(shell: Shell) -> None:
    ran = shell("storage", "validate", "--json")

    latest = len(load("llmspell.storage.sqlite"))
    assert (ran.code, ran.document["valid"], ran.document["schema_version"]) == (0, True, latest)
    assert len(ran.document["applied"]) == latest
    assert [one["component"] for one in ran.document["components"]] == list(validation.COMPONENTS)
    assert all(one["proved"] and one["problem"] is None for one in ran.document["components"])
    info = shell("storage", "info", "--all-tenants", "--json").document
    assert info["tenants"] == []


def test_named_components_alone_are_proved(empty: Shell) -> None:
    ran = empty("storage", "validate", "kv", "memories", "kv")

    assert [line.split("\t")[:2] for line in ran.lines] == [["kv", "ok"], ["memories", "ok"]]
    assert empty("storage", "validate", "everything").code == 2


def test_a_dry_run_says_what_would_be_done_and_makes_no_file(shell: Shell) -> None:
    ran = shell("storage", "validate", "--dry-run", "--json")

    assert (ran.code, ran.document["dry_run"]) == (0, True)
    assert len(ran.document["applied"]) == len(load("llmspell.storage.sqlite"))
    assert not shell.file.exists()


def test_a_component_that_fails_is_named_and_the_others_are_proved(
    empty: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(self: RelationalKV, key: str) -> bytes | None:
        return b"something else"

    monkeypatch.setattr(RelationalKV, "get", forgetful)

    ran = empty("storage", "validate", "--json")

    found = {one["component"]: one["problem"] for one in ran.document["components"]}
    assert (ran.code, found.pop("kv")) == (1, "the value came back as something else")
    assert set(found.values()) == {None}


def test_a_new_server_is_migrated_by_its_owner_and_proved_as_the_serving_role(empty_server: Shell) -> None:
    first = empty_server("storage", "validate", "--backend", "postgres", "--json")
    again = empty_server("storage", "validate", "--backend", "postgresql", "--json")

    assert (first.code, first.document["valid"]) == (0, True)
    assert len(first.document["applied"]) == first.document["schema_version"]
    assert (again.document["applied"], again.document["valid"]) == ([], True)
    assert empty_server("storage", "info", "--all-tenants", "--json").document["tenants"] == []


def test_a_server_that_is_not_migrated_needs_the_owner(empty_server: Shell) -> None:
    empty_server.environment.delenv("DATABASE_ADMIN_URL")

    ran = empty_server("storage", "validate")

    assert ran.code == 2
    assert "DATABASE_ADMIN_URL" in ran.err


def test_what_a_tenant_has_is_counted_by_concern_and_by_space(empty: Shell) -> None:
    empty("add", "Tea.")
    empty("graph", "assert", "Ada", "likes", "tea", "--cardinality", "many")
    empty("--tenant", "acme", "add", "Coffee.", "--tenant", "acme")

    document = empty("storage", "info", "--json").document

    (held,) = document["tenants"]
    assert (held["tenant"], held["vectors"]) == ("default", 1)
    assert held["spaces"] == [{"space_id": "hashing-384@384", "dimension": 384, "vectors": 1}]
    counted = {name: count for name, count in held["records"].items() if count}
    assert (counted["memories"], counted["entities"], counted["relationships"]) == (1, 2, 1)
    assert document["size_bytes"] >= empty.file.stat().st_size
    assert document["capabilities"]["persistent"] is True
    every = empty("storage", "info", "--all-tenants", "--json").document["tenants"]
    assert [one["tenant"] for one in every] == ["acme", "default"]


def test_info_shows_no_password(shell: Shell, postgres_database: PostgresDatabase) -> None:
    url = postgres_database.app_url.replace("llmspell_app@/", "llmspell_app:hunter2@/")

    ran = shell("storage", "info", "--store", url)

    assert ran.code == 0
    assert "hunter2" not in ran.out + ran.err
    assert "postgresql at postgresql://llmspell_app:••••@/" in ran.out


def test_all_tenants_of_a_server_are_the_operators_to_see(shell: Shell, postgres_database: PostgresDatabase) -> None:
    ran = shell("storage", "info", "--all-tenants", "--store", postgres_database.app_url)

    assert ran.code == 2
    assert "DATABASE_OPERATOR_URL" in ran.err


def test_info_of_a_file_that_lacks_migrations_leaves_it_as_it_is(shell: Shell) -> None:
    assert shell("storage", "info").code == 1
    assert not shell.file.exists()
