from __future__ import annotations

import pytest
from tests.cli.conftest import Shell

QUESTION = "Where does Ada live?"


@pytest.fixture
def filled(shell: Shell) -> Shell:
    shell("graph", "assert", "Ada", "lives_in", "Lisbon", "--valid-from", "2020-01-01", "--cardinality", "one")
    shell("graph", "assert", "Ada", "lives_in", "Basel", "--valid-from", "2026-05-01")
    turns = [
        {"text": f"Ada said on day {n} that she lives well, and drinks tea.", "session": f"s{n % 2}", "role": "Ada"}
        for n in range(12)
    ]
    shell("add", "--from", shell.write("a.jsonl", turns))
    return shell


def test_the_text_alone_goes_to_stdout(filled: Shell) -> None:
    done = filled("context", QUESTION, "--max-tokens", "200")

    assert done.code == 0
    assert done.lines[:2] == ["Facts:", "- Ada lives in Basel (since 1 May 2026)"]
    assert "Memories:" in done.lines
    assert (done.err, "\x1b" in done.out) == ("", False)


def test_facts_are_asked_as_of_an_instant(filled: Shell) -> None:
    done = filled("context", QUESTION, "--max-tokens", "200", "--as-of", "2024-01-01")

    assert "- Ada lives in Lisbon (from 1 January 2020 to 1 May 2026)" in done.lines


def test_facts_are_asked_as_known_at_an_instant(filled: Shell) -> None:
    assert "Facts:" not in filled("context", QUESTION, "--known-at", "2020-01-01").out


def test_explain_shows_the_budget_and_the_reasons(filled: Shell) -> None:
    done = filled("context", QUESTION, "--max-tokens", "100", "--explain")

    assert "█" in done.out
    assert "of 100 tokens" in done.out
    assert "the question names Ada" in done.out
    assert "Left out" in done.out
    assert "budget: needs" in done.out
    assert "\x1b" not in done.out


def test_json_has_items_and_rejected_with_reasons(filled: Shell) -> None:
    document = filled("context", QUESTION, "--max-tokens", "100", "--json").document

    assert {"text", "items", "rejected", "tokens_used", "max_tokens", "exact_tokens", "sections"} <= set(document)
    assert document["tokens_used"] <= document["max_tokens"] == 100
    assert all(item["reason"] for item in [*document["items"], *document["rejected"]])
    assert document["rejected"]


def test_memories_can_be_narrowed_to_a_session(filled: Shell) -> None:
    said = filled("context", QUESTION, "--session", "s1", "--max-tokens", "1000").out

    assert "on day 1 that" in said
    assert "on day 2 that" not in said


def test_nothing_found_is_no_error(empty: Shell) -> None:
    done = empty("context", QUESTION)

    assert (done.code, done.out, done.err) == (0, "", "Nothing was found.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [""],
        [QUESTION, "--max-tokens", "0"],
        [QUESTION, "--as-of", "last May"],
        [QUESTION, "--known-at", "2026-05-01T00:00:00"],
        [QUESTION, "--filter", "[]"],
    ],
)
def test_arguments_that_can_never_succeed_are_exit_code_2(empty: Shell, arguments: list[str]) -> None:
    assert empty("context", *arguments).code == 2
