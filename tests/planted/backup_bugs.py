"""Bugs to plant in backups; `bugs` has all others."""

from __future__ import annotations

from tests.planted.edits import Bug, Edit

FILES = "tests/unit/ops/backup/test_files.py::"

BACKUP_BUGS: dict[str, Bug] = {
    "backup_counts_without_comparing": Bug(
        what="a backup is called verified because it could be restored, whatever it holds",
        edits=(Edit("ops/backup/service.py", "said = differences(opened.manifest.tables, facts.tables)", "said = []"),),
        caught_by=(f"{FILES}test_what_the_backup_should_hold_and_does_not_makes_it_damaged",),
    ),
    "restore_behind_the_caches": Bug(
        what="a restored store has the numbers of changes that caches of running processes know otherwise",
        edits=(Edit("storage/sqlite/snapshot.py", "forget_changes(replacement, beyond=_last_change(live))", "pass"),),
        caught_by=(f"{FILES}test_who_has_the_store_open_goes_on_with_what_was_restored",),
    ),
    "empty_dump_of_the_owner": Bug(
        what="a backup is taken as a role under forced row-level security, whose dump is empty",
        edits=(Edit("storage/postgres/snapshot.py", "if unseen is not None:", "if False:"),),
        caught_by=(
            "tests/unit/ops/backup/test_servers.py::test_a_role_that_does_not_see_every_row_takes_no_empty_backup[admin_url]",
        ),
    ),
    "restore_commits_what_broke_off": Bug(
        what="what was restored of a broken backup is committed",
        edits=(
            Edit(
                "ops/backup/server_store.py",
                "        raise first from None\n    feeder.join()\n    if failed:\n        raise failed[0]\n",
                "        return\n    feeder.join()\n",
            ),
        ),
        caught_by=("tests/unit/ops/backup/test_servers.py::test_a_harmed_backup_changes_nothing",),
    ),
}
