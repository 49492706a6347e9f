from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from tests.cli.conftest import Shell

from llmspell.memory.memory import Memory

TURNS = [
    {"text": "I moved to Basel.", "session": "s1", "role": "Ada", "at": "2026-05-01T09:00:00Z", "id": "t1"},
    {"text": "Noted.", "session": "s1", "speaker": "assistant", "at": "2026-05-01T09:00:00Z", "id": "t2"},
    {"text": "I drink tea.", "session": "s2", "role": "Ada", "at": "2026-05-02", "id": "t3", "metadata": {"mood": 1}},
]


def kept(shell: Shell) -> list[dict[str, Any]]:
    """Every memory of the store, in the order of time."""
    hits = shell("search", "Basel tea noted", "--limit", "1000", "--json").document
    return sorted(hits, key=lambda hit: datetime.fromisoformat(hit["at"]))


def test_one_text_is_kept_and_its_id_printed(shell: Shell) -> None:
    done = shell(
        "add", "I drink tea.", "--session", "s1", "--role", "Ada", "--at", "2026-05-01", "--kind", "preference"
    )

    assert done.code == 0
    (memory,) = kept(shell)
    assert UUID(done.out.strip()) == UUID(memory["id"])
    assert (memory["text"], memory["session"], memory["role"], memory["at"], memory["kind"]) == (
        "I drink tea.", "s1", "Ada", "2026-05-01T00:00:00Z", "preference",
    )  # fmt: skip


def test_the_record_is_a_document_with_json(shell: Shell) -> None:
    document = shell("add", "Tea.", "--metadata", '{"lang": "en"}', "--json").document

    assert (document["content"], document["metadata"]) == ("Tea.", {"lang": "en"})


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["text", "--from", "file.json"],
        ["text", "--metadata", "{"],
        ["text", "--metadata", "[1]"],
        ["text", "--metadata", '{"a": 1, "a": 2}'],
        ["text", "--kind", "gossip"],
        ["text", "--at", "2026-05-01T09:00:00"],
        ["text", "--id", "7"],
        ["text", "--dry-run"],
        ["  "],
        ["--from", "not-there.json"],
        ["--from", "not-there.json", "--session", "s"],
    ],
)
def test_arguments_that_can_never_succeed_are_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    done = shell("add", *arguments)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error:")


def test_an_id_that_is_taken_is_exit_code_5(shell: Shell) -> None:
    id_ = "01900000-0000-7000-8000-000000000001"
    shell("add", "Tea.", "--id", id_)

    assert shell("add", "Coffee.", "--id", id_).code == 5


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.json", lambda turns: turns),
        ("a.json", lambda turns: {"turns": turns}),
        ("a.json", lambda turns: {"id": "c", "memories": turns}),
        ("a.json", lambda turns: [{"id": "c", "turns": turns, "questions": []}]),
        ("a.jsonl", lambda turns: turns),
    ],
)
def test_every_form_of_file_gives_the_same_memories(
    shell: Shell, name: str, wrap: Callable[[list[Any]], object]
) -> None:
    done = shell("add", "--from", shell.write(name, wrap(TURNS)))

    assert (done.code, done.out) == (0, "3 of 3 items kept\n")
    assert [(m["text"], m["session"], m["role"], m["metadata"]) for m in kept(shell)] == [
        ("I moved to Basel.", "s1", "Ada", {"id": "t1"}),
        ("Noted.", "s1", "assistant", {"id": "t2"}),
        ("I drink tea.", "s2", "Ada", {"id": "t3", "mood": 1}),
    ]


def test_standard_input_is_read(shell: Shell) -> None:
    done = shell("add", "--from", "-", "--json", stdin='{"text": "One."}\n\n{"text": "Two."}\n')

    assert done.document == {
        "file": "-", "items": 2, "dry_run": False, "added": 2, "skipped": 0, "different": 0, "pending": 0,
    }  # fmt: skip


def test_several_conversations_keep_their_sessions_apart(shell: Shell) -> None:
    twice = [{"id": "first", "turns": TURNS}, {"id": "second", "turns": TURNS}]

    assert shell("add", "--from", shell.write("a.json", twice)).out == "6 of 6 items kept\n"

    assert {m["session"] for m in kept(shell)} == {"first/s1", "first/s2", "second/s1", "second/s2"}


