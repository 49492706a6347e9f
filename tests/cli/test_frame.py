from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from llmspell import __version__, errors
from llmspell.cli import main as frame
from llmspell.cli.commands.errors import entry_of
from llmspell.cli.main import COMMANDS, load_command, run
from llmspell.cli.output import (
    GlobalOptions,
    Output,
    Progress,
    async_command,
    command,
    current_options,
    current_output,
    group,
    plain,
    printable,
)
from llmspell.cli.problems import EXIT_CODES, ExitCode, problem_of
from llmspell.settings import Secret

REPOSITORY = Path(__file__).resolve().parents[2]


def llmspell(*arguments: str, python: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with pipes instead of a terminal."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LLMSPELL_", "DATABASE_"))}
    return subprocess.run(
        [sys.executable, *python, "-m", "llmspell", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**inherited, **environ},
        timeout=60,
        check=False,
    )


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[click.Command], None]:
    """Put a command of the test in the place of `llmspell version`."""

    def put(replacement: click.Command) -> None:
        monkeypatch.setattr(frame, "load_command", lambda entry: replacement)

    return put


def raising(error: BaseException) -> click.Command:
    @command()
    def fail() -> None:
        raise error

    return fail


def made(kind: type[errors.LlmspellError]) -> errors.LlmspellError:
    """Make an error of any class of the tree, whatever its constructor wants."""
    error = kind.__new__(kind)
    errors.LlmspellError.__init__(error, "it happened", hint="do this")
    return error


# --- exit codes -------------------------------------------------------------------------------------------------------

EXPECTED = {
    "LlmspellError": 1,
    "InvalidInput": 2,
    "InvalidTenant": 2,
    "InvalidKey": 2,
    "InvalidText": 2,
    "InvalidVector": 2,
    "InvalidTime": 2,
    "InvalidMetadata": 2,
    "InvalidFilter": 2,
    "InvalidLimit": 2,
    "InvalidCursor": 2,
    "NotFound": 1,
    "TenantError": 1,
    "TenantUnknown": 1,
    "TenantInactive": 4,
    "Conflict": 5,
    "AlreadyExists": 5,
    "VersionConflict": 5,
    "FileExists": 5,
    "IdempotencyConflict": 5,
    "IllegalTransition": 5,
    "LeaseLost": 5,
    "Unsupported": 1,
    "OutcomeUnknown": 1,
    "TransactionError": 1,
    "TransactionTimeout": 1,
    "TransactionClosed": 1,
    "ConfigError": 2,
    "UnknownSetting": 2,
    "InvalidSetting": 2,
    "InvalidUrl": 2,
    "MissingExtra": 2,
    "MasterKeyMissing": 2,
    "TenantKeyMissing": 2,
    "ModelMissing": 2,
    "QuotaExceeded": 4,
    "StorageError": 1,
    "Unavailable": 3,
    "NotADatabase": 1,
    "SchemaTooNew": 5,
    "TransferError": 1,
    "ExportTooNew": 5,
    "ExportDamaged": 1,
    "SchemaOutdated": 5,
    "CorruptStore": 1,
    "DiskFull": 1,
    "UnsafeRole": 4,
    "MissingExtension": 1,
    "AccessRefused": 4,
    "SealBroken": 1,
    "SignatureRefused": 4,
    "MigrationError": 1,
    "MigrationModified": 5,
    "MigrationFailed": 1,
    "ProviderError": 1,
    "ProviderUnavailable": 3,
    "ProviderRefused": 4,
    "ProviderProtocol": 1,
    "JobError": 1,
    "JobImpossible": 1,
    "JobStopped": 1,
}
OURS = [kind for kind in errors.catalogue() if kind.__module__ == "llmspell.errors"]


