"""`llmspell models`: local embedding models on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmspell.cli.output import current_output
from llmspell.cli.output import group as command_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from llmspell.cli.output import Output


@command_group()
def models() -> None:
    """Install and list local embedding models."""


@models.command("pull")
@click.argument("model", metavar="NAME|DIR", default="all-MiniLM-L6-v2")
def pull(model: str) -> None:
    """Put a model into the models folder, verified.

    NAME is a known model (default: all-MiniLM-L6-v2), fetched without any dependencies. DIR is a model in
    sentence-transformers form that is here already; it is checked and copied.
    """
    from llmspell.providers import models as local_models

    output = current_output()
    found = local_models.pull(model, progress=_reporter(output))
    output.emit(
        {"name": found.name, "path": found.path, "source": found.source},
        render=lambda console: console.print(f"{found.name} is ready in {found.path}"),
        lines=lambda: [f"{found.name}\t{found.path}"],
    )


@models.command("list")
def list_models() -> None:
    """List the models that are on this machine, and those that can be fetched."""
    from llmspell.providers import models as local_models

    here = {model.name: model for model in local_models.installed()}
    rows = [
        {
            "name": name,
            "installed": name in here,
            "dimension": known.dimension if (known := local_models.KNOWN.get(name)) else None,
            "licence": known.licence if known else None,
            "source": here[name].source if name in here else None,
            "path": here[name].path if name in here else None,
        }
        for name in sorted({*here, *local_models.KNOWN})
    ]

    def draw(console: Console) -> None:
        from rich.table import Table

        table = Table("model", "dimensions", "licence", "where", box=None)
        for row in rows:
            where = str(row["path"]) if row["installed"] else f"not here; llmspell models pull {row['name']}"
            table.add_row(str(row["name"]), str(row["dimension"] or "?"), str(row["licence"] or "?"), where)
        console.print(table)

    output = current_output()
    output.emit(rows, render=draw)
    if not any(row["installed"] for row in rows):
        output.note("No model is installed. Run: llmspell models pull all-MiniLM-L6-v2")


def _reporter(output: Output) -> Callable[[str, int, int], None]:
    """Say each step once: a download reports many times."""
    said: set[str] = set()

    def report(what: str, _done: int, total: int) -> None:
        if what not in said:
            said.add(what)
            output.note(f"{what} ({total / 1e6:.0f} MB)" if total else what)

    return report


group = models
