"""`llmspell database vector-indexes` and `partition-vectors`: the approximate indexes of a server, and its tables of vectors.

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


@click.command("partition-vectors")
@click.option(
    "--dimension", type=click.Choice([str(size) for size in DIMENSIONS]), required=True, help="Of these vectors."
)
@click.option("--partitions", type=int, default=16, show_default=True, help="How many, 2 to 256.")
@click.option("--abandon", is_flag=True, help="Give up a move that is not finished, and drop what was copied.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
def partition_vectors(dimension: str, partitions: int, abandon: bool, dry_run: bool) -> None:
    """Move the vectors of a dimension into hash partitions by tenant, while searches and writes go on.

    Each has an approximate index of its own, so a large tenant shares one with few others. There must be room for a second copy. An
    interrupted move goes on when it is called again. Needs DATABASE_ADMIN_URL and DATABASE_OPERATOR_URL.
    """
    from llmspell.ops import vector_indexes as admin

    settings, output = current_settings(), current_output()
    url = admin.admin_url_of(settings)
    if abandon:
        if dry_run:
            raise click.UsageError("--abandon has no dry run")
        given_up = admin.abandon(url, dimension=int(dimension))
        said = "The move was given up." if given_up else "No move is under way; nothing was changed."
        output.emit({"abandoned": given_up}, lines=lambda: [said])
        return
    steps = admin.partition(
        url,
        admin.operator_url_of(settings),
        dimension=int(dimension),
        partitions=partitions,
        dry_run=dry_run,
        announce=output.note,
    )
    output.emit({"steps": steps, "dry_run": dry_run}, lines=lambda: steps)
    if not steps:
        output.note(f"The vectors are in {partitions} partitions already; nothing was changed.")
    elif dry_run:
        output.note(f"{counted(len(steps), 'step')} would be taken; nothing was changed.")


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
