"""Backups from the command line, on a file; those of servers are `unit/ops/backup`'s."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Shell

STORED = "Ada moved to Zurich."


@pytest.fixture
def keyed(shell: Shell) -> Shell:
    """A store with a memory, and a master key."""
    assert shell("keys", "new", "--out", str(shell.folder / "master.key")).code == 0
    shell.environment.setenv("LLMSPELL_MASTER_KEY_FILE", str(shell.folder / "master.key"))
    shell.environment.setenv("LLMSPELL_BACKUP__FOLDER", str(shell.folder / "backups"))
    assert shell("add", STORED).code == 0
    return shell


def created(shell: Shell, *options: str) -> str:
    done = shell("backup", "create", "--json", *options)
    assert done.code == 0, done.err
    return str(done.document["id"])


def test_a_store_that_was_lost_is_got_back_by_two_commands(keyed: Shell) -> None:
    done = keyed("backup", "create")
    assert (done.code, done.lines[0].split("\t")[0]) == (0, "verified")
    for part in keyed.folder.glob("store.db*"):
        if part.is_file():
            part.unlink()

    restored = keyed("backup", "restore", "latest")

    assert restored.code == 0
    assert STORED in keyed("search", "Zurich").out


def test_a_store_that_is_there_is_replaced_only_when_that_is_confirmed(keyed: Shell) -> None:
    id = created(keyed)
    keyed("add", "Ben likes tea.")

    assert (asked := keyed("backup", "restore", id)).code == 2
    assert "--yes" in asked.err
    planned = keyed("backup", "restore", id, "--dry-run")
    assert [line.split()[0] for line in planned.lines] == ["back", "restore"]
    assert "Ben likes tea." in keyed("search", "tea").out

    done = keyed("backup", "restore", id, "--yes", "--json").document
    assert done["safety"]["state"] == "verified"
    assert "Ben likes tea." not in keyed("search", "tea").out
    assert len(keyed("backup", "list", "--json").document) == 2


def test_the_list_says_what_counts_how_old_how_large_and_under_which_key(keyed: Shell) -> None:
    first, second = created(keyed), created(keyed, "--no-verify", "--no-encryption")
    (keyed.folder / "backups" / "20200101T000000000000Z-aa.lsbk.00.part").write_bytes(b"half")

    found = keyed("backup", "list")
    document = keyed("backup", "list", "--json").document

    cells = [line.split("\t") for line in found.lines]
    assert [(row[0], row[-1]) for row in cells] == [
        ("unverified", second),
        ("verified", first),
        ("incomplete", "20200101T000000000000Z-aa"),
    ]
    assert document[0]["key_id"] is None
    assert cells[1][5] == document[1]["key_id"]
    assert document[1]["stored_bytes"] > 0
    assert document[1]["verified_at"] is not None
    assert "3 backups" in found.err


def test_verify_says_which_one_is_damaged_by_its_exit_code(keyed: Shell) -> None:
    first, second = created(keyed, "--no-verify"), created(keyed, "--no-verify")
    file = keyed.folder / "backups" / f"{first}.lsbk"
    file.write_bytes(file.read_bytes()[:-1])

    done = keyed("backup", "verify", "--all")

    assert done.code == 1
    assert {line.split("\t")[1]: line.split("\t")[0] for line in done.lines} == {first: "damaged", second: "verified"}
    assert keyed("backup", "verify").code == 0
    assert keyed("backup", "verify", "--all").lines == []
    assert keyed("backup", "restore", first, "--into", "copy.db").code == 1
    assert not (keyed.folder / "copy.db").exists()
    assert keyed("backup", "verify", "nothing").code == 1


def test_prune_says_first_what_it_would_free(keyed: Shell) -> None:
    first, second = created(keyed), created(keyed)

    planned = keyed("backup", "prune", "--most", "1", "--dry-run")
    assert "would be freed" in planned.err
    assert planned.lines[0].endswith(first)
    assert keyed("backup", "prune", "--most", "1", "--json").document["freed_bytes"] > 0
    assert [each["id"] for each in keyed("backup", "list", "--json").document] == [second]
    assert keyed("backup", "prune").lines == []
    assert keyed("backup", "delete", second).code == 2
    assert keyed("backup", "delete", second, "--yes").code == 5
    assert keyed("backup", "delete", second, "--yes", "--even-last").code == 0


def test_without_a_key_it_says_how_to_make_one(keyed: Shell) -> None:
    keyed.environment.delenv("LLMSPELL_MASTER_KEY_FILE")

    for command in (("create",), ("create", "--dry-run")):
        refused = keyed("backup", *command)
        assert (refused.code, "llmspell keys new" in refused.err, "--no-encryption" in refused.err) == (2, True, True)
    assert keyed("backup", "create", "--no-encryption").code == 0


def test_a_dry_run_makes_nothing(keyed: Shell) -> None:
    done = keyed("backup", "create", "--dry-run", "--json").document

    assert (done["dry_run"], len(done["steps"])) == (True, 3)
    assert not (keyed.folder / "backups").exists()
    assert keyed("backup", "list", "--location", str(keyed.folder / "elsewhere")).lines == []


def test_a_copy_for_a_look_goes_to_a_new_file_alone(keyed: Shell, tmp_path: Path) -> None:
    id = created(keyed)

    assert keyed("backup", "restore", id, "--into", "copy.db").code == 0
    assert STORED in keyed("search", "Zurich", "--store", f"sqlite:///{tmp_path / 'copy.db'}").out
    again = keyed("backup", "restore", id, "--into", "copy.db")
    assert (again.code, "Name a file that is not there" in again.err) == (5, True)


def test_a_copy_into_a_folder_that_is_not_there_is_refused_by_its_name(keyed: Shell) -> None:
    id = created(keyed)

    astray = keyed("backup", "restore", id, "--into", "no/copy.db")

    assert (astray.code, "The folder of the file does not exist" in astray.err) == (3, True)
    assert not (keyed.folder / "no").exists()


def test_a_lost_key_is_asked_for_and_no_new_one_is_advised(keyed: Shell) -> None:
    id = created(keyed)
    keyed.environment.delenv("LLMSPELL_MASTER_KEY", raising=False)
    keyed.environment.delenv("LLMSPELL_MASTER_KEY_FILE", raising=False)

    lost = keyed("backup", "restore", id, "--into", "copy.db")

    assert lost.code == 2
    assert "the copy of that key" in lost.err
    assert "keys new" not in lost.err
