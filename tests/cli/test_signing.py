"""`llmspell database signing`: the strict mode turned on, its key rotated, turned off, as it is typed."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest
from tests.cli.conftest import Shell
from tests.fixtures.postgres import STRICT, PostgresDatabase

from llmspell.settings import Secret
from llmspell.storage.postgres.tenant_key import read_tenant_key

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


def test_the_key_of_enable_is_printed_once(server: Shell) -> None:
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
    assert server(*SIGNING, "rotate").code == 5  # the first is not finished
    hold(server, new)
    assert works(server) == 0
    assert "accepted no longer" in server(*SIGNING, "rotate", "--finish", "--dry-run").err
    hold(server, old)
    assert works(server) == 0
    assert server(*SIGNING, "rotate", "--finish").code == server(*SIGNING, "rotate", "--finish").code == 0
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
    assert server(*SIGNING, "enable").code == 4
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
