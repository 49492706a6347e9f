"""`llmspell database`: migrate the store, see its schema and its health, tune its index.

Not here: what a migration does (`storage.relational.migrations`).

Rule 1: a server is migrated as the role of storage.postgres.admin_url (DATABASE_ADMIN_URL); serving roles cannot.
Rule 2: status and dry runs change nothing: no file is made, no migration runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from llmspell.cli.commands.database_diagnostics import isolation, pool_size
from llmspell.cli.commands.database_inspect import inspect, terminate
from llmspell.cli.commands.database_maintenance import reindex, tune, vacuum
from llmspell.cli.commands.database_partitions import partitions
from llmspell.cli.commands.database_signing import signing
from llmspell.cli.commands.database_vectors import partition_vectors, vector_indexes
from llmspell.cli.output import async_command, counted, current_options, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings, open_spell, require_store
from llmspell.codec import DIMENSIONS
from llmspell.errors import (
    AccessRefused,
    InvalidSetting,
    SchemaOutdated,
    SignatureRefused,
    TenantKeyMissing,
    Unavailable,
    Unsupported,
)
from llmspell.storage.contracts.capabilities import Capability

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.storage.contracts.backend import MigrationStatus

BACKENDS = ("memory", "sqlite", "postgres", "postgresql")


@group()
def database() -> None:
    """Migrate, verify and tune the store."""


database.add_command(isolation)
database.add_command(pool_size)
database.add_command(inspect)
database.add_command(partitions)
database.add_command(reindex)
database.add_command(terminate)
database.add_command(tune)
database.add_command(vacuum)
database.add_command(signing)
database.add_command(vector_indexes)
database.add_command(partition_vectors)


@database.command()
@click.option("--dry-run", is_flag=True, help="Say what would run, change nothing.")
@async_command
async def migrate(dry_run: bool) -> None:
    """Apply pending migrations, each in a transaction of its own.

    On PostgreSQL this needs DATABASE_ADMIN_URL (storage.postgres.admin_url), the role that owns the schema.
    """
    settings, output = current_settings(), current_output()
    before = await _before_migrating(settings)
    if dry_run:
        document = {**_store(settings), "version": before.version, "pending": before.pending, "dry_run": True}
        output.emit(document, lines=lambda: before.pending)
        said = f"{len(before.pending)} would run; nothing was changed." if before.pending else "nothing is pending."
        output.note(f"{_named(settings)}: {said}")
        return
    after = await _migrated(settings, needed=bool(before.pending))
    applied = after.applied[len(before.applied) :]
    document = {**_store(settings), "version": after.version, "applied": applied, "dry_run": False}
    output.emit(document, lines=lambda: applied)
    output.note(f"{_named(settings)}: the schema is at version {after.version}; {len(applied)} applied.")


@database.command()
@async_command
async def status() -> ExitCode:
    """Show the store, the version of its schema, and what is pending. Exit code 5 when something is."""
    settings = current_settings()
    return _emit_status(settings, await _status(settings))


@database.group()
def migrations() -> None:
    """The migrations of this release."""


@migrations.command("list")
@async_command
async def list_migrations() -> ExitCode:
    """List every migration: its state (applied or pending) and its name. Exit code 5 when something is pending."""
    settings = current_settings()
    return _emit_status(settings, await _status(settings))


@database.command()
@click.option("--backend", type=click.Choice(BACKENDS), help="The store to look at; default: the configured one.")
@async_command
async def health(backend: str | None) -> None:
    """Open the store, ask it something, and show what it is and can do.

    Exit code 3 when it cannot be reached, 1 when it is a file that is not there.
    """
    import llmspell
    from llmspell.ops.named_store import require_named_store
    from llmspell.settings import masked

    settings = _settings_of(backend)
    require_named_store(settings)
    require_store(settings.storage.url)
    started = time.perf_counter()
    async with llmspell.connect(settings.storage.url, settings=settings) as spell:
        opened = time.perf_counter()
        await spell.admin.check()
        checked = time.perf_counter()
        schema = await spell.admin.migration_status()
        pool = spell.admin.pool_status()
    document = {
        "healthy": True,
        "backend": spell.backend,
        "url": masked(settings.storage.url),
        "open_ms": round((opened - started) * 1e3, 2),
        "check_ms": round((checked - opened) * 1e3, 2),
        "schema_version": schema.version,
        "pending_migrations": len(schema.pending),
        "connections": pool,
        "capabilities": {one.value: one in spell.capabilities for one in Capability},
    }
    current_output().emit(document, lines=lambda: _health_lines(document))


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


def _settings_of(backend: str | None) -> Settings:
    """Return the settings for one backend: with its configured URL, whatever the store in use is.

    Raises:
        InvalidSetting, UsageError: no store of that backend is configured, or --store names another.
    """
    from llmspell.settings import load_settings

    settings = current_settings()
    wanted = "postgresql" if backend == "postgres" else backend
    if wanted in (None, settings.storage.backend):
        return settings
    if current_options().store is not None:
        raise click.UsageError(f"--store names another backend than {backend}")
    if wanted == "postgresql" and settings.storage.postgres.url is None:
        raise InvalidSetting("No PostgreSQL is configured.", hint="Set storage.postgres.url or DATABASE_URL.")
    from llmspell.settings import default_store_url

    urls = {"memory": "memory://", "sqlite": default_store_url(), "postgresql": settings.storage.postgres.url}
    return load_settings(current_options().config, overrides={"storage.url": urls[wanted or "sqlite"]})


async def _status(settings: Settings) -> MigrationStatus:
    """Look at the schema without changing it."""
    import llmspell
    from llmspell.ops.named_store import require_named_store
    from llmspell.ops.schema_status import is_file, status_of_file, status_of_outdated_server, status_of_server
    from llmspell.settings import load_settings

    require_named_store(settings)
    url = settings.storage.url
    if is_file(url):
        return status_of_file(url)
    quiet = load_settings(
        current_options().config, overrides={"storage.url": url, "storage.postgres.auto_migrate": False}
    )
    try:
        async with llmspell.connect(url, settings=quiet) as spell:
            return await spell.admin.migration_status()
    except SchemaOutdated as error:
        return status_of_outdated_server(error)
    except (TenantKeyMissing, SignatureRefused):
        return await asyncio.to_thread(status_of_server, url)


async def _before_migrating(settings: Settings) -> MigrationStatus:
    """Look at the schema, as the owner where the serving role cannot: a migration may be what makes that role."""
    from llmspell.ops.schema_status import status_of_server

    admin_url = settings.storage.postgres.admin_url
    try:
        return await _status(settings)
    except (Unavailable, AccessRefused):
        if admin_url is None or settings.storage.backend != "postgresql":
            raise
        return await asyncio.to_thread(status_of_server, admin_url)


async def _migrated(settings: Settings, *, needed: bool) -> MigrationStatus:
    import llmspell
    from llmspell.ops.schema_status import status_of_server
    from llmspell.settings import load_settings

    url = settings.storage.url
    if settings.storage.backend == "postgresql" and needed and settings.storage.postgres.admin_url is None:
        raise InvalidSetting(
            "Migrations run as the role that owns the schema, and no URL of it is configured.",
            hint="Set DATABASE_ADMIN_URL, or storage.postgres.admin_url.",
        )
    willing = load_settings(
        current_options().config, overrides={"storage.url": url, "storage.postgres.auto_migrate": True}
    )
    try:
        async with llmspell.connect(url, settings=willing) as spell:
            return await spell.admin.run_migrations()
    except (TenantKeyMissing, SignatureRefused):
        # They come after the migrations, which the owner has run: only serving needs the key.
        return await asyncio.to_thread(status_of_server, url)
    except (Unavailable, AccessRefused) as error:
        if settings.storage.backend != "postgresql" or settings.storage.postgres.admin_url is None:
            raise
        found = await asyncio.to_thread(status_of_server, settings.storage.postgres.admin_url)
        raise type(error)(
            error.detail,
            hint=f"The schema is at version {found.version}, {len(found.pending)} pending: DATABASE_ADMIN_URL works. The store"
            " itself (DATABASE_URL, storage.url) cannot be opened as the serving role; mend that, and migrate again.",
            **error.fields,
        ) from error


def _store(settings: Settings) -> dict[str, str]:
    """Return which store a command acted on: a variable that was not set leads to another than one thinks."""
    from llmspell.settings import masked

    return {"backend": settings.storage.backend, "url": masked(settings.storage.url)}


def _named(settings: Settings) -> str:
    store = _store(settings)
    place = store["url"].partition("://")[2]
    if store["backend"] == "sqlite":
        place = str(Path(unquote(place.removeprefix("/"))).absolute())
    return f"{store['backend']} {printable(place)}".strip()


def _emit_status(settings: Settings, found: MigrationStatus) -> ExitCode:
    output = current_output()
    rows = [(name, "applied") for name in found.applied] + [(name, "pending") for name in found.pending]
    output.emit(
        {**_store(settings), "version": found.version, "applied": found.applied, "pending": found.pending},
        lines=lambda: (f"{state}\t{name}" for name, state in rows),
        columns=("state", "migration"),
    )
    output.note(f"{_named(settings)}: the schema is at version {found.version}; {len(found.pending)} pending.")
    if found.pending:
        output.note("Run: llmspell database migrate")
    return ExitCode.CONFLICT if found.pending else ExitCode.OK


def _health_lines(document: dict[str, Any]) -> Iterable[str]:
    yield f"{document['backend']} at {document['url']} is healthy"
    yield f"  opened in        {document['open_ms']:.1f} ms"
    yield f"  answered in      {document['check_ms']:.1f} ms"
    yield f"  schema           version {document['schema_version']}, {document['pending_migrations']} pending"
    pool = document["connections"]
    yield f"  connections      {pool.size}, {pool.available} idle, {pool.waiting} waiting"
    can = [name for name, there in document["capabilities"].items() if there]
    yield f"  can              {', '.join(can) or 'nothing beyond the contract'}"