@pytest.mark.parametrize(
    "fields", [("text", "session", "role", "speaker", "at", "id", "metadata"), ("text", "session")]
)
def test_importing_a_file_again_adds_nothing(shell: Shell, fields: tuple[str, ...]) -> None:
    turns = [{name: turn[name] for name in fields if name in turn} for turn in [*TURNS, TURNS[1] | {"id": "t4"}]]
    file = shell.write("a.jsonl", turns)

    first, second = shell("add", "--from", file), shell("add", "--from", file)

    assert first.out == "4 of 4 items kept\n"
    assert second.out == "0 of 4 items kept, 4 were there already\n"
    assert len(kept(shell)) == 4


def test_an_item_that_is_there_with_another_text_stays_and_is_reported(shell: Shell) -> None:
    shell("add", "--from", shell.write("a.jsonl", TURNS))

    done = shell("add", "--from", shell.write("b.jsonl", [TURNS[0] | {"text": "I moved to Bern."}]))

    assert "1 was there already with another text; it is as it was." in done.err
    assert "I moved to Basel." in {m["text"] for m in kept(shell)}


def test_turns_of_one_instant_keep_their_order(shell: Shell) -> None:
    turns = [{"text": f"tea {n}", "session": "s", "at": "2026-05-01T09:00:00Z"} for n in range(5)]

    shell("add", "--from", shell.write("a.jsonl", turns))

    assert [m["text"] for m in kept(shell)] == [f"tea {n}" for n in range(5)]
    assert [m["at"] for m in kept(shell)][:2] == ["2026-05-01T09:00:00Z", "2026-05-01T09:00:00.000001Z"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "x", "at": "yesterday"}', "line 2: `at` must be ISO 8601"),
        ('{"text": "x", "at": 7}', "line 2: `at` must be"),
        ('{"session": "s"}', "line 2: `text` must be text"),
        ('{"text": " "}', "line 2: `text` must not be blank"),
        ('{"text": "\\u0000"}', "line 2: `text` must not contain NUL"),
        ('{"text": "\\ud800"}', "line 2: `text` must not contain a lone surrogate"),
        ('{"text": "x", "mood": "good"}', "line 2: `mood` is no field of a memory"),
        ('{"text": "x", "role": "a", "speaker": "b"}', "line 2: `speaker` must not be given together"),
        ('{"text": "x", "kind": "gossip"}', "line 2: `kind` must be one of"),
        ('{"text": "x", "metadata": [1]}', "line 2: `metadata` must be an object"),
        ('{"text": "x", "metadata": {"n": NaN}}', "line 2: is not JSON"),
        ('{"text": "x", "id": true}', "line 2: `id` must be text"),
        ('{"text": "x", "id": "first"}', "line 2: `id` is given twice, first at line 1"),
        ('{"text": "x"', "line 2: is not JSON"),
        ('{"text": "x", "text": "y"}', "line 2: is not JSON: the key 'text' is given twice."),
        ('{"text": "x", "metadata": {"a": 1, "a": 2}}', "line 2: is not JSON: the key 'a' is given twice."),
        ("[1, 2]", "line 2: `item` must be an object"),
        ("7", "line 2: `item` must be an object"),
    ],
)
def test_one_wrong_line_is_named_and_nothing_is_kept(shell: Shell, line: str, said: str) -> None:
    good = '{"text": "Good.", "id": "first"}\n'

    done = shell("add", "--from", shell.write("a.jsonl", good + line + "\n" + '{"text": "Also good."}\n'))

    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert done.err.startswith("error: 1 of 3 items is wrong, nothing was imported:\n  line 2: ")
    assert not shell.file.exists()


def test_a_wrong_item_of_a_json_document_is_named_by_its_place(shell: Shell) -> None:
    done = shell("add", "--from", shell.write("a.json", [{"turns": [{"text": "Good."}, {"text": ""}]}]))

    assert done.code == 1
    assert "[0].turns[1]: `text` must not be empty" in done.err


def test_several_problems_are_all_named_up_to_ten(shell: Shell) -> None:
    done = shell("add", "--from", shell.write("a.jsonl", [{"text": ""}] * 12))

    first, *listed = done.err.splitlines()
    assert first == "error: 12 of 12 items are wrong, nothing was imported; the first 10:"
    assert listed == [f"  line {n}: `text` must not be empty; got ''." for n in range(1, 11)]


