from __future__ import annotations

import json

import apsw
import pytest
from tests.cli.conftest import Ran, Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.storage.relational.migrations import load

NAMES = [migration.name for migration in load("llmspell.storage.sqlite")]


@pytest.fixture
def empty_server(shell: Shell, postgres_empty_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_empty_database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_empty_database.admin_url)
    return shell


def pending(listed: Ran) -> list[str]:
    return [one["name"] for one in listed.document["migrations"] if one["state"] == "pending"]


@pytest.fixture
def behind(shell: Shell) -> Shell:
    """A file that lacks the last migration, as far as it remembers."""
    shell("database", "migrate")
    connection = apsw.Connection(str(shell.file))
    connection.execute("DELETE FROM schema_migrations WHERE version = ?", (len(NAMES),))
    connection.close()
    return shell


def test_a_new_file_is_migrated_and_then_current(shell: Shell) -> None:
    done = shell("database", "migrate", "--json")

    assert done.document == {
        "backend": "sqlite",
        "url": shell.url,
        "version": len(NAMES),
        "applied": NAMES,
        "dry_run": False,
    }
    assert shell("database", "migrate", "--json").document["applied"] == []
    assert shell("database", "migrations", "list").code == 0


def test_a_dry_run_names_what_would_run_and_makes_no_file(shell: Shell) -> None:
    done = shell("database", "migrate", "--dry-run")

    assert (done.code, done.lines) == (0, NAMES)
    assert not shell.file.exists()


def test_status_and_dry_run_leave_a_file_as_it_is(behind: Shell) -> None:
    before = behind.file.read_bytes()

    status = behind("database", "migrations", "list", "--json")
    dry = behind("database", "migrate", "--dry-run", "--json")

    assert (status.code, pending(status)) == (5, NAMES[-1:])
    assert dry.document == {
        "backend": "sqlite",
        "url": behind.url,
        "version": len(NAMES) - 1,
        "pending": NAMES[-1:],
        "dry_run": True,
    }
    assert behind.file.read_bytes() == before


def test_the_store_that_was_acted_on_is_named(shell: Shell) -> None:
    version = f"the schema is at version {len(NAMES)}"

    assert f"sqlite {shell.file}: {len(NAMES)} would run" in shell("database", "migrate", "--dry-run").err
    assert f"sqlite {shell.file}: {version}; {len(NAMES)} applied" in shell("database", "migrate").err
    assert f"sqlite {shell.file}: {version}; 0 pending" in shell("database", "migrations", "list").err
    listed = shell("database", "migrations", "list", "--store", "memory://")
    assert "memory: the schema is at version 0" in listed.err
    assert listed.code == 0


def test_a_relative_file_is_named_from_the_root(shell: Shell) -> None:
    assert (
        f"sqlite {shell.folder / 'my agent.db'}:"
        in shell("database", "migrations", "list", "--store", "sqlite:///my%20agent.db").err
    )


def test_a_server_is_named_without_its_password(shell: Shell, postgres_database: PostgresDatabase) -> None:
    url = postgres_database.app_url
    assert "llmspell_app@/" in url
    done = shell("database", "migrations", "list", "--store", url.replace("llmspell_app@/", "llmspell_app:hunter2@/"))

    assert done.code == 0
    assert "postgresql llmspell_app:••••@/" in done.err
    assert "hunter2" not in done.err + done.out


def test_a_file_of_something_else_is_refused_untouched(shell: Shell) -> None:
    shell.file.write_bytes(b"something else " * 1_000)

    for command in (["migrations", "list"], ["migrate"], ["migrate", "--dry-run"], ["health"]):
        assert shell("database", *command).code == 1
    assert shell.file.read_bytes() == b"something else " * 1_000


def test_health_of_another_backend_needs_its_configuration(shell: Shell) -> None:
    assert shell("database", "health", "--backend", "memory", "--json").document["backend"] == "memory"
    assert shell("database", "health", "--backend", "postgres").code == 2
    assert shell("database", "health", "--backend", "memory", "--store", shell.url).code == 2


