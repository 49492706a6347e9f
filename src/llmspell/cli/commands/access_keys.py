"""`llmspell access-keys`: credentials to us.

Rule: a key is printed once, by the command that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import click

from llmspell.cli.output import async_command, current_output, group, plain, printable
from llmspell.cli.session import open_tenant
from llmspell.storage.contracts.access_keys import AccessKeyStatus

if TYPE_CHECKING:
    from llmspell.security.access_keys import IssuedKey
    from llmspell.storage.contracts.access_keys import AccessKey

COLUMNS = ("id", "status", "name", "principal", "scopes", "until", "last use")


@group("access-keys")
def access_keys() -> None:
    """Issue and revoke credentials to llmspell.

    The tenant is that of --tenant, or of the settings.
    """


def by_whom(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --actor."""
    return click.option("--actor", metavar="NAME", help="Who does it, for the audit log; default: system.")(function)


def until_when(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the end of a new key."""
    ttl_s = click.option("--ttl-s", type=float, help="Let it expire so many seconds from now.")
    return ttl_s(click.option("--expires-at", metavar="TIME", help="Let it expire then.")(function))


@access_keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="read, write, admin or concern:verb; repeatable.")
@click.option("--principal", help="Whom requests with it are made for; default: its name.")
@until_when
@by_whom
@async_command
async def issue(name: str, scopes: tuple[str, ...], **about: Any) -> None:
    """Make a key and print it: this is the only time that it is shown."""
    async with open_tenant(creates=True) as tenant:
        _emit(await tenant.access_keys.issue(name=name, scopes=scopes, **about))


@access_keys.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--overlap-s", type=float, default=0.0, show_default=True, help="Accept the old key so many seconds more."
)
@until_when
@by_whom
@async_command
async def rotate(id_: str, **about: Any) -> None:
    """Make the successor of a key and print it: this is the only time that it is shown."""
    async with open_tenant() as tenant:
        _emit(await tenant.access_keys.rotate(id_, **about))


@access_keys.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", help="Why, for whoever looks at the key, and for the audit log.")
@by_whom
@async_command
async def revoke(id_: str, reason: str | None, actor: str | None) -> None:
    """Refuse a key from now on."""
    async with open_tenant() as tenant:
        key = await tenant.access_keys.revoke(id_, reason=reason, actor=actor)
    current_output().emit(key, lines=lambda: [_line(key)])


@access_keys.command("list")
@click.option("--status", type=click.Choice(get_args(AccessKeyStatus)), help="Only keys of this status.")
@click.option("--cursor", help="Go on behind a page: the cursor that it ended with.")
@click.option("--limit", type=int, default=100, show_default=True, help="How many, 1 to 1,000.")
@async_command
async def list_(**conditions: Any) -> None:
    """List what is known of keys, newest first.

    In a pipe each key is a line: id, status, name, principal, scopes, until when, last use, parted by tabs.
    """
    async with open_tenant() as tenant:
        page = await tenant.access_keys.list(**conditions)
    current_output().emit(page, lines=lambda: map(_line, page.items), columns=COLUMNS)


def _emit(issued: IssuedKey) -> None:
    key = issued.key.reveal()
    output = current_output()
    output.emit({"key": key, "info": plain(issued.info)}, lines=lambda: [key])
    output.note("This is the only time that the key is shown.")


def _cells(key: AccessKey) -> list[str]:
    until, used = (
        None if at is None else at.isoformat().replace("+00:00", "Z") for at in (key.expires_at, key.last_used_at)
    )
    cells = [str(key.key_id), key.status, key.name, key.principal, " ".join(key.scopes), until or "-", used or "-"]
    return [printable(cell) for cell in cells]


def _line(key: AccessKey) -> str:
    return "\t".join(_cells(key))
