from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Shell


@pytest.fixture
def filled(shell: Shell) -> Shell:
    turns = [
        {"text": "I moved to Basel in May.", "session": "s1", "role": "Ada", "at": "2026-05-01", "metadata": {"n": 1}},
        {"text": "Basel is noted.", "session": "s2", "role": "assistant", "at": "2026-05-02", "metadata": {"n": 2}},
        {"text": "I drink tea.\nAlways.", "session": "s2", "role": "Ada", "at": "2026-05-03", "metadata": {"n": 3}},
    ]
    assert shell("add", "--from", shell.write("a.jsonl", turns)).code == 0
    return shell


def test_in_a_pipe_a_hit_is_a_line_of_five_cells(filled: Shell) -> None:
    done = filled("search", "tea", "--limit", "1")

    score, at, who, session, text = done.lines[0].split("\t")
    assert (at, who, session, text) == ("2026-05-03T00:00:00Z", "Ada", "s2", r"I drink tea.\nAlways.")
    assert 0 <= float(score) <= 1
    assert "\x1b" not in done.out


def test_json_has_every_field_of_a_hit(filled: Shell) -> None:
    (hit,) = filled("search", "tea", "--limit", "1", "--explain", "--json").document

    assert set(hit) == {
        "id", "text", "role", "session", "at", "kind", "metadata", "score", "similarity", "reason", "matches",
    }  # fmt: skip
    assert hit["reason"].startswith("word match rank 1")
    assert hit["matches"][0]["ranker"] == "words"


def test_the_reason_is_given_when_asked_only(filled: Shell) -> None:
    assert "reason" not in filled("search", "tea", "--json").document[0]
    assert "word match rank 1" in filled("search", "tea", "--explain").lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--session", "s1"], {"I moved to Basel in May."}),
        (["--filter", '{"role": "assistant"}'], {"Basel is noted."}),
        (["--filter", '{"metadata.n": {"$gte": 2}}', "--session", "s2"], {"Basel is noted.", "I drink tea.\nAlways."}),
        (["--filter", '{"role": "nobody"}'], set()),
        (["--min-score", "1"], set()),
    ],
)
def test_a_search_can_be_narrowed(filled: Shell, arguments: list[str], expected: set[str]) -> None:
    assert {hit["text"] for hit in filled("search", "Basel tea", *arguments, "--json").document} == expected


def test_nothing_found_is_said_on_stderr_and_is_no_error(empty: Shell) -> None:
    done = empty("search", "anything")

    assert (done.code, done.out, done.err) == (0, "", "Nothing was found.\n")


def test_tenants_do_not_see_each_other(filled: Shell) -> None:
    assert filled("search", "tea", "--tenant", "other", "--json").document == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["tea", "--limit", "0"],
        ["tea", "--limit", "many"],
        ["tea", "--filter", "{"],
        ["tea", "--filter", '{"role": {"$like": "A"}}'],
        ["tea", "--min-score", "2"],
        ["tea", "--min-score", "nan"],
        ["tea", "--tenant", ""],
        ["tea", "--store", "nosuch://"],
    ],
)
def test_arguments_that_can_never_succeed_are_exit_code_2(empty: Shell, arguments: list[str]) -> None:
    done = empty("search", *arguments)

    assert (done.code, done.out) == (2, "")


def test_an_error_with_json_is_a_document_on_stderr(empty: Shell) -> None:
    done = empty("search", "tea", "--limit", "0", "--json")

    assert json.loads(done.err)["error"]["code"] == "LS-1008"


def test_a_file_that_is_no_database_is_exit_code_1(shell: Shell) -> None:
    shell.file.write_text("not a database, but long enough to look like one " * 100)

    assert shell("search", "tea").code == 1


def test_a_terminal_gets_a_table_with_reasons(filled: Shell) -> None:
    filled.environment.setattr("sys.stdout.isatty", lambda: True, raising=False)
    filled.environment.setenv("NO_COLOR", "1")

    done = filled("search", "tea", "--limit", "1")

    assert done.lines[0].split() == ["score", "text", "who", "when", "why"]
    assert "3 May 2026" in done.out