def test_a_server_that_cannot_be_reached_is_exit_code_3(shell: Shell) -> None:
    url = f"postgresql://llmspell_app@/nowhere?host={shell.folder}"

    for command in (["migrations", "list"], ["health"]):
        assert shell("database", *command, "--store", url).code == 3


def test_a_file_that_builds_its_index_by_itself_promotes_nothing_and_says_what_to_run(empty: Shell) -> None:
    arguments = ("database", "ann", "promote", "--space", "m@384", "--dimension", "384")

    for done in (empty(*arguments), empty(*arguments, "--dry-run")):
        assert (done.code, "builds its index by itself" in done.err) == (1, True)
        assert "llmspell index build" in done.err


@pytest.mark.parametrize("arguments", [[], ["--space", "m@384"], ["--space", "m@7", "--dimension", "7"]])
def test_promotion_needs_a_space_and_a_known_dimension(shell: Shell, arguments: list[str]) -> None:
    assert shell("database", "ann", "promote", *arguments).code == 2


def test_a_server_is_migrated_by_its_owner(empty_server: Shell) -> None:
    names = [migration.name for migration in load("llmspell.storage.postgres")]

    dry = empty_server("database", "migrate", "--dry-run", "--json").document
    before = empty_server("database", "migrations", "list", "--json")
    done = empty_server("database", "migrate", "--json").document
    after = empty_server("database", "migrations", "list", "--json")

    assert (dry["backend"], dry["version"], dry["pending"], dry["dry_run"]) == ("postgresql", 0, names, True)
    assert (before.code, pending(before)) == (5, names)
    assert (done["version"], done["applied"], done["dry_run"]) == (len(names), names, False)
    assert (after.code, pending(after)) == (0, [])


def test_without_the_owner_a_server_is_not_migrated(empty_server: Shell) -> None:
    empty_server.environment.delenv("DATABASE_ADMIN_URL")

    done = empty_server("database", "migrate")

    assert done.code == 2
    assert "DATABASE_ADMIN_URL" in done.err


def test_the_isolation_of_an_unmigrated_server_is_exit_code_5_with_the_command(empty_server: Shell) -> None:
    done = empty_server("database", "isolation", "--json")

    error = json.loads(done.err)["error"]
    assert (done.code, error["code"]) == (5, "LS-3004")
    assert "llmspell database migrate" in error["hint"]


def test_the_isolation_names_a_tenant_that_is_not_registered(empty_server: Shell) -> None:
    empty_server("database", "migrate")
    empty_server("tenants", "create", "acme")

    known, unknown = (empty_server("database", "isolation", "--tenant", name) for name in ("acme", "globex"))

    assert "registered" not in known.out
    assert "globex is not registered in this store" in unknown.out
    assert (known.code, unknown.code) == (0, 0)


def test_a_server_that_refuses_the_database_or_the_role_is_exit_code_4(
    shell: Shell, postgres_empty_database: PostgresDatabase
) -> None:
    url, name = postgres_empty_database.app_url, postgres_empty_database.name

    for wrong in (url.replace(name, "llmspell_nowhere"), url.replace("llmspell_app", "llmspell_nobody")):
        for arguments in (["add", "Tea."], ["database", "health"], ["database", "isolation"]):
            assert shell(*arguments, "--store", wrong).code == 4


def test_a_space_is_promoted_on_a_server(empty_server: Shell) -> None:
    empty_server("database", "migrate")
    empty_server.environment.setenv("LLMSPELL_TENANCY__AUTO_CREATE_TENANTS", "true")
    empty_server("add", "Tea.")
    promote = ("database", "ann", "promote", "--space", "hashing-384@384", "--dimension", "384", "--json")

    assert empty_server(*promote, "--dry-run").document["dry_run"] is True
    moved = empty_server(*promote)

    assert (moved.code, moved.document["moved"]) == (0, 1)