def test_the_table_of_exit_codes_covers_the_whole_tree() -> None:
    assert {kind.__name__ for kind in OURS} == set(EXPECTED)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_an_error_ends_the_process_with_its_exit_code(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str], kind: type[errors.LlmspellError]
) -> None:
    install(raising(made(kind)))

    assert run(["version"]) == EXPECTED[kind.__name__]
    assert capsys.readouterr() == ("", "error: it happened\nhint: do this\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (click.BadParameter("x"), 2),
        (click.ClickException("x"), 1),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (PermissionError(errno.EACCES, "no"), 1),
        (ZeroDivisionError("x"), 1),
        (BrokenPipeError(errno.EPIPE, "gone"), 141),
    ],
)
def test_other_exceptions_have_exit_codes_too(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    install(raising(error))

    assert run(["version"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_may_choose_its_exit_code(install: Callable[[click.Command], None]) -> None:
    @command()
    def partly() -> ExitCode:
        return ExitCode.FAILED

    install(partly)

    assert run(["version"]) == 1


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["version", "x"], ["version", "--nonsense"], ["--store"], ["errors", "nonsense"]]
)
def test_a_command_line_that_cannot_be_read_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0][:7]) == ("", "error: ")


def test_a_mistyped_command_is_answered_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(["serch"])

    assert "Did you mean 'search'?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sessions"], ["events"], ["jobs", "shore"], ["database", "stations"]])
def test_a_word_that_merely_shares_letters_with_a_command_suggests_none(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert (arguments[-1] in err, "Did you mean" in err) == (True, False)


def test_a_mistyped_command_of_a_group_is_answered_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["database", "helth"]) == 2

    assert "Did you mean 'health'?" in capsys.readouterr().err


def test_an_exit_code_rule_names_every_ancestor_only_once() -> None:
    useless = [
        kind.__name__
        for kind, code in EXIT_CODES.items()
        if kind is not errors.LlmspellError
        and code == next(EXIT_CODES[parent] for parent in kind.__mro__[1:] if parent in EXIT_CODES)
    ]

    assert useless == []


# --- errors on the wire -----------------------------------------------------------------------------------------------


