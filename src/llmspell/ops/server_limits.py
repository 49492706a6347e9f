"""What the server behind the settings allows, for whoever sizes a pool or looks whether all is well.

Not here: the arithmetic (`pool_sizing`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmspell.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from llmspell.clock import Clock
    from llmspell.settings import Settings
    from llmspell.storage.postgres.limits import ServerLimits

SCHEMES = ("postgresql://", "postgres://")


def is_server(settings: Settings) -> bool:
    """Say whether the store is a server."""
    return settings.storage.url.startswith(SCHEMES)


def limits_of(settings: Settings, *, clock: Clock) -> ServerLimits:
    """Ask the server, as its owner where that URL is known, otherwise as the serving role.

    Raises:
        Unsupported: the store is no server.
        Unavailable, StorageError, AccessRefused: it cannot be asked.
    """
    if not is_server(settings):
        raise Unsupported(
            "Not offered on this backend: there is no server whose connections are to be shared.",
            hint="Name a server: --store postgresql://…; or compute with --cores N --max-connections N alone.",
        )
    from llmspell.storage.postgres.limits import read_limits

    return read_limits(settings.storage.postgres.admin_url or settings.storage.url, clock=clock)


def cores_of(limits: ServerLimits) -> int:
    """Return the cores of a server on this machine.

    Raises:
        InvalidInput: it is on another, and a server does not tell how many it has.
    """
    if not limits.here:
        raise InvalidInput(
            "cores",
            "must be given: the server is on another machine, and does not tell how many cores it has",
            hint="Add --cores N.",
        )
    return os.cpu_count() or 1


def configured_size(settings: Settings) -> int:
    """Return the pool size of each process."""
    return settings.storage.postgres.pool_size
