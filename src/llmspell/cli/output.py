"""What a command says, and where: data on stdout, everything else on stderr.

    @command()
    @click.argument("query")
    @async_command
    async def search(query: str) -> None:
        hits = …
        current_output().emit(hits, render=lambda console: console.print(table_of(hits)))

Rule 1: `emit` is the only way to stdout. With `--json` it prints exactly one JSON document (UTF-8, instants as ISO 8601
        with `Z`, ids as text); on a terminal it calls `render`; in a pipe it prints plain lines.
Rule 2: tables and colour only on a terminal; `NO_COLOR` beats `FORCE_COLOR`; JSON is never coloured.
Rule 3: progress is a bar on a terminal, otherwise one line per 10 %, on stderr; `--quiet`, `--no-progress` silence it.
Rule 4: rich is imported only when something is drawn.
Rule 5: a page of a list says on stderr when nothing fits, and with which cursor the next one is fetched.
"""

from __future__ import annotations

import base64
import enum
import functools
import inspect
import json
import sys
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = "llmspell.cli.options"
_OUTPUT = "llmspell.cli.output"
_HELP_AS_JSON = "llmspell.cli.help_as_json"
PROGRESS_STEPS = 10
PLAIN_WIDTH = 100
LIKELY = 0.75
"""How alike a mistyped command and the one that is suggested must be; below this, words merely share letters."""
JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner: Persian and Indic words and composed emoji are misspelt without them."""


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """The options that every command takes, before or after its name."""

    json: bool = False
    quiet: bool = False
    no_progress: bool = False
    store: str | None = None
    tenant: str | None = None
    config: Path | None = None


class GlobalOption(click.Option):
    """An option of the frame: remembered in the context, not passed to the command's function."""

    def __init__(self, field: str, flag: str, **attributes: Any) -> None:
        self.field = field
        super().__init__([f"frame_{field}", flag], expose_value=False, callback=_remember, **attributes)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    given = ctx.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
    if given and isinstance(parameter, GlobalOption):
        ctx.meta.setdefault(_OPTIONS, {})[parameter.field] = value
    return value


def global_options() -> list[click.Option]:
    """Make the options of the frame; each command has its own copies, and the innermost value given wins."""
    return [
        GlobalOption("json", "--json", is_flag=True, help="Print one JSON document on stdout."),
        GlobalOption("quiet", "--quiet", is_flag=True, help="Print no notes and no progress."),
        GlobalOption("no_progress", "--no-progress", is_flag=True, help="Print no progress."),
        GlobalOption("store", "--store", metavar="URL", help="The store to use instead of the configured one."),
        GlobalOption("tenant", "--tenant", metavar="ID", help="The tenant to act for."),
        GlobalOption(
            "config",
            "--config",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="The only configuration file to read.",
        ),
    ]


class _Framed(click.Command):
    """A command with the options of the frame, listed apart from its own in the help; its help can be a document."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params.extend(global_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `--help` ends the parsing where it stands, so a `--json` behind it would come too late.
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta[_HELP_AS_JSON] = ctx.meta.get(_HELP_AS_JSON, False) or "--json" in own
        return super().parse_args(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        if not ctx.meta.get(_HELP_AS_JSON):
            return super().get_help(ctx)
        return json.dumps(self.document(ctx), ensure_ascii=False)

    def document(self, ctx: click.Context) -> dict[str, Any]:
        """Return the help as a document of plain values; a group has its commands with what they do."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        document: dict[str, Any] = {
            "command": ctx.command_path,
            "usage": " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)]),
            "help": inspect.cleandoc(self.help or "").replace("\b\n", ""),
            "options": [
                {"option": record[0], "help": record[1]}
                for option in options
                if (record := option.get_help_record(ctx))
            ],
        }
        if isinstance(self, click.Group):
            document["commands"] = [{"command": name, "help": text} for name, text in self.summaries(ctx)]
        return document

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Return each command of a group with the line that says what it does."""
        if not isinstance(self, click.Group):
            return []
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return [(name, (inner.help or "").partition("\n")[0]) for name, inner in found if inner is not None]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        frame: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (frame if isinstance(parameter, GlobalOption) else own).append(record)
        for title, records in (("Options", own), ("Options of every command", frame)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class FramedCommand(_Framed):
    """A command that takes the options of the frame."""


class FramedGroup(_Framed, click.Group):
    """A group whose commands, and groups of commands, take the options of the frame."""

    command_class = FramedCommand
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if not args[0].startswith("-") and args[0] not in known:
            raise click.NoSuchCommand(args[0], possibilities=get_close_matches(args[0], known, 3, LIKELY), ctx=ctx)
        return super().resolve_command(ctx, args)


def command(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], FramedCommand]:
    """Make a function a command with the options of the frame. `None` or an `ExitCode` is what it returns."""
    return click.command(name, cls=FramedCommand, **attributes)


def group(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], FramedGroup]:
    """Make a function a group of commands; `@that_group.command()` makes its commands."""
    return click.group(name, cls=FramedGroup, **attributes)


def async_command(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Run a coroutine function to its end when it is called: put it directly above the `async def`."""

    @functools.wraps(function)
    def run(*arguments: P.args, **attributes: P.kwargs) -> R:
        import asyncio

        return asyncio.run(function(*arguments, **attributes))

    return run


