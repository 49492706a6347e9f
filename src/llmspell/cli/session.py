"""What a command works on: the settings of this command line, the store and the tenant they name.

    @async_command
    async def search(query: str) -> None:
        async with open_tenant() as tenant:
            hits = await tenant.memory.search(query)

Rule 1: settings are loaded once per process; `--store`, `--tenant` and `--config` come last and win.
Rule 2: the store is opened by the command that needs it and closed when the command ends, also after an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from llmspell.cli.output import current_options

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.spell import Spell, Tenant

_SETTINGS = "llmspell.cli.settings"


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


@asynccontextmanager
async def open_spell() -> AsyncIterator[Spell]:
    """Open the configured store and close it at the end."""
    import llmspell

    settings = current_settings()
    async with llmspell.connect(settings.storage.url, settings=settings) as spell:
        yield spell


@asynccontextmanager
async def open_tenant() -> AsyncIterator[Tenant]:
    """Open the configured store, bound to the tenant of `--tenant` or of the settings."""
    async with open_spell() as spell:
        yield spell.tenant(current_settings().tenant_id)
