"""`llmspell database signing`: the strict mode turned on, its key rotated, turned off, as it is typed."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import psycopg
import pytest
from msgspec import structs
from tests.cli.conftest import Shell
from tests.fixtures.postgres import STRICT, PostgresDatabase
from tests.tenancy.test_event_partitions import server_program

from llmspell.errors import StorageError
from llmspell.settings import Secret
from llmspell.storage.postgres import signing
from llmspell.storage.postgres.tenant_key import read_tenant_key
from llmspell.storage.relational.migrations import load

pytestmark = pytest.mark.skipif(STRICT, reason="every database of this run is strict")
SIGNING = ("database", "signing")


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    shell("tenants", "create", "default")
    return shell


def hold(shell: Shell, path: Path) -> None:
    """Let the application hold the key of a file."""
    shell.environment.setenv("LLMSPELL_TENANT_KEY_FILE", str(path))


def works(shell: Shell) -> int:
    """The exit code of an application at work."""
    return shell("add", "a memory").code


def id_of(path: Path) -> str:
    return read_tenant_key(Secret(path.read_text())).id


def test_a_key_is_made_first_given_out_and_then_demanded_so_that_nobody_is_ever_refused(server: Shell) -> None:
    path = server.folder / "tenant.key"
    made = server(*SIGNING, "new", "--out", str(path))
    hold(server, path)

    assert (made.code, made.out.strip()) == (0, id_of(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in made.out + made.err
    assert works(server) == 0
    done = server(*SIGNING, "enable", "--key-file", str(path))
    assert done.code == 0
    assert done.lines[0].startswith("signing  on: ")
    assert done.lines[1].startswith(f"key      {id_of(path)}: current; made ")
    assert works(server) == 0
    assert server("database", "isolation", "--check").lines == []


def test_the_key_of_enable_is_printed_once_on_a_terminal(server: Shell) -> None:
    server.environment.setattr(sys.stdout, "isatty", lambda: True)
    done = server(*SIGNING, "enable")
    shown = server(*SIGNING, "status")
    key = read_tenant_key(Secret(done.lines[0]))

    assert key.id in shown.out
    assert done.lines[0] not in shown.out
    server.environment.setenv("LLMSPELL_TENANT_KEY", done.lines[0])
    assert works(server) == 0


def test_without_the_key_an_application_is_told_which_setting_it_lacks(server: Shell) -> None:
    server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))

    done = server("add", "a memory")
    assert done.code == 2
    assert "LLMSPELL_TENANT_KEY" in done.err
    other = server.folder / "other.key"
    server(*SIGNING, "new", "--out", str(other))
    hold(server, other)
    assert works(server) == 4


def test_a_repetition_changes_nothing_and_mends_a_table(server: Shell, postgres_database: PostgresDatabase) -> None:
    path = server.folder / "tenant.key"
    first = server(*SIGNING, "enable", "--out", str(path), "--json").document
    hold(server, path)
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute("DROP POLICY tenant_signature ON llmspell.kv_store")

    assert "kv_store" in server("database", "isolation", "--check").out
    again = server(*SIGNING, "enable", "--key-file", str(path), "--json").document
    assert again == {**first, "keys": first["keys"]}
    assert server("database", "isolation", "--check").lines == []
    assert server(*SIGNING, "enable").code == 2  # a new key would shut out every application


def test_a_rotation_accepts_both_keys_until_it_is_finished(server: Shell) -> None:
    old, new = server.folder / "old.key", server.folder / "new.key"
    server(*SIGNING, "enable", "--out", str(old))
    hold(server, old)

    rotated = server(*SIGNING, "rotate", "--out", str(new))
    assert (rotated.code, works(server)) == (0, 0)
    assert server(*SIGNING, "rotate", "--key-file", str(new)).code == 0  # a repetition
    third = ("--out", str(server.folder / "third.key"))
    assert server(*SIGNING, "rotate", *third).code == server(*SIGNING, "rotate", *third, "--dry-run").code == 5
    hold(server, new)
    assert works(server) == 0
    assert "accepted no longer" in server(*SIGNING, "rotate", "--finish", "--dry-run").err
    hold(server, old)
    assert works(server) == 0
    assert "nothing to finish" not in server(*SIGNING, "rotate", "--finish").err
    again = server(*SIGNING, "rotate", "--finish")
    assert (again.code, "nothing to finish" in again.err) == (0, True)
    assert works(server) == 4
    hold(server, new)
    assert works(server) == 0
    assert [key["id"] for key in server(*SIGNING, "status", "--json").document["keys"]] == [id_of(new)]


def test_dry_runs_change_nothing(server: Shell) -> None:
    before = server(*SIGNING, "status", "--json").document

    dry = server(*SIGNING, "enable", "--dry-run", "--out", str(server.folder / "tenant.key"))
    assert dry.code == 0
    assert "nothing was changed" in dry.err
    assert not (server.folder / "tenant.key").exists()
    assert server(*SIGNING, "status", "--json").document == before
    server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))
    on = server(*SIGNING, "status", "--json").document
    for command in (("disable",), ("rotate",), ("rotate", "--finish")):
        assert server(*SIGNING, *command, "--dry-run").code == 0
    assert server(*SIGNING, "status", "--json").document == on


def test_disabling_leaves_the_database_as_it_was(server: Shell, postgres_database: PostgresDatabase) -> None:
    policies = "SELECT tablename, policyname, permissive, roles, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2"
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        before = owner.execute(policies).fetchall()
        server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))
        assert len(owner.execute(policies).fetchall()) > len(before)
        codes = [server(*SIGNING, "disable").code for _ in range(2)]
        assert owner.execute(policies).fetchall() == before

    assert codes == [0, 0]
    assert works(server) == 0
    assert server("database", "isolation", "--check").lines == []
    assert server(*SIGNING, "status", "--json").document["keys"] == []


def test_a_key_file_is_never_written_over_and_goes_when_the_database_refuses(server: Shell) -> None:
    path = server.folder / "tenant.key"
    path.write_text("precious")
    assert server(*SIGNING, "enable", "--out", str(path)).code == 5
    assert path.read_text() == "precious"

    assert server(*SIGNING, "rotate", "--out", str(server.folder / "new.key")).code == 5  # nothing to rotate
    assert not (server.folder / "new.key").exists()


def test_only_the_owner_changes_it_and_a_table_in_use_is_waited_for(
    server: Shell, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.environment.setenv("DATABASE_ADMIN_URL", postgres_database.app_url)
    assert server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key")).code == 4
    server.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    monkeypatch.setattr("llmspell.storage.postgres.signing.LOCK_ATTEMPTS", 2)
    monkeypatch.setattr("llmspell.storage.postgres.signing.LOCK_PAUSE_S", 0.0)
    with psycopg.connect(postgres_database.superuser_url) as busy:
        busy.execute("SELECT count(*) FROM llmspell.kv_store")
        refused = server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))
        assert refused.code == 5
        assert "in use for too long" in refused.err
    assert not (server.folder / "tenant.key").exists()
    assert server(*SIGNING, "status", "--json").document["tables_signed"] == 0


def test_a_file_has_nothing_to_sign(shell: Shell) -> None:
    done = shell(*SIGNING, "enable")

    assert done.code == 1
    assert "no row-level security" in done.err


def test_the_check_needs_no_key(server: Shell) -> None:
    server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))

    assert server("database", "isolation", "--check").code == 0
    assert "no tenant key is configured here" in server("database", "isolation").out


def test_a_key_is_never_made_for_a_pipe_that_may_lose_or_log_it(server: Shell) -> None:
    for arguments in (("enable",), ("enable", "--json")):
        done = server(*SIGNING, *arguments)
        assert (done.code, "lstk_" in done.out + done.err) == (2, False)
        assert "--out" in done.err + done.out
    assert server(*SIGNING, "status", "--json").document["enforced"] is False


def test_a_terminal_that_takes_no_more_gets_no_mode_whose_key_nobody_has(server: Shell) -> None:
    def full() -> NoReturn:
        raise OSError(28, "No space left on device")

    stdout = SimpleNamespace(isatty=lambda: True, flush=full)
    server.environment.setattr("llmspell.cli.commands.database_signing.sys", SimpleNamespace(stdout=stdout))
    failed = server(*SIGNING, "enable")
    assert (failed.code, failed.out.startswith("lstk_")) == (1, True)
    assert server(*SIGNING, "status", "--json").document["enforced"] is False


def test_a_key_file_is_kept_when_the_connection_breaks_behind_the_commit(server: Shell) -> None:
    path, enable = server.folder / "tenant.key", signing.enable

    def loses_the_answer(*arguments: object) -> NoReturn:
        enable(*arguments)  # type: ignore[arg-type]
        raise StorageError("The database refused: the connection was lost.")

    server.environment.setattr(signing, "enable", loses_the_answer)
    done = server(*SIGNING, "enable", "--out", str(path))
    assert done.code != 0
    assert f"accepts the key {id_of(path)}" in done.err
    hold(server, path)
    assert works(server) == 0


def test_a_dry_run_checks_the_key_as_the_change_would(server: Shell) -> None:
    path, other, wrong = (server.folder / name for name in ("tenant.key", "other.key", "wrong.key"))
    server(*SIGNING, "new", "--out", str(path))
    server(*SIGNING, "new", "--out", str(other))
    wrong.write_text("a host name")

    def dry(verb: str, *arguments: str) -> int:
        return server(*SIGNING, verb, "--dry-run", *arguments).code

    assert dry("enable", "--key-file", str(path)) == 0
    assert dry("enable", "--key-file", str(wrong)) == dry("enable", "--key-file", "/nowhere/at/all") == 2
    assert dry("enable", "--key-file", str(path), "--out", str(other)) == 2
    assert dry("enable", "--out", str(wrong)) == 5
    assert dry("rotate", "--key-file", str(path)) == dry("rotate", "--finish") == 5  # nothing is demanded
    server(*SIGNING, "enable", "--key-file", str(path))
    assert dry("enable") == server(*SIGNING, "enable").code == 2
    assert dry("enable", "--key-file", str(other)) == server(*SIGNING, "enable", "--key-file", str(other)).code == 5
    assert dry("rotate", "--key-file", str(wrong)) == 2


def test_the_schema_is_migrated_and_looked_at_without_a_key_or_with_another(server: Shell) -> None:
    server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))

    for _ in range(2):
        assert works(server) != 0
        assert [server("database", *verb).code for verb in (["migrate"], ["migrations", "list"])] == [0, 0]
        server(*SIGNING, "new", "--out", str(server.folder / "other.key"))
        hold(server, server.folder / "other.key")


def test_pending_migrations_of_a_strict_server_run_without_a_key(
    server: Shell, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(*SIGNING, "enable", "--out", str(server.folder / "tenant.key"))
    loaded = load("llmspell.storage.postgres")
    sample = structs.replace(
        loaded[-1], version=len(loaded) + 1, name="V999__sample", sql="CREATE TABLE llmspell.sample ()"
    )
    for module in ("storage.postgres.migrate", "storage.relational.migrations"):
        monkeypatch.setattr(f"llmspell.{module}.load", lambda _: (*loaded, sample))
    assert server("database", "migrations", "list").code == 5
    assert server("database", "migrate").code == 0
    with psycopg.connect(postgres_database.admin_url) as owner:
        found = owner.execute("SELECT to_regclass('llmspell.sample') IS NOT NULL").fetchone()
    assert found == (True,)


def test_the_ids_of_the_configured_key_and_of_the_accepted_one_can_be_compared(server: Shell) -> None:
    path, other = server.folder / "tenant.key", server.folder / "other.key"
    server(*SIGNING, "enable", "--out", str(path))
    server(*SIGNING, "new", "--out", str(other))

    assert "here     no tenant key is configured" in server(*SIGNING, "status").lines
    hold(server, other)
    refused = server("add", "a memory")
    assert id_of(other) in refused.err
    assert "clock" not in refused.err
    assert f"here     {id_of(other)}: configured, not accepted" in server(*SIGNING, "status").lines
    hold(server, path)
    assert f"here     {id_of(path)}: configured, accepted" in server(*SIGNING, "status").lines
    assert server(*SIGNING, "status", "--json").document["configured_key"] == id_of(path)


def test_what_is_restored_from_a_strict_dump_says_so_and_what_to_run(
    server: Shell, postgres_database: PostgresDatabase, postgres_empty_database: PostgresDatabase
) -> None:
    """With the commands of docs/how-to/sign-tenants.md."""
    path, dump = server.folder / "tenant.key", str(server.folder / "llmspell.dump")
    server(*SIGNING, "enable", "--out", str(path))
    hold(server, path)
    assert works(server) == 0
    options = ["--enable-row-security", "--exclude-schema=llmspell_private", "-F", "c", "-f", dump]
    server_program("pg_dump", *options, postgres_database.operator_url)
    server_program("pg_restore", "--exit-on-error", "-d", postgres_empty_database.superuser_url, dump)
    with psycopg.connect(postgres_empty_database.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"REVOKE TEMPORARY ON DATABASE {postgres_empty_database.name} FROM PUBLIC".encode())
    server.environment.setenv("DATABASE_URL", postgres_empty_database.app_url)
    server.environment.setenv("DATABASE_ADMIN_URL", postgres_empty_database.admin_url)
    server.environment.setenv("DATABASE_OPERATOR_URL", postgres_empty_database.operator_url)

    for keyed in (True, False):
        if not keyed:
            server.environment.delenv("LLMSPELL_TENANT_KEY_FILE")
        refused = server("add", "a memory")
        assert refused.code == 4
        assert "restored from a signed one" in refused.err
        assert "signing enable --key-file" in refused.err
        assert server("database", "migrate").code == 0
    assert server(*SIGNING, "status").lines[0].startswith("signing  keys lost: ")
    assert server(*SIGNING, "rotate", "--key-file", str(path)).code == 5
    assert server(*SIGNING, "enable", "--key-file", str(path)).lines[0].startswith("signing  on: ")
    hold(server, path)
    assert works(server) == 0
    assert server("database", "isolation", "--check").out == ""
    with psycopg.connect(postgres_empty_database.operator_url) as operator:
        assert operator.execute("SELECT count(*) FROM llmspell.memories").fetchone() == (2,)


def test_the_default_file_is_refused_where_a_server_is_named_for_others(server: Shell) -> None:
    server.environment.delenv("DATABASE_URL")
    file = server.folder / "data"

    for _ in range(2):
        for command in (
            ("database", "migrate"),
            ("database", "migrations", "list"),
            ("database", "health"),
            ("add", "a memory"),
        ):
            done = server(*command)
            assert (done.code, "DATABASE_URL" in done.err) == (2, True), command
        server.environment.delenv("DATABASE_ADMIN_URL", raising=False)  # the operator's alone
    assert not file.exists()
    assert server("database", "migrate", "--store", f"sqlite:///{server.folder}/named.db").code == 0


def test_migrate_runs_as_the_owner_also_when_the_serving_role_cannot_be_reached_and_says_so(
    shell: Shell, postgres_empty_database: PostgresDatabase
) -> None:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", "postgresql://llmspell_app@127.0.0.1:1/nothing")
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_empty_database.admin_url)

    done = shell("database", "migrate")
    assert done.code == 3
    assert ", 0 pending: DATABASE_ADMIN_URL works" in done.err
    assert "DATABASE_URL" in done.err
    shell.environment.setenv("DATABASE_URL", postgres_empty_database.app_url)
    assert shell("database", "migrations", "list").code == 0
