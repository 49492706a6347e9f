"""`llmspell database`: the group of the operator's commands, each in a module of its own, and the approximate index of a server.

`database migrate` is the short name of `database migrations apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmspell.cli.commands.database_diagnostics import isolation
from llmspell.cli.commands.database_health import health
from llmspell.cli.commands.database_inspect import inspect, terminate
from llmspell.cli.commands.database_maintenance import reindex, tune, vacuum
from llmspell.cli.commands.database_migrations import apply, migrations
from llmspell.cli.commands.database_partitions import partitions
from llmspell.cli.commands.database_pool import pool
from llmspell.cli.commands.database_signing import signing
from llmspell.cli.commands.database_vectors import partition_vectors, vector_indexes
from llmspell.cli.output import async_command, counted, current_output, group
from llmspell.cli.session import current_settings, open_spell
from llmspell.codec import DIMENSIONS
from llmspell.errors import (
    Unsupported,
)
from llmspell.storage.contracts.capabilities import Capability

if TYPE_CHECKING:
    pass


@group()
def database() -> None:
    """Migrate, verify and tune the store."""


database.add_command(health)
database.add_command(isolation)
database.add_command(inspect)
database.add_command(migrations)
database.add_command(apply, "migrate")
database.add_command(pool)
database.add_command(partitions)
database.add_command(reindex)
database.add_command(terminate)
database.add_command(tune)
database.add_command(vacuum)
database.add_command(signing)
database.add_command(vector_indexes)
database.add_command(partition_vectors)


@database.group()
def ann() -> None:
    """The approximate index of embeddings, where the store has one."""


@ann.command()
@click.option("--space", required=True, help="The embedding space: MODEL@DIMENSION.")
@click.option(
    "--dimension", type=click.Choice([str(size) for size in DIMENSIONS]), required=True, help="Its dimension."
)
@click.option("--dry-run", is_flag=True, help="Check that the store can do it, move nothing.")
@async_command
async def promote(space: str, dimension: str, dry_run: bool) -> None:
    """Move an embedding space of the tenant into the approximate index.

    Until then it is searched exactly. Vectors that come later are searched exactly beside the index until the next call.
    """
    output = current_output()
    async with open_spell() as spell:
        if dry_run:
            if Capability.ANN_PROMOTION not in spell.capabilities:
                raise Unsupported(
                    "This backend searches exactly, or builds its index by itself; no vectors are moved by hand.",
                    hint="Run: llmspell index build, to index now what is large enough.",
                )
            document = {"space": space, "dimension": int(dimension), "dry_run": True}
            output.emit(document, lines=lambda: [f"{space} would be moved into the index; nothing was changed"])
            return
        moved = await spell.admin.promote(current_settings().tenant_id, space, dimension=int(dimension))
    document = {"space": space, "dimension": int(dimension), "moved": moved, "dry_run": False}
    output.emit(document, lines=lambda: [f"{counted(moved, 'vector')} moved"])