def test_an_error_with_json_is_one_document_on_stderr(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(errors.Conflict("two at once", key="a")))

    assert run(["version", "--json"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["error"] == {
        "code": "LS-1300",
        "title": "Another writer was first.",
        "detail": "two at once (key='a')",
        "hint": "Read again and retry.",
        "retryable": True,
    }


def test_a_usage_error_with_json_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--json", "nonsense"])

    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_no_error_shows_a_secret(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    install(raising(RuntimeError('cannot open postgresql://app:hunter2@db/x with password="hunter2 hunter2"')))

    run(["version", *flags])

    assert "hunter2" not in capsys.readouterr().err


def test_a_defect_shows_where_only_when_asked(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(raising(ZeroDivisionError("x")))
    monkeypatch.setenv("LLMSPELL_LOG", "debug")

    run(["version"])

    assert "Traceback" in capsys.readouterr().err


def test_every_error_of_the_tree_has_a_title_of_one_sentence() -> None:
    assert [kind.__name__ for kind in OURS if not problem_of(made(kind)).title.endswith((".", "?"))] == []


# --- options of every command -----------------------------------------------------------------------------------------


@pytest.fixture
def seen(install: Callable[[click.Command], None]) -> list[GlobalOptions]:
    collected: list[GlobalOptions] = []

    @command()
    def look() -> None:
        collected.append(current_options())

    install(look)
    return collected


ALL_OPTIONS = ["--json", "--quiet", "--no-progress", "--store", "memory://", "--tenant", "a", "--config", "f.toml"]


@pytest.mark.parametrize("before", [True, False])
def test_global_options_stand_before_or_after_the_command(seen: list[GlobalOptions], before: bool) -> None:
    assert run([*ALL_OPTIONS, "version"] if before else ["version", *ALL_OPTIONS]) == 0
    assert seen == [
        GlobalOptions(
            json=True, quiet=True, no_progress=True, store="memory://", tenant="a", config=Path("f.toml")
        )
    ]  # fmt: skip


def test_the_option_nearer_to_the_end_wins(seen: list[GlobalOptions]) -> None:
    run(["--tenant", "a", "--store", "memory://", "version", "--tenant", "b"])

    assert (seen[0].tenant, seen[0].store) == ("b", "memory://")


def test_commands_of_groups_take_the_global_options_as_well(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    @group()
    def outer() -> None:
        pass

    @outer.group()
    def inner() -> None:
        pass

    @inner.command()
    def deep() -> None:
        current_output().emit({"tenant": current_options().tenant})

    install(outer)

    assert run(["version", "inner", "--tenant", "t", "deep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tenant": "t"}


def test_a_coroutine_function_is_run_to_its_end(
    install: Callable[[click.Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    @command()
    @click.argument("word")
    @async_command
    async def say(word: str) -> None:
        current_output().emit([word])

    install(say)

    assert run(["version", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"


# --- output -----------------------------------------------------------------------------------------------------------


class Record(msgspec.Struct):
    at: datetime


@dataclass
class Pair:
    key: Secret
    size: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 5, 3, 12, 0, 0, 5, tzinfo=UTC), "2026-05-03T12:00:00.000005Z"),
        (datetime(2026, 5, 3, 2, tzinfo=timezone(timedelta(hours=2))), "2026-05-03T00:00:00Z"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Record(datetime(2026, 1, 1, tzinfo=UTC)), {"at": "2026-01-01T00:00:00Z"}),
        (Pair(Secret("hunter2"), float("nan")), {"key": "••••", "size": None}),
        ({"b": b"\x00\xff", "p": Path("/x"), "s": {"b", "a"}}, {"b": "AP8=", "p": "/x", "s": ["a", "b"]}),
        ((1, 2.5, None, True), [1, 2.5, None, True]),
        (ExitCode.FAILED, 1),
    ],
)
def test_a_document_holds_only_what_json_knows(value: object, expected: object) -> None:
    assert plain(value) == expected


def test_json_is_one_document_in_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    Output(GlobalOptions(json=True)).emit({"text": "Zürich 東京"})

    out = capsys.readouterr().out
    assert out == '{"text": "Zürich 東京"}\n'


def test_a_second_result_is_refused() -> None:
    output = Output(GlobalOptions(json=True))
    output.emit({})

    with pytest.raises(RuntimeError, match="twice"):
        output.emit({})


def test_in_a_pipe_records_are_tab_separated_lines(capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[object] = []
    Output(GlobalOptions()).emit([{"a": 1, "b": "x\ty\n"}, {"a": None, "b": [1]}], render=drawn.append)

    assert capsys.readouterr().out == "1\tx\\ty\\n\n\t[1]\n"
    assert drawn == []


def test_a_story_is_drawn_in_a_pipe_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    def draw(console: Any) -> None:
        console.print("[bold]as it is[/bold]", style="red")

    Output(GlobalOptions()).emit({}, render=draw, render_in_pipes=True)

    assert capsys.readouterr().out == "[bold]as it is[/bold]\n"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\nZürich") == "a\\x1b[31mb\\nZürich"


def test_notes_go_to_stderr_and_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    Output(GlobalOptions()).note("shown")
    Output(GlobalOptions(quiet=True)).note("quiet")
    Output(GlobalOptions(json=True)).note("json")

    assert capsys.readouterr() == ("", "shown\n")


def test_warnings_are_never_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    Output(GlobalOptions(quiet=True)).warn("careful", hint="do this")
    Output(GlobalOptions(json=True)).warn("careful")

    err = capsys.readouterr().err.splitlines()
    assert err == ["warning: careful", "hint: do this", '{"warning": {"detail": "careful", "hint": ""}}']


def test_progress_without_a_terminal_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(GlobalOptions()).progress(2_000, "adding") as progress:
        for _ in range(2_000):
            progress.advance()

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert (lines[0], lines[-1]) == ("adding: 10 % (200 of 2,000)", "adding: 100 % (2,000 of 2,000)")


@pytest.mark.parametrize(
    "options", [GlobalOptions(quiet=True), GlobalOptions(no_progress=True), GlobalOptions(json=True)]
)
def test_progress_can_be_silenced(capsys: pytest.CaptureFixture[str], options: GlobalOptions) -> None:
    with Output(options).progress(10, "adding") as progress:
        progress.advance(10)

    assert capsys.readouterr() == ("", "")


def test_progress_of_nothing_and_beyond_the_end_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(0, "none", shown=True, bar=False) as progress:
        progress.advance()
    with Progress(1, "more", shown=True, bar=False) as progress:
        progress.advance(5)

    assert capsys.readouterr().err == "more: 100 % (5 of 1)\n"


def test_without_a_terminal_a_destructive_command_needs_yes() -> None:
    output = Output(GlobalOptions())

    output.confirm("acme", action="delete tenant acme", yes=True)
    with pytest.raises(click.UsageError, match="--yes"):
        output.confirm("acme", action="delete tenant acme", yes=False)


# --- the process ------------------------------------------------------------------------------------------------------

ESCAPE = re.compile(r"\x1b")
QUICK = [("--help",), ("version",), ("errors", "list"), ("config", "show", "--origin"), ("nonsense",)]


@pytest.mark.parametrize("arguments", QUICK)
@pytest.mark.parametrize("force", ["", "1"])
def test_a_pipe_gets_no_escape_codes(arguments: tuple[str, ...], force: str) -> None:
    done = llmspell(*arguments, NO_COLOR=force, FORCE_COLOR=force)

    assert not ESCAPE.search(done.stdout + done.stderr)
    assert done.stdout + done.stderr


def test_force_color_colours_errors_but_never_json() -> None:
    assert ESCAPE.search(llmspell("nonsense", FORCE_COLOR="1").stderr)
    done = llmspell("nonsense", "--json", FORCE_COLOR="1")
    assert not ESCAPE.search(done.stdout + done.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["--version"]])
def test_help_and_version_load_nothing_heavy(arguments: list[str]) -> None:
    done = llmspell(*arguments, python=("-X", "importtime"))

    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    heavy = {"rich", "numpy", "apsw", "msgspec", "psycopg", "httpx2", "asyncio", "onnxruntime", "blake3", "tomllib"}
    assert heavy & loaded == set()
    ours = {name for name in loaded if name.startswith("llmspell.")}
    assert ours - {"llmspell.cli.commands.version"} <= {
        "llmspell.cli", "llmspell.cli.main", "llmspell.cli.output", "llmspell.cli.problems", "llmspell.cli.commands",
        "llmspell.errors",
    }  # fmt: skip
    total = next(line for line in reversed(done.stderr.splitlines()) if line.startswith("import time:"))
    print(f"{' '.join(arguments)}: {len(loaded)} modules; last: {total}")


def test_both_ways_to_ask_for_the_version_agree() -> None:
    assert llmspell("version").stdout == llmspell("--version").stdout == f"llmspell {__version__}\n"


def test_version_with_json() -> None:
    assert json.loads(llmspell("--json", "--version").stdout)["version"] == __version__


def test_no_command_prints_the_help() -> None:
    done = llmspell()

    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "Usage")


def test_output_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    file = tmp_path / "llmspell.toml"
    file.write_text("tenant_id = 'Zürich 東京'", encoding="utf-8")

    done = llmspell("config", "show", "--config", str(file), LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert 'tenant_id = "Zürich 東京"' in done.stdout


def test_a_reader_that_leaves_ends_the_command_quietly_as_sigpipe_would() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "llmspell", "errors", "list"], stdout=closed, stderr=subprocess.PIPE, check=False
        )

    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_resolves(name: str) -> None:
    found = load_command(COMMANDS[name])

    assert found.name == name
    assert found.help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_in_the_table_is_the_help_of_the_command(name: str) -> None:
    assert (load_command(COMMANDS[name]).help or "").partition("\n")[0] == COMMANDS[name].help


def test_the_reference_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "generate_reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr + "run: python scripts/generate_reference.py"


# --- errors list and explain ------------------------------------------------------------------------------------------


def test_errors_list_gives_the_whole_catalogue_as_json() -> None:
    listed = json.loads(llmspell("errors", "list", "--json").stdout)

    assert listed == [entry_of(kind) for kind in OURS]


@pytest.mark.parametrize("name", ["LS-1004", "ls-1004", "InvalidVector"])
def test_an_error_is_explained_by_code_or_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(["errors", "explain", name]) == 0
    assert "LS-1004 InvalidVector" in capsys.readouterr().out


def test_an_unknown_error_is_exit_code_1_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["errors", "explain", "InvalidVectr"]) == 1
    assert "LS-1004" in capsys.readouterr().err
