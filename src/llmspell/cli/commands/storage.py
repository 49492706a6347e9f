"""`llmspell storage`: what a store holds, and whether it works.

Not here: how a component is proved (`ops.validation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmspell.cli.output import async_command, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import backend_option, require_store, settings_of

if TYPE_CHECKING:
    from llmspell.ops.validation import ComponentProof


@group()
def storage() -> None:
    """See what a store holds, and prove that it works."""


@storage.command()
@backend_option("The store to look at")
@async_command
async def info(backend: str | None) -> None:
    """Show the store: its backend, its place without secrets, and the version of its schema."""
    import llmspell
    from llmspell.ops.named_store import require_named_store
    from llmspell.settings import masked

    settings = settings_of(backend)
    require_named_store(settings)
    require_store(settings.storage.url)
    async with llmspell.connect(settings.storage.url, settings=settings) as spell:
        schema = await spell.admin.migration_status()
    document = {
        "backend": spell.backend,
        "url": masked(settings.storage.url),
        "schema_version": schema.version,
        "pending_migrations": len(schema.pending),
    }
    current_output().emit(document)


@storage.command()
@backend_option("The store to prove")
@click.argument("components", nargs=-1, metavar="[COMPONENT]…")
@async_command
async def validate(backend: str | None, components: tuple[str, ...]) -> ExitCode:
    """Make the store ready, and prove each of its components by writing, reading and deleting.

    A file that is not there is made, and what is pending is migrated: on a server with DATABASE_ADMIN_URL, the role that owns the
    schema. Each component is then proved in a transaction that is rolled back, for a tenant that nobody has: nothing stays.
    Without names all components are proved. Exit code 1 when one fails.
    """
    import llmspell
    from llmspell.ops.named_store import require_named_store
    from llmspell.ops.validation import require_components
    from llmspell.settings import masked

    chosen = require_components(components)
    settings = settings_of(backend)
    require_named_store(settings)
    async with llmspell.connect(settings.storage.url, settings=settings) as spell:
        schema = await spell.admin.run_migrations()
        proofs = await spell.admin.validate(*chosen)
    document = {
        "backend": spell.backend,
        "url": masked(settings.storage.url),
        "schema_version": schema.version,
        "components": proofs,
        "valid": all(proof.proved for proof in proofs),
    }
    current_output().emit(document, lines=lambda: map(_proof_line, proofs), columns=("component", "result", "time"))
    return ExitCode.OK if document["valid"] else ExitCode.FAILED


def _proof_line(proof: ComponentProof) -> str:
    result = "ok" if proof.proved else f"failed: {printable(proof.problem or '')}"
    return f"{proof.component}\t{result}\t{proof.elapsed_ms:.1f} ms"
