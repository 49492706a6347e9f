from __future__ import annotations

from uuid import UUID

import pytest
from tests.cli.conftest import Ran, Shell


@pytest.fixture
def filled(shell: Shell) -> Shell:
    shell("graph", "declare", "lives_in", "one")
    shell("graph", "assert", "Ada", "lives_in", "Lisbon", "--valid-from", "2020-01-01")
    shell("graph", "assert", "Ada", "lives_in", "Zurich", "--valid-from", "2026-05-01")
    shell("graph", "assert", "Ada", "leads", "Kestrel", "--valid-from", "2026-01-01")
    shell("graph", "assert", "Bo", "works_on", "Kestrel", "--valid-from", "2026-01-01")
    return shell


def words(done: Ran) -> list[tuple[str, ...]]:
    """Subject, predicate and object of each line."""
    return [tuple(line.split("\t")[1:4]) for line in done.lines]


def fact_id(shell: Shell, entity: str, predicate: str) -> str:
    return shell("graph", "show", entity, "--predicate", predicate).lines[0].split("\t")[0]


def test_a_fact_is_recorded_with_all_that_is_said_of_it(shell: Shell) -> None:
    done = shell(
        *("graph", "assert", "Ada", "lives_in", "Basel", "--valid-from", "2026-05-01", "--valid-to", "2026-06-01"),
        *("--property", "floor=3", "--property", "view=the river", "--confidence", "0.9", "--source", "s1"),
        *("--actor", "me", "--json"),
    )

    fact = done.document
    assert (fact["subject"], fact["predicate"], fact["object"]) == ("Ada", "lives_in", "Basel")
    assert (fact["valid_from"], fact["valid_to"]) == ("2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z")
    assert fact["properties"] == {"floor": 3, "view": "the river"}
    assert (fact["confidence"], fact["source"], fact["actor"]) == (0.9, "s1", "me")


def test_in_a_pipe_a_fact_is_a_line_of_six_cells(filled: Shell) -> None:
    id_, *rest = filled("graph", "show", "Ada", "--predicate", "lives_in").lines[0].split("\t")

    assert UUID(id_)
    assert rest == ["Ada", "lives_in", "Zurich", "2026-05-01T00:00:00Z", ""]


def test_a_fact_is_shown_as_of_an_instant(filled: Shell) -> None:
    done = filled("graph", "show", "Ada", "--predicate", "lives_in", "--as-of", "2024-01-01")

    assert words(done) == [("Ada", "lives_in", "Lisbon")]


def test_a_correction_leaves_what_was_known_before(filled: Shell) -> None:
    id_ = fact_id(filled, "Ada", "lives_in")
    known = filled("graph", "history", id_).lines[-1].split("\t")[6]

    corrected = filled("graph", "correct", id_, "--object", "Basel", "--valid-from", "2026-04-20")

    assert words(corrected) == [("Ada", "lives_in", "Basel")]
    show = ("graph", "show", "Ada", "--predicate", "lives_in")
    assert words(filled(*show)) == [("Ada", "lives_in", "Basel")]
    assert words(filled(*show, "--known-at", known)) == [("Ada", "lives_in", "Zurich")]
    assert words(filled("graph", "history", id_)) == [("Ada", "lives_in", "Zurich"), ("Ada", "lives_in", "Basel")]


def test_a_fact_is_made_open_ended_again(shell: Shell) -> None:
    line = shell("graph", "assert", "A", "b", "C", "--valid-from", "2026-01-01", "--valid-to", "2026-02-01").lines[0]

    done = shell("graph", "correct", line.split("\t")[0], "--open-ended", "--json")

    assert done.document["valid_to"] is None


def test_a_retraction_ends_a_fact_where_it_says(filled: Shell) -> None:
    done = filled("graph", "retract", "Ada", "leads", "Kestrel", "--valid-from", "2026-03-01")

    assert (done.code, done.out) == (0, "1\n")
    show = ("graph", "show", "Ada", "--predicate", "leads")
    assert words(filled(*show)) == []
    assert words(filled(*show, "--as-of", "2026-02-01")) == [("Ada", "leads", "Kestrel")]