def current_options() -> GlobalOptions:
    """Return the options of the frame as given on this command line."""
    ctx = click.get_current_context(silent=True)
    return GlobalOptions(**ctx.meta.get(_OPTIONS, {})) if ctx else GlobalOptions()


def current_output() -> Output:
    """Return the output of the command that is running."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return Output(GlobalOptions())
    if _OUTPUT not in ctx.meta:
        ctx.meta[_OUTPUT] = Output(current_options())
    return ctx.meta[_OUTPUT]  # type: ignore[no-any-return]


def colour_allowed(stream: IO[str]) -> bool:
    """Say whether `stream` may carry colour: `NO_COLOR`, then `FORCE_COLOR`, then whether it is a terminal."""
    from llmspell.settings import colour_preference

    preferred = colour_preference()
    return stream.isatty() if preferred is None else preferred


class Output:
    """The channel of one command. Built by the frame; get it with `current_output()`."""

    def __init__(self, options: GlobalOptions) -> None:
        self.json = options.json
        self.quiet = options.quiet
        self.progress_wanted = not (options.quiet or options.no_progress)
        self._emitted = False

    @property
    def on_terminal(self) -> bool:
        """Whether a person reads stdout: tables make sense."""
        return not self.json and sys.stdout.isatty()

    def emit(
        self,
        document: object,
        *,
        render: Callable[[Console], None] | None = None,
        lines: Callable[[], Iterable[str]] | None = None,
        columns: Sequence[str] = (),
        render_in_pipes: bool = False,
    ) -> None:
        """Print the result of the command, once.

        `document` is the whole result, of plain values, records (dataclasses, structs), instants and ids. `render`
        draws it on a rich console for a terminal (markup off: texts of users are printed as they are). `lines` makes
        the plain lines for a pipe; without it a list becomes tab-separated lines and a mapping `key: value` lines.
        `columns` names the cells that tabs part in those lines, and a terminal then gets them as a table; a page of a list
        is one in any case. With `render_in_pipes` the drawing is used in a pipe as well, without colour: for a story that
        is read, not parsed.
        """
        if self._emitted:
            raise RuntimeError("a command prints one result: `emit` was called twice")
        self._emitted = True
        page = _page(document)
        if render is None and lines is not None and (columns or page is not None):
            render = functools.partial(_draw_table, columns, lines)
        if self.json:
            text = json.dumps(
                plain(document), ensure_ascii=False, allow_nan=False, indent=2 if sys.stdout.isatty() else None
            )
            print(text, flush=True)
        elif render is not None and self.on_terminal:
            render(self.console())
            sys.stdout.flush()
        elif render is not None and render_in_pipes:
            self._print_drawing(render)
        else:
            for line in lines() if lines is not None else plain_lines(plain(document)):
                print(line)
            sys.stdout.flush()
        if page is not None:
            self._note_page(*page)

    def _note_page(self, items: Sequence[object], next_cursor: str | None) -> None:
        if not items:
            self.note("Nothing fits.")
        elif next_cursor is not None:
            self.note(f"There are more: --cursor {next_cursor}")

    def _print_drawing(self, render: Callable[[Console], None]) -> None:
        """Draw in a pipe: a table fills its cells with spaces, which nobody wants at the ends of lines."""
        console = self.console()
        with console.capture() as captured:
            render(console)
        for line in captured.get().splitlines():
            print(line.rstrip(" "))
        sys.stdout.flush()

    def console(self) -> Console:
        """Return a rich console on stdout: no markup, no emoji codes, no highlighting; colour by the rules above."""
        from rich.console import Console

        colour = colour_allowed(sys.stdout)
        return Console(
            file=sys.stdout,
            force_terminal=colour or sys.stdout.isatty(),
            no_color=not colour,
            color_system="auto" if colour else None,
            width=None if sys.stdout.isatty() else PLAIN_WIDTH,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def note(self, text: str) -> None:
        """Say something to the person at the terminal, on stderr. Silent with `--quiet` and `--json`."""
        if not self.quiet and not self.json:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str, *, hint: str = "") -> None:
        """Warn on stderr, also with `--quiet`; with `--json` as one JSON line."""
        if self.json:
            print(
                json.dumps({"warning": {"detail": text, "hint": hint}}, ensure_ascii=False), file=sys.stderr, flush=True
            )
            return
        label = click.style("warning:", fg="yellow", bold=True) if colour_allowed(sys.stderr) else "warning:"
        print(label, text, file=sys.stderr, flush=True)
        if hint:
            print("hint:", hint, file=sys.stderr, flush=True)

    def confirm(self, name: str, *, action: str, yes: bool) -> None:
        """Have the user type `name`, which `action` ("delete tenant acme") would destroy; `yes` is their `--yes`.

        Raises:
            click.UsageError: there is no terminal to ask on and `--yes` was not given.
            click.ClickException: something else was typed.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"cannot ask whether to {action}: there is no terminal; --yes confirms it")
        if click.prompt(f"To {action}, type {printable(name)}", default="", show_default=False, err=True) != name:
            raise click.ClickException(f"that was not {printable(name)!r}: nothing was done")

    def progress(self, total: int, label: str) -> Progress:
        """Return a context manager whose `advance(n)` shows how far a long command is; `total` may be 0."""
        terminal = sys.stderr.isatty()
        return Progress(total, label, shown=self.progress_wanted and (terminal or not self.json), bar=terminal)


