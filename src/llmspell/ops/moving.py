"""Stores that are moved: into files, out of them, into each other, and compared. What `spell.admin` and the command line share.

Not here: the file and its rows (`storage.transfer`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import msgspec

from llmspell.clock import Clock
from llmspell.codec import require_limit
from llmspell.errors import InvalidInput, Unavailable
from llmspell.ops.other_store import other_store
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.transfer import OnConflict, OnProgress, require_on_conflict
from llmspell.tenant import TenantId, tenant_id

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.storage.transfer.reports import Report, Verification
    from llmspell.storage.transfer.streams import Input

Compression: TypeAlias = Literal["gz", "zst", "none"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
SCHEMES = ("memory:", "sqlite:", "postgres:", "postgresql:")
STORE_MAGIC = b"SQLite format 3\x00"
LIMIT_MAX = 1_000_000_000
DIFFERENCES_MAX = 1_000


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What of a store is moved: one tenant or all, some tables or all, so many things of each or all."""

    tenant: TenantId | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None


def part_of(tenant: str | None, only: Sequence[str], limit: int | None) -> Part:
    """Return the checked part.

    Raises:
        InvalidTenant, InvalidLimit; InvalidInput: `only` is one text.
    """
    if isinstance(only, str):
        raise InvalidInput("only", "must be a list of names", given=only, hint="Put brackets around it.")
    return Part(
        tenant=None if tenant is None else tenant_id(tenant),
        only=tuple(only),
        limit=None if limit is None else require_limit(limit, maximum=LIMIT_MAX),
    )


def is_store(name: str) -> bool:
    """Say whether a name is the URL of a store; otherwise it is that of a file."""
    return name.startswith(SCHEMES)


