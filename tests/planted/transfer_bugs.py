"""Bugs to plant in exports, imports and transfers; `bugs` has all others."""

from __future__ import annotations

from tests.planted.edits import Bug, Edit

DAMAGED = "tests/transfer/test_damaged_files.py::"
AGAIN = "tests/transfer/test_made_again.py::"

TRANSFER_BUGS: dict[str, Bug] = {
    "import_without_words": Bug(
        what="imported memories are not found by their words",
        edits=(Edit("storage/relational/transfer.py", "            if records:", "            if not records:"),),
        caught_by=(f"{AGAIN}test_words_counts_and_usage_are_those_of_the_store_that_was_exported",),
    ),
    "import_believes_its_file": Bug(
        what="an import does not compare what it has read with the digests of the file",
        edits=(
            Edit(
                "storage/transfer/importer.py",
                "            require_digests(reader)\n            notes",
                "            notes",
            ),
        ),
        caught_by=(f"{DAMAGED}test_a_file_of_another_release_or_that_contradicts_itself_is_refused",),
    ),
    "import_keeps_half": Bug(
        what="an import that fails keeps what it has written",
        edits=(Edit("storage/sqlite/transfer.py", 'ending("ROLLBACK")', 'ending("COMMIT")'),),
        caught_by=(f"{DAMAGED}test_a_file_that_was_cut_off_anywhere_is_refused",),
    ),
    "import_unseen_by_caches": Bug(
        what="vectors that were imported into a file are not seen by searches of other processes",
        edits=(
            Edit(
                "storage/sqlite/queries/transfer.sql",
                "VALUES (:tenant_id, :space_id, :model, :dimension, 1, :now, :now)\n"
                "ON CONFLICT (tenant_id, space_id) DO UPDATE SET change_seq = change_seq + 1;",
                "VALUES (:tenant_id, :space_id, :model, :dimension, 0, :now, :now)\n"
                "ON CONFLICT (tenant_id, space_id) DO NOTHING;",
            ),
        ),
        caught_by=(f"{AGAIN}test_a_search_in_another_process_s_cache_sees_vectors_that_came_and_went_by_an_import",),
    ),
    "export_replaces_devices": Bug(
        what="an export to a device or a pipe puts a file in its place, for everybody",
        edits=(
            Edit("storage/transfer/streams.py", "if final.exists() and not final.is_file():", "if not final.name:"),
        ),
        caught_by=("tests/unit/storage/transfer/test_streams.py::test_a_pipe_is_written_into_and_not_replaced",),
    ),
}