def _page(document: object) -> tuple[Sequence[object], str | None] | None:
    """Return what a page of a list holds and the cursor of the next one, or None when `document` is no page."""
    if isinstance(document, Mapping):
        items, cursor = document.get("items"), document.get("next_cursor", "")
    else:
        items, cursor = getattr(document, "items", None), getattr(document, "next_cursor", "")
    return (items, cursor or None) if isinstance(items, Sequence) and cursor != "" else None


def _draw_table(columns: Sequence[str], lines: Callable[[], Iterable[str]], console: Console) -> None:
    from rich.table import Table

    rows = [line.split("\t") for line in lines()]
    if rows:
        table = Table(*(columns or [""] * max(map(len, rows))), box=None, pad_edge=False, show_header=bool(columns))
        for row in rows:
            table.add_row(*row)
        console.print(table)


class Progress:
    """A bar on a terminal, otherwise one line per 10 %, always on stderr. Use it as a context manager."""

    def __init__(self, total: int, label: str, *, shown: bool, bar: bool) -> None:
        self._total = total
        self._label = label
        self._shown = shown and total > 0
        self._bar_wanted = bar
        self._done = 0
        self._step = 0
        self._bar: tuple[RichProgress, TaskID] | None = None

    def __enter__(self) -> Progress:
        if self._shown and self._bar_wanted:
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True, no_color=not colour_allowed(sys.stderr), markup=False, emoji=False)
            bar = RichProgress(console=console, transient=True)
            self._bar = (bar, bar.add_task(self._label, total=self._total))
            bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def advance(self, count: int = 1) -> None:
        """Report that `count` more items are done."""
        self._done += count
        if self._bar is not None:
            self._bar[0].advance(self._bar[1], count)
        elif self._shown:
            step = min(self._done, self._total) * PROGRESS_STEPS // self._total
            if step > self._step:
                self._step = step
                share = step * 100 // PROGRESS_STEPS
                print(f"{self._label}: {share} % ({self._done:,} of {self._total:,})", file=sys.stderr, flush=True)


def plain(value: object) -> Any:
    """Turn records, instants, ids, paths and bytes (base64) into what JSON knows; NaN and infinities become null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(inner) for key, inner in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "__struct_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, Path)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value))
    if isinstance(value, Iterable):
        return [plain(inner) for inner in value]
    return str(value)


def printable(text: str) -> str:
    """Return `text` on one line with control characters shown as escapes: a stored text must not drive the terminal.

    The two joiners stay: scripts and emoji are spelt with them. What turns the direction of writing is escaped.
    """
    return "".join(c if c.isprintable() or c in JOINERS else ascii(c)[1:-1] for c in text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return "1 item" or "1,200 items"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def plain_lines(document: Any) -> Iterable[str]:
    """Yield a plain document as lines: `key: value` for an object, tab-separated values for each object of a list."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield f"{key}: {_cell(value)}"
    elif isinstance(document, list):
        for item in document:
            yield "\t".join(map(_cell, item.values())) if isinstance(item, dict) else _cell(item)
    else:
        yield _cell(document)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
