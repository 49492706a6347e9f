"""A store beside the configured one: opened by its URL, with the settings that may be its own.

Rule: the owner's and the operator's URLs of the settings belong to the configured server and database. They are never used for
another one: what is read as the operator of one database must not come from a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from msgspec.structs import replace

from llmspell.clock import Clock
from llmspell.ids import IdSource
from llmspell.storage.contracts.backend import Backend

if TYPE_CHECKING:
    from llmspell.settings import Settings

_DEFAULT_PORT = 5432


@asynccontextmanager
async def other_store(
    url: str, *, settings: Settings, clock: Clock, operator_url: str | None = None
) -> AsyncIterator[Backend]:
    """Open the store of `url`, and close it at the end.

    Raises:
        InvalidUrl, StorageError, ConfigError: it cannot be opened.
    """
    from llmspell.storage.open import open_backend

    chosen = settings_of_other(settings, url, operator_url=operator_url)
    backend = await open_backend(url, settings=chosen, clock=clock, ids=IdSource(clock))
    try:
        yield backend
    finally:
        await backend.close()


def settings_of_other(settings: Settings, url: str, *, operator_url: str | None = None) -> Settings:
    """Return the settings with `url` as the store, and without the URLs of roles of another database than its own."""
    server = settings.storage.postgres
    same = server.url is not None and _place(server.url) == _place(url)
    server = replace(
        server,
        admin_url=server.admin_url if same else None,
        operator_url=operator_url or (server.operator_url if same else None),
    )
    return replace(settings, storage=replace(settings.storage, url=url, postgres=server))


def _place(url: str) -> tuple[str, int, str]:
    """Return where a server's database is: host or folder of its socket, port, name."""
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    try:
        port = parts.port
    except ValueError:  # no number: whoever opens it says so
        port = None
    host = (asked.get("host") or [parts.hostname or "localhost"])[0]
    named = (asked.get("port") or [str(port or _DEFAULT_PORT)])[0]
    name = (asked.get("dbname") or [parts.path.strip("/")])[0]
    return host, int(named) if named.isdigit() else 0, name
