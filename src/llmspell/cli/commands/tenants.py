"""`llmspell tenants`: which tenants a store knows.

Not here: what a tenant id may be (`tenant`), what the registry promises (`storage.contracts.tenants`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from llmspell.cli.output import async_command, current_output, group, plain, plain_lines, printable
from llmspell.cli.session import open_spell
from llmspell.errors import TenantUnknown

if TYPE_CHECKING:
    from llmspell.storage.contracts.tenants import TenantRecord


@group()
def tenants() -> None:
    """Register tenants, and look them up.

    On a server a tenant must be registered before it can keep anything. In a file or in memory its first write does it,
    unless tenancy.auto_create_tenants says otherwise.
    """


@tenants.command()
@click.argument("id_", metavar="ID")
@click.option("--name", help="What people call it; default: its id.")
@click.option("--exist-ok", is_flag=True, help="Be content when it is registered already, and leave it as it is.")
@async_command
async def create(id_: str, name: str | None, exist_ok: bool) -> None:
    """Register a tenant. Exit code 5 when it is registered already."""
    async with open_spell(creates=True) as spell:
        record = await spell.tenants.create(id_, name=name, exist_ok=exist_ok)
    current_output().emit(record, lines=lambda: [printable(record.tenant_id)])


@tenants.command()
@click.argument("id_", metavar="ID")
@async_command
async def show(id_: str) -> None:
    """Show a tenant: its id, its name, its status, and since when it is registered. Exit code 1 when it is not."""
    async with open_spell() as spell:
        record = await spell.tenants.get(id_)
    if record is None:
        raise TenantUnknown(tenant=id_)
    current_output().emit(record, lines=lambda: _lines(record))


def _lines(record: TenantRecord) -> Iterable[str]:
    return plain_lines(plain(record))
