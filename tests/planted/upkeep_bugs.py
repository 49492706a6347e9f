"""Bugs in what keeps a database in shape: archives of events, upkeep, and what is said of its health."""

from __future__ import annotations

from tests.planted.edits import Bug, Edit

UPKEEP_BUGS: dict[str, Bug] = {
    "owner_dumps_the_months": Bug(
        what="the owner dumps a month, and row-level security leaves it nothing to dump (exit code 0)",
        edits=(
            Edit(
                "ops/event_archive.py",
                "environment = program_environment(self._operator)",
                "environment = program_environment(self._owner)",
            ),
        ),
        caught_by=("tests/cli/test_partitions.py::test_a_month_goes_to_a_file_and_comes_back_the_same",),
    ),
    "a_month_is_dropped_unseen": Bug(
        what="a month is dropped although its rows changed after they were dumped",
        edits=(
            Edit(
                "storage/postgres/event_months.py",
                "if expected is not None and found.sha256 != expected:",
                "if False:",
            ),
        ),
        caught_by=("tests/cli/test_partitions.py::test_what_no_dump_holds_is_not_dropped",),
    ),
    "a_month_comes_back_without_walls": Bug(
        what="row-level security is not forced on a month that comes back",
        edits=(
            Edit(
                "storage/postgres/event_months.py",
                '"SELECT llmspell.apply_tenant_rls({text}::regclass)",',
                '"ALTER TABLE {target} NO FORCE ROW LEVEL SECURITY",',
            ),
        ),
        caught_by=("tests/cli/test_partitions.py::test_a_month_goes_to_a_file_and_comes_back_the_same",),
    ),
    "restored_events_are_hidden": Bug(
        what="events that come back lie before what is known as the tenant's first one, so nobody finds them",
        edits=(
            Edit(
                "storage/postgres/event_months.py",
                "least(s.first_at, excluded.first_at)",
                "s.first_at",
            ),
        ),
        caught_by=(
            "tests/cli/test_partitions.py::test_restored_events_are_found_where_the_bounds_of_the_tenant_were_narrower",
        ),
    ),
    "a_warning_is_taken_for_done": Bug(
        what="a table of another role is skipped by the server with a warning, and said to be vacuumed",
        edits=(
            Edit("storage/postgres/maintenance.py", "if not plan.table.ours:", "if False:"),
            Edit("storage/postgres/maintenance.py", "if warnings:", "if False:"),
        ),
        caught_by=(
            "tests/cli/test_database_maintenance.py::test_what_the_server_only_warns_about_is_not_said_to_be_done",
        ),
    ),
    "dumps_are_ended_too": Bug(
        what="long statements are ended without a look at whether they are a dump or a vacuum",
        edits=(
            Edit(
                "ops/inspection.py",
                'if state == "active" and not row["maintenance"] and',
                'if state == "active" and',
            ),
        ),
        caught_by=("tests/cli/test_database_inspect.py::test_a_long_statement_is_found_unless_it_is_maintenance",),
    ),
    "a_copy_without_room": Bug(
        what="a file is rewritten without a look at whether there is room for a second copy",
        edits=(Edit("storage/sqlite/maintenance.py", "if free < live_bytes:", "if False:"),),
        caught_by=("tests/cli/test_database_maintenance.py::test_a_file_is_not_rewritten_without_room_for_a_copy",),
    ),
}
