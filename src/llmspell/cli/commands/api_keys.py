"""`llmspell api-keys`: keys of model providers, kept sealed for a tenant.

Rule: a key is read from a prompt or from stdin, never from an argument, and no command prints one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from llmspell.cli.output import async_command, counted, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.secrets import read_secret
from llmspell.cli.session import current_settings, open_spell, open_tenant
from llmspell.cli.values import JsonObject

if TYPE_CHECKING:
    from llmspell.spell import Spell, Tenant
    from llmspell.storage.contracts.api_keys import ApiKeyInfo

LABEL = "Key"
COLUMNS = ("service", "status", "id", "since", "until", "uses", "last use")


@group("api-keys")
def api_keys() -> None:
    """Keep the keys of model providers, sealed.

    They are sealed under a master key (llmspell keys new). The tenant is that of --tenant, or of the settings.
    """


def by_whom(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --actor."""
    return click.option("--actor", metavar="NAME", help="Who does it, for the audit log; default: system.")(function)


def about_it(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what may be said of a new key."""
    ttl_s = click.option("--ttl-s", type=float, help="Let it expire so many seconds from now.")
    expires_at = click.option("--expires-at", metavar="TIME", help="Let it expire then.")
    metadata = click.option("--metadata", type=JsonObject(), help="A JSON object that is kept beside it, readable.")
    return ttl_s(expires_at(metadata(by_whom(function))))


@api_keys.command("set")
@click.argument("service")
@about_it
@async_command
async def set_(service: str, **about: Any) -> None:
    """Keep the key of SERVICE, read from a prompt or from stdin. One that was kept before is retired."""
    key = read_secret(LABEL)
    async with open_tenant(creates=True) as tenant:
        _emit(await tenant.api_keys.set(service, key, **about))


@api_keys.command()
@click.argument("service")
@about_it
@async_command
async def rotate(service: str, **about: Any) -> None:
    """Replace the key of SERVICE by one read from a prompt or from stdin. Exit code 1 when there is none."""
    key = read_secret(LABEL)
    async with open_tenant() as tenant:
        _emit(await tenant.api_keys.rotate(service, key, **about))


@api_keys.command("list")
@click.option("--service", help="Only keys of this one.")
@click.option("--cursor", help="Go on behind a page: the cursor that it ended with.")
@click.option("--limit", type=int, default=100, show_default=True, help="How many, 1 to 1,000.")
@async_command
async def list_(**conditions: Any) -> None:
    """List what is known of keys, newest first, retired ones too. The keys themselves are not shown.

    In a pipe each key is a line: service, status, id, since when, until when, uses, last use, parted by tabs.
    """
    async with open_tenant() as tenant:
        page = await tenant.api_keys.list(**conditions)
    current_output().emit(page, lines=lambda: map(_line, page.items), columns=COLUMNS)


@api_keys.command()
@click.argument("service")
@by_whom
@async_command
async def deactivate(service: str, actor: str | None) -> None:
    """Retire the key of SERVICE without another. Exit code 1 when there is none."""
    async with open_tenant() as tenant:
        _emit(await tenant.api_keys.deactivate(service, actor=actor))


@api_keys.command()
@click.argument("service")
@click.option("--yes", is_flag=True, help="Do it without asking: there is no way back.")
@by_whom
@async_command
async def delete(service: str, *, yes: bool, actor: str | None) -> None:
    """Delete every key of SERVICE, retired ones too. Exit code 1 when there is none."""
    output = current_output()
    output.confirm(service, action=f"delete the keys of {service}", yes=yes)
    async with open_tenant() as tenant:
        deleted = await tenant.api_keys.delete(service, actor=actor)
    output.emit({"service": service, "deleted": deleted}, lines=lambda: [str(deleted)])


@api_keys.command()
@click.option("--dry-run", is_flag=True, help="Open everything, and write nothing.")
@click.option(
    "--all-tenants", is_flag=True, help="Those of every active tenant; needs the operator's role on a server."
)
@by_whom
@async_command
async def reseal(*, dry_run: bool, all_tenants: bool, actor: str | None) -> ExitCode:
    """Seal keys that lie under an older master key under the active one. Exit code 1 when one of them stays as it is.

    It may be stopped and run again. A key that does not open is printed with its tenant, parted by a tab. A suspended tenant
    keeps its keys as they are, and is named: resume it and run this again.
    """
    output = current_output()
    totals = Totals()
    async with open_spell() as spell:
        async for tenant in _tenants(spell, totals, every=all_tenants):
            await _reseal(tenant, totals, dry_run=dry_run, actor=actor)
    done = "would be sealed anew" if dry_run else "sealed anew"
    summary = f"{totals.resealed} of {counted(totals.examined, 'key')} {done}"
    output.emit({**asdict(totals), "dry_run": dry_run}, lines=lambda: [summary, *map(_broken_line, totals.broken)])
    if totals.broken:
        output.warn(
            f"{counted(len(totals.broken), 'key')} cannot be opened and stayed as they are.",
            hint="Put the master key that sealed them behind the active one: security.master_keys",
        )
    if totals.skipped:
        output.warn(f"Suspended, and left as they are: {printable(', '.join(totals.skipped))}")
    return ExitCode.FAILED if totals.broken or totals.skipped else ExitCode.OK


@dataclass
class Totals:
    """What has been done so far."""

    examined: int = 0
    resealed: int = 0
    broken: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


async def _tenants(spell: Spell, totals: Totals, *, every: bool) -> AsyncIterator[Tenant]:
    if not every:
        yield spell.tenant(current_settings().tenant_id)
        return
    cursor: str | None = None
    while True:
        page = await spell.tenants.list(cursor=cursor)
        for record in page.items:
            if record.status == "active":
                yield spell.tenant(record.tenant_id)
            elif record.status == "suspended":  # of a deleted one nobody reads the keys any more
                totals.skipped.append(record.tenant_id)
        cursor = page.next_cursor
        if cursor is None:
            return


async def _reseal(tenant: Tenant, totals: Totals, *, dry_run: bool, actor: str | None) -> None:
    after: UUID | None = None
    with current_output().progress((await tenant.api_keys.stats()).total_keys, f"Sealing {tenant.id}") as progress:
        while True:
            report = await tenant.api_keys.reseal_all(after=after, dry_run=dry_run, actor=actor)
            totals.examined += report.examined
            totals.resealed += report.resealed
            totals.broken += [{"tenant": tenant.id, "key_id": str(id)} for id in report.broken]
            progress.advance(report.examined)
            after = report.next_after
            if after is None:
                return


def _broken_line(broken: dict[str, str]) -> str:
    return f"{printable(broken['tenant'])}\t{broken['key_id']}"


def _emit(info: ApiKeyInfo) -> None:
    current_output().emit(info, lines=lambda: [_line(info)])


def _cells(info: ApiKeyInfo) -> list[str]:
    until, used = (
        None if at is None else at.isoformat().replace("+00:00", "Z") for at in (info.expires_at, info.last_used_at)
    )
    since = info.created_at.isoformat().replace("+00:00", "Z")
    cells = [info.service, info.status, str(info.key_id), since, until or "-", str(info.usage_count), used or "-"]
    return [printable(cell) for cell in cells]


def _line(info: ApiKeyInfo) -> str:
    return "\t".join(_cells(info))