def test_several_problems_are_a_list_with_json(shell: Shell) -> None:
    done = shell("add", "--json", "--from", shell.write("a.jsonl", [{"text": ""}, {"text": "x"}, {"text": 7}]))

    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert json.loads(done.err)["error"]["problems"] == [
        {"where": "line 1", "problem": "`text` must not be empty; got ''."},
        {"where": "line 3", "problem": "`text` must be text; got 7."},
    ]


LAST = "9999-12-31T23:59:59.999999Z"


def test_two_turns_of_one_session_at_the_last_instant_are_an_error_of_their_line(shell: Shell) -> None:
    turns = [{"text": "One.", "session": "s", "at": LAST}, {"text": "Two.", "session": "s", "at": LAST}]

    done = shell("add", "--from", shell.write("a.jsonl", turns))

    assert (done.code, done.out) == (1, "")
    assert "  line 2: `at` leaves no later instant" in done.err


def test_a_lone_surrogate_is_shown_escaped_once(shell: Shell) -> None:
    assert r"got '\ud800'." in shell("add", "--from", shell.write("a.jsonl", '{"text": "\\ud800"}\n')).err


def test_an_import_that_ends_early_says_how_far_it_came_and_goes_on_when_repeated(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shell.write("a.jsonl", [{"text": f"line {n}"} for n in range(600)])
    add_many, calls = Memory.add_many, []

    async def interrupted(memory: Memory, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        return await add_many(memory, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Memory, "add_many", interrupted)
        first = shell("add", "--from", file)
    again = shell("add", "--from", file)

    assert (first.code, first.out) == (130, "")
    assert "warning: the import stopped early: 256 of 600 items are in the store." in first.err
    assert "Run the same command again" in first.err
    assert again.out == "344 of 600 items kept, 256 were there already\n"


def test_an_import_beyond_a_quota_keeps_no_part_of_a_batch_and_says_so(shell: Shell) -> None:
    assert shell("add", "one").code == 0
    assert shell("tenants", "quota", "default", "--max-documents", "3").code == 0

    done = shell("add", "--from", shell.write("a.jsonl", [{"text": f"line {n}"} for n in range(3)]))

    assert done.code == 4
    assert "the import stopped early: 0 of 3 items are in the store" in done.err
    assert "Up to 256 items are kept or refused together. Have the quota raised" in done.err
    assert "The tenant's quota is 3 memories; " in done.err


@pytest.mark.parametrize("content", ["", "\n\n", "[]", '{"turns": []}'])
def test_a_file_without_items_is_exit_code_1(shell: Shell, content: str) -> None:
    done = shell("add", "--from", shell.write("a.json", content))

    assert done.code == 1
    assert "no items" in done.err


@pytest.mark.parametrize("content", ["[", '{"turns": 7}', '{"turns": [], "memories": []}', "[" * 100_000])
def test_a_document_that_is_no_conversation_is_refused(shell: Shell, content: str) -> None:
    assert shell("add", "--from", shell.write("a.json", content)).code == 2


def test_a_dry_run_checks_and_counts_and_makes_no_store(shell: Shell) -> None:
    good, bad = shell.write("a.jsonl", TURNS), shell.write("b.jsonl", [*TURNS, {"text": 1}])

    done = shell("add", "--from", good, "--dry-run", "--json")

    assert done.document == {"file": good, "items": 3, "dry_run": True}
    assert shell("add", "--from", bad, "--dry-run").code == 1
    assert not shell.file.exists()


def test_a_dry_run_leaves_a_store_as_it_is(shell: Shell) -> None:
    shell("add", "--from", shell.write("a.jsonl", TURNS))
    before = shell.file.read_bytes()

    shell("add", "--from", shell.write("b.jsonl", [{"text": "More."}]), "--dry-run")

    assert shell.file.read_bytes() == before


def test_progress_goes_to_stderr_and_can_be_silenced(shell: Shell) -> None:
    turns = [{"text": f"line {n}"} for n in range(600)]
    file = shell.write("a.jsonl", turns)

    shown = shell("add", "--from", file)

    assert shown.out == "600 of 600 items kept\n"
    assert "Importing: 100 % (600 of 600)" in shown.err
    assert shell("add", "--from", file, "--quiet").err == ""
