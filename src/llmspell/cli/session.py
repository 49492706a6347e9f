"""What a command works on: the settings of this command line, the store and the tenant they name.

    @async_command
    async def search(query: str) -> None:
        async with open_tenant() as tenant:
            hits = await tenant.memory.search(query)

Rule 1: settings are loaded once per process; `--store`, `--tenant` and `--config` come last and win.
Rule 2: the store is opened by the command that needs it and closed when the command ends, also after an error.
Rule 3: a file is made only by a command that keeps something (`creates=True`): who only asks is told that there is none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from llmspell.cli.output import current_options
from llmspell.errors import NotFound
from llmspell.ops.named_store import BACKENDS, url_of_backend

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.spell import Spell, Tenant

_SETTINGS = "llmspell.cli.settings"
F = TypeVar("F", bound=Callable[..., object])


def backend_option(text: str) -> Callable[[F], F]:
    """Give a command the option `--backend`; `settings_of` reads what was given."""
    return click.option("--backend", type=click.Choice(BACKENDS), help=f"{text}; default: the configured one.")


def current_settings() -> Settings:
    """Load the settings of this command line, once.

    Raises:
        ConfigError: a file or a variable cannot be used.
    """
    from llmspell.observe import configure_logging
    from llmspell.settings import load_settings

    meta = click.get_current_context().meta
    if _SETTINGS not in meta:
        options = current_options()
        given = {"storage.url": options.store, "tenant_id": options.tenant}
        overrides = {key: value for key, value in given.items() if value is not None}
        settings = load_settings(options.config, overrides=overrides)
        configure_logging(settings.monitoring.logs_level, as_json=settings.monitoring.logs_format == "json")
        meta[_SETTINGS] = settings
    return meta[_SETTINGS]  # type: ignore[no-any-return]


def settings_of(backend: str | None) -> Settings:
    """Return the settings for one backend: with its configured URL, whatever the store in use is.

    Raises:
        InvalidSetting, UsageError: no store of that backend is configured, or --store names another.
    """
    from llmspell.settings import load_settings

    settings = current_settings()
    url = url_of_backend(settings, backend)
    if url == settings.storage.url:
        return settings
    if current_options().store is not None:
        raise click.UsageError(f"--store names another backend than {backend}")
    return load_settings(current_options().config, overrides={"storage.url": url, "tenant_id": settings.tenant_id})


def require_store(url: str) -> None:
    """Refuse a store in a file that is not there, before opening it would make it.

    Raises:
        NotFound: names the file.
    """
    from llmspell.ops.schema_status import missing_file

    path = missing_file(url)
    if path is not None:
        raise NotFound(
            "There is no store yet; nothing was made.",
            hint="Keep something first (llmspell add …), name another (--store URL), or make an empty store:"
            " llmspell database migrate (is it the right one? llmspell config explain storage.url)",
            path=str(path),
        )


@asynccontextmanager
async def open_spell(*, creates: bool = False) -> AsyncIterator[Spell]:
    """Open the configured store and close it at the end. `creates`: the command keeps something, so a file may be made.

    Raises:
        NotFound: the store is a file that is not there, and the command would keep nothing in it.
    """
    import llmspell
    from llmspell.ops.named_store import require_named_store

    settings = current_settings()
    require_named_store(settings)
    if not creates:
        require_store(settings.storage.url)
    async with llmspell.connect(settings.storage.url, settings=settings) as spell:
        yield spell


@asynccontextmanager
async def open_tenant(*, creates: bool = False) -> AsyncIterator[Tenant]:
    """Open the configured store as `open_spell` does, bound to the tenant of `--tenant` or of the settings."""
    async with open_spell(creates=creates) as spell:
        yield spell.tenant(current_settings().tenant_id)
