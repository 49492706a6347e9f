"""`llmspell errors`: the catalogue of error codes, from the classes themselves. Works without a store."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import current_output, group
from llmspell.cli.problems import exit_code_of, title_of
from llmspell.errors import LlmspellError, NotFound, catalogue

if TYPE_CHECKING:
    from rich.console import Console


@group()
def errors() -> None:
    """List and explain error codes."""


def entry_of(kind: type[LlmspellError]) -> dict[str, Any]:
    """Describe one error class."""
    exit_code = exit_code_of(kind)
    return {
        "code": kind.code,
        "name": kind.__name__,
        "title": title_of(kind),
        "hint": kind.default_hint,
        "retryable": kind.retryable,
        "exit_code": int(exit_code),
        "exit_name": exit_code.name.lower(),
        "parent": None if kind is LlmspellError else kind.__bases__[0].__name__,
    }


@errors.command("list")
def list_errors() -> None:
    """List every error: code, name, exit code, meaning."""
    entries = [entry_of(kind) for kind in catalogue()]
    current_output().emit(
        entries,
        render=lambda console: _draw(console, entries),
        lines=lambda: (f"{e['code']}\t{e['name']}\t{e['exit_code']}\t{e['title']}" for e in entries),
    )


def _draw(console: Console, entries: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("code", "name", "exit", "retry", "meaning"):
        table.add_column(title)
    for entry in entries:
        retry = "yes" if entry["retryable"] else ""
        table.add_row(entry["code"], entry["name"], str(entry["exit_code"]), retry, entry["title"])
    console.print(table)


@errors.command()
@click.argument("code")
def explain(code: str) -> None:
    """Explain one error, by its code (LS-1004) or its name (InvalidVector)."""
    kinds = {name.casefold(): kind for kind in catalogue() for name in (kind.code, kind.__name__)}
    kind = kinds.get(code.casefold())
    if kind is None:
        near = difflib.get_close_matches(code.casefold(), kinds, n=1)
        meant = f"Did you mean {kinds[near[0]].code}, {kinds[near[0]].__name__}? " if near else ""
        raise NotFound(f"there is no error {code!r}.", hint=meant + "`llmspell errors list` shows all of them.")
    below = [entry_of(child) for child in kind.__subclasses__()]
    document = {**entry_of(kind), "text": inspect.getdoc(kind) or "", "narrower": [child["name"] for child in below]}
    current_output().emit(document, lines=lambda: _explained(document))


def _explained(document: dict[str, Any]) -> Iterable[str]:
    yield f"{document['code']} {document['name']}: {document['text']}"
    if document["hint"]:
        yield f"  what to do   {document['hint']}"
    yield f"  retry        {'may succeed' if document['retryable'] else 'does not help by itself'}"
    yield f"  exit code    {document['exit_code']} ({document['exit_name']})"
    if document["parent"]:
        yield f"  is a         {document['parent']}"
    if document["narrower"]:
        yield f"  narrower     {', '.join(document['narrower'])}"
