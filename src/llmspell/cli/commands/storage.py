"""`llmspell storage`: what a store holds, and whether it works.

Not here: how a component is proved (`ops.validation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.commands import storage_transfer
from llmspell.cli.commands.database_migrations import migrated
from llmspell.cli.output import async_command, counted, current_output, group, plain, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import backend_option, require_store, settings_of
from llmspell.storage.contracts.capabilities import Capability

if TYPE_CHECKING:
    from llmspell.ops.validation import ComponentProof
    from llmspell.settings import Settings
    from llmspell.spell import Spell

TENANTS_MAX = 1_000
TENANTS_PAGE = 100


@group()
def storage() -> None:
    """See what a store holds, and prove that it works."""


@storage.command()
@backend_option("The store to look at")
@click.option(
    "--all-tenants", is_flag=True, help="Count for every tenant; on a server this needs DATABASE_OPERATOR_URL."
)
@async_command
async def info(backend: str | None, *, all_tenants: bool) -> None:
    """Show the store: its place without secrets, schema, size, what it can do, and what a tenant has in it.

    Rows are counted by concern, vectors by space, for the tenant of --tenant or of the settings, or for each tenant.
    """
    settings = settings_of(backend)
    document = await _described(settings, all_tenants=all_tenants)
    current_output().emit(document, lines=lambda: _info_lines(document))


async def _described(settings: Settings, *, all_tenants: bool) -> dict[str, Any]:
    import llmspell
    from llmspell.ops.named_store import require_named_store, without_migrating
    from llmspell.ops.schema_status import require_current_file
    from llmspell.settings import masked

    require_named_store(settings)
    require_store(settings.storage.url)
    require_current_file(settings.storage.url)
    async with llmspell.connect(settings.storage.url, settings=without_migrating(settings)) as spell:
        schema = await spell.admin.migration_status()
        size = await spell.admin.size()
        tenants, more = await _tenants(spell) if all_tenants else ([settings.tenant_id], False)
        held = [await spell.admin.holdings(tenant) for tenant in tenants]
    return {
        "backend": spell.backend,
        "url": masked(settings.storage.url),
        "schema_version": schema.version,
        "pending_migrations": len(schema.pending),
        "size_bytes": size.total_bytes,
        "size_parts": size.parts,
        "capabilities": {one.value: one in spell.capabilities for one in Capability},
        "tenants": [{**plain(one), "vectors": one.vectors} for one in held],
        "more_tenants": more,
    }


async def _tenants(spell: Spell) -> tuple[list[str], bool]:
    """Return the ids of all tenants, up to a limit, and whether there are more."""
    ids: list[str] = []
    cursor: str | None = None
    while len(ids) < TENANTS_MAX:
        page = await spell.tenants.list(cursor=cursor, limit=TENANTS_PAGE)
        ids += [tenant.tenant_id for tenant in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return ids, False
    return ids, True


def _info_lines(document: dict[str, Any]) -> Iterable[str]:
    yield f"{document['backend']} at {printable(document['url'])}"
    yield f"  schema   version {document['schema_version']}, {document['pending_migrations']} pending"
    parts = ", ".join(f"{name} {size:,}" for name, size in document["size_parts"].items())
    yield f"  size     {counted(document['size_bytes'], 'byte')}{f' ({parts})' if parts else ''}"
    can = [name for name, there in document["capabilities"].items() if there]
    yield f"  can      {', '.join(can) or 'nothing beyond the contract'}"
    for held in document["tenants"]:
        yield f"tenant {printable(held['tenant'])}"
        kept = {name: count for name, count in held["records"].items() if count}
        yield f"  {counted(held['vectors'], 'vector'):20} in {counted(len(held['spaces']), 'space')}"
        for space in held["spaces"]:
            yield f"    {space['vectors']:>12,}  {printable(space['space_id'])} ({space['dimension']} dimensions)"
        for name, count in kept.items():
            yield f"  {count:>14,}  {name}"
    if document["more_tenants"]:
        yield f"There are more than {TENANTS_MAX:,} tenants; the others are not shown."


@storage.command()
@backend_option("The store to prove")
@click.argument("components", nargs=-1, metavar="[COMPONENT]…")
@click.option("--dry-run", is_flag=True, help="Say what would be applied and proved, change nothing.")
@async_command
async def validate(backend: str | None, components: tuple[str, ...], *, dry_run: bool) -> ExitCode:
    """Make the store ready, and prove each of its components by writing, reading and deleting.

    A file that is not there is made, and what is pending is migrated: on a server with DATABASE_ADMIN_URL, the role that owns the
    schema. Each component is then proved in a transaction that is rolled back, for a tenant that nobody has: nothing stays.
    Without names all components are proved. Exit code 1 when one fails.
    """
    import llmspell
    from llmspell.ops.migrations import planned
    from llmspell.ops.named_store import require_named_store, without_migrating
    from llmspell.ops.validation import require_components

    chosen = require_components(components)
    settings, output = settings_of(backend), current_output()
    require_named_store(settings)
    before = await asyncio.to_thread(planned, settings)
    pending = [one.name for one in before.pending]
    if dry_run:
        output.emit(_validated(settings, before.version, pending, dry_run=True), lines=lambda: [*pending, *chosen])
        output.note(f"{counted(len(pending), 'migration')} and {counted(len(chosen), 'proof')}; nothing was changed.")
        return ExitCode.OK
    after = await migrated(settings, before)
    async with llmspell.connect(settings.storage.url, settings=without_migrating(settings)) as spell:
        proofs = await spell.admin.validate(*chosen)
    document = _validated(settings, after.version, pending, proofs=proofs)
    output.emit(document, lines=lambda: map(_proof_line, proofs), columns=("component", "result", "time"))
    output.note(f"The schema is at version {after.version}; {len(pending)} applied.")
    return ExitCode.OK if document["valid"] else ExitCode.FAILED


def _validated(
    settings: Settings,
    version: int,
    applied: list[str],
    *,
    proofs: Sequence[ComponentProof] = (),
    dry_run: bool = False,
) -> dict[str, Any]:
    from llmspell.settings import masked

    return {
        "backend": settings.storage.backend,
        "url": masked(settings.storage.url),
        "schema_version": version,
        "applied": applied,
        "components": proofs,
        "valid": None if dry_run else all(proof.proved for proof in proofs),
        "dry_run": dry_run,
    }


def _proof_line(proof: ComponentProof) -> str:
    result = "ok" if proof.proved else f"failed: {printable(proof.problem or '')}"
    return f"{proof.component}\t{result}\t{proof.elapsed_ms:.1f} ms"


for moving in (storage_transfer.export, storage_transfer.import_, storage_transfer.transfer, storage_transfer.verify):
    storage.add_command(moving)
