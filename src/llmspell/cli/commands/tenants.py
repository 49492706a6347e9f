"""`llmspell tenants`: which tenants a store knows, and who of them is served.

Not here: what a tenant id may be (`tenant`), what the registry promises (`storage.contracts.tenants`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from llmspell.cli.output import async_command, current_output, group, plain, plain_lines, printable
from llmspell.cli.session import open_spell
from llmspell.errors import TenantUnknown
from llmspell.storage.contracts.tenants import QuotaLimits, TenantRecord, TenantStatus, TenantUsage

if TYPE_CHECKING:
    from llmspell.spell import Spell

STATUSES = get_args(TenantStatus)
COLUMNS = ("id", "status", "name", "since")
NO_LIMIT = -1
QUOTAS = {
    "max_documents": "memories",
    "max_storage_mb": "stored MiB",
    "max_vectors": "vectors",
    "max_api_calls_per_minute": "calls per minute",
    "max_api_calls_per_day": "calls per day",
    "max_embeddings_per_day": "embeddings per UTC day",
}


class Granted(click.ParamType[int]):
    """A whole number from 0, or `none` for no limit."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "none":
            return NO_LIMIT
        return click.IntRange(0).convert(value, param, ctx)


def by_whom(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --actor."""
    return click.option("--actor", help="Who asks for it, for the audit log; default: operator.")(function)


def quota_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each quota."""
    for name, what in reversed(QUOTAS.items()):
        flag = "--" + name.replace("_", "-")
        function = click.option(flag, name, type=Granted(), help=f"How many {what} it is granted.")(function)
    return function


@group()
def tenants() -> None:
    """Register tenants, suspend them, and look them up.

    On a server a tenant must be registered before it can keep anything. In a file or in memory its first write does it,
    unless tenancy.auto_create_tenants says otherwise. Everything but create, show and usage is the operator's work, and needs
    DATABASE_OPERATOR_URL on a server. Every change is recorded in the tenant's audit log.
    """


@tenants.command()
@click.argument("id_", metavar="ID")
@click.option("--name", help="What people call it; default: its id.")
@click.option("--exist-ok", is_flag=True, help="Be content when it is registered already, and leave it as it is.")
@by_whom
@quota_options
@async_command
async def create(id_: str, name: str | None, *, exist_ok: bool, actor: str | None, **quotas: int | None) -> None:
    """Register a tenant. Quotas that are not given are those of the settings. Exit code 5 when it is registered already."""
    async with open_spell(creates=True) as spell:
        granted = _changed(spell.tenants.defaults.quotas, quotas)
        record = await spell.tenants.create(id_, name=name, quotas=granted, exist_ok=exist_ok, actor=actor)
    current_output().emit(record, lines=lambda: [printable(record.tenant_id)])


@tenants.command()
@click.argument("id_", metavar="ID")
@async_command
async def show(id_: str) -> None:
    """Show a tenant: its id, its name, its status, its quotas, what it uses, and since when it is registered.

    Exit code 1 when it is not.
    """
    async with open_spell() as spell:
        record = await _required(spell, id_)
        used = await spell.tenants.usage(id_)
    document = {**plain(record), "usage": plain(used)}
    current_output().emit(document, lines=lambda: [*_lines(record), *(f"used_{line}" for line in _use_lines(used))])


@tenants.command()
@click.argument("id_", metavar="ID")
@async_command
async def usage(id_: str) -> None:
    """Show what a tenant uses of its quotas. In a pipe each is a line: what, used, limit, parted by tabs.

    Memories, bytes of texts, values and contents, vectors, and texts that were embedded on the present UTC day; those are
    counted only while they are limited. Exit code 1 when the tenant is not registered.
    """
    async with open_spell() as spell:
        await _required(spell, id_)
        used = await spell.tenants.usage(id_)
    current_output().emit(used, lines=lambda: map(_use_line, plain(used).items()), columns=("what", "used", "limit"))


@tenants.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only tenants of this status.")
@click.option("--cursor", help="Go on behind a page: the cursor that it ended with.")
@click.option("--limit", type=int, default=100, show_default=True, help="How many tenants, 1 to 1,000.")
@async_command
async def list_(**conditions: Any) -> None:
    """List tenants by id. In a pipe each is a line: id, status, name, since when, parted by tabs."""
    async with open_spell() as spell:
        page = await spell.tenants.list(**conditions)
    current_output().emit(page, lines=lambda: map(_line, page.items), columns=COLUMNS)


@tenants.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", help="Why, for whoever looks at the tenant, and for the audit log.")
@by_whom
@async_command
async def suspend(id_: str, reason: str | None, actor: str | None) -> None:
    """Refuse every call of a tenant from now on, everywhere within a second. Its data stays as it is."""
    async with open_spell() as spell:
        record = await spell.tenants.suspend(id_, reason=reason, actor=actor)
    _emit(record)


@tenants.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", help="Why, for the audit log.")
@by_whom
@async_command
async def resume(id_: str, reason: str | None, actor: str | None) -> None:
    """Serve a suspended tenant again."""
    async with open_spell() as spell:
        record = await spell.tenants.resume(id_, reason=reason, actor=actor)
    _emit(record)


@tenants.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", help="Why, for whoever looks at the tenant, and for the audit log.")
@click.option("--yes", is_flag=True, help="Do it without asking: there is no way back.")
@by_whom
@async_command
async def delete(id_: str, reason: str | None, *, yes: bool, actor: str | None) -> None:
    """Mark a tenant as deleted, for good: every call is refused and its id stays taken. This erases no data."""
    if not yes:
        raise click.UsageError("this cannot be undone; say so with --yes")
    async with open_spell() as spell:
        record = await spell.tenants.delete(id_, reason=reason, actor=actor)
    _emit(record)


@tenants.command()
@click.argument("id_", metavar="ID")
@by_whom
@quota_options
@async_command
async def quota(id_: str, *, actor: str | None, **quotas: int | None) -> None:
    """Show what a tenant is granted, or change what is given; `none` is no limit.

    A write that would exceed a quota is refused as a whole. A quota below the use refuses what adds; deleting goes on. Calls are
    recorded for a server, and nothing refuses them yet.
    """
    async with open_spell() as spell:
        record = await _required(spell, id_)
        granted = _changed(record.quotas, quotas)
        if granted is not None:
            record = await spell.tenants.update(id_, quotas=granted, expected_version=record.version, actor=actor)
    current_output().emit(record.quotas, lines=lambda: plain_lines(plain(record.quotas)))


async def _required(spell: Spell, id: str) -> TenantRecord:
    record = await spell.tenants.get(id)
    if record is None:
        raise TenantUnknown(tenant=id)
    return record


def _changed(before: QuotaLimits, given: dict[str, int | None]) -> QuotaLimits | None:
    """Return quotas with what was given, or None when nothing was."""
    changes = {name: None if value == NO_LIMIT else value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(before, **changes) if changes else None


def _emit(record: TenantRecord) -> None:
    current_output().emit(record, lines=lambda: [_line(record)])


def _line(record: TenantRecord) -> str:
    since = record.created_at.isoformat().replace("+00:00", "Z")
    return "\t".join(map(printable, (record.tenant_id, record.status, record.name, since)))


def _use_line(use: tuple[str, dict[str, Any]]) -> str:
    what, numbers = use
    return "\t".join((what, str(numbers["used"]), "none" if numbers["limit"] is None else str(numbers["limit"])))


def _use_lines(used: TenantUsage) -> Iterable[str]:
    return plain_lines({what: use["used"] for what, use in plain(used).items()})


def _lines(record: TenantRecord) -> Iterable[str]:
    document = plain(record)
    quotas = document.pop("quotas")
    return plain_lines({**document, **quotas})