async def export_file(
    backend: Backend,
    file: str | PathLike[str],
    part: Part,
    *,
    clock: Clock,
    compress: Compression | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Write a store, or a part of one, into a file; "-" is the standard output.

    Raises:
        InvalidInput: the file holds a store, perhaps the very one that is exported: it would be replaced.
    """
    if await asyncio.to_thread(_holds_store, str(file)):
        raise InvalidInput(
            "output", "must not name a store, which would be replaced", given=str(file), hint="Choose another path."
        )
    from llmspell.storage.transfer.exporter import export
    from llmspell.storage.transfer.streams import Output

    output = Output(str(file), compress=_require_compression(compress))
    return await export(
        backend, output, clock=clock, tenant=part.tenant, only=part.only, limit=part.limit, progress=progress
    )


async def import_file(
    backend: Backend,
    file: str | PathLike[str],
    part: Part,
    *,
    on_conflict: OnConflict = "error",
    dry_run: bool = False,
    compress: Compression | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Take what a file holds, or a part of it, into a store; "-" is the standard input."""
    from llmspell.storage.transfer.importer import import_

    return await import_(
        _input(file, compress),
        backend,
        on_conflict=require_on_conflict(on_conflict),
        dry_run=dry_run,
        tenant=part.tenant,
        only=part.only,
        limit=part.limit,
        progress=progress,
    )


async def transfer_store(
    backend: Backend,
    target: Backend,
    part: Part,
    *,
    clock: Clock,
    on_conflict: OnConflict = "error",
    dry_run: bool = False,
    progress: OnProgress | None = None,
) -> Report:
    """Take a store, or a part of it, into another one without a file.

    Raises:
        InvalidInput: both are the same store, by whatever names; nothing was read.
    """
    if await backend.is_same_store(target):
        raise _same_store()
    from llmspell.storage.transfer.importer import transfer

    return await transfer(
        backend,
        target,
        clock=clock,
        on_conflict=require_on_conflict(on_conflict),
        dry_run=dry_run,
        tenant=part.tenant,
        only=part.only,
        limit=part.limit,
        progress=progress,
    )


def require_two_files(source: str, target: str) -> None:
    """See that two URLs do not name one file, before the second is opened: by another link to it a log of its own would begin.

    Raises:
        InvalidInput: they do.
    """
    from llmspell.storage.open import SQLITE, path_of

    if not (source.startswith(SQLITE) and target.startswith(SQLITE)):
        return
    one, other = (Path(path_of(url)).expanduser() for url in (source, target))
    if one.exists() and other.exists() and one.samefile(other):
        raise _same_store()


def _same_store() -> InvalidInput:
    return InvalidInput(
        "target",
        "must be another store than the one that is read, and both names lead to the same one; nothing was done",
        hint="For a copy name a file that is not there; to keep one, `llmspell backup create`.",
    )


async def require_tenant(backend: Backend, part: Part) -> None:
    """See that a store has the tenant that is to be moved, before the other one is opened, or made.

    Raises:
        TenantUnknown: it has not.
    """
    from llmspell.storage.transfer.exporter import require_known

    if part.tenant is not None:
        async with backend.transfer_source(part.tenant) as snapshot:
            await require_known(snapshot, part.tenant)


def require_input(file: str | PathLike[str]) -> None:
    """See that there is a file to read, before a store is made for it.

    Raises:
        Unavailable: there is none.
    """
    if str(file) != "-" and not Path(file).exists():
        raise Unavailable("There is no such file to import; nothing was made.", hint="Check its name.", path=str(file))


async def compare(
    first: Backend | Input,
    second: Backend | Input,
    *,
    tenant: TenantId | None = None,
    differences: int = 10,
    progress: OnProgress | None = None,
) -> Verification:
    """Compare two stores, two files, or one of each."""
    from llmspell.storage.transfer.verifier import verify

    limit = require_limit(differences, field="differences", maximum=DIFFERENCES_MAX, minimum=0)
    return await verify(first, second, tenant=tenant, limit=limit, progress=progress)


async def only_tenant(name: str) -> str | None:
    """Return the tenant that a file is an export of; None for a store, and for a file of several.

    Raises:
        InvalidInput: it is the standard input, which is gone when it has been looked at.
        TransferError, Unavailable: the file cannot be read.
    """
    if is_store(name):
        return None
    if name == "-":
        raise InvalidInput(
            "tenant",
            "must be named beside the standard input, which can be read only once",
            hint="Add --tenant NAME, or --all-tenants.",
        )
    from llmspell.storage.transfer.reader import ExportReader

    def look() -> list[str] | None:
        reader = ExportReader(_input(name, None))
        with contextlib.closing(reader):
            if not reader.start():
                reader.find_header()
            return reader.header.tenants

    tenants = await asyncio.to_thread(look)
    return tenants[0] if tenants is not None and len(tenants) == 1 else None


@asynccontextmanager
async def side(
    name: str | PathLike[str], *, settings: Settings, clock: Clock, operator_url: str | None = None
) -> AsyncIterator[Backend | Input]:
    """Open what is compared: the store that a URL names, or else a file."""
    if is_store(str(name)):
        async with other_store(str(name), settings=settings, clock=clock, operator_url=operator_url) as backend:
            yield backend
    else:
        yield _input(name, None)


def _holds_store(name: str) -> bool:
    """Say whether a name is that of a database file. One that cannot be read is left to whoever writes it."""
    try:
        path = Path(name)
        if name == "-" or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(STORE_MAGIC)) == STORE_MAGIC
    except OSError:
        return False


def _input(file: str | PathLike[str], compress: Compression | None) -> Input:
    from llmspell.storage.transfer.streams import Input

    if _holds_store(str(file)):
        raise InvalidInput(
            "input",
            "must name an export, and this is a store",
            given=str(file),
            hint="Name it by its URL, with three slashes before the path: llmspell storage transfer, or verify.",
        )
    return Input(str(file), compress=_require_compression(compress))


def _require_compression(value: Compression | None) -> Compression | None:
    if value is not None and value not in COMPRESSIONS:
        raise InvalidInput("compress", "must be `gz`, `zst` or `none`", given=value)
    return value
