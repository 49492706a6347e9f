"""Bugs to plant in the index of vectors in process; `bugs` has all others."""

from __future__ import annotations

from tests.planted.edits import Bug, Edit

FILES = "tests/unit/storage/index/test_files.py::"
SEARCH = "tests/unit/storage/index/test_search.py::"
SPACE = "tests/unit/storage/index/test_space.py::"
NEAREST = "tests/unit/storage/sqlite/test_nearest.py::"
BUILDER = "tests/unit/storage/index/test_builder.py::"

INDEX_BUGS: dict[str, Bug] = {
    "index_file_of_another_time": Bug(
        what="an index file is taken although the database, or the file, was restored from an older copy",
        edits=(
            Edit(
                "storage/index/files.py",
                "(header.name, header.token, header.library) != (name, token, LIBRARY)",
                "(header.name, header.library) != (name, LIBRARY)",
            ),
        ),
        caught_by=(f"{FILES}test_a_file_of_another_tenant_space_dimension_or_time_is_not_taken",),
    ),
    "index_digest_not_checked": Bug(
        what="an index file whose bits have rotted is believed",
        edits=(Edit("storage/index/files.py", "or not _is_whole(contents, header)", ""),),
        caught_by=(f"{FILES}test_a_flipped_bit_in_any_part_is_noticed",),
    ),
    "index_header_believed": Bug(
        what="an index file whose header names arrays of other shapes is mapped as it says",
        edits=(
            Edit("storage/index/files.py", "if arrays[key].dtype != kind or arrays[key].shape != shape:", "if False:"),
        ),
        caught_by=(f"{FILES}test_a_header_that_claims_what_is_not_there_is_not_believed",),
    ),
    "index_gives_what_is_gone": Bug(
        what="rows that were deleted take the places of those that are there",
        edits=(Edit("storage/index/space.py", "return None if there.all() else there", "return None"),),
        caught_by=(
            f"{SEARCH}test_a_row_that_is_gone_is_not_found_although_the_graph_has_it",
            f"{SPACE}test_deletions_are_noted_without_reading_vectors_again",
        ),
    ),
    "index_tail_not_searched": Bug(
        what="what was inserted since a graph was built is not found",
        edits=(Edit("storage/index/search.py", "if not len(view.tail):\n        return", "if True:\n        return"),),
        caught_by=(f"{SEARCH}test_a_row_behind_the_graph_is_found_at_once",),
    ),
    "index_tail_stands_in": Bug(
        what="rows behind a graph fill the places of nearer ones that the graph did not give under a filter",
        edits=(
            Edit(
                "storage/index/search.py",
                "_is_enough(view, question, positions[:given], matching - (len(positions) - given))",
                "_is_enough(view, question, positions, matching)",
            ),
        ),
        caught_by=(f"{SEARCH}test_rows_behind_a_graph_do_not_stand_in_for_those_that_it_did_not_give",),
    ),
    "index_without_a_margin": Bug(
        what="half precision decides which of two rows is nearer",
        edits=(
            Edit(
                "storage/index/search.py",
                "margin = 2 * error(len(query.values), row=view.off(positions), query=query.off) + _ROUNDING",
                "margin = 0.0",
            ),
        ),
        caught_by=(f"{SEARCH}test_vectors_that_half_precision_cannot_tell_apart_are_told_apart",),
    ),
    "index_filters_by_old_metadata": Bug(
        what="metadata that were rewritten are filtered by as they were",
        edits=(Edit("storage/index/space.py", "self.columns.replace(int(position), payload)", "pass"),),
        caught_by=(f"{SPACE}test_a_filter_follows_insertions_rewritings_and_removals",),
    ),
    "index_filters_by_old_positions": Bug(
        what="after a graph was made anew a filter selects the rows that stood at those positions before",
        edits=(
            Edit(
                "storage/index/space.py",
                "            if self.columns is not None:\n                self.columns = self.columns.keep(",
                "            if self.columns is not None:\n                self.columns.keep(",
            ),
        ),
        caught_by=(f"{SPACE}test_columns_keep_their_rows_when_a_graph_is_taken_in",),
    ),
    "index_taken_in_too_late": Bug(
        what="a graph is taken in although the positions of its space mean other rows by then",
        edits=(Edit("storage/index/builder.py", "if space.epoch == epoch and space.version", "if space.version"),),
        caught_by=(f"{BUILDER}test_a_space_whose_positions_mean_other_rows_by_then_takes_nothing_in",),
    ),
    "index_serves_what_it_never_read": Bug(
        what="a snapshot from before a deletion is answered by a space that was filled after it",
        edits=(Edit("storage/index/space.py", "self.floor = wanted.deletion", "pass"),),
        caught_by=(f"{SPACE}test_an_older_snapshot_is_not_served_when_rows_it_sees_may_never_have_been_read",),
    ),
    "index_file_of_what_was_erased": Bug(
        what="an index file that was being made while a memory was erased is put in its place afterwards, and holds it",
        edits=(
            Edit(
                "storage/sqlite/queries/nearest.sql", " AND index_token IS :known;", " AND coalesce(:known, '') <> '!';"
            ),
        ),
        caught_by=(
            f"{NEAREST}test_another_process_writes_nothing_into_an_index_file_that_was_erased_in_a_transaction",
        ),
    ),
}
