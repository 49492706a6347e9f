"""`llmspell`: the argument tree.

Rule 1: a command's module is imported when that command runs; `llmspell --help` is written from `COMMANDS` alone.
Rule 2: every error ends here, in one place: a message on stderr and an exit code (`problems`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from llmspell.cli.output import FramedGroup, current_options
from llmspell.cli.problems import ExitCode, report

PROGRAM = "llmspell"


class Entry(NamedTuple):
    """Where a command lives (`module:object` below `llmspell.cli.commands`) and what it does."""

    target: str
    help: str


COMMANDS: dict[str, Entry] = {
    "quickstart": Entry("quickstart:quickstart", "See the whole product work on a sample, in a minute."),
    "init": Entry("init:init", "Write a commented llmspell.toml here."),
    "add": Entry("add:add", "Keep a memory, or a file of them."),
    "search": Entry("search:search", "Find memories by meaning and by word."),
    "context": Entry("context:context", "Assemble what matters for a question, within a token budget."),
    "graph": Entry("graph:graph", "Assert facts and ask them as of any instant."),
    "models": Entry("models:models", "Install and list local embedding models."),
    "tenants": Entry("tenants:tenants", "Register tenants, suspend them, and look them up."),
    "audit": Entry("audit:audit", "Read the audit log, and check that nobody tampered with it."),
    "keys": Entry("keys:keys", "Make and list the master keys that seal secrets."),
    "api-keys": Entry("api_keys:api_keys", "Keep the keys of model providers, sealed."),
    "access-keys": Entry("access_keys:access_keys", "Issue and revoke credentials to llmspell."),
    "jobs": Entry("jobs:jobs", "Run jobs, and look after the queue."),
    "index": Entry("index:index", "See how vectors are searched, index them now, and choose parameters."),
    "embed": Entry("embed:embed", "Compute embeddings that are still pending."),
    "storage": Entry("storage:storage", "See what a store holds, and prove that it works."),
    "database": Entry("database:database", "Migrate, verify and tune the store."),
    "backup": Entry("backup:backup", "Back up the store, verify backups, and restore them."),
    "doctor": Entry("doctor:doctor", "Look whether everything that llmspell needs is there."),
    "dev": Entry("dev:dev", "Run a private database server for development."),
    "config": Entry("config:config", "Show and explain the configuration."),
    "errors": Entry("errors:errors", "List and explain error codes."),
    "version": Entry("version:version", "Print the version."),
}


class ReaderLeft(Exception):
    """Whoever read our output has gone. Not an OSError: click would end the process for one, as if a command had failed."""


class LazyGroup(FramedGroup):
    """The root: names and help texts come from `COMMANDS`, objects are imported when they are wanted."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **extra)
        except BrokenPipeError as exc:  # while the help was printed
            raise ReaderLeft from exc

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise ReaderLeft from exc

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        return load_command(entry) if entry else None

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        return [(name, entry.help) for name, entry in COMMANDS.items()]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(ctx))

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run and exit; with `standalone_mode=False` as click does it."""
        if not extra.pop("standalone_mode", True):
            return super().main(args, prog_name or PROGRAM, standalone_mode=False, **extra)
        sys.exit(run(sys.argv[1:] if args is None else args))


def load_command(entry: Entry) -> click.Command:
    """Import the command that `entry` names."""
    module, _, attribute = entry.target.partition(":")
    found = getattr(import_module(f"llmspell.cli.commands.{module}"), attribute)
    if not isinstance(found, click.Command):
        raise TypeError(f"{entry.target} is not a command")
    return found


@click.group(
    PROGRAM,
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: llmspell quickstart",
)
@click.option("--version", "version_wanted", is_flag=True, help="Print the version.")
@click.pass_context
def root(ctx: click.Context, version_wanted: bool) -> None:
    """The memory and state database for LLM agents."""
    if version_wanted:
        ctx.invoke(load_command(COMMANDS["version"]))
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Prints errors; never raises one, whatever happens.

    The process is the program here: this is the edge where an unexpected exception becomes a message.
    """
    arguments = list(arguments)
    as_json = "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    _write_utf8()
    try:
        result = root.main(arguments, standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderLeft):
        return _reader_left()
    except SystemExit as done:  # click ends so after shell completion
        return done.code if isinstance(done.code, int) else ExitCode.FAILED
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - the edge of the process
        return _report(error, as_json=as_json)
    return int(result) if isinstance(result, int) else ExitCode.OK


def _report(error: BaseException, *, as_json: bool) -> int:
    from llmspell.errors import LlmspellError
    from llmspell.settings import log_level

    expected = isinstance(error, (LlmspellError, click.ClickException, click.Abort, KeyboardInterrupt, OSError))
    try:
        if not expected and log_level() == "debug":
            import traceback

            from llmspell.observe import redact

            print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        return report(error, as_json=as_json)
    except BrokenPipeError:
        return _reader_left()


def _reader_left() -> int:
    """Whoever read our output has gone (`| head`): say nothing, and let the interpreter's last flush find no pipe."""
    import os

    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a file: there is nothing to redirect
        pass
    finally:
        os.close(sink)
    return ExitCode.READER_LEFT


def _write_utf8() -> None:
    """Write UTF-8 whatever the locale says; what cannot be encoded (a damaged argument) is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def main() -> None:
    """The entry point of the installed command."""
    root.main()


__all__ = ["COMMANDS", "Entry", "LazyGroup", "current_options", "load_command", "main", "root", "run"]