def test_a_retraction_of_nothing_is_exit_code_1(filled: Shell) -> None:
    assert filled("graph", "retract", "Ada", "leads", "Osprey").code == 1


def test_directions_and_depth_are_followed(filled: Shell) -> None:
    assert words(filled("graph", "show", "Kestrel", "--direction", "out")) == []
    assert len(words(filled("graph", "show", "Kestrel", "--direction", "in"))) == 2
    reached = [line.split("\t")[:2] for line in filled("graph", "show", "Bo", "--depth", "3").lines]
    assert reached == [["1", "Kestrel"], ["2", "Ada"], ["3", "Zurich"]]


def test_paths_are_chains_of_facts(filled: Shell) -> None:
    assert filled("graph", "paths", "Bo", "Ada").lines == ["Bo works_on Kestrel; Ada leads Kestrel"]
    assert filled("graph", "paths", "Bo", "Lisbon").code == 1


def test_an_unknown_entity_is_exit_code_1_with_the_likely_name(filled: Shell) -> None:
    done = filled("graph", "show", "ada")

    assert done.code == 1
    assert "Did you mean Ada?" in done.err


def test_the_history_of_an_entity_is_shown(filled: Shell) -> None:
    done = filled("graph", "history", "--entity", "Ada")

    assert done.lines[0].split("\t")[1:3] == ["Ada", "entity"]


def test_json_lists_facts_with_both_times(filled: Shell) -> None:
    (fact,) = filled("graph", "show", "Ada", "--predicate", "leads", "--json").document

    assert {"id", "valid_from", "valid_to", "recorded_from", "recorded_to", "source", "actor"} <= set(fact)


def test_a_second_cardinality_is_exit_code_5(filled: Shell) -> None:
    assert filled("graph", "declare", "lives_in", "many").code == 5


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["assert", "Ada", "lives_in"], 2),
        (["assert", "", "lives_in", "Basel"], 2),
        (["assert", "Ada", "lives_in", "Basel", "--valid-from", "2026-05-01", "--valid-to", "2026-04-01"], 2),
        (["assert", "Ada", "lives_in", "Basel", "--valid-from", "May"], 2),
        (["assert", "Ada", "lives_in", "Basel", "--property", "floor"], 2),
        (["assert", "Ada", "lives_in", "Basel", "--confidence", "2"], 2),
        (["assert", "Ada", "lives_in", "Basel", "--cardinality", "few"], 2),
        (["correct", "7", "--object", "Basel"], 2),
        (["correct", "01900000-0000-7000-8000-000000000001"], 2),
        (["correct", "01900000-0000-7000-8000-000000000001", "--object", "x"], 1),
        (["correct", "01900000-0000-7000-8000-000000000001", "--open-ended", "--valid-to", "2026-01-01"], 2),
        (["show", "Nobody"], 1),
        (["show", "Ada", "--depth", "7"], 2),
        (["show", "Ada", "--depth", "2", "--direction", "in"], 2),
        (["show", "Ada", "--as-of", "2026-05-01T00:00:00"], 2),
        (["history"], 2),
        (["history", "7"], 2),
        (["history", "01900000-0000-7000-8000-000000000001"], 1),
        (["history", "--entity", "Nobody"], 1),
        (["history", "7", "--entity", "Ada"], 2),
        (["declare", "lives_in", "few"], 2),
    ],
)
def test_what_cannot_be_done_says_so_by_its_exit_code(empty: Shell, arguments: list[str], code: int) -> None:
    done = empty("graph", *arguments)

    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error:")


def test_names_cannot_drive_the_terminal(shell: Shell) -> None:
    done = shell("graph", "assert", "A\x1b[31m", "b", "C")

    assert r"A\x1b[31m" in done.out
