"""`llmspell database vector-indexes`: the approximate indexes of a server, listed and built anew.

Not here: what is done to the database (`ops.vector_indexes`), which vectors are in an index (`llmspell database ann promote`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmspell.cli.output import counted, current_output, group
from llmspell.cli.session import current_settings
from llmspell.codec import DIMENSIONS

if TYPE_CHECKING:
    from llmspell.ops.vector_indexes import VectorIndex

DIMENSION = click.option(
    "--dimension", type=click.Choice([str(size) for size in DIMENSIONS]), help="Of this dimension alone."
)


@group("vector-indexes")
def vector_indexes() -> None:
    """The approximate indexes of a server. Needs DATABASE_ADMIN_URL."""


@vector_indexes.command("list")
@DIMENSION
def list_indexes(dimension: str | None) -> None:
    """List the indexes: size, parameters, whether they are valid, rows inside and outside, and why a rebuild would help.

    The counts are the server's estimates. In a pipe each is a line: name, size in bytes, state, rows inside, rows outside, dead
    rows, m, ef_construction, advice, parted by tabs.
    """
    from llmspell.ops import vector_indexes as admin

    found = admin.listed(admin.admin_url_of(current_settings()), dimension=_number(dimension))
    current_output().emit(
        {"indexes": found},
        lines=lambda: map(_line, found),
        columns=("name", "bytes", "state", "inside", "outside", "dead", "m", "ef_construction", "advice"),
    )


@vector_indexes.command()
@DIMENSION
@click.option(
    "--memory", metavar="SIZE", help="Memory for this build, such as 1GB: a graph that fits is built much faster."
)
@click.option("--dry-run", is_flag=True, help="Say what would be built, change nothing.")
def rebuild(dimension: str | None, memory: str | None, dry_run: bool) -> None:
    """Build the indexes anew while searches and writes go on. What a failed build has left is dropped, what is missing is built.

    An interrupted rebuild leaves the old index in use; run it again.
    """
    from llmspell.ops import vector_indexes as admin

    output = current_output()
    url = admin.admin_url_of(current_settings())
    steps = admin.rebuild(url, dimension=_number(dimension), memory=memory, dry_run=dry_run, announce=output.note)
    output.emit({"steps": steps, "dry_run": dry_run}, lines=lambda: steps)
    output.note(f"{counted(len(steps), 'step')} {'would be taken; nothing was changed' if dry_run else 'taken'}.")


def _number(dimension: str | None) -> int | None:
    return None if dimension is None else int(dimension)


def _line(index: VectorIndex) -> str:
    state = "valid" if index.valid else "invalid"
    fields = (
        index.name,
        index.size_bytes,
        state,
        index.inside,
        index.outside,
        index.dead_rows,
        index.m,
        index.ef_construction,
    )
    return "\t".join([*map(str, fields), index.advice])
