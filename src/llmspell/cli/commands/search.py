"""`llmspell search`: memories by meaning and by word, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import async_command, command, current_output, printable
from llmspell.cli.session import open_tenant
from llmspell.cli.values import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

TEXT_SHOWN = 300


@command()
@click.argument("query")
@click.option("--limit", type=int, default=10, show_default=True, help="How many, 1 to 1,000.")
@click.option("--session", help="Only this conversation.")
@click.option("--filter", "filters", type=JsonObject(), metavar="JSON", help='Such as {"role": "Ada"}.')
@click.option("--min-score", type=float, help="Least cosine similarity, -1 to 1; needs a match by meaning.")
@click.option("--explain", is_flag=True, help="Say for each why it was found.")
@async_command
async def search(query: str, *, explain: bool, **options: Any) -> None:
    """Find memories by meaning and by word.

    In a pipe each hit is a line: score, time, who, session, text and, with --explain, the reason, parted by tabs.
    """
    from llmspell.cli.telling import hit_document

    output = current_output()
    async with open_tenant() as tenant:
        found = await tenant.memory.search(query, explain=explain or output.on_terminal, **options)
    hits = [hit_document(hit) for hit in found]
    output.emit(hits, render=lambda console: _draw(console, hits), lines=lambda: map(_line, hits))
    if not hits:
        output.note("Nothing was found.")


def _line(hit: dict[str, Any]) -> str:
    at = hit["at"].isoformat().replace("+00:00", "Z")
    cells = [f"{hit['score']:.4f}", at, hit["role"] or "", hit["session"] or "", hit["text"]]
    cells += [hit["reason"]] if "reason" in hit else []
    return "\t".join(map(printable, cells))


def _draw(console: Console, hits: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from llmspell.storage.text.memory_text import spoken_date

    if not hits:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("text", overflow="fold", ratio=5)
    table.add_column("who", overflow="fold")
    table.add_column("when", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=3, style="dim")
    for hit in hits:
        text = printable(hit["text"])
        text = text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
        why = hit["reason"].partition(", said")[0]
        table.add_row(f"{hit['score']:.2f}", text, printable(hit["role"] or ""), spoken_date(hit["at"]), why)
    console.print(table)
