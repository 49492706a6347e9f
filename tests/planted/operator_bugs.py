"""Bugs to plant in what an operator relies on: health, the proofs of components, the schema and its repair."""

from __future__ import annotations

from tests.planted.edits import Bug, Edit

HEALTH = "tests/cli/test_health.py::"
MIGRATIONS = "tests/cli/test_migrations.py::"
STORAGE = "tests/cli/test_storage.py::"

OPERATOR_BUGS: dict[str, Bug] = {
    "validation_leaves_its_rows": Bug(
        what="the proof of a component is committed, and its rows stay in the store",
        edits=(
            Edit(
                "ops/validation.py",
                "            raise _Rollback(await proof(tx, clock))\n",
                "            left = await proof(tx, clock)\n        return left\n",
            ),
        ),
        caught_by=(f"{STORAGE}test_a_new_file_is_made_migrated_and_proved_and_nothing_stays_in_it",),
    ),
    "health_takes_a_hole_for_well": Bug(
        what="holes in the isolation of tenants are found and reported as healthy",
        edits=(Edit("storage/postgres/health.py", "        if not holes:\n", "        if True:\n"),),
        caught_by=(f"{HEALTH}test_each_thing_that_is_broken_is_named[a dropped policy]",),
    ),
    "repair_sets_marks_blindly": Bug(
        what="a migration is recorded as applied although the schema is not the one that it makes",
        edits=(
            Edit(
                "storage/sqlite/schema_verify.py",
                "        whole = not [one for one in differences(path) if not one.harmless]\n",
                "        whole = True\n",
            ),
        ),
        caught_by=(f"{MIGRATIONS}test_a_mark_is_not_set_while_the_schema_is_wrong",),
    ),
}
