"""`llmspell audit`: who did what, and whether the record of it still holds.

Not here: what an entry is and how it is hashed (`storage.contracts.audit`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, get_args

import click

from llmspell.cli.output import async_command, counted, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings, open_spell
from llmspell.errors import TenantUnknown
from llmspell.storage.contracts.audit import AuditEntry, AuditHead, Decision

if TYPE_CHECKING:
    from llmspell.storage.contracts.audit import Audit, AuditVerification

DECISIONS = get_args(Decision)
COLUMNS = ("", "at", "operation", "principal", "resource", "decision", "reason")


class Anchor(click.ParamType[AuditHead]):
    """An argument `NUMBER:HASH`, as `llmspell audit head` prints it."""

    name = "number:hash"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AuditHead:
        if isinstance(value, AuditHead):
            return value
        number, colon, hashed = str(value).partition(":")
        if not (colon and number.isascii() and number.isdecimal()):
            self.fail("must be NUMBER:HASH, as `llmspell audit head` prints it", param, ctx)
        return AuditHead(sequence=int(number), entry_hash=hashed)


def by_the_operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --as-operator."""
    return click.option(
        "--as-operator", is_flag=True, help="Read it as the operator: also of a tenant that is suspended or deleted."
    )(function)


@group()
def audit() -> None:
    """Read the audit log, and check that nobody tampered with it.

    The tenant is that of --tenant, or of the settings.
    """


@audit.command("list")
@click.option("--since", metavar="TIME", help="Only entries from then on.")
@click.option("--until", metavar="TIME", help="Only entries before then.")
@click.option("--operation", help="Only this operation, such as tenants.suspend.")
@click.option("--principal", help="Only what this one did.")
@click.option("--decision", type=click.Choice(DECISIONS), help="Only what was decided so.")
@click.option("--cursor", help="Go on behind a page: the cursor that it ended with.")
@click.option("--limit", type=int, default=100, show_default=True, help="How many entries, 1 to 1,000.")
@by_the_operator
@async_command
async def list_(*, as_operator: bool, **conditions: Any) -> None:
    """List entries, latest first.

    In a pipe each entry is a line: number, time, operation, principal, resource, decision, reason, parted by tabs.
    """
    async with _open_audit(as_operator) as log:
        page = await log.list(**conditions)
    current_output().emit(page, lines=lambda: map(_line, page.items), columns=COLUMNS)


@audit.command()
@click.option("--anchor", type=Anchor(), help="NUMBER:HASH of an earlier `llmspell audit head`.")
@by_the_operator
@async_command
async def verify(anchor: AuditHead | None, *, as_operator: bool) -> ExitCode:
    """Check every hash of the chain. Exit code 1 when it does not hold.

    Without --anchor a chain that was rewritten from some entry to its end, its head with it, cannot be told from an honest one.
    """
    async with _open_audit(as_operator) as log:
        found = await log.verify(anchor=anchor)
    current_output().emit(found, lines=lambda: _verdict(found))
    return ExitCode.OK if found.intact else ExitCode.FAILED


@audit.command()
@by_the_operator
@async_command
async def head(*, as_operator: bool) -> None:
    """Print where the chain ends, as NUMBER:HASH. Note it outside of the store, for `llmspell audit verify --anchor`."""
    async with _open_audit(as_operator) as log:
        found = await log.head()
    current_output().emit(found, lines=lambda: [f"{found.sequence}:{found.entry_hash}"])


@asynccontextmanager
async def _open_audit(as_operator: bool) -> AsyncIterator[Audit]:
    id = current_settings().tenant_id
    async with open_spell() as spell:
        if await spell.tenants.get(id) is None:  # a chain that nobody began must not be called intact
            raise TenantUnknown(tenant=id)
        yield spell.tenants.audit(id) if as_operator else spell.tenant(id).audit


def _line(entry: AuditEntry) -> str:
    cells = [str(entry.sequence), _iso(entry), entry.operation, entry.principal, entry.resource, entry.decision]
    return "\t".join(map(printable, [*cells, entry.reason or ""]))


def _iso(entry: AuditEntry) -> str:
    return entry.at.isoformat().replace("+00:00", "Z")


def _verdict(found: AuditVerification) -> Iterable[str]:
    checked = counted(found.checked, "entry", "entries")
    if found.intact:
        yield f"intact: {checked}, head {found.head.sequence}:{found.head.entry_hash}"
        return
    yield f"broken at {found.broken_at} ({found.problem}): {found.explanation}"
    yield f"{checked} before it hold" if found.checked != 1 else f"{checked} before it holds"
