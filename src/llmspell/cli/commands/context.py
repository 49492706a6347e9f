"""`llmspell context`: the text an assistant should read before it answers; with --explain also why it is that text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from llmspell.cli.output import async_command, command, current_output, printable
from llmspell.cli.session import open_tenant
from llmspell.cli.values import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from llmspell.memory.context import Context


@command()
@click.argument("query")
@click.option("--max-tokens", type=int, help="The budget; default: context.max_tokens of the settings.")
@click.option("--session", help="Only memories of this conversation.")
@click.option("--filter", "filters", type=JsonObject(), metavar="JSON", help="Only memories that this matches.")
@click.option("--as-of", metavar="TIME", help="Facts as they were true then; default: now.")
@click.option("--known-at", metavar="TIME", help="Facts as they were known then; default: now.")
@click.option("--explain", is_flag=True, help="Show the budget, and why each item is in or out.")
@async_command
async def context(query: str, *, explain: bool, **options: object) -> None:
    """Assemble what matters for a question, within a token budget.

    The text goes to standard output, ready to be piped into a prompt. Facts come first, then memories in the order of time.
    """
    async with open_tenant() as tenant:
        found = await tenant.context(query, **options)  # type: ignore[arg-type]  # the options above, by their names
    output = current_output()
    if explain:
        output.emit(found, render=lambda console: _draw(console, found), render_in_pipes=True)
    else:
        output.emit(
            found, render=lambda console: console.print(_safe(found.text), soft_wrap=True), lines=lambda: _lines(found)
        )
    if not found.items:
        output.note("Nothing was found.")


def _safe(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _lines(found: Context) -> Iterable[str]:
    return map(printable, found.text.split("\n")) if found.text else []


def _draw(console: Console, found: Context) -> None:
    from llmspell.cli.story import draw_context

    if found.text:
        console.print(_safe(found.text), soft_wrap=True)
        console.print()
    draw_context(console, found)
