"""What a person or a pipe sees: nothing that drives the terminal, the help as a document, an end without a traceback."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import click
import pytest
from tests.cli.conftest import Shell
from tests.cli.test_frame import install, llmspell, raising

from llmspell.__main__ import main as entry_point
from llmspell.cli.main import COMMANDS, run
from llmspell.cli.output import GlobalOptions, Output, counted, printable
from llmspell.storage.contracts.pages import Page

__all__ = ["install"]


@pytest.mark.parametrize("text", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f52c"])
def test_the_joiners_that_words_and_emoji_are_spelt_with_are_printed(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("character", ["\x1b", "\x00", "\x7f", "\x9b", "\n", "\u202e", "\u2066", "\u200e", "\u200b"])
def test_what_drives_a_terminal_or_turns_the_writing_is_escaped(character: str) -> None:
    assert printable(f"a{character}b") == f"a{ascii(character)[1:-1]}b"


def test_an_error_cannot_drive_the_terminal(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(click.ClickException("of \x1b[31mred\nand another line")))

    run(["version"])

    assert capsys.readouterr().err == "error: of \\x1b[31mred\nand another line\n"


@pytest.mark.parametrize(("count", "said"), [(0, "0 items"), (1, "1 item"), (1_200, "1,200 items")])
def test_a_number_goes_with_the_right_form_of_its_noun(count: int, said: str) -> None:
    assert counted(count, "item") == said


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("--json",), "llmspell"),
        (("--help", "--json"), "llmspell"),
        (("--json", "graph", "--help"), "llmspell graph"),
        (("graph", "show", "--help", "--json"), "llmspell graph show"),
    ],
)
def test_the_help_is_a_document_with_json(arguments: tuple[str, ...], command: str) -> None:
    document = json.loads(llmspell(*arguments).stdout)

    assert (document["command"], bool(document["help"])) == (command, True)
    assert "--json" in [entry["option"] for entry in document["options"]]
    commands = {entry["command"] for entry in document.get("commands", [])}
    assert command != "llmspell" or commands == set(COMMANDS)


def test_a_drawing_in_a_pipe_has_no_spaces_at_the_ends_of_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Output(GlobalOptions()).emit({}, render=lambda console: console.print("wide   \n  end  "), render_in_pipes=True)

    assert capsys.readouterr().out == "wide\n  end\n"


PAGE = {"items": [1, 2], "next_cursor": "onward"}


def test_a_list_is_a_table_on_a_terminal_and_lines_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def emit() -> None:
        Output(GlobalOptions()).emit(PAGE, lines=lambda: ["acme\tactive", "globex\tgone"], columns=("id", "status"))

    emit()
    assert capsys.readouterr().out == "acme\tactive\nglobex\tgone\n"

    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    emit()
    assert [line.split() for line in screen.getvalue().splitlines()] == [
        ["id", "status"],
        ["acme", "active"],
        ["globex", "gone"],
    ]


@pytest.mark.parametrize(
    ("document", "noted"),
    [
        (PAGE, "There are more: --cursor onward\n"),
        (Page(items=[1], next_cursor="onward"), "There are more: --cursor onward\n"),
        ({"items": [1], "next_cursor": None}, ""),
        ({"items": [], "next_cursor": None}, "Nothing fits.\n"),
        (Page(items=[], next_cursor=None), "Nothing fits.\n"),
        ({"items": []}, ""),
    ],
)
def test_a_page_says_whether_there_is_anything_and_whether_there_is_more(
    document: object, noted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Output(GlobalOptions()).emit(document, lines=list)
    assert capsys.readouterr() == ("", noted)

    Output(GlobalOptions(json=True)).emit(document, lines=list)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("concern", ["tenants", "audit", "api-keys", "access-keys", "jobs"])
def test_every_list_says_that_nothing_fits(shell: Shell, concern: str) -> None:
    shell("tenants", "create", "default")
    chosen = {"tenants": ["--status", "deleted"], "audit": ["--operation", "no.such"]}.get(concern, [])

    done = shell(concern, "list", *chosen)

    assert (done.code, done.out, done.err) == (0, "", "Nothing fits.\n")


def test_an_interrupt_before_the_program_is_there_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def find_spec(self, name: str, *arguments: object) -> None:
            if name == "llmspell.cli.main":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "llmspell.cli.main")

    with pytest.raises(SystemExit) as ended:
        entry_point()

    assert ended.value.code == 130
