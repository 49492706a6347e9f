"""Errors at the edge of the process: what is printed, and with which exit code the process ends.

Rule 1: the exit code follows the class of the error; the nearest class in `EXIT_CODES` decides.
Rule 2: errors go to stderr: `error: …` and `hint: …`, or with `--json` one JSON document on one line.
Rule 3: secrets are removed from whatever is printed here, also from the text of an unexpected exception.
"""

from __future__ import annotations

import enum
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from llmspell import errors


class ExitCode(enum.IntEnum):
    """What the process tells its caller."""

    OK = 0
    FAILED = 1
    """The operation failed, found nothing that was required, or did only a part."""
    USAGE = 2
    """Arguments, values or configuration are wrong: the same call can never succeed."""
    UNAVAILABLE = 3
    """The store or a provider cannot be reached; trying again may help."""
    DENIED = 4
    """Credentials, permissions or a quota do not allow it."""
    CONFLICT = 5
    """Somebody else was first, or a precondition such as the schema version does not hold."""
    INTERRUPTED = 130
    READER_LEFT = 141
    """Whoever read the output (`| head`) left before its end: nothing failed. As a shell reports SIGPIPE."""


EXIT_CODES: dict[type[errors.LlmspellError], ExitCode] = {
    errors.LlmspellError: ExitCode.FAILED,
    errors.InvalidInput: ExitCode.USAGE,
    errors.ConfigError: ExitCode.USAGE,
    errors.Unavailable: ExitCode.UNAVAILABLE,
    errors.ProviderUnavailable: ExitCode.UNAVAILABLE,
    errors.TenantInactive: ExitCode.DENIED,
    errors.QuotaExceeded: ExitCode.DENIED,
    errors.UnsafeRole: ExitCode.DENIED,
    errors.AccessRefused: ExitCode.DENIED,
    errors.SignatureRefused: ExitCode.DENIED,
    errors.ProviderRefused: ExitCode.DENIED,
    errors.Conflict: ExitCode.CONFLICT,
    errors.SchemaTooNew: ExitCode.CONFLICT,
    errors.ExportTooNew: ExitCode.CONFLICT,
    errors.SchemaOutdated: ExitCode.CONFLICT,
    errors.MigrationModified: ExitCode.CONFLICT,
}


class Problem(NamedTuple):
    """An error as the command line reports it."""

    code: str
    title: str
    detail: str
    hint: str
    retryable: bool
    exit_code: ExitCode
    problems: tuple[dict[str, str], ...] = ()
    """One entry for each thing that is wrong, where there may be several: `where` and `problem`."""


class Several(click.ClickException):
    """Several things are wrong with what was given: `message` sums them up, `entries` are (where, problem)."""

    def __init__(self, message: str, entries: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.entries = tuple(entries)


COMMAND_HINTS: dict[type[errors.LlmspellError], Callable[[errors.LlmspellError], str]] = {
    errors.TenantUnknown: lambda error: (
        f"Run: llmspell tenants create {shlex.quote(str(error.fields.get('tenant', 'ID')))}"
        if error.hint == error.default_hint
        else error.hint
    ),
    errors.QuotaExceeded: lambda error: error.hint.replace("`spell.tenants.update(…)`", "llmspell tenants quota"),
    errors.AlreadyExists: lambda error: error.hint.replace("exist_ok=True", "--exist-ok"),
}
"""Hints in the words of the command line, where the error's own are in those of Python."""


def exit_code_of(kind: type[errors.LlmspellError]) -> ExitCode:
    """Return the exit code of an error class: that of its nearest ancestor in `EXIT_CODES`."""
    return next(EXIT_CODES[ancestor] for ancestor in kind.__mro__ if ancestor in EXIT_CODES)


def title_of(kind: type[errors.LlmspellError]) -> str:
    """Return the first sentence of an error class: the same for every occurrence."""
    return (kind.__doc__ or kind.__name__).partition("\n")[0]


def problem_of(error: BaseException) -> Problem:
    """Describe any exception that reached the edge of the process."""
    if isinstance(error, errors.LlmspellError):
        named = error.named_fields()
        detail = error.detail + (f" ({named})" if named else "")
        kind = type(error)
        hint = COMMAND_HINTS[kind](error) if kind in COMMAND_HINTS else error.hint
        return Problem(error.code, title_of(kind), detail, hint, error.retryable, exit_code_of(kind))
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "llmspell"
        title, hint = "The command line cannot be read.", f"Try: {where} --help"
        return Problem("usage", title, _on_one_line(error.format_message()), hint, False, ExitCode.USAGE)
    if isinstance(error, Several):
        listed = tuple({"where": where, "problem": problem} for where, problem in error.entries)
        message = error.format_message()
        return Problem("failed", "Nothing was done.", message, "", False, ExitCode.FAILED, listed)
    if isinstance(error, click.ClickException):
        return Problem("failed", "Nothing was done.", error.format_message(), "", False, ExitCode.FAILED)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Problem("interrupted", "Interrupted.", "interrupted", "", True, ExitCode.INTERRUPTED)
    if isinstance(error, OSError):
        return Problem("io", "The operating system refused.", str(error), "", False, ExitCode.FAILED)
    return Problem(
        "unexpected",
        "This is a defect in llmspell.",
        f"unexpected {type(error).__name__}: {error}",
        "Run it again with LLMSPELL_LOG=debug to see where, and report it.",
        False,
        ExitCode.FAILED,
    )


def report(error: BaseException, *, as_json: bool) -> ExitCode:
    """Print an error on stderr and return the exit code that belongs to it."""
    from llmspell.observe import redact

    problem = problem_of(error)
    listed = tuple({name: redact(text) for name, text in entry.items()} for entry in problem.problems)
    problem = problem._replace(detail=redact(problem.detail), hint=redact(problem.hint), problems=listed)
    if as_json:
        document = {name: value for name, value in problem._asdict().items() if name != "exit_code"}
        if not listed:
            del document["problems"]
        print(json.dumps({"error": document}, ensure_ascii=False), file=sys.stderr)
        return problem.exit_code
    print(_label("error:", "red"), _lines(problem.detail), file=sys.stderr)
    for entry in listed:
        print(_lines(f"  {entry['where']}: {entry['problem']}"), file=sys.stderr)
    if problem.hint:
        print(_label("hint:", "cyan"), _lines(problem.hint), file=sys.stderr)
    return problem.exit_code


def _on_one_line(message: str) -> str:
    """Join the choices of a missing option or argument, which click lists below each other behind tabs."""
    said, listed, choices = message.partition(" Choose from:\n\t")
    if not listed:
        return message
    names = choices.replace(",\n\t", ", ")
    return f"{said} Choose from {names}."


def _lines(text: str) -> str:
    """Escape what could drive the terminal; the end of a server's log keeps its lines."""
    from llmspell.cli.output import printable

    return "\n".join(map(printable, text.split("\n")))


def _label(text: str, colour: str) -> str:
    from llmspell.cli.output import colour_allowed

    return click.style(text, fg=colour, bold=True) if colour_allowed(sys.stderr) else text
