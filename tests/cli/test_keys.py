"""Master keys, provider keys and access keys as they are typed."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from tests.cli.conftest import Shell

from llmspell.security.keyring import read_keyring
from llmspell.settings import Secret

KEY = "sk-" + "Zz9" * 16


@pytest.fixture
def sealed(shell: Shell) -> Shell:
    """A command line with a master key."""
    shell.environment.setenv("LLMSPELL_MASTER_KEY", shell("keys", "new").out.strip())
    return shell


def test_a_master_key_is_printed_and_can_be_read(shell: Shell) -> None:
    text = shell("keys", "new").out.strip()
    document = shell("keys", "new", "--json").document

    assert read_keyring(Secret(text)).active != document["id"] == read_keyring(Secret(document["key"])).active


def test_a_master_key_in_a_file_is_for_its_owner_and_never_replaced(shell: Shell) -> None:
    path = shell.folder / "master.key"

    made = shell("keys", "new", "--out", str(path))
    again = shell("keys", "new", "--out", str(path))
    shell.environment.setenv("LLMSPELL_MASTER_KEY_FILE", str(path))
    listed = shell("keys", "list", "--json").document

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.out.strip() == listed["active"] == read_keyring(Secret(path.read_text())).active
    assert path.read_text().strip() not in made.out + made.err
    assert again.code == 5
    assert shell("keys", "new", "--out", str(shell.folder / "absent" / "key")).code not in (0, 5)


def test_a_bad_master_key_is_named_and_not_shown(shell: Shell) -> None:
    shell.environment.setenv("LLMSPELL_MASTER_KEY", "hunter2-hunter2")

    done = shell("keys", "list")

    assert done.code == 2
    assert "hunter2" not in done.err
    assert "llmspell keys new" in done.err


def test_a_provider_key_comes_from_stdin_and_is_never_printed(sealed: Shell) -> None:
    made = sealed("api-keys", "set", "openai", "--metadata", '{"team": "a"}', "--actor", "ada", stdin=KEY + "\n")
    rotated = sealed("api-keys", "rotate", "openai", "--ttl-s", "60", "--json", stdin=KEY + "2")
    listed = sealed("api-keys", "list")
    document = sealed("api-keys", "list", "--json").document
    entries = sealed("audit", "list", "--json").document["items"]

    assert (made.code, rotated.code) == (0, 0)
    assert [line.split("\t")[:2] for line in listed.lines] == [["openai", "active"], ["openai", "inactive"]]
    assert document["items"][0]["rotated_from"] == document["items"][1]["key_id"]
    assert [one["principal"] for one in entries[:2]] == ["system", "ada"]
    for done in (made, rotated, listed):
        assert KEY not in done.out + done.err
    for file in Path(sealed.folder).glob("store.db*"):
        assert KEY.encode() not in file.read_bytes()


def test_a_provider_key_is_deactivated_and_deleted(sealed: Shell) -> None:
    sealed("api-keys", "set", "openai", stdin=KEY)

    assert sealed("api-keys", "deactivate", "openai").lines[0].split("\t")[1] == "inactive"
    assert sealed("api-keys", "deactivate", "openai").code == 1
    assert sealed("api-keys", "delete", "openai").code == 2
    assert sealed("api-keys", "delete", "openai", "--yes").out == "1\n"
    assert sealed("api-keys", "delete", "openai", "--yes").code == 1


def test_without_a_master_key_the_error_says_how_to_make_one(shell: Shell) -> None:
    done = shell("api-keys", "set", "openai", stdin=KEY)

    assert done.code == 2
    assert "llmspell keys new" in done.err
    assert KEY not in done.err


@pytest.mark.parametrize("stdin", ["", "\n", "a\nb", "x" * 70_000])
def test_what_is_no_key_is_refused(sealed: Shell, stdin: str) -> None:
    done = sealed("api-keys", "set", "openai", stdin=stdin)

    assert done.code == 2
    assert sealed("api-keys", "list").out == ""


def test_keys_are_sealed_anew_after_a_new_master_key(sealed: Shell) -> None:
    sealed("api-keys", "set", "openai", stdin=KEY)
    new = sealed("keys", "new").out.strip()
    old = os.environ["LLMSPELL_MASTER_KEY"]
    sealed.environment.setenv("LLMSPELL_MASTER_KEY", f"{new},{old}")

    tried = sealed("api-keys", "reseal", "--dry-run", "--json").document
    done = sealed("api-keys", "reseal")
    again = sealed("api-keys", "reseal", "--json").document

    assert (tried["resealed"], again["resealed"], again["broken"]) == (1, 0, [])
    assert done.out == "1 of 1 key sealed anew\n"
    sealed.environment.setenv("LLMSPELL_MASTER_KEY", old)
    lost = sealed("api-keys", "reseal")
    assert lost.code == 1
    assert "security.master_keys" in lost.err


def test_keys_of_all_tenants_are_sealed_anew_but_for_those_that_are_not_active(sealed: Shell) -> None:
    for tenant in ("acme", "globex", "closed"):
        sealed("api-keys", "set", "openai", "--tenant", tenant, stdin=KEY)
    sealed("tenants", "suspend", "closed")
    both = f"{sealed('keys', 'new').out.strip()},{os.environ['LLMSPELL_MASTER_KEY']}"
    sealed.environment.setenv("LLMSPELL_MASTER_KEY", both)

    done = sealed("api-keys", "reseal", "--all-tenants", "--json")

    assert done.code == 1
    assert (done.document["examined"], done.document["resealed"], done.document["skipped"]) == (2, 2, ["closed"])
    sealed("tenants", "resume", "closed")
    assert sealed("api-keys", "reseal", "--all-tenants").out == "1 of 3 keys sealed anew\n"
    id = sealed("api-keys", "list", "--tenant", "globex", "--json").document["items"][0]["key_id"]
    with sqlite3.connect(sealed.file) as connection:
        connection.execute("UPDATE api_keys SET encrypted_key = zeroblob(200) WHERE tenant_id = 'globex'")
    broken = sealed("api-keys", "reseal", "--all-tenants")
    assert (broken.code, broken.lines) == (1, ["0 of 3 keys sealed anew", f"globex\t{id}"])
    document = sealed("api-keys", "reseal", "--all-tenants", "--json").document
    assert document["broken"] == [{"tenant": "globex", "key_id": id}]


def test_an_access_key_is_printed_once(shell: Shell) -> None:
    issued = shell("access-keys", "issue", "ci", "--scope", "read", "--scope", "graph:write", "--json").document
    listed = shell("access-keys", "list", "--json").document["items"]

    assert issued["key"].startswith("lsk_")
    assert [one["key_id"] for one in listed] == [issued["info"]["key_id"]]
    assert listed[0]["scopes"] == ["graph:write", "read"]
    assert issued["key"].rpartition("_")[2] not in shell("access-keys", "list").out
    assert shell("access-keys", "issue", "other", "--scope", "read").out.startswith("lsk_")


def test_an_access_key_is_rotated_and_revoked(shell: Shell) -> None:
    first = shell("access-keys", "issue", "ci", "--scope", "read", "--json").document["info"]["key_id"]

    second = shell("access-keys", "rotate", first, "--overlap-s", "60", "--json").document["info"]
    again = shell("access-keys", "rotate", first)
    revoked = shell("access-keys", "revoke", second["key_id"], "--reason", "leaked", "--json").document

    assert second["rotated_from"] == first
    assert again.code == 5
    assert (revoked["status"], revoked["revoked_reason"]) == ("revoked", "leaked")
    assert len(shell("access-keys", "list", "--status", "active").lines) == 1
    assert shell("access-keys", "revoke", "01980000-0000-7000-8000-000000000000").code == 1
    assert shell("access-keys", "issue", "ci", "--scope", "everything").code == 2
