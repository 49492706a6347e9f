"""What a server allows and what it is: its limit of connections, how many are taken, its version, its clock. Synchronous."""

from __future__ import annotations

import msgspec

from llmspell.clock import Clock
from llmspell.storage.postgres.address import read_url
from llmspell.storage.postgres.errors import require_driver
from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.vector_indexes import translated

_LIMITS = """
SELECT current_setting('max_connections')::int8,
  (SELECT count(*)::int8 FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'
     AND pid <> pg_catalog.pg_backend_pid()),
  current_setting('server_version')::text,
  (SELECT e.extversion::text FROM pg_catalog.pg_extension e WHERE e.extname = 'vector'),
  extract(epoch FROM clock_timestamp())::float8
"""
_HERE = ("localhost", "127.0.0.1", "::1")


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A server as its clients meet it. `clock_ahead_s`: its clock, less this machine's. `here`: it runs on this machine."""

    max_connections: int
    used: int
    version: str
    vector_version: str | None
    clock_ahead_s: float
    here: bool


def read_limits(url: str, *, clock: Clock) -> ServerLimits:
    """Ask a server, as any role.

    Raises:
        MissingExtra, InvalidUrl.
        Unavailable, StorageError, AccessRefused: it cannot be asked.
    """
    require_driver()
    host = read_url(url).parameters.get("host")
    with connected(url) as connection, translated(connection):
        before = clock.now().timestamp()
        row = connection.execute(_LIMITS).fetchone()
        after = clock.now().timestamp()
    most, used, version, vector, there = row or (0, 0, "", None, before)
    return ServerLimits(
        max_connections=most,
        used=used,
        version=version,
        vector_version=vector,
        # What the question took is doubt, not a difference.
        clock_ahead_s=there - min(max(there, before), after),
        here=not host or str(host).startswith("/") or host in _HERE,
    )
